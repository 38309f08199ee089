"""Environments in two halves: while one half's emulators run, networks answer for the other."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from rlkd.data import Step
from rlkd.errors import MismatchError
from rlkd.policy import Policy
from rlkd.recipe import Environment
from rlkd.vector import Stepper, make_halves


@dataclass(slots=True)
class Half:
    """One half of the environments, between two of its steps."""

    stepper: Stepper
    envs: np.ndarray
    """Which rows of the replay it fills."""
    observation: np.ndarray
    first: np.ndarray
    earned: np.ndarray
    """Rewards since the last state that was kept."""
    over: np.ndarray
    """Rows whose observation is an episode's last one: nothing is decided or kept there."""
    states: list[Tensor | None]
    """Each teacher's, [n, S]."""
    twin: Stepper | None = None
    """The same games once more, as the teacher sees them, where it sees them otherwise than students do."""
    shown: np.ndarray | None = None
    """What the teacher sees there."""
    student_states: list[Tensor | None] = field(default_factory=list)
    """Each student's, once students act."""

    def act(self, actions: np.ndarray) -> None:
        """Start a step with what the environments take, [n] or [n, D]."""
        self.earned[~self.over] = 0  # what was earned until here stands beside the state
        self.stepper.send(actions)
        if self.twin is not None:
            self.twin.send(actions)

    def receive(self) -> Step:
        """Wait for the step that `act` started.

        Raises:
            MismatchError: two views of a game are not of the same tick any more.
        """
        step = self.stepper.receive()
        # Where an environment broke, another episode begins. The states of the broken one stay: they were really
        # visited, and what is kept of a state is the teacher's answer to it, not what came of the action.
        self.observation, self.first = step.observation, step.first
        if self.twin is not None:
            other = self.twin.receive()
            self.shown = other.observation
            pairs = ((step.reward, other.reward), (step.ended, other.ended), (step.first, other.first))
            if not all(np.array_equal(mine, theirs) for mine, theirs in pairs):
                raise MismatchError(
                    "the teacher's and the students' environment came apart: seeds and actions were equal, rewards or "
                    "ends were not. Either they are not the same game seen in two ways, or one broke and began anew; "
                    "if it did, the same command goes on"
                )
        self.earned += step.reward
        self.over = step.ended & self.stepper.next_step
        return step

    def close(self) -> None:
        """Release the environments."""
        self.stepper.close()
        if self.twin is not None:
            self.twin.close()


def start_halves(
    environment: Environment,
    shown: Environment | None,
    num_envs: int,
    generator: np.random.Generator,
    teachers: Sequence[Policy],
) -> list[Half]:
    """Start the environments, both halves.

    Args:
        environment: where; what it shows is kept.
        shown: the same game as teachers see it, if otherwise.
        num_envs: in both halves together.
        generator: of their seeds.
        teachers: who will act in them.
    """
    found: list[Half] = []
    same = copy.deepcopy(generator)  # gives the twins the same seeds
    steppers = make_halves(environment, num_envs, generator)
    try:
        for stepper in steppers:
            n = stepper.num_envs
            envs = np.arange(n) + n * len(found)
            states = [each.initial_state(n) for each in teachers]
            found.append(Half(stepper, envs, stepper.reset(), np.ones(n, bool), np.zeros(n), np.zeros(n, bool), states))
        if shown is not None:
            for half, twin in zip(found, make_halves(shown, num_envs, same), strict=True):
                half.twin = twin
            for half in found:
                half.shown = half.twin.reset() if half.twin is not None else None
    except BaseException:  # no worker process is left behind
        for stepper in [*steppers, *(half.twin for half in found if half.twin is not None)]:
            stepper.close()
        raise
    return found
