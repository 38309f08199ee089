"""A part of a loss by name, with its numbers: what a recipe says of a function that lives elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = bool | int | float | str | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A function's name, and values for its keyword arguments.

    In TOML it is a string, `divergence = "mse"`, or a table, `divergence = { name = "huber", delta = 0.5 }`. Which
    names and keys there are says the room that holds the functions.
    """

    name: str
    """Of the function."""
    values: Mapping[str, Value] = field(default_factory=dict)
    """By keyword."""
