"""Tests of `rlkd.policy.foreign`: actions in another order, and what a recipe and a file must agree on."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlkd.errors import PolicyFileError, RecipeError
from rlkd.policy import Policy, load_policy
from rlkd.recipe import Import, Layout, Network, Score, Statistics
from rlkd.recipe import Tensor as Entry
from rlkd.recipe import load as load_recipe
from tests import samples
from tests.samples import answers, original, recipe

NEVER = -10_000
"""Logit of an action that the file does not have."""
CAR = ("LEFT", "NONE", "RIGHT")
"""MountainCar's actions."""


def saved(path: Path, change: Callable[[dict[str, Any]], Any] = lambda weights: None) -> Path:
    """The small network's state dict, changed."""
    weights: dict[str, Any] = dict(original().state_dict())
    change(weights)
    torch.save(weights, path / "w.pt")
    return path / "w.pt"


def car(folder: Path, actions: tuple[str, ...], rule: str = "greedy", output: str = "categorical") -> Policy:
    """A policy for MountainCar whose file has its actions in this order."""
    torch.save(original(2, len(actions)).state_dict(), folder / "car.pt")
    how = recipe(actions=actions, rule=rule, output=output)
    return load_policy(folder / "car.pt", agent=how, env="mountaincar")


def states() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)


@pytest.mark.parametrize("actions", [CAR, ("RIGHT", "LEFT", "NONE"), ("NONE", "RIGHT", "LEFT")])
def test_actions_in_another_order_are_put_into_the_environments(actions: tuple[str, ...], tmp_path: Path) -> None:
    got = car(tmp_path, actions).answer(states()).params["logits"]
    theirs = answers(original(2, 3), states())
    for ours, name in enumerate(CAR):
        np.testing.assert_allclose(got[:, ours], theirs[:, actions.index(name)], atol=1e-5)


@pytest.mark.parametrize("output", ["categorical", "q"])
@pytest.mark.parametrize("rule", ["greedy", "sampled"])
def test_an_action_that_the_file_lacks_is_never_taken(rule: str, output: str, tmp_path: Path) -> None:
    policy = car(tmp_path, ("RIGHT", "LEFT"), rule, output)
    (got,) = policy.answer(states()).params.values()
    theirs = answers(original(2, 2), states())
    np.testing.assert_allclose(got[:, [2, 0]], theirs, atol=1e-5)
    np.testing.assert_array_equal(got[:, 1], np.full(40, NEVER))
    taken = np.concatenate([policy.predict(states())[0] for _ in range(100)])
    assert set(taken) == {0, 2}


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (("LEFT", "NONE", "RIHGT"), "no 'RIHGT'; did you mean 'RIGHT'?"),
        (("LEFT", "LEFT", "RIGHT"), "one of them stands there twice"),
        (("LEFT", "RIGHT", "NONE", "FIRE"), "has no 'FIRE'"),
    ],
)
def test_actions_that_are_not_the_environments_are_refused(
    actions: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        car(tmp_path, actions)


def test_actions_of_an_environment_without_names_cannot_be_matched(tmp_path: Path) -> None:
    torch.save(original(3, 1).state_dict(), tmp_path / "w.pt")
    how = recipe(actions=("UP",), output="gaussian")
    with pytest.raises(RecipeError, match="does not name its actions"):
        load_policy(tmp_path / "w.pt", agent=how, env="pendulum")


def test_unclipped_means_reach_the_environment_as_they_are(tmp_path: Path) -> None:
    torch.save(original(3, 1).state_dict(), tmp_path / "w.pt")
    seen = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    want = answers(original(3, 1), seen)
    assert np.abs(want).max() > 2.5
    for clip, expected in (("never", want), (None, np.clip(want, -2, 2))):
        policy = load_policy(tmp_path / "w.pt", agent=recipe(output="gaussian", clip=clip), env="pendulum")
        np.testing.assert_allclose(policy.predict(seen)[0], expected, atol=1e-5)


@pytest.mark.parametrize("output", ["gaussian", "squashed_gaussian"])
def test_a_file_without_a_spread_acts_without_noise_also_where_its_rule_is_to_sample(
    output: str, tmp_path: Path
) -> None:
    torch.save(original(3, 1).state_dict(), tmp_path / "w.pt")
    seen = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    mean = answers(original(3, 1), seen)
    expected = np.clip(mean, -2, 2) if output == "gaussian" else 2 * np.tanh(mean)
    policy = load_policy(tmp_path / "w.pt", agent=recipe(output=output, rule="sampled"), env="pendulum")
    np.testing.assert_allclose(policy.predict(seen)[0], expected, atol=1e-4)


def set_to(name: str, tensor: Tensor) -> Callable[[dict[str, Any]], Any]:
    return lambda weights: weights.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.update({"2.wieght": weights.pop("2.weight")}), "did you mean '2.wieght'?"),
        (set_to("0.weight", torch.zeros(4, 8)), "'0.weight' is [4, 8], wanted is [8, 4] in the layout 'torch'"),
        (set_to("0.weight", torch.zeros(32)), "'0.weight' is [32], wanted is [8, 4]"),
        (set_to("2.bias", torch.zeros(3)), "'2.bias' is [3], wanted is [2]"),
        (set_to("2.bias", torch.tensor([0.0, float("nan")])), "'2.bias' holds NaN or infinity"),
        (set_to("0.bias", torch.full((8,), float("-inf"))), "'0.bias' holds NaN or infinity"),
        (set_to("0.bias", torch.full((8,), 1e300, dtype=torch.float64)), "'0.bias' holds NaN or infinity"),
        (set_to("0.bias", torch.zeros(8, dtype=torch.int64)), "no tensor '0.bias'"),
        (lambda weights: weights.clear(), "no arrays of floating-point numbers"),
    ],
)
def test_a_file_that_lacks_what_the_recipe_names_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, change)
    with pytest.raises(PolicyFileError, match=re.escape(message)):
        load_policy(path, agent=recipe(), env="cartpole")


def without(name: str) -> dict[str, str | Entry]:
    return {ours: theirs for ours, theirs in recipe().tensors.items() if ours != name}


@pytest.mark.parametrize(
    ("changes", "env", "message"),
    [
        ({"tensors": without("head.bias")}, "cartpole", "[tensors]: 'head.bias' is missing"),
        ({"tensors": {**recipe().tensors, "haed.bias": "x"}}, "cartpole", "no 'haed.bias'; did you mean 'head.bias'?"),
        ({}, None, "names no environment; name it with --env"),
        ({"output": "gaussian"}, "cartpole", "output = 'gaussian' does not fit the actions of CartPole-v1"),
        ({"output": "q"}, "pendulum", "output = 'q' does not fit the actions of Pendulum-v1"),
        ({"rule": "best"}, "cartpole", "rule must be 'greedy', 'sampled' or 'epsilon_greedy 0.05', got 'best'"),
        ({"env": "nowhere"}, None, "nor is 'nowhere' a registered gymnasium id"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    changes: dict[str, Any], env: str | None, message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path)
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_policy(path, agent=recipe(**changes), env=env)


@pytest.mark.parametrize("start", [1, 33, 10**30])
def test_a_vector_that_ends_too_early_is_refused(start: int, tmp_path: Path) -> None:
    names: dict[str, str | Entry] = samples.at_starts() | {"head.bias": Entry(name="0", start=57 + start)}
    samples.json_file(tmp_path / "w.json")  # 58 numbers
    with pytest.raises(PolicyFileError, match=rf"tensor '0' is \[58\], wanted is \[2\] from number {57 + start} on"):
        load_policy(tmp_path / "w.json", agent=recipe(names), env="cartpole")


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        ({"mean": [0.0] * 3, "variance": [1.0] * 4}, "'mean' is no vector of (4,) finite numbers"),
        ({"mean": [0.0] * 4, "variance": [1.0, 1.0, 1.0, float("inf")]}, "'variance' is no vector"),
        ({"mean": [0.0] * 4, "variance": [1.0, 1.0, 1.0, -1e-3]}, "a variance that is not above 0"),
        ({"mean": [0.0] * 4, "variance": [1.0, 1.0, 1.0, 0.0]}, "a variance that is not above 0"),
        ({"mean": [0.0] * 4, "varience": [1.0] * 4}, "no tensor 'variance'; did you mean 'varience'?"),
    ],
)
def test_statistics_that_nothing_can_be_whitened_with_are_refused(
    moments: dict[str, list[float]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.json"
    weights = {name: array.tolist() for name, array in samples.arrays(original()).items()}
    path.write_text(json.dumps(weights | moments))
    how = recipe(normaliser=Statistics(mean="mean", variance="variance"))
    with pytest.raises(PolicyFileError, match=re.escape(message)):
        load_policy(path, agent=how, env="cartpole")


def test_what_is_added_to_variance_and_deviation_whitens(tmp_path: Path) -> None:
    path, mean, variance = tmp_path / "w.json", [0.1, -0.2, 0.0, 0.3], [0.0, 0.04, 1.0, 9.0]
    weights = {name: array.tolist() for name, array in samples.arrays(original()).items()}
    path.write_text(json.dumps(weights | {"mean": mean, "variance": variance}))
    moments = Statistics(mean="mean", variance="variance", epsilon=0.05, deviation_epsilon=0.1, limit=2.0)
    policy = load_policy(path, agent=recipe(normaliser=moments), env="cartpole")
    seen = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    white = np.clip((seen - np.array(mean)) / (np.sqrt(np.array(variance) + 0.05) + 0.1), -2, 2)
    wanted = answers(original(), white.astype(np.float32))
    np.testing.assert_allclose(policy.answer(seen).params["logits"], wanted, atol=1e-4)


def score(**changes: Any) -> Score:
    values: dict[str, Any] = {"file": "w.pt", "sha256": "ab" * 32, "mean": 1.0, "std": 0.5, "episodes": 20}
    return Score(**(values | changes))


@pytest.mark.parametrize("sha256", ["", "ab" * 31, "ab" * 33, "AB" * 32, "xy" * 32, "ab" * 32 + "\n"])
def test_the_hash_of_a_score_is_64_hex_digits(sha256: str) -> None:
    assert score().sha256 == "ab" * 32
    with pytest.raises(RecipeError, match="sha256 must be 64 hex digits"):
        score(sha256=sha256)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: score(episodes=1), "at least 2 episodes"),
        (lambda: score(std=-0.1), "a std of at least 0"),
        (lambda: Statistics(mean="m"), "give either variance or mean_square"),
        (lambda: Statistics(mean="m", variance="v", mean_square="s"), "give either variance or mean_square"),
        (lambda: Statistics(mean="m", variance="v", limit=0), "limit must be above 0"),
        (lambda: Statistics(mean="m", variance="v", epsilon=-1e-8), "epsilon and deviation_epsilon at least 0"),
        (lambda: Statistics(mean="m", variance="v", deviation_epsilon=float("nan")), "at least 0"),
        (lambda: recipe(output="squashed_gaussian", clip="never"), "clip = 'never' belongs to output = 'gaussian'"),
        (lambda: recipe(clip="never"), "clip = 'never' belongs to output = 'gaussian'"),
        (lambda: Entry(name="w", start=-1), "start must be at least 0, got -1"),
    ],
)
def test_impossible_entries_of_a_recipe_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('layout = "sideways"', "layout cannot be 'sideways'; known: channels_last"),
        ('layuot = "rotated"', "unknown key 'layuot'; did you mean 'layout'?"),
        ("start = 1.5", "start must be"),
    ],
)
def test_a_recipe_file_with_an_unknown_layout_says_where(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    head = 'kind = "import"\noutput = "q"\nrule = "greedy"\n[network]\nencoder = "mlp"\n[tensors]\n'
    path.write_text(head + f'"head.weight" = {{ name = "w", {line} }}\n')
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(str(path), Import)
    assert "mine.toml" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(PolicyFileError, match=re.escape(str(path))):
            load_policy(path, agent=recipe(), env="cartpole")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(PolicyFileError, match="none of torch, HDF5, JSON, numpy pickle, ONNX and safetensors"):
        load_policy(tmp_path / "empty.pt", agent=recipe(), env="cartpole")
    os.truncate(saved(tmp_path), 100)
    with pytest.raises(PolicyFileError, match="is damaged"):
        load_policy(tmp_path / "w.pt", agent=recipe(), env="cartpole")


@pytest.mark.parametrize(
    ("layout", "ours"),
    [
        ("rotated", "encoder.0.bias"),
        ("rotated", "encoder.0.weight"),
        ("rows_columns_input_output", "head.weight"),
        ("channels_last", "encoder.0.weight"),
        ("channels_last", "head.bias"),
        ("input_first", "head.bias"),
    ],
)
def test_a_layout_that_the_tensor_cannot_have_is_refused(layout: Layout, ours: str, tmp_path: Path) -> None:
    names = dict(zip(samples.OURS, samples.TORCH, strict=True))
    how = recipe({**names, ours: Entry(name=names[ours], layout=layout)})
    with pytest.raises(RecipeError, match=rf"layout '{layout}' is of .*'{ours}'"):
        load_policy(saved(tmp_path), agent=how, env="cartpole")


def test_a_convolution_has_no_layout_of_a_matrix(tmp_path: Path) -> None:
    network = Network(encoder="conv", channels=(2,), kernels=(8,), strides=(8,), hidden=())
    torch.save({"w": torch.zeros(2, 4, 8, 8)}, tmp_path / "w.pt")
    tensors: dict[str, str | Entry] = dict.fromkeys(("encoder.0.bias", "head.weight", "head.bias"), "w")
    tensors["encoder.0.weight"] = Entry(name="w", layout="input_first")
    with pytest.raises(RecipeError, match="layout 'input_first' is of a fully connected layer's weight"):
        load_policy(tmp_path / "w.pt", agent=recipe(tensors, network=network), env="pong")


def test_only_the_first_layer_behind_convolutions_may_have_its_channels_last(tmp_path: Path) -> None:
    network = Network(encoder="conv", channels=(2,), kernels=(8,), strides=(8,), hidden=(8,))
    weights = {"encoder.0.weight": torch.zeros(2, 4, 8, 8), "encoder.0.bias": torch.zeros(2)}
    weights |= {"encoder.3.weight": torch.zeros(200, 8), "encoder.3.bias": torch.zeros(8)}
    weights |= {"head.weight": torch.zeros(8, 6), "head.bias": torch.zeros(6)}
    torch.save(weights, tmp_path / "w.pt")
    tensors: dict[str, str | Entry] = {name: name for name in weights}
    tensors["encoder.3.weight"] = Entry(name="encoder.3.weight", layout="channels_last")
    for layout in ("input_first", "channels_last"):
        tensors["head.weight"] = Entry(name="head.weight", layout=layout)
        how = recipe(tensors, network=network)
        if layout == "input_first":
            load_policy(tmp_path / "w.pt", agent=how, env="pong")
            continue
        with pytest.raises(RecipeError, match="first layer behind convolutions, not of 'head.weight'"):
            load_policy(tmp_path / "w.pt", agent=how, env="pong")
