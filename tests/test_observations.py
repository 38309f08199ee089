"""Tests of `rlkd.vector.observations`: symbols of MiniGrid, the time that is left."""

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3 import PPO

from rlkd.errors import MismatchError, RecipeError
from rlkd.evaluation import play
from rlkd.policy import load_policy
from rlkd.recipe import Environment, Protocol
from rlkd.vector import make, make_vec, spaces
from tests.handmade import environment


def timed(name: str, steps: int) -> Environment:
    protocol = Protocol(name="test", episodes=2)
    return Environment(source="gymnasium", id=name, frame_cap=steps, protocol=protocol, observation="time")


def test_the_time_left_is_what_the_zoos_wrapper_appends() -> None:
    ours = make(timed("Pendulum-v1", 200))
    theirs = TimeFeatureWrapper(gymnasium.make("Pendulum-v1"), max_steps=200)
    assert ours.observation_space == theirs.observation_space
    for seed in (0, 1):
        one, other = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
        for _ in range(205):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == np.float32
            action = np.array([0.5], np.float32)
            one, _, _, over, _ = ours.step(action)
            other, _, _, their_over, _ = theirs.step(action)
            assert over == their_over
            if over:
                break


def test_the_time_left_runs_anew_in_every_row_of_a_vector() -> None:
    env = make_vec(timed("CartPole-v1", 20), 3, seed=0)
    observation, _ = env.reset(seed=0)
    left = [observation[:, -1].tolist()]
    for step in range(60):
        observation, *_ = env.step(np.full(3, step % 2))
        left.append(observation[:, -1].tolist())
    env.close()
    for row in np.array(left).T:
        falls = np.diff(row)
        assert row[0] == 1
        assert set(np.round(row[1:][falls > 0], 6)) == {1.0}  # it only ever rises to a new game
        assert np.allclose(falls[falls < 0], -1 / 20)


def test_a_zip_that_learnt_with_the_time_left_is_given_it(tmp_path: Path) -> None:
    env = TimeFeatureWrapper(gymnasium.make("CartPole-v1"), max_steps=500)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, device="cpu", seed=0)
    path = tmp_path / "CartPole-v1.zip"
    model.save(path)
    assert load_policy(path).spec.environment is None  # five numbers do not fit CartPole's four
    with pytest.raises(MismatchError, match=r"reads observations of shape \[5\]"):
        load_policy(path, env="cartpole")
    (tmp_path / "CartPole-v1").mkdir()
    config = "- - - env_wrapper\n    - sb3_contrib.common.wrappers.TimeFeatureWrapper\n"
    (tmp_path / "CartPole-v1" / "config.yml").write_text(config)
    for policy in (load_policy(path), load_policy(path, env="cartpole")):
        assert policy.spec.environment is not None
        assert policy.spec.environment.observation == "time"
        played = play(policy, episodes=3, first_seed=5)
        scores = []
        for seed in (5, 6, 7):
            observation, _ = env.reset(seed=seed)
            score, over = 0.0, False
            while not over:
                action, _ = model.predict(observation, deterministic=True)
                observation, reward, terminated, truncated, _ = env.step(action)
                score, over = score + float(reward), terminated or truncated
            scores.append(score)
        assert list(played.evaluation.scores) == scores


def test_views_are_refused_where_they_make_no_sense() -> None:
    with pytest.raises(RecipeError, match="of MiniGrid's games"):
        make(
            Environment(
                source="gymnasium", id="CartPole-v1", frame_cap=9, protocol=Protocol(name="a"), observation="symbols"
            )
        )
    with pytest.raises(RecipeError, match="whose observations are vectors"):
        make(timed("CliffWalking-v1", 9))
    with pytest.raises(RecipeError, match="whose observations are vectors"):
        make(timed("ALE/Pong-v5", 9))
    with pytest.raises(RecipeError, match="observation = 'time' belongs to source = 'gymnasium'"):
        replace(environment("pong"), observation="time")


def test_a_timed_environment_has_one_number_more() -> None:
    assert spaces(timed("Pendulum-v1", 200)) == ((4,), False, 1)
