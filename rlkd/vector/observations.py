"""What policies see of gymnasium's environments, where it is not the observation as it comes."""

from typing import Any

import gymnasium
import numpy as np

from rlkd.errors import RecipeError


class Symbols(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """A MiniGrid game seen as its symbols alone: float32 [3, rows, columns], neither direction nor mission."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.observation_space
        picture = space.spaces.get("image") if isinstance(space, gymnasium.spaces.Dict) else None
        if not isinstance(picture, gymnasium.spaces.Box) or len(picture.shape) != 3:
            raise RecipeError("observation = 'symbols' is of MiniGrid's games, whose observations hold an 'image'")
        rows, columns, channels = picture.shape
        self.observation_space = gymnasium.spaces.Box(0, 255, (channels, rows, columns), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """The picture of a MiniGrid observation, channels first."""
        return np.moveaxis(np.asarray(observation["image"], np.float32), -1, 0)


class OneLayout(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A game whose episodes all begin from one seed, whatever seed they are given."""

    def __init__(self, env: gymnasium.Env[Any, Any], layout_seed: int) -> None:
        super().__init__(env)
        self.layout_seed = layout_seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The same beginning; `seed` is left out."""
        return self.env.reset(seed=self.layout_seed, options=options)


class Entries(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """A vector of which only some numbers are seen."""

    def __init__(self, env: gymnasium.Env[Any, Any], entries: tuple[int, ...]) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise RecipeError("entries are of environments whose observations are vectors")
        if not all(0 <= place < space.shape[0] for place in entries):
            raise RecipeError(f"entries must be in 0..{space.shape[0] - 1}, got {list(entries)}")
        self.entries = list(entries)
        low, high = space.low[self.entries], space.high[self.entries]
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=low.dtype.type)

    def observation(self, observation: Any) -> np.ndarray:
        """The numbers that are seen."""
        return np.asarray(observation)[self.entries]


class TimeLeft(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """A vector with the share of the game that is left behind it, from 1 at the start to 0 at the time limit.

    Source: time-awareness, Pardo et al. 2018, arXiv:1712.00378; the RL Zoo's TimeFeatureWrapper.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], limit: int) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise RecipeError("observation = 'time' is of environments whose observations are vectors")
        self.limit, self.steps = limit, 0
        low, high = (np.append(bound, end).astype(space.dtype) for bound, end in ((space.low, 0), (space.high, 1)))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=low.dtype.type)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Any]:
        """First observation, with all of the time left."""
        self.steps = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """One step, which takes its time."""
        self.steps += 1
        return super().step(action)

    def observation(self, observation: Any) -> np.ndarray:
        """The vector with the time left behind it."""
        return np.append(observation, 1 - self.steps / self.limit).astype(self.observation_space.dtype)
