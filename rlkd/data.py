"""The records that travel between rooms. Each field says its shape.

N environments, B batch, T agent steps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of N environments brought, under one convention whatever the source.

    A row is `valid` when its action was really played. Sources that reset in a step of their own (gymnasium's
    NEXT_STEP) have one step after each episode whose action is ignored: `valid` is False there, and the row must
    reach no loss, statistic or replay. Sources that reset within the last step (SAME_STEP) are always valid.
    """

    observation: np.ndarray
    """[N, ...]: what to act on next."""
    arrived: np.ndarray
    """[N, ...]: what the action led to. The same as `observation`, but for rows of a SAME_STEP source that have
    just ended: there `observation` is the next episode's first."""
    reward: np.ndarray
    """[N] float64, raw game score of this step; 0 where not valid."""
    terminated: np.ndarray
    """[N] bool: the episode ended in the game itself, nothing follows to bootstrap from."""
    truncated: np.ndarray
    """[N] bool: the episode was cut by a time limit; `arrived` may be bootstrapped from."""
    life_lost: np.ndarray
    """[N] bool: a life was lost and the game goes on; always False without an emulator."""
    valid: np.ndarray
    """[N] bool: the step was played."""
    first: np.ndarray
    """[N] bool: `observation` is the first one of an episode."""
    broken: np.ndarray
    """[N] bool: the environment died or froze in this step and was started again. The step is not valid, and the
    episode up to here is to be left out; `observation` is the first of another."""

    @property
    def ended(self) -> np.ndarray:
        """[N] bool: terminated or truncated."""
        ended: np.ndarray = self.terminated | self.truncated
        return ended


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished episode."""

    score: float
    """Sum of raw rewards over the whole episode."""
    steps: int
    """Agent steps; times frame skip gives emulator frames."""
    rooms: frozenset[int] = frozenset()
    """Rooms that were seen, by their numbers in the game; none where the environment has no rooms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of one policy under one protocol."""

    policy: str
    """Name or path of the policy; `random` for the uniformly random one."""
    environment: str
    """Environment recipe's id."""
    protocol: str
    """Name of the evaluation protocol."""
    rule: str
    """How actions were picked, for example "greedy" or "epsilon_greedy 0.05"."""
    scores: tuple[float, ...]
    """Raw score of each episode, in order of `seeds`."""
    steps: tuple[int, ...]
    """Agent steps of each episode."""
    seeds: tuple[int, ...]
    """Environment seed of each episode."""
    parameters: int = 0
    """Numbers on the path from observation to action."""
    weight_bytes: int = 0
    """Bytes of those numbers as they are stored."""
    hash: str = ""
    """Content hash of the policy."""

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(np.mean(self.scores))

    @property
    def std(self) -> float:
        """Standard deviation of the scores, over episodes."""
        return float(np.std(self.scores))


JsonDict = dict[str, Any]
"""A JSON object, as files and `--json` carry it."""
