"""A family tree: who was made of whom, generations from left to right, a row for each line, arm and role.

Edges bend between columns only and run along rows that are free, or along the lane above a row: none crosses a policy
that it does not belong to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rlkd.report import words
from rlkd.report.family import Member, spoken_role
from rlkd.report.svg import FONT, LETTER, legend, line, tag, text, wide_drawing

NODE, TALL = 46.0, 22.0  # width and height of a policy
GAP, ROW = 34.0, 36.0  # between columns; from row to row
TOP = 46.0  # above the first row's middle
APART = 14.0  # more between lines of descent
ARMS = {None: 0, "smoothed": 1, "permuted": 2, "confidence": 3}
"""Style of each arm."""


@dataclass(frozen=True, slots=True)
class Node:
    """A policy and where it stands."""

    member: Member
    """Who."""
    column: int
    """From the left; the first teacher's is 0."""
    row: int
    """From the top; -1: in no row, as the first teacher."""
    x: float
    """Left edge."""
    y: float
    """Middle."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return (self.x, self.y - TALL / 2, self.x + NODE, self.y + TALL / 2)


@dataclass(frozen=True, slots=True)
class Edge:
    """Parent and child, and the way between them."""

    parent: Node
    """Where it begins."""
    child: Node
    """Where it ends."""
    start: bool
    """Whether the child begins with the parent's weights; else it learns from it, or is made of it."""
    path: str
    """As SVG writes it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A tree, placed."""

    nodes: tuple[Node, ...]
    """Everybody, in the order of the record."""
    edges: tuple[Edge, ...]
    """All of them."""
    rows: tuple[tuple[float, str, str], ...]
    """Middle of each row, its line's name where a line begins, and its own name."""
    generations: tuple[tuple[float, str], ...]
    """Middle of each generation's columns, and its name."""
    width: float
    """Of the drawing."""
    height: float
    """Of the rows."""


def style_of(arm: str | None) -> int:
    """An arm's colour; one that is not known has the last."""
    return ARMS.get(arm, 5)


def place(everybody: Sequence[Member], operator: str) -> Layout:
    """Where everybody stands."""
    columns, spans = _columns(everybody)
    made = dict.fromkeys(_row_key(member) for member in everybody if member.number)  # in the order in which they came
    keys = sorted(made, key=lambda key: (key[0], key[1] is not None, key[1] is None and bool(key[2])))
    lines = sorted({key[0] for key in keys})
    middles = [TOP + ROW * place + APART * lines.index(key[0]) for place, key in enumerate(keys)]
    names = [_row_name(key) for key in keys]
    line_letters = 7 if len(lines) > 1 else 0
    left = 10 + LETTER * (line_letters + max((len(name) for name in names), default=0))
    fan = min(2.0 * len(keys), 40.0)  # more room where the first teacher's edges part
    x = {column: left + column * (NODE + GAP) + fan * (column > 0) for column in range(max(columns.values()) + 1)}
    centre = (middles[0] + middles[-1]) / 2 if middles else TOP
    nodes = {}
    for member in everybody:
        row = keys.index(_row_key(member)) if member.number else -1
        column = columns[member.name]
        nodes[member.name] = Node(member, column, row, x[column], middles[row] if member.number else centre)
    taken = {(node.row, node.column) for node in nodes.values()}
    edges = []
    for child in nodes.values():
        for start, parents in ((False, child.member.teachers(operator)), (True, child.member.starts(operator))):
            twice = start and child.member.teachers(operator) == parents  # side by side with the solid one
            edges += [_edge(nodes[name], child, x, start, taken, 4.0 if twice else 0.0) for name in parents]
    heads = tuple(
        ((x[first] + x[last] + NODE) / 2, "teacher" if number == 0 else f"gen. {number}")
        for number, (first, last) in spans.items()
    )
    shown = [key[0] for key in keys]
    rows = tuple(
        (middle, f"line {key[0]}" if len(lines) > 1 and key[0] not in shown[:at] else "", name)
        for at, (middle, key, name) in enumerate(zip(middles, keys, names, strict=True))
    )
    width = max(x.values()) + NODE + 8
    return Layout(tuple(nodes.values()), tuple(edges), rows, heads, width, (middles[-1] if middles else TOP) + ROW / 2)


def family_tree(everybody: Sequence[Member], operator: str) -> str:
    """The drawing; policies carry their teacher-normalised scores."""
    layout = place(everybody, operator)
    label_x = 4 + (7 * LETTER if any(name for _, name, _ in layout.rows) else 0.0)
    parts = [text(middle, FONT, name, "tick middle") for middle, name in layout.generations]
    for y, line_name, name in layout.rows:
        if line_name:
            if y != layout.rows[0][0]:
                parts.append(line(2, y - (ROW + APART) / 2, layout.width - 2, y - (ROW + APART) / 2, "grid"))
            parts.append(text(2, y + 0.35 * FONT, line_name, "tick"))
        parts.append(text(label_x, y + 0.35 * FONT, name, "label"))
    for edge in layout.edges:
        kind = f"edge line{style_of(edge.child.member.arm)}{' start' if edge.start else ''}"
        parts.append(tag("path", {"d": edge.path, "class": kind}))
    for node in layout.nodes:
        parts += _drawn(node)
    key, tall = _legend(layout, layout.height + 8)
    told = f"Family tree of {len(everybody)} policies: {_spoken(everybody)}"
    return wide_drawing(max(layout.width, 300.0), layout.height + 12 + tall, told, [*parts, *key])


def _columns(everybody: Sequence[Member]) -> tuple[dict[str, int], dict[int, tuple[int, int]]]:
    """Column of each policy, and the first and last column of each generation: who is made of others of its own
    generation stands to the right of them."""
    depth: dict[str, int] = {}
    number = {member.name: member.number for member in everybody}
    for member in everybody:
        own = [depth[name] + 1 for name in member.parent_names if number[name] == member.number]
        depth[member.name] = max(own, default=0)
    spans, free = {}, 0
    for each in sorted(set(number.values())):
        wide = 1 + max(depth[member.name] for member in everybody if member.number == each)
        spans[each], free = (free, free + wide - 1), free + wide
    return {member.name: spans[member.number][0] + depth[member.name] for member in everybody}, spans


def _row_key(member: Member) -> tuple[int, str | None, str]:
    return (member.line, member.arm, member.role)


def _row_name(key: tuple[int, str | None, str]) -> str:
    return spoken_role(key[2]) or key[1] or "main line"


def _edge(
    parent: Node, child: Node, x: Mapping[int, float], start: bool, taken: set[tuple[int, int]], aside: float
) -> Edge:
    begin, end, bend = parent.x + NODE, child.x, x[parent.column + 1]
    y0, y1 = parent.y + aside, child.y + aside
    free = not any((child.row, column) in taken for column in range(parent.column + 1, child.column))
    if free:
        path = f"M{begin:.1f} {y0:.1f}{_curve(begin, y0, bend, y1)}"
        path += f"L{end:.1f} {y1:.1f}" if end > bend else ""
    else:
        lane = child.y - ROW / 2 + (3 if start else 0)
        down = x[child.column - 1] + NODE
        path = f"M{begin:.1f} {y0:.1f}{_curve(begin, y0, bend, lane)}L{down:.1f} {lane:.1f}"
        path += _curve(down, lane, end, y1)
    return Edge(parent, child, start, path)


def _curve(x0: float, y0: float, x1: float, y1: float) -> str:
    middle = (x0 + x1) / 2
    return f"C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"


def _drawn(node: Node) -> list[str]:
    member = node.member
    left, top, _, _ = node.box
    score = words.normalised(member.normalised, member.normalised_ci95) if member.number else "1"
    hint = f"{member.name}: TN {score}, raw {words.score(member.mean, member.ci95)}"
    if member.parent_names:
        hint += f"; of {', '.join(member.parent_names)}"
    if member.chosen:
        hint += f"; chosen: {member.chosen}"
    kind = f"node line{style_of(member.arm)}{'' if not member.role else ' aside'}"
    box = {"x": left, "y": top, "width": NODE, "height": TALL, "rx": TALL / 2 if member.role else 4, "class": kind}
    shown = words.number(member.normalised, 2) if member.number else "1"
    middle = (left + NODE / 2, node.y + 0.35 * FONT)
    return [tag("rect", box, tag("title", {}, escape(hint))), text(*middle, shown, "label middle", hint)]


def _legend(layout: Layout, y: float) -> tuple[list[str], float]:
    arms = list(dict.fromkeys(node.member.arm for node in layout.nodes))
    items = [("box", style_of(arm), arm or "main line") for arm in arms] if len(arms) > 1 else []
    if any(node.member.role for node in layout.nodes):
        items.append(("pill", 0, "beside, or on the way"))
    items.append(("solid", 0, "learns from, or is made of"))
    if any(edge.start for edge in layout.edges):
        items.append(("dashed", 0, "begins with its weights"))
    return legend(items, y, max(layout.width, 300.0))


def _spoken(everybody: Sequence[Member]) -> str:
    """For who cannot see the drawing; the table beside it has the figures."""
    counts: Mapping[str, int] = {
        "generation": len({member.number for member in everybody}) - 1,
        "line": len({member.line for member in everybody}),
        "arm": len({member.arm for member in everybody if member.arm}),
    }
    return ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items() if count)
