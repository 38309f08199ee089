"""What a value learner learns from: a ring of states, and beside each what was done there and what it brought.

Sources reset in a step of their own, so the row behind an episode's last one holds its final observation: not valid
itself, it is what a truncated episode bootstraps from. Returns over n steps are added up when a row is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rlkd.errors import RecipeError
from rlkd.losses import n_step_return
from rlkd.recipe import View
from rlkd.replay.frames import Replay, replay_bytes
from rlkd.replay.memory import CPU, check_memory
from rlkd.replay.priorities import Priorities

ROW_BYTES = 4 + 4 + 1 + 1 + 1 + 4  # action, reward, terminated, valid, demonstrated, bonus
TREE_BYTES = 2 * 2 * 8  # of a sum tree, whose leaves are a power of two


@dataclass(frozen=True, slots=True)
class Batch:
    """Transitions over up to n steps, to be learnt from."""

    observation: Tensor
    """[B, ...] uint8 or float32."""
    action: Tensor
    """[B] int64."""
    reward: Tensor
    """[B] float32: discounted sum over the steps."""
    following: Tensor
    """[B, ...]: the observation behind the last of the steps, to bootstrap from."""
    discount: Tensor
    """[B] float32: of `following`; 0 where the episode terminated within the steps."""
    probability: Tensor
    """[B] float32: with which each was drawn."""
    rows: np.ndarray
    """[B] int64: where they stand in the memory."""
    answers: Tensor | None = None
    """[B, P] float32: what a teacher said there; None where no answers are kept."""
    demonstrated: Tensor | None = None
    """[B] float32: 1 where a teacher acted, 0 elsewhere; None where no answers are kept."""


class Transitions:
    """A bounded memory of play. Written between two rounds of learning, never while it is read."""

    def __init__(
        self,
        num_envs: int,
        states: int,
        observation_shape: Sequence[int],
        view: View | None,
        *,
        n_step: int,
        discount: float,
        alpha: float | None,
        device: torch.device = CPU,
        outputs: int = 0,
    ) -> None:
        """Reserve all memory at once.

        Args:
            num_envs: each takes `ceil(states / num_envs)` states; then its oldest ones are overwritten.
            states: how many to keep.
            observation_shape: [C, H, W] with a view, [...] without.
            view: how frames are stacked; None for float32 observations.
            n_step: rewards in a return.
            discount: per step, in [0, 1].
            alpha: power of the priorities; None draws all alike.
            device: where observations are kept, and drawn transitions are.
            outputs: numbers in a teacher's answer that is kept beside each state.

        Raises:
            MemoryBudgetError: it cannot fit, before anything was allocated.
            RecipeError: no transition would ever be whole.
        """
        stack, capacity = view.stack if view else 1, -(-states // num_envs)
        if capacity < stack + n_step:
            raise RecipeError(
                f"states = {states} leaves each of {num_envs} environments {capacity}, but a stack of {stack} and "
                f"{n_step} steps need {stack + n_step}; raise states or lower num_envs"
            )
        rows = num_envs * (capacity + stack - 1)
        beside = rows * (ROW_BYTES + (0 if alpha is None else TREE_BYTES))
        needed = replay_bytes(num_envs, states, observation_shape, outputs, view) + beside
        check_memory(needed, recipe_key="states", device=device)
        self.n_step, self.discount = n_step, discount
        self.states = Replay(
            num_envs, states, observation_shape, outputs, view, ring=True, recipe_key="states", device=device
        )
        self._action, self._reward = np.zeros(rows, np.int32), np.zeros(rows, np.float32)
        self._terminated, self._valid = np.zeros(rows, bool), np.zeros(rows, bool)
        self._demonstrated = np.zeros(rows, bool)
        self.bonus = np.zeros(rows, np.float32)
        """Of each row's step when it was visited, not scaled; beside the rewards, never in them."""
        self.priorities = None if alpha is None else Priorities(rows, alpha=alpha)

    def __len__(self) -> int:
        """States kept."""
        return len(self.states)

    def append(
        self,
        envs: np.ndarray,
        observation: np.ndarray | Tensor,
        first: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        valid: np.ndarray,
        *,
        answers: Tensor | None = None,
        demonstrated: bool = False,
    ) -> None:
        """Keep one step of some environments, also one that only reset.

        Args:
            envs: [K] int, which environments.
            observation: [K, ...] that was acted on, on any device.
            first: [K] bool, it begins an episode.
            action: [K] int.
            reward: [K], to be learnt from.
            terminated: [K] bool, nothing is to be bootstrapped from behind this step.
            valid: [K] bool, the action was really played.
            answers: [K, P] of a teacher, where they are kept.
            demonstrated: whether a teacher acted.
        """
        count = self.states.written[envs]
        self.states.append(envs, observation, first, torch.empty(len(envs), 0) if answers is None else answers)
        rows = self.states.address(envs, count)
        self._action[rows], self._reward[rows] = action, reward
        self._terminated[rows], self._valid[rows] = terminated, valid
        self._demonstrated[rows] = demonstrated
        if self.priorities is not None:
            low, high = self._drawable(envs)
            gone, new = low - 1, high - 1
            leaving = self.states.address(envs, gone)[gone >= 0]
            entering = self.states.address(envs, new)[new >= low]
            self.priorities.replace(leaving, entering[self._valid[entering]])

    def drawable(self) -> np.ndarray:
        """Rows that can be drawn now, int64: valid, with n steps behind them and a whole stack before them."""
        envs = np.arange(self.states.num_envs)
        ranges = zip(envs[:, None], *self._drawable(envs), strict=True)
        rows = np.concatenate([self.states.address(env, np.arange(low, high)) for env, low, high in ranges])
        drawable: np.ndarray = rows[self._valid[rows]]
        return drawable

    def draw(self, batch: int, generator: np.random.Generator) -> Batch:
        """B transitions, all alike or by their priorities; some may come twice.

        Raises:
            ValueError: none is there yet.
        """
        if self.priorities is None:
            rows, probability = self._uniform(batch, generator)
        else:
            rows, probability = self.priorities.draw(batch, generator)
        return self.read(rows, probability)

    def read(self, rows: np.ndarray, probability: np.ndarray) -> Batch:
        """The transitions that begin at rows [B], drawn with a probability [B]."""
        steps = self.steps_from(rows)
        reward, length, discount = self.returns(steps, torch.from_numpy(self._reward[steps[:, :-1]]))
        last = steps[np.arange(len(rows)), length.numpy()]
        both, answers = self.states.read(np.concatenate([rows, last]))
        action = torch.from_numpy(self._action[rows].astype(np.int64))
        chance = torch.from_numpy(probability.astype(np.float32))
        action, reward, discount, chance = (each.to(both.device) for each in (action, reward, discount, chance))
        batch = Batch(both[: len(rows)], action, reward, both[len(rows) :], discount, chance, rows)
        if not answers.shape[1]:
            return batch
        shown = torch.from_numpy(self._demonstrated[rows].astype(np.float32)).to(both.device)
        return replace(batch, answers=answers[: len(rows)], demonstrated=shown)

    def steps_from(self, rows: np.ndarray) -> np.ndarray:
        """[B, n + 1] int64: rows of the n steps that begin at rows [B], and of the state behind them."""
        return self.states.after(rows[:, None], np.arange(self.n_step + 1))

    def returns(self, steps: np.ndarray, reward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`n_step_return` of rewards [B, n] for `steps_from` rows [B, n + 1], on the device of the rewards."""
        over, goes_on = torch.from_numpy(self._terminated[steps[:, :-1]]), torch.from_numpy(self._valid[steps[:, 1:]])
        return n_step_return(reward, over.to(reward.device), goes_on.to(reward.device), discount=self.discount)

    def arrivals(self, count: int) -> np.ndarray:
        """[T, N] int64: rows of the steps whose outcome came with the last `count` appends of every environment.

        Fewer than `count` where the memory is young, or so small that some have been overwritten.
        """
        envs = np.arange(self.states.num_envs)
        low, _ = self._drawable(envs)
        end = self.states.written - 1
        assert (end == end[0]).all(), "all environments step together"
        return self.states.address(envs[None], np.arange(max(low[0], end[0] - count), end[0])[:, None])

    def observation(self, rows: np.ndarray) -> Tensor:
        """What stands at rows [B]: [B, ...]."""
        return self.states.read(rows)[0]

    def moves(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """What was done at rows, and whether it was played: int64 and bool, shaped as they are, on the device."""
        action, valid = torch.from_numpy(self._action[rows].astype(np.int64)), torch.from_numpy(self._valid[rows])
        return action.to(self.states.device), valid.to(self.states.device)

    def update(self, rows: np.ndarray, errors: Tensor) -> None:
        """Note how wrong the learner was at rows [B]: errors [B], at least 0. Waits for a device only if they count."""
        if self.priorities is not None:
            self.priorities.update(rows, errors.cpu().numpy())

    def _drawable(self, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 of the states of each environment, counted from its first ever, that can be drawn.

        The oldest ones are left out: of their stacks, frames have been overwritten; or will be, one append later.
        """
        written, memory = self.states.written[envs], self.states
        low = np.maximum(0, written - memory.capacity + memory.stack - 1)
        return low, np.maximum(low, written - self.n_step)

    def _uniform(self, batch: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        low, high = self._drawable(np.arange(self.states.num_envs))
        ends = np.cumsum(high - low)
        if not ends[-1]:
            raise ValueError("no transition is whole yet")
        found = np.empty(0, np.int64)
        while len(found) < batch:
            place = generator.integers(ends[-1], size=batch - len(found))
            env = np.searchsorted(ends, place, side="right")
            rows = self.states.address(env, high[env] - ends[env] + place)
            found = np.concatenate([found, rows[self._valid[rows]]])
        return found, np.full(batch, 1 / ends[-1])
