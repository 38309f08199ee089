"""Tests of `rlkd.policy.sizes`: networks between two, their sizes and widths, and what has nothing between."""

from dataclasses import replace
from typing import Any

import pytest

from rlkd import recipe
from rlkd.errors import RecipeError
from rlkd.policy import Kind, PolicyNetwork, acting_parameters, networks_between
from rlkd.recipe import Network, interpolated, scaled
from tests import handmade

PIXELS = (4, 84, 84)
MLP = Network(encoder="mlp", hidden=(64, 64))
GRU = Network(encoder="mlp", hidden=(40,), core="gru", core_width=64, core_hidden=(30,))


def shipped(name: str) -> Network:
    return recipe.load(name, Network)


def between(big: Network, small: Network, count: int, shape: tuple[int, ...] = PIXELS, actions: int = 18) -> Any:
    return networks_between(big, small, count, observation_shape=shape, kind="q", actions=actions)


def size(network: Network, shape: tuple[int, ...] = PIXELS, kind: Kind = "q", actions: int = 18) -> int:
    return acting_parameters(PolicyNetwork(network, shape, kind, actions))


CASES = [
    pytest.param(shipped("nature"), shipped("nature_62k"), 3, PIXELS, id="nature"),
    pytest.param(shipped("nature"), shipped("nature@width=0.25"), 1, PIXELS, id="one width"),
    pytest.param(shipped("impala"), shipped("impala_69k"), 2, PIXELS, id="resnet"),
    pytest.param(replace(shipped("nature"), value="shared"), shipped("nature_62k"), 1, PIXELS, id="critic"),
    pytest.param(MLP, replace(MLP, hidden=(3, 3)), 4, (4,), id="small"),
    pytest.param(MLP, replace(MLP, hidden=(16, 80)), 2, (4,), id="one layer grows"),
    pytest.param(replace(MLP, hidden=(5, 5, 5)), replace(MLP, hidden=(3, 3, 3)), 3, (4,), id="tiny"),
    pytest.param(GRU, replace(GRU, hidden=(8,), core_width=10, core_hidden=(9,)), 3, (4,), id="gru"),
]


@pytest.mark.parametrize(("big", "small", "count", "shape"), CASES)
def test_each_network_is_the_same_share_of_the_one_before(
    big: Network, small: Network, count: int, shape: tuple[int, ...]
) -> None:
    found = between(big, small, count, shape)
    first, last = size(replace(big, value="none"), shape), size(small, shape)
    for place, network in enumerate(found, start=1):
        want = first ** (1 - place / (count + 1)) * last ** (place / (count + 1))
        assert size(network, shape) == pytest.approx(want, rel=0.05)
        assert (network.activation, network.value, network.kernels) == (small.activation, small.value, small.kernels)
    assert len({size(network, shape) for network in (big, *found, small)}) == count + 2


def test_between_a_network_and_its_half_lie_other_widths_of_it() -> None:
    big = shipped("impala")
    (middle,) = between(big, shipped("impala@width=0.25"), 1)
    assert middle in [scaled(big, recipe.Scale(width=percent / 100)) for percent in range(26, 100)]


def test_widths_are_interpolated_layer_by_layer() -> None:
    big = Network(encoder="conv", channels=(32, 64, 64), hidden=(512,))
    small = Network(encoder="conv", channels=(32, 16, 4), hidden=(8,), activation="elu")
    assert interpolated(big, small, 0.5) == replace(small, channels=(32, 32, 16), hidden=(64,))
    assert interpolated(big, small, 0.0) == replace(small, channels=big.channels, hidden=big.hidden)
    assert interpolated(big, small, 1.0) == small


def test_what_is_unset_is_what_it_stands_for() -> None:
    big = Network(encoder="conv", channels=(8,), kernels=(8,), strides=(4,), paddings=(0,), pools=(1,), core_hidden=())
    small = Network(encoder="conv", channels=(2,), kernels=(8,), strides=(4,))
    assert interpolated(big, small, 0.5) == replace(small, channels=(4,))
    big, small = (Network(encoder="resnet", channels=(8,), blocks=blocks) for blocks in (None, 2))
    assert interpolated(big, small, 1.0) == small


@pytest.mark.parametrize(
    ("big", "small", "message"),
    [
        (
            shipped("nature"),
            replace(shipped("nature_62k"), hidden=()),
            "different depth: one has 1 entries of hidden, the",
        ),
        (shipped("nature"), shipped("grid"), r"with other kernels: \(8, 4, 3\) and \(2, 2, 2\)"),
        (shipped("nature"), shipped("impala_69k"), "with other encoder: conv and resnet"),
        (shipped("nature"), replace(shipped("nature_62k"), core="gru"), "with other core: none and gru"),
        (shipped("nature"), replace(shipped("nature_62k"), branches="residual"), "with other branches: None and resid"),
        (shipped("nature"), replace(shipped("nature_62k"), paddings=(1, 0, 0)), "with other paddings"),
        (shipped("impala"), shipped("impala_69k@depth=2"), "with other blocks: 2 and 4"),
        (
            shipped("nature_62k"),
            shipped("nature"),
            "small network has 1,693,362 parameters, the big one 61,954: nothing",
        ),
        (shipped("nature"), shipped("nature"), "nothing lies between"),
        (shipped("nature_62k"), replace(shipped("nature_62k"), hidden=(63,)), "there are no 2 different sizes between"),
        (
            Network(encoder="members", members=(MLP,), combine="sum"),
            MLP,
            "a network of members has no widths of its own",
        ),
    ],
)
def test_where_nothing_lies_between_the_message_says_why(big: Network, small: Network, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        between(big, small, 2)


def test_at_least_one_network_is_asked_for() -> None:
    with pytest.raises(RecipeError, match="must be at least 1, got 0"):
        between(MLP, handmade.TINY, 0, (4,))
