"""Numbers as a reader wants them. Text for HTML; nothing here escapes, since nothing here can hold markup."""

import math
from collections.abc import Sequence

MISSING = "–"  # an en dash: the run did not record this figure
MINUS = "\u2212"  # a real minus sign: a hyphen breaks lines and is too short
GAP = "\u00a0"  # a space that breaks no line: a figure stays with its unit, an interval in one piece


def number(value: float | None, digits: int | None = None) -> str:
    """A figure with thousands separators; without `digits`, three significant ones but at most two decimals."""
    if value is None or not math.isfinite(value):
        return MISSING
    if digits is None:
        size = abs(value)
        digits = 0 if size >= 10_000 or value == int(value) else (1 if size >= 10 else 2)
    text = f"{value:,.{digits}f}"
    return text.replace("-", MINUS) if text.strip("-0.,") else text.replace("-", "")


def score(mean: float, interval: Sequence[float]) -> str:
    """A mean score with its 95 % interval, to one decimal, or to two where scores are below 10 in size."""
    digits = 1 if max(abs(value) for value in (mean, *interval)) >= 10 else 2
    return f"{number(mean, digits)} [{number(interval[0], digits)},{GAP}{number(interval[1], digits)}]"


def share(value: float | None, digits: int = 0) -> str:
    """A share in [0, 1] as a percentage."""
    return MISSING if value is None or not math.isfinite(value) else f"{number(100 * value, digits)}{GAP}%"


def normalised(point: float | None, interval: Sequence[float] | None) -> str:
    """A teacher-normalised score with its interval, as in the run's own table."""
    if point is None or interval is None:
        return MISSING
    return f"{number(point, 2)} [{number(interval[0], 2)},{GAP}{number(interval[1], 2)}]"


def size(count: float) -> str:
    """Bytes in decimal units: `912 B`, `2.2 kB`, `454 kB`, `3.4 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            value = count / factor
            digits = 0 if value >= 100 or value == int(value) else 1
            return f"{value:.{digits}f}{GAP}{unit}"
    return f"{count:.0f}{GAP}B"


def fraction(ratio: float) -> str:
    """A student's share of the teacher's parameters: `1/27`, `1/2.7`, or `1.5 x` where it is larger."""
    if ratio <= 0:
        return MISSING
    if ratio > 1:
        return f"{ratio:.1f}{GAP}×"
    part = 1 / ratio
    return "1" if part < 1.05 else f"1/{part:.0f}" if part >= 10 else f"1/{part:.1f}"


def duration(seconds: float) -> str:
    """Seconds as `0.4 s`, `42 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds < 59.5:
        return f"{seconds:.1f}{GAP}s" if seconds < 9.95 else f"{seconds:.0f}{GAP}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{GAP}min{GAP}{whole % 60:02d}{GAP}s"
    minutes = round(whole / 60)
    return f"{minutes // 60}{GAP}h{GAP}{minutes % 60:02d}{GAP}min"


def count(value: float) -> str:
    """A figure for an axis, short whatever its size: `0`, `0.05`, `500`, `20 k`, `1.5 M`, `5e-4` with a real minus."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:g}{GAP}{unit}".replace("-", MINUS)
    if 0 < abs(value) < 0.001:
        power = math.floor(math.log10(abs(value)) + 1e-9)
        return f"{value / 10.0**power:.3g}e{power}".replace("-", MINUS)
    return f"{value:g}".replace("-", MINUS)


def plain(name: str) -> str:
    """A control's name in words: `hard_labels` -> `hard labels`."""
    return name.replace("_", " ")
