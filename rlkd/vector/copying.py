"""Copies of a game's state, luck included, so that several ways to go on from it can be tried."""

import copy
from typing import Any

import gymnasium
import numpy as np

from rlkd.errors import MismatchError
from rlkd.recipe import Environment
from rlkd.vector.atari import AtariGame
from rlkd.vector.making import make, spaces


def check_copies(environment: Environment) -> None:
    """Raise MismatchError unless a copy of the environment's state plays on as the environment does."""
    spaces(environment)  # refuses what no policy reads
    env, spare = make(environment), make(environment)
    try:
        env.action_space.seed(0)
        env.reset(seed=0)
        spare.reset(seed=1)
        spare = forked(env, spare)
        same = True
        for _ in range(4):
            action = env.action_space.sample()
            same &= np.array_equal(env.step(action)[0], spare.step(action)[0])
    except (TypeError, AssertionError, AttributeError):  # its state is outside of Python, and the copy has none
        same = False
    finally:
        env.close()
        spare.close()
    if not same:
        raise MismatchError(
            f"a search needs copies of a game's state, and copies of {environment.id} do not play as it does"
        )


def forked(env: gymnasium.Env[Any, Any], spare: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """An environment in the state of another one, luck included: `spare` where it can become that, else a copy."""
    if isinstance(env, AtariGame) and isinstance(spare, AtariGame):
        spare.follow(env)
        return spare
    spare.close()
    return copy.deepcopy(env)
