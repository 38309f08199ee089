"""Teacher and student on the same episode: who prefers which action on whose game, step by step, with pictures.

Each plays by its own rule from the same seed, with the random stream that its evaluation drew from, so that the game
shown is the episode that was scored. On every observation of both games both are asked for their preferred action: the
most likely or highest valued one, or the mean of a continuous policy.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import gymnasium
import numpy as np

from rlkd.evaluation.players import Seat, padded_answer
from rlkd.policy import Answer, Policy, decide
from rlkd.recipe import Environment
from rlkd.vector import make

CLOSE = 0.1  # continuous actions count as the same when no dimension differs by more than this share of its range
WIDEST = 300  # pixels of a stored picture's width


@dataclass(frozen=True, slots=True)
class Moment:
    """One agent step of one game."""

    picture: bytes
    """PNG of what the player saw before it acted; empty where the environment gives no pictures."""
    played: str
    """Action that was played."""
    teacher: str
    """Action that the teacher prefers here."""
    student: str
    """Action that the student prefers here."""
    differ: bool
    """Whether they prefer different ones."""
    score: float
    """Raw score so far."""


@dataclass(slots=True)
class Game:
    """One player's game. Grows while it is played."""

    moments: list[Moment] = field(default_factory=list)
    """In order."""
    score: float = 0.0
    """Raw score so far."""
    over: bool = False
    """Whether the episode ended."""

    @property
    def differing(self) -> int:
        """Moments in which the preferred actions differ."""
        return sum(moment.differ for moment in self.moments)


@dataclass(frozen=True, slots=True)
class Duel:
    """Both games."""

    seed: int
    """Environment seed of both."""
    teacher: Game
    """The teacher's game."""
    student: Game
    """The student's game."""

    @property
    def length(self) -> int:
        """Agent steps of the longer game."""
        return max(len(self.teacher.moments), len(self.student.moments))

    @property
    def pictures(self) -> bool:
        """Whether the environment gave pictures."""
        return bool(self.teacher.moments and self.teacher.moments[0].picture)

    def differ(self, step: int) -> bool:
        """Whether the preferred actions differ in either game; a game that is over has nothing to differ about."""
        return any(step < len(game.moments) and game.moments[step].differ for game in (self.teacher, self.student))


def play(
    teacher: Policy,
    student: Policy,
    environments: tuple[Environment, Environment],
    *,
    seed: int,
    steps: int,
    seconds: float,
) -> Duel:
    """Play both games until both are over, or for so many steps, or until the time is up, whichever comes first.

    Args:
        teacher: any policy.
        student: one with the teacher's actions.
        environments: where, as the teacher sees it and as the student does.
        seed: environment seed of the episode.
        steps: most agent steps of each game.
        seconds: wall time after which no further step begins; one is always played.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on stdout, which belongs to --json
    players = (teacher, student)
    games, seats = [Game(), Game()], [_seat(policy, seed) for policy in players]
    views = environments[:1] if environments[0] == environments[1] else environments
    envs = [[make(view, render_mode="rgb_array") for view in views] for _ in players]
    try:
        end = time.monotonic() + seconds
        states = [policy.start(len(players)) for policy in players]
        seen = [[np.asarray(env.reset(seed=seed)[0]) for env in of_one] for of_one in envs]
        for step in range(steps):
            if (step and time.monotonic() > end) or all(game.over for game in games):
                break
            batches = [
                np.stack([shown[place % len(views)] for shown in seen]).astype(policy.spec.observation_dtype)
                for place, policy in enumerate(players)
            ]
            answers = [padded_answer(*each) for each in zip(players, batches, states, strict=True)]
            states = [answer.state for answer in answers]
            for side, game in enumerate(games):
                if not game.over:
                    both = [_row(answer, side) for answer in answers]
                    seen[side] = _step(game, envs[side], both, players, side, seats[side])
    finally:
        for env in (env for of_one in envs for env in of_one):
            env.close()
    return Duel(seed, *games)


def busiest(duel: Duel, length: int) -> int:
    """First step of the stretch of `length` steps with the most disagreements; the earliest of equals."""
    marks = [float(duel.differ(step)) for step in range(duel.length)]
    totals = np.convolve(marks, np.ones(min(length, len(marks))), mode="valid")
    return int(np.argmax(totals))


def _seat(policy: Policy, seed: int) -> Seat:
    return Seat(0, seed, max(2, 2 * policy.spec.actions), 0)


def _row(answer: Answer, row: int) -> Answer:
    return Answer({name: values[row : row + 1] for name, values in answer.params.items()}, None)


def _step(
    game: Game,
    envs: Sequence[gymnasium.Env[Any, Any]],
    answers: Sequence[Answer],
    players: Sequence[Policy],
    side: int,
    seat: Seat,
) -> list[np.ndarray]:
    """Play one step of one game, in all of its views, note it, and return what each of them shows then."""
    own = players[side]
    picture = _picture(envs[0])
    action = own.to_environment(decide(own.spec.kind, answers[side].params, own.spec.rule, seat.uniforms()[None]))[0]
    seat.step += 1
    wants = [policy.preferred(answer.params)[0] for answer, policy in zip(answers, players, strict=True)]
    names = [
        _words(want, _chances(answer, policy), own)
        for want, answer, policy in zip(wants, answers, players, strict=True)
    ]
    differ = _differ(wants[0], wants[1], own)
    game.moments.append(Moment(picture, _words(action, None, own), names[0], names[1], differ, game.score))
    steps = [env.step(action) for env in envs]
    _, reward, terminated, truncated, _ = steps[0]
    game.score += float(reward)
    game.over = bool(terminated or truncated)
    return [np.asarray(step[0]) for step in steps]


def _chances(answer: Answer, policy: Policy) -> np.ndarray | None:
    """[A]: probabilities of the actions, where the answer is one of probabilities."""
    if policy.spec.kind != "categorical":
        return None
    logits = answer.params["logits"][0].astype(np.float64)
    odds = np.exp(logits - logits.max())
    return np.asarray(odds / odds.sum())


def _differ(one: np.ndarray, other: np.ndarray, policy: Policy) -> bool:
    if policy.spec.discrete:
        return bool(one != other)
    span = np.array(policy.spec.action_high) - np.array(policy.spec.action_low)
    return bool((np.abs(one - other) > CLOSE * span).any())


def _words(action: np.ndarray, chances: np.ndarray | None, policy: Policy) -> str:
    """An action's name, with its probability where there is one."""
    if not policy.spec.discrete:
        return " ".join(f"{value:+.2f}" for value in np.atleast_1d(action))
    index, meanings = int(action), policy.spec.action_meanings
    name = meanings[index] if index < len(meanings) else f"action {index}"
    return name if chances is None else f"{name} {100 * chances[index]:.0f} %"


def _picture(env: gymnasium.Env[Any, Any]) -> bytes:
    """The screen as PNG, at most WIDEST pixels wide; empty where gymnasium lacks a package to draw it."""
    try:
        screen = env.render()
    except gymnasium.error.DependencyNotInstalled:
        return b""
    if not isinstance(screen, np.ndarray) or screen.ndim != 3:
        return b""
    wide = screen.shape[1]
    if wide > WIDEST:
        high = round(screen.shape[0] * WIDEST / wide)
        screen = cv2.resize(screen, (WIDEST, high), interpolation=cv2.INTER_AREA)
    written, content = cv2.imencode(".png", cv2.cvtColor(screen, cv2.COLOR_RGB2BGR))
    if not written:
        raise RuntimeError("OpenCV cannot write PNG")
    return content.tobytes()
