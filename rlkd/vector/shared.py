"""What passes between a vector environment and its workers: a task at the start, then numbers in shared memory.

The memory has no name in the file system, so that nothing is left behind, however its processes end.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlkd.recipe import Environment

STAY, STEP, RESET = 0, 1, 2
"""What a worker does with a row: nothing, one step with its action, a new episode."""
UNSEEDED = -1
"""In place of a seed: go on with the environment's own random stream."""
NO_ROOM = -1
"""In place of a room: the environment has none."""
NOWHERE = -1
"""In place of a row: the worker is between two steps."""
ALIGNMENT = 64
"""Bytes; arrays of different workers' rows share no cache line's first bytes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of all arrays of a `Block`."""

    num_envs: int
    """Environments, over all workers."""
    workers: int
    """Processes."""
    observation: tuple[int, ...]
    """Shape of one observation."""
    observation_dtype: str
    """Its NumPy dtype."""
    action: tuple[int, ...]
    """Shape of one action; () where they are discrete."""
    action_dtype: str
    """Its NumPy dtype."""

    @property
    def size(self) -> int:
        """Bytes of the whole block."""
        *_, (_, _, _, end) = self.places()
        return end

    def places(self) -> Iterator[tuple[tuple[int, ...], str, int, int]]:
        """Shape, dtype, first byte and end of each array, in the order in which `Block` takes them."""
        N = self.num_envs
        start = 0
        for shape, dtype in (
            ((N, *self.observation), self.observation_dtype),
            ((N, *self.action), self.action_dtype),
            ((N,), "float64"),
            ((N,), "bool"),
            ((N,), "bool"),
            ((N,), "int64"),
            ((N,), "int64"),
            ((N,), "int8"),
            ((N,), "int64"),
            ((self.workers,), "int64"),
        ):
            end = start + int(np.prod(shape)) * np.dtype(dtype).itemsize
            yield shape, dtype, start, end
            start = -(-end // ALIGNMENT) * ALIGNMENT


class Block:
    """The arrays themselves. N environments, W workers; each worker touches only its own rows."""

    def __init__(self, layout: Layout, memory: int) -> None:
        """Map the arrays.

        Args:
            layout: the same on both sides.
            memory: file descriptor of at least `layout.size` bytes.
        """
        mapped = mmap.mmap(memory, layout.size)
        arrays = (
            np.frombuffer(mapped, dtype, int(np.prod(shape)), start).reshape(shape)
            for shape, dtype, start, _ in layout.places()
        )
        self.observation = next(arrays)
        """[N, ...]: the newest."""
        self.action = next(arrays)
        """[N] or [N, D]: what to do in a STEP."""
        self.reward = next(arrays)
        """[N] float64."""
        self.terminated = next(arrays)
        """[N] bool."""
        self.truncated = next(arrays)
        """[N] bool."""
        self.lives = next(arrays)
        """[N] int64, 0 where the environment does not say."""
        self.room = next(arrays)
        """[N] int64, NO_ROOM where the environment does not say."""
        self.todo = next(arrays)
        """[N] int8: STAY, STEP or RESET."""
        self.seed = next(arrays)
        """[N] int64: of a RESET, or UNSEEDED."""
        self.at = next(arrays)
        """[W] int64: the row that each worker is busy with, or NOWHERE."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told first."""

    recipe: Environment
    """The environment to make, once for each row."""
    index: int
    """Which worker this is."""
    rows: tuple[int, ...]
    """Its environments among all."""
    layout: Layout
    """Of the shared memory."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker's last words."""

    text: str
    """The exception in one line, with the place that raised it."""
    recipe: bool = False
    """It is a RecipeError: no environment could be made."""
