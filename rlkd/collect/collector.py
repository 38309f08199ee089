"""Collecting: environments + who acts -> states and teacher answers in the replay.

Two fixed halves of the environments: while one half's emulators run, the networks answer for the other half.
Everything random comes from one generator, so the same seed gives the same data.
"""

import copy
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rlkd.collect.synthetic import made_by
from rlkd.errors import MismatchError
from rlkd.policy import Policy, decide
from rlkd.policy.compute import Precision, autocast
from rlkd.recipe import Environment, Source
from rlkd.replay import Replay
from rlkd.vector import Stepper, action_bounds, make_halves


@dataclass(slots=True)
class Seconds:
    """Where a collecting thread's wall time went, in seconds."""

    inference: float = 0.0
    environment: float = 0.0
    """Waiting for emulators that were not done yet."""
    storing: float = 0.0


@dataclass(slots=True)
class _Half:
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


class Collector:
    """Plays a teacher (and students) and fills a replay, round by round."""

    def __init__(
        self,
        environment: Environment,
        teacher: Policy,
        source: Source,
        *,
        seed: int,
        precision: Precision = "auto",
        more_teachers: Sequence[Policy] = (),
        teacher_environment: Environment | None = None,
    ) -> None:
        """Start the environments.

        Args:
            environment: where; what it shows is kept.
            teacher: answers every state; acts by its own rule.
            source: how many states, who acts, how much noise.
            seed: of environments and actions.
            precision: of the networks' answers; `auto` takes bfloat16 for pixels where the processor has it.
            more_teachers: they answer every state too. Environment i is played by teacher i modulo their number.
            teacher_environment: the same game as teachers see it, if otherwise: it is played beside the other, with
                the same seeds and actions, and both are at the same tick always.
        """
        self.teacher, self.source, self.precision = teacher, source, precision
        self.teachers = (teacher, *more_teachers)
        self.make_up = None if source.synthetic is None else made_by(source.synthetic)
        self.bounds = ((), ()) if teacher.spec.discrete else action_bounds(environment)
        # A stream of its own: with the bare seed it would be the one that a student draws its minibatches from.
        self.generator = np.random.default_rng([seed, 3])
        self.seconds = Seconds()
        self.steps = 0
        """Agent steps played so far, over all environments."""
        self.halves: list[_Half] = []
        same = copy.deepcopy(self.generator)  # gives the twins the same seeds
        for stepper in make_halves(environment, source.num_envs, self.generator):
            n = stepper.num_envs
            envs = np.arange(n) + n * len(self.halves)
            states = [each.initial_state(n) for each in self.teachers]
            self.halves.append(
                _Half(stepper, envs, stepper.reset(), np.ones(n, bool), np.zeros(n), np.zeros(n, bool), states)
            )
        if teacher_environment is not None:
            try:
                twins = make_halves(teacher_environment, source.num_envs, same)
            except BaseException:
                self.close()  # no worker process is left behind
                raise
            for half, twin in zip(self.halves, twins, strict=True):
                half.twin, half.shown = twin, twin.reset()

    def collect(self, replay: Replay, round_number: int, students: Sequence[Policy]) -> None:
        """Play one round: until the replay holds its share of the states.

        Args:
            replay: filled up to `states * (round_number + 1) / rounds`.
            round_number: from 0.
            students: environment i is played by student i modulo their number wherever the teacher does not act.
        """
        source = self.source
        total = replay.capacity * source.num_envs
        target = total * (round_number + 1) // source.rounds
        first, last = source.teacher_fraction
        share = first + (last - first) * (round_number / max(source.rounds - 1, 1))
        if share < 1 and not students:
            raise ValueError("a teacher_fraction below 1 needs students to act")
        before = replay.filled[: source.num_envs]
        while self._visited(replay) < target:
            for half in self.halves:
                if half.stepper.in_flight:
                    self._receive(half)
                if self._visited(replay) < target:
                    self._act(half, replay, share, students)
        for half in self.halves:
            if half.stepper.in_flight:
                self._receive(half)
        if self.make_up is not None:
            self._make_up(replay, before)

    def _visited(self, replay: Replay) -> int:
        return int(replay.filled[: self.source.num_envs].sum())

    def _make_up(self, replay: Replay, before: np.ndarray) -> None:
        """Put made-up states beside those that were visited since, each in an environment's range of its own.

        Args:
            replay: whose first ranges hold what was visited.
            before: [N], states of each environment when the round began.
        """
        assert self.make_up is not None
        started, envs = time.perf_counter(), np.arange(self.source.num_envs)
        counts = replay.filled[envs]
        ranges = [replay.address(np.full(n, env), np.arange(n)) for env, n in zip(envs, counts, strict=True)]
        every = replay.read(np.concatenate(ranges))[0].numpy()
        fresh = np.concatenate([rows[start:] for rows, start in zip(ranges, before, strict=True)])
        owner = np.repeat(envs, counts - before)
        place = np.concatenate([np.arange(n) for n in counts - before])
        seen = replay.read(fresh)[0].numpy()
        copies = self.make_up(np.tile(seen, (self.source.copies, 1)), every, self.generator)
        for number, made in enumerate(np.split(copies, self.source.copies), 1):
            said, action = self._asked(made)
            for step in range(int((counts - before).max())):
                now = place == step
                beside = owner[now] + number * len(envs)
                replay.append(beside, made[now], np.ones(now.sum(), bool), said[torch.from_numpy(now)], action[now])
        self.seconds.inference += time.perf_counter() - started

    def _asked(self, made: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """What teachers say to made-up states, [D, P], and what the first of them would do there, [D]."""
        with torch.inference_mode():
            outputs = [teacher(made) for teacher in self.teachers]
        answers = [output.flat.float().cpu() for output in outputs]
        draws = self.generator.random((len(made), 2 + 2 * self.teacher.spec.actions))
        action = decide(outputs[0].kind, outputs[0].numpy(), self.teacher.spec.rule, draws)
        return torch.cat(answers, dim=1), action

    def close(self) -> None:
        """Release the environments."""
        for half in self.halves:
            half.stepper.close()
            if half.twin is not None:
                half.twin.close()

    def _act(self, half: _Half, replay: Replay, share: float, students: Sequence[Policy]) -> None:
        """Ask the teachers, keep state and answers, decide, and start the step."""
        started = time.perf_counter()
        n = len(half.observation)
        draws = self.generator.random((n, 4 + 2 * self.teacher.spec.actions))
        answers, action = [], np.empty(0)
        shown = half.observation if half.shown is None else half.shown
        for place, teacher in enumerate(self.teachers):
            with torch.inference_mode(), answering(teacher, self.precision):
                output = teacher(shown, half.states[place], half.first)
            half.states[place] = output.state
            answers.append(output.flat.detach().float().cpu())
            wanted = decide(output.kind, output.numpy(), teacher.spec.rule, draws[:, 2:])
            mine = half.envs % len(self.teachers) == place
            action = wanted if place == 0 else np.where(mine if wanted.ndim == 1 else mine[:, None], wanted, action)
        if share < 1:
            half.student_states = half.student_states or [student.initial_state(n) for student in students]
            for k, student in enumerate(students):
                rows = (draws[:, 0] >= share) & (half.envs % len(students) == k)
                if rows.any() or student.recurrent:  # who remembers has to see everything
                    seen = np.ones(n, bool) if student.recurrent else rows
                    chosen = self._student_action(student, half, k, seen, draws[seen, 2:])
                    action[rows] = chosen[rows[seen]]
        action = self._with_noise(action, draws[:, 1], draws[:, -1])
        answered = time.perf_counter()
        keep = ~half.over
        said = torch.cat(answers, dim=1)[torch.from_numpy(keep)]
        acted = action[keep] if self.teacher.spec.discrete else None
        replay.append(half.envs[keep], half.observation[keep], half.first[keep], said, acted, half.earned[keep])
        half.earned[keep] = 0
        half.stepper.send(self.teacher.to_environment(action))
        if half.twin is not None:
            half.twin.send(self.teacher.to_environment(action))
        self.steps += int(keep.sum())
        self.seconds.inference += answered - started
        self.seconds.storing += time.perf_counter() - answered

    def _receive(self, half: _Half) -> None:
        started = time.perf_counter()
        step = half.stepper.receive()
        # Where an environment broke, another episode begins. The states of the broken one stay: they were really
        # visited, and what is kept of a state is the teacher's answer to it, not what came of the action.
        half.observation, half.first = step.observation, step.first
        if half.twin is not None:
            other = half.twin.receive()
            half.shown = other.observation
            pairs = ((step.reward, other.reward), (step.ended, other.ended), (step.first, other.first))
            if not all(np.array_equal(mine, theirs) for mine, theirs in pairs):
                raise MismatchError(
                    "the teacher's and the students' environment came apart: seeds and actions were equal, rewards or "
                    "ends were not. Either they are not the same game seen in two ways, or one broke and began anew; "
                    "if it did, the same command goes on"
                )
        half.earned += step.reward
        half.over = step.ended & half.stepper.next_step
        self.seconds.environment += time.perf_counter() - started

    def _student_action(
        self, student: Policy, half: _Half, place: int, rows: np.ndarray, uniforms: np.ndarray
    ) -> np.ndarray:
        """Actions of a student on some rows, by the teacher's rule."""
        with torch.inference_mode(), answering(student, self.precision):
            output = student(half.observation[rows], half.student_states[place], half.first[rows])
        half.student_states[place] = output.state
        return decide(output.kind, output.numpy(), self.teacher.spec.rule, uniforms)

    def _with_noise(self, action: np.ndarray, chance: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """Replace an action by a uniformly random one with probability epsilon."""
        noisy = chance < self.source.epsilon
        if not noisy.any():
            return action
        spec = self.teacher.spec
        if spec.discrete:
            return np.where(noisy, (draw * spec.actions).astype(np.int64), action)
        low, high = (np.array(bound, np.float32) for bound in self.bounds)
        random = self.generator.random(action.shape).astype(np.float32)
        random = 2 * random - 1 if spec.kind == "squashed_gaussian" else low + random * (high - low)
        return np.where(noisy[:, None], random, action)


def answering(policy: Policy, precision: Precision) -> AbstractContextManager[object]:
    """How a policy computes its answers where states are collected.

    Q-values stay in float32: their differences are smaller than what bfloat16 resolves at their size.
    """
    kept = "float32" if policy.spec.kind == "q" else precision
    return autocast(policy.device, kept, pixels=policy.spec.network.pixels)
