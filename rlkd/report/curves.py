"""Lines of metrics.jsonl as chart series."""

from collections.abc import Iterable, Sequence

from rlkd.report.charts import Series, curves
from rlkd.report.page import figure

MOST_POINTS = 300  # of one line; more only make the page heavy


def series(metrics: Sequence[dict[str, float]], tag: str, name: str, style: int, dim: bool = False) -> Series | None:
    """One tag over steps, None where nothing was recorded; long curves as means of equal stretches."""
    points = [(line["step"], line[tag]) for line in metrics if tag in line]
    if not points:
        return None
    group = -(-len(points) // MOST_POINTS)
    parts = [points[k : k + group] for k in range(0, len(points), group)]
    x = tuple(part[-1][0] for part in parts)
    y = tuple(sum(value for _, value in part) / len(part) for part in parts)
    return Series(name, x, y, style, dim)


def chart(
    lines: Iterable[Series | None],
    title: str,
    caption: str,
    *,
    x_title: str,
    percent: bool = False,
    wide: bool = False,
    include: Sequence[float] = (),
) -> str:
    """A figure of the lines that exist, logarithmic where positive values span more than a factor of ten.

    Args:
        lines: None is left out; nothing is drawn where all are.
        title: of the vertical axis.
        caption: below the chart.
        x_title: of the horizontal axis.
        percent: whether values are shares.
        wide: whether values may take a logarithmic axis.
        include: values that a linear axis reaches whatever the lines do.
    """
    found = [line for line in lines if line is not None]
    if not found:
        return ""
    values = [value for line in found for value in line.y]
    log = wide and min(values) > 0 and max(values) > 10 * min(values)
    drawn = curves(
        found,
        title=title + (" (log)" if log else ""),
        x_title=x_title,
        percent=percent,
        log_y=log,
        labels=len(found) > 1,
        include=() if log else include,
    )
    return figure(drawn, caption)
