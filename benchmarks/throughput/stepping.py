"""Steps of Breakout with random actions: 4 frames each, 84 x 84 grey by area, stacks of 4, no sticky actions.

`emulator` is the limit: one core, `act` four times, nothing is looked at. `ale_py` is ale-py's C++ environment alone,
one batch sent and received. `gymnasium` is its own AtariPreprocessing and FrameStackObservation in a SyncVectorEnv,
which takes less CPU a step than its AsyncVectorEnv and moves no pictures between processes. `sb3` is `make_atari_env`
with VecFrameStack on a DummyVecEnv, its default, without its clipped rewards and lives. None of them learns.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from benchmarks.common import Record
from benchmarks.throughput.measure import in_turn
from rlkd.recipe import Environment
from rlkd.vector import as_recipe

STEPS, DRAWN = 32, 1024  # DRAWN actions for each environment, again and again


def run(variant: str, seed: int, seconds: float) -> dict[str, dict[str, Record]]:
    """Agent steps of one variant, or of several that take turns; the cell is the number of environments."""
    works = {name: _steps(name, seed) for name in variant.split(" + ")}
    samples = in_turn(list(works.values()), seconds)
    return {name: {name.partition("/")[2] or "1": sample.record()} for name, sample in zip(works, samples, strict=True)}


def _steps(variant: str, seed: int) -> Callable[[], int]:
    if variant == "emulator":
        return _emulator(seed)
    name, _, count = variant.partition("/")
    num_envs = int(count)
    make = {"ale_py": _ale_py, "rlkd": _rlkd, "gymnasium": _gymnasium, "sb3": _sb3}[name]
    step = make(num_envs, seed)
    actions = cycle(np.random.default_rng(seed).integers(4, size=(DRAWN, num_envs)))

    def work() -> int:
        for each in islice(actions, STEPS):
            step(each)
        return STEPS * num_envs

    return work


def plain_breakout(*, lives: bool = False) -> Environment:
    """Breakout as everybody's wrappers play it: no sticky actions; a lost life ends an episode where asked for."""
    recipe = as_recipe("breakout")
    assert recipe.emulator is not None
    emulator = replace(recipe.emulator, sticky_probability=0.0, lives="life" if lives else "game")
    return replace(recipe, emulator=emulator)


def _emulator(seed: int) -> Callable[[], int]:
    import ale_py

    from rlkd.vector.atari import rom_path

    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", seed)
    ale.loadROM(rom_path("breakout"))
    minimal = ale.getMinimalActionSet()
    actions = cycle([minimal[each] for each in np.random.default_rng(seed).integers(4, size=DRAWN)])

    def work() -> int:
        for action in islice(actions, STEPS):
            for _ in range(4):
                ale.act(action)
            if ale.game_over():
                ale.reset_game()
        return STEPS

    return work


def _ale_py(num_envs: int, seed: int) -> Callable[[np.ndarray], Any]:
    from ale_py.vector_env import AtariVectorEnv

    env = AtariVectorEnv(
        "breakout",
        num_envs,
        num_threads=min(num_envs, os.cpu_count() or 1),
        repeat_action_probability=0.0,
        reward_clipping=False,
    )
    env.reset(seed=seed)

    def step(actions: np.ndarray) -> Any:
        env.send(actions)
        return env.recv()

    return step


def _rlkd(num_envs: int, seed: int) -> Callable[[np.ndarray], Any]:
    from rlkd.vector import Stepper, make_vec

    stepper = Stepper(make_vec(plain_breakout(), num_envs, seed))
    stepper.reset()

    def step(actions: np.ndarray) -> Any:
        stepper.send(actions)
        return stepper.receive()

    return step


def _gymnasium(num_envs: int, seed: int) -> Callable[[np.ndarray], Any]:
    import ale_py
    import gymnasium
    from gymnasium.vector import SyncVectorEnv
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    gymnasium.register_envs(ale_py)

    def make() -> gymnasium.Env[Any, Any]:
        env = gymnasium.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0)
        return FrameStackObservation(AtariPreprocessing(env), 4)

    env = SyncVectorEnv([make] * num_envs)
    env.reset(seed=seed)
    return env.step


def _sb3(num_envs: int, seed: int) -> Callable[[np.ndarray], Any]:
    env = sb3_breakout(num_envs, seed, terminal_on_life_loss=False, clip_reward=False)
    env.reset()
    return env.step  # type: ignore[no-any-return]


def sb3_breakout(num_envs: int, seed: int, **wrapper: bool) -> Any:
    """Stable-Baselines3's own stack of wrappers on DummyVecEnv, frames stacked."""
    import ale_py
    import gymnasium
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    return VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", num_envs, seed, wrapper_kwargs=wrapper), 4)
