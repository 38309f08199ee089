"""Tests of `rlkd.policy.structure`: what evolution keeps and draws, the slim policy, shrink-and-perturb."""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from rlkd.errors import MismatchError, RecipeError
from rlkd.policy import (
    Kind,
    Policy,
    PolicyNetwork,
    PolicySpec,
    Rule,
    combined,
    kels_masks,
    reset_weights,
    shrink_and_perturb,
    slim,
    wels_masks,
)
from rlkd.policy.encoders import Residual
from rlkd.policy.file import build_network
from rlkd.recipe import Network
from tests import handmade

CONV = Network(encoder="conv", channels=(6, 10), kernels=(8, 4), strides=(4, 3), hidden=(20, 7))
POOLED = replace(CONV, paddings=(2, 1), pools=(2, 1), activation="elu", hidden_activation="tanh")
MLP = Network(encoder="mlp", hidden=(30, 11), activation="tanh")
WIDE = Network(encoder="mlp", hidden=(200, 150))
PLACES: dict[str, tuple[tuple[int, ...], int]] = {"pixels": ((3, 36, 40), 6), "vector": ((4,), 2)}
"""Observation's shape and number of actions."""
CASES = [
    pytest.param("pixels", "categorical", CONV, id="convolutions"),
    pytest.param("pixels", "q", POOLED, id="pools and paddings"),
    pytest.param("pixels", "categorical", replace(CONV, hidden=()), id="no hidden layers"),
    pytest.param("pixels", "q", replace(handmade.TINY_RESNET, activation="tanh"), id="resnet"),
    pytest.param("vector", "categorical", MLP, id="mlp"),
    pytest.param("vector", "categorical", replace(MLP, branches="residual"), id="branch"),
    pytest.param("vector", "categorical", replace(MLP, value="separate"), id="critic"),
    pytest.param("vector", "squashed_gaussian", MLP, id="squashed"),
    pytest.param("vector", "gaussian", MLP, id="gaussian"),
]


def learned(name: str, kind: Kind, network: Network) -> Policy:
    """A policy whose weights, biases too, are none that a fresh network has."""
    shape, actions = PLACES[name]
    spec = PolicySpec(
        name="learned",
        kind=kind,
        network=network,
        observation_shape=shape,
        observation_dtype="uint8" if len(shape) == 3 else "float32",
        actions=actions,
        rule=Rule(name="greedy"),
    )
    made, generator = build_network(spec), torch.Generator().manual_seed(3)
    made.initialise(generator, for_rl=False)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.3)
    return Policy(made, spec)


def states(policy: Policy, rows: int = 40) -> np.ndarray:
    generator = np.random.default_rng(0)
    if policy.spec.observation_dtype == "uint8":
        return generator.integers(0, 256, (rows, *policy.spec.observation_shape), np.uint8)
    return generator.normal(size=(rows, *policy.spec.observation_shape)).astype(np.float32)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def with_units_silenced(policy: Policy, share: float, x: np.ndarray) -> Tensor:
    """What the dense policy answers when each layer's units behind the first ceil(share * C) are switched to 0."""
    network = copy.deepcopy(policy.network)
    answering = (network.head, network.critic)
    silent = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]

    def silence(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
        out = out.clone()
        out[:, math.ceil(share * out.shape[1] - 1e-9) :] = 0
        return out

    for layer in silent:
        if layer not in answering:
            layer.register_forward_hook(silence)
    with torch.no_grad():
        return Policy(network, policy.spec)(x).flat


@pytest.mark.parametrize(("name", "kind", "network"), CASES)
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_slim_answers_as_the_dense_policy_with_the_other_units_silenced(
    name: str, kind: Kind, network: Network, share: float
) -> None:
    policy = learned(name, kind, network)
    small, x = slim(policy, share), states(policy)
    with torch.no_grad():
        answer, dense = small(x).flat, policy(x).flat
    assert (answer - with_units_silenced(policy, share, x)).abs().max() < 1e-5
    assert (answer - dense).abs().max() > 0.01
    assert small.spec.parents == (policy.spec.hash,)
    assert small.spec.network.hidden == tuple(math.ceil(share * width - 1e-9) for width in network.hidden)
    assert small.spec.network.channels == tuple(math.ceil(share * width - 1e-9) for width in network.channels)
    assert small.spec.parameters < policy.spec.parameters


@pytest.mark.parametrize(("name", "kind", "network"), CASES)
def test_slim_is_the_dense_policy_whose_weights_outside_the_mask_are_0(name: str, kind: Kind, network: Network) -> None:
    policy = learned(name, kind, network)
    masks, x = kels_masks(policy.spec, 0.5), states(policy)
    small = slim(policy, 0.5)
    assert sum(int(mask.sum()) for key, mask in masks.items() if not key.startswith("critic")) == small.spec.parameters
    zeroed = copy.deepcopy(policy.network)
    with torch.no_grad():
        for key, weight in zeroed.named_parameters():
            weight.mul_(masks[key])
        one, other = small(x), Policy(zeroed, policy.spec)(x)
    assert (one.flat - other.flat).abs().max() < 1e-5
    if one.value is not None and other.value is not None:
        assert (one.value - other.value).abs().max() < 1e-5


def test_the_mask_of_convolutions_is_the_one_of_the_paper() -> None:
    """By hand: [36, 40] is [8, 9] and [2, 2] behind the two convolutions."""
    masks = kels_masks(learned("pixels", "categorical", CONV).spec, 0.35)
    kept = {  # outputs, inputs
        "encoder.0.weight": (3, 4),
        "encoder.2.weight": (4, 3),
        "encoder.5.weight": (7, 4 * 2 * 2),
        "encoder.7.weight": (3, 7),
        "head.weight": (6, 3),
    }
    assert set(masks) == {name.replace("weight", end) for name in kept for end in ("weight", "bias")}
    for name, (outputs, inputs) in kept.items():
        mask, bias = (
            masks[name].flatten(2) if masks[name].dim() > 2 else masks[name],
            masks[name.replace("weight", "bias")],
        )
        block = torch.zeros_like(mask)
        block[:outputs, :inputs] = True
        assert torch.equal(mask, block)
        assert torch.equal(bias, torch.arange(len(bias)) < outputs)


def test_a_tenth_of_thirty_is_three() -> None:
    policy = learned("vector", "categorical", MLP)
    assert slim(policy, 0.1).spec.network.hidden == (3, 2)


def masks_of(how: str, policy: Policy, share: float) -> dict[str, Tensor]:
    if how == "kels":
        return kels_masks(policy.spec, share)
    return wels_masks(policy.spec, share, torch.Generator().manual_seed(8))


@pytest.mark.parametrize("how", ["kels", "wels"])
@pytest.mark.parametrize("network", [WIDE, replace(WIDE, value="shared")], ids=["plain", "critic"])
def test_reset_keeps_what_the_mask_keeps_and_draws_the_rest_like_fresh_weights(how: str, network: Network) -> None:
    policy = learned("vector", "categorical", network)
    masks, before = masks_of(how, policy, 0.5), weights_of(policy.network)
    reset_weights(policy.network, masks, torch.Generator().manual_seed(1))
    after = weights_of(policy.network)
    other = PolicyNetwork(network, (4,), "categorical", 2)
    other.initialise(torch.Generator().manual_seed(2), for_rl=False)
    fresh = weights_of(other)
    for name, mask in masks.items():
        assert torch.equal(after[name][mask], before[name][mask])
        assert (after[name][~mask] != before[name][~mask]).all()
        if name.endswith("bias"):
            assert not after[name][~mask].any()  # as fresh ones are
        elif (~mask).sum() > 100:
            drawn = after[name][~mask].numpy()
            assert ks_2samp(drawn, fresh[name].flatten().numpy()).pvalue > 0.01
            other_gain = ks_2samp(1.2 * drawn, fresh[name].flatten().numpy())
            assert other_gain.pvalue < 0.01 or len(drawn) < 10_000  # of so many numbers it would be seen


def test_reset_draws_what_a_fresh_network_draws_from_the_same_generator() -> None:
    policy = learned("vector", "gaussian", MLP)
    nothing = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in policy.network.named_parameters()}
    reset_weights(policy.network, nothing, torch.Generator().manual_seed(1))
    fresh = PolicyNetwork(MLP, (4,), "gaussian", 2)
    fresh.initialise(torch.Generator().manual_seed(1), for_rl=False)
    assert_same(weights_of(policy.network), weights_of(fresh))


def test_fresh_weights_are_standardised_on_states_as_a_students_are() -> None:
    policy = learned("pixels", "categorical", CONV)
    policy.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as students are
    seen = torch.from_numpy(states(policy))
    fresh = PolicyNetwork(CONV, policy.spec.observation_shape, "categorical", 6)
    fresh.initialise(torch.Generator().manual_seed(1), for_rl=False)
    fresh.standardise(seen)
    masks, before = masks_of("wels", policy, 0.5), weights_of(policy.network)
    strides = [weight.stride() for weight in policy.network.parameters()]
    reset_weights(policy.network, masks, torch.Generator().manual_seed(1), observation=seen)
    assert [weight.stride() for weight in policy.network.parameters()] == strides
    for name, weight in policy.network.named_parameters():
        want = torch.where(masks[name], before[name], dict(fresh.named_parameters())[name])
        torch.testing.assert_close(weight, want)
        assert torch.equal(weight[masks[name]], before[name][masks[name]])


def test_wels_keeps_single_numbers_with_the_chance_that_it_is_given() -> None:
    spec = learned("vector", "categorical", WIDE).spec
    one, again = (wels_masks(spec, 0.2, torch.Generator().manual_seed(5)) for _ in range(2))
    assert_same(one, again)
    kept, count = one["encoder.2.weight"].sum(), one["encoder.2.weight"].numel()
    assert abs(kept / count - 0.2) < 4 * math.sqrt(0.2 * 0.8 / count)
    other = wels_masks(spec, 0.2, torch.Generator().manual_seed(6))
    assert not torch.equal(one["encoder.2.weight"], other["encoder.2.weight"])


def test_wels_takes_any_network() -> None:
    policy = learned("vector", "q", replace(handmade.TINY, core="lstm", core_width=6, branches="residual"))
    masks, before = masks_of("wels", policy, 0.5), weights_of(policy.network)
    reset_weights(policy.network, masks, torch.Generator().manual_seed(1))
    for name, weight in policy.network.named_parameters():
        assert torch.equal(weight[masks[name]], before[name][masks[name]])
        if name.endswith(("weight_ih", "weight_hh")):
            assert (weight != before[name])[~masks[name]].all()


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name])


def test_a_residual_network_has_residual_blocks_when_slim() -> None:
    small = slim(learned("pixels", "q", handmade.TINY_RESNET), 0.5)
    blocks = [module for module in small.network.modules() if isinstance(module, Residual)]
    assert [block.get_parameter("branch.1.weight").shape[:2] for block in blocks] == [(2, 2)] * 2 + [(3, 3)] * 2


def test_what_cannot_be_split_by_kernels_is_refused() -> None:
    recurrent = replace(handmade.TINY, core="gru", core_width=8)
    policy = learned("vector", "q", recurrent)
    with pytest.raises(MismatchError, match=r"learned has a recurrent core \(gru\): kernel-level splitting"):
        slim(policy, 0.5)
    single = learned("vector", "q", MLP)
    with pytest.raises(MismatchError, match="both has members: kernel-level splitting"):
        kels_masks(combined([single, single], "sum", name="both").spec, 0.5)
    with pytest.raises(RecipeError, match=r"share 0\.99 keeps every unit"):
        slim(single, 0.99)
    with pytest.raises(RecipeError, match=r"share 0\.5 keeps every unit"):
        kels_masks(learned("vector", "q", handmade.LINEAR).spec, 0.5)
    for share in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(RecipeError, match="share must be above 0 and below 1"):
            kels_masks(single.spec, share)
        with pytest.raises(RecipeError, match="share must be above 0 and below 1"):
            wels_masks(single.spec, share, torch.Generator())


@pytest.mark.parametrize("network", [MLP, replace(MLP, core="gru", core_width=5, value="shared")], ids=["mlp", "gru"])
def test_shrink_and_perturb_adds_a_fresh_network_to_a_shrunk_one(network: Network) -> None:
    policy = learned("vector", "gaussian", network)
    before = weights_of(policy.network)
    fresh = PolicyNetwork(network, (4,), "gaussian", 2)
    fresh.initialise(torch.Generator().manual_seed(4), for_rl=False)
    shrink_and_perturb(policy.network, torch.Generator().manual_seed(4), keep=0.4, noise=0.1)
    for name, weight in policy.network.named_parameters():
        want = 0.4 * before[name].double() + 0.1 * dict(fresh.named_parameters())[name].double()
        torch.testing.assert_close(weight.double(), want, rtol=1e-6, atol=1e-7)


def test_shrink_and_perturb_of_1_and_0_changes_nothing_and_of_0_and_1_is_a_fresh_network() -> None:
    policy = learned("vector", "q", MLP)
    before = weights_of(policy.network)
    shrink_and_perturb(policy.network, torch.Generator().manual_seed(4), keep=1.0, noise=0.0)
    assert_same(weights_of(policy.network), before)
    seen = torch.from_numpy(states(policy))
    shrink_and_perturb(policy.network, torch.Generator().manual_seed(4), keep=0.0, noise=1.0, observation=seen)
    fresh = PolicyNetwork(MLP, (4,), "q", 2)
    fresh.initialise(torch.Generator().manual_seed(4), for_rl=False)
    fresh.standardise(seen)
    assert_same(weights_of(policy.network), weights_of(fresh))
    for keep, noise in ((-0.1, 0.1), (1.1, 0.1), (0.5, -0.1), (0.5, math.inf), (math.nan, 0.1)):
        with pytest.raises(RecipeError, match="keep must be from 0 to 1 and noise at least 0"):
            shrink_and_perturb(policy.network, torch.Generator(), keep=keep, noise=noise)


def test_members_begin_anew_each_by_itself_and_frozen_ones_stay() -> None:
    single = learned("vector", "q", MLP)
    policy = combined([single, single], "sum", name="both")
    first, _ = policy.network.parts
    first.requires_grad_(False)
    masks, before = masks_of("wels", policy, 0.5), weights_of(policy.network)
    reset_weights(policy.network, masks, torch.Generator().manual_seed(1))
    fresh = PolicyNetwork(MLP, (4,), "q", 2)
    fresh.initialise(torch.Generator().manual_seed(1), for_rl=False)
    for name, weight in policy.network.named_parameters():
        drawn = dict(fresh.named_parameters())[name.removeprefix("members.1.")] if "members.1" in name else before[name]
        assert torch.equal(weight, torch.where(masks[name], before[name], drawn))
    changed = weights_of(policy.network)
    shrink_and_perturb(policy.network, torch.Generator().manual_seed(2), keep=0.5, noise=0.5)
    for name, weight in policy.network.named_parameters():
        assert torch.equal(weight, changed[name]) == name.startswith("members.0")
