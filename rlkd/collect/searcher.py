"""Collecting by search: several continuations of each game are played from copies of its state, the best one is kept.

A copy holds the emulator's luck too: equal actions give equal frames, so what tells continuations apart is what was
done in them.

A run that goes on searches anew: only the teacher acts, so that the same seeds give the same.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd.collect.acting import Seconds, answering
from rlkd.policy import Policy, decide, discrete_logits
from rlkd.policy.compute import Precision
from rlkd.policy.rule import Params
from rlkd.recipe import EVALUATION_SEEDS, Environment, Source
from rlkd.replay import Replay
from rlkd.terms import TEMPERATURE
from rlkd.vector import forked, make
from rlkd.vector.stepper import as_input


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is said of one state."""

    flat: Tensor
    """[P], of all teachers side by side."""
    params: Params
    """[1, A] or [1, D], of the one who plays."""
    likelihood: np.ndarray
    """[A]: log-probability of each action for the one who plays; of continuous ones none."""


@dataclass(frozen=True, slots=True)
class _Visit:
    """A state that was acted on, and how it was reached."""

    before: "_Visit | None"
    observation: np.ndarray
    first: bool
    answer: _Answer
    action: np.ndarray
    """[] int64 or [D]."""
    earned: float
    """Rewards since the state before, also where that ended a game."""


@dataclass(slots=True)
class _Line:
    """One continuation of one game, as far as it was played."""

    env: gymnasium.Env[Any, Any]
    observation: np.ndarray
    states: list[Tensor | None]
    """[S] of each teacher."""
    first: bool = True
    over: bool = False
    answer: _Answer | None = None
    """Of the observation; None until it is asked for, and where the game is over."""
    likelihood: float = 0.0
    """Sum of log-probabilities of what was done in the game, nats."""
    gained: float = 0.0
    """Sum of rewards in the game."""
    earned: float = 0.0
    """Rewards since the last state that was acted on."""
    last: _Visit | None = None

    def visits(self) -> list[_Visit]:
        """All since the continuations parted, in order."""
        found, visit = [], self.last
        while visit is not None:
            found.append(visit)
            visit = visit.before
        return found[::-1]


class Searcher:
    """Plays a teacher by search and fills a replay, round by round; used as `Collector` is."""

    def __init__(
        self,
        environment: Environment,
        teacher: Policy,
        source: Source,
        *,
        seed: int,
        precision: Precision = "auto",
        more_teachers: Sequence[Policy] = (),
    ) -> None:
        """Start the games.

        Args:
            environment: where; one that `check_copies` lets pass.
            teacher: plays, and answers every state.
            source: how many states, which search.
            seed: of games and actions.
            precision: of the networks' answers; `auto` takes bfloat16 for pixels where the processor has it.
            more_teachers: they answer every state too.
        """
        assert source.search is not None
        self.teacher, self.source, self.search, self.precision = teacher, source, source.search, precision
        self.teachers = (teacher, *more_teachers)
        self.seconds = Seconds()
        self.steps = 0
        """Agent steps played so far, those of continuations that were not kept among them."""
        # A stream for each continuation: the first ones do the same whatever their number.
        self.draws = [np.random.default_rng([seed, 4, place + 1]) for place in range(self.search.width)]
        self.generator = np.random.default_rng([seed, 3])
        self.spare = [[make(environment) for _ in range(self.search.width - 1)] for _ in range(source.num_envs)]
        """Of each game, environments that no continuation uses."""
        self.games = [self._begin(make(environment)) for _ in range(source.num_envs)]

    def collect(self, replay: Replay, round_number: int, students: Sequence[Policy] = ()) -> None:
        """Play one round: until the replay holds its share of the states.

        Args:
            replay: filled up to `states * (round_number + 1) / rounds`.
            round_number: from 0.
            students: they do not act.
        """
        target = replay.capacity * replay.num_envs * (round_number + 1) // self.source.rounds
        while len(replay) < target:
            chosen = self._play_on()
            started = time.perf_counter()
            ways = [line.visits() for line in chosen]
            for step in range(self.search.length):
                envs = np.array([game for game, way in enumerate(ways) if step < len(way)], np.int64)
                if len(envs):
                    visits = [ways[game][step] for game in envs]
                    replay.append(
                        envs,
                        np.stack([visit.observation for visit in visits]),
                        np.array([visit.first for visit in visits]),
                        torch.stack([visit.answer.flat for visit in visits]),
                        np.stack([visit.action for visit in visits]) if self.teacher.spec.discrete else None,
                        np.array([visit.earned for visit in visits]),
                    )
            self.seconds.storing += time.perf_counter() - started
            self.games = [self._begin(line.env, line.earned) if line.over else line for line in chosen]

    def close(self) -> None:
        """Release the environments."""
        for env in [line.env for line in self.games] + [env for envs in self.spare for env in envs]:
            env.close()

    def _begin(self, env: gymnasium.Env[Any, Any], earned: float = 0.0) -> _Line:
        """A new game; `earned` is what the end of the one before brought."""
        observation, _ = env.reset(seed=int(self.generator.integers(EVALUATION_SEEDS)))
        states = [None if (state := each.initial_state(1)) is None else state[0] for each in self.teachers]
        return _Line(env, as_input(observation), states, earned=earned)

    def _play_on(self) -> list[_Line]:
        """The chosen continuation of each game."""
        games = [[replace(line, last=None)] for line in self.games]
        for step in range(self.search.length):
            running = [line for lines in games for line in lines if not line.over]
            if not running:
                break
            started = time.perf_counter()
            self._ask(running)
            answered = time.perf_counter()
            for game, lines in enumerate(games):
                wanted = self._beam(lines) if self.search.name == "beam" else self._sampled(lines, parting=step == 0)
                games[game] = self._grown(lines, wanted, self.spare[game])
            self.seconds.inference += answered - started
            self.seconds.environment += time.perf_counter() - answered
        chosen = []
        for game, lines in enumerate(games):
            best = max(lines, key=lambda line: line.gained if self.search.choose == "return" else line.likelihood)
            self.spare[game] += [line.env for line in lines if line is not best]
            chosen.append(best)
        return chosen

    def _ask(self, lines: Sequence[_Line]) -> None:
        """Let all teachers answer each line's observation."""
        observation = np.stack([line.observation for line in lines])
        first = np.array([line.first for line in lines])
        outputs = []
        for place, teacher in enumerate(self.teachers):
            remembered = [state for line in lines if (state := line.states[place]) is not None]
            with torch.inference_mode(), answering(teacher, self.precision):
                outputs.append(teacher(observation, torch.stack(remembered) if remembered else None, first))
        player, params = outputs[0], outputs[0].numpy()
        flat = torch.cat([output.flat.float().cpu() for output in outputs], dim=1)
        likelihood = np.zeros((len(lines), 0), np.float32)
        if self.teacher.spec.discrete:
            scores = discrete_logits(player.kind, player.params).float().cpu()
            likelihood = F.log_softmax(scores / TEMPERATURE[player.kind], dim=-1).numpy()
        for row, line in enumerate(lines):
            line.states = [None if output.state is None else output.state[row] for output in outputs]
            mine = {name: values[row : row + 1] for name, values in params.items()}
            line.answer = _Answer(flat[row], mine, likelihood[row])

    def _sampled(self, lines: Sequence[_Line], *, parting: bool) -> list[tuple[int, np.ndarray | None]]:
        """Parent and action of each continuation; no action where its game is over."""
        spec, found = self.teacher.spec, []
        for place, generator in enumerate(self.draws):
            parent = 0 if parting else place
            uniforms, answer = generator.random((1, max(2, 2 * spec.actions))), lines[parent].answer
            found.append((parent, None if answer is None else decide(spec.kind, answer.params, spec.rule, uniforms)[0]))
        return found

    def _beam(self, lines: Sequence[_Line]) -> list[tuple[int, np.ndarray | None]]:
        """Parent and action of the most likely continuations, the most likely first."""
        reached: list[tuple[float, int, np.ndarray | None]] = []
        for parent, line in enumerate(lines):
            if line.answer is None:
                reached.append((line.likelihood, parent, None))
            else:
                further = line.likelihood + line.answer.likelihood.astype(np.float64)
                reached += [(float(total), parent, np.array(action)) for action, total in enumerate(further)]
        reached.sort(key=lambda each: -each[0])
        return [(parent, action) for _, parent, action in reached[: self.search.width]]

    def _grown(
        self,
        lines: Sequence[_Line],
        wanted: Sequence[tuple[int, np.ndarray | None]],
        spare: list[gymnasium.Env[Any, Any]],
    ) -> list[_Line]:
        """The continuations of one game a step further.

        Args:
            lines: as they are.
            wanted: parent and action of each, without one where the parent's game is over.
            spare: environments that no line uses; copies are taken from there, those of dropped lines put there.
        """
        parents = [parent for parent, _ in wanted]
        spare += [line.env for parent, line in enumerate(lines) if parent not in parents]
        grown = []
        for place, (parent, action) in enumerate(wanted):
            line = lines[parent]
            # All copies are made before their original is stepped: its last continuation keeps it.
            env = forked(line.env, spare.pop()) if parent in parents[place + 1 :] else line.env
            grown.append(line if action is None else self._stepped(replace(line, env=env), action))
        return grown

    def _stepped(self, line: _Line, action: np.ndarray) -> _Line:
        assert line.answer is not None
        line.last = _Visit(line.last, line.observation, line.first, line.answer, action, line.earned)
        if self.teacher.spec.discrete:
            line.likelihood += float(line.answer.likelihood[action])
        observation, reward, terminated, truncated, _ = line.env.step(self.teacher.to_environment(action))
        line.observation, line.first = as_input(observation), False
        line.earned = float(reward)
        line.gained += line.earned
        line.over, line.answer = terminated or truncated, None
        self.steps += 1
        return line
