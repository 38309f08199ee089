"""Small worlds in which the best return and what has to be found for it are known by hand: Deep Sea, NChain, Noisy TV.

Registered with gymnasium under `rlkd/` when `rlkd.vector` is imported.
"""

from typing import Any

import gymnasium
import numpy as np

from rlkd.errors import RecipeError

Reset = tuple[np.ndarray, dict[str, Any]]
Stepped = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class _World(gymnasium.Env[np.ndarray, np.int64]):
    """Observations are float32 vectors; `render` gives a picture of the cells, dark but for where the player stands."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  # gymnasium declares it so
    shape: tuple[int, int]
    place: tuple[int, int]

    def __init__(self, numbers: int, actions: int, render_mode: str | None) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 1, (numbers,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(actions)
        self.render_mode = render_mode

    def render(self) -> Any:
        """[H, W, 3] uint8, sixteen pixels a cell."""
        cells = np.full((*self.shape, 3), 40, np.uint8)
        if all(0 <= at < size for at, size in zip(self.place, self.shape, strict=True)):
            cells[self.place] = (240, 200, 60)
        return cells.repeat(16, axis=0).repeat(16, axis=1)


class DeepSea(_World):
    """N x N cells from the top left corner; each step goes one row down, and left or right. Over after N steps.

    Which of the two actions means right differs from cell to cell, drawn once from `mapping_seed`. Each step right
    costs 0.01 / N, and one to the right in the right-most column brings 1: only who goes right N times gets there, and
    a uniformly random player does so once in 2^N episodes. Best return 0.99; always left: 0.

    Observation: N * N numbers, 1 where the player stands; all 0 behind the last row.

    Source:
        Osband et al. 2019, arXiv:1908.03568 (bsuite), its deterministic `deep_sea`.
    """

    def __init__(self, size: int = 10, mapping_seed: int = 42, render_mode: str | None = None) -> None:
        if size < 1:
            raise RecipeError(f"size of Deep Sea must be at least 1, got {size}")
        super().__init__(size * size, 2, render_mode)
        self.size, self.shape, self.place = size, (size, size), (0, 0)
        self.right = np.random.RandomState(mapping_seed).binomial(1, 0.5, (size, size))  # bsuite's

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """To the top left."""
        super().reset(seed=seed)
        self.place = (0, 0)
        return self._seen(), {}

    def step(self, action: np.int64) -> Stepped:
        """One row down."""
        row, column = self.place
        goes_right = int(action) == self.right[row, column]
        reward = (float(column == self.size - 1) - 0.01 / self.size) if goes_right else 0.0
        self.place = row + 1, int(np.clip(column + (1 if goes_right else -1), 0, self.size - 1))
        return self._seen(), reward, row + 1 == self.size, False, {}

    def _seen(self) -> np.ndarray:
        seen = np.zeros(self.shape, np.float32)
        if self.place[0] < self.size:
            seen[self.place] = 1
        return seen.reshape(-1)


class NChain(_World):
    """N states in a row. Action 0 goes forward, and brings 10 in the last state, which it stays in; action 1 goes back
    to the first state and brings 2. With probability `slip` the other action is taken. No end but a limit of steps.

    With 5 states and slip 0.2, always forward earns 0.2 * 2 + 0.8^5 * 10 = 3.677 points a step in the long run, which
    is the most, and 3,665.8 in 1,000 steps from the first state; always back earns 0.8 * 2 + 0.2^5 * 10 = 1.603.

    Observation: N numbers, 1 for the state.

    Source:
        Strens 2000, "A Bayesian framework for reinforcement learning", figure 1; gym's NChain-v0, which has gone.
    """

    def __init__(
        self, n: int = 5, slip: float = 0.2, small: float = 2.0, large: float = 10.0, render_mode: str | None = None
    ) -> None:
        if n < 1 or not 0 <= slip <= 1:
            raise RecipeError(f"NChain needs at least one state and a slip in [0, 1], got {n} and {slip}")
        super().__init__(n, 2, render_mode)
        self.n, self.slip, self.small, self.large = n, slip, small, large
        self.shape, self.place = (1, n), (0, 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """To the first state."""
        super().reset(seed=seed)
        self.place = (0, 0)
        return self._seen(), {}

    def step(self, action: np.int64) -> Stepped:
        """Forward or back, unless it slips."""
        back = bool(action) != (self.np_random.random() < self.slip)
        state = self.place[1]
        reward = self.small if back else (self.large if state == self.n - 1 else 0.0)
        self.place = 0, 0 if back else min(state + 1, self.n - 1)
        return self._seen(), reward, False, False, {}

    def _seen(self) -> np.ndarray:
        seen: np.ndarray = np.eye(self.n, dtype=np.float32)[self.place[1]]
        return seen


class NoisyTv(_World):
    """A room of `size` x `size` cells with a television in the top right corner and a goal in the bottom left one; the
    player begins in the top left. Actions: up, down, left, right, press.

    Pressed on the television's cell, it shows a new picture: `pixels` numbers, each 0 or 1, drawn uniformly. Pressed
    elsewhere, nothing happens. The picture is seen from everywhere. The goal brings 1 and ends the episode; best return
    1, after size - 1 steps down; a limit of steps is the recipe's.

    Observation: size * size numbers, 1 where the player stands, then the picture. There are size^2 * 2^pixels states,
    of which all but size^2 are only noise: 49 * 65,536 by default. `info["at_television"]` says whether the player
    stands in front of it.

    Source:
        The noisy-TV problem of Burda et al. 2018, arXiv:1808.04355, section 5, in its smallest form.
    """

    MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))

    def __init__(self, size: int = 7, pixels: int = 16, render_mode: str | None = None) -> None:
        if size < 2 or pixels < 1:
            raise RecipeError(f"a noisy-TV room needs at least 2 x 2 cells and a pixel, got {size} and {pixels}")
        super().__init__(size * size + pixels, len(self.MOVES), render_mode)
        self.size, self.shape, self.place = size, (size, size), (0, 0)
        self.picture = np.zeros(pixels, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """To the top left, the picture dark."""
        super().reset(seed=seed)
        self.place = (0, 0)
        self.picture = np.zeros_like(self.picture)
        return self._seen(), self._info()

    def step(self, action: np.int64) -> Stepped:
        """A move, or a press."""
        moved = np.add(self.place, self.MOVES[int(action)]).clip(0, self.size - 1)
        self.place = int(moved[0]), int(moved[1])
        if int(action) == len(self.MOVES) - 1 and self._info()["at_television"]:
            self.picture = self.np_random.integers(2, size=len(self.picture)).astype(np.float32)
        there = self.place == (self.size - 1, 0)
        return self._seen(), float(there), there, False, self._info()

    def _seen(self) -> np.ndarray:
        cells = np.zeros(self.shape, np.float32)
        cells[self.place] = 1
        return np.concatenate([cells.reshape(-1), self.picture])

    def _info(self) -> dict[str, Any]:
        return {"at_television": self.place == (0, self.size - 1)}


WORLDS: dict[str, Any] = {"rlkd/DeepSea-v0": DeepSea, "rlkd/NChain-v0": NChain, "rlkd/NoisyTv-v0": NoisyTv}


def register_worlds() -> None:
    """Let gymnasium know them; once is enough."""
    for name, world in WORLDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, world)
