"""A lineage for the terminal."""

from rich.table import Table

from rlkd.data import JsonDict
from rlkd.evaluation.record import WIDE, terminal_table


def lineage_table(record: JsonDict, *, width: int = WIDE) -> Table:
    """A lineage for the terminal, `width` characters wide: one row a generation, and whom it learned from."""
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
