"""TOML tables to frozen recipe values and back: strict about keys and types, stable to hash."""

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rlkd.errors import RecipeError
from rlkd.recipe.part import Part, Value

R = TypeVar("R")


def build(kind: type[R], table: Mapping[str, Any], *, where: str) -> R:
    """A frozen value of `kind` from a parsed table.

    Args:
        kind: a recipe dataclass; nested tables become nested dataclasses.
        table: what `tomllib` or `json` returned.
        where: what an error calls the source, usually the file's path, with the table's key behind it.

    Raises:
        RecipeError: an unknown key (with the nearest known one), a missing key, a wrong type or value.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass
    hints = get_type_hints(kind)
    for key in table:
        if key not in fields:
            raise RecipeError(f"{where}: unknown key '{key}'{suggest(key, fields)}")
    for name, entry in fields.items():
        if name not in table and entry.default is entry.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{where}: missing key '{name}' ({_describe(hints[name])})")
    values = {key: convert(hints[key], value, where=where, key=key) for key, value in table.items()}
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def to_table(recipe: object) -> dict[str, Any]:
    """The plain table of a recipe: every default filled in, no key that is unset; `build` reverses it.

    One value has one table: a float field that was given 1 in Python holds 1.0 here, as it does after a file
    was read, or a hash taken before writing would not be the hash after reading.
    """
    read_back = build(type(recipe), _fields(recipe), where=type(recipe).__name__)
    return _fields(read_back)


def recipe_hash(recipe: object) -> str:
    """SHA-256 (64 hex digits) of kind and full table; equal values hash equally on every machine."""
    text = json.dumps([type(recipe).__name__, to_table(recipe)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def require(condition: bool, message: str) -> None:
    """RecipeError with `message` unless the condition holds."""
    if not condition:
        raise RecipeError(message)


def check_request(seed: int, episodes: int | None = None) -> None:
    """RecipeError for a seed that no generator takes, or less than one episode: before a run folder is made."""
    require(seed >= 0, f"seed must be at least 0, got {seed}")
    require(episodes is None or episodes >= 1, f"episodes must be at least 1, got {episodes}")


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or the list of names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"


def convert(hint: Any, value: Any, *, where: str, key: str) -> Any:
    """`value` as the annotated type `hint`, or a RecipeError that names file, key, type and value."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in arguments if option is not types.NoneType]
        if value is None and types.NoneType in arguments:
            return None
        for option in options:
            table = dataclasses.is_dataclass(option) and isinstance(value, Mapping)
            several = get_origin(option) is tuple and isinstance(value, list | tuple)
            if len(options) == 1 or table or several or _is_a(value, option):
                return convert(option, value, where=where, key=key)
    elif origin is Literal:
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
        if isinstance(value, str):
            known = [str(option) for option in arguments]
            raise RecipeError(f"{where}: {key} cannot be '{value}'{suggest(value, known)}")
    elif origin is tuple and isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            kinds = [arguments[0]] * len(value)
        else:
            kinds = list(arguments)
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(convert(k, v, where=where, key=f"{key}[{i}]") for i, (k, v) in pairs)
    elif origin is dict and isinstance(value, Mapping):
        return {name: convert(arguments[1], item, where=where, key=f"{key}.{name}") for name, item in value.items()}
    elif hint is Part:
        if isinstance(value, Part):
            return value
        if isinstance(value, str):
            return Part(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            rest = {name: item for name, item in value.items() if name != "name"}
            return Part(value["name"], convert(dict[str, Value], rest, where=where, key=key))
    elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast(type, hint), value, where=f"{where} [{key}]")
    elif hint is float and _is_a(value, float):
        if not math.isnan(value):  # no setting means "not a number", and a NaN differs from itself
            return float(value) + 0.0  # turns -0.0, which equals 0.0, into it
    elif _is_a(value, hint):
        return value
    raise RecipeError(f"{where}: {key} must be {_describe(hint)}, got {value!r}")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a TOML value is of a plain type; a bool is no number, an int is a fine float."""
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(kind, type) and isinstance(value, kind)


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in get_args(hint) if option is not types.NoneType)
    if get_origin(hint) is tuple:
        arguments = get_args(hint)
        many = arguments[-1] is Ellipsis
        return f"a list of {_describe(arguments[0])}" + ("" if many else f" of length {len(arguments)}")
    if hint is Part:
        return "a name, or a table with one"
    if get_origin(hint) is dict or dataclasses.is_dataclass(hint):
        return "a table"
    return getattr(hint, "__name__", str(hint))


def _fields(recipe: object) -> dict[str, Any]:
    return typing.cast(dict[str, Any], _plain(recipe))


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return {"name": value.name} | dict(value.values) if value.values else value.name
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
