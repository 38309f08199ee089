"""Recipe names to files and values: shipped ones by name, a user's own by path, overrides by `key=value`."""

import json
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import rlkd
from rlkd.errors import RecipeError
from rlkd.recipe.distill import Distill
from rlkd.recipe.environment import Environment
from rlkd.recipe.generations import Generations
from rlkd.recipe.imports import Import
from rlkd.recipe.learn import Dqn, Ppo, Sb3
from rlkd.recipe.network import Network
from rlkd.recipe.read import build, suggest, to_table
from rlkd.recipe.scale import Scale, scaled, split_scale

Recipe = Environment | Network | Ppo | Dqn | Sb3 | Distill | Generations | Import
KINDS: dict[str, type[Recipe]] = {
    "environment": Environment,
    "network": Network,
    "ppo": Ppo,
    "dqn": Dqn,
    "sb3": Sb3,
    "distill": Distill,
    "generations": Generations,
    "import": Import,
}
UNSCALED = Scale()
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Shipped:
    """One shipped file."""

    name: str
    """Path below its folder without suffix, for example "atari/pong"."""
    path: Path
    """Where it lies."""
    about: str
    """Its first comment line."""


def data_root() -> Path:
    """The folder that holds `agents/` and `envs/`: inside the package in a wheel, beside it in a clone."""
    package = Path(rlkd.__file__).parent
    packaged = package / "recipes_data"
    return packaged if packaged.is_dir() else package.parent


def shipped(folder: str) -> list[Shipped]:
    """Every recipe below `agents` or `envs`, sorted by name; for `policies`, every shipped policy."""
    root, suffix = (data_root() / "agents" / "policies", ".safetensors")
    if folder != "policies":
        root, suffix = (data_root() / folder, ".toml")
    found = []
    for path in sorted(root.rglob(f"*{suffix}")):
        name = path.relative_to(root).with_suffix("").as_posix()
        found.append(Shipped(name, path, _about(path) if suffix == ".toml" else ""))
    return found


def resolve(name: str, folder: str) -> Path:
    """The file that `name` means: a path ending in .toml, a full name, or its last part where that is unique.

    Raises:
        RecipeError: nothing or more than one thing of that name.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise RecipeError(f"no recipe at {name}; `rlkd list` shows the shipped ones")
        return path
    known = {entry.name: entry.path for entry in shipped(folder)}
    if name in known:
        return known[name]
    ends = sorted(full for full in known if full.rsplit("/", 1)[-1] == name)
    if len(ends) > 1:
        raise RecipeError(f"'{name}' is ambiguous in {folder}: {', '.join(ends)}; give the full name")
    if not ends:
        last_parts = {full.rsplit("/", 1)[-1] for full in known} | set(known)
        near = suggest(name, last_parts)
        hint = near if "did you mean" in near else "; `rlkd list` shows the shipped ones"
        raise RecipeError(f"no recipe '{name}' in {folder}{hint}")
    return known[ends[0]]


def resolve_anywhere(name: str) -> Path:
    """The file that `name` means among agents and environments; RecipeError when none or both have it."""
    found, errors = [], []
    for folder in ("agents", "envs"):
        try:
            found.append(resolve(name, folder))
        except RecipeError as error:
            errors.append(error)
    if len(set(found)) > 1:
        raise RecipeError(f"'{name}' is ambiguous: {', '.join(_short(path) for path in found)}; give the path")
    if not found:
        raise next((e for e in errors if "ambiguous" in str(e) or "did you mean" in str(e)), errors[0])
    return found[0]


def load(name: str, kind: type[R], *, overrides: Sequence[str] = ()) -> R:
    """The recipe called `name`, which must be of `kind` (`Environment`, `Network`, ...).

    Args:
        name: shipped name or path of a .toml file; of a network, with scales behind it as in `nature@width=0.5`.
        kind: a class of `rlkd.recipe`.
        overrides: `key=value` texts, value in TOML; a dotted key reaches into tables. They enter the hash.
    """
    folder = "envs" if kind is Environment else "agents"
    base, scale = split_scale(name) if kind is Network else (name, UNSCALED)
    path = resolve(base, folder)
    recipe = load_any(path, overrides=overrides, scale=scale)
    if not isinstance(recipe, kind):
        wanted = _name_of(kind)
        raise RecipeError(f"{_short(path)}: is a recipe of kind '{_kind_name(recipe)}', wanted '{wanted}'")
    return recipe


def load_any(path: Path, *, overrides: Sequence[str] = (), scale: Scale = UNSCALED) -> Recipe:
    """The recipe in a file, whatever its kind; a network at another scale."""
    where = _short(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{where}: not valid TOML: {error}") from None
    except OSError as error:
        raise RecipeError(f"{where}: cannot be read: {error.strerror}") from None
    for text in overrides:
        override(table, text)
    if overrides:
        where += f" with --set {' '.join(overrides)}"
    name = table.pop("kind", None)
    if not isinstance(name, str) or name not in KINDS:
        raise RecipeError(f"{where}: key 'kind' must be one of {', '.join(KINDS)}, got {name!r}")
    recipe = build(KINDS[name], table, where=where)
    if scale == UNSCALED:
        return recipe
    if not isinstance(recipe, Network):
        raise RecipeError(f"{where}: a recipe of kind '{name}' has no width or depth; scales belong to networks")
    try:
        return scaled(recipe, scale)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def override(table: dict[str, Any], text: str) -> None:
    """Put one `key=value` into a parsed table. `terms.0.coefficient=2` reaches into an array of tables."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"--set takes key=value, got '{text}'")
    *parents, last = key.split(".")
    target: Any = table
    for part in parents:
        if isinstance(target, list) and part.isdecimal() and int(part) < len(target):
            target = target[int(part)]
        elif isinstance(target, dict):
            target = target.setdefault(part, {})
        else:
            raise RecipeError(f"--set {text}: '{part}' is not a table")
    if not isinstance(target, dict):
        raise RecipeError(f"--set {text}: '{key}' is not a key of a table")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")
        target[last] = parsed["value"] if len(parsed) == 1 else value.strip()
    except tomllib.TOMLDecodeError:
        target[last] = value.strip()  # a bare word is a string, so that quotes need no escaping in a shell


def dump(recipe: Recipe) -> str:
    """The recipe as TOML with every default filled in; `load_any` reads the same value from it."""
    lines = [f'kind = "{_kind_name(recipe)}"']
    _dump_table(to_table(recipe), (), lines)
    return "\n".join(lines) + "\n"


def _dump_table(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    def tables(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)

    def inline(value: Any) -> bool:  # parts of a term read best on one line
        parts = value if isinstance(value, list) else [value]
        return bool(path) and all(
            isinstance(part, str) or (isinstance(part, dict) and "name" in part) for part in parts
        )

    for key, value in table.items():
        if inline(value) or not (isinstance(value, dict) or tables(value)):
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in table.items():
        name = ".".join(_key(part) for part in (*path, key))
        if inline(value):
            continue
        if isinstance(value, dict) and value:
            if not all(isinstance(item, dict) for item in value.values()):
                lines += ["", f"[{name}]"]
            _dump_table(value, (*path, key), lines)
        elif tables(value):
            for item in value:
                lines += ["", f"[[{name}]]"]
                _dump_table(item, (*path, key), lines)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    """A string, number, bool, or a list or table of them in TOML, which differs from JSON in some places."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    # JSON writes characters beyond 16 bits as surrogate pairs and leaves DEL as it is; TOML allows neither.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _about(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        first = lines.readline()
        second = lines.readline()
    names_file = first.startswith("#") and first.strip().endswith(".toml")
    return (second if names_file else first).lstrip("# ").strip()


def _short(path: Path) -> str:
    root = data_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _name_of(kind: type) -> str:
    return next((name for name, known in KINDS.items() if known is kind), kind.__name__)


def _kind_name(recipe: object) -> str:
    return _name_of(type(recipe))
