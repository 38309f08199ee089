"""Collecting: environments + who acts -> states and teacher answers in the replay.

Two fixed halves of the environments: while one half's emulators run, the networks answer for the other half.
Everything random comes from one generator, so the same seed gives the same data.
"""

import copy
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rlkd.collect.acting import Seconds, answering, with_noise
from rlkd.collect.beside import make_up_beside
from rlkd.collect.rounds import Again, Round, Tape
from rlkd.errors import MismatchError
from rlkd.policy import Policy, decide
from rlkd.policy.compute import Precision
from rlkd.recipe import Environment, Source
from rlkd.replay import Replay
from rlkd.vector import Stepper, action_bounds, make_halves


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
        self.environment = environment.id
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

    def collect(
        self, replay: Replay, round_number: int, students: Sequence[Policy], known: Round | None = None
    ) -> Round:
        """Play one round: until the replay holds its share of the states.

        Args:
            replay: filled up to `states * (round_number + 1) / rounds`.
            round_number: from 0.
            students: environment i is played by student i modulo their number wherever the teacher does not act.
            known: what was decided in it, where it was played before from the same beginning: nobody is asked, and
                replay, environments and random stream are at its end as they were then.

        Returns:
            What was decided in it.

        Raises:
            StorageError: what is known leads to other observations, beginnings or rewards than it did.
        """
        source = self.source
        total = replay.capacity * source.num_envs
        target = total * (round_number + 1) // source.rounds
        first, last = source.teacher_fraction
        share = first + (last - first) * (round_number / max(source.rounds - 1, 1))
        if share < 1 and not students:
            raise ValueError("a teacher_fraction below 1 needs students to act")
        before, tape = replay.filled, Tape(len(self.halves))
        again = None if known is None else Again(known, f"round {round_number} of {self.environment}")
        while self._visited(replay) < target:
            for place, half in enumerate(self.halves):
                if half.stepper.in_flight:
                    self._receive(half)
                    tape.lose(place, half.stepper.lost)
                if self._visited(replay) < target:
                    if again is None:
                        action, said = self._decide(half, share, students)
                    else:
                        action, said = again.step(place, int((~half.over).sum()))
                        half.stepper.lose(again.lost(place))
                    tape.add(place, action, said)
                    self._act(half, replay, action, said)
        for place, half in enumerate(self.halves):
            if half.stepper.in_flight:
                self._receive(half)
                tape.lose(place, half.stepper.lost)
        if known is not None:
            self._go_on_from(known, students)
        acted, made = self.generator.bit_generator.state, None
        if source.synthetic is not None:
            started, played_before = time.perf_counter(), None if known is None else known.made
            visited = before[: source.num_envs]
            made = make_up_beside(replay, visited, source, self.teachers, self.generator, played_before)
            self.seconds.inference += time.perf_counter() - started
        seen = self._seen(replay, before)
        if again is None:
            return tape.round((acted, self.generator.bit_generator.state), seen, self._memories(), made)
        again.check(seen)
        self.generator.bit_generator.state = again.known.generators[1]
        return again.known

    def _visited(self, replay: Replay) -> int:
        return int(replay.filled[: self.source.num_envs].sum())

    def _seen(self, replay: Replay, before: np.ndarray) -> str:
        """SHA-256 over what a round has brought: what is kept of it, and what comes next of all environments."""
        found = hashlib.sha256(replay.digest_since(before).encode())
        for half in self.halves:
            for each in (half.observation, half.first, half.earned, half.over):
                found.update(np.ascontiguousarray(each).data)
        return found.hexdigest()

    def _memories(self) -> dict[str, Tensor]:
        """What recurrent players remember, by half and place."""
        return {
            f"{who}.{number}.{place}": state
            for number, half in enumerate(self.halves)
            for who, states in (("teacher", half.states), ("student", half.student_states))
            for place, state in enumerate(states)
            if state is not None
        }

    def _go_on_from(self, known: Round, students: Sequence[Policy]) -> None:
        """Let random stream and recurrent players be where they were after the last action of a round."""
        self.generator.bit_generator.state = known.generators[0]
        for number, half in enumerate(self.halves):
            for who, players in (("teacher", self.teachers), ("student", students)):
                found = [known.memories.get(f"{who}.{number}.{place}") for place in range(len(players))]
                states = [
                    None if state is None else state.to(player.device)
                    for state, player in zip(found, players, strict=True)
                ]
                if who == "teacher":
                    half.states = states
                elif any(state is not None for state in states):
                    half.student_states = states

    def close(self) -> None:
        """Release the environments."""
        for half in self.halves:
            half.stepper.close()
            if half.twin is not None:
                half.twin.close()

    def _decide(self, half: _Half, share: float, students: Sequence[Policy]) -> tuple[np.ndarray, Tensor]:
        """Ask the teachers: what is done in all rows, [n] or [n, D], and what they said to the states to be kept."""
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
        noisy = draws[:, 1] < self.source.epsilon
        action = with_noise(action, noisy, draws[:, -1], self.teacher.spec, self.bounds, self.generator)
        self.seconds.inference += time.perf_counter() - started
        return action, torch.cat(answers, dim=1)[torch.from_numpy(~half.over)]

    def _act(self, half: _Half, replay: Replay, action: np.ndarray, said: Tensor) -> None:
        """Keep the states with what was said, and start the step."""
        started, keep = time.perf_counter(), ~half.over
        acted = action[keep] if self.teacher.spec.discrete else None
        replay.append(half.envs[keep], half.observation[keep], half.first[keep], said, acted, half.earned[keep])
        half.earned[keep] = 0
        half.stepper.send(self.teacher.to_environment(action))
        if half.twin is not None:
            half.twin.send(self.teacher.to_environment(action))
        self.steps += int(keep.sum())
        self.seconds.storing += time.perf_counter() - started

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
