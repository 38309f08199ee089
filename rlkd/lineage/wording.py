"""How verdicts of a lineage are said: a figure, over how many lines, and what follows from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rlkd.data import JsonDict
from rlkd.stats import Estimate

ONE_LINE = "one line: the interval is over episodes, and one seed shows nothing about seeds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What is said of one comparison."""

    what: str
    """Who against whom; `{}` takes the generation."""
    better: str
    """What follows where the interval lies above 0."""
    same: str
    """Where it contains 0."""
    worse: str
    """Where it lies below 0."""


ARMS: Mapping[str, Words] = {
    "smoothed": Words(
        what="Whole answers against labels smoothed to the same mean entropy, generation {}",
        better="a teacher tells more than softness",
        same="smoothed labels are not seen to teach less",
        worse="smoothed labels teach better than this teacher's answers",
    ),
    "permuted": Words(
        what="Whole answers against the same with all but the best action in random order, generation {}",
        better="which other actions are nearly as good matters: dark knowledge",
        same="the order of the other actions is not seen to matter",
        worse="the order of the other actions misleads",
    ),
    "confidence": Words(
        what="Whole answers against labels weighted by the teacher's confidence, generation {}",
        better="a teacher tells more than which states are clear",
        same="weighted labels are not seen to teach less",
        worse="weighted labels teach better than this teacher's answers",
    ),
}
"""Of each arm that differs by its loss."""
FIRST_TEACHER = Words(
    what="{} against the first teacher",
    better="students outperform it",
    same="no difference is seen",
    worse="something is lost",
)
BEST = Words(
    what="{} against the first teacher",
    better="it is better, as the luckiest of as many seeds may be",
    same="no difference is seen",
    worse="something is lost even so",
)
LONGER = Words(
    what="Generation {} against a student of the first teacher with as many gradient steps in all",
    better="it is not training longer that makes the last one better",
    same="generations are not seen to bring more than training longer",
    worse="training longer brings more than generations",
)
CHAIN = Words(
    what="The chain's last student, generation {}, against one of the first teacher with as many gradient steps",
    better="the steps between help",
    same="the steps between are not seen to help",
    worse="the steps between cost something",
)
ENSEMBLE = Words(
    what="Generation {} against all students of its line together",
    better="the last one alone is better than the mean of all answers",
    same="the mean of all answers is not seen to be better than the last one alone",
    worse="the mean of all answers is better: part of what a student lacks is chance",
)
EVOLVED = Words(
    what="Generation {} against generation 1, which learnt from the first teacher with new weights",
    better="it is better, by what was kept or by training longer: who trained longer tells which",
    same="generations are not seen to be better",
    worse="generations get worse",
)
GROWN = Words(
    what="The kept part of generation {}, cut out, against that of generation 1",
    better="it is better, by what moved into it or by training longer",
    same="the part is not seen to get better",
    worse="the part gets worse",
)
SLIM = Words(
    what="The kept part of generation {}, cut out, against the whole",
    better="the part alone is better than the whole",
    same="the part is not seen to lack anything",
    worse="the part alone lacks something",
)
ASSISTANT = Words(
    what="Student and assistant as one, generation {}, against the student alone",
    better="the assistant makes up for something that the student lacks",
    same="the assistant is not seen to add anything",
    worse="the assistant spoils something",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A number that is followed over generations."""

    name: str
    """Of the comparison."""
    what: str
    """What a reader calls it."""
    unit: str
    """Of the number; empty where it has none."""
    good: int
    """1 or -1: whether more or less of it is better; 0: neither is."""
    path: tuple[str, ...]
    """Keys of the record that lead to it."""
    from_the_teacher: bool = False
    """Whether the first teacher's own number counts too; beside itself it has none that says anything."""

    @property
    def value(self) -> Callable[[JsonDict], float | None]:
        """From a record to its number; None where it is not there."""

        def found(record: JsonDict) -> float | None:
            at: object = record
            for key in self.path:
                at = at.get(key) if isinstance(at, dict) else None
            plain = isinstance(at, int | float) and not isinstance(at, bool) and np.isfinite(at)
            return float(at) if plain else None  # type: ignore[arg-type]  # a number

        return found


CHANGES = (
    Change(name="score", what="The score", unit=" TN", good=1, path=("normalised",)),
    Change(
        name="entropy",
        what="Entropy, where each generation plays itself,",
        unit=" nats",
        good=0,
        path=("measures", "child", "entropy_student_states"),
        from_the_teacher=True,
    ),
    Change(
        name="kl_first",
        what="KL to the first teacher",
        unit=" nats",
        good=0,
        path=("measures", "first", "kl_teacher_states"),
    ),
    Change(
        name="effective_rank",
        what="The effective rank of the last features",
        unit="",
        good=1,
        path=("measures", "child", "effective_rank"),
        from_the_teacher=True,
    ),
    Change(
        name="calibration_error",
        what="The calibration error to the first teacher",
        unit="",
        good=-1,
        path=("measures", "first", "calibration_error"),
    ),
)


def sentence(words: Words, found: Estimate, lines: int, outcome: str, at: int | str) -> str:
    """What a comparison showed."""
    follows = {"better": words.better, "worse": words.worse, "no effect here": words.same + _few(lines)}
    figures = f"{_spoken(found)} TN{_over(lines)}"
    return f"{words.what.format(at)}: {figures}; {follows.get(outcome, ONE_LINE)}."


def share_sentence(number: int, above: int, unequal: int, lines: int) -> str:
    """In how many lines the last generation is above the first teacher."""
    of_those = f"{unequal} lines" if unequal == lines else f"the {unequal} of {lines} lines that do not equal it"
    if lines == 1:
        is_above = "above" if above else "not above"
        return f"The only line is {is_above} the first teacher at generation {number}: no share of lines."
    return f"Generation {number} is above the first teacher in {above} of {of_those}: a count, which is no verdict."


def change_sentence(change: Change, found: Estimate, lines: int, span: tuple[int, int], outcome: str) -> str:
    """How a number moved over generations."""
    moved = "rises" if found.point > 0 else "falls"
    figures = f"{_spoken(found)}{change.unit} a generation from {span[0]} to {span[1]}{_over(lines)}"
    if outcome == "one line: no verdict":
        return f"{change.what} moves by {figures}; one line: one seed shows nothing about seeds."
    if outcome == "no effect here":
        return f"{change.what} is not seen to move: {figures}{_few(lines)}."
    return f"{change.what} {moved}: {figures}."


def _spoken(found: Estimate) -> str:
    known = np.isfinite([found.low, found.high]).all()
    interval = f" [{found.low:+.3f}, {found.high:+.3f}]" if known else ""
    return f"{found.point:+.3f}{interval}"


def _over(lines: int) -> str:
    return "" if lines == 1 else f" over {lines} lines"


def _few(lines: int) -> str:
    return ", but two lines show none but large effects" if lines == 2 else ""
