"""Tests of networks over pixels and at scale: the residual network of IMPALA, widths and depths, everywhere they go."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rlkd
from rlkd import recipe
from rlkd.cli import main
from rlkd.distillation import distill, measure_baseline, run_distillation
from rlkd.errors import MismatchError, RecipeError
from rlkd.exporting.card import Facts, card
from rlkd.policy import Policy, PolicyNetwork, acting_flops, acting_parameters, load_policy
from rlkd.policy.encoders import Residual
from rlkd.recipe import Distill, Network, Scale, Source, network_label, scaled, split_scale
from tests import handmade, reference
from tests.commands import Capture, refused

PIXELS = (4, 84, 84)
TINY = handmade.TINY_RESNET
OTHER = Network(encoder="resnet", channels=(3,), blocks=1, hidden=(7,), activation="tanh", hidden_activation="elu")

ENTRY = {"ci95": (0, 0), "mean": 0, "std": 0, "protocol": "", "episodes": 2, "random_mean": 0, "rule": "greedy"}
"""Scores for a card; nobody reads them here."""


def made(network: Network, shape: tuple[int, ...] = (2, 11, 9), *, value: Any = "none", seed: int = 0) -> PolicyNetwork:
    """A network with drawn weights and biases and three actions."""
    built = PolicyNetwork(replace(network, value=value), shape, "categorical", 3)
    generator = torch.Generator().manual_seed(seed)
    built.initialise(generator, for_rl=False)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if name.endswith("bias"):
                weight.normal_(generator=generator)
    return built


def pictures(rows: int, shape: tuple[int, ...] = (2, 11, 9), seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (rows, *shape), np.uint8))


def watched(network: nn.Module, x: Tensor) -> list[tuple[nn.Conv2d | nn.Linear, Tensor]]:
    """Every layer with weights in the order in which it answers, and its answer; torch's own hooks, no walk of ours."""
    seen: list[tuple[nn.Conv2d | nn.Linear, Tensor]] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(lambda layer, _, out: seen.append((layer, out))) for layer in layers]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return seen


# The residual network


def test_impala_has_the_parameters_that_its_figure_gives() -> None:
    def section(before: int, after: int) -> int:
        return (9 * before + 1) * after + 2 * 2 * (9 * after + 1) * after

    # 9,872 + 41,632 + 46,240; 84 x 84 pixels are 42 x 42, 21 x 21, 11 x 11 behind the sections.
    convolutions = section(4, 16) + section(16, 32) + section(32, 32)
    connected = (11 * 11 * 32 + 1) * 256 + (256 + 1) * 18
    network = PolicyNetwork(recipe.load("impala", Network), PIXELS, "q", 18)
    assert acting_parameters(network) == convolutions + connected == 97_744 + 991_488 + 4_626 == 1_093_858
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == 15  # "15 convolutional layers"


def test_the_small_students_have_the_sizes_in_their_names() -> None:
    small = PolicyNetwork(recipe.load("impala_69k", Network), PIXELS, "q", 18)
    assert acting_parameters(small) == 69_478
    assert recipe.load("impala@width=0.25", Network) == recipe.load("impala_69k", Network)
    assert recipe.load("nature@width=0.5", Network) == recipe.load("nature_428k", Network)


def test_flops_of_impala_are_those_of_its_convolutions_at_their_sizes() -> None:
    first = 84**2 * 4 * 16 + 42**2 * 4 * 16 * 16
    second = 42**2 * 16 * 32 + 21**2 * 4 * 32 * 32
    third = 21**2 * 32 * 32 + 11**2 * 4 * 32 * 32
    connected = 11 * 11 * 32 * 256 + 256 * 18
    network = PolicyNetwork(recipe.load("impala", Network), PIXELS, "q", 18)
    assert acting_flops(network, PIXELS) == 2 * (9 * (first + second + third) + connected) == 108_454_912


@pytest.mark.parametrize("value", ["none", "shared", "separate"])
@pytest.mark.parametrize("network", [TINY, OTHER, handmade.TINY_PIXELS], ids=["tiny", "other", "conv"])
def test_flops_are_two_for_each_weight_at_each_place_where_it_is_used(network: Network, value: Any) -> None:
    shape = (4, 60, 43)
    plain = made(network, shape)
    places = [(layer, out.numel() // out.shape[1]) for layer, out in watched(plain, pictures(1, shape))]
    built = made(network, shape, value=value)
    assert acting_flops(built, shape) == sum(2 * layer.weight.numel() * count for layer, count in places)
    assert acting_parameters(built) == sum(weight.numel() for weight in plain.parameters())


@pytest.mark.parametrize("network", [TINY, OTHER], ids=["tiny", "other"])
@pytest.mark.parametrize("shape", [(2, 11, 9), (1, 2, 1), (3, 8, 8)])
def test_residual_network_matches_reference(network: Network, shape: tuple[int, ...]) -> None:
    built = made(network, shape, value="separate")
    pixels = pictures(2, shape)
    weights = {name: tensor.double().numpy() for name, tensor in built.state_dict().items()}
    with torch.no_grad():
        output = built(pixels)
    for row in range(2):
        picture = pixels[row].double().numpy() / 255
        for encoder, head, found in (
            ("encoder", "head", output.params["logits"]),
            ("critic_encoder", "critic", output.value),
        ):
            features = reference.residual_network(
                picture,
                {name.removeprefix(f"{encoder}."): w for name, w in weights.items() if name.startswith(f"{encoder}.")},
                sections=len(network.channels),
                blocks=network.section_blocks,
                activation=network.activation,
                hidden_activation=network.hidden_activation or network.activation,
            )
            want = weights[f"{head}.weight"] @ features + weights[f"{head}.bias"]
            np.testing.assert_allclose(found[row].numpy(), want, rtol=1e-4, atol=1e-4)


def test_a_block_with_dead_convolutions_gives_its_input_on() -> None:
    block = Residual(3, "relu")
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    with torch.no_grad():
        assert not torch.equal(block(x), x)
        for weight in block.parameters():
            weight.zero_()
        assert torch.equal(block(x), x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("network", [TINY, replace(TINY, blocks=1, activation="tanh")], ids=["relu", "tanh"])
def test_every_layer_in_a_standardised_network_answers_with_mean_0_and_deviation_1(network: Network) -> None:
    built = made(network, (4, 40, 40))
    observation = pictures(60, (4, 40, 40))
    before = [out for _, out in watched(built.encoder, observation.float() / 255)]
    built.standardise(observation)
    after = watched(built.encoder, observation.float() / 255)
    assert len(after) == len(before) == 2 * (1 + 2 * network.section_blocks) + 1
    for (layer, out), old in zip(after, before, strict=True):
        by_unit = out.transpose(0, 1).flatten(1)
        assert by_unit.mean(1).abs().max() < 1e-4
        assert (by_unit.std(1) - 1).abs().max() < 1e-3
        assert layer.weight.mean(tuple(range(1, layer.weight.dim()))).abs().max() < 1e-6
        assert (old.transpose(0, 1).flatten(1).std(1) - 1).abs().max() > 0.1


@pytest.mark.parametrize("core", ["none", "gru", "lstm"])
def test_a_residual_network_acts_in_bfloat16_and_answers_in_float32(core: Any) -> None:
    built = made(replace(TINY, core=core, core_width=6), (4, 40, 40), value="shared")
    observation = pictures(6, (4, 40, 40))
    with torch.no_grad():
        exact = built(observation)
        with torch.autocast("cpu", torch.bfloat16):
            seen = watched(built.encoder, observation.float() / 255)
            rough = built(observation)
    assert {out.dtype for _, out in seen} == {torch.bfloat16}
    assert rough.flat.dtype == torch.float32
    difference = (rough.flat - exact.flat).abs().max()
    assert 0 < difference < 0.1 * exact.flat.abs().max()


@pytest.mark.parametrize(
    "network",
    [TINY, replace(TINY, value="separate"), replace(TINY, core="lstm", core_width=6)],
    ids=["plain", "critic", "lstm"],
)
def test_a_residual_policy_survives_its_file(network: Network, tmp_path: Path) -> None:
    policy = handmade.policy(handmade.environment("pong"), "q", network)
    policy.save(tmp_path / "p.safetensors")
    again = load_policy(tmp_path / "p.safetensors")
    assert isinstance(again, Policy)
    assert again.spec == policy.spec
    assert again.spec.network.blocks == TINY.blocks
    assert again.spec.flops == acting_flops(policy.network, PIXELS)
    observation = pictures(3, PIXELS).numpy()
    state = np.ones((3, policy.state_width), np.float32) if policy.recurrent else None
    ours, theirs = (each.answer(observation, state).params["q"] for each in (policy, again))
    np.testing.assert_array_equal(ours, theirs)
    assert np.ptp(ours) > 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "a resnet needs channels, one entry for each section"),
        ({"channels": [4, 0]}, "channels, kernels, strides, hidden, core_width and core_hidden must be above 0"),
        ({"channels": [4], "kernels": [3]}, "kernels, strides, paddings and pools belong to encoder = 'conv'"),
        ({"channels": [4], "strides": [2]}, "kernels, strides, paddings and pools belong to encoder = 'conv'"),
        ({"channels": [4], "paddings": [1]}, "kernels, strides, paddings and pools belong to encoder = 'conv'"),
        ({"channels": [4], "pools": [2]}, "kernels, strides, paddings and pools belong to encoder = 'conv'"),
        ({"channels": [4], "blocks": 0}, "blocks must be from 1 to 64, got 0"),
        ({"channels": [4], "blocks": 10**9}, "blocks must be from 1 to 64, got 1000000000"),
        ({"channels": [4], "blocks": 1.5}, "blocks must be int, got 1.5"),
        ({"encoder": "conv", "channels": [4, 4, 4], "blocks": 2}, "blocks belong to encoder = 'resnet'"),
        ({"encoder": "mlp", "blocks": 2}, "blocks belong to encoder = 'resnet'"),
        ({"encoder": "resnets", "channels": [4]}, "did you mean 'resnet'"),
    ],
)
def test_a_residual_network_that_cannot_be_built_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"here: .*{message}"):
        recipe.build(Network, {"encoder": "resnet"} | table, where="here")


def test_a_residual_network_reads_no_vectors() -> None:
    with pytest.raises(MismatchError, match=r"encoder 'resnet' cannot read observations of shape \[3\]"):
        PolicyNetwork(TINY, (3,), "q", 2)


def test_what_has_no_blocks_keeps_its_table_and_so_its_hash() -> None:
    assert "blocks" not in recipe.to_table(recipe.load("nature", Network))
    shipped = load_policy("policy:pong")  # refused unless weights and record still have the hash in the file
    assert isinstance(shipped, Policy)
    assert shipped.spec.network.encoder == "conv"


# Widths and depths

LARGE = Network(encoder="conv", channels=(32, 64, 64), hidden=(512,), core="lstm", core_width=100, core_hidden=(9, 40))


@pytest.mark.parametrize(
    ("network", "scale", "want"),
    [
        (
            LARGE,
            Scale(width=0.25),
            {"channels": (8, 16, 16), "hidden": (128,), "core_width": 25, "core_hidden": (2, 10)},
        ),
        (LARGE, Scale(depth=2), {"hidden": (512, 512)}),
        (TINY, Scale(width=1e-9), {"channels": (1, 1), "hidden": (1,)}),
        (TINY, Scale(width=2, depth=3), {"channels": (8, 12), "hidden": (40,), "blocks": 6}),
        (TINY, Scale(depth=0.5), {"blocks": 1}),
        (replace(TINY, blocks=None), Scale(depth=2), {"blocks": 4}),
        (Network(encoder="mlp", hidden=(64, 32)), Scale(depth=2), {"hidden": (64, 64, 32, 32)}),
        (Network(encoder="mlp", hidden=(64, 32, 16, 8)), Scale(depth=0.5), {"hidden": (64, 16)}),
        (Network(encoder="mlp", hidden=(6, 4)), Scale(width=1.5, depth=1.5), {"hidden": (9, 9, 6)}),
        (Network(encoder="mlp", hidden=()), Scale(), {}),
        (recipe.load("gru_196k", Network), Scale(), {}),
    ],
)
def test_a_scale_changes_widths_and_depths_and_nothing_else(
    network: Network, scale: Scale, want: dict[str, object]
) -> None:
    found = scaled(network, scale)
    assert found == replace(network, **want)  # type: ignore[arg-type]  # the fields' own types
    if network.encoder == "mlp":
        PolicyNetwork(found, (3,), "q", 2)
        return
    built = PolicyNetwork(found, PIXELS, "q", 2)
    blocks = sum(isinstance(module, Residual) for module in built.modules())
    assert blocks == len(found.channels) * found.section_blocks
    last = found.hidden if found.core == "none" else (found.core_width, *(found.core_hidden or ()))
    assert built.head.in_features == last[-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nature@width", r"nature@width: behind @ stand scales such as width=0.5 or depth=2, got 'width'"),
        ("nature@width=", "behind @ stand scales"),
        ("nature@0.5", "behind @ stand scales"),
        ("nature@widht=0.5", "unknown key 'widht'; did you mean 'width'"),
        ("nature@width=0", "width must be above 0 and at most 64, got 0"),
        ("nature@width=-1", "width must be above 0"),
        ("nature@width=nan", "width must be float, got nan"),
        ("nature@depth=inf", "depth must be above 0 and at most 64, got inf"),
        ("nature@width=2,width=3", "width stands there twice"),
        ("impala@depth=60", "students/impala.toml: blocks must be from 1 to 64, got 120"),
        ("nature@depth=1.2", "students/nature.toml: depth=1.2 changes nothing in this network"),
        ("mlp_16@width=1.001", "students/mlp_16.toml: width=1.001 changes nothing in this network"),
        ("natur@width=0.5", "no recipe 'natur' in agents; did you mean 'nature'"),
        ("rl/ppo@width=0.5", "a recipe of kind 'ppo' has no width or depth"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.load(name, Network)


def test_depth_is_of_no_use_where_nothing_can_be_repeated() -> None:
    with pytest.raises(RecipeError, match="depth=2 changes nothing"):
        scaled(handmade.LINEAR, Scale(depth=2))


def test_a_file_of_the_users_own_is_scaled_too(tmp_path: Path) -> None:
    folder = tmp_path / "me@home"
    folder.mkdir()
    path = handmade.student_file(folder, "v1.2", Network(encoder="mlp", hidden=(10,), activation="tanh"))
    assert split_scale(path) == (path, Scale())
    assert recipe.load(path, Network).hidden == (10,)
    assert recipe.load(f"{path}@width=0.5", Network).hidden == (5,)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("nature", "nature"),
        ("students/nature", "nature"),
        ("mine/net_v1.2.toml", "net_v1.2"),
        ("nature@width=0.5", "nature@width=0.5"),
        ("mine/net.toml@width=0.5, depth=2", "net@width=0.5,depth=2"),
    ],
)
def test_a_network_is_called_by_its_name_and_scales(name: str, label: str) -> None:
    assert network_label(name) == label


def test_show_prints_the_scaled_network(capsys: Capture) -> None:
    assert main(["show", "impala@width=0.5,depth=2", "--set", "channels=[10, 6]"]) == 0
    text = capsys.readouterr().out
    assert "channels = [5, 3]" in text
    assert "blocks = 4" in text
    assert "width" not in text.replace("core_width", "")
    assert refused(["show", "cartpole@width=2"], capsys).startswith("rlkd: envs/classic/cartpole.toml: a recipe of")


# Students


def test_a_residual_student_is_distilled_and_its_file_holds_what_was_built(tmp_path: Path) -> None:
    where = handmade.environment("pong", frame_cap=120)
    teacher = handmade.policy(where, "categorical", handmade.TINY_PIXELS, rule="sampled", sharpness=30)
    baseline = measure_baseline(teacher, where, episodes=2, keep_states=16)
    source = Source(states=64, rounds=2, num_envs=4)
    how = handmade.small_distillation(source=source, gradient_steps=2, batch_size=32)
    network = recipe.load("impala_69k@width=0.5,depth=0.5", Network)
    result = run_distillation(
        teacher, {"small": network}, how, run=tmp_path, seed=0, episodes=2, baseline=baseline, device="cpu"
    )
    assert result.students[0].gradient_steps == 2
    policy = load_policy(tmp_path / "students" / "small.safetensors")
    assert isinstance(policy, Policy)
    assert policy.spec.network == network == Network(encoder="resnet", channels=(2, 4, 4), blocks=1, hidden=(32,))
    text = card(policy, None, where, Facts(run=None, entry=None, teacher=None), ENTRY, {})
    assert f"| parameters | {acting_parameters(policy.network):,} |" in text
    assert f"| floating-point operations of a decision | {acting_flops(policy.network, PIXELS):,} |" in text


def test_students_are_named_with_their_scales(tmp_path: Path) -> None:
    teacher = handmade.cartpole_teacher(recipe=handmade.environment("cartpole", frame_cap=100, episodes=2))
    how = handmade.small_distillation(gradient_steps=2)
    (tmp_path / "quick.toml").write_text(recipe.dump(how))
    names = ["mlp_16@width=0.25", "students/mlp_16@width=0.25,depth=2", "mlp_16"]
    agent = str(tmp_path / "quick.toml")
    record = distill(teacher, names, run=tmp_path / "run", agent=agent, episodes=2, device="cpu")
    assert [entry["name"] for entry in record["students"]] == [name.removeprefix("students/") for name in names]
    for entry, hidden in zip(record["students"], ((4, 4), (4, 4, 4, 4), (16, 16)), strict=True):
        policy = rlkd.load(entry["path"])
        assert isinstance(policy, Policy)
        assert policy.spec.name == entry["name"] == Path(entry["path"]).stem
        assert policy.spec.network.hidden == hidden


def test_gradients_reach_every_weight_of_a_residual_network() -> None:
    built = made(TINY, (4, 40, 40))
    before = {name: weight.clone() for name, weight in built.named_parameters()}
    optimiser = torch.optim.Adam(built.parameters())
    for _ in range(2):
        optimiser.zero_grad()
        built(pictures(8, (4, 40, 40))).flat.square().mean().backward()
        optimiser.step()
    assert not [name for name, weight in built.named_parameters() if torch.equal(weight, before[name])]


def test_a_distillation_recipe_may_name_scaled_students() -> None:
    how = handmade.small_distillation(students=("mlp_16@width=2",))
    assert recipe.build(Distill, recipe.to_table(how), where="here") == how
    assert dataclasses.asdict(recipe.load(how.students[0], Network))["hidden"] == (32, 32)


@pytest.mark.parametrize("name", ["rnd_cnn", "rnd_gru"])
def test_head_and_critic_read_features_and_what_a_layer_of_their_own_makes_of_them(name: str) -> None:
    built = replace(recipe.load(name, Network), value="shared", value_heads=2)
    network = PolicyNetwork(built, (4, 84, 84), "categorical", 18)
    network.initialise(torch.Generator().manual_seed(0), for_rl=True)
    seen = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    state = torch.zeros(3, network.state_width) if network.state_width else None
    assert network.branch is not None
    assert network.critic_branch is not None
    assert network.critic is not None
    with torch.no_grad():
        output = network(seen, state)
        behind = network.encoder(network._scaled(seen))
        if network.core is not None:
            behind = network.core(behind, state)
        own = [behind + torch.relu(branch[0](behind)) for branch in (network.branch, network.critic_branch)]
    torch.testing.assert_close(output.params["logits"], network.head(own[0]))
    torch.testing.assert_close(output.value, network.critic(own[1]))
    width = behind.shape[1]
    plain = PolicyNetwork(replace(built, branches=None), (4, 84, 84), "categorical", 18)
    assert acting_parameters(network) - acting_parameters(plain) == width * (width + 1)
    assert acting_flops(network, (4, 84, 84)) - acting_flops(plain, (4, 84, 84)) == 2 * width**2
    gain = network.branch.get_parameter("0.weight").detach()
    torch.testing.assert_close(gain @ gain.T, 0.01 * torch.eye(width), atol=1e-5, rtol=0)


def test_the_feed_forward_policy_of_random_network_distillation_has_the_widths_of_its_code() -> None:
    network = PolicyNetwork(recipe.load("rnd_cnn", Network), (4, 84, 84), "categorical", 18)
    sizes = [tuple(weight.shape) for name, weight in network.named_parameters() if name.endswith("weight")]
    convolutions = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 4, 4)]
    assert sizes == [*convolutions, (256, 2304), (448, 256), (448, 448), (18, 448)]
