"""The replay memory: every frame once, as it came, with the teacher's whole answer beside it.

Pixels are kept as single uint8 frames, env-major, and read as stacks through an overlapping window: a quarter of the
memory of stored stacks at the same speed. Each environment fills its own row range in playing order.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlkd.errors import MemoryBudgetError
from rlkd.recipe import View

BUDGET_SHARE = 0.8  # of the memory that is free now; the rest is for networks, emulators and minibatches


class Replay:
    """Observations that were acted on, and what the teacher said there."""

    def __init__(
        self, num_envs: int, states: int, observation_shape: Sequence[int], outputs: int, view: View | None
    ) -> None:
        """Reserve all memory at once.

        Args:
            num_envs: row ranges; each takes `ceil(states / num_envs)` states.
            states: how many to keep.
            observation_shape: [C, H, W] with a view, [D] without.
            outputs: numbers in one teacher answer, `Output.flat`.
            view: how frames are stacked; None for vector observations, which are kept as float32.

        Raises:
            MemoryBudgetError: it cannot fit, before anything was allocated.
        """
        check_memory(replay_bytes(num_envs, states, observation_shape, outputs, view))
        self.view, self.num_envs = view, num_envs
        self.capacity = -(-states // num_envs)
        self.stack = view.stack if view else 1
        stride = self.capacity + self.stack - 1  # rows before the first state of each environment stay empty
        self._first_rows = np.arange(num_envs) * stride
        frame = tuple(observation_shape[1:]) if view else tuple(observation_shape)
        dtype = torch.uint8 if view else torch.float32
        self._frames = torch.zeros((num_envs * stride, *frame), dtype=dtype)
        size = self._frames[0].numel()
        windows = num_envs * stride - (self.stack - 1)
        self._windows = self._frames.as_strided((windows, self.stack, *frame), (size, size, *self._frames.stride()[1:]))
        self._answers = torch.zeros((windows, outputs))
        self._age = np.zeros(windows, np.uint8)
        self.filled = np.zeros(num_envs, np.int64)
        """[N]: states kept of each environment."""

    def append(self, envs: np.ndarray, observation: np.ndarray, first: np.ndarray, answers: Tensor) -> None:
        """Keep one state of some environments; those whose range is full are passed over.

        Args:
            envs: [K] int, which environments.
            observation: [K, ...] as the environment gave it; of a stack only the newest frame is kept.
            first: [K] bool, the state begins an episode.
            answers: [K, P], the teacher's flat outputs.
        """
        room = self.filled[envs] < self.capacity
        envs, observation, first, answers = (
            envs[room],
            observation[room],
            first[room],
            answers[torch.from_numpy(room)],
        )
        if self.view:
            observation = observation[:, -1 if self.view.stack_order == "oldest_first" else 0]
        rows = self._first_rows[envs] + self.filled[envs]
        index = torch.from_numpy(rows)
        self._frames[index + self.stack - 1] = torch.from_numpy(observation)
        self._answers[index] = answers.float()
        before = self._age[np.maximum(rows - 1, 0)].astype(np.int64) + 1
        self._age[rows] = np.where(first | (self.filled[envs] == 0), 0, np.minimum(before, 255))
        self.filled[envs] += 1

    def __len__(self) -> int:
        """States kept."""
        return int(self.filled.sum())

    def rows(self, per_env: np.ndarray | None = None) -> np.ndarray:
        """Addresses of all states, or of the first `per_env[i]` of each environment, int64."""
        counts = self.filled if per_env is None else per_env
        return np.concatenate([first + np.arange(n) for first, n in zip(self._first_rows, counts, strict=True)])

    def begins(self, rows: np.ndarray) -> np.ndarray:
        """Which of these states begin an episode, or all that is kept of an environment; bool, shaped as `rows`."""
        return np.asarray(self._age[rows] == 0)

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Observations [B, ...] exactly as they were acted on, and teacher answers [B, P] float32."""
        index = torch.from_numpy(rows)
        observation = self._windows.index_select(0, index)
        answers = self._answers.index_select(0, index)
        if self.view is None:
            return observation[:, 0], answers
        age = self._age[rows]
        for place in np.flatnonzero(age < self.stack - 1):
            missing = self.stack - 1 - int(age[place])
            padding = observation[place, missing] if self.view.stack_padding == "repeat" else 0
            observation[place, :missing] = padding
        if self.view.stack_order == "newest_first":
            observation = observation.flip(1)
        return observation, answers


def replay_bytes(num_envs: int, states: int, observation_shape: Sequence[int], outputs: int, view: View | None) -> int:
    """Bytes that `Replay` will reserve for the same arguments."""
    frame = int(np.prod(observation_shape[1:])) if view else 4 * int(np.prod(observation_shape))
    padding = view.stack - 1 if view else 0
    rows = num_envs * (-(-states // num_envs) + padding)
    return rows * frame + (rows - padding) * (4 * outputs + 1)


def check_memory(needed: int) -> None:
    """Raise MemoryBudgetError where `needed` bytes do not fit into the memory that is free now."""
    available = available_memory()
    if available is not None and needed > BUDGET_SHARE * available:
        raise MemoryBudgetError(
            f"the replay needs {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free and {BUDGET_SHARE:.0%} of that "
            "may be taken; lower source.states"
        )


def available_memory() -> int | None:
    """Bytes free for this process, also under a container's limit; None where the system does not say."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        if limit != "max":
            pairs = (line.split() for line in (group / "memory.stat").read_text().splitlines())
            cached = sum(int(value) for name, value in pairs if name in ("active_file", "inactive_file"))
            found.append(int(limit) - int(used) + cached)  # the page cache gives way
    except (OSError, ValueError):
        pass  # no control group of version 2: the machine's own figure stands
    return min(found) if found else None
