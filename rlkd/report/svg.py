"""Hand-written SVG: tags, scales, ticks, axes, marks, labels that keep out of each other's way.

Pure functions, numbers in, markup out. Colours are classes that the page's style sheet fills in for light and dark;
`mark0` to `mark5` differ in shape and `line0` to `line5` in dash pattern too, so that nothing hangs on colour alone.
Charts are 400 units wide whatever the screen: they stay readable on a phone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH = 400
FONT = 13
LETTER = 0.6 * FONT  # mean width of a letter in the wider of the page's sans serif fonts
STYLES = 6  # series styles in the style sheet; series beyond them start again

Attributes = Mapping[str, str | float]


def tag(name: str, attributes: Attributes, *children: str) -> str:
    """One element; attribute values are escaped, children are markup already."""
    written = "".join(f' {key}="{_value(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{''.join(children)}</{name}>" if children else f"<{name}{written}/>"


def text(x: float, y: float, words: str, style: str, hint: str = "") -> str:
    """A text; `style` is a class list, `hint` what a pointer over it shows."""
    inside = [escape(words)] + ([tag("title", {}, escape(hint))] if hint else [])
    return tag("text", {"x": x, "y": y, "class": style}, *inside)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A straight line."""
    return tag("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": style})


def drawing(height: float, title: str, parts: Iterable[str]) -> str:
    """A whole chart; `title` is what a screen reader says."""
    attributes = {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": title, "class": "chart"}
    return tag("svg", attributes, *parts)


def wide_drawing(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """A drawing of its own width, which scrolls sideways on a narrow screen; else as `drawing`."""
    size: Attributes = {"viewBox": f"0 0 {width:g} {height:g}", "width": width, "height": height}
    inside = tag("svg", {**size, "role": "img", "aria-label": title, "class": "chart wide"}, *parts)
    return f'<div class="scroll" tabindex="0">{inside}</div>'


def shorten(words: str, letters: int) -> str:
    """At most so many letters, the last an ellipsis where some had to go."""
    return words if len(words) <= letters else words[: letters - 1] + "…"


def legend(items: Iterable[tuple[str, int, str]], y: float, width: float) -> tuple[list[str], float]:
    """What marks mean, in as many rows as they take from y down; and the height of these rows.

    Args:
        items: of each mark its kind (`box` and `pill`, outlined; `fill`; `solid` and `dashed`, lines), style and words.
        y: upper edge.
        width: of the drawing.
    """
    parts, x, row, tall = [], 2.0, 0, FONT + 8.0
    for kind, style, words in items:
        wide = 30 + len(words) * LETTER + 14
        if x > 2 and x + wide > width:
            x, row = 2.0, row + 1
        middle = y + row * tall + tall / 2
        if kind in ("solid", "dashed"):
            parts.append(line(x, middle, x + 24, middle, f"edge{' start' if kind == 'dashed' else ''} line{style}"))
        else:
            filled = f"fill{style}" if kind == "fill" else f"node line{style}{' aside' if kind == 'pill' else ''}"
            box = {"x": x + 1, "y": middle - 6, "width": 22, "height": 12, "rx": 6 if kind == "pill" else 2}
            parts.append(tag("rect", {**box, "class": filled}))
        parts.append(text(x + 30, middle + 0.35 * FONT, words, "tick"))
        x += wide
    return parts, (row + 1) * tall


@dataclass(frozen=True, slots=True)
class Scale:
    """Data to drawing units, linear or logarithmic."""

    low: float
    """Data value at `start`."""
    high: float
    """Data value at `end`; differs from `low`."""
    start: float
    """Drawing units."""
    end: float
    """Drawing units."""
    log: bool = False
    """Whether equal ratios are equal lengths; then data must be above 0."""

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def padded(values: Iterable[float], share: float = 0.06) -> tuple[float, float]:
    """A range around all values with some air; never empty."""
    found = list(values)
    low, high = min(found), max(found)
    air = (high - low) * share or max(abs(high), 1.0) * share
    return low - air, high + air


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values within a range: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values within a range for a logarithmic axis: 1, 2, 5 or fewer in each decade."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [digit * 10.0**power for power in powers for digit in digits]
        found = [value for value in found if low <= value <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def marker(x: float, y: float, style: int, hint: str = "", dim: bool = False) -> str:
    """A mark whose shape and colour tell the series; `dim` for controls: hollow and grey."""
    r = 5.0
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        _polygon(x, y, [(-r, -r), (r, -r), (r, r), (-r, r)], 0.9),
        _polygon(x, y, [(0, -r), (r, r), (-r, r)], 1.15),
        _polygon(x, y, [(0, -r), (r, 0), (0, r), (-r, 0)], 1.3),
        _polygon(x, y, [(-r, -r), (r, -r), (0, r)], 1.15),
        _polygon(x, y, [(0, -r), (r, -r / 3), (r * 0.6, r), (-r * 0.6, r), (-r, -r / 3)], 1.15),
    )
    kind = "dim" if dim else f"mark{style % STYLES}"
    inside = [tag("title", {}, escape(hint))] if hint else []
    return tag("path", {"d": shapes[style % STYLES], "class": f"mark {kind}"}, *inside)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places moved as little as needed so that neighbours are `gap` apart, within [low, high] where they fit."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    if order and moved[order[-1]] > high:
        moved[order[-1]] = high
        for before, after in zip(order[-2::-1], order[:0:-1], strict=True):
            moved[before] = min(moved[before], moved[after] - gap)
    if order and moved[order[0]] < low:
        moved[order[0]] = low
        for before, after in pairwise(order):
            moved[after] = max(moved[after], moved[before] + gap)
    return moved


LIFTS = (0, -15, 15, -30, 30, -45, 45, -60, 60)  # of a text beside its point, in pixels, the likeliest first


@dataclass(slots=True)
class Labels:
    """Places texts beside points, each where it hides nothing that was placed before."""

    width: float
    """Right edge of the drawing."""
    taken: list[tuple[float, float, float, float]]
    """Boxes (left, top, right, bottom) that are to stay free."""

    def place(self, x: float, y: float, words: str, hint: str = "") -> str:
        """A text beside the point (x, y): right, left, above or below it, the first that is free.

        A line leads from the point to a text that stands far above or below: another point may be nearer to it.
        """
        wide, high, away = len(words) * LETTER, FONT, 9
        beside = [(left, y - high / 2 + lift) for lift in LIFTS for left in (x + away, x - away - wide)]
        choices = [*beside, (x - wide / 2, y - away - high), (x - wide / 2, y + away)]
        boxes = [(left, top, left + wide, top + high) for left, top in choices]
        best = min(boxes, key=self._cost)
        self.taken.append(best)
        told = text(best[0], best[1] + 0.8 * high, words, "label", hint)
        nearest = (min(max(x, best[0]), best[2]), min(max(y, best[1]), best[3]))
        if abs(nearest[1] - y) <= away:
            return told
        return line(x, y, *nearest, "leader") + told

    def _cost(self, box: tuple[float, float, float, float]) -> float:
        """Hidden area, and far more for what lies outside of the drawing; ties go to the earlier choice."""
        outside = max(0.0, 2 - box[0]) + max(0.0, box[2] - self.width + 2) + max(0.0, 2 - box[1])
        hidden = 0.0
        for left, top, right, bottom in self.taken:
            wide = min(box[2], right) - max(box[0], left)
            high = min(box[3], bottom) - max(box[1], top)
            hidden += max(0.0, wide) * max(0.0, high)
        return outside * 1000 + hidden


def _polygon(x: float, y: float, corners: Sequence[tuple[float, float]], scale: float) -> str:
    points = "L".join(f"{x + scale * dx:.1f} {y + scale * dy:.1f}" for dx, dy in corners)
    return f"M{points}z"


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
