"""A lineage for the terminal."""

from rich.table import Table

from rlkd.data import JsonDict
from rlkd.evaluation.record import WIDE, terminal_table
from rlkd.lineage.lines import CONTROLS, groups
from rlkd.stats import Estimate


def lineage_table(record: JsonDict, *, width: int = WIDE) -> Table:
    """A lineage for the terminal, `width` characters wide: one row a generation, and whom it learned from; of several
    lines or arms one row an arm and generation, with means over lines."""
    steps = record.get("steps", [])
    if any(row["line"] or row["arm"] is not None or row["role"] in CONTROLS for row in steps):
        return _by_arm(record, width)
    table = terminal_table(f"{record['environment']['id']}, {record['operator']}, {record['status']}")
    headers = ["generation", "parent", "score [95 %]", "TN to the first [95 %]", "agrees", "parameters", "hash"]
    if width < WIDE:
        headers = ["generation", "score [95 %]", "TN [95 %]", "agrees", "parameters", "hash"]
    for header in headers:
        table.add_column(header, justify="right")
    for entry in record["generations"]:
        (low, high), (tn_low, tn_high) = entry["ci95"], entry["normalised_ci95"]
        normalised = f"{entry['normalised']:.3f} [{tn_low:.2f}, {tn_high:.2f}]"
        cells = {
            "generation": str(entry["number"]),
            "parent": entry["parents"][0][:8] if entry["parents"] else "",
            "score [95 %]": f"{entry['mean']:.1f} [{low:.1f}, {high:.1f}]",
            "TN to the first [95 %]": normalised,
            "TN [95 %]": normalised,
            "agrees": f"{entry['agreement']:.1%}" if "agreement" in entry else "",
            "parameters": f"{entry['parameters']:,}",
            "hash": entry["hash"][:8],
        }
        table.add_row(*(cells[header] for header in headers))
    return table


def _by_arm(record: JsonDict, width: int) -> Table:
    lines = max(row["line"] for row in record["steps"]) + 1
    over = f"means over {lines} lines, Student's intervals" if lines > 1 else "one line, intervals over episodes"
    table = terminal_table(f"{record['environment']['id']}, {record['operator']}, {record['status']}", over)
    table.add_column("arm", overflow="fold")
    headers = ["generation", "lines", "score [95 %]", "TN to the first [95 %]", "agrees", "parameters"]
    if width < WIDE:
        headers = ["generation", "TN to the first [95 %]", "agrees", "parameters"]
    for header in headers:
        table.add_column(header, justify="right")
    before = ""
    for group in groups(record["steps"]):
        if group.role and group.role not in CONTROLS:
            continue
        cells = {
            "generation": str(group.number),
            "lines": str(len(group.records)),
            "score [95 %]": _spoken(group.score, 1),
            "TN to the first [95 %]": _spoken(group.normalised, 3),
            "agrees": "" if (agreement := group.mean_of("agreement")) is None else f"{agreement:.1%}",
            "parameters": f"{group.records[0]['parameters']:,}",
        }
        table.add_row(group.name if group.name != before else "", *(cells[header] for header in headers))
        before = group.name
    return table


def _spoken(found: Estimate, digits: int) -> str:
    fewer = min(digits, 2)
    return f"{found.point:.{digits}f} [{found.low:.{fewer}f}, {found.high:.{fewer}f}]"
