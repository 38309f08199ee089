"""Tests of `rlkd.vector.worlds`: returns known by hand, and what makes each world hard."""

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rlkd
from rlkd import recipe as recipes
from rlkd.errors import RecipeError
from rlkd.recipe import Environment
from rlkd.vector import Stepper, make_vec


def played(env: gymnasium.Env[Any, Any], actions: Any, *, seed: int = 0) -> tuple[float, int]:
    """Return and length of an episode."""
    env.reset(seed=seed)
    total = 0.0
    for count, action in enumerate(actions, 1):
        _, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        if terminated or truncated:
            return total, count
    raise AssertionError("the episode did not end")


def test_in_a_deep_sea_one_way_of_all_brings_the_best_return() -> None:
    env = rlkd.make(Environment(
        source="gymnasium", id="rlkd/DeepSea-v0", frame_cap=6, options={"size": 6},
        protocol=recipes.load("deep_sea_10", Environment).protocol,
    ))  # fmt: skip
    returns = [played(env, way)[0] for way in itertools.product((0, 1), repeat=6)]
    assert max(returns) == pytest.approx(0.99)
    assert sum(value > 0 for value in returns) == 1
    assert sorted(returns)[-2] == pytest.approx(0.0)  # always left
    assert min(returns) == pytest.approx(-0.01 * 5 / 6)  # right but for one step


def test_the_deep_sea_is_drawn_and_left_as_bsuites_is() -> None:
    env: Any = rlkd.make("deep_sea_10").unwrapped
    want = np.random.RandomState(42).binomial(1, 0.5, [10, 10])
    assert (env.right == want).all()
    observation, _ = env.reset()
    assert observation.reshape(10, 10)[0, 0] == observation.sum() == 1
    for row in range(9):
        observation, *_ = env.step(env.right[row, row])
        assert observation.reshape(10, 10)[row + 1, row + 1] == observation.sum() == 1
    observation, reward, terminated, truncated, _ = env.step(env.right[9, 9])
    assert not observation.any()
    assert reward == pytest.approx(1 - 0.001)
    assert (terminated, truncated) == (True, False)


@pytest.mark.parametrize("size", [10, 20, 30, 40, 50])
def test_every_shipped_sea_can_be_solved(size: int) -> None:
    env = rlkd.make(f"deep_sea_{size}")
    right = env.get_wrapper_attr("right")
    total, length = played(env, [right[k, k] for k in range(size)])
    assert (round(total, 9), length) == (0.99, size)


def chain_rate(action: int) -> float:
    """Points a step of one action for ever, by the chain's stationary distribution in exact arithmetic."""
    ahead = 0.8 if action == 0 else 0.2
    move = np.zeros((5, 5))
    for state in range(5):
        move[state, min(state + 1, 4)] += ahead
        move[state, 0] += 1 - ahead
    shares = np.linalg.matrix_power(move, 200)[0]
    return float(2 * (1 - ahead) + 10 * ahead * shares[4])


@pytest.mark.parametrize(("action", "rate"), [(0, 3.6768), (1, 1.6032)])
def test_a_chain_pays_what_its_stationary_distribution_says(action: int, rate: float) -> None:
    assert chain_rate(action) == pytest.approx(rate, abs=1e-4)
    env = rlkd.make("nchain")
    found = [played(env, itertools.repeat(action), seed=seed) for seed in range(20)]
    assert {length for _, length in found} == {1000}
    mean = np.mean([total for total, _ in found]) / 1000
    assert mean == pytest.approx(rate, abs=4 * np.std([total for total, _ in found]) / 1000 / np.sqrt(20) + 0.01)


def test_the_television_alone_is_random_and_only_when_pressed() -> None:
    env = rlkd.make("noisy_tv")
    up, down, left, right, press = range(5)
    _, info = env.reset(seed=0)
    assert not info["at_television"]
    for action in (press, up, left, right, down, up):
        seen, *_, info = env.step(action)
        assert not seen[49:].any()
    for _ in range(6):
        seen, *_, info = env.step(right)
    assert info["at_television"]
    pictures = []
    for _ in range(20):
        seen, reward, *_ = env.step(press)
        assert reward == 0
        pictures.append(tuple(seen[49:]))
    assert len(set(pictures)) == 20
    assert 0.3 < np.mean(pictures) < 0.7
    away, *_ = env.step(left)
    assert tuple(away[49:]) == pictures[-1]
    assert played(env, itertools.repeat(down)) == (1.0, 6)


@pytest.mark.parametrize("name", ["deep_sea_20", "nchain", "noisy_tv"])
def test_worlds_are_stepped_and_drawn_as_any_environment(name: str) -> None:
    stepper = Stepper(make_vec(name, 3, 0))
    assert stepper.reset().shape[0] == 3
    assert stepper.step(np.zeros(3, np.int64)).valid.all()
    stepper.close()
    env = rlkd.make(name)
    check_env(env.unwrapped, skip_render_check=True)
    drawn: Any = gymnasium.make(env.spec.id if env.spec else "", render_mode="rgb_array")
    drawn.reset(seed=0)
    picture = drawn.render()
    assert picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 2


@pytest.mark.parametrize(
    ("name", "options"),
    [("rlkd/DeepSea-v0", {"size": 0}), ("rlkd/NChain-v0", {"slip": 1.5}), ("rlkd/NoisyTv-v0", {"pixels": 0})],
)
def test_worlds_that_cannot_be_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        gymnasium.make(name, **options)


def test_a_fixed_layout_is_the_same_in_every_episode_and_a_free_one_is_not() -> None:
    pictures = {}
    for name in ("multiroom_n4_s5", "multiroom_n4_s5_fixed"):
        env = rlkd.make(name)
        pictures[name] = {env.reset(seed=seed)[0].tobytes() for seed in (*range(6), None)}
    assert len(pictures["multiroom_n4_s5_fixed"]) == 1
    assert len(pictures["multiroom_n4_s5"]) > 1


@pytest.mark.parametrize("name", ["montezuma", "gravitar", "pitfall", "private_eye", "solaris", "venture"])
def test_hard_games_are_played_by_the_protocol_of_random_network_distillation(name: str) -> None:
    recipe = recipes.load(name, Environment)
    emulator, view = recipe.emulator, recipe.views["pixels"]
    assert emulator is not None
    assert (emulator.sticky_probability, emulator.noop_max, emulator.fire_on_reset) == (0.25, 0, False)
    assert (emulator.lives, recipe.frame_cap, recipe.at_frame_cap) == ("game", 18_000, "terminates")
    assert (view.stack, view.stack_padding) == (4, "zeros")
    stepper = Stepper(make_vec(recipe, 2, 0))
    first = stepper.reset()
    assert not first[:, :3].any()
    assert (first[0] == first[1]).all()  # nothing is drawn at the start
    assert stepper.step(np.zeros(2, np.int64)).valid.all()
    stepper.close()
