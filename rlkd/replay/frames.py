"""Every frame once, as it came, with a teacher's whole answer beside it.

Pixels are kept as single uint8 frames, env-major, and read as stacks through an overlapping window: a quarter of the
memory of stored stacks at the same speed. Each environment fills its own row range in playing order. A full range
takes no more (distillation) or goes round as a ring, whose last frames are kept twice: also before its first ones, so
that the window reads stacks over the turn like any other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from torch import Tensor

from rlkd.recipe import View
from rlkd.replay.memory import CPU, check_memory


class Replay:
    """Observations that were acted on, and what the teacher said there."""

    def __init__(
        self,
        num_envs: int,
        states: int,
        observation_shape: Sequence[int],
        outputs: int,
        view: View | None,
        *,
        ring: bool = False,
        keeps_actions: bool = False,
        keeps_rewards: bool = False,
        recipe_key: str = "source.states",
        device: torch.device = CPU,
    ) -> None:
        """Reserve all memory at once.

        Args:
            num_envs: row ranges; each takes `ceil(states / num_envs)` states.
            states: how many to keep.
            observation_shape: [C, H, W] with a view, [D] without.
            outputs: numbers in one teacher answer, `Output.flat`.
            view: how frames are stacked; None for vector observations, which are kept as float32.
            ring: a full row range overwrites its oldest states; otherwise it takes no more.
            keeps_actions: whether the discrete action that was done is kept beside each state.
            keeps_rewards: whether the rewards that came before each state are kept; not in a ring.
            recipe_key: what sets `states`, for the message of a replay that is too large.
            device: where observations and answers are kept and read.

        Raises:
            MemoryBudgetError: it cannot fit, before anything was allocated.
            ValueError: a ring that is shorter than a stack.
        """
        needed = replay_bytes(num_envs, states, observation_shape, outputs, view)
        check_memory(needed, recipe_key=recipe_key, device=device)
        self.view, self.num_envs, self.ring, self.device = view, num_envs, ring, device
        self.capacity = -(-states // num_envs)
        self.stack = view.stack if view else 1
        if ring and self.capacity < self.stack:
            raise ValueError(f"a ring of {self.capacity} states cannot hold a stack of {self.stack}")
        # Rows before the first state of each environment are empty, or repeat the end of a ring.
        self.stride = self.capacity + self.stack - 1
        stride = self.stride
        self._first_rows = np.arange(num_envs) * stride
        frame = tuple(observation_shape[1:]) if view else tuple(observation_shape)
        dtype = torch.uint8 if view else torch.float32
        self._frames = torch.zeros((num_envs * stride, *frame), dtype=dtype, device=device)
        size = self._frames[0].numel()
        windows = num_envs * stride - (self.stack - 1)
        self._windows = self._frames.as_strided((windows, self.stack, *frame), (size, size, *self._frames.stride()[1:]))
        self._answers = torch.zeros((windows, outputs), device=device)
        self._actions = torch.zeros(windows, dtype=torch.uint8, device=device) if keeps_actions else None
        self._rewards = torch.zeros(windows) if keeps_rewards else None
        self._age = np.zeros(windows, np.uint8)
        self.written = np.zeros(num_envs, np.int64)
        """[N]: states ever kept of each environment; in a ring, some of them are gone."""

    @property
    def filled(self) -> np.ndarray:
        """[N] int64: states that are kept of each environment."""
        return np.minimum(self.written, self.capacity)

    def append(
        self,
        envs: np.ndarray,
        observation: np.ndarray | Tensor,
        first: np.ndarray,
        answers: Tensor,
        action: np.ndarray | None = None,
        reward: np.ndarray | None = None,
    ) -> None:
        """Keep one state of some environments; those whose range is full are passed over, unless it is a ring.

        Args:
            envs: [K] int, which environments.
            observation: [K, ...] as the environment gave it, or on the device; of a stack only the newest frame is
                kept.
            first: [K] bool, the state begins an episode.
            answers: [K, P], the teacher's flat outputs.
            action: [K] int, what was done there, where actions are kept.
            reward: [K] float, what came since the environment's state before, also where that ended an episode; where
                rewards are kept.
        """
        if not self.ring and (room := self.written[envs] < self.capacity).sum() < len(envs):
            envs, observation, first = envs[room], observation[room], first[room]
            answers = answers[torch.from_numpy(room)]
            action = None if action is None else action[room]
            reward = None if reward is None else reward[room]
        if self.view:
            observation = observation[:, -1 if self.view.stack_order == "oldest_first" else 0]
        newest = torch.as_tensor(observation, device=self.device)
        rows = self.address(envs, self.written[envs])
        index = rows + self.stack - 1
        self._frames[self._there(index)] = newest
        if self.ring and len(turning := np.flatnonzero(index - self.capacity >= self._first_rows[envs])):
            self._frames[self._there(index[turning] - self.capacity)] = newest[self._there(turning)]
        self._answers[self._there(rows)] = answers.to(self.device, torch.float32)
        if self._actions is not None and action is not None:
            self._actions[self._there(rows)] = torch.as_tensor(action, dtype=torch.uint8, device=self.device)
        if self._rewards is not None and reward is not None:
            self._rewards[torch.from_numpy(rows)] = torch.as_tensor(reward, dtype=torch.float32)
        before = self._age[self.address(envs, self.written[envs] - 1)].astype(np.int64) + 1
        self._age[rows] = np.where(first | (self.written[envs] == 0), 0, np.minimum(before, 255))
        self.written[envs] += 1

    def address(self, envs: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Rows of the states that were the `count`-th of their environments, from 0; int64, both broadcast."""
        rows: np.ndarray = self._first_rows[envs] + count % self.capacity
        return rows

    def after(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Rows of the states so many appended states later in the same environments; int64, both broadcast."""
        env, place = np.divmod(rows, self.stride)
        return self.address(env, place + steps)

    def __len__(self) -> int:
        """States kept."""
        return int(self.filled.sum())

    def rows(self, per_env: np.ndarray | None = None) -> np.ndarray:
        """Rows of all states, or of the first `per_env[i]` of each environment, int64; of a full ring, in no order."""
        counts = self.filled if per_env is None else per_env
        return self._between(np.zeros_like(counts), counts)

    def begins(self, rows: np.ndarray) -> np.ndarray:
        """Which of these states begin an episode, or all that is kept of an environment; bool, shaped as `rows`."""
        return np.asarray(self._age[rows] == 0)

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Observations [B, ...] exactly as they were acted on, and teacher answers [B, P] float32."""
        index = self._there(rows)
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

    def actions(self, rows: np.ndarray) -> Tensor | None:
        """[B] int64: what was done in these states; None where actions are not kept."""
        return None if self._actions is None else self._actions[self._there(rows)].long()

    def returns(self, per_env: np.ndarray, discount: float) -> tuple[np.ndarray, np.ndarray]:
        """Discounted rewards that followed on each state within its episode, as far as the first `per_env[i]` states of
        environment i tell.

        Returns:
            [rows] float32, by address, the sums; [rows] float32, by how much what has not been seen yet would count: 0
            where the episode's end was seen. Both 0 elsewhere.

        Raises:
            ValueError: rewards are not kept.
        """
        if self._rewards is None:
            raise ValueError("rewards are not kept")
        rewards, begins = self._rewards.numpy(), self._age == 0
        found, unseen = np.zeros(len(rewards), np.float32), np.zeros(len(rewards), np.float32)
        for first, count in zip(self._first_rows, per_env, strict=True):
            behind, ahead = 0.0, 1.0
            if count:
                unseen[first + count - 1] = 1.0
            for row in range(first + count - 2, first - 1, -1):
                behind = float(rewards[row + 1]) + (0.0 if begins[row + 1] else discount * behind)
                ahead = 0.0 if begins[row + 1] else discount * ahead
                found[row], unseen[row] = behind, ahead
        return found, unseen

    def since(self, per_env: np.ndarray) -> dict[str, Tensor]:
        """What `add` needs of the states behind the first `per_env[i]` of each environment; not of a ring.

        Returns:
            `counts`: [N], how many states of each environment; otherwise what `tensors` has by the same names, of these
            states alone, environment by environment; of frames the newest of each.
        """
        rows = torch.from_numpy(self._between(per_env, self.filled))
        found = {name: tensor[self._place(name, rows)].cpu() for name, tensor in self.tensors().items()}
        return found | {"counts": torch.from_numpy(self.filled - per_env)}

    def add(self, part: Mapping[str, Tensor]) -> None:
        """Keep what `since` took from a replay of the same shape, behind what is kept.

        Raises:
            ValueError: it does not fit.
        """
        self.check_names(part.keys() - {"counts"})
        counts = part["counts"].numpy()
        if counts.shape != (self.num_envs,) or ((after := self.written + counts) > self.capacity).any():
            raise ValueError("of a replay of another shape")
        rows = torch.from_numpy(self._between(self.written, after))
        mine = self.tensors()
        wanted = {name: ((len(rows), *own.shape[1:]), own.dtype) for name, own in mine.items()}
        if any((part[name].shape, part[name].dtype) != each for name, each in wanted.items()):
            raise ValueError("of a replay of another shape")
        for name, own in mine.items():
            own[self._place(name, rows)] = part[name].to(own.device)
        self.written[:] = after

    def _place(self, name: str, rows: Tensor) -> Tensor:
        """Where some rows are in one of `tensors`: the newest frame of a stack is its last."""
        return (rows + self.stack - 1 if name == "frames" else rows).to(self.tensors()[name].device)

    def _between(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Rows of the `start[i]`-th to the `end[i]`-th state of each environment."""
        ranges = zip(self._first_rows, start, end, strict=True)
        return np.concatenate([np.arange(first + one, first + other) for first, one, other in ranges])

    def digest(self) -> str:
        """SHA-256 over frames, beginnings and rewards of all states; answers and actions do not enter."""
        found = hashlib.sha256()
        for first, count in zip(self._first_rows, self.filled, strict=True):
            rows, newest = slice(first, first + count), first + self.stack - 1
            found.update(self._frames[newest : newest + count].cpu().numpy().data)
            found.update((self._age[rows] == 0).data)
            if self._rewards is not None:
                found.update(self._rewards[rows].numpy().data)
        return found.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """All that `fill` needs, by name; not copied."""
        found = {"frames": self._frames, "answers": self._answers, "age": torch.from_numpy(self._age)}
        found |= {} if self._actions is None else {"actions": self._actions}
        return found if self._rewards is None else found | {"rewards": self._rewards}

    def check_names(self, names: AbstractSet[str]) -> None:
        """ValueError unless these are the names of `tensors`."""
        if names != set(self.tensors()):
            raise ValueError("of another kind of replay")

    def fill(self, name: str, tensor: Tensor) -> None:
        """Take over one of the tensors of a replay of the same shape; ValueError where it does not fit."""
        mine = self.tensors()[name]
        if (mine.shape, mine.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError("of a replay of another shape")
        mine.copy_(tensor)

    def fill_counts(self, written: np.ndarray) -> None:
        """Take over how many states of each environment there are, [N]; ValueError where they do not fit."""
        if written.shape != (self.num_envs,) or (written > self.capacity).any():
            raise ValueError("of a replay of another shape")
        self.written[:] = written

    def _there(self, index: np.ndarray) -> Tensor:
        """An index as a tensor, where the frames are."""
        return torch.from_numpy(index).to(self.device)


def replay_bytes(num_envs: int, states: int, observation_shape: Sequence[int], outputs: int, view: View | None) -> int:
    """Bytes that `Replay` will reserve for the same arguments."""
    frame = int(np.prod(observation_shape[1:])) if view else 4 * int(np.prod(observation_shape))
    padding = view.stack - 1 if view else 0
    rows = num_envs * (-(-states // num_envs) + padding)
    return rows * frame + (rows - padding) * (4 * outputs + 1)
