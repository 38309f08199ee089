"""Tests of `rlkd.policy`: networks, what they answer, how an answer becomes an action, the normaliser, `Policy`."""

import dataclasses
import math
from typing import Any

import gymnasium
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from rlkd import recipe
from rlkd.errors import MismatchError, RecipeError
from rlkd.policy import (
    Kind,
    Normaliser,
    Output,
    Policy,
    PolicyNetwork,
    PolicySpec,
    Rule,
    acting_flops,
    acting_parameters,
    decide,
    discrete_logits,
    unflatten,
)
from rlkd.recipe import Network

PIXELS = (4, 84, 84)
STUDENTS = {"nature": 1_693_362, "nature_428k": 427_874, "nature_113k": 113_346, "nature_62k": 61_954}


def make_policy(kind: Kind = "categorical", network: Network | None = None, **changes: Any) -> Policy:
    """A policy with drawn weights: three numbers in, three actions (or dimensions) out."""
    network = network or Network(encoder="mlp", hidden=(8,))
    continuous = kind in ("gaussian", "squashed_gaussian")
    spec = PolicySpec(
        name="test",
        kind=kind,
        network=network,
        observation_shape=(3,),
        observation_dtype="float32",
        actions=3,
        rule=Rule(name="greedy"),
        action_low=(-1.0, -0.5, 0.0) if continuous else (),
        action_high=(1.0, 0.5, 4.0) if continuous else (),
    )
    spec = dataclasses.replace(spec, **changes)
    built = PolicyNetwork(network, spec.observation_shape, kind, spec.actions)
    built.initialise(torch.Generator().manual_seed(1), for_rl=False)
    return Policy(built, spec)


def vectors(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)


def pictures(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, *PIXELS), np.uint8)


def uniforms(rows: int, columns: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, columns))


def categorical(probabilities: list[float], rows: int) -> Output:
    logits = torch.tensor(probabilities).log().expand(rows, -1)
    return Output("categorical", {"logits": logits})


# Networks


@pytest.mark.parametrize(("name", "parameters"), STUDENTS.items())
def test_students_have_the_sizes_of_policy_distillation(name: str, parameters: int) -> None:
    network = PolicyNetwork(recipe.load(name, Network), PIXELS, "q", 18)
    assert acting_parameters(network) == parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("value", ["shared", "separate"])
def test_critics_do_not_count_as_size(value: Any) -> None:
    plain = recipe.load("nature_62k", Network)
    network = PolicyNetwork(dataclasses.replace(plain, value=value), PIXELS, "categorical", 18)
    assert acting_parameters(network) == 61_954
    assert sum(p.numel() for p in network.parameters()) > 61_954
    assert acting_flops(network, PIXELS) == acting_flops(PolicyNetwork(plain, PIXELS, "q", 18), PIXELS)


def test_many_pictures_are_answered_in_passes_in_order() -> None:
    with_critic = dataclasses.replace(recipe.load("nature_62k", Network), value="shared")
    policy = make_policy(network=with_critic, observation_shape=PIXELS, observation_dtype="uint8")
    sizes: list[int] = []
    policy.network.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    pictures = torch.randint(0, 256, (130, *PIXELS), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        in_passes = policy(pictures)
    whole = policy(pictures)  # gradients are wanted of one pass
    assert sizes == [64, 64, 2, 130]
    torch.testing.assert_close(in_passes.flat, whole.flat)
    torch.testing.assert_close(in_passes.value, whole.value)
    torch.testing.assert_close(in_passes.features, whole.features)


def test_flops_are_two_for_each_weight_that_is_used() -> None:
    mlp = PolicyNetwork(Network(encoder="mlp", hidden=(64, 32)), (4,), "q", 2)
    assert acting_flops(mlp, (4,)) == 2 * (4 * 64 + 64 * 32 + 32 * 2)
    positions = (20 * 20 * 4 * 8 * 8 * 16, 9 * 9 * 16 * 4 * 4 * 16, 7 * 7 * 16 * 3 * 3 * 16)
    conv = PolicyNetwork(recipe.load("nature_62k", Network), PIXELS, "q", 6)
    assert acting_flops(conv, PIXELS) == 2 * (sum(positions) + 7 * 7 * 16 * 64 + 64 * 6)


def reference_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """[B, C, H, W] to [B, C', H', W'], float64, no padding."""
    windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.asarray(np.einsum("bchwij,ocij->bohw", windows, weight) + bias[:, None, None])


def test_pixel_network_matches_reference() -> None:
    network = PolicyNetwork(
        dataclasses.replace(recipe.load("nature_62k", Network), value="shared"), PIXELS, "categorical", 5
    )
    network.initialise(torch.Generator().manual_seed(0), for_rl=False)
    with torch.no_grad():
        network.head.bias.normal_(generator=torch.Generator().manual_seed(1))
    pixels = pictures(2)
    weights = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
    x = pixels / 255.0
    for layer, stride in ((0, 4), (2, 2), (4, 1)):
        bias = weights[f"encoder.{layer}.bias"]
        x = np.maximum(reference_conv(x, weights[f"encoder.{layer}.weight"], bias, stride), 0)
    features = np.maximum(x.reshape(2, -1) @ weights["encoder.7.weight"].T + weights["encoder.7.bias"], 0)
    with torch.no_grad():
        output = network(torch.from_numpy(pixels))
    assert output.value is not None
    assert output.features is not None
    np.testing.assert_allclose(output.features.numpy(), features, rtol=1e-4, atol=1e-5)
    want = features @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(output.params["logits"].numpy(), want, rtol=1e-4, atol=1e-5)
    value = features @ weights["critic.weight"].T + weights["critic.bias"]
    np.testing.assert_allclose(output.value.numpy(), value, rtol=1e-4, atol=1e-5)


def test_recurrent_network_matches_reference() -> None:
    policy = make_policy(network=Network(encoder="mlp", hidden=(6,), activation="tanh", core="gru", core_width=5))
    weights = {name: tensor.double().numpy() for name, tensor in policy.network.state_dict().items()}
    steps, state, mine = vectors(4), policy.initial_state(1), np.zeros(5)
    for observation in steps:
        with torch.no_grad():
            output = policy(observation[None], state)
        state = output.state
        x = np.tanh(weights["encoder.0.weight"] @ observation + weights["encoder.0.bias"])
        mine = reference_gru(x, mine, weights)
        want = weights["head.weight"] @ mine + weights["head.bias"]
        np.testing.assert_allclose(output.params["logits"][0].numpy(), want, rtol=1e-4, atol=1e-6)


def test_a_long_short_term_memory_with_layers_behind_it_matches_reference() -> None:
    network = Network(encoder="mlp", hidden=(6,), activation="tanh", core="lstm", core_width=5, core_hidden=(4,))
    policy = make_policy(network=network)
    weights = {name: tensor.double().numpy() for name, tensor in policy.network.state_dict().items()}
    state, hidden, cell = policy.initial_state(1), np.zeros(5), np.zeros(5)
    for observation in vectors(4):
        with torch.no_grad():
            output = policy(observation[None], state)
        state = output.state
        x = np.tanh(weights["encoder.0.weight"] @ observation + weights["encoder.0.bias"])
        hidden, cell = reference_lstm(x, hidden, cell, weights)
        features = np.tanh(weights["core_layers.0.weight"] @ hidden + weights["core_layers.0.bias"])
        want = weights["head.weight"] @ features + weights["head.bias"]
        np.testing.assert_allclose(output.params["logits"][0].numpy(), want, rtol=1e-4, atol=1e-6)
        assert state is not None
        np.testing.assert_allclose(state[0].numpy(), np.concatenate([hidden, cell]), rtol=1e-4, atol=1e-6)
    assert policy.spec.flops == 2 * (3 * 6 + 4 * 5 * (6 + 5) + 5 * 4 + 4 * policy.spec.actions)


def reference_lstm(
    x: np.ndarray, hidden: np.ndarray, cell: np.ndarray, weights: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """One step of Hochreiter and Schmidhuber 1997 as torch defines it: input, forget, cell, output gate."""
    sums = weights["core.weight_ih"] @ x + weights["core.bias_ih"]
    sums = sums + weights["core.weight_hh"] @ hidden + weights["core.bias_hh"]
    enter, forget, new, leave = np.split(sums, 4)
    enter, forget, leave = (1 / (1 + np.exp(-gate)) for gate in (enter, forget, leave))
    cell = forget * cell + enter * np.tanh(new)
    return leave * np.tanh(cell), cell


def reference_gru(x: np.ndarray, state: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """One step of Cho et al. 2014 as torch defines it: reset, update, new gate."""

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-z)))

    inputs = np.split(weights["core.weight_ih"] @ x + weights["core.bias_ih"], 3)
    hidden = np.split(weights["core.weight_hh"] @ state + weights["core.bias_hh"], 3)
    reset, update = (sigmoid(i + h) for i, h in zip(inputs[:2], hidden[:2], strict=True))
    new = np.tanh(inputs[2] + reset * hidden[2])
    return np.asarray((1 - update) * new + update * state)


def test_initial_weights_come_from_the_generator_and_start_uniform_for_reinforcement_learning() -> None:
    def drawn(seed: int) -> PolicyNetwork:
        network = PolicyNetwork(Network(encoder="mlp", value="separate"), (3,), "categorical", 4)
        network.initialise(torch.Generator().manual_seed(seed), for_rl=True)
        return network

    first, again, other = drawn(0), drawn(0), drawn(1)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.head.weight, other.head.weight)
    with torch.no_grad():
        probabilities = first(torch.from_numpy(vectors(50))).params["logits"].softmax(-1)
    assert (probabilities - 0.25).abs().max() < 0.02


@pytest.mark.parametrize("name", ["nature_62k", "mlp_16"])
def test_a_standardised_network_answers_with_mean_0_and_deviation_1_in_every_unit(name: str) -> None:
    shape = PIXELS if name.startswith("nature") else (3,)
    network = PolicyNetwork(recipe.load(name, Network), shape, "categorical", 5)
    network.initialise(torch.Generator().manual_seed(0), for_rl=False)
    observation = torch.from_numpy(pictures(40) if network.pixels else vectors(40) * 7 + 3)
    network.standardise(observation)
    x = observation.float().div(255) if network.pixels else observation
    with torch.no_grad():
        for module in network.encoder:
            x = module(x)
            if isinstance(module, nn.Conv2d | nn.Linear):
                by_unit = x.transpose(0, 1).flatten(1)
                assert by_unit.mean(1).abs().max() < 1e-4
                assert (by_unit.std(1) - 1).abs().max() < 1e-3


def test_pixels_that_all_share_a_brightness_move_no_unit_of_a_standardised_network() -> None:
    network = PolicyNetwork(recipe.load("nature_62k", Network), PIXELS, "categorical", 5)
    network.initialise(torch.Generator().manual_seed(0), for_rl=False)
    network.standardise(torch.from_numpy(pictures(40)))
    dark, bright = (torch.full((1, *PIXELS), level, dtype=torch.uint8) for level in (30, 220))
    with torch.no_grad():
        assert (network(dark).flat - network(bright).flat).abs().max() < 1e-4


def test_units_that_see_no_difference_stay_finite_when_standardised() -> None:
    network = PolicyNetwork(recipe.load("nature_62k", Network), PIXELS, "categorical", 5)
    network.initialise(torch.Generator().manual_seed(0), for_rl=False)
    network.standardise(torch.full((8, *PIXELS), 87, dtype=torch.uint8))
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_network_refuses_observations_that_it_cannot_read() -> None:
    with pytest.raises(MismatchError, match=r"encoder 'conv' cannot read observations of shape \[3\]"):
        PolicyNetwork(recipe.load("nature", Network), (3,), "q", 2)
    with pytest.raises(MismatchError, match="too small"):
        PolicyNetwork(recipe.load("nature", Network), (4, 20, 20), "q", 2)


# Answers and rules


@pytest.mark.parametrize("kind", ["categorical", "q", "gaussian", "squashed_gaussian"])
def test_flat_answers_read_back(kind: Kind) -> None:
    with torch.no_grad():
        output = make_policy(kind)(vectors(5))
    back = unflatten(kind, output.flat)
    assert back.keys() == output.params.keys()
    assert all(torch.equal(back[name], output.params[name]) for name in back)
    if kind in ("gaussian", "squashed_gaussian"):
        with pytest.raises(ValueError, match="no discrete actions"):
            discrete_logits(kind, output.params)


def test_sampled_actions_have_the_probabilities_of_the_answer() -> None:
    probabilities, rows = [0.5, 0.3, 0.0, 0.2], 40_000
    action = decide("categorical", categorical(probabilities, rows).numpy(), Rule(name="sampled"), uniforms(rows))
    counts = np.bincount(action, minlength=4)
    assert counts[2] == 0
    assert action.dtype == np.int64
    assert scipy.stats.chisquare(counts[[0, 1, 3]], rows * np.array([0.5, 0.3, 0.2])).pvalue > 1e-3


def test_an_impossible_action_is_not_sampled_at_either_end_of_the_unit_interval() -> None:
    edges = np.array([[0.0, 0.0], [1 - 2**-53, 0.0]])
    assert decide("categorical", categorical([0.0, 1.0, 0.0], 2).numpy(), Rule(name="sampled"), edges).tolist() == [
        1,
        1,
    ]


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=6), st.integers(0, 99))
def test_greedy_takes_the_first_of_the_best(values: list[float], seed: int) -> None:
    for kind, name in (("categorical", "logits"), ("q", "q")):
        output = Output(kind, {name: torch.tensor([values])})  # type: ignore[arg-type]  # a Kind, says the loop
        action = decide(output.kind, output.numpy(), Rule(name="greedy"), uniforms(1, seed=seed))
        assert action.tolist() == [values.index(max(values))]


def test_epsilon_greedy_is_uniform_that_often_and_greedy_otherwise() -> None:
    rows, epsilon = 40_000, 0.3
    output = Output("q", {"q": torch.tensor([0.0, 2.0, 1.0, -1.0]).expand(rows, -1)})
    counts = np.bincount(
        decide(output.kind, output.numpy(), Rule(name="epsilon_greedy", epsilon=epsilon), uniforms(rows)), minlength=4
    )
    want = rows * (np.full(4, epsilon / 4) + np.array([0, 1 - epsilon, 0, 0]))
    assert scipy.stats.chisquare(counts, want).pvalue > 1e-3


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, math.nan])
def test_epsilon_is_a_probability(epsilon: float) -> None:
    with pytest.raises(RecipeError, match="epsilon must be in"):
        Rule(name="epsilon_greedy", epsilon=epsilon)


def test_gaussian_samples_have_mean_and_deviation_of_the_answer_and_are_independent() -> None:
    rows = 20_000
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.0, math.log(0.1)])
    output = Output("gaussian", {"mean": mean.expand(rows, -1), "log_std": log_std.expand(rows, -1)})
    action = decide(output.kind, output.numpy(), Rule(name="sampled"), uniforms(rows, 4))
    assert action.dtype == np.float32
    for column, loc, scale in ((0, 1.0, 1.0), (1, -2.0, 0.1)):
        assert scipy.stats.kstest(action[:, column], "norm", args=(loc, scale)).pvalue > 1e-3
    assert abs(np.corrcoef(action.T)[0, 1]) < 0.03
    np.testing.assert_array_equal(
        decide(output.kind, output.numpy(), Rule(name="greedy"), uniforms(rows, 4))[0], mean.numpy()
    )


# Policies


@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_continuous_actions_stay_within_the_bounds_and_reach_them(kind: Kind, deterministic: bool) -> None:
    policy = make_policy(kind)
    action, _ = policy.predict(20 * vectors(500), deterministic=deterministic)
    low, high = np.array(policy.spec.action_low), np.array(policy.spec.action_high)
    assert action.shape == (500, 3)
    assert action.dtype == np.float32
    assert (action >= low).all()
    assert (action <= high).all()
    assert (action.min(0) < low + 0.1).all()
    assert (action.max(0) > high - 0.1).all()


def test_squashed_actions_are_the_scaled_hyperbolic_tangent() -> None:
    policy, observation = make_policy("squashed_gaussian"), vectors(6)
    with torch.no_grad():
        mean = policy(observation).params["mean"].double().numpy()
    want = np.array([-1, -0.5, 0]) + (np.tanh(mean) + 1) / 2 * np.array([2, 1, 4])
    np.testing.assert_allclose(policy.predict(observation)[0], want, rtol=1e-5, atol=1e-6)


def test_the_rule_of_the_policy_decides_unless_the_caller_does() -> None:
    observation = vectors(1).repeat(400, axis=0)
    greedy, sampled = make_policy(), make_policy(rule=Rule(name="sampled"))
    best = greedy.predict(observation)[0][0]
    assert set(greedy.predict(observation)[0]) == {best}
    assert set(sampled.predict(observation)[0]) == {0, 1, 2}
    assert set(greedy.predict(observation, deterministic=False)[0]) == {0, 1, 2}
    assert set(sampled.predict(observation, deterministic=True)[0]) == {best}


def test_a_sampled_action_of_q_values_is_greedy_but_for_some_uniform_ones() -> None:
    observation = vectors(1).repeat(2000, axis=0)
    teacher = make_policy("q")
    (best,) = set(teacher.predict(observation, deterministic=True)[0])
    assert 0.01 < (teacher.predict(observation, deterministic=False)[0] != best).mean() < 0.06
    bold = make_policy("q", rule=Rule(name="epsilon_greedy", epsilon=0.9))
    assert 0.5 < (bold.predict(observation, deterministic=False)[0] != best).mean() < 0.7


def test_pixel_answers_keep_gaps_that_bfloat16_does_not_resolve() -> None:
    network = PolicyNetwork(recipe.load("nature_62k", Network), PIXELS, "q", 3)
    network.initialise(torch.Generator().manual_seed(0), for_rl=False)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([20.0, 20.02, 20.01]))
        with torch.autocast("cpu", torch.bfloat16):
            answer = network(torch.zeros(1, *PIXELS, dtype=torch.uint8)).flat
    np.testing.assert_allclose(answer.numpy(), [[20.0, 20.02, 20.01]], rtol=1e-6)


def test_the_seed_repeats_the_samples() -> None:
    policy, observation = make_policy(rule=Rule(name="sampled")), vectors(200)
    policy.seed(5)
    first, following = (policy.predict(observation)[0].tolist() for _ in range(2))
    policy.seed(5)
    assert policy.predict(observation)[0].tolist() == first
    assert following != first


@pytest.mark.parametrize("kind", ["categorical", "q", "gaussian", "squashed_gaussian"])
def test_a_single_observation_gives_the_action_of_its_batch(kind: Kind) -> None:
    policy, observation = make_policy(kind), vectors(7)
    batch, state = policy.predict(observation)
    singles = [policy.predict(row)[0] for row in observation]
    assert state is None
    assert np.shape(singles[0]) == batch.shape[1:]
    np.testing.assert_allclose(np.stack(singles), batch, rtol=1e-5, atol=1e-6)


def test_pixels_may_come_with_their_channels_last() -> None:
    network = recipe.load("nature_62k", Network)
    policy = make_policy(network=network, observation_shape=PIXELS, observation_dtype="uint8")
    pixels = pictures(6)
    first, _ = policy.predict(pixels)
    last, _ = policy.predict(np.moveaxis(pixels, 1, -1))
    alone, _ = policy.predict(np.moveaxis(pixels[3], 0, -1))
    assert first.tolist() == last.tolist()
    assert len(set(first.tolist())) > 1
    assert alone == first[3]


def test_observations_of_another_shape_are_refused() -> None:
    policy = make_policy()
    with pytest.raises(MismatchError, match=r"reads observations of shape \[3\], got \[2, 4\]"):
        policy.predict(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"observation must be \['batch', 3\], got \[3\]"):
        policy(np.zeros(3, np.float32))


def test_a_recurrent_policy_wants_its_state() -> None:
    policy = make_policy(network=Network(encoder="mlp", hidden=(8,), core="gru", core_width=5))
    with pytest.raises(ValueError, match="needs its state"):
        policy(vectors(2))
    with torch.no_grad():
        output = policy(vectors(2), policy.initial_state(2))
    assert output.state is not None
    assert output.state.shape == (2, 5)
    assert make_policy().initial_state(2) is None


def test_predict_carries_the_state_and_a_new_episode_clears_it() -> None:
    policy = make_policy("gaussian", Network(encoder="mlp", hidden=(8,), core="gru", core_width=5))
    one, two = vectors(2, seed=1), vectors(2, seed=2)
    _, state = policy.predict(one)
    assert state is not None
    carried, after = policy.predict(two, state)
    fresh, after_fresh = policy.predict(two)
    mixed, after_mixed = policy.predict(two, state, episode_start=np.array([True, False]))
    assert after is not None
    assert after_fresh is not None
    assert after_mixed is not None
    assert np.abs(after - after_fresh).min(axis=1).max() > 0
    np.testing.assert_array_equal(mixed, [fresh[0], carried[1]])
    np.testing.assert_array_equal(after_mixed, [after_fresh[0], after[1]])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_vectors_of_any_number_type_are_read_as_float32(dtype: type) -> None:
    policy = make_policy()
    observation = np.arange(6).reshape(2, 3)
    with torch.no_grad():
        want = policy(observation.astype(np.float32)).flat
        got = policy(observation.astype(dtype)).flat
    assert torch.equal(want, got)


def test_size_and_hash_in_the_record_are_those_of_the_network() -> None:
    policy = make_policy()
    numbers = 3 * 8 + 8 + 8 * 3 + 3
    assert (policy.spec.parameters, policy.spec.weight_bytes) == (numbers, 4 * numbers)
    assert policy.spec.flops == 2 * (3 * 8 + 8 * 3)
    other = make_policy()
    assert other.spec.hash == policy.spec.hash
    with torch.no_grad():
        other.network.head.bias[0] += 1e-7
    assert Policy(other.network, other.spec).spec.hash != policy.spec.hash
    assert make_policy(name="another").spec.hash != policy.spec.hash


# Normaliser


@given(
    st.lists(
        st.tuples(st.floats(-1e3, 1e3), st.floats(1e-6, 1e6), st.floats(-1e4, 1e4, width=32)),
        min_size=1,
        max_size=5,
    ),
    st.floats(0.5, 20),
)
def test_normaliser_matches_reference(rows: list[tuple[float, float, float]], limit: float) -> None:
    mean, variance, values = zip(*rows, strict=True)
    got = Normaliser(mean=mean, variance=variance, limit=limit, epsilon=1e-8)(np.array([values], np.float32))
    want = [
        min(max((x - m) / math.sqrt(v + 1e-8), -limit), limit) for x, m, v in zip(values, mean, variance, strict=True)
    ]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0], want, rtol=1e-6, atol=1e-30)


def test_a_policy_whitens_before_its_network_and_refuses_lengths_that_differ() -> None:
    normaliser = Normaliser(mean=(1.0, -2.0, 0.5), variance=(4.0, 0.25, 1.0), limit=1.5)
    plain, whitening = make_policy(), make_policy(normaliser=normaliser)
    observation = vectors(5)
    with torch.no_grad():
        assert torch.equal(whitening(observation).flat, plain(normaliser(observation)).flat)
        assert not torch.equal(whitening(observation).flat, plain(observation).flat)
    with pytest.raises(RecipeError, match="one length"):
        Normaliser(mean=(1.0,), variance=(1.0, 2.0))


# Other people's tools


@pytest.mark.parametrize("core", ["none", "gru", "lstm"])
def test_evaluate_policy_of_stable_baselines3_runs_unchanged(core: Any) -> None:
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    network = Network(encoder="mlp", hidden=(8,), core=core, core_width=5)
    policy = make_policy(network=network, observation_shape=(4,), actions=2)
    model: Any = policy  # no BaseAlgorithm, but it has the one method that counts
    for num_envs, episodes in ((1, 1), (2, 4)):
        env = make_vec_env("CartPole-v1", n_envs=num_envs, seed=0)
        scores, lengths = evaluate_policy(model, env, n_eval_episodes=episodes, return_episode_rewards=True)
        env.close()
        assert isinstance(scores, list)
        assert isinstance(lengths, list)
        assert scores == [float(length) for length in lengths]
        assert len(scores) == episodes
        assert num_envs == 2 or scores == [_score_by_hand(policy)]


def _score_by_hand(policy: Policy) -> float:
    """CartPole from the first seed that `make_vec_env` uses, played in a plain loop."""
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    score, state = 0.0, None
    while True:
        action, state = policy.predict(observation, state)
        observation, reward, terminated, truncated, _ = env.step(action)
        score += float(reward)
        if terminated or truncated:
            return score
