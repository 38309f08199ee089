"""What a row of the table says: how often a promise was tried and broken, and whether its controls failed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import beta

from benchmarks.common import Record

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Trials:
    """Some trials of one thing, and those that went wrong."""

    what: str
    """What was tried."""
    n: int
    """How often."""
    failures: int
    """How often it went wrong."""

    def __str__(self) -> str:
        return f"{self.what}: {self.failures} of {self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One promise, tried."""

    row: str
    """Its number, and a letter where a number has several."""
    promise: str
    """In words."""
    trials: Trials
    """Of what was promised; `what` is the unit that is counted."""
    controls: tuple[Trials, ...]
    """The same trials of what must fail them: one that does not says that these trials show nothing."""
    exhaustive: bool = False
    """Whether the trials are all that there are in a model, and no sample."""
    note: str = ""
    """What a reader has to know beside the numbers."""
    seconds: float = 0.0
    """Wall time of all of it."""

    @property
    def bound(self) -> float | None:
        """How large a share of failures the trials still allow, at 95 %; None where they are all that there are."""
        return None if self.exhaustive else upper_bound(self.trials.failures, self.trials.n)

    @property
    def verdict(self) -> str:
        """Whether the promise was kept; a control that never failed outweighs everything."""
        if not self.trials.n or not self.controls or any(not control.failures for control in self.controls):
            return "proves nothing"
        return "MISSED" if self.trials.failures else "met"

    @property
    def record(self) -> Record:
        """For `result.json`."""
        counted = [{"what": each.what, "n": each.n, "failures": each.failures} for each in self.controls]
        return {
            "row": self.row,
            "promise": self.promise,
            "unit": self.trials.what,
            "n": self.trials.n,
            "failures": self.trials.failures,
            "exhaustive": self.exhaustive,
            "upper_bound": self.bound,
            "controls": counted,
            "note": self.note,
            "seconds": round(self.seconds, 1),
            "verdict": self.verdict,
        }


def upper_bound(failures: int, n: int) -> float:
    """The largest chance of a failure that so few of them do not rule out at 95 %, one-sided; 1 if nothing is known.

    None in n gives `1 - 0.05 ** (1 / n)`, about 3 / n.

    Source:
        Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
        Biometrika 26 (1934): a quantile of the beta distribution.
    """
    return 1.0 if failures >= n else float(beta.ppf(CONFIDENCE, failures + 1, n - failures))


def added(what: str, parts: Iterable[Trials]) -> Trials:
    """Trials of several things as one."""
    found = list(parts)
    return Trials(what, sum(each.n for each in found), sum(each.failures for each in found))


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Lines of markdown, and under them what has to be said about single rows."""
    lines = [
        "| row | promise | n | failures | at most, 95 % | controls, which must fail | seconds | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        bound = "all points of the model" if each.bound is None else f"{each.bound:.2%}"
        controls = "; ".join(str(control) for control in each.controls)
        tried = f"{each.trials.n:,} {each.trials.what} | {each.trials.failures:,} | {bound}"
        lines.append(f"| {each.row} | {each.promise} | {tried} | {controls} | {each.seconds:.0f} | {each.verdict} |")
    notes = [f"- Row {each.row}: {each.note}" for each in outcomes if each.note]
    return [*lines, *(["", *notes] if notes else [])]
