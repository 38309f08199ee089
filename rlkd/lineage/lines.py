"""Records of a lineage, brought together over its lines of descent."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlkd.data import JsonDict
from rlkd.lineage.step import FIRST
from rlkd.stats import Estimate, seed_interval

CONTROLS = ("longer", "ensemble", "slim")
"""Roles that are results of their own; other roles are steps on the way to a generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Policies that differ by their line alone."""

    number: int
    """Of the generation."""
    arm: str | None
    """None: the main line."""
    role: str
    """Empty for a generation's policy."""
    records: tuple[JsonDict, ...]
    """One a line, in the order of lines."""

    @property
    def name(self) -> str:
        """What a reader calls it, whatever the generation."""
        return self.role or self.arm or "main line"

    @property
    def main(self) -> bool:
        """Whether these are a generation's policies of the main line."""
        return not self.role and self.arm is None

    @property
    def normalised(self) -> Estimate:
        """Teacher-normalised score: mean over lines with Student's interval; of one line its own, over episodes."""
        if len(self.records) == 1:
            only = self.records[0]
            return Estimate(only["normalised"], *only["normalised_ci95"])
        return seed_interval([record["normalised"] for record in self.records])

    @property
    def score(self) -> Estimate:
        """Raw score, as `normalised`."""
        if len(self.records) == 1:
            return Estimate(self.records[0]["mean"], *self.records[0]["ci95"])
        return seed_interval([record["mean"] for record in self.records])

    def mean_of(self, *keys: str) -> float | None:
        """Mean over lines of a number of the records, by the way to it; None where it was not measured of all."""
        found = [number for record in self.records if (number := _number(record, keys)) is not None]
        return sum(found) / len(found) if len(found) == len(self.records) else None


def _number(record: object, keys: Sequence[str]) -> float | None:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return float(record) if isinstance(record, int | float) else None


def groups(steps: Sequence[JsonDict]) -> list[Group]:
    """Everybody but the first teacher: the main line, then arms and roles as they were made; each by generation.

    Args:
        steps: records, as `run.json` holds them.
    """
    found: dict[tuple[str | None, str], dict[int, list[JsonDict]]] = {(None, ""): {}}
    for record in steps:
        if record["name"] != FIRST:
            numbers = found.setdefault((record["arm"], record["role"]), {})
            numbers.setdefault(record["number"], []).append(record)
    return [
        Group(number=number, arm=arm, role=role, records=tuple(sorted(rows, key=lambda row: int(row["line"]))))
        for (arm, role), numbers in found.items()
        for number, rows in sorted(numbers.items())
    ]
