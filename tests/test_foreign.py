"""Tests of `rlkd.policy.foreign`: weights in each format answer as the network that wrote them does."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlkd.policy import Policy, load_policy
from rlkd.policy.foreign_files import read_arrays
from rlkd.recipe import Import, Network, Statistics
from rlkd.recipe import Tensor as Entry
from rlkd.recipe import load as load_recipe
from rlkd.vector import as_recipe
from tests import reference, samples
from tests.samples import FORMATS, answers, original, recipe
from tests.test_atari import with_view


def observations(width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(50, width)).astype(np.float32)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)


def logits(policy: Policy, observation: np.ndarray) -> np.ndarray:
    return policy.answer(observation).params["logits"]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_answers_as_the_network_that_wrote_it(name: str, tmp_path: Path) -> None:
    file, write, how = FORMATS[name]
    write(tmp_path / file)
    policy = load_policy(tmp_path / file, agent=how, env="cartpole")
    want = answers(original(), observations())
    assert np.ptp(want) > 1
    np.testing.assert_allclose(logits(policy, observations()), want, atol=1e-5)


@pytest.mark.parametrize("suffix", [".tar", ".pkl", ".pth", ".pt", ""])
@pytest.mark.parametrize("write", [samples.torch_legacy, samples.torch_zip])
def test_torch_is_told_by_its_first_bytes_whatever_the_suffix(write: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    write(path)
    policy = load_policy(path, agent=recipe(), env="cartpole")
    np.testing.assert_allclose(logits(policy, observations()), answers(original(), observations()), atol=1e-5)
    assert policy.spec.origin.startswith(f"weights{suffix}, sha256 ")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("frames", [0, 10**6, 10**12, 10**30, -5])
def test_a_checkpoint_with_optimiser_and_counters_gives_its_weights(frames: int, legacy: bool, tmp_path: Path) -> None:
    samples.checkpoint(tmp_path / "status.pt", frames=frames, legacy=legacy)
    policy = load_policy(tmp_path / "status.pt", agent=recipe(samples.under("model/policy/")), env="cartpole")
    np.testing.assert_allclose(logits(policy, observations()), answers(original(), observations()), atol=1e-5)


def test_a_file_smaller_than_its_own_protocol_number_is_read(tmp_path: Path) -> None:
    module = nn.Linear(4, 2)
    torch.save({"w": module.weight.data}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert (tmp_path / "w.pt").stat().st_size < 1001  # that number, which every legacy file begins with
    assert np.array_equal(read_arrays(tmp_path / "w.pt")[0]["w"], module.weight.detach().numpy())


def test_half_and_double_weights_are_read_as_the_numbers_they_are(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        module = original().to(dtype)
        torch.save(module.state_dict(), tmp_path / "w.pt")
        policy = load_policy(tmp_path / "w.pt", agent=recipe(), env="cartpole")
        np.testing.assert_allclose(logits(policy, observations()), answers(module.float(), observations()), atol=1e-5)


def test_weights_under_a_lazy_sign_are_read_with_it(tmp_path: Path) -> None:
    """Torch keeps some negations as a bit, which numpy does not know."""
    module, doubled = original(), original().double()
    for dtype_, one in ((torch.float32, module), (torch.float64, doubled)):
        weights = {name: torch._neg_view(-tensor) for name, tensor in one.state_dict().items()}
        assert weights["0.weight"].is_neg()
        assert weights["0.weight"].dtype is dtype_
        torch.save(weights, tmp_path / "w.pt")
        policy = load_policy(tmp_path / "w.pt", agent=recipe(), env="cartpole")
        np.testing.assert_allclose(logits(policy, observations()), answers(module, observations()), atol=1e-5)


# Pictures

PIXELS = with_view("foreign/breakout_grzego", height=15, width=12, stack=2)
"""Breakout as two tiny frames."""
CONV: dict[str, Any] = {"encoder": "conv", "channels": (3, 4), "kernels": (4, 2), "strides": (2, 1), "hidden": (6,)}
"""15 x 12 -> 6 x 5 -> 5 x 4, of 4 channels."""


def convolutional(generator: np.random.Generator, *, kernels: str) -> dict[str, np.ndarray]:
    """Weights by the names of Keras 1; kernels [output, input, rows, columns] or [rows, columns, input, output]."""
    shapes: dict[str, tuple[int, ...]] = {"c1": (3, 2, 4, 4), "c2": (4, 3, 2, 2), "d": (80, 6), "p": (6, 4)}
    if kernels == "rows_columns_input_output":
        shapes |= {"c1": (4, 4, 2, 3), "c2": (2, 2, 3, 4)}
    widths = {"c1": 3, "c2": 4, "d": 6, "p": 4}
    found = {f"{name}/{name}_W": generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return found | {
        f"{name}/{name}_b": generator.normal(size=width).astype(np.float32) for name, width in widths.items()
    }


def write_hdf5(path: Path, weights: dict[str, np.ndarray]) -> None:
    import h5py  # type: ignore[import-untyped]  # has neither stubs nor types of its own

    with h5py.File(path, "w") as opened:
        for name, array in weights.items():
            opened[name] = array


def keras(kernels: Any, first: Any, weights: str = "{0}/{0}_W", biases: str = "{0}/{0}_b") -> Import:
    layers = {"encoder.0": ("c1", kernels), "encoder.2": ("c2", kernels), "encoder.5": ("d", first)}
    layers["head"] = ("p", "input_first")
    tensors: dict[str, str | Entry] = {}
    for ours, (theirs, layout) in layers.items():
        tensors[f"{ours}.weight"] = Entry(name=weights.format(theirs), layout=layout)
        tensors[f"{ours}.bias"] = biases.format(theirs)
    return recipe(tensors, network=Network(**CONV))


def test_keras_1_on_theano_convolves_with_turned_kernels(tmp_path: Path) -> None:
    weights = convolutional(np.random.default_rng(1), kernels="torch")
    write_hdf5(tmp_path / "model.h5", weights)
    policy = load_policy(tmp_path / "model.h5", agent=keras("rotated", "input_first"), env=PIXELS)
    seen = pictures(2, 15, 12)
    want = [reference.theano_network(picture / 255, weights) for picture in seen]
    np.testing.assert_allclose(logits(policy, seen), want, rtol=1e-4, atol=1e-3)
    write_hdf5(tmp_path / "model.h5", weights)
    unturned = load_policy(tmp_path / "model.h5", agent=keras("torch", "input_first"), env=PIXELS)
    assert not np.allclose(logits(unturned, seen), want, rtol=0.1)


def test_keras_2_flattens_channels_last(tmp_path: Path) -> None:
    weights = convolutional(np.random.default_rng(2), kernels="rows_columns_input_output")
    stored = {f"model_weights/{name}".replace("_W", "/kernel:0"): array for name, array in weights.items()}
    write_hdf5(tmp_path / "model.hdf5", {name.replace("_b", "/bias:0"): array for name, array in stored.items()})
    how = keras(
        "rows_columns_input_output",
        "channels_last",
        "model_weights/{0}/{0}/kernel:0",
        "model_weights/{0}/{0}/bias:0",
    )
    policy = load_policy(tmp_path / "model.hdf5", agent=how, env=PIXELS)
    seen = pictures(2, 15, 12)
    want = [reference.channels_last_network(picture / 255, weights) for picture in seen]
    np.testing.assert_allclose(logits(policy, seen), want, rtol=1e-4, atol=1e-3)


# Statistics of observations, vectors of all weights, ONNX


@pytest.mark.parametrize("writer", ["python 2", "python 3"])
def test_a_pickle_with_means_of_squares_whitens_as_its_authors_did(writer: str, tmp_path: Path) -> None:
    tree, path = samples.nested(original()), tmp_path / "expert.pkl"
    content = samples.python_2_pickle(tree) if writer == "python 2" else pickle.dumps(tree, 2)
    assert np.array_equal(pickle.loads(content, encoding="latin1")["policy"]["0.weight"], tree["policy"]["0.weight"])  # noqa: S301  # made here
    path.write_bytes(content)
    moments = Statistics(mean="norm/mean", mean_square="norm/square", deviation_epsilon=1e-2, limit=4.0)
    how = recipe(samples.under("policy/", input_first=True), normaliser=moments)
    policy = load_policy(path, agent=how, env="cartpole")
    mean, square = samples.MOMENTS["mean"], samples.MOMENTS["square"]
    deviation = np.sqrt(np.maximum(0, square - mean**2)) + 1e-2
    white = np.clip((observations() - mean) / deviation, -4, 4)
    assert np.abs(white).max() == 4
    np.testing.assert_allclose(logits(policy, observations()), answers(original(), white.astype(np.float32)), atol=1e-3)


def test_a_vector_of_all_weights_gives_the_tanh_of_the_mean_as_action(tmp_path: Path) -> None:
    module, path = original(3, 1), tmp_path / "best.json"
    path.write_text(json.dumps([samples.flat(module), 301.5]))
    policy = load_policy(path, agent=recipe(samples.at_starts(3, 1), output="squashed_gaussian"), env="pendulum")
    seen = observations(3)
    want = 2 * np.tanh(answers(module, seen))
    np.testing.assert_allclose(policy.predict(seen)[0], want, atol=1e-5)
    np.testing.assert_allclose(policy.predict(seen, deterministic=False)[0], want, atol=1e-2)  # no noise in the file


@pytest.mark.parametrize("raw", [True, False])
def test_onnx_initialisers_answer_as_onnx_runtime_does(raw: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    content = samples.onnx_model(original(), raw=raw)
    (tmp_path / "w.onnx").write_bytes(content)
    policy = load_policy(tmp_path / "w.onnx", agent=recipe(), env="cartpole")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"observation": observations()})
    np.testing.assert_allclose(logits(policy, observations()), want, atol=1e-5)


# CleanRL's own networks, as its scripts write them


class Scaled(nn.Module):
    """CleanRL's `Agent` of ppo_atari.py and `QNetwork` of dqn_atari.py."""

    def __init__(self, *, ppo: bool) -> None:
        super().__init__()
        pixels = [nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()]
        pixels += [nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU()]
        self.network = nn.Sequential(*pixels, *([] if ppo else [nn.Linear(512, 4)]))
        self.actor: nn.Module = nn.Linear(512, 4) if ppo else nn.Identity()
        self.critic = nn.Linear(512, 1) if ppo else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.actor(self.network(x / 255.0))
        return found


class Agent(nn.Module):
    """CleanRL's `Agent` of ppo.py and ppo_continuous_action.py."""

    def __init__(self, inputs: int, outputs: int, *, continuous: bool) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        actor = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
        if continuous:
            self.actor_mean, self.actor_logstd = actor, nn.Parameter(torch.full((1, outputs), -0.7))
        else:
            self.actor = actor
        self.forward = actor.forward


@pytest.mark.parametrize(
    ("agent", "env", "key"),
    [
        ("cleanrl_ppo_atari", "foreign/breakout_cleanrl", "logits"),
        ("cleanrl_dqn_atari", "foreign/breakout_cleanrl", "q"),
        ("cleanrl_ppo", "cartpole", "logits"),
        ("cleanrl_ppo_continuous", "pendulum", "mean"),
    ],
)
def test_cleanrls_networks_are_read_with_their_shipped_recipes(agent: str, env: str, key: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    modules: dict[str, nn.Module] = {"logits": Agent(4, 2, continuous=False), "mean": Agent(3, 1, continuous=True)}
    atari = env.startswith("foreign")
    module = Scaled(ppo=key == "logits") if atari else modules[key]
    path, seen = (
        tmp_path / "ppo.cleanrl_model",
        pictures(4, 84, 84) if atari else observations(3 if key == "mean" else 4),
    )
    torch.save(module.state_dict(), path)
    policy = load_policy(path, agent=load_recipe(agent, Import), env=as_recipe(env))
    params = policy.answer(seen).params
    want = answers(module, seen.astype(np.float32))
    assert np.ptp(want) > 0.01
    np.testing.assert_allclose(params[key], want, atol=1e-5)
    if key == "mean":
        np.testing.assert_allclose(params["log_std"], np.full_like(want, -0.7))
