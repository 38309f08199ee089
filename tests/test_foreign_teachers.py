"""Tests of the shipped import recipes on the files they are for: each loads, and plays as others measured."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from rlkd.policy import Policy, load_policy
from rlkd.recipe import Import, Score, load, shipped
from rlkd.vector import as_recipe, make

pytestmark = pytest.mark.teachers


def recipes() -> dict[str, Import]:
    """The shipped import recipes by name."""
    found = {entry.name: load(entry.name, Import) for entry in shipped("agents") if entry.path.parent.name == "imports"}
    assert len(found) == 18
    return found


SCORES = [(name, score) for name, recipe in recipes().items() for score in recipe.scores]
"""Of each file that others measured, the recipe's name and the score."""


def file_of(score: Score) -> Path:
    return Path(os.environ["RLKD_TEACHERS"]) / score.file


def teacher(name: str, file: int = 0) -> Policy:
    return load_policy(file_of(load(name, Import).scores[file]), agent=name)


def test_every_file_that_others_measured_has_a_recipe() -> None:
    assert len(SCORES) == 19


@pytest.mark.parametrize(("name", "score"), SCORES, ids=lambda value: getattr(value, "file", value))
def test_the_file_is_the_one_that_was_measured_and_loads(name: str, score: Score) -> None:
    assert hashlib.sha256(file_of(score).read_bytes()).hexdigest() == score.sha256
    policy = load_policy(file_of(score), agent=name)
    assert score.sha256 in policy.spec.origin
    shape = policy.spec.observation_shape
    observation = np.zeros((2, *shape), policy.spec.observation_dtype)
    answer = policy.answer(observation, policy.start(2))
    assert all(np.isfinite(array).all() for array in answer.params.values())


def played(policy: Policy, *, episodes: int, steps: int = 100_000) -> float:
    """Mean score of episodes from seeds 0, 1, ..., each cut after so many steps."""
    assert policy.spec.environment is not None
    env, scores = make(policy.spec.environment), []
    for seed in range(episodes):
        policy.seed(seed)
        observation, _ = env.reset(seed=seed)
        state, score, over, step = None, 0.0, False, 0
        while not over and step < steps:
            action, state = policy.predict(observation, state)
            observation, reward, terminated, truncated, _ = env.step(action)
            score, over, step = score + float(reward), terminated or truncated, step + 1
        scores.append(score)
    env.close()
    return float(np.mean(scores))


@pytest.mark.parametrize(
    ("name", "episodes", "steps", "least"),
    [
        pytest.param("estool_biped", 3, 1600, 250, id="JSON: biped"),
        pytest.param("berkeley_halfcheetah", 1, 1000, 3700, id="numpy pickle: cheetah"),
        pytest.param("nikhilbarhate_cartpole", 3, 500, 490, id="torch: cart"),
        pytest.param("udacity_dqn_lunarlander", 5, 1000, 100, id="torch legacy: lander"),
        pytest.param("udacity_ddpg_pendulum", 5, 200, -400, id="torch legacy: pendulum"),
        pytest.param("ereilly_doorkey", 10, 250, 0.85, id="torch checkpoint: DoorKey"),
        # Whole games take minutes; cut short, these are out of reach with a wrong picture (MANIFEST.md).
        pytest.param("baby_a3c_breakout", 1, 700, 8, id="torch legacy: Breakout"),
        pytest.param("baby_a3c_pong", 1, 600, 0, id="torch legacy: Pong"),
        pytest.param("muupan_breakout", 1, 800, 15, id="Chainer HDF5: Breakout"),
        pytest.param("grzego_breakout", 1, 800, 10, id="Keras HDF5: Breakout"),
    ],
)
def test_a_teacher_plays_as_it_does_at_home(name: str, episodes: int, steps: int, least: float) -> None:
    assert played(teacher(name), episodes=episodes, steps=steps) > least


def test_a_wrong_picture_is_out_of_reach_of_those_scores() -> None:
    """The same Breakout with the usual picture in place of the author's, as in the test above."""
    from dataclasses import replace

    policy = teacher("muupan_breakout")
    usual = as_recipe("foreign/breakout_muupan")
    view = replace(usual.views["pixels"], resize="area")
    wrong = policy.under(replace(policy.spec, environment=replace(usual, views={"pixels": view})))
    assert played(wrong, episodes=1, steps=800) < 12
