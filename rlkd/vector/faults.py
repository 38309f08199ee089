"""What led to an environment's fault: seed and actions of each row, kept to be replayed."""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlkd.recipe import Environment
from rlkd.recipe.read import to_table

IN_A_ROW = 3
"""Faults after which a run stops."""


class Histories:
    """Of each environment its last seed and all it was told since: a byte a step where actions are discrete.

    An environment that begins its next episode by itself goes on with its random stream, so that an episode is
    repeated only with all those before it since a seed.
    """

    def __init__(self, num_envs: int, space: gymnasium.spaces.Discrete[Any] | gymnasium.spaces.Box) -> None:
        """Nothing yet, of so many rows with actions out of `space`."""
        few = isinstance(space, gymnasium.spaces.Discrete) and space.start >= 0 and space.start + space.n <= 256
        self.shape = space.shape or ()
        self.dtype = np.dtype(np.uint8 if few else space.dtype)
        self.seeds: list[int | None] = [None] * num_envs
        self.actions = [bytearray() for _ in range(num_envs)]
        self.resets: list[list[int]] = [[] for _ in range(num_envs)]
        """Numbers of actions after which the row was reset by hand, without a seed."""
        self.steps = [0] * num_envs
        """Of the episode that is being played."""

    def reset(self, row: int, seed: int | None) -> None:
        """The row begins an episode by hand."""
        self.steps[row] = 0
        if seed is None:
            self.resets[row].append(len(self.actions[row]) // (self.dtype.itemsize * math.prod(self.shape)))
            return
        self.seeds[row] = seed
        self.actions[row].clear()
        self.resets[row].clear()

    def act(self, row: int, action: np.ndarray, *, over: bool) -> None:
        """The row is given an action; if its episode is over, it begins the next one instead of playing it."""
        self.actions[row] += np.asarray(action, self.dtype).tobytes()
        self.steps[row] = 0 if over else self.steps[row] + 1

    def write(self, row: int, recipe: Environment, reason: str) -> Path:
        """Put what led to a fault into a file among the temporary ones; `rlkd.vector.replay_fault` reads it.

        Raises:
            OSError: it cannot be written.
        """
        about = {
            "environment": to_table(recipe),
            "seed": self.seeds[row],
            "resets": self.resets[row],
            "fault": reason,
        }
        actions = np.frombuffer(self.actions[row], self.dtype).reshape(-1, *self.shape)
        with tempfile.NamedTemporaryFile(prefix="rlkd-fault-", suffix=".npz", delete=False) as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), actions=actions)
        return Path(file.name)


class Counter:
    """Faults in a row: of a worker that completed no step in between, or of an environment at one step of its episode.

    The second is what a fault that depends on seed and actions looks like when its episode is played again.
    """

    def __init__(self, num_envs: int, workers: int) -> None:
        self.of_worker = [0] * workers
        self.of_row = [(-1, 0)] * num_envs
        """Step of the episode at the last fault, and how often in a row."""

    def count(self, worker: int, row: int, step: int) -> bool:
        """Note a fault: whether it was one too many."""
        self.of_worker[worker] += 1
        before, times = self.of_row[row]
        self.of_row[row] = (step, times + 1 if step == before else 1)
        return max(self.of_worker[worker], self.of_row[row][1]) >= IN_A_ROW

    def completed(self, worker: int, ended: Sequence[int]) -> None:
        """A worker completed a step, in which episodes of some rows ended."""
        self.of_worker[worker] = 0
        for row in ended:
            self.of_row[row] = (-1, 0)
