"""Observation and action spaces as plain values: from the text of a zip, or of a live model."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlkd.errors import PolicyFileError


def actions_of(data: Mapping[str, Any], where: str) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """How many discrete actions, without bounds; or how many dimensions, with bounds."""
    space = table(data.get("action_space"))
    text = str(space.get(":type:"))
    if text.endswith(".Discrete'>"):
        if str(space.get("start", 0)) != "0":
            raise PolicyFileError(f"{where}: actions that start at {space['start']} are not read")
        if re.fullmatch(r"[1-9]\d{0,5}", str(space.get("n"))):
            return int(space["n"]), (), ()
    elif text.endswith(".Box'>"):
        shape = shape_of(space, where)
        low, high = (_floats(space.get(key)) for key in ("low", "high"))
        if len(shape) == 1 and len(low) == len(high) == shape[0]:
            return shape[0], low, high
    raise PolicyFileError(f"{where}: action space {text} is not read; Discrete and a flat Box with bounds are")


def shape_of(space: Any, where: str) -> tuple[int, ...]:
    """Of a Box, from its plain values."""
    values = table(space)
    shape = values.get("_shape", values.get("shape"))  # before gym 0.19 without the underscore
    plain = isinstance(shape, list) and all(type(size) is int and 0 < size < 2**24 for size in shape)
    if not plain or not str(values.get(":type:")).endswith(".Box'>"):
        raise PolicyFileError(f"{where}: a space of {values.get(':type:')} is not read where a Box is expected")
    return tuple(shape)


def plain_space(space: Any) -> dict[str, Any]:
    """The plain values of a live space, as a zip holds them."""
    values: dict[str, Any] = {":type:": str(type(space)), "_shape": list(space.shape or ())}
    for key in ("n", "start"):
        if hasattr(space, key):
            values[key] = str(getattr(space, key))
    for key in ("low", "high"):
        if hasattr(space, key):
            values[key] = np.ravel(getattr(space, key)).tolist()
    return values


def table(value: Any) -> Mapping[str, Any]:
    """The value where it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}


def _floats(value: Any) -> tuple[float, ...]:
    """Numbers from a list, or from how numpy prints one; none where it was abbreviated."""
    try:
        items = value if isinstance(value, list) else str(value).strip("[] \n").split()
        numbers = tuple(float(np.float32(float(item))) for item in items)  # the space's own precision
    except (TypeError, ValueError):
        return ()
    return () if any(math.isnan(number) for number in numbers) else numbers
