"""Tests of `rlkd.evaluation`'s features: values against slow ones, what turning does, whose layers are collected."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd.evaluation.agreement import BATCH, answers_and_features
from rlkd.evaluation.features import (
    ROWS,
    effective_rank,
    layer_features,
    linear_cka,
    nearest_distances,
    quarters,
)
from rlkd.policy import Policy
from rlkd.recipe import Network
from tests import reference_inheritance as reference
from tests.handmade import TINY, TINY_PIXELS, TINY_RESNET, environment, policy

PONG = environment("pong")
CARTPOLE = environment("cartpole")


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(width: int) -> Tensor:
    matrix: Tensor = torch.linalg.qr(noise(9, width, width)).Q
    return matrix


@pytest.mark.parametrize(("states", "widths"), [(60, (5, 8)), (20, (30, 8)), (20, (30, 40))])
def test_cka_is_the_slow_one_whichever_matrix_is_smaller(states: int, widths: tuple[int, int]) -> None:
    x, y = noise(1, states, widths[0]) + 3, noise(2, states, widths[1])
    y[:, :4] += 2 * x[:, :4]
    slow = reference.alignment(x.numpy(), y.numpy())
    assert 0.2 < slow < 0.99
    assert linear_cka(x, y) == pytest.approx(slow, rel=1e-9)
    assert linear_cka(y, x) == pytest.approx(slow, rel=1e-9)


def test_cka_does_not_see_turning_scale_and_shift_but_sees_stretching() -> None:
    x = noise(1, 200, 6) * torch.arange(1, 7)
    assert linear_cka(x, 5 * x @ turned(6) + 2) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, x.float()) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x, x * torch.arange(6, 0, -1)) < 0.9


def test_cka_of_what_is_unrelated_is_low_and_of_what_is_constant_is_not_there() -> None:
    assert linear_cka(noise(1, 4000, 8), noise(2, 4000, 8)) < 0.01
    assert math.isnan(linear_cka(noise(1, 50, 8), torch.ones(50, 8)))
    with pytest.raises(ValueError, match=r"must be \[S, F1\] and \[S, F2\], got \[5, 2\] and \[6, 2\]"):
        linear_cka(torch.ones(5, 2), torch.ones(6, 2))


@pytest.mark.parametrize("width", [3, 12])
def test_effective_rank_is_the_slow_one(width: int) -> None:
    x = noise(1, 80, width) * torch.arange(1, width + 1) + 7
    slow = reference.effective_rank(x.numpy())
    assert 1 < slow < width
    assert effective_rank(x) == pytest.approx(slow, rel=1e-9)


def test_effective_rank_counts_directions() -> None:
    alike = torch.linalg.qr(noise(1, 40, 4) - noise(1, 40, 4).mean(0)).Q
    assert effective_rank(alike + 5) == pytest.approx(4)
    line = noise(3, 40, 1) @ noise(4, 1, 6) + 1
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.ones(5, 3)) == 0


def test_nearest_distances_are_the_slow_ones_and_those_of_known_states_are_zero() -> None:
    known, x = noise(1, 40, 5) + 1e7, noise(2, ROWS + 10, 5) + 1e7  # far off: squares alone would not tell them apart
    x[3] = known[7]
    found = nearest_distances(x, known)
    assert found.tolist() == pytest.approx(reference.nearest_distances(x.numpy(), known.numpy()), rel=1e-9, abs=1e-9)
    assert found[3] == 0


def test_quarters_go_from_lowest_to_highest_and_leave_nothing_out() -> None:
    values = noise(1, 10)
    found = quarters(values)
    assert [len(each) for each in found] == [3, 3, 2, 2]
    assert torch.equal(values[torch.cat(found)], values.sort().values)
    assert [each.tolist() for each in quarters(torch.zeros(4))] == [[0], [1], [2], [3]]


def test_layers_of_a_picture_network_are_what_it_gives_on_behind_its_activations() -> None:
    player = policy(PONG, "categorical", TINY_PIXELS)
    states = np.random.default_rng(0).integers(0, 256, (BATCH + 3, 4, 84, 84), np.uint8)
    found = layer_features(player, states)
    assert list(found) == ["convolution 1", "convolution 2", "hidden 1"]
    weights = player.network.state_dict()
    x = torch.from_numpy(states).float() / 255
    x = F.relu(F.conv2d(x, weights["encoder.0.weight"], weights["encoder.0.bias"], 4))
    assert torch.allclose(found["convolution 1"], x.flatten(1), atol=1e-5)
    x = F.relu(F.conv2d(x, weights["encoder.2.weight"], weights["encoder.2.bias"], 3)).flatten(1)
    assert torch.allclose(found["convolution 2"], x, atol=1e-5)
    x = F.relu(F.linear(x, weights["encoder.5.weight"], weights["encoder.5.bias"]))
    assert torch.allclose(found["hidden 1"], x, atol=1e-5)


@pytest.mark.parametrize(
    ("player", "names"),
    [
        (policy(PONG, "categorical", TINY_RESNET), ["section 1", "section 2", "hidden 1"]),
        (policy(CARTPOLE, "q", Network(encoder="mlp", hidden=(8, 7))), ["hidden 1", "hidden 2"]),
        (policy(CARTPOLE, "q", Network(encoder="mlp", hidden=())), []),
    ],
    ids=["resnet", "mlp", "linear"],
)
def test_the_last_layer_is_the_features_and_no_hook_stays(player: Policy, names: list[str]) -> None:
    shape, pixels = player.spec.observation_shape, player.network.pixels
    generator = np.random.default_rng(0)
    states = generator.integers(0, 256, (5, *shape), np.uint8) if pixels else generator.normal(size=(5, *shape))
    found = layer_features(player, states)
    assert list(found) == names
    if names:
        assert torch.equal(found[names[-1]], answers_and_features(player, states)[1])
    assert not any(module._forward_hooks for module in player.network.modules())
    assert not any(value.requires_grad for value in found.values())


def test_hooks_are_removed_also_where_the_policy_refuses() -> None:
    player = policy(CARTPOLE, "categorical", TINY)
    with pytest.raises(ValueError, match="observation must be"):
        layer_features(player, np.zeros((2, 3), np.float32))
    assert not any(module._forward_hooks for module in player.network.modules())
    with pytest.raises(ValueError, match="a recurrent policy has none"):
        layer_features(policy(CARTPOLE, "categorical", Network(encoder="mlp", core="gru")), np.zeros((2, 4)))
