"""What the figures say, in plain words, the unwelcome parts too. Pure: entries in, sentences out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlkd.report import words
from rlkd.report.record import Entry

GOOD = 0.95  # teacher-normalised score from which a student counts as having kept its teacher's
FAILED = 0.1  # a shuffled teacher must not get its student above this
FEW = 30  # episodes below which an interval says little

Tone = Literal["good", "bad", "unsure"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence with its tone."""

    tone: Tone
    """Whether it speaks for the claim, against it, or leaves it open."""
    sentence: str
    """Plain text."""


def best_student(students: Sequence[Entry]) -> Entry | None:
    """The smallest student that keeps the teacher's score (at least 95 %), else the one that scores highest."""
    measured = [entry for entry in students if entry.normalised is not None]
    kept = [entry for entry in measured if (entry.normalised or 0) >= GOOD]
    if kept:
        return min(kept, key=lambda entry: entry.weight_bytes)
    return max(measured, key=lambda entry: entry.normalised or 0, default=None)


def headline(teacher: Entry, student: Entry | None) -> str:
    """One sentence: who keeps how much of whose score at which size."""
    name = teacher.policy or "the teacher"
    if student is None or student.normalised is None or student.normalised_ci95 is None:
        return f"No student of {name} has been measured."
    if student.normalised <= FAILED:
        figures = words.normalised(student.normalised, student.normalised_ci95)
        return (
            f"No student learned to play: {student.name}, the best, is at {figures} of {name}’s lead over random play."
        )
    low, high = (words.number(100 * edge, 0) for edge in student.normalised_ci95)
    kept = f"{words.share(student.normalised)} [{low},{words.GAP}{high}]"
    ratio = student.parameter_ratio
    size = (
        f"{words.fraction(ratio)} of its parameters"
        if ratio < 0.95
        else f"{words.number(ratio, 2)} times its parameters"
    )
    return f"{student.name} keeps {kept} of {name}’s lead over random play with {size}."


def verdicts(teacher: Entry, students: Sequence[Entry], controls: Sequence[Entry], random_mean: float) -> list[Verdict]:
    """What the run shows about each student, about its controls and about itself."""
    found = [
        _teacher(teacher, random_mean),
        *over_games(students, controls),
        few_episodes([teacher, *students, *controls]),
    ]
    return [verdict for verdict in found if verdict is not None]


def few_episodes(entries: Sequence[Entry]) -> Verdict | None:
    """That some scores rest on too few episodes, where they do."""
    episodes = [entry.episodes for entry in entries if entry.episodes]
    if not episodes or min(episodes) >= FEW:
        return None
    few = f"{min(episodes)} episode{'s' if min(episodes) > 1 else ''}"
    return Verdict("unsure", f"Scores rest on {few} each: intervals from so few say little.")


def over_games(students: Sequence[Entry], controls: Sequence[Entry]) -> list[Verdict]:
    """What normalised scores, of one game or over several, show about each student and about the controls."""
    found = [_student(entry) for entry in students]
    by_name = {entry.name: entry for entry in controls}
    first = students[0] if students else None
    if first is not None and "hard_labels" in by_name:
        found.append(_hard_labels(first, by_name["hard_labels"]))
    if "shuffled_teacher" in by_name:
        found.append(_shuffled(first, by_name["shuffled_teacher"]))
    if not controls:
        found.append(Verdict("unsure", "No controls were run: what made the students good remains open."))
    return [verdict for verdict in found if verdict is not None]


def change(before: Entry, after: Entry) -> Verdict:
    """Whether one generation scores otherwise than another, as far as their intervals can tell."""
    step = after.mean - before.mean
    figure = f"{'+' if step > 0 else ''}{words.number(step, 2)}"
    if after.ci95[0] > before.ci95[1]:
        return Verdict("good", f"{figure}: better, intervals apart")
    if after.ci95[1] < before.ci95[0]:
        return Verdict("bad", f"{figure}: worse, intervals apart")
    return Verdict("unsure", f"{figure}: no change beyond the intervals")


def _teacher(teacher: Entry, random_mean: float) -> Verdict | None:
    if teacher.ci95[0] > random_mean:
        return None
    return Verdict(
        "bad",
        f"The teacher itself, at {words.score(teacher.mean, teacher.ci95)}, is not clearly better than random play "
        f"({words.number(random_mean)}): normalised scores mean little here.",
    )


def _student(entry: Entry) -> Verdict | None:
    if entry.normalised is None or entry.normalised_ci95 is None:
        return None
    low, high = entry.normalised_ci95
    figures = words.normalised(entry.normalised, entry.normalised_ci95)
    if low > 1:
        return Verdict("good", f"{entry.name} beats its teacher: {figures} lies above 1.")
    if high < 1:
        tone: Tone = "bad" if entry.normalised < 0.5 else "unsure"
        return Verdict(tone, f"{entry.name} loses something: {figures} excludes 1, the teacher’s score.")
    if low < 0.5:
        return Verdict("unsure", f"{entry.name}: {figures} is too wide to tell it from its teacher or from half of it.")
    return Verdict("good", f"{entry.name} cannot be told from its teacher by score: {figures} contains 1.")


def _hard_labels(student: Entry, control: Entry) -> Verdict | None:
    if student.normalised_ci95 is None or control.normalised_ci95 is None:
        return None
    own = words.normalised(student.normalised, student.normalised_ci95)
    other = words.normalised(control.normalised, control.normalised_ci95)
    pair = f"{student.name} {own}, the same network on hard labels {other}"
    if student.normalised_ci95[0] > control.normalised_ci95[1]:
        return Verdict("good", f"The recipe beats hard labels: {pair}.")
    if student.normalised_ci95[1] < control.normalised_ci95[0]:
        return Verdict("bad", f"Hard labels beat the recipe: {pair}.")
    ending = "the intervals overlap"
    if student.kl_teacher_states is not None and control.kl_teacher_states is not None:
        nearer = [words.number(entry.kl_teacher_states, 3) for entry in (student, control)]
        ending += f" (KL to the teacher: {nearer[0]} against {nearer[1]})"
    return Verdict("unsure", f"No gain in score over hard labels: {pair}; {ending}.")


def _shuffled(student: Entry | None, control: Entry) -> Verdict | None:
    if control.normalised is None or control.normalised_ci95 is None:
        return None
    figures = words.normalised(control.normalised, control.normalised_ci95)
    overlaps = (
        student is not None
        and student.normalised_ci95 is not None
        and control.normalised_ci95[1] >= student.normalised_ci95[0]
    )
    if control.normalised <= FAILED and not overlaps:
        return Verdict("good", f"The shuffled teacher’s student fails, as it must: {figures}.")
    if control.normalised <= FAILED:
        return Verdict("bad", f"The shuffled teacher’s student fails ({figures}), but {_name(student)} does no better.")
    if overlaps:
        return Verdict(
            "bad",
            f"The shuffled teacher’s student should fail and does as well as {_name(student)}: {figures}. "
            "This game or this budget does not show distillation.",
        )
    return Verdict(
        "unsure", f"The shuffled teacher’s student should fail and does not quite: {figures} is above {FAILED}."
    )


def _name(student: Entry | None) -> str:
    return student.name if student is not None else "the student"
