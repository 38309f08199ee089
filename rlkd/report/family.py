"""Everybody in a lineage, and what the lineage says: from `run.json`, read and checked once."""

import dataclasses
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rlkd.data import JsonDict
from rlkd.errors import RecipeError, StorageError
from rlkd.recipe import build
from rlkd.report import words
from rlkd.report.record import Run, is_nan, table_of
from rlkd.report.verdict import Tone, Verdict

TONES: dict[str, Tone] = {"better": "good", "worse": "bad"}
STARTED = ("improve", "follow")
"""Operators by which who trains goes on from the weights of its only parent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One policy of a lineage."""

    name: str
    """Within the run."""
    number: int
    """Of the generation; 0 is the first teacher."""
    how: Literal["found", "distil", "train", "combine", "select", "slim"]
    """How it was made."""
    role: str
    """Empty for a generation's policy."""
    arm: str | None
    """None: the main line."""
    line: int
    """Lines of descent differ by their seeds alone."""
    mean: float
    """Mean raw score."""
    ci95: tuple[float, float]
    """Its 95 % interval over episodes."""
    normalised: float
    """Teacher-normalised score, of the first teacher."""
    normalised_ci95: tuple[float, float]
    """Its 95 % interval over episodes."""
    parameters: int
    """Numbers that act."""
    parent_names: tuple[str, ...] = ()
    """Teachers, members or candidates first, then whose weights it begins with."""
    chosen: str = ""
    """Of its parents the one that it is, where one was chosen."""
    agreement: float | None = None
    """With its teacher, on held-out states."""
    seconds: float = 0.0
    """Wall seconds it took."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of each phase of a distillation; those with a colon in their names ran beside each other."""
    measures: dict[str, Any] = field(default_factory=dict)
    """What was measured besides scores, as the file has it."""

    @property
    def main(self) -> bool:
        """Whether it is its generation's policy in the main line."""
        return not self.role and self.arm is None

    def starts(self, operator: str) -> tuple[str, ...]:
        """Those of its parents whose weights it begins with."""
        if self.how == "train":
            return self.parent_names if operator in STARTED else ()
        if self.how == "distil" and operator == "perturb" and self.number > 1:  # its teacher's own weights
            return self.parent_names
        return self.parent_names[1:] if self.how == "distil" else ()

    def teachers(self, operator: str) -> tuple[str, ...]:
        """Those of its parents that it learns from or is made of."""
        if self.how == "train":
            return () if operator in STARTED else self.parent_names
        return self.parent_names[:1] if self.how == "distil" else self.parent_names


def members(run: Run) -> tuple[Member, ...]:
    """Everybody, the first teacher first; nobody where the run was made before lineages had steps.

    Raises:
        StorageError: a damaged record.
    """
    rows = run.record.get("steps", [])
    path = run.folder / "run.json"
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise StorageError(f"{path}: damaged, 'steps' must be a list of tables; run its command again")
    known = {each.name for each in dataclasses.fields(Member)} - {"measures"}
    found: list[Member] = []
    for place, row in enumerate(rows):
        kept = {key: value for key, value in row.items() if key in known and not is_nan(value)}
        try:
            member = build(Member, kept, where=f"{path} [steps {place}]")
        except RecipeError as error:
            raise StorageError(f"{error}; the file is damaged or of another version, run its command again") from None
        if set(member.parent_names) - {other.name for other in found}:
            raise StorageError(f"{path} [steps {place}]: damaged, {member.name} has a parent that is not before it")
        found.append(replace(member, measures=table_of(row, "measures")))
    if len({member.name for member in found}) != len(found) or [m.number for m in found].count(0) > 1:
        raise StorageError(f"{path}: damaged, 'steps' must have names of their own and one generation 0")
    return tuple(found)


def answers(run: Run) -> dict[str, list[Verdict]]:
    """What the lineage says, by question; empty where the run has no verdicts.

    Raises:
        StorageError: a damaged record.
    """
    rows = run.record.get("verdicts", [])
    keys = ("question", "verdict", "sentence")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(key), str) for key in keys) for row in rows
    ):
        raise StorageError(f"{run.folder / 'run.json'}: damaged, 'verdicts' must be a list of tables; run it again")
    found: dict[str, list[Verdict]] = {}
    for row in rows:
        told = Verdict(TONES.get(row["verdict"], "unsure"), typeset(row["sentence"]))
        found.setdefault(row["question"], []).append(told)
    return found


def against_the_first(record: JsonDict) -> str:
    """The line on the last generation and the first teacher, if there is one."""
    rows = record.get("verdicts", [])
    found = (row for row in rows if row.get("comparison") == "first teacher, last generation")
    return next((typeset(row["sentence"]) for row in found), "")


def typeset(sentence: str) -> str:
    """A sentence with real minus signs, its intervals in one piece."""
    sentence = re.sub(r"(?<=[\s\[])-(?=\d)", words.MINUS, sentence)
    return re.sub(r"(\[[^\],]*,) ", rf"\1{words.GAP}", sentence)


def spoken_role(role: str) -> str:
    """`stop050` -> `learns for 50 %`; other roles are words already."""
    stopped = re.fullmatch(r"stop(\d+)", role)
    return f"learns for {int(stopped[1])}{words.GAP}%" if stopped else role
