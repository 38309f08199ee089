"""Tests of `rlkd.policy.numpy_pickle`: the numbers of a `VecNormalize` file, and nothing run on the way to them."""

import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlkd.errors import PolicyFileError, UnsafeFileError
from rlkd.policy import load_policy
from rlkd.policy.numpy_pickle import read_vecnormalize


def statistics(env: str, **arguments: Any) -> VecNormalize:
    """Statistics of a few random steps."""
    vector = VecNormalize(DummyVecEnv([lambda: gymnasium.make(env)]), **arguments)
    vector.action_space.seed(0)
    vector.reset()
    for _ in range(20):
        vector.step(np.array([vector.action_space.sample()]))
    return vector


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_statistics_are_those_of_vecnormalize(env: str, protocol: int, tmp_path: Path) -> None:
    theirs, path = statistics(env, clip_obs=3.5, epsilon=1e-5), tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps(theirs, protocol))
    ours = read_vecnormalize(path)
    assert ours is not None
    assert (ours.limit, ours.epsilon) == (3.5, 1e-5)
    moments: Any = theirs.obs_rms
    assert ours.mean == tuple(moments.mean.tolist())
    assert ours.variance == tuple(moments.var.tolist())
    raw = np.random.default_rng(0).normal(size=(50, len(ours.mean))).astype(np.float32)
    want: Any = theirs.normalize_obs(raw)
    np.testing.assert_array_equal(ours(raw), want)


def test_a_wrapper_that_left_observations_alone_has_no_statistics(tmp_path: Path) -> None:
    path = tmp_path / "vecnormalize.pkl"
    statistics("CartPole-v1", norm_obs=False).save(str(path))
    assert read_vecnormalize(path) is None


class Made:
    """Pickles into a call of its choice."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


def listening(vector: VecNormalize, value: object) -> bytes:
    """A statistics file with something more in it."""
    vector.extra = value  # type: ignore[attr-defined]
    return pickle.dumps(vector)


@pytest.mark.parametrize("call", [os.system, os.mkdir, exec, eval, print, getattr, __import__])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_names_outside_the_list_are_refused_unrun(
    call: Callable[..., object], protocol: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps([Made(call, f"{tmp_path}/marker")], protocol))
    with pytest.raises(UnsafeFileError):
        read_vecnormalize(path)
    path.write_bytes(listening(statistics("CartPole-v1"), Made(call, f"{tmp_path}/marker")))
    with pytest.raises(UnsafeFileError, match="which statistics do not need"):
        read_vecnormalize(path)
    assert list(tmp_path.iterdir()) == [path]
    assert capsys.readouterr().out == ""


def test_references_to_references_take_no_time(tmp_path: Path) -> None:
    nested: Any = ()
    for _ in range(60):  # 2^60 leaves, if anything walked them
        nested = (nested, nested)
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps({"key": nested}))
    with pytest.raises(PolicyFileError, match="not the statistics of one vector"):
        read_vecnormalize(path)
    head, tail = b"\x80\x02", b"K\x01s."  # as a key of a dictionary; Python itself would hash it for ever
    path.write_bytes(head + b"}" + pickle.dumps(nested, 2)[len(head) : -1] + tail)
    with pytest.raises(PolicyFileError, match="do not fit together"):
        read_vecnormalize(path)


def test_statistics_of_another_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vecnormalize.pkl"
    with pytest.raises(PolicyFileError, match="cannot be read"):
        read_vecnormalize(path)
    path.write_bytes(b"")
    with pytest.raises(PolicyFileError, match="empty or larger"):
        read_vecnormalize(path)
    vector = statistics("CartPole-v1")
    moments: Any = vector.obs_rms
    for mean in (np.full(4, np.nan), np.zeros(3), np.zeros((2, 2)), np.zeros(4, np.int64), "zero", None):
        moments.mean = mean
        vector.save(str(path))
        with pytest.raises(PolicyFileError):
            read_vecnormalize(path)


def test_damaged_files_raise_one_kind_of_error(tmp_path: Path) -> None:
    path = tmp_path / "vecnormalize.pkl"
    statistics("CartPole-v1").save(str(path))
    content, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for trial in range(400):
        altered = bytearray(content)
        if trial % 4 == 0:
            altered = altered[: draw.randrange(len(content))]
        else:
            altered[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(altered)
        try:
            read_vecnormalize(path)  # nothing checks these numbers: a changed one may be read
        except PolicyFileError:
            refused += 1
    assert refused > 150


@pytest.mark.teachers
def test_a_teacher_plays_well_with_its_statistics() -> None:
    folder = Path(os.environ["RLKD_TEACHERS"]) / "dlr_rl-trained-agents/ppo/Acrobot-v1_1"
    policy = load_policy(folder / "Acrobot-v1.zip", env="acrobot")
    assert policy.spec.normaliser is not None
    env = gymnasium.make("Acrobot-v1")
    scores = []
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        score, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy.predict(observation)[0])
            score, over = score + float(reward), terminated or truncated
        scores.append(score)
    assert np.mean(scores) > -95  # its own authors measured -71 with a deviation of 8
