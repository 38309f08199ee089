"""A first look at an environment by random play, so that whitening has a scale before anything is rewarded."""

from collections.abc import Iterator, Sequence

import gymnasium
import numpy as np
import torch

from rlkd.errors import RecipeError
from rlkd.explore.novelty import Novelty
from rlkd.vector import Stepper

CHUNK = 128  # agent steps of each environment between two updates of the whitening


def warm_up(bonus: Novelty, steppers: Sequence[Stepper], generator: np.random.Generator) -> Iterator[int]:
    """Step all environments at random, and let the whitening see what the steps led to.

    Final observations of episodes are left out where they are not rewarded. The environments are left where they are:
    whoever plays next resets them.

    Args:
        bonus: its recipe says how many steps; its `seen` changes.
        steppers: of all environments.
        generator: of the actions.

    Yields:
        Steps of each environment so far.
    """
    for stepper in steppers:
        stepper.reset()
    for begun in range(0, bonus.warm_up_steps, CHUNK):
        length = min(CHUNK, bonus.warm_up_steps - begun)
        for stepper in steppers:
            found = []
            for _ in range(length):
                step = stepper.step(_random_actions(stepper, generator))
                looked_at = bonus.look(torch.from_numpy(step.observation))
                found.append(looked_at[torch.from_numpy(~step.ended | (bonus.recipe.terminal == "final"))])
            bonus.seen.update(torch.cat(found).to(bonus.seen.mean.device))
        yield begun + length
    for stepper in steppers:
        stepper.finished.clear()  # scores of random play are not the policy's


def _random_actions(stepper: Stepper, generator: np.random.Generator) -> np.ndarray:
    space = stepper.env.single_action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return generator.integers(int(space.n), size=stepper.num_envs)
    assert isinstance(space, gymnasium.spaces.Box)
    if not space.is_bounded():
        raise RecipeError("a first look at random takes actions within bounds; set bonus.warm_up_steps=0")
    return generator.uniform(space.low, space.high, (stepper.num_envs, *space.shape)).astype(np.float32)
