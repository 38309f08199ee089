"""The gradient steps of a round: from which game each takes its minibatch, and what all of them did.

A network learns one game, or several: then it has a student with a head for each (`rlkd.distillation.tasks`), and every
step is taken on a minibatch of one game.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from rlkd.distillation.lesson import GOLDEN, Seen
from rlkd.distillation.student import Student
from rlkd.metrics import StopSignal
from rlkd.policy.compute import Precision
from rlkd.recipe import Sampling

FIRST_LOOK = 512  # states by which a fresh network is standardised
EXPONENTS: dict[Sampling, float] = {"even": 0.0, "size": 0.75}  # of the number of states, arXiv:1907.04829


@dataclass(slots=True)
class Ending:
    """Whether learners end at their next step: on a signal, or because collecting has failed beside them."""

    stop: StopSignal
    failed: bool = False

    @property
    def asked(self) -> bool:
        """As of a signal."""
        return self.failed or self.stop.asked


def learn(
    students: Sequence[Student],
    seen: Sequence[Seen],
    goal: int,
    precision: Precision,
    stop: StopSignal | Ending | None = None,
    sampling: Sampling = "even",
) -> None:
    """Take gradient steps of one network on minibatches drawn from what was seen of its games.

    Args:
        students: the network's student of each game; one where it plays one.
        seen: states and teacher answers of each game.
        goal: how many steps it is to have taken in all afterwards.
        precision: `auto` takes bfloat16 for pixels where the processor has it.
        stop: when set, learning ends at the next step.
        sampling: from which games the minibatches come.
    """
    taken, first = steps_of(students), students[0]
    if taken >= goal:
        return
    started, before = time.perf_counter(), [student.steps for student in students]
    pairs = list(zip(students, seen, strict=True))
    fresh = taken == 0
    if fresh and first.plan.start is None:
        looks = [student.look(each, FIRST_LOOK // len(students)) for student, each in pairs]
        first.network.standardise(torch.cat(looks))
    lessons = [student.begin(each, goal, fresh=fresh) for student, each in pairs]
    shares = shares_of([len(each.rows) for each in seen], sampling)
    with ThreadPoolExecutor(first.parts) as pool:
        # The first step is taken in any case: a run that goes on would standardise its network once more before it.
        while taken < goal and not (stop and stop.asked and taken):
            game, progress = turn(taken, shares), taken / first.recipe.gradient_steps
            students[game].total += students[game].step(lessons[game], precision, progress, pool)
            for student in students:  # what they share has moved for all of them
                student.own.follow(student.network)
            taken += 1
    seconds = (time.perf_counter() - started) / max(1, taken - sum(before))
    for student, previous in zip(students, before, strict=True):
        student.seconds += seconds * (student.steps - previous)
        if taken >= goal:
            student.end_round()


def steps_of(students: Sequence[Student]) -> int:
    """Gradient steps that one network has taken, over all its games."""
    return sum(student.steps for student in students)


def shares_of(states: Sequence[int], sampling: Sampling) -> np.ndarray:
    """[G] float64, sum 1: how much of the gradient steps each game gets.

    Args:
        states: that were seen of each game.
        sampling: `even`, all alike; `size`, in proportion to the number of states to the power of 0.75.

    Source:
        `size`: BAM, Clark et al. 2019, arXiv:1907.04829.
    """
    weights = np.asarray(states, np.float64) ** EXPONENTS[sampling]
    shares: np.ndarray = weights / weights.sum()
    return shares


def turn(step: int, shares: np.ndarray) -> int:
    """The game from which a gradient step takes its minibatch.

    Not drawn but spread by multiples of the golden ratio: every stretch of steps holds each game in its share, but for
    a few steps, and a run that goes on has nothing to remember. Rusu et al. (arXiv:1511.06295) change games with each
    episode.

    Args:
        step: steps that were taken before.
        shares: [G], sum 1.
    """
    place = int(np.searchsorted(np.cumsum(shares), step * GOLDEN % 1, side="right"))
    return min(place, len(shares) - 1)  # shares that are rounded may sum to less than 1
