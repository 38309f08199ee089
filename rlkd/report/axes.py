"""Axes of a chart: grid lines, tick labels, titles, reference lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlkd.report.svg import FONT, WIDTH, Scale, line, log_ticks, tag, text, ticks


@dataclass(frozen=True, slots=True)
class Plot:
    """The inner rectangle of a chart and its two scales."""

    x: Scale
    """Left to right."""
    y: Scale
    """Bottom to top."""

    @property
    def left(self) -> float:
        """Left edge, drawing units."""
        return self.x.start

    @property
    def right(self) -> float:
        """Right edge."""
        return self.x.end

    @property
    def top(self) -> float:
        """Upper edge."""
        return self.y.end

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return self.y.start


def plot(
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    height: float,
    left: float = 46,
    right: float = 12,
    top: float = 26,
    bottom: float = 40,
    log_x: bool = False,
    log_y: bool = False,
) -> Plot:
    """A plot of data ranges x and y; the margins hold tick labels and titles."""
    return Plot(
        Scale(*x, left, WIDTH - right, log_x),
        Scale(*y, height - bottom, top, log_y),
    )


def axes(
    area: Plot,
    *,
    x_title: str,
    y_title: str,
    x_words: Callable[[float], str],
    y_words: Callable[[float], str],
    x_at: Sequence[float] | None = None,
) -> list[str]:
    """Grid, tick labels and titles; the vertical axis's title lies above it, where it reads without a bent neck."""
    parts = []
    for value in _ticks(area.y, 5):
        parts.append(line(area.left, area.y(value), area.right, area.y(value), "grid"))
        parts.append(text(area.left - 6, area.y(value) + 0.35 * FONT, y_words(value), "tick end"))
    for value in _ticks(area.x, 5) if x_at is None else x_at:
        parts.append(line(area.x(value), area.bottom, area.x(value), area.bottom + 4, "axis"))
        # The last label may stand at the very edge of the drawing: it ends there instead of being cut off.
        at, side = (WIDTH - 1, "end") if area.x(value) > WIDTH - 24 else (area.x(value), "middle")
        parts.append(text(at, area.bottom + 4 + FONT, x_words(value), f"tick {side}"))
    parts.append(line(area.left, area.bottom, area.right, area.bottom, "axis"))
    parts.append(text(2, FONT - 1, y_title, "title"))
    parts.append(text(area.right, area.bottom + 6 + 2 * FONT, x_title, "title end"))
    return parts


def level(area: Plot, value: float, name: str, band: Sequence[float] | None = None) -> list[str]:
    """A horizontal reference line with its name and, where known, its interval as a band."""
    parts = []
    if band is not None:
        top, bottom = (area.y(min(max(edge, area.y.low), area.y.high)) for edge in (band[1], band[0]))
        box = {"x": area.left, "y": top, "width": area.right - area.left, "height": max(bottom - top, 0.5)}
        parts.append(tag("rect", {**box, "class": "band"}))
    parts.append(line(area.left, area.y(value), area.right, area.y(value), "reference"))
    parts.append(text(area.right - 2, area.y(value) - 4, name, "tick end"))
    return parts


def _ticks(scale: Scale, about: int) -> list[float]:
    find = log_ticks if scale.log else ticks
    return find(scale.low, scale.high, about)
