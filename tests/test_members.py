"""Tests of networks of members: what they answer, their records, files and sizes, where they go, what is refused."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import rlkd
from rlkd import recipe
from rlkd.cli import main
from rlkd.distillation import distill
from rlkd.errors import ExportError, MismatchError, PolicyFileError, RecipeError
from rlkd.evaluation.agreement import agreement, mean_kl
from rlkd.exporting.graph import onnx_bytes
from rlkd.learn.ppo import policy_spec as ppo_spec
from rlkd.learn.values import value_spec as dqn_spec
from rlkd.policy import Kind, Normaliser, Policy, PolicyNetwork, acting_parameters, combined, load_policy
from rlkd.recipe import Combine, Dqn, Environment, Import, Network, Part, Ppo, Term
from tests import handmade
from tests.commands import Capture, printed
from tests.test_policy_file import PLAIN, forge, make_policy, same

TINY, PIXELS = handmade.TINY, handmade.TINY_PIXELS
OTHER = Network(encoder="mlp", hidden=(5, 6), branches="residual")
CASES = [
    pytest.param("cartpole", "categorical", (TINY, OTHER, handmade.LINEAR), "mean", id="ensemble"),
    pytest.param("cartpole", "categorical", (TINY, OTHER, handmade.LINEAR), "sum", id="sum of logits"),
    pytest.param("cartpole", "q", (TINY, OTHER), "mean", id="mean of Q-values"),
    pytest.param("cartpole", "q", (TINY, OTHER), "sum", id="sum of Q-values"),
    pytest.param("pictures", "categorical", (PIXELS, handmade.TINY_RESNET), "mean", id="pixels"),
]


def place(name: str) -> Environment:
    return handmade.environment(name, frame_cap=60, episodes=3)


def members(name: str, kind: Kind, networks: tuple[Network, ...]) -> list[Policy]:
    """Policies of different random weights for CartPole, or for small pictures from nowhere."""
    if name == "cartpole":
        where = place("cartpole")
        return [handmade.policy(where, kind, each, seed=seed, sharpness=3) for seed, each in enumerate(networks)]
    spec = replace(PLAIN, kind=kind, observation_shape=(3, 36, 40), observation_dtype="uint8")
    return [make_policy(replace(spec, network=network), seed) for seed, network in enumerate(networks)]


def states(policy: Policy, rows: int = 40) -> np.ndarray:
    generator = np.random.default_rng(0)
    if policy.spec.observation_dtype == "uint8":
        return generator.integers(0, 256, (rows, *policy.spec.observation_shape), np.uint8)
    return generator.normal(size=(rows, *policy.spec.observation_shape)).astype(np.float32)


def wanted(policies: list[Policy], x: np.ndarray, kind: Kind, combine: Combine) -> np.ndarray:
    """The formulas in float64, from what each member answers alone."""
    answers = np.stack([policy.answer(x).params[answer_name(kind)].astype(np.float64) for policy in policies])
    if combine == "mean" and kind == "categorical":
        answers = np.exp(answers) / np.exp(answers).sum(-1, keepdims=True)
    total: np.ndarray = answers.sum(0) if combine == "sum" else answers.sum(0) / len(policies)
    return np.log(total) if combine == "mean" and kind == "categorical" else total


@pytest.mark.parametrize(("name", "kind", "networks", "combine"), CASES)
def test_members_answer_together_by_the_formula(
    name: str, kind: Kind, networks: tuple[Network, ...], combine: Combine
) -> None:
    policies = members(name, kind, networks)
    together = combined(policies, combine, name="together")
    x = states(together)
    (found,) = together.answer(x).params.values()
    want = wanted(policies, x, kind, combine)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert np.abs(found - wanted(policies, x, kind, "mean" if combine == "sum" else "sum")).max() > 0.01
    np.testing.assert_array_equal(together.predict(x, deterministic=True)[0], want.argmax(-1))


@pytest.mark.parametrize(("name", "kind", "networks", "combine"), CASES)
def test_every_number_of_every_member_counts(
    name: str, kind: Kind, networks: tuple[Network, ...], combine: Combine
) -> None:
    policies = members(name, kind, networks)
    spec = combined(policies, combine, name="together").spec
    assert spec.parameters == sum(policy.spec.parameters for policy in policies)
    assert spec.weight_bytes == sum(policy.spec.weight_bytes for policy in policies)
    assert spec.flops == sum(policy.spec.flops for policy in policies)
    assert spec.parents == tuple(policy.spec.hash for policy in policies)
    assert (spec.name, spec.network.members, spec.network.combine) == ("together", networks, combine)
    assert (spec.environment, spec.rule) == (policies[0].spec.environment, policies[0].spec.rule)


@pytest.mark.parametrize(("name", "kind", "networks", "combine"), CASES)
def test_a_policy_of_members_survives_its_file(
    name: str, kind: Kind, networks: tuple[Network, ...], combine: Combine, tmp_path: Path
) -> None:
    policy = combined(members(name, kind, networks), combine, name="together")
    policy.save(tmp_path / "p.safetensors")
    again = load_policy(tmp_path / "p.safetensors")
    assert same(again, policy)
    assert again.spec.hash == policy.spec.hash
    x = states(policy)
    np.testing.assert_array_equal(again.answer(x).params[answer_name(kind)], policy.answer(x).params[answer_name(kind)])
    half = policy.half()
    half.save(tmp_path / "half.safetensors")
    assert same(load_policy(tmp_path / "half.safetensors"), half)
    assert half.spec.weight_bytes == policy.spec.weight_bytes // 2


def answer_name(kind: Kind) -> str:
    return "q" if kind == "q" else "logits"


@pytest.mark.parametrize("kind", ["categorical", "q"])
def test_one_member_together_is_that_member(kind: Kind) -> None:
    (single,) = members("cartpole", kind, (TINY,))
    x = states(single)
    name = answer_name(kind)
    own = single.answer(x).params[name]
    np.testing.assert_array_equal(combined([single], "sum", name="one").answer(x).params[name], own)
    mean = combined([single], "mean", name="one").answer(x).params[name]
    own = own if kind == "q" else own - np.log(np.exp(own.astype(np.float64)).sum(-1, keepdims=True))
    np.testing.assert_allclose(mean, own, atol=1e-6)


def test_an_ensemble_of_certain_members_has_finite_answers() -> None:
    """Each is sure of another action, far beyond what a probability in float32 can show."""
    sure = [handmade.always(action, handmade.cartpole_teacher()) for action in (0, 1)]
    with torch.no_grad():
        for policy in sure:
            policy.network.head.bias.mul_(1e3)
    together = combined(sure, "mean", name="torn")
    (found,) = together.answer(np.zeros((1, 4), np.float32)).params.values()
    np.testing.assert_allclose(found, [[math.log(0.5)] * 2], rtol=1e-6)


def test_members_are_copies_and_keep_no_critic() -> None:
    critic = members("cartpole", "categorical", (replace(TINY, value="separate"), OTHER))
    together = combined(critic, "mean", name="together")
    assert together.spec.network.members == (TINY, OTHER)
    names = list(together.network.state_dict())
    assert "members.0.head.weight" in names
    assert not [name for name in names if "critic" in name]
    x = states(together)
    before = together.answer(x).params["logits"]
    with torch.no_grad():
        critic[0].network.head.weight.zero_()
    np.testing.assert_array_equal(together.answer(x).params["logits"], before)


# Where they go


def test_members_are_evaluated_and_compared_as_any_policy(tmp_path: Path, capsys: Capture) -> None:
    single = handmade.cartpole_teacher(recipe=place("cartpole"))
    other = members("cartpole", "categorical", (TINY,))[0]
    together = combined([single, single], "mean", name="twice")
    together.save(tmp_path / "twice.safetensors")
    (result,) = printed(["eval", str(tmp_path / "twice.safetensors"), "--episodes", "3"], capsys)["results"]
    assert result["mean"] == 60
    assert result["parameters"] == 2 * single.spec.parameters
    x = states(single)
    assert agreement(together, single, x) == 1
    assert mean_kl(together, single, x, teacher_temperature=1.0) == pytest.approx(0, abs=1e-6)
    assert mean_kl(other, together, x, teacher_temperature=1.0) > 0.01


def test_members_are_one_graph_in_onnx(tmp_path: Path) -> None:
    policy = combined(members("cartpole", "categorical", (TINY, OTHER)), "mean", name="together")
    exported = rlkd.export(policy, tmp_path / "p.onnx", episodes=3, observations=160)
    assert exported.parity is not None
    assert exported.parity.comparison.relative_difference is not None
    assert exported.parity.comparison.relative_difference < 1e-5
    pixels = combined(members("pictures", "q", (PIXELS, PIXELS)), "sum", name="pixels")
    (tmp_path / "q.onnx").write_bytes(onnx_bytes(pixels, pixels.spec.hash))
    graph, x = rlkd.load(tmp_path / "q.onnx"), states(pixels)
    assert graph.spec.network == pixels.spec.network
    np.testing.assert_allclose(graph.answer(x).params["q"], pixels.answer(x).params["q"], rtol=1e-5, atol=1e-5)


def test_stable_baselines3_has_no_members(tmp_path: Path) -> None:
    policy = combined(members("cartpole", "q", (TINY, OTHER)), "sum", name="together")
    message = r"together: .* has no policy with several networks that answer together \(members\); take --to onnx"
    with pytest.raises(ExportError, match=message):
        rlkd.export(policy, tmp_path / "p.zip", to="sb3", episodes=3, observations=160)
    assert not list(tmp_path.iterdir())


def test_a_recipe_of_members_is_written_read_and_shown(tmp_path: Path, capsys: Capture) -> None:
    network = Network(encoder="members", members=(replace(OTHER, activation="elu"), TINY), combine="mean")
    path = tmp_path / "pair.toml"
    path.write_text(recipe.dump(network))
    assert "[[members]]" in path.read_text()
    assert recipe.load(str(path), Network) == network
    half = recipe.load(f"{path}@width=0.5", Network)
    assert half.members is not None
    assert [member.hidden for member in half.members] == [(2, 3), (8,)]
    assert main(["show", str(path)]) == 0
    assert 'combine = "mean"' in capsys.readouterr().out


def test_a_network_without_members_has_the_table_and_hash_that_it_had() -> None:
    assert not {"members", "combine"} & recipe.to_table(TINY).keys()
    assert recipe.recipe_hash(recipe.load("nature", Network)) == NATURE_HASH
    for name in ("pong", "breakout", "pong_dqn", "pong_early"):
        load_policy(f"policy:{name}")  # refused unless its record still has the hash in the file


NATURE_HASH = "4f3d1c51ca1e641c2ff4f01d218ff23b104688f03da9f130bb1bbe8437d2ab51"
"""Of agents/students/nature.toml before networks could have members."""


def pair(path: Path, network: Network) -> str:
    path.write_text(recipe.dump(network))
    return str(path)


def test_members_are_students_like_any_network(tmp_path: Path) -> None:
    teacher = handmade.cartpole_teacher(recipe=handmade.environment("cartpole", frame_cap=100, episodes=2))
    network = Network(encoder="members", members=(TINY, OTHER), combine="sum")
    (tmp_path / "quick.toml").write_text(recipe.dump(handmade.small_distillation(gradient_steps=4)))
    agent = str(tmp_path / "quick.toml")
    student = pair(tmp_path / "pair.toml", network)
    record = distill(teacher, [student], run=tmp_path / "run", agent=agent, episodes=2, device="cpu")
    policy = load_policy(record["students"][0]["path"])
    assert policy.spec.network == network
    assert record["students"][0]["parameters"] == sum(
        acting_parameters(PolicyNetwork(member, (4,), "categorical", 2)) for member in (TINY, OTHER)
    )


def test_members_teach_like_any_policy_but_where_their_last_weights_are_read(tmp_path: Path) -> None:
    single = handmade.cartpole_teacher(recipe=handmade.environment("cartpole", frame_cap=100, episodes=2))
    teacher = combined([single, single], "mean", name="pair")
    how = handmade.small_distillation(gradient_steps=2)
    (tmp_path / "quick.toml").write_text(recipe.dump(how))
    record = distill(teacher, ["mlp_16"], run=tmp_path / "run", agent=str(tmp_path / "quick.toml"), episodes=2)
    assert record["teacher"]["hash"] == teacher.spec.hash
    similar = Term(target=(Part("similar", {"temperature": 0.3, "share": 0.3}),), divergence=Part("forward_kl"))
    (tmp_path / "similar.toml").write_text(recipe.dump(replace(how, terms=(similar,))))
    with pytest.raises(MismatchError, match="a term reads the teacher's last weights, and pair is made of members"):
        distill(teacher, ["mlp_16"], run=tmp_path / "no", agent=str(tmp_path / "similar.toml"), episodes=2)


# Learning


def net(combine: Combine = "sum") -> PolicyNetwork:
    built = PolicyNetwork(Network(encoder="members", members=(TINY, OTHER), combine=combine), (4,), "categorical", 2)
    built.initialise(torch.Generator().manual_seed(0), for_rl=False)
    return built


def bits(network: PolicyNetwork) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in network.state_dict().values()]


def test_one_member_is_drawn_alone_and_frozen_ones_stay() -> None:
    network = net()
    first, second = network.parts
    before = bits(first), bits(second)
    second.initialise(torch.Generator().manual_seed(1), for_rl=False)
    assert bits(first) == before[0]
    assert bits(second) != before[1]
    alone = PolicyNetwork(OTHER, (4,), "categorical", 2)
    alone.initialise(torch.Generator().manual_seed(1), for_rl=False)
    assert bits(alone) == bits(second)
    first.requires_grad_(False)
    seen = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    drawn = bits(second)
    network.initialise(torch.Generator().manual_seed(2), for_rl=False)
    again = bits(second)
    network.standardise(seen)
    assert bits(first) == before[0]
    assert drawn != again != bits(second)


def test_frozen_members_keep_their_values_while_the_others_learn() -> None:
    network = net()
    first, second = network.parts
    first.requires_grad_(False)
    before = bits(first), bits(second)
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(learning, lr=0.01)
    network(torch.ones(3, 4)).flat.square().sum().backward()
    optimiser.step()
    assert bits(first) == before[0]
    assert bits(second) != before[1]


def test_sequences_are_answered_state_by_state() -> None:
    network = net("mean")
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rows = network.unroll(x, torch.zeros(2, 3, dtype=torch.bool))
        assert torch.equal(rows.flat, network(x.flatten(0, 1)).flat)


# What is refused


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "encoder = 'members' needs combine and 1 to 64 members, got 0"),
        ({"combine": "sum"}, "needs combine and 1 to 64 members, got 0"),
        ({"combine": "sum", "members": []}, "needs combine and 1 to 64 members, got 0"),
        ({"members": [{"encoder": "mlp"}]}, "needs combine and 1 to 64 members, got 1"),
        ({"combine": "sum", "members": [{"encoder": "mlp"}] * 65}, "1 to 64 members, got 65"),
        ({"combine": "product", "members": [{"encoder": "mlp"}]}, "combine cannot be 'product'"),
        ({"combine": "sum", "members": [{"encoder": "mlp", "core": "gru"}]}, "neither a recurrent core nor a critic"),
        (
            {"combine": "sum", "members": [{"encoder": "mlp", "value": "shared"}]},
            "neither a recurrent core nor a critic",
        ),
        ({"combine": "sum", "members": [{"encoder": "mlp", "hiden": [3]}]}, r"members\[0\]\]: unknown key 'hiden'"),
        (
            {"combine": "sum", "members": [{"encoder": "mlp"}, {"encoder": "resnet", "channels": [2]}]},
            "members read the same observation: pixels or vectors",
        ),
        (
            {"combine": "sum", "members": [{"encoder": "members", "combine": "sum", "members": [{"encoder": "mlp"}]}]},
            "a member cannot be made of members itself",
        ),
        ({"combine": "sum", "members": [{"encoder": "mlp"}], "hidden": [8]}, "hidden belongs to a network by itself"),
        (
            {"combine": "sum", "members": [{"encoder": "mlp"}], "value": "shared"},
            "value belongs to a network by itself",
        ),
        ({"encoder": "mlp", "combine": "sum"}, "members and combine belong to encoder = 'members'"),
        ({"encoder": "mlp", "members": [{"encoder": "mlp"}]}, "members and combine belong to encoder = 'members'"),
    ],
)
def test_a_network_of_members_that_cannot_be_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"here.*{message}"):
        recipe.build(Network, {"encoder": "members"} | table, where="here")


def test_a_forged_record_of_members_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    policy = combined(members("cartpole", "q", (TINY, OTHER)), "sum", name="together")
    weights = policy.network.state_dict()
    one_less = replace(policy.spec.network, members=(TINY,))
    forge(path, replace(policy.spec, network=one_less), weights)
    with pytest.raises(PolicyFileError, match="weights do not fit its network"):
        load_policy(path)
    forge(path, replace(policy.spec, kind="gaussian"), weights)
    with pytest.raises(PolicyFileError, match="weights do not fit its network"):
        load_policy(path)
    huge = replace(policy.spec.network, members=(Network(encoder="mlp", hidden=(2**30, 2**30)),) * 64)
    forge(path, replace(policy.spec, network=huge), weights)
    with pytest.raises(PolicyFileError, match="weights do not fit its network"):
        load_policy(path)


def test_a_record_with_too_many_members_or_members_within_members_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    policy = combined(members("cartpole", "q", (TINY,)), "sum", name="together")
    for depth, count in ((2, 1), (150, 1), (400, 1), (1, 65)):
        network: dict[str, Any] = {"encoder": "mlp"}
        for _ in range(depth):
            network = {"encoder": "members", "combine": "sum", "members": [network] * count}
        record = {"format_version": 1, **recipe.to_table(policy.spec), "network": network}
        stored = safetensors.torch.save(policy.network.state_dict(), metadata={"rlkd": json.dumps(record)})
        path.write_bytes(stored)
        with pytest.raises(PolicyFileError, match="its record is "):
            load_policy(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "q"}, "other has another kind than CartPole-v1-by-hand"),
        ({"action_meanings": ("A", "B")}, "other has another action_meanings"),
        ({"normaliser": Normaliser(mean=(0.0,) * 4, variance=(1.0,) * 4)}, "other has another normaliser"),
        ({"environment": None}, "other has another environment"),
        ({"environment": handmade.environment("cartpole", frame_cap=61)}, "other has another environment"),
        ({"environment": handmade.environment("cartpole", frame_cap=60, episodes=7)}, None),
        ({"origin": "elsewhere"}, None),
    ],
)
def test_policies_that_do_not_fit_are_not_combined(change: dict[str, Any], message: str | None) -> None:
    first, second = members("cartpole", "categorical", (TINY, OTHER))
    spec = replace(second.spec, name="other", **change)
    other = Policy(second.network, spec)
    if message is None:
        assert combined([first, other], "sum", name="fine").spec.environment == first.spec.environment
        return
    with pytest.raises(MismatchError, match=message):
        combined([first, other], "sum", name="never")


def test_what_cannot_be_a_member_is_refused() -> None:
    single = members("cartpole", "q", (TINY,))[0]
    recurrent = handmade.policy(place("cartpole"), "q", replace(TINY, core="gru", core_width=4))
    with pytest.raises(MismatchError, match="is recurrent, and cannot be a member"):
        combined([recurrent], "sum", name="never")
    with pytest.raises(MismatchError, match="pair is made of members itself, and cannot be a member"):
        combined([single, combined([single], "sum", name="pair")], "sum", name="never")
    with pytest.raises(RecipeError, match="1 to 64 members, got 65"):
        combined([single] * 65, "mean", name="never")
    gaussian = handmade.policy(handmade.environment("pendulum"), "gaussian", TINY)
    with pytest.raises(MismatchError, match="discrete actions, not as a 'gaussian' policy"):
        combined([gaussian], "mean", name="never")


def test_reinforcement_learning_trains_single_networks(tmp_path: Path) -> None:
    path = pair(tmp_path / "pair.toml", Network(encoder="members", members=(TINY,), combine="sum"))
    environment = place("cartpole")
    ppo, dqn = recipe.load("rl/ppo_classic", Ppo), recipe.load("rl/dqn_classic", Dqn)
    with pytest.raises(RecipeError, match="value belongs to a network by itself, not to one of members"):
        ppo_spec(environment, replace(ppo, network=path), origin="")
    with pytest.raises(RecipeError, match=r"value learners train one network, and '.*pair\.toml' is made of members"):
        dqn_spec(environment, replace(dqn, network=path), origin="")


def test_foreign_weights_are_read_into_one_network() -> None:
    found = next(entry for entry in recipe.shipped("agents") if entry.name.startswith("imports/"))
    how = recipe.load_any(found.path)
    assert isinstance(how, Import)
    with pytest.raises(RecipeError, match="into one network, not into members"):
        dataclasses.replace(how, network=Network(encoder="members", members=(TINY,), combine="sum"))
