"""Tests of `rlkd.exporting`, Stable-Baselines3: it loads the zip and takes the same actions, and so does our reader."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlkd
from rlkd.errors import ExportError, PolicyFileError
from rlkd.evaluation import evaluate_files
from rlkd.exporting.sb3_model import Sb3Player, is_stock, make_model
from rlkd.policy import Kind, Policy, load_policy
from rlkd.policy.rule import GREEDY, SAMPLED
from rlkd.recipe import Network
from tests import handmade
from tests.test_exporting import FEW, GRU, POOLED, SHORT, made, place

NATURE = Network(encoder="conv", channels=(32, 64, 64), hidden=(24,))
RESNET = handmade.TINY_RESNET
SMALL = replace(NATURE, channels=(4, 4, 4), hidden=(8,))
TWO = replace(handmade.TINY, hidden=(16, 8))
CASES = [
    pytest.param("cartpole", "categorical", replace(TWO, value="shared"), "PPO", True, id="ppo, critic on its layers"),
    pytest.param("cartpole", "categorical", replace(TWO, value="separate"), "PPO", True, id="ppo, separate critic"),
    pytest.param("cartpole", "categorical", handmade.LINEAR, "PPO", True, id="ppo, no layers, no critic"),
    pytest.param("cartpole", "q", replace(TWO, activation="relu"), "DQN", True, id="dqn"),
    pytest.param("cartpole", "q", replace(TWO, activation="elu"), "DQN", False, id="dqn, elu"),
    pytest.param("pendulum", "gaussian", TWO, "PPO", True, id="ppo, continuous"),
    pytest.param("pendulum", "gaussian", replace(TWO, activation="elu"), "PPO", False, id="ppo, continuous, elu"),
    pytest.param("pendulum", "squashed_gaussian", TWO, "SAC", True, id="sac"),
    pytest.param("pendulum", "squashed_gaussian", replace(TWO, activation="elu"), "SAC", False, id="sac, elu"),
    pytest.param("pong", "categorical", replace(NATURE, value="shared"), "PPO", True, id="ppo, NatureCNN"),
    pytest.param("pong", "q", replace(NATURE, hidden=(24, 8)), "DQN", True, id="dqn, NatureCNN and a layer"),
    pytest.param("pong", "categorical", replace(SMALL, value="separate"), "PPO", False, id="ppo, other channels"),
    pytest.param("pong", "q", POOLED, "DQN", False, id="dqn, pools and paddings"),
    pytest.param("pong", "categorical", replace(RESNET, value="separate"), "PPO", False, id="ppo, resnet"),
]


@pytest.mark.parametrize(("name", "kind", "network", "algorithm", "stock"), CASES)
def test_stable_baselines3_takes_the_same_actions(
    name: str, kind: Kind, network: Network, algorithm: str, stock: bool, tmp_path: Path
) -> None:
    policy = made(name, kind, network)
    assert is_stock(policy.spec) == stock
    exported = rlkd.export(policy, tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["p.zip"]
    parity = exported.parity
    assert parity is not None
    assert parity.score == pytest.approx(parity.exported_score, rel=0 if policy.spec.discrete else 1e-4)
    assert parity.same_episodes == SHORT
    assert any("rlkd.exporting.extractor.Encoder" in note for note in exported.notes) == (not stock)
    model: Any = getattr(stable_baselines3, algorithm).load(tmp_path / "p.zip", device="cpu")
    again = load_policy(tmp_path / "p.zip", env=place(name))
    rng = np.random.default_rng(0)
    shape = (50, *policy.spec.observation_shape)
    pixels = policy.spec.observation_dtype == "uint8"
    observation = rng.integers(0, 256, shape, np.uint8) if pixels else rng.normal(size=shape).astype(np.float32)
    wanted, _ = policy.predict(observation, deterministic=True)
    if policy.spec.discrete:
        assert len(set(wanted.tolist())) > 1
    for player in (model, again):
        action, _ = player.predict(observation, deterministic=True)
        np.testing.assert_allclose(action, wanted, rtol=0, atol=0 if policy.spec.discrete else 1e-5)
    ours, theirs = policy.answer(observation).params, again.answer(observation).params
    for key, values in ours.items():
        np.testing.assert_allclose(theirs[key], values, rtol=1e-6, atol=1e-6)
    assert getattr(model, "buffer_size", 1) == 1


def test_a_residual_network_of_the_same_channels_is_not_taken_for_the_stock_one() -> None:
    stock = handmade.policy(place("pong"), "q", NATURE).spec
    assert is_stock(stock)
    resnet = Network(encoder="resnet", channels=NATURE.channels, hidden=NATURE.hidden)
    assert not is_stock(replace(stock, network=resnet))


@pytest.mark.parametrize(
    "network",
    [
        replace(TWO, value="shared"),
        replace(TWO, value="separate"),
        replace(SMALL, value="separate"),
        replace(RESNET, value="shared"),
    ],
)
def test_the_critic_goes_along(network: Network) -> None:
    policy = made("pong" if network.pixels else "cartpole", "categorical", network)
    model = make_model(policy)
    shape = (5, *policy.spec.observation_shape)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    observation = pixels if network.pixels else pixels / 100
    with torch.no_grad():
        value: Any = policy(observation).value
        found: Any = model.policy.predict_values(observation)  # type: ignore[operator]  # of PPO's policies
    torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)


def test_statistics_go_beside_the_zip_as_both_read_them(tmp_path: Path) -> None:
    policy = made("cartpole", "categorical", TWO, limit=5.0)
    exported = rlkd.export(policy, tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)
    file = tmp_path / "p" / "vecnormalize.pkl"
    assert any(str(file) in note for note in exported.notes)
    statistics = VecNormalize.load(str(file), DummyVecEnv([lambda: rlkd.make("cartpole")]))
    assert not statistics.training
    model = stable_baselines3.PPO.load(tmp_path / "p.zip", device="cpu")
    observation = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32) * 3
    wanted, _ = policy.predict(observation, deterministic=True)
    normal = statistics.normalize_obs(observation)
    assert isinstance(normal, np.ndarray)
    np.testing.assert_array_equal(model.predict(normal, deterministic=True)[0], wanted)
    assert load_policy(tmp_path / "p.zip").spec.normaliser == policy.spec.normaliser
    with pytest.raises(ExportError, match="would be taken for this policy's"):
        rlkd.export(made("cartpole", "q", TWO), tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)
    file.rename(tmp_path / "vecnormalize.pkl")  # beside all zips of the folder
    with pytest.raises(ExportError, match="would be taken for this policy's"):
        rlkd.export(made("cartpole", "q", TWO), tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)


def test_learning_goes_on_in_the_environment(tmp_path: Path) -> None:
    policy = made("cartpole", "categorical", replace(TWO, value="separate"))
    rlkd.export(policy, tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)
    model = stable_baselines3.PPO.load(tmp_path / "p.zip", env=rlkd.make("cartpole"), device="cpu", n_steps=64)
    model.learn(64)
    assert model.num_timesteps == 64


@pytest.mark.parametrize(
    ("network", "kind", "obstacle"),
    [(GRU, "categorical", r"a recurrent core \(gru\)"), (replace(TWO, mean_limit=0.5), "gaussian", "mean_limit")],
)
def test_what_stable_baselines3_cannot_express_is_named(
    network: Network, kind: Kind, obstacle: str, tmp_path: Path
) -> None:
    policy = made("cartpole" if kind == "categorical" else "pendulum", kind, network)
    with pytest.raises(ExportError, match=rf"{obstacle}.*take --to onnx"):
        rlkd.export(policy, tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)
    assert list(tmp_path.iterdir()) == []


def test_actions_without_bounds_cannot_go_into_a_zip(tmp_path: Path) -> None:
    policy = made("pendulum", "gaussian", TWO)
    for low, high in ((-np.inf, np.inf), (-np.inf, 2.0), (-2.0, np.inf)):
        unbounded = policy.under(replace(policy.spec, action_low=(low,), action_high=(high,)))
        with pytest.raises(ExportError, match="actions without bounds"):
            rlkd.export(unbounded, tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)


@pytest.mark.parametrize(
    "network",
    [
        replace(TWO, activation="relu", hidden_activation="tanh"),
        replace(NATURE, hidden_activation="tanh"),
        replace(NATURE, activation="tanh"),
        replace(NATURE, paddings=(1, 0, 0)),
        replace(NATURE, pools=(1, 2, 1)),
        replace(NATURE, kernels=(8, 4, 2)),
        replace(NATURE, hidden=()),
    ],
)
def test_what_is_nearly_a_stock_network_goes_into_our_extractor(network: Network) -> None:
    policy = made("pong" if network.encoder == "conv" else "cartpole", "q", network)
    assert not is_stock(policy.spec)
    model = make_model(policy)
    assert model.policy_kwargs["features_extractor_class"].__name__ == "Encoder"
    shape = (8, *policy.spec.observation_shape)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, shape).astype(np.uint8)
    observation = pictures if network.encoder == "conv" else (pictures / 100).astype(np.float32)
    wanted, _ = policy.predict(observation, deterministic=True)
    np.testing.assert_array_equal(model.predict(observation, deterministic=True)[0], wanted)


def test_what_the_policy_does_not_have_is_left_as_learning_wants_it() -> None:
    deciding, valuing = made("cartpole", "categorical", TWO), made("cartpole", "q", TWO)
    before = torch.get_rng_state()
    ppo: Any = make_model(deciding).policy
    dqn: Any = make_model(valuing).policy
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random stream stays as it was
    for target, online in zip(dqn.q_net_target.parameters(), dqn.q_net.parameters(), strict=True):
        assert torch.equal(target, online)
    assert (ppo.predict_values(torch.ones(4, 4)) == 0).all()


def test_notes_say_what_a_user_of_the_zip_has_to_know(tmp_path: Path) -> None:
    cases: tuple[tuple[Literal["none", "shared"], bool], ...] = (("none", True), ("shared", False))
    for value, fresh in cases:
        policy = made("cartpole", "categorical", replace(TWO, value=value))
        exported = rlkd.export(policy, tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)
        assert any("critic has learned nothing" in note for note in exported.notes) == fresh
        assert any("its predict samples" in note for note in exported.notes)
    sampled = policy.under(replace(policy.spec, rule=SAMPLED))
    exported = rlkd.export(sampled, tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)
    assert exported.parity is not None
    assert exported.parity.rule == "greedy"
    assert any("the policy's own rule is sampled" in note for note in exported.notes)


def test_the_environment_asked_for_is_not_overruled_by_one_in_a_zips_name(tmp_path: Path) -> None:
    path = tmp_path / "ppo-CartPole-v0.zip"
    make_model(made("cartpole", "categorical", TWO)).save(path)
    guessed = load_policy(path).spec.environment
    assert guessed is not None
    assert guessed.id == "CartPole-v0"
    assert rlkd.evaluate(path, env="cartpole", episodes=2).environment == "CartPole-v1"
    assert evaluate_files([str(path)], env="cartpole", episodes=2)[0]["environment"] == "CartPole-v1"
    exported = rlkd.export(path, tmp_path / "p.onnx", to="onnx", env="cartpole", episodes=SHORT, observations=FEW)
    assert exported.parity is not None
    assert exported.parity.environment == "CartPole-v1"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [("cartpole", "q", "it takes another action in"), ("pendulum", "gaussian", "its actions differ by")],
)
def test_other_weights_leave_nothing_behind(
    name: str, kind: Kind, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, other = (handmade.policy(place(name), kind, TWO, seed=seed) for seed in (0, 1))
    model = make_model(other)
    monkeypatch.setattr("rlkd.exporting.sb3_zip.make_model", lambda policy: model)
    with pytest.raises(ExportError, match=message):
        rlkd.export(policy, tmp_path / "p.zip", to="sb3", episodes=SHORT, observations=FEW)
    assert list(tmp_path.iterdir()) == []


def test_a_zip_with_our_extractor_loads_in_a_new_process(tmp_path: Path) -> None:
    rlkd.export(made("pong", "q", SMALL), tmp_path / "p.zip", to="sb3", episodes=2, observations=FEW)
    code = (
        "import sys; from stable_baselines3 import DQN; m = DQN.load(sys.argv[1], device='cpu'); "
        "print(type(m.policy.q_net.features_extractor).__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p.zip")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": ""},
    )
    assert done.stdout.strip() == "rlkd.exporting.extractor"


def test_a_player_of_a_model_is_judged_by_its_actions_alone() -> None:
    policy: Policy = made("pendulum", "squashed_gaussian", TWO)
    player = Sb3Player(make_model(policy), None, policy.spec)
    observation = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    wanted, _ = policy.predict(observation, deterministic=True)
    np.testing.assert_allclose(player.predict(observation, deterministic=True)[0], wanted, atol=1e-6)
    assert player.under(player.spec).spec.rule == GREEDY


def test_tensors_that_do_not_fit_the_named_network_are_refused(tmp_path: Path) -> None:
    policy = made("cartpole", "q", replace(TWO, activation="elu"))
    model = make_model(policy)
    model.save(tmp_path / "p.zip")
    load_policy(tmp_path / "p.zip")
    model.policy_kwargs["features_extractor_kwargs"]["network"]["hidden"] = [16, 7]
    model.save(tmp_path / "p.zip")
    with pytest.raises(PolicyFileError, match="do not make the named network"):
        load_policy(tmp_path / "p.zip")
    model.policy_kwargs["features_extractor_kwargs"]["network"]["hiden"] = [16, 7]
    model.save(tmp_path / "p.zip")
    with pytest.raises(PolicyFileError, match="does not tell the network of its features extractor"):
        load_policy(tmp_path / "p.zip")
