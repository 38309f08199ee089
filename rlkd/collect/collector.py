"""Collecting: environments + who acts -> states and teacher answers in the replay.

Everything random comes from one generator, so the same seed gives the same data.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rlkd.collect.acting import Seconds, answering, with_noise
from rlkd.collect.beside import make_up_beside
from rlkd.collect.halves import Half, start_halves
from rlkd.collect.rounds import Again, Round, Tape, Trace
from rlkd.errors import WorkerError
from rlkd.metrics import StopSignal
from rlkd.policy import Policy, decide
from rlkd.policy.compute import Precision
from rlkd.recipe import Environment, Source
from rlkd.replay import Replay
from rlkd.vector import action_bounds

GOES_ON = "all up to its last checkpoint is saved; the same command goes on"


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
        """Environments are started when they are needed: a run that goes on learns before.

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
        self.environment, self.teacher_environment = environment, teacher_environment
        self.bounds = ((), ()) if teacher.spec.discrete else action_bounds(environment)
        # A stream of its own: with the bare seed it would be the one that a student draws its minibatches from.
        self.generator = np.random.default_rng([seed, 3])
        self.seconds = Seconds()
        self.steps = 0
        """Agent steps played so far, over all environments."""
        self.halves: list[Half] = []
        self.behind: list[Round] = []
        """Rounds that were taken up and that the environments have not played again yet."""
        self._trace = Trace()

    def start(self) -> None:
        """Start the environments, if they are not running."""
        if not self.halves:
            self.halves = start_halves(
                self.environment, self.teacher_environment, self.source.num_envs, self.generator, self.teachers
            )

    def take_up(self, replay: Replay, known: Round) -> None:
        """Fill a replay with what a round brought that was collected before; before the next that was not, environments
        play it again.

        Raises:
            ValueError: it does not fit.
        """
        replay.add(known.brought)
        self.steps += known.steps
        self.behind.append(known.without_states())

    def catch_up(self, students: Sequence[Policy], stop: StopSignal | None = None) -> None:
        """Let environments, random stream and recurrent players be where they were after the rounds taken up.

        Raises:
            OtherRunError: environments do not do again what they did.
            WorkerError: a worker process was lost.
            Stopped: `stop` was set.
        """
        for known in self.behind:
            if stop is not None:
                stop.check(GOES_ON)
            self.start()
            self._play_again(known, stop)
            self._go_on_from(known, students)
        self.behind = []

    def collect(
        self, replay: Replay, round_number: int, students: Sequence[Policy], stop: StopSignal | None = None
    ) -> Round:
        """Play one round: until the replay holds its share of the states.

        Args:
            replay: filled up to `states * (round_number + 1) / rounds`.
            round_number: from 0.
            students: environment i is played by student i modulo their number wherever the teacher does not act.
            stop: as for `catch_up`, which comes first.

        Returns:
            What it brought, and what was decided in it.

        Raises:
            OtherRunError, WorkerError, Stopped: as of `catch_up`.
        """
        self.catch_up(students, stop)
        self.start()
        source = self.source
        total = replay.capacity * source.num_envs
        target = total * (round_number + 1) // source.rounds
        first, last = source.teacher_fraction
        share = first + (last - first) * (round_number / max(source.rounds - 1, 1))
        if share < 1 and not students:
            raise ValueError("a teacher_fraction below 1 needs students to act")
        before, steps, tape = replay.filled, self.steps, Tape(len(self.halves))
        while self._visited(replay) < target:
            for place, half in enumerate(self.halves):
                tape.lose(place, self._receive(half))
                if self._visited(replay) < target:
                    action, said = self._decide(half, share, students)
                    tape.add(place, action)
                    self._keep(half, replay, action, said)
                    self._act(half, action)
        for place, half in enumerate(self.halves):
            tape.lose(place, self._receive(half))
        if source.synthetic is not None:
            started = time.perf_counter()
            make_up_beside(replay, before[: source.num_envs], source, self.teachers, self.generator)
            self.seconds.inference += time.perf_counter() - started
        return Round(
            tape.stacked(),
            replay.since(before),
            self.steps - steps,
            self.generator.bit_generator.state,
            self._seen_since(),
            self._memories(),
            tuple(tape.lost),
        )

    def _play_again(self, known: Round, stop: StopSignal | None) -> None:
        """Let environments do what they did in a round."""
        again = Again(known)
        while not again.over:
            if stop is not None:
                stop.check(GOES_ON)
            for place, half in enumerate(self.halves):
                self._receive_again(half)
                action = again.step(place)
                if action is not None:
                    half.stepper.lose(again.lost(place))
                    self._act(half, action)
        for half in self.halves:
            self._receive_again(half)
        again.check(self._seen_since(), self.environment.id)

    def _receive_again(self, half: Half) -> None:
        """Wait for a step that was played before; what was lost in it then is lost as it was."""
        if self._receive(half):
            raise WorkerError(f"a worker process was lost while rounds were played again; {GOES_ON}")

    def _visited(self, replay: Replay) -> int:
        return int(replay.filled[: self.source.num_envs].sum())

    def _seen_since(self) -> str:
        """What environments did since this was asked last."""
        pictures = [each for half in self.halves for each in (half.observation, half.shown) if each is not None]
        found, self._trace = self._trace.end(pictures), Trace()
        return found

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
        """Let random stream and recurrent players be where they were at the end of a round."""
        self.generator.bit_generator.state = known.generator
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
            half.close()

    def _decide(self, half: Half, share: float, students: Sequence[Policy]) -> tuple[np.ndarray, Tensor]:
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

    def _keep(self, half: Half, replay: Replay, action: np.ndarray, said: Tensor) -> None:
        """Keep the states with what was said."""
        started, keep = time.perf_counter(), ~half.over
        done = action[keep] if self.teacher.spec.discrete else None
        replay.append(half.envs[keep], half.observation[keep], half.first[keep], said, done, half.earned[keep])
        self.steps += int(keep.sum())
        self.seconds.storing += time.perf_counter() - started

    def _act(self, half: Half, action: np.ndarray) -> None:
        """Start the step."""
        half.act(self.teacher.to_environment(action))

    def _receive(self, half: Half) -> Mapping[int, int]:
        """Wait for the step, if there is one; the rows that were lost in it, and the seeds of what begins there."""
        if not half.stepper.in_flight:
            return {}
        started = time.perf_counter()
        self._trace.add(half.receive())
        self.seconds.environment += time.perf_counter() - started
        return half.stepper.lost

    def _student_action(
        self, student: Policy, half: Half, place: int, rows: np.ndarray, uniforms: np.ndarray
    ) -> np.ndarray:
        """Actions of a student on some rows, by the teacher's rule."""
        with torch.inference_mode(), answering(student, self.precision):
            output = student(half.observation[rows], half.student_states[place], half.first[rows])
        half.student_states[place] = output.state
        return decide(output.kind, output.numpy(), self.teacher.spec.rule, uniforms)
