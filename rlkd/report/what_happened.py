"""What happened from one generation to the next: whatever was measured, with a sentence on how to read each number."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rlkd.evaluation.reading import READING
from rlkd.report import words
from rlkd.report.charts import Series
from rlkd.report.curves import chart
from rlkd.report.family import Member, spoken_role
from rlkd.report.lineage_charts import heat, stacked
from rlkd.report.page import figure, folded, grid, section, table
from rlkd.report.record import is_number

SECTIONS = {
    "child": "Each generation by itself",
    "parent": "Beside its parent",
    "first": "Beside the first teacher",
    "siblings": "Among siblings",
}
"""Titles of tables of measurements; others are called what their keys say."""
SHORT = {"kl": "KL", "cka": "CKA", "nll": "NLL", "flops": "FLOPs"}
MOST_BARS = 16  # of wall time

Measures = Mapping[str, Any]


def what_happened(everybody: Sequence[Member]) -> str:
    """The section; nothing where nothing was measured."""
    main = [member for member in everybody if member.main]
    lines = len({member.line for member in main if member.number})
    parts, told = [], set[str]()
    sections = _in_order([member.measures for member in main], SECTIONS)
    for name in [key for key in sections if _is_table(main, key)]:
        rows = [member for member in main if member.number or name not in ("parent", "first", "siblings")]
        parts.append(_section(name, rows, told))
    loose = [key for key in sections if not _is_table(main, key)]
    parts.append(_numbers("Besides", [(member, {k: member.measures.get(k) for k in loose}) for member in main], told))
    if lines > 1 and any(parts):
        parts.insert(0, f"<p>Of the main line: means over {lines} lines.</p>")
    return section("What happened?", *parts, _reasons(main))


def time_spent(everybody: Sequence[Member]) -> str:
    """Wall time of each step of the main line 0, by phases; what no phase tells is training, or measuring."""
    own = [member for member in everybody if member.arm is None and member.line == 0 and member.seconds > 0]
    rows = []
    for member in own[-MOST_BARS:]:
        phases = {name: seconds for name, seconds in member.phases.items() if ": " not in name and seconds > 0}
        rest = member.seconds - sum(phases.values())
        if rest > 0.005 * member.seconds:
            phases["all the rest" if phases else "in all"] = rest
        rows.append((_step_name(member), phases))
    if not rows:
        return ""
    total = sum(member.seconds for member in everybody)
    caption = f"Wall time of the steps of the main line; {words.duration(total)} in all"
    caption += ", arms and other lines included" if len(own) < len(everybody) else ""
    caption += ". Of a step that was stopped, the attempt that finished it counts."
    busy = _busy(own)
    drawn = figure(stacked(rows, "Wall time of each step by phase"), caption)
    return section("Where the time went", grid([drawn, *busy]))


def _busy(own: Sequence[Member]) -> list[str]:
    """Seconds of the roles that ran beside each other."""
    rows = []
    for member in own[-MOST_BARS:]:
        roles = {name: seconds for name, seconds in member.phases.items() if ": " in name and seconds > 0}
        if roles:
            rows.append((_step_name(member), roles))
    if not rows:
        return []
    caption = "Busy time of the roles of each distillation. They ran beside each other: together they may be more than "
    return [figure(stacked(rows, "Busy time of each role"), caption + "the wall time.")]


def _step_name(member: Member) -> str:
    name = f"generation {member.number}" if member.number else "first teacher, measured"
    return f"{name}, {spoken_role(member.role)}" if member.role else name


def _section(name: str, main: Sequence[Member], told: set[str]) -> str:
    """One table of measurements, and drawings of those that are lists."""
    rows = [(member, _table(member.measures, name)) for member in main]
    title = SECTIONS.get(name, named(name).capitalize())
    lists = [
        key for key in _in_order([values for _, values in rows], READING) if any(_is_list(v.get(key)) for _, v in rows)
    ]
    plain = [(member, {key: value for key, value in v.items() if key not in lists}) for member, v in rows]
    drawn: list[str] = []
    for key in lists:
        found = [(member, values[key]) for member, values in rows if member.line == 0 and _is_list(values.get(key))]
        if key == "layer_cka":
            drawn.append(_layers(found, title))
        elif key == "novelty_quarters":
            drawn += _quarters(found)
        else:
            drawn.append(_rows(key, found))
    return _numbers(title, plain, told) + grid((part for part in drawn if part), "three")


def _numbers(title: str, rows: Sequence[tuple[Member, Measures]], told: set[str]) -> str:
    """Numbers by generation, means over lines; a sentence on each where the page has not said it before."""
    numbers = sorted({member.number for member, values in rows if any(map(is_number, values.values()))})
    if not numbers:
        return ""
    lines, said = [], []
    for key in _in_order([values for _, values in rows], READING):
        cells = []
        for number in numbers:
            found = [values[key] for member, values in rows if member.number == number and is_number(values.get(key))]
            cells.append(_figure(sum(found) / len(found)) if found else "")
        if any(cells):
            said.append(READING.get(key, "") if key not in told else "")
            told.add(key)
            lines.append([named(key), *cells])
    heads = ["generation", *(str(number) for number in numbers)]
    if any(said):
        heads.append("how to read it")
        lines = [
            [*cells, f'<td class="words">{escape(words_)}</td>'] for cells, words_ in zip(lines, said, strict=True)
        ]
    inside = f"<h3>{escape(title)}</h3>{table(heads, [('', cells) for cells in lines])}"
    return f'<div class="{"measures" if any(said) else "figures"}">{inside}</div>'


def _layers(rows: Sequence[tuple[Member, Sequence[Measures]]], title: str) -> str:
    names = _keys([{str(cell.get("layer")): 0 for cell in cells} for _, cells in rows])
    by_layer = [{str(cell.get("layer")): cell.get("cka") for cell in cells} for _, cells in rows]
    values = [[found[name] if is_number(found.get(name)) else None for found in by_layer] for name in names]
    if not names:
        return ""
    drawn = heat(names, [str(member.number) for member, _ in rows], values, f"CKA of each layer: {title}")
    return figure(drawn, f"CKA of each layer by generation. {READING.get('layer_cka', '')}")


def _quarters(rows: Sequence[tuple[Member, Sequence[Measures]]]) -> list[str]:
    """Agreement and KL over quarters of the child's states, from those most like its teacher's to the least like."""
    drawn: list[str] = []
    for key, title in (("agreement", "agreement"), ("kl", "KL, nats")):
        lines: list[Series | None] = []
        for place, (member, cells) in enumerate(rows):
            at = [(k + 1.0, float(cell[key])) for k, cell in enumerate(cells) if is_number(cell.get(key))]
            if at:
                x, y = zip(*at, strict=True)
                lines.append(Series(f"gen. {member.number}", tuple(x), tuple(y), place))
        caption = READING.get("novelty_quarters", "") if not drawn else "The same of the distance in probabilities."
        percent = key == "agreement"
        drawn.append(chart(lines, title, caption, x_title="quarter, most to least familiar", percent=percent))
    return drawn


def _rows(key: str, rows: Sequence[tuple[Member, Sequence[Measures]]]) -> str:
    """A list of which this version knows no drawing, as a table."""
    columns = _keys([cell for _, cells in rows for cell in cells])
    lines = []
    for member, cells in rows:
        for cell in cells:
            told = [_figure(cell[name]) if is_number(cell.get(name)) else str(cell.get(name, "")) for name in columns]
            lines.append(("", [str(member.number), *told]))
    said = READING.get(key, "")
    return figure(table(("generation", *map(named, columns)), lines), f"{named(key)}. {said}".strip())


def _reasons(main: Sequence[Member]) -> str:
    """Why some numbers are not there, of the first line."""
    found = {
        f"{str(key).replace('.', ': ')}: {reason}".replace("_", " "): None
        for member in main
        for key, reason in _table(member.measures, "skipped").items()
    }
    return folded("What could not be said, and why", "\n".join(found)) if found else ""


def named(key: str) -> str:
    """A key as a reader calls it: `kl_teacher_states` -> `KL teacher states`."""
    return " ".join(SHORT.get(part, part) for part in key.split("_"))


def _figure(value: float) -> str:
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return words.number(value, 3) if abs(value) >= 0.001 else words.count(float(f"{value:.2g}"))


def _is_table(main: Sequence[Member], key: str) -> bool:
    return key != "skipped" and any(_table(member.measures, key) for member in main)


def _table(values: Measures, key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _keys(tables: Sequence[Measures]) -> list[str]:
    """All keys, in the order in which they come first."""
    return list(dict.fromkeys(str(key) for values in tables for key in values))


def _in_order(tables: Sequence[Measures], order: Mapping[str, str]) -> list[str]:
    """All keys, those that are known first: files sort theirs by letters."""
    found = _keys(tables)
    return [key for key in order if key in found] + [key for key in found if key not in order]


def _is_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(cell, dict) for cell in value)
