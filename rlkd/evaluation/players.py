"""Who plays in an evaluation, and where: players, seats with their own random streams, tables of environments."""

from collections.abc import Iterator

import gymnasium
import numpy as np

from rlkd.policy import Acting, Answer, Rule, decide
from rlkd.recipe import Environment
from rlkd.vector import Stepper, make

FIXED_BATCH = 8  # rows of every forward pass, padded if need be
BLOCK = 512  # steps for which an episode's uniforms are drawn at once


class PolicyPlayer:
    """Actions of a policy, always computed on batches of one fixed size."""

    def __init__(self, policy: Acting, rule: Rule) -> None:
        self.policy, self.rule = policy, rule
        self.draws = max(2, 2 * policy.spec.actions)
        """Uniforms that each decision takes."""

    def start(self, rows: int) -> np.ndarray | None:
        """[rows, W]: the recurrent state before the first decision; None for feed-forward policies."""
        return self.policy.start(rows)

    def act(
        self, observation: np.ndarray, state: np.ndarray | None, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Actions as the environment takes them, and the next state, from [N, ...], [N, W] and [N, draws]."""
        actions, states = [], []
        for k in range(0, len(observation), FIXED_BATCH):
            part = slice(k, k + FIXED_BATCH)
            answer = padded_answer(self.policy, observation[part], None if state is None else state[part])
            actions.append(decide(self.policy.spec.kind, answer.params, self.rule, uniforms[part]))
            states.append(answer.state)
        following = None if state is None else np.concatenate([s for s in states if s is not None])
        return self.policy.to_environment(np.concatenate(actions)), following


class RandomPlayer:
    """Uniformly random actions."""

    def __init__(self, environment: Environment) -> None:
        env = make(environment)
        self.space = env.action_space
        env.close()
        self.draws = 1 if isinstance(self.space, gymnasium.spaces.Discrete) else int(np.prod(self.space.shape or (1,)))
        """Uniforms that each decision takes."""

    def start(self, rows: int) -> np.ndarray | None:
        """None: chance has no memory."""
        return None

    def act(
        self, observation: np.ndarray, state: np.ndarray | None, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Actions from [N, draws] uniforms; the observations are not looked at."""
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return (uniforms[:, 0] * int(self.space.n)).astype(np.int64), None
        assert isinstance(self.space, gymnasium.spaces.Box)
        low, high = self.space.low, self.space.high
        return (low + uniforms * (high - low)).astype(np.float32), None


class Seat:
    """One environment's current episode: its random streams and its sample of visited states."""

    def __init__(self, episode: int, seed: int, draws: int, keep: int, stretch: int = 1) -> None:
        """Sit down for an episode; `keep` stretches of so many consecutive states will be kept of it."""
        self.episode, self.seed, self.width, self.keep, self.stretch = episode, seed, draws, keep, stretch
        self.actions = np.random.default_rng([seed, 1])
        self.picks = np.random.default_rng([seed, 2])
        self.block = np.empty((0, draws))
        self.step, self.score = 0, 0.0
        self.stretches: list[list[np.ndarray]] = []
        self.current: list[np.ndarray] = []

    def anew(self) -> "Seat":
        """The same episode before its first step."""
        return Seat(self.episode, self.seed, self.width, self.keep, self.stretch)

    def uniforms(self) -> np.ndarray:
        """[U]: this step's uniforms of this episode."""
        at = self.step % BLOCK
        if at == 0:
            self.block = self.actions.random((BLOCK, self.width))
        return np.asarray(self.block[at])

    def visit(self, observation: np.ndarray) -> None:
        """Reservoir sampling: after the episode, each of its stretches was kept with the same chance."""
        if not self.keep:
            return
        self.current.append(observation.copy())
        if len(self.current) < self.stretch:
            return
        if len(self.stretches) < self.keep:
            self.stretches.append(self.current)
        elif (place := int(self.picks.integers((self.step + 1) // self.stretch))) < self.keep:
            self.stretches[place] = self.current
        self.current = []

    def kept(self) -> list[list[np.ndarray]]:
        """The stretches; of a game shorter than one, all of it, filled up with its last state."""
        if self.stretches or not self.current:
            return self.stretches
        return [self.current + [self.current[-1]] * (self.stretch - len(self.current))]


class Table:
    """One half of the environments and the episodes on its seats."""

    def __init__(self, stepper: Stepper, player: PolicyPlayer | RandomPlayer) -> None:
        self.stepper, self.player = stepper, player
        self.seats: list[Seat | None] = [None] * stepper.num_envs
        self.observation = np.empty(0)
        self.state = player.start(stepper.num_envs)
        self.broken = np.zeros(stepper.num_envs, bool)
        """Seats whose environment broke: their episodes are played again from their seeds."""

    def fill(self, queue: Iterator[Seat]) -> None:
        """Start waiting episodes on empty seats, and broken ones again on theirs."""
        fresh = np.zeros(len(self.seats), bool)
        seeds = []
        for row, seat in enumerate(self.seats):
            if seat is None:
                new = next(queue, None)
            else:
                new = seat.anew() if self.broken[row] else None
            if new is not None:
                self.seats[row], fresh[row] = new, True
                seeds.append(new.seed)
        self.broken[:] = False
        if fresh.any():
            self.observation = self._reset(fresh, np.array(seeds, np.int64))
            if self.state is not None:
                self.state = self.state * ~fresh[:, None]

    def _reset(self, fresh: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        if self.observation.size == 0 and not fresh.all():
            # A first reset must be of all rows; seats without an episode idle from here on.
            padded = np.zeros(len(fresh), np.int64)
            padded[fresh] = seeds
            return self.stepper.reset(padded)
        return self.stepper.reset_rows(fresh, seeds)

    def send(self) -> None:
        """Decide for every row and start the step."""
        idle = np.zeros(self.player.draws)
        uniforms = np.stack([idle if seat is None else seat.uniforms() for seat in self.seats])
        for seat, observation in zip(self.seats, self.observation, strict=True):
            if seat is not None:
                seat.visit(np.asarray(observation))
        action, self.state = self.player.act(self.observation, self.state, uniforms)
        self.stepper.send(action)

    def receive(self) -> list[Seat]:
        """Wait for the step; returns the episodes that ended."""
        step = self.stepper.receive()
        self.observation, self.broken = step.observation, step.broken.copy()
        done = []
        for row, seat in enumerate(self.seats):
            if seat is not None:
                seat.score += float(step.reward[row])
                seat.step += 1
                if step.ended[row]:
                    done.append(seat)
                    self.seats[row] = None
        self.stepper.finished.clear()
        return done


def padded_answer(policy: Acting, observation: np.ndarray, state: np.ndarray | None) -> Answer:
    """The answer to at most FIXED_BATCH rows, computed on exactly FIXED_BATCH rows."""
    rows = len(observation)
    missing = FIXED_BATCH - rows
    if missing:
        observation = np.concatenate([observation, np.zeros((missing, *observation.shape[1:]), observation.dtype)])
        if state is not None:
            state = np.concatenate([state, np.zeros((missing, state.shape[1]), state.dtype)])
    answer = policy.answer(observation, state)
    params = {name: values[:rows] for name, values in answer.params.items()}
    return Answer(params, None if answer.state is None else answer.state[:rows])
