"""Tests of `rlkd.vector.making`: recipes and ids to environments, and what is said when there is none."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rlkd import recipe as recipes
from rlkd.errors import RecipeError
from rlkd.recipe import Environment
from rlkd.vector import (
    Backend,
    Stepper,
    action_bounds,
    action_meanings,
    as_recipe,
    environment_named_in,
    make,
    make_vec,
    spaces,
)

ATARI: tuple[Backend, ...] = ("ale", "ale_same_step", "sync", "workers")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LunarLander-v2", "LunarLander-v3"),
        ("ppo-LunarLanderContinuous-v2-seed3", "LunarLanderContinuous-v3"),
        ("HalfCheetah-v3", "HalfCheetah-v4"),
        ("Hopper-v5", "Hopper-v5"),
        ("Pendulum-v1", "Pendulum-v1"),
        ("Pendulum-v7", None),
        ("NoSuchGame-v1", None),
        ("pong", None),
    ],
)
def test_an_id_in_a_name_is_found_and_moves_on_to_what_gymnasium_can_make(text: str, found: str | None) -> None:
    recipe = environment_named_in(text)
    assert (None if recipe is None else recipe.id) == found


def test_a_shipped_recipe_is_preferred_for_its_id() -> None:
    assert environment_named_in("LunarLander-v2") == as_recipe("lunarlander")


def test_each_environment_declares_its_own_autoreset_mode() -> None:
    """The C++ environment writes into gymnasium's class attribute: the second must not change the first."""
    modes = {"ale": AutoresetMode.NEXT_STEP, "ale_same_step": AutoresetMode.SAME_STEP}
    modes |= dict.fromkeys(("sync", "workers"), AutoresetMode.NEXT_STEP)
    envs = {backend: make_vec("pong", 1, seed=0, backend=backend) for backend in ATARI}
    assert {backend: env.metadata["autoreset_mode"] for backend, env in envs.items()} == modes
    for env in envs.values():
        env.close()


ENVIRONMENTS = [entry.name for entry in recipes.shipped("envs")]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_shipped_environment_takes_two_steps(name: str) -> None:
    recipe = recipes.load(name, Environment)
    shape, discrete, actions = spaces(recipe)
    single = make(name)
    observation, _ = single.reset(seed=0)
    stepper = Stepper(make_vec(name, 2, seed=0))
    batch = stepper.reset(np.array([0, 0]))
    assert observation.shape == shape == batch.shape[1:]
    assert np.array_equal(batch[0], batch[1])
    meanings, (low, high) = action_meanings(recipe), action_bounds(recipe)
    assert len(meanings) in ((actions,) if discrete else (0,))
    assert len(low) == len(high) == (0 if discrete else actions)
    for _ in range(2):
        action = single.action_space.sample()
        observation, reward, *_ = single.step(action)
        step = stepper.step(np.stack([action, action]))
        assert step.observation.dtype == (np.uint8 if recipe.views else np.float32)
        assert np.array_equal(step.observation[1], observation.astype(step.observation.dtype))
        assert step.reward[1] == pytest.approx(reward)
    single.close()
    stepper.close()


def test_an_environment_is_found_by_name_by_path_and_by_gymnasiums_id(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(recipes.dump(dataclasses.replace(as_recipe("acrobot"), frame_cap=7)))
    for env, steps in (("acrobot", 500), ("classic/acrobot", 500), (str(path), 7), ("Acrobot-v1", 500)):
        assert (as_recipe(env).id, as_recipe(env).frame_cap) == ("Acrobot-v1", steps)
        assert make(env).observation_space.shape == (6,)
        vector = make_vec(env, 2, seed=0)
        assert vector.num_envs == 2
        vector.close()
    assert make("CartPole-v1").observation_space.shape == (4,)
    pong = as_recipe("pong")
    assert as_recipe(pong) is pong


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("pnog", "did you mean 'pong'.*nor is 'pnog' a registered gymnasium id"),
        ("CartPole-v77", "nor is 'CartPole-v77' a registered gymnasium id"),
        ("nowhere/mine.toml", "nowhere/mine.toml"),
    ],
)
def test_an_unknown_environment_is_named(env: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_vec(env, 1, seed=0)


def test_a_game_without_a_rom_and_an_option_that_nobody_takes_are_named() -> None:
    with pytest.raises(RecipeError, match="ale-py has no game 'pongo'"):
        make_vec(dataclasses.replace(as_recipe("pong"), id="pongo"), 1, seed=0)
    with pytest.raises(RecipeError, match="gymnasium cannot make 'CartPole-v1'.*wheels"):
        make_vec(dataclasses.replace(as_recipe("cartpole"), options={"wheels": 4}), 1, seed=0)
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        make_vec("pong", 0, seed=0)
