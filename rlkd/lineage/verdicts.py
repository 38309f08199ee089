"""What a lineage says about the questions that the field asks of distillation. Pure: records in, lines out.

Differences are of teacher-normalised scores (TN). Over lines of descent, which differ by their seeds alone, a line
counts once; the main line, its arms and its controls have the same seeds, so that they are paired. One line has an
interval over episodes and no verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlkd.data import JsonDict
from rlkd.lineage.lines import Group, groups
from rlkd.lineage.wording import (
    ARMS,
    ASSISTANT,
    BEST,
    CHAIN,
    CHANGES,
    ENSEMBLE,
    EVOLVED,
    FIRST_TEACHER,
    GROWN,
    LONGER,
    SLIM,
    Change,
    Words,
    change_sentence,
    sentence,
    share_sentence,
)
from rlkd.stats import Estimate, mean_difference, normalised_score, seed_difference, seed_interval

WORKS = "Why does distillation work?"
OUTPERFORM = "Why can students outperform their teachers?"
HAPPENS = "What happens from one generation to the next?"
BRINGS = "What does this way of making generations bring?"

Outcome = Literal["better", "worse", "changes", "no effect here", "one line: no verdict", "a count: no verdict"]
"""`changes`: the interval excludes 0, and neither direction is the better one (entropy, distance to the first teacher).
`no effect here`: it contains 0."""

ByLine = Mapping[int, JsonDict]
"""One record a line."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """What normalises scores."""

    teacher: Sequence[float]
    """Scores of the first teacher's episodes."""
    random: Sequence[float]
    """Of random play's."""

    @property
    def span(self) -> float:
        """Raw score of one TN."""
        return float(np.mean(self.teacher) - np.mean(self.random))

    def normalise(self, raw: Estimate) -> Estimate:
        """A difference of raw scores in TN."""
        low, high = sorted((raw.low / self.span, raw.high / self.span))
        return Estimate(raw.point / self.span, low, high)


def verdicts(record: JsonDict) -> list[JsonDict]:
    """What the steps that are there say, a line each; what nobody was bred for is left out.

    Args:
        record: content of `run.json`: `steps`, `operator`, `teacher` and `random` with their scores.

    Returns:
        Lines of `question`, `comparison`, `estimate`, `ci95` (None where there is none), `lines` (how many),
        `verdict` (an `Outcome`), `sentence`.
    """
    found = groups(record["steps"])
    scale = _Scale(record["teacher"]["scores"], record["random"]["scores"])
    return [
        *_arms(found, scale),
        *_beyond_the_teacher(found, scale, record["operator"]),
        *_of_the_operator(found, scale, record["operator"]),
        *_from_one_to_the_next(record["steps"], found),
    ]


def _arms(found: Sequence[Group], scale: _Scale) -> list[JsonDict]:
    """The main line against each arm: at generation 1, where teacher, states and first weights are the same, and at the
    last one that both have, where each has learnt from its own line."""
    told = []
    for arm, words in ARMS.items():
        main, other = _numbers(found), _numbers(found, arm=arm)
        first, later = ({n: rows for n, rows in other.items() if (n > 1) == after} for after in (False, True))
        apart = replace(words, what=f"{words.what}, where each has learnt from its own line")
        told += _at_last(WORKS, arm, words, main, first, scale)
        told += _at_last(WORKS, f"{arm}, last generation", apart, main, later, scale)
    return told


def _beyond_the_teacher(found: Sequence[Group], scale: _Scale, operator: str) -> list[JsonDict]:
    main = _numbers(found)
    if not main:
        return []
    number = _fullest(main)
    last = main[number]
    told = [_against_first("last generation", FIRST_TEACHER, f"Generation {number}", last, scale, _all)]
    if len(main) > 1 and all(len(row["scores"]) > 1 for row in last.values()):
        told.append(_best(main, scale))
    told += _share_above(number, last)
    if operator not in CHAIN_OPERATORS:
        told += _at_last(OUTPERFORM, "longer", LONGER, main, _numbers(found, role="longer"), scale)
    return told + _at_last(OUTPERFORM, "ensemble", ENSEMBLE, main, _numbers(found, role="ensemble"), scale)


CHAIN_OPERATORS = ("shrink", "sequence")


def _of_the_operator(found: Sequence[Group], scale: _Scale, operator: str) -> list[JsonDict]:
    main = _numbers(found)
    if operator in CHAIN_OPERATORS:
        return _at_last(BRINGS, "longer", CHAIN, main, _numbers(found, role="longer"), scale)
    if operator == "residual":
        return _at_last(BRINGS, "student", ASSISTANT, main, _numbers(found, role="student"), scale)
    if operator != "reset" or not main:
        return []
    parts, told = _numbers(found, role="slim"), []
    for comparison, words, ours in (("first generation", EVOLVED, main), ("slim, first generation", GROWN, parts)):
        if 1 in ours and (last := _fullest(ours)) > 1:
            told += _at_last(BRINGS, comparison, words, ours, {last: ours[1]}, scale)
    return told + _at_last(BRINGS, "slim", SLIM, parts, main, scale)


def _numbers(found: Sequence[Group], *, arm: str | None = None, role: str = "") -> dict[int, ByLine]:
    """By generation, one record a line."""
    return {
        group.number: {row["line"]: row for row in group.records}
        for group in found
        if (group.arm, group.role) == (arm, role)
    }


def _fullest(numbers: Mapping[int, ByLine]) -> int:
    """The generation that most lines have, of these the last: an unfinished run's lines differ in length."""
    return max(numbers, key=lambda number: (len(numbers[number]), number))


def _at_last(
    question: str,
    comparison: str,
    words: Words,
    ours: Mapping[int, ByLine],
    theirs: Mapping[int, ByLine],
    scale: _Scale,
) -> list[JsonDict]:
    """Ours less theirs, paired by line, at the last generation of both; nothing where there is none."""
    shared = {
        number: {line: (ours[number][line], row) for line, row in rows.items() if line in ours[number]}
        for number, rows in theirs.items()
        if number in ours
    }
    if not any(shared.values()):
        return []
    number = max(shared, key=lambda number: (len(shared[number]), number))
    pairs = list(shared[number].values())
    if len(pairs) == 1:
        mine, other = pairs[0]
        found = scale.normalise(mean_difference([mine["scores"]], [other["scores"]]))
    else:
        found = seed_interval([mine["normalised"] - other["normalised"] for mine, other in pairs])
    return [_line(question, comparison, found, len(pairs), words, number)]


def _against_first(
    comparison: str,
    words: Words,
    who: str,
    rows: ByLine,
    scale: _Scale,
    scores: Callable[[JsonDict], Sequence[float]],
) -> JsonDict:
    """TN less 1. The first teacher is one policy, measured on some episodes, whose noise all lines share: Welch's
    interval counts it once. What random play's noise adds is of second order near 1."""
    played = [scores(row) for row in rows.values()]
    if len(played) == 1:
        whole = normalised_score(played, scale.teacher, scale.random)
        found = Estimate(whole.point - 1, whole.low - 1, whole.high - 1)
    else:
        means = [float(np.mean(each)) for each in played]
        found = scale.normalise(seed_difference(means, scale.teacher))
    return _line(OUTPERFORM, f"first teacher, {comparison}", found, len(played), words, who)


def _best(main: Mapping[int, ByLine], scale: _Scale) -> JsonDict:
    """Each line's best generation. That one of several seeds is a lucky one remains, and is said."""
    who = f"The best of {len(main)} generations of each line (half of the episodes choose it, the other half count)"
    return _against_first("best generation", BEST, who, chosen_of(main), scale, counted)


def chosen_of(main: Mapping[int, ByLine]) -> dict[int, JsonDict]:
    """Of each line the generation with the best mean score over half of its episodes; `main` is by number and line.

    Whoever is chosen by a score looks too good by it: only those that have not chosen are `counted`.
    """
    chosen: dict[int, JsonDict] = {}
    for line in main[_fullest(main)]:
        rows = [rows[line] for _, rows in sorted(main.items()) if line in rows]
        chosen[line] = max(rows, key=lambda row: float(np.mean(row["scores"][0::2])))
    return chosen


def counted(row: JsonDict) -> Sequence[float]:
    """Scores of the episodes that have not chosen."""
    scores: Sequence[float] = row["scores"][1::2]
    return scores


def _all(row: JsonDict) -> Sequence[float]:
    scores: Sequence[float] = row["scores"]
    return scores


def _share_above(number: int, last: ByLine) -> list[JsonDict]:
    """How many lines are above the teacher, of those that differ from it. A count, with no interval: whether lines are
    above it hangs together, since all are compared with the same episodes of one teacher."""
    unequal = [row["normalised"] > 1 for row in last.values() if row["normalised"] != 1]
    if not unequal:
        return []
    above, lines = sum(unequal), len(unequal)
    found = Estimate(above / lines, -np.inf, np.inf)
    told = share_sentence(number, above, lines, len(last))
    outcome: Outcome = "a count: no verdict" if len(last) > 1 else "one line: no verdict"
    return [_row(OUTPERFORM, "share of lines", found, lines, outcome, told)]


def _from_one_to_the_next(steps: Sequence[JsonDict], found: Sequence[Group]) -> list[JsonDict]:
    """Mean slope over generations of what was measured of the main line, each line's by least squares."""
    main = {number: dict(rows) for number, rows in _numbers(found).items()}
    founder = next((row for row in steps if row["number"] == 0), None)
    lines = sorted({line for rows in main.values() for line in rows})
    told = []
    for change in CHANGES:
        slopes, seen = [], set()
        for line in lines:
            rows = [(number, rows[line]) for number, rows in sorted(main.items()) if line in rows]
            if founder is not None and change.from_the_teacher:
                rows = [(0, founder), *rows]
            points = [(number, value) for number, row in rows if (value := change.value(row)) is not None]
            if len(points) > 1:
                x, y = np.array(points, float).T
                slopes.append(float((x - x.mean()) @ y / ((x - x.mean()) @ (x - x.mean()))))
                seen |= {number for number, _ in points}
        if slopes:
            told.append(_slope(change, seed_interval(slopes), len(slopes), (min(seen), max(seen))))
    return told


def _slope(change: Change, found: Estimate, lines: int, span: tuple[int, int]) -> JsonDict:
    outcome = _outcome(found, lines)
    if outcome in ("better", "worse"):  # told of the number: which way is the good one differs
        good = change.good * found.point
        outcome = "changes" if not change.good else "better" if good > 0 else "worse"
    told = change_sentence(change, found, lines, span, outcome)
    return _row(HAPPENS, change.name, found, lines, outcome, told)


def _outcome(found: Estimate, lines: int) -> Outcome:
    if lines < 2:
        return "one line: no verdict"
    if found.low > 0:
        return "better"
    return "worse" if found.high < 0 else "no effect here"


def _line(question: str, comparison: str, found: Estimate, lines: int, words: Words, at: int | str) -> JsonDict:
    outcome = _outcome(found, lines)
    return _row(question, comparison, found, lines, outcome, sentence(words, found, lines, outcome, at))


def _row(question: str, comparison: str, found: Estimate, lines: int, outcome: Outcome, told: str) -> JsonDict:
    known = bool(np.isfinite([found.low, found.high]).all())
    return {
        "question": question,
        "comparison": comparison,
        "estimate": found.point,
        "ci95": [found.low, found.high] if known else None,
        "lines": lines,
        "verdict": outcome,
        "sentence": told,
    }
