"""A run folder, read and checked once: what the pages are made of.

`run.json` comes from a file: keys this version does not know are left out, keys it needs are demanded by name.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlkd import storage
from rlkd.data import JsonDict
from rlkd.errors import RecipeError, StorageError
from rlkd.metrics import read_metrics
from rlkd.recipe import build

Kind = Literal["distill", "tasks", "evolve", "train", "compare"]
"""What made a run; `tasks` is a distillation of several games."""
KINDS: tuple[Kind, ...] = ("distill", "evolve", "train", "compare")
"""What `run.json` may say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One measured policy: teacher, student, control or generation."""

    mean: float
    """Mean raw score over episodes."""
    ci95: tuple[float, float]
    """95 % interval of the mean."""
    parameters: int
    """Numbers on the path from observation to action."""
    weight_bytes: int
    """Bytes of those numbers as stored."""
    policy: str = ""
    """Name stored with the policy."""
    environment: str = ""
    """Where it played."""
    protocol: str = ""
    """Name of the evaluation protocol."""
    rule: str = ""
    """How it picked actions."""
    episodes: int = 0
    """Episodes behind the score."""
    scores: tuple[float, ...] = ()
    """Raw score of each episode."""
    seeds: tuple[int, ...] = ()
    """Environment seed of each episode."""
    hash: str = ""
    """Content hash of the policy."""
    name: str = ""
    """Name within the run."""
    path: str = ""
    """Its file, as the run wrote it."""
    parameter_ratio: float = 1.0
    """Parameters over the teacher's."""
    normalised: float | None = None
    """Teacher-normalised score."""
    normalised_ci95: tuple[float, float] | None = None
    """Its 95 % interval."""
    failed_share: float | None = None
    """Share of episodes on random's side of the midpoint between random and teacher."""
    agreement: float | None = None
    """Share of held-out teacher states with the same preferred action."""
    kl_teacher_states: float | None = None
    """Mean KL(teacher || student) on the teacher's states, nats."""
    kl_student_states: float | None = None
    """The same on the states that the student visits."""
    gradient_steps: int | None = None
    """Steps it learned for."""
    number: int = 0
    """Of a generation; 0 is the first teacher."""
    parents: tuple[str, ...] = ()
    """Hashes of the policies it learned from."""
    parent_names: tuple[str, ...] = ()
    """Their names in a lineage."""
    recipe_hash: str | None = None
    """Of the recipe it was made with."""
    seed: int | None = None
    """Training seed."""
    seconds: float | None = None
    """Wall seconds it took; a generation's only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that was found in a run folder."""

    folder: Path
    """Where it lies now; the run may have been moved since."""
    kind: Kind
    """What made it."""
    finished: bool
    """Whether it came to its end."""
    record: JsonDict
    """Content of run.json; empty where there is none yet."""
    metrics: tuple[dict[str, float], ...]
    """Lines of metrics.jsonl, each with `step`."""
    teacher: Entry | None = None
    """The teacher; generation 0 of a lineage."""
    random_mean: float | None = None
    """Mean score of uniformly random play."""
    students: tuple[Entry, ...] = ()
    """Students of a distillation run; over all games where it has several, which have no common raw score: `mean` is
    the teacher-normalised one."""
    controls: tuple[Entry, ...] = ()
    """Its controls."""
    generations: tuple[Entry, ...] = ()
    """Generations of a lineage, the first teacher included."""
    games: tuple["Run", ...] = ()
    """Of a run of several games each one, as if it were the folder's only one."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name


def read_run(folder: Path) -> Run:
    """What a run folder holds.

    Raises:
        StorageError: no run folder, a damaged run.json, or a run of a kind that has no report.
    """
    if not folder.is_dir():
        raise StorageError(
            f"no run folder at {folder}; name one that `rlkd distill`, `evolve`, `train` or `compare` wrote"
        )
    metrics, path = read_curves(folder), folder / "run.json"
    if not path.exists():
        return _unfinished(folder, metrics)
    record = storage.read_json(path)
    if not isinstance(record, dict):
        raise StorageError(f"{path}: damaged, not a JSON object; {_AGAIN}")
    kind = record.get("kind")
    if kind not in KINDS:
        raise StorageError(f"{path}: key 'kind' must be one of {', '.join(KINDS)} for a report, got {kind!r}")
    if kind == "distill" and "tasks" in record:
        return _several(folder, record, metrics, path)
    finished = record.get("status", "done") == "done"
    if kind in ("train", "compare"):
        return Run(folder=folder, kind=kind, finished=finished, record=record, metrics=metrics)
    return _taught(folder, kind, record, metrics, path)


def _several(folder: Path, record: JsonDict, metrics: tuple[dict[str, float], ...], path: Path) -> Run:
    """A run of several games; curves of one are those whose tags begin with a name and the game's."""
    games = []
    for place, game in enumerate(_rows(record, "tasks", path)):
        where = Path(f"{path} [tasks {place}]")
        name = str(game.get("name", place))
        own = tuple({tag.replace(f"_{name}/", "/"): line[tag] for tag in line if _of(tag, name)} for line in metrics)
        games.append(_taught(folder, "distill", game | {"name": name}, own, where))
    if not games:
        raise StorageError(f"{path}: damaged, 'tasks' must hold a table for each game; {_AGAIN}")
    return Run(
        folder=folder,
        kind="tasks",
        finished=True,
        record=record,
        metrics=metrics,
        games=tuple(games),
        students=_over_games(record, "students", path),
        controls=_over_games(record, "controls", path),
    )


def _of(tag: str, game: str) -> bool:
    """Whether a curve is of a game: `step` is of all."""
    return tag == "step" or tag.rsplit("/", 1)[0].endswith(f"_{game}")


def _taught(folder: Path, kind: Kind, record: JsonDict, metrics: tuple[dict[str, float], ...], path: Path) -> Run:
    """A distillation, one game of it, or a lineage."""
    teacher, random = _table(record, "teacher", path), _table(record, "random", path)
    return Run(
        folder=folder,
        kind=kind,
        finished=record.get("status", "done") == "done",
        record=record,
        metrics=metrics,
        teacher=_entry(teacher, f"{path} [teacher]"),
        random_mean=_number(random, "mean", path),
        students=_entries(record, "students", path) if kind == "distill" else (),
        controls=_entries(record, "controls", path) if kind == "distill" else (),
        generations=_entries(record, "generations", path) if kind == "evolve" else (),
    )


def read_curves(folder: Path) -> tuple[dict[str, float], ...]:
    """Lines of a folder's metrics.jsonl that hold a step and numbers; empty where there are none."""
    try:
        lines = read_metrics(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{folder / 'metrics.jsonl'}: cannot be read: {error}") from None
    numbers = [
        {key: float(value) for key, value in line.items() if is_number(value)}
        for line in lines
        if type(line) is dict  # any JSON value may stand on a line of a damaged file
    ]
    return tuple(line for line in numbers if "step" in line)


def table_of(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A table of the record; empty where it is missing or something else."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}


_AGAIN = "run its command again to write it anew"


def _unfinished(folder: Path, metrics: tuple[dict[str, float], ...]) -> Run:
    """A run that was stopped before it wrote run.json; its curves say what it was to be."""
    tags = {tag for line in metrics for tag in line}
    if any(tag.endswith(("/kl", "/agreement")) for tag in tags):
        kind: Kind = "distill"
    elif any(tag.startswith(("rollout/", "train/", "time/")) for tag in tags):
        kind = "train"
    elif (folder / "generations" / "000" / "record.json").exists():
        kind = "evolve"
    else:
        raise StorageError(
            f"{folder}: neither run.json nor metrics.jsonl with figures; not a run folder, or nothing happened yet"
        )
    return Run(folder=folder, kind=kind, finished=False, record={}, metrics=metrics)


def _entries(record: JsonDict, key: str, path: Path) -> tuple[Entry, ...]:
    return tuple(_entry(row, f"{path} [{key} {place}]") for place, row in enumerate(_rows(record, key, path)))


def _over_games(record: JsonDict, key: str, path: Path) -> tuple[Entry, ...]:
    rows = [
        row | {"mean": row.get("normalised"), "ci95": row.get("normalised_ci95")} for row in _rows(record, key, path)
    ]
    return tuple(_entry(row, f"{path} [{key} {place}]") for place, row in enumerate(rows))


def _rows(record: JsonDict, key: str, path: Path) -> list[JsonDict]:
    rows = record.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise StorageError(f"{path}: damaged, '{key}' must be a list of tables; {_AGAIN}")
    return rows


def _entry(row: JsonDict, where: str) -> Entry:
    known = {field.name for field in dataclasses.fields(Entry)}
    kept = {key: value for key, value in row.items() if key in known and not is_nan(value)}
    try:
        return build(Entry, kept, where=where)
    except RecipeError as error:
        raise StorageError(f"{error}; the file is damaged or of another version, {_AGAIN}") from None


def _table(record: JsonDict, key: str, path: Path) -> JsonDict:
    if not isinstance(record.get(key), dict):
        raise StorageError(f"{path}: damaged, no table '{key}'; {_AGAIN}")
    return table_of(record, key)


def _number(table: JsonDict, key: str, path: Path) -> float:
    if not is_number(table.get(key)):
        raise StorageError(f"{path}: damaged, '{key}' of random play must be a number; {_AGAIN}")
    return float(table[key])


def is_number(value: Any) -> bool:
    """Whether a value of a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_nan(value: Any) -> bool:
    """Whether a value of a file is NaN or infinite."""
    return isinstance(value, float) and not math.isfinite(value)
