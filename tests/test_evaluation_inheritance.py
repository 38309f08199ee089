"""Tests of `rlkd.evaluation.inheritance`: what a child has of its parent, put together from parts tested elsewhere."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlkd.data import JsonDict
from rlkd.errors import MismatchError
from rlkd.evaluation import READING, agreement, answers, inheritance, mean_kl, play
from rlkd.evaluation.agreement import BURN_IN
from rlkd.evaluation.features import effective_rank, layer_features, linear_cka
from rlkd.evaluation.inheritance import LAYER_STATES
from rlkd.policy import Kind, Policy
from rlkd.recipe import Network
from rlkd.terms import TEMPERATURE
from tests import reference
from tests.handmade import TINY, cartpole_teacher, environment, policy

CARTPOLE = environment("cartpole", frame_cap=200)
PENDULUM = environment("pendulum", frame_cap=40)
RECURRENT = Network(encoder="mlp", hidden=(8,), core="gru", core_width=8)
STRETCH = BURN_IN + 8
PLAYER = policy(CARTPOLE, "categorical", TINY, rule="sampled")
STATES = play(PLAYER, episodes=8, keep_states=96).states
OTHERS = play(PLAYER, episodes=4, keep_states=60, first_seed=77).states * np.float32(3)


def made(kind: Kind = "categorical", seed: int = 0, network: Network = TINY) -> Policy:
    return policy(CARTPOLE, kind, network, seed=seed, sharpness=0.05 if kind == "q" else 3)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All that is in a record, by the last key above it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, key)
    else:
        yield key, value


@pytest.mark.parametrize(
    "itself",
    [
        pytest.param(cartpole_teacher(), id="plays well"),
        pytest.param(cartpole_teacher("q"), id="Q-values"),
        pytest.param(made(), id="hidden layer"),
        pytest.param(policy(PENDULUM, "gaussian", TINY), id="gaussian"),
    ],
)
def test_a_policy_has_everything_of_itself(itself: Policy) -> None:
    states = play(itself, episodes=4, keep_states=40).states
    found = inheritance(itself, itself, itself, states, states, siblings=[itself], seed=0)
    for section in (found["parent"], found["first"]):
        assert section["agreement_teacher_states"] == section["agreement_student_states"] == 1
        assert section["kl_teacher_states"] == pytest.approx(0, abs=1e-12)
        assert section["kl_student_states"] == pytest.approx(0, abs=1e-12)
        assert section["feature_cka"] == pytest.approx(1)
        assert [layer["cka"] for layer in section["layer_cka"]] == pytest.approx([1] * len(itself.spec.network.hidden))
        assert [part["distance"] for part in section["novelty_quarters"]] == [0] * 4
        if itself.spec.discrete:
            assert [part["agreement"] for part in section["novelty_quarters"]] == [1] * 4
            assert section["calibration_error"] == pytest.approx(0, abs=1e-12)
            assert section["gradient_variance_soft"] == 0
            assert section["nll"] == pytest.approx(found["child"]["entropy_teacher_states"])
    if itself.spec.discrete:
        assert found["siblings"] == pytest.approx({"disagreement": 0, "jensen_shannon": 0}, abs=1e-12)


@pytest.mark.parametrize("kind", ["categorical", "q"])
def test_a_childs_numbers_are_those_of_the_parts(kind: Kind) -> None:
    child, parent, first, sibling = made(seed=1), made(kind, seed=2), made(kind, seed=3), made(seed=4)
    found = inheritance(child, parent, first, STATES, OTHERS, siblings=[sibling], seed=0)
    for teacher, section in ((parent, found["parent"]), (first, found["first"])):
        for states, where in ((STATES, "teacher_states"), (OTHERS, "student_states")):
            assert section[f"agreement_{where}"] == agreement(child, teacher, states)
            kl = mean_kl(child, teacher, states, teacher_temperature=TEMPERATURE[kind])
            assert section[f"kl_{where}"] == pytest.approx(kl, rel=1e-12)
        tempered = (answers(teacher, STATES).double() / TEMPERATURE[kind]).tolist()
        entropy = np.mean([reference.entropy(row) for row in tempered])
        assert section["nll"] == pytest.approx(section["kl_teacher_states"] + entropy)
        assert section["nll_sampled"] == pytest.approx(section["nll"], rel=0.3)
        layer = [layer_features(each, STATES)["hidden 1"] for each in (child, teacher)]
        assert section["layer_cka"] == [{"layer": "hidden 1", "cka": linear_cka(*layer)}]
        assert section["feature_cka"] == linear_cka(*layer)  # they are the last layer's here
        shares = [section[f"knowledge_{name}"] for name in ("smoothing", "rescaling", "relation")]
        assert sum(shares) == pytest.approx(1)
        assert 0 < section["gradient_variance_ratio"] < 1
        ratio = section["gradient_variance_soft"] / section["gradient_variance_hard"]
        assert section["gradient_variance_ratio"] == ratio
    own = found["child"]
    assert own["effective_rank"] == effective_rank(layer_features(child, STATES)["hidden 1"])
    for states, where in ((STATES, "teacher_states"), (OTHERS, "student_states")):
        slow = np.mean([reference.entropy(row) for row in answers(child, states).double().tolist()])
        assert own[f"entropy_{where}"] == pytest.approx(slow)
    assert found["siblings"]["disagreement"] == pytest.approx(1 - agreement(child, sibling, STATES))
    assert (own["parameters"], own["flops"]) == (child.spec.parameters, child.spec.flops)
    assert (found["states"], found["own_states"], found["skipped"]) == (96, 60, {})
    assert found["parent"] != found["first"]


def test_all_generations_are_compared_with_the_first_teacher_on_its_own_states() -> None:
    child, parent, first = made(seed=1), made(seed=2), made(seed=3)
    found = inheritance(child, parent, first, STATES, OTHERS, first_states=OTHERS[:48], seed=0)
    directly = inheritance(child, first, first, OTHERS[:48], OTHERS, seed=0)
    assert found["first"] == directly["first"]
    assert found["child"]["effective_rank"] == directly["child"]["effective_rank"]
    assert found["parent"] == inheritance(child, parent, parent, STATES, OTHERS, seed=0)["parent"]
    with pytest.raises(ValueError, match="whole stretches"):
        inheritance(child, parent, first, STATES, OTHERS, first_states=OTHERS[:2], seed=0)


def test_a_q_valued_child_is_taken_at_its_own_temperature() -> None:
    child, parent = made("q", seed=1), made(seed=2)
    found = inheritance(child, parent, parent, STATES, OTHERS, seed=0)
    pairs = zip(*(answers(each, STATES).double().tolist() for each in (parent, child)), strict=True)
    slow = np.mean([reference.tempered_kl(theirs, ours, 1.0, 0.01) for theirs, ours in pairs])
    assert found["child"]["temperature"] == 0.01
    assert found["parent"]["kl_teacher_states"] == pytest.approx(slow)


def test_only_what_is_drawn_depends_on_the_seed() -> None:
    child, parent, first = (made(seed=seed) for seed in (1, 2, 3))
    one, again, other = (inheritance(child, parent, first, STATES, OTHERS, seed=seed) for seed in (0, 0, 1))
    assert one == again
    changed = {key for key in one["parent"] if one["parent"][key] != other["parent"][key]}
    assert changed == {"nll_sampled", "calibration_error_sampled"}


def test_agreement_falls_where_the_childs_states_are_new() -> None:
    parent = cartpole_teacher()
    child = cartpole_teacher()
    with torch.no_grad():  # prefers the other side where the cart is far right, which the parent has never been
        child.network.head.weight[:, 0] *= -40
    child = Policy(child.network, child.spec)
    near = STATES * np.array([0, 1, 1, 1], np.float32)
    far = near[:48] + np.array([2.4, 0, 0, 0], np.float32)
    found = inheritance(child, parent, parent, near, np.concatenate([far, near[:48]]), seed=0)["parent"]
    quarters = found["novelty_quarters"]
    assert [part["distance"] for part in quarters[:2]] == [0, 0]
    assert quarters[2]["distance"] > 1
    assert [part["agreement"] for part in quarters[:2]] == [1, 1]
    assert quarters[3]["agreement"] < 0.9
    mean = np.mean([part["agreement"] for part in quarters])  # of equal size
    assert found["agreement_student_states"] == pytest.approx(mean)
    assert found["kl_student_states"] == pytest.approx(np.mean([part["kl"] for part in quarters]))


def test_networks_of_other_shapes_are_compared_by_their_last_features_alone() -> None:
    child, parent = made(network=Network(encoder="mlp", hidden=(8, 8))), made(seed=2)
    critic = policy(CARTPOLE, "categorical", replace(TINY, value="shared"), seed=3)
    found = inheritance(child, parent, critic, STATES, OTHERS, seed=0)
    for section in ("parent", "first"):
        assert found[section]["layer_cka"] is None
        assert "different shapes" in found["skipped"][f"{section}.layer_cka"]
        assert 0 < found[section]["feature_cka"] < 1
    # A critic does not act.
    assert inheritance(critic, parent, parent, STATES, OTHERS, seed=0)["parent"]["layer_cka"] is not None


def test_layers_of_many_states_are_compared_on_some_of_them() -> None:
    child, parent = made(seed=1), made(seed=2)
    states = np.random.default_rng(0).normal(size=(3 * LAYER_STATES + 1, 4)).astype(np.float32)
    found = inheritance(child, parent, parent, states, OTHERS, seed=0)["parent"]
    every = [layer_features(each, states)["hidden 1"] for each in (child, parent)]
    assert found["feature_cka"] == linear_cka(*every)
    assert found["layer_cka"][0]["cka"] != found["feature_cka"]
    assert found["layer_cka"][0]["cka"] == pytest.approx(found["feature_cka"], abs=0.03)


def test_a_layer_that_says_the_same_to_all_states_has_no_alignment() -> None:
    child, parent = made(seed=1), made(seed=2)
    with torch.no_grad():
        child.network.get_parameter("encoder.0.weight").zero_()
    found = inheritance(child, parent, parent, STATES, OTHERS, seed=0)
    assert found["parent"]["layer_cka"] == [{"layer": "hidden 1", "cka": None}]
    assert found["parent"]["feature_cka"] is None
    assert found["skipped"]["parent.feature_cka"] == "it does not vary here"
    assert found["child"]["effective_rank"] == 0


def test_recurrent_policies_are_compared_in_stretches() -> None:
    child, parent, first = made(seed=1, network=RECURRENT), made(seed=2, network=RECURRENT), made(seed=3)
    states = play(PLAYER, episodes=6, keep_states=6 * STRETCH, stretch=STRETCH).states
    found = inheritance(child, parent, first, states, states, stretch=STRETCH, seed=0)
    assert found["states"] == len(states) * (STRETCH - BURN_IN) // STRETCH
    for teacher, section in ((parent, "parent"), (first, "first")):
        assert found[section]["layer_cka"] is None
        assert "recurrent" in found["skipped"][f"{section}.layer_cka"]
        assert 0 < found[section]["feature_cka"] < 1
        kl = mean_kl(child, teacher, states, teacher_temperature=1.0, stretch=STRETCH)
        assert found[section]["kl_teacher_states"] == pytest.approx(kl, rel=1e-12)
    with pytest.raises(ValueError, match=f"stretches of more than {BURN_IN} states, got 1"):
        inheritance(child, parent, first, states, states, seed=0)


def test_of_continuous_policies_only_what_needs_no_choices_is_said() -> None:
    child, parent, sibling = (policy(PENDULUM, "gaussian", TINY, seed=seed) for seed in (1, 2, 3))
    states = play(parent, episodes=3, keep_states=40).states
    found = inheritance(child, parent, parent, states, states[:20], siblings=[sibling], seed=0)
    section = found["parent"]
    assert section["agreement_teacher_states"] == pytest.approx(agreement(child, parent, states), rel=1e-5)
    kl = mean_kl(child, parent, states, teacher_temperature=1.0)
    assert section["kl_teacher_states"] == pytest.approx(kl, rel=1e-5)
    assert [part["agreement"] for part in section["novelty_quarters"]] == [None] * 4
    assert min(part["kl"] for part in section["novelty_quarters"]) > 0
    said = {key for key, value in section.items() if value is not None}
    alike = {f"{name}_{where}_states" for name in ("agreement", "kl") for where in ("teacher", "student")}
    assert said == alike | {"feature_cka", "layer_cka", "novelty_quarters"}
    missing = {name for name, values in found.items() if isinstance(values, dict) and name != "skipped"}
    nothing = {f"{name}.{key}" for name in missing for key, value in found[name].items() if value is None}
    assert nothing == set(found["skipped"])
    assert found["siblings"] == {"disagreement": None, "jensen_shannon": None}


def test_every_number_has_a_sentence_and_every_sentence_a_number() -> None:
    child, parent = made(seed=1), made(seed=2)
    found = inheritance(child, parent, parent, STATES, OTHERS, siblings=[parent], seed=0)
    written: JsonDict = json.loads(json.dumps(found, allow_nan=False))
    assert written == found
    assert written["parent"] == written["first"]
    numbers = {key for key, _ in leaves({name: written[name] for name in ("child", "parent", "siblings")})} - {"layer"}
    assert numbers | {"layer_cka", "novelty_quarters"} == set(READING)
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in READING.values())


def test_what_cannot_be_compared_is_refused() -> None:
    child = made()
    with pytest.raises(MismatchError, match="have different actions"):
        inheritance(child, policy(PENDULUM, "gaussian", TINY), child, STATES, STATES, seed=0)
    acrobot = policy(environment("acrobot"), "categorical", TINY)
    with pytest.raises(MismatchError, match="Acrobot.* have different actions"):
        inheritance(child, child, child, STATES, STATES, siblings=[acrobot], seed=0)
    for states, own_states in ((STATES[:3], STATES), (STATES, STATES[:3])):
        with pytest.raises(ValueError, match="at least four whole stretches of 1, got 3 states"):
            inheritance(child, child, child, states, own_states, seed=0)
    with pytest.raises(ValueError, match="whole stretches of 10, got 96 states"):
        inheritance(child, child, child, STATES, STATES, stretch=10, seed=0)
