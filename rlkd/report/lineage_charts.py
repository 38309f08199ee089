"""Charts of a lineage: scores by generation and arm, layers that stay alike, where time went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rlkd.report import words
from rlkd.report.axes import Plot, axes, level, plot
from rlkd.report.charts import stroke
from rlkd.report.svg import (
    FONT,
    LETTER,
    STYLES,
    WIDTH,
    Scale,
    drawing,
    legend,
    line,
    marker,
    padded,
    shorten,
    spread,
    tag,
    text,
    wide_drawing,
)

LETTERS = 12  # of a curve's name beside its end
CLIP = 1.2  # an interval counts for the axis up to so many times the spread of all points beyond them


@dataclass(frozen=True, slots=True)
class Curve:
    """Scores of one arm by generation."""

    name: str
    """What its label says."""
    numbers: tuple[int, ...]
    """Of the generations, in order."""
    means: tuple[float, ...]
    """Teacher-normalised scores."""
    intervals: tuple[tuple[float, float], ...]
    """Their 95 % intervals."""
    style: int
    """Colour, dash and marker."""
    dim: bool = False
    """A control: grey and hollow."""


def by_generation(curves: Sequence[Curve]) -> str:
    """Teacher-normalised score with 95 % interval of each arm, side by side within a generation.

    Intervals of two lines may be many times as wide as all that is drawn: they are cut at the edge of the chart.
    """
    points = [1.0, *(value for one in curves for value in one.means)]
    spread_ = max(max(points) - min(points), 0.05)
    edges = (min(points) - CLIP * spread_, max(points) + CLIP * spread_)
    ends = [min(max(end, edges[0]), edges[1]) for one in curves for pair in one.intervals for end in pair]
    low, high = padded([*points, *ends], 0.04)
    last = max(number for one in curves for number in one.numbers)
    widest = max(len(shorten(one.name, LETTERS)) for one in curves)
    area = plot((0.5, last + 0.5), (low, high), height=300, left=50, right=16 + widest * LETTER)
    parts = axes(
        area,
        x_title="generation",
        y_title="TN to the first teacher, 95 % interval",
        x_words=lambda value: str(round(value)),
        y_words=words.count,
        x_at=range(1, last + 1, max(1, -(-last // 12))),
    )
    parts += level(area, 1.0, "first teacher" if len(curves) < 3 else "")
    if low <= 0 <= high:
        parts += level(area, 0.0, "random play")
    else:  # below the axis, where no interval crosses it
        parts.append(text(2, area.bottom + 6 + 2 * FONT, "↓ random play at 0", "tick"))
    names = spread([area.y(one.means[-1]) for one in curves], FONT + 2, area.top, area.bottom)
    step = min(0.7 / max(len(curves), 1), 0.13)
    for place, (one, end) in enumerate(zip(curves, names, strict=True)):
        aside = (place - (len(curves) - 1) / 2) * step
        found = [(area.x(number + aside), area.y(mean)) for number, mean in zip(one.numbers, one.means, strict=True)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in found)
        if len(found) > 1:
            parts.append(tag("path", {"d": f"M{path}", "class": stroke("curve", one.style, one.dim)}))
        told = zip(found, one.numbers, one.means, one.intervals, strict=True)
        for (x, y), number, mean, (lower, upper) in told:
            parts += _interval(area, x, lower, upper, stroke("", one.style, one.dim))
            hint = f"{one.name}, generation {number}: {words.normalised(mean, (lower, upper))}"
            parts.append(marker(x, y, one.style, hint, one.dim))
        parts.append(line(found[-1][0] + 6, found[-1][1], area.right + 6, end, "leader"))
        parts.append(text(area.right + 8, end + 0.35 * FONT, shorten(one.name, LETTERS), "label", one.name))
    return drawing(300, "Teacher-normalised score of each generation and arm", parts)


def _interval(area: Plot, x: float, lower: float, upper: float, classes: str) -> list[str]:
    """An upright interval; where it leaves the chart it is cut and has no cap."""
    inside = [area.y(min(max(value, area.y.low), area.y.high)) for value in (lower, upper)]
    ends = [area.y(value) for value in (lower, upper) if area.y.low <= value <= area.y.high]
    caps = [line(x - 5, y, x + 5, y, f"cap{classes}") for y in ends]
    return [line(x, inside[0], x, inside[1], f"interval{classes}"), *caps]


def heat(names: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], title: str) -> str:
    """A table of shares whose cells are the darker the nearer they are to 1.

    Args:
        names: of the rows.
        columns: names of the columns.
        values: a row each; None leaves a cell empty.
        title: for screen readers.
    """
    left = 10 + LETTER * min(max(map(len, names)), 22)
    wide, tall = 46.0, 26.0
    width = left + wide * len(columns) + 4
    parts = [text(left + wide * (at + 0.5), FONT, name, "tick middle") for at, name in enumerate(columns)]
    for row, (name, cells) in enumerate(zip(names, values, strict=True)):
        top = 20 + tall * row
        parts.append(text(2, top + tall / 2 + 0.35 * FONT, shorten(name, 22), "label", name))
        for at, value in enumerate(cells):
            if value is None:
                continue
            # Never so dark that what is written in it cannot be read.
            strength = 0.04 + 0.46 * min(max(value, 0.0), 1.0)
            box = {"x": left + wide * at, "y": top, "width": wide - 2, "height": tall - 2, "rx": 3.0}
            parts.append(tag("rect", {**box, "fill-opacity": strength, "class": "cell"}))
            middle = (left + wide * (at + 0.5) - 1, top + tall / 2 - 1 + 0.35 * FONT)
            parts.append(text(*middle, words.number(value, 2), "label middle"))
    return wide_drawing(width, 24 + tall * len(names), title, parts)


def stacked(rows: Sequence[tuple[str, Mapping[str, float]]], title: str) -> str:
    """Horizontal bars, the parts of each behind each other, on one time axis; their names above them.

    Args:
        rows: name of each bar, and seconds of its parts.
        title: for screen readers.
    """
    kinds = list(dict.fromkeys(kind for _, parts in rows for kind in parts))
    longest = max(sum(parts.values()) for _, parts in rows)
    x, step = Scale(0.0, max(longest, 1e-9), 2, WIDTH - 2), 34
    drawn = []
    for place, (name, parts) in enumerate(rows):
        top, at = place * step, 0.0
        told = f"{name}, {words.duration(sum(parts.values()))}"
        drawn.append(text(2, top + FONT - 1, told, "label"))
        for kind, seconds in parts.items():
            box = {"x": x(at), "y": top + FONT + 3, "width": max(x(at + seconds) - x(at), 0.6), "height": 11}
            hint = tag("title", {}, escape(f"{name}, {kind}: {words.duration(seconds)}"))
            drawn.append(tag("rect", {**box, "class": f"fill{kinds.index(kind) % STYLES}"}, hint))
            at += seconds
    key, tall = legend(
        [("fill", place % STYLES, kind) for place, kind in enumerate(kinds)], step * len(rows) + 4, WIDTH
    )
    return drawing(step * len(rows) + 6 + tall, title, [*drawn, *key])
