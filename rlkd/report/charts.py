"""The charts of a report, each from plain figures to one SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rlkd.report import words
from rlkd.report.axes import Plot, axes, level, plot
from rlkd.report.record import Entry
from rlkd.report.svg import (
    FONT,
    LETTER,
    STYLES,
    WIDTH,
    Labels,
    Scale,
    drawing,
    line,
    log_ticks,
    marker,
    padded,
    shorten,
    spread,
    tag,
    text,
    ticks,
)

LETTERS = 17  # of a series' name beside its line


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart."""

    name: str
    """What its label says."""
    x: tuple[float, ...]
    """In order."""
    y: tuple[float, ...]
    """As long as `x`."""
    style: int
    """Colour, dash and marker."""
    dim: bool = False
    """A control: grey and hollow."""


def score_against_size(teacher: Entry, students: Sequence[Entry], random_mean: float) -> str:
    """Raw score with 95 % interval against bytes of weights (logarithmic); teacher and random as reference lines."""
    everybody = [teacher, *students]
    sizes = [max(entry.weight_bytes, 1) for entry in everybody]
    around = (min(sizes) / 1.6, max(sizes) * 1.6)
    low, high, near = _with_random([value for entry in everybody for value in (entry.mean, *entry.ci95)], random_mean)
    area = plot(around, (low, high), height=290, log_x=True)
    parts = axes(
        area,
        x_title="bytes of weights that act (log)",
        y_title="mean score, 95 % interval",
        x_words=words.size,
        y_words=words.count,
    )
    parts += level(area, teacher.mean, "", teacher.ci95) + _random(area, random_mean, near)
    margins = [(0.0, 0.0, area.left, 290.0), (0.0, area.bottom - 2, float(WIDTH), 290.0), (0.0, 0.0, 240.0, FONT + 2)]
    labels = Labels(WIDTH, [_box(area, random_mean if near else area.y.low), *margins])
    labels.taken.append((area.left, area.y(teacher.mean) - 1, area.right, area.y(teacher.mean) + 1))
    points = [(area.x(size), area.y(entry.mean)) for size, entry in zip(sizes, everybody, strict=True)]
    labels.taken += [(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    for entry, (x, _) in zip(everybody, points, strict=True):
        low, high = (area.y(edge) for edge in entry.ci95)
        labels.taken.append((x - 8, high - 2, x + 8, low + 2))
    for place, (entry, (x, y)) in enumerate(zip(everybody, points, strict=True)):
        style = place - 1
        hint = f"{entry.name or entry.policy}: {words.score(entry.mean, entry.ci95)}, {words.size(entry.weight_bytes)}"
        parts += _upright(x, area.y(entry.ci95[0]), area.y(entry.ci95[1]), style, place == 0)
        parts.append(marker(x, y, 3 if place == 0 else style, hint, place == 0))
        ratio = "" if place == 0 else f" {words.fraction(entry.parameter_ratio)}"
        name = "teacher" if place == 0 else shorten(entry.name, LETTERS)
        parts.append(labels.place(x, y, name + ratio, hint))
    return drawing(290, "Score of each policy against its size", parts)


def dots(rows: Sequence[Entry], controls: Sequence[Entry]) -> str:
    """Teacher-normalised score of every student and control: a dot and its 95 % interval, one row each.

    The lines at 0 and 1 are random play and the teacher.
    """
    shown = [
        (entry.name, entry.normalised, entry.normalised_ci95, style, dim)
        for group, dim in ((rows, False), (controls, True))
        for style, entry in enumerate(group)
    ]
    measured = [(n, point, ci, style, dim) for n, point, ci, style, dim in shown if point is not None and ci]
    spans = [0.0, 1.0, *(value for _, point, interval, _, _ in measured for value in (point, *interval))]
    step, top = 42, 24
    bottom = top + step * len(measured)
    x = Scale(*padded(spans, 0.04), 166, WIDTH - 16)
    parts = []
    for value in ticks(x.low, x.high, 4):
        parts.append(line(x(value), top, x(value), bottom, "grid"))
        parts.append(text(x(value), bottom + FONT + 4, words.count(value), "tick middle"))
    for value, name in ((0.0, "random"), (1.0, "teacher")):
        parts.append(line(x(value), top - 4, x(value), bottom, "reference"))
        parts.append(text(x(value), top - 9, name, "tick middle"))
    for place, (name, point, interval, style, dim) in enumerate(measured):
        y = top + step * (place + 0.5)
        figures = words.normalised(point, interval)
        shown_name = shorten(words.plain(name) if dim else name, LETTERS)
        parts.append(text(2, y - 2, shown_name, "label", name))
        parts.append(text(2, y + FONT, figures, "tick"))
        parts.append(line(x(interval[0]), y, x(interval[1]), y, stroke("interval", style, dim)))
        parts += [line(x(edge), y - 5, x(edge), y + 5, stroke("cap", style, dim)) for edge in interval]
        parts.append(marker(x(point), y, style, f"{name}: {figures}", dim))
    parts.append(line(x.start, bottom, x.end, bottom, "axis"))
    parts.append(text(WIDTH - 14, bottom + 6 + 2 * FONT, "teacher-normalised score", "title end"))
    return drawing(bottom + 44, "Teacher-normalised score with interval, students and controls", parts)


def curves(
    series: Sequence[Series],
    *,
    title: str,
    x_title: str,
    percent: bool = False,
    log_y: bool = False,
    labels: bool = True,
    include: Sequence[float] = (),
) -> str:
    """Lines with direct labels at their right ends, kept apart; few enough points are marked one by one.

    Args:
        series: at least one, none empty.
        title: of the vertical axis and for screen readers.
        x_title: of the horizontal axis.
        percent: whether y is a share in [0, 1].
        log_y: logarithmic vertical axis; every y must be above 0.
        labels: False leaves the names out, for a single line under its own title.
        include: values of y that the axis reaches whatever the lines do.
    """
    height = 270.0
    found = [*include, *(value for one in series for value in one.y)]
    ys = (min(found) / 1.25, max(found) * 1.25) if log_y else padded(found)
    if percent:  # a share, though an R^2 in its place may fall below 0
        ys = (max(ys[0], 0.0) if min(found) >= 0 else ys[0], min(ys[1], 1.005))
    xs = (min(value for one in series for value in one.x), max(value for one in series for value in one.x))
    xs = xs if xs[0] < xs[1] else (xs[0] - 1, xs[0] + 1)
    widest = max(len(shorten(one.name, LETTERS)) for one in series)
    right = 14 + widest * LETTER if labels else 16
    fine = next(k for k in range(4) if k == 3 or ys[1] - ys[0] > 0.06 / 10**k)  # decimals by which ticks differ

    def y_words(value: float) -> str:
        return words.share(value, fine) if percent else words.count(value)

    marks = (log_ticks if log_y else ticks)(*ys)
    left = 12 + LETTER * max((len(y_words(value)) for value in marks), default=0)
    area = plot(xs, ys, height=height, left=max(left, 40), right=right, log_y=log_y)
    parts = axes(area, x_title=x_title, y_title=title, x_words=words.count, y_words=y_words)
    ends = spread([area.y(one.y[-1]) for one in series], FONT + 2, area.top, area.bottom)
    for one, end in zip(series, ends, strict=True):
        points = [(area.x(x), area.y(y)) for x, y in zip(one.x, one.y, strict=True)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(tag("path", {"d": f"M{path}", "class": stroke("curve", one.style, one.dim)}))
        marked = points if len(points) <= 12 else points[-1:]
        parts += [marker(x, y, one.style, f"{one.name}: {value:.4g}", one.dim) for (x, y), value in _named(marked, one)]
        if labels:
            parts.append(line(area.right + 2, points[-1][1], area.right + 8, end, "leader"))
            parts.append(text(area.right + 10, end + 0.35 * FONT, shorten(one.name, LETTERS), "label", one.name))
    return drawing(height, title, parts)


def generations(entries: Sequence[Entry], random_mean: float) -> str:
    """Mean score with 95 % interval of each generation; the first teacher's interval as a band."""
    first = entries[0]
    scores = [value for entry in entries for value in (entry.mean, *entry.ci95)]
    low, high, near = _with_random(scores, random_mean)
    area = plot((-0.5, len(entries) - 0.5), (low, high), height=280, left=50)
    parts = axes(
        area,
        x_title="generation",
        y_title="mean score, 95 % interval",
        x_words=lambda value: str(entries[round(value)].number),
        y_words=words.count,
        x_at=range(0, len(entries), max(1, len(entries) // 12)),
    )
    parts += level(area, first.mean, "generation 0", first.ci95)
    parts += _random(area, random_mean, near)
    points = [(area.x(place), area.y(entry.mean)) for place, entry in enumerate(entries)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts.append(tag("path", {"d": f"M{path}", "class": "curve dim"}))
    for entry, (x, y) in zip(entries, points, strict=True):
        hint = f"generation {entry.number}: {words.score(entry.mean, entry.ci95)}"
        parts += _upright(x, area.y(entry.ci95[0]), area.y(entry.ci95[1]), 0, False)
        parts.append(marker(x, y, 0, hint))
    return drawing(280, "Score of each generation", parts)


def spans(rows: Sequence[tuple[str, float, float, int]], total: float, title: str) -> str:
    """Horizontal bars on one time axis, their names above them.

    Args:
        rows: name, start and length in seconds, and style of each.
        total: seconds at the right edge.
        title: for screen readers.
    """
    step, parts = 34, []
    x = Scale(0.0, max(total, 1e-9), 2, WIDTH - 2)
    for place, (name, start, length, style) in enumerate(rows):
        y = place * step
        words_here = f"{name}, {words.duration(length)}"
        at = min(x(start), WIDTH - 4 - len(words_here) * LETTER)
        parts.append(text(max(at, 2), y + FONT - 1, words_here, "label"))
        wide = max(x(start + length) - x(start), 1.0)
        box = {"x": x(start), "y": y + FONT + 3, "width": min(wide, WIDTH - x(start)), "height": 11}
        hint = tag("title", {}, escape(words_here))
        parts.append(tag("rect", {**box, "rx": 2, "class": f"fill{style % STYLES}"}, hint))
    return drawing(step * len(rows) + 2, title, parts)


def _named(marked: Sequence[tuple[float, float]], one: Series) -> list[tuple[tuple[float, float], float]]:
    """Marked points with their data values: the last ones of the series."""
    return list(zip(marked, one.y[-len(marked) :], strict=True))


def _upright(x: float, low: float, high: float, style: int, dim: bool) -> list[str]:
    """An upright interval with caps."""
    caps = [line(x - 5, y, x + 5, y, stroke("cap", style, dim)) for y in (low, high)]
    return [line(x, low, x, high, stroke("interval", style, dim)), *caps]


def stroke(part: str, style: int, dim: bool) -> str:
    """Classes of a part of a series: `curve`, `interval` or `cap`."""
    number = style % STYLES
    return f"{part} dim dash{number}" if dim else f"{part} line{number} dash{number}"


def _with_random(scores: Sequence[float], random_mean: float) -> tuple[float, float, bool]:
    """Range of a score axis, and whether random play is in it: far below, its line would flatten all the rest."""
    low, high = padded(scores, 0.15)
    near = abs(random_mean - low) < 1.5 * (high - low) or low <= random_mean <= high
    return (*padded([low, high, random_mean], 0.04), True) if near else (low, high, False)


def _random(area: Plot, random_mean: float, near: bool) -> list[str]:
    """Random play's reference line, or a word on where it is."""
    if near:
        return level(area, random_mean, "random play")
    below = random_mean < area.y.low
    y = area.bottom - 5 if below else area.top + FONT
    return [text(area.right - 2, y, f"{'↓' if below else '↑'} random play, {words.number(random_mean)}", "tick end")]


def _box(area: Plot, value: float) -> tuple[float, float, float, float]:
    """Where random play's name stands."""
    y = area.y(value)
    return (area.right - 2 - 20 * LETTER, y - 4 - FONT, area.right, y)
