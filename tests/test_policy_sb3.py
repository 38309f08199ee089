"""Tests of `rlkd.policy.sb3`: Stable-Baselines3's own answers, from live models, from zips, and from no bad zip."""

import base64
import io
import json
import os
import random
import subprocess
import sys
import textwrap
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib import ARS, QRDQN, TQC, TRPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlkd.errors import MismatchError, PolicyFileError, UnsafeFileError
from rlkd.policy import Policy, Rule, from_sb3, load_policy
from rlkd.vector import as_recipe
from tests.samples import members, write_zip

ALGORITHMS: dict[str, Any] = {"ppo": PPO, "a2c": A2C, "trpo": TRPO, "dqn": DQN, "qrdqn": QRDQN, "ars": ARS}
ALGORITHMS |= {"recurrent": RecurrentPPO, "sac": SAC, "td3": TD3, "ddpg": DDPG, "tqc": TQC}
REPLAY = ("dqn", "qrdqn", "sac", "td3", "ddpg", "tqc")
ROOT = Path(__file__).parent.parent
VECTOR = gymnasium.spaces.Box(-10, 10, (5,), np.float32)
DISCRETE = gymnasium.spaces.Discrete(3)
BOX = gymnasium.spaces.Box(np.array([-0.3, -2], np.float32), np.array([0.3, 0.1], np.float32))


def pictures(size: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(0, 255, (4, size, size), np.uint8)


class Noise(gymnasium.Env[Any, Any]):
    """Random observations, no reward, one step an episode."""

    def __init__(self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, True, False, {}


def make_model(
    algorithm: str,
    observation_space: gymnasium.Space[Any] = VECTOR,
    action_space: gymnasium.Space[Any] = DISCRETE,
    policy: Any = None,
    **arguments: Any,
) -> BaseAlgorithm:
    """A model with weights far from their uniform start, so that its answers differ from state to state."""
    pixels = len(observation_space.shape or ()) == 3
    if algorithm in REPLAY:
        arguments["buffer_size"] = 10
    env = arguments.pop("env", None) or DummyVecEnv([lambda: Noise(observation_space, action_space)])
    model: BaseAlgorithm = ALGORITHMS[algorithm](
        policy or ("CnnPolicy" if pixels else "MlpPolicy"), env, seed=0, device="cpu", **arguments
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        if isinstance(action_space, gymnasium.spaces.Discrete) and isinstance(observation_space, gymnasium.spaces.Box):
            centre_actions(model, draw(observation_space, 100))
    return model


def centre_actions(model: BaseAlgorithm, observation: np.ndarray) -> None:
    """Shift the last bias so that no action is the best everywhere."""
    tensor, _ = model.policy.obs_to_tensor(observation)
    policy: Any = model.policy
    if isinstance(model, DQN):
        head, answer = policy.q_net.q_net[-1], policy.q_net(tensor)
    elif isinstance(model, QRDQN):
        head, answer = policy.quantile_net.quantile_net[-1], policy.quantile_net(tensor).flatten(1)
    elif isinstance(model, ARS):
        head, answer = policy.action_net[-1], policy.action_net(tensor)
        if head.bias is None:
            return
    elif isinstance(model, RecurrentPPO):
        return
    else:
        head, answer = policy.action_net, policy.get_distribution(tensor).distribution.logits
    head.bias.sub_(answer.mean(0))


def draw(space: gymnasium.spaces.Box, rows: int = 500) -> np.ndarray:
    """Random uint8 pictures, half of them of large blocks, or vectors from a wide normal distribution."""
    generator = np.random.default_rng(7)
    if space.dtype == np.uint8:
        channels, height, width = space.shape
        pixels = generator.integers(0, 256, (rows, channels, height, width), np.uint8)
        blocks = generator.integers(0, 256, (rows, channels, height // 4, width // 4), np.uint8)
        pixels[::2] = blocks.repeat(4, axis=2).repeat(4, axis=3)[::2]
        return pixels
    return 3 * generator.normal(size=(rows, *space.shape)).astype(np.float32)


def assert_same_answers(policy: Policy, model: BaseAlgorithm, observation: np.ndarray) -> None:
    """Actions equal (from pixels: discrete ones), distributions and values within rounding of float32."""
    want, _ = model.predict(observation, deterministic=True)
    got, _ = policy.predict(observation, deterministic=True)
    assert got.dtype == want.dtype
    if policy.spec.discrete or (policy.spec.observation_dtype == "float32" and policy.spec.kind == "gaussian"):
        np.testing.assert_array_equal(got, want)
    elif policy.spec.observation_dtype == "float32":  # numpy's tanh is not torch's to the last bit
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    else:  # convolutions add in another order for channels_last, as they do for another batch size
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert len(np.unique(want)) > 1
    tensor, _ = model.policy.obs_to_tensor(observation)
    with torch.no_grad():
        output = policy(observation)
        if isinstance(model, DQN):
            torch.testing.assert_close(output.params["q"], model.q_net(tensor), rtol=1e-5, atol=1e-5)
        if isinstance(model, QRDQN):
            wanted = model.quantile_net(tensor).mean(1)
            torch.testing.assert_close(output.params["q"], wanted, rtol=1e-5, atol=1e-5)
        if isinstance(model, SAC | TQC):
            mean, log_std, _ = model.actor.get_action_dist_params(tensor)
            torch.testing.assert_close(output.params["mean"], mean, rtol=1e-5, atol=1e-5)
            if not model.use_sde:
                torch.testing.assert_close(output.params["log_std"], log_std, rtol=1e-5, atol=1e-5)
        if not isinstance(model.policy, ActorCriticPolicy) or getattr(model, "use_sde", False):
            return
        theirs: Any = model.policy.get_distribution(tensor).distribution
        if policy.spec.kind == "categorical":
            logits = output.params["logits"].log_softmax(-1)
            torch.testing.assert_close(logits, theirs.logits, rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(output.params["mean"], theirs.loc, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(output.params["log_std"].exp(), theirs.scale, rtol=1e-5, atol=1e-5)
        if output.value is not None:
            value = model.policy.predict_values(tensor)
            torch.testing.assert_close(output.value, value, rtol=1e-5, atol=1e-5)


KINDS = [
    ("ppo", VECTOR, DISCRETE, "categorical", "separate"),
    ("a2c", VECTOR, DISCRETE, "categorical", "separate"),
    ("dqn", VECTOR, DISCRETE, "q", "none"),
    ("ppo", VECTOR, BOX, "gaussian", "separate"),
    ("a2c", VECTOR, BOX, "gaussian", "separate"),
    ("ppo", pictures(40), DISCRETE, "categorical", "shared"),
    ("a2c", pictures(40), DISCRETE, "categorical", "shared"),
    ("dqn", pictures(40), DISCRETE, "q", "none"),
    ("ppo", pictures(40), BOX, "gaussian", "shared"),
    ("trpo", VECTOR, DISCRETE, "categorical", "separate"),
    ("trpo", VECTOR, BOX, "gaussian", "separate"),
    ("qrdqn", VECTOR, DISCRETE, "q", "none"),
    ("qrdqn", pictures(40), DISCRETE, "q", "none"),
    ("ars", VECTOR, DISCRETE, "q", "none"),
    ("ars", VECTOR, BOX, "squashed_gaussian", "none"),
    *((algorithm, VECTOR, BOX, "squashed_gaussian", "none") for algorithm in ("sac", "td3", "ddpg", "tqc")),
    *((algorithm, pictures(40), BOX, "squashed_gaussian", "none") for algorithm in ("sac", "td3", "tqc")),
]


@pytest.mark.parametrize(("algorithm", "observations", "actions", "kind", "critic"), KINDS)
@pytest.mark.parametrize("way", ["zip", "live"])
def test_answers_are_those_of_stable_baselines3(
    way: str, algorithm: str, observations: Any, actions: Any, kind: str, critic: str, tmp_path: Path
) -> None:
    model = make_model(algorithm, observations, actions)
    model.save(tmp_path / "model.zip")
    policy = load_policy(tmp_path / "model.zip") if way == "zip" else from_sb3(model)
    assert (policy.spec.kind, policy.spec.network.value) == (kind, critic)
    assert policy.spec.rule == Rule(name="greedy")
    assert algorithm in policy.spec.origin
    assert policy.spec.name == ("model" if way == "zip" else algorithm)
    if actions is BOX:
        assert policy.spec.action_low == tuple(BOX.low.tolist())
        assert policy.spec.action_high == tuple(BOX.high.tolist())
    assert_same_answers(policy, model, draw(observations))


def test_pictures_of_full_size_give_the_answers_of_stable_baselines3(tmp_path: Path) -> None:
    model = make_model("ppo", pictures(84), gymnasium.spaces.Discrete(6))
    model.save(tmp_path / "model.zip")
    policy = load_policy(tmp_path / "model.zip")
    assert policy.spec.parameters == 1_693_362 - 12 * 513
    assert_same_answers(policy, model, draw(pictures(84), 40))
    policy.save(tmp_path / "ours.safetensors")
    assert_same_answers(load_policy(tmp_path / "ours.safetensors"), model, draw(pictures(84), 40))


@pytest.mark.parametrize(
    ("algorithm", "observations", "arguments", "hidden", "critic"),
    [
        ("ppo", VECTOR, {"net_arch": [7, 9]}, (7, 9), "separate"),
        ("ppo", VECTOR, {"net_arch": {"pi": [7], "vf": [9, 5]}}, (7,), "none"),
        ("a2c", VECTOR, {"net_arch": []}, (), "separate"),
        ("ppo", VECTOR, {"activation_fn": torch.nn.ReLU}, (64, 64), "separate"),
        ("dqn", VECTOR, {"activation_fn": torch.nn.Tanh, "net_arch": [11]}, (11,), "none"),
        ("ppo", pictures(40), {"features_extractor_kwargs": {"features_dim": 33}}, (33,), "shared"),
        ("ppo", pictures(40), {"share_features_extractor": False}, (512,), "separate"),
        ("a2c", pictures(40), {"net_arch": {"vf": [8]}}, (512,), "none"),
        ("dqn", pictures(40), {"net_arch": [8]}, (512, 8), "none"),
        ("ppo", pictures(40), {"net_arch": [8], "activation_fn": torch.nn.ReLU}, (512, 8), "none"),
        ("qrdqn", VECTOR, {"net_arch": [11], "n_quantiles": 7}, (11,), "none"),
        ("ars", VECTOR, {"net_arch": [11], "with_bias": True}, (11,), "none"),
    ],
)
def test_policy_arguments_show_in_the_network(
    algorithm: str, observations: Any, arguments: dict[str, Any], hidden: Any, critic: str, tmp_path: Path
) -> None:
    model = make_model(algorithm, observations, policy_kwargs=arguments)
    model.save(tmp_path / "model.zip")
    policy = load_policy(tmp_path / "model.zip")
    assert (policy.spec.network.hidden, policy.spec.network.value) == (hidden, critic)
    assert_same_answers(policy, model, draw(observations))
    assert_same_answers(from_sb3(model), model, draw(observations, 50))


@pytest.mark.parametrize(
    ("algorithm", "arguments", "kind", "hidden", "limit"),
    [
        ("sac", {"net_arch": [7, 9]}, "squashed_gaussian", (7, 9), None),
        ("sac", {"net_arch": []}, "squashed_gaussian", (), None),
        ("sac", {"use_sde": True}, "squashed_gaussian", (256, 256), 2.0),
        ("sac", {"use_sde": True, "clip_mean": 0.4, "net_arch": []}, "squashed_gaussian", (), 0.4),
        ("sac", {"use_sde": True, "clip_mean": 0.0}, "squashed_gaussian", (256, 256), None),
        ("tqc", {"use_sde": True}, "squashed_gaussian", (256, 256), 2.0),
        ("td3", {"net_arch": []}, "squashed_gaussian", (), None),
        ("td3", {"net_arch": {"pi": [8], "qf": [9]}, "activation_fn": torch.nn.Tanh}, "squashed_gaussian", (8,), None),
        ("ppo", {"use_sde": True}, "gaussian", (64, 64), None),
        ("a2c", {"use_sde": True, "full_std": False}, "gaussian", (64, 64), None),
        ("ppo", {"use_sde": True, "squash_output": True}, "squashed_gaussian", (64, 64), None),
        ("ars", {"squash_output": False}, "gaussian", (64, 64), None),
        ("ars", {"linear": True}, "gaussian", (), None),
        ("ars", {"with_bias": False}, "squashed_gaussian", (64, 64), None),
        ("ars", {"linear": True, "with_bias": True, "squash_output": True}, "squashed_gaussian", (), None),
    ],
)
@pytest.mark.parametrize("way", ["zip", "live"])
def test_continuous_actors_give_the_actions_of_stable_baselines3(
    way: str, algorithm: str, arguments: dict[str, Any], kind: str, hidden: Any, limit: float | None, tmp_path: Path
) -> None:
    sde = {"use_sde": True} if "use_sde" in arguments else {}
    policy_class = "LinearPolicy" if arguments.get("linear") else "MlpPolicy"
    policy_kwargs = {key: value for key, value in arguments.items() if key not in ("use_sde", "linear")}
    model = make_model(algorithm, VECTOR, BOX, policy_class, policy_kwargs=policy_kwargs, **sde)
    model.save(tmp_path / "model.zip")
    policy = load_policy(tmp_path / "model.zip") if way == "zip" else from_sb3(model)
    assert (policy.spec.kind, policy.spec.network.hidden, policy.spec.network.mean_limit) == (kind, hidden, limit)
    assert_same_answers(policy, model, draw(VECTOR))
    policy.save(tmp_path / "ours.safetensors")
    assert_same_answers(load_policy(tmp_path / "ours.safetensors"), model, draw(VECTOR))


@pytest.mark.parametrize(
    ("observations", "actions", "arguments", "hidden", "after"),
    [
        (VECTOR, DISCRETE, {}, (), (64, 64)),
        (VECTOR, BOX, {"lstm_hidden_size": 9, "net_arch": []}, (), None),
        (VECTOR, DISCRETE, {"shared_lstm": True, "enable_critic_lstm": False}, (), (64, 64)),
        (VECTOR, DISCRETE, {"enable_critic_lstm": False, "activation_fn": torch.nn.ReLU}, (), (64, 64)),
        (pictures(40), DISCRETE, {"lstm_hidden_size": 9}, (512,), None),
    ],
)
@pytest.mark.parametrize("way", ["zip", "live"])
def test_recurrent_ppo_acts_as_in_sb3_contrib_step_by_step(
    way: str, observations: Any, actions: Any, arguments: dict[str, Any], hidden: Any, after: Any, tmp_path: Path
) -> None:
    name = "CnnLstmPolicy" if len(observations.shape) == 3 else "MlpLstmPolicy"
    model = make_model("recurrent", observations, actions, name, policy_kwargs=arguments, n_steps=8)
    model.save(tmp_path / "model.zip")
    policy = load_policy(tmp_path / "model.zip") if way == "zip" else from_sb3(model)
    network = policy.spec.network
    assert (network.hidden, network.core, network.core_hidden) == (hidden, "lstm", after)
    assert network.core_width == arguments.get("lstm_hidden_size", 256)
    theirs: Any = None
    ours, seen = None, []
    for step, observation in enumerate(draw(observations, 48).reshape(16, 3, *observations.shape)):
        starts = np.array([step == 0, step in (0, 5), step in (0, 9)])
        want, theirs = model.predict(observation, theirs, starts, deterministic=True)
        got, ours = policy.predict(observation, ours, starts, deterministic=True)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
        seen.append(want)
    assert len(np.unique(seen)) > 1


def test_policies_without_noise_of_their_own_act_the_same_when_sampled() -> None:
    for algorithm in ("td3", "ars"):
        policy = from_sb3(make_model(algorithm, VECTOR, BOX))
        greedy, sampled = (policy.predict(draw(VECTOR), deterministic=rule)[0] for rule in (True, False))
        np.testing.assert_allclose(greedy, sampled, rtol=0, atol=1e-6)


def test_weights_of_a_live_model_are_copied() -> None:
    model = make_model("ppo")
    policy = from_sb3(model)
    before = policy.predict(draw(VECTOR))[0].tolist()
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.zero_()
    assert policy.predict(draw(VECTOR))[0].tolist() == before


class OwnPolicy(ActorCriticPolicy):
    """Might do anything."""


class OwnExtractor(NatureCNN):
    """The same tensors, perhaps another forward pass."""


@pytest.mark.parametrize(
    ("algorithm", "observations", "actions", "arguments", "message"),
    [
        ("ppo", VECTOR, DISCRETE, {"policy": OwnPolicy}, "policy class is of '.*test_policy_sb3'"),
        (
            "ppo",
            pictures(40),
            DISCRETE,
            {"policy_kwargs": {"features_extractor_class": OwnExtractor}},
            "OwnExtractor.* is not read",
        ),
        ("a2c", VECTOR, DISCRETE, {"policy_kwargs": {"activation_fn": torch.nn.ELU}}, "activation .*ELU"),
        (
            "a2c",
            gymnasium.spaces.Box(0, 1, (4, 40, 40), np.float32),
            DISCRETE,
            {"policy_kwargs": {"normalize_images": False}},
            "normalize_images=False",
        ),
        ("ppo", pictures(40), DISCRETE, {"policy": "MlpPolicy"}, r"MlpPolicy on observations \[4, 40, 40\]"),
        ("ppo", gymnasium.spaces.Discrete(9), DISCRETE, {}, "Discrete.* where a Box is expected"),
        (
            "ppo",
            gymnasium.spaces.Dict({"vector": VECTOR}),
            DISCRETE,
            {"policy": "MultiInputPolicy"},
            "CombinedExtractor.* is not read|Dict.* where a Box is expected",
        ),
        (
            "recurrent",
            VECTOR,
            DISCRETE,
            {"policy": "MlpLstmPolicy", "policy_kwargs": {"n_lstm_layers": 2}},
            "second LSTM",
        ),
        ("ppo", VECTOR, gymnasium.spaces.MultiDiscrete([2, 3]), {}, "action space .*MultiDiscrete"),
        ("ppo", VECTOR, gymnasium.spaces.MultiBinary(3), {}, "action space .*MultiBinary"),
        ("dqn", VECTOR, gymnasium.spaces.Discrete(3, start=1), {}, "actions that start at 1"),
        (
            "ppo",
            pictures(40),
            DISCRETE,
            {"policy_kwargs": {"net_arch": [8]}},
            "layers with tanh behind a CNN with relu",
        ),
    ],
)
@pytest.mark.parametrize("way", ["zip", "live"])
def test_what_is_not_read_is_refused_by_name(
    way: str, algorithm: str, observations: Any, actions: Any, arguments: Any, message: str, tmp_path: Path
) -> None:
    model = make_model(algorithm, observations, actions, **arguments)
    model.save(tmp_path / "model.zip")
    with pytest.raises(PolicyFileError, match=message):
        load_policy(tmp_path / "model.zip") if way == "zip" else from_sb3(model)


def test_observations_are_whitened_as_vecnormalize_did(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 4), clip_obs=1.5)
    model = make_model("ppo", gymnasium.spaces.Box(-1, 1, (4,)), env=env, n_steps=64)
    model.learn(256)
    folder = tmp_path / "model"
    folder.mkdir()
    model.save(tmp_path / "model.zip")
    raw = draw(gymnasium.spaces.Box(-1, 1, (4,)))
    want, _ = model.predict(np.asarray(env.normalize_obs(raw)), deterministic=True)
    assert from_sb3(model).predict(raw)[0].tolist() == want.tolist()
    assert load_policy(tmp_path / "model.zip").predict(raw)[0].tolist() != want.tolist()
    for place in (folder, tmp_path):
        env.save(str(place / "vecnormalize.pkl"))
        read = load_policy(tmp_path / "model.zip")
        assert read.spec.normaliser is not None
        assert read.spec.normaliser.limit == 1.5
        assert read.predict(raw)[0].tolist() == want.tolist()
        (place / "vecnormalize.pkl").unlink()
    (folder / "config.yml").write_text("- - - n_envs\n    - 8\n  - - normalize\n    - true\n")
    with pytest.raises(PolicyFileError, match=r"learned behind VecNormalize, says .*config\.yml"):
        load_policy(tmp_path / "model.zip")
    (folder / "config.yml").write_text("- - - normalize\n    - false\n  - - normalize_advantage\n    - true\n")
    assert load_policy(tmp_path / "model.zip").spec.normaliser is None


def test_statistics_of_another_policy_are_refused(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]))
    env.save(str(tmp_path / "vecnormalize.pkl"))
    make_model("ppo").save(tmp_path / "model.zip")
    with pytest.raises(PolicyFileError, match=r"statistics are of 4 numbers, observations \[5\]"):
        load_policy(tmp_path / "model.zip")


def test_another_game_is_refused(tmp_path: Path) -> None:
    make_model("dqn", gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(3)).save(tmp_path / "model.zip")
    with pytest.raises(MismatchError, match=r"reads observations of shape \[4\], Acrobot-v1 gives \[6\]"):
        load_policy(tmp_path / "model.zip", env="acrobot")
    with pytest.raises(MismatchError, match="has 3 discrete actions, CartPole-v1 takes 2"):
        load_policy(tmp_path / "model.zip", env="cartpole")


# Files that are not what they should be


class Payload:
    """Makes a folder when it is unpickled by anything that runs callables."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def pickled(value: object) -> bytes:
    import pickle

    return pickle.dumps(value)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_model("ppo").save(tmp_path / "model.zip")
    return tmp_path / "model.zip"


WATCH = """
import sys
from rlkd.errors import PolicyFileError
from rlkd.policy import load_policy

clean, path = sys.argv[1:]
load_policy(clean)  # imports everything, so that no import is taken for the file's doing
seen = []
sys.addaudithook(lambda event, arguments: seen.append(event) if event in WATCHED else None)
WATCHED = {"pickle.find_class", "exec", "compile", "import", "os.mkdir", "os.system", "subprocess.Popen"}
try:
    policy = load_policy(path)
    print("loaded", policy.spec.hash == load_policy(clean).spec.hash or policy.spec.origin)
except PolicyFileError as error:
    print("refused", type(error).__name__)
print("seen", sorted(set(seen)))
"""


def test_a_payload_in_data_is_never_run_but_stable_baselines3_runs_it(saved: Path, tmp_path: Path) -> None:
    marker, poisoned = tmp_path / "marker", tmp_path / "poisoned.zip"
    contents = members(saved)
    data = json.loads(contents["data"])
    blob = base64.b64encode(pickled(Payload(marker))).decode()
    for entry in data.values():
        if isinstance(entry, dict) and ":serialized:" in entry:
            entry[":serialized:"] = blob
    data["policy_kwargs"] = {":type:": "<class 'dict'>", ":serialized:": blob}
    write_zip(poisoned, contents | {"data": json.dumps(data).encode()})
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCH), str(saved), str(poisoned)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("loaded")
    assert second == "seen []"
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever it makes of the rest, the payload comes first
        PPO.load(poisoned, device="cpu")
    assert marker.is_dir()


@pytest.mark.parametrize("wrap", [False, True], ids=["alone", "among weights"])
def test_a_payload_in_the_weights_is_refused_unrun(wrap: bool, saved: Path, tmp_path: Path) -> None:
    payload = Payload(tmp_path / "marker")
    stream = io.BytesIO()
    weights = torch.load(io.BytesIO(members(saved)["policy.pth"]), weights_only=True)
    torch.save(OrderedDict(weights, extra=payload) if wrap else payload, stream)
    write_zip(saved, members(saved) | {"policy.pth": stream.getvalue()})
    with pytest.raises(UnsafeFileError, match="refers to 'posix mkdir', which weights do not need"):
        load_policy(saved)
    assert not (tmp_path / "marker").exists()


def test_a_payload_in_the_statistics_is_refused_unrun(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "vecnormalize.pkl").write_bytes(pickled(Payload(tmp_path / "marker")))
    with pytest.raises(UnsafeFileError, match="refers to 'posix mkdir'"):
        load_policy(saved)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["data", "policy.pth", "_stable_baselines3_version"])
def test_a_member_that_unpacks_to_far_more_is_refused(name: str, saved: Path) -> None:
    write_zip(saved, members(saved) | {name: bytes(8 * 1024**2)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeFileError, match=f"member '{name}' unpacks from .* to 8388608 bytes"):
        load_policy(saved)


def test_weights_that_unpack_or_spread_to_far_more_are_refused(saved: Path) -> None:
    contents = members(saved)
    inner = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents["policy.pth"])) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    write_zip(inner, records, zipfile.ZIP_DEFLATED)  # type: ignore[arg-type]  # zipfile takes streams as well
    write_zip(saved, contents | {"policy.pth": inner.getvalue()})
    with pytest.raises(UnsafeFileError, match="not laid out as torch writes it"):
        load_policy(saved)
    weights = torch.load(io.BytesIO(contents["policy.pth"]), weights_only=True)
    for times, message in ((10**9, "claims 1000000000 elements"), (30_000, "claims tensors of 36000")):
        weights["action_net.weight"] = torch.zeros(1).expand(times, times)  # four bytes, seen over and over
        stream = io.BytesIO()
        torch.save(weights, stream)
        write_zip(saved, contents | {"policy.pth": stream.getvalue()})
        with pytest.raises(UnsafeFileError, match=message):
            load_policy(saved)


def as_before_torch_1_6(contents: dict[str, bytes], weights: Any = None) -> dict[str, bytes]:
    """The members of a zip, its weights written the way torch did then."""
    if weights is None:
        weights = torch.load(io.BytesIO(contents["policy.pth"]), weights_only=True)
    stream = io.BytesIO()
    torch.save(weights, stream, _use_new_zipfile_serialization=False)
    return contents | {"policy.pth": stream.getvalue()}


def test_weights_from_before_torch_1_6_are_read(saved: Path) -> None:
    want = load_policy(saved)
    write_zip(saved, as_before_torch_1_6(members(saved)))
    got = load_policy(saved)
    assert all(torch.equal(a, b) for a, b in zip(got.network.parameters(), want.network.parameters(), strict=True))


def test_old_weights_are_refused_with_more_than_tensors_or_made_up_sizes(saved: Path, tmp_path: Path) -> None:
    contents = members(saved)
    weights = torch.load(io.BytesIO(contents["policy.pth"]), weights_only=True)
    write_zip(saved, as_before_torch_1_6(contents, OrderedDict(weights, extra=Payload(tmp_path / "marker"))))
    with pytest.raises(UnsafeFileError, match="refers to 'posix mkdir', which weights do not need"):
        load_policy(saved)
    weights["action_net.weight"] = torch.zeros(1).expand(10**9, 10**9)
    write_zip(saved, as_before_torch_1_6(contents, weights))
    with pytest.raises(UnsafeFileError, match="claims 1000000000 elements"):
        load_policy(saved)
    # A payload in the first pickle, where torch has its magic number, is no file of torch at all.
    write_zip(saved, contents | {"policy.pth": pickled(Payload(tmp_path / "marker"))})
    with pytest.raises(PolicyFileError):
        load_policy(saved)
    whole = as_before_torch_1_6(contents)["policy.pth"]
    for size in range(0, len(whole), 997):
        write_zip(saved, contents | {"policy.pth": whole[:size]})
        with pytest.raises(PolicyFileError):
            load_policy(saved)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("algorithm", "actions", "name", "shape"),
    [
        ("ppo", BOX, "log_std", (3,)),
        ("sac", BOX, "actor.mu.weight", (2, 7)),
        ("td3", BOX, "actor.mu.4.weight", ()),
        ("qrdqn", DISCRETE, "quantile_net.quantile_net.4.weight", (7, 64)),
        ("recurrent", DISCRETE, "lstm_actor.weight_hh_l0", (8,)),
        ("ars", BOX, "action_net.0.weight", ()),
    ],
)
def test_tensors_of_other_shapes_are_refused_whatever_the_family(
    algorithm: str, actions: Any, name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    policy_class = "MlpLstmPolicy" if algorithm == "recurrent" else "MlpPolicy"
    make_model(algorithm, VECTOR, actions, policy_class).save(tmp_path / "model.zip")
    contents = members(tmp_path / "model.zip")
    weights = torch.load(io.BytesIO(contents["policy.pth"]), weights_only=True)
    assert name in weights
    weights[name] = torch.zeros(shape)
    stream = io.BytesIO()
    torch.save(weights, stream)
    write_zip(tmp_path / "model.zip", contents | {"policy.pth": stream.getvalue()})
    with pytest.raises(PolicyFileError, match="do not make the stock network"):
        load_policy(tmp_path / "model.zip")


@pytest.mark.parametrize("change", [{"policy_class": {"__module__": []}}, {"policy_kwargs": {"activation_fn": []}}])
def test_plain_values_of_another_type_are_refused(change: dict[str, Any], saved: Path) -> None:
    contents = members(saved)
    write_zip(saved, contents | {"data": json.dumps(json.loads(contents["data"]) | change).encode()})
    with pytest.raises(PolicyFileError, match="is not read|rlkd reads"):
        load_policy(saved)


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "C:\\outside", "a\\..\\outside"])
def test_members_that_point_outside_are_refused(name: str, saved: Path) -> None:
    write_zip(saved, members(saved) | {name: b""})
    with pytest.raises(UnsafeFileError, match="points outside the archive"):
        load_policy(saved)


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_members_that_miss_are_named(name: str, saved: Path) -> None:
    contents = members(saved)
    del contents[name]
    write_zip(saved, contents)
    with pytest.raises(PolicyFileError, match=f"no member '{name}'"):
        load_policy(saved)


def test_a_doubled_or_encrypted_member_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    with zipfile.ZipFile(saved, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("data", b"{}")
    with pytest.raises(PolicyFileError, match="two members of one name"):
        load_policy(saved)
    directory = int.from_bytes(content[-6:-2], "little")
    encrypted = bytearray(content)
    encrypted[6] |= 1  # of the first member, data
    encrypted[directory + 8] |= 1
    saved.write_bytes(encrypted)
    with pytest.raises(PolicyFileError, match="member 'data' is encrypted"):
        load_policy(saved)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 200_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "policy class is of 'None'"),
    ],
)
def test_data_of_another_form_is_refused(data: bytes, message: str, saved: Path) -> None:
    write_zip(saved, members(saved) | {"data": data})
    with pytest.raises(PolicyFileError, match=message):
        load_policy(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["observation_space"].update(_shape=[4, 10**6, 10**6]), "MlpPolicy on observations"),
        (lambda data: data["observation_space"].update(_shape=[10**6]), "do not make the stock network"),
        (lambda data: data["observation_space"].update(_shape="[5]"), "where a Box is expected"),
        (lambda data: data["action_space"].update(n=999_999), "do not make the stock network"),
        (lambda data: data["action_space"].update(n="3.5"), "action space .* is not read"),
        (lambda data: data["policy_kwargs"].update(mask=True), "policy argument 'mask' is not known"),
    ],
)
def test_plain_values_that_do_not_fit_the_weights_are_refused(
    change: Callable[[Any], None], message: str, saved: Path
) -> None:
    contents = members(saved)
    data = json.loads(contents["data"])
    change(data)
    write_zip(saved, contents | {"data": json.dumps(data).encode()})
    with pytest.raises(PolicyFileError, match=message):
        load_policy(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("action_net.bias"), "no tensor 'action_net.bias'"),
        (
            lambda weights: weights.update({"actor.mu": torch.zeros(1)}),
            r"tensor 'actor\.mu' is not of the stock policy",
        ),
        (lambda weights: weights["action_net.bias"].fill_(float("nan")), "'action_net.bias' holds NaN"),
        (lambda weights: weights.update({"action_net.bias": 3}), "not a dictionary of tensors"),
        (
            lambda weights: weights.update({"mlp_extractor.policy_net.2.weight": torch.zeros(64, 63)}),
            "do not make the stock network",
        ),
        (
            lambda weights: weights.update({"mlp_extractor.policy_net.1.weight": torch.zeros(64)}),
            "tensor 'mlp_extractor.policy_net.1.weight' is not of the stock",
        ),
    ],
)
def test_weights_that_are_not_of_the_stock_network_are_refused(
    change: Callable[[Any], Any], message: str, saved: Path
) -> None:
    contents = members(saved)
    weights = torch.load(io.BytesIO(contents["policy.pth"]), weights_only=True)
    change(weights)
    stream = io.BytesIO()
    torch.save(weights, stream)
    write_zip(saved, contents | {"policy.pth": stream.getvalue()})
    with pytest.raises(PolicyFileError, match=message):
        load_policy(saved)


def test_damaged_zips_are_refused_or_give_the_same_policy(saved: Path) -> None:
    content, policy, random_ = saved.read_bytes(), load_policy(saved), random.Random(0)
    want = policy.network.state_dict()
    refused = 0
    for trial in range(200):
        altered = bytearray(content)
        if trial % 4 == 0:
            altered = altered[: random_.randrange(len(content))]
        else:
            for _ in range(trial % 3 + 1):
                altered[random_.randrange(len(content))] = random_.randrange(256)
        saved.write_bytes(altered)
        try:
            read = load_policy(saved)
        except PolicyFileError:
            refused += 1
            continue
        got = read.network.state_dict()
        assert got.keys() == want.keys()
        assert all(torch.equal(got[name], want[name]) for name in want)
    assert refused > 80


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip", bytes(1000)])
def test_files_that_are_no_zips_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with pytest.raises(PolicyFileError, match="no policy at"):
        load_policy(path)
    path.write_bytes(content)
    with pytest.raises(PolicyFileError, match="not a zip file"):
        load_policy(path)


# Teachers that others trained


def teacher(name: str) -> Path:
    return Path(os.environ["RLKD_TEACHERS"]) / name


def their_model(path: Path, algorithm: str, policy: Policy) -> BaseAlgorithm:
    """Stable-Baselines3's own loading, with stand-ins for what its old pickles do not give any more."""
    spec = policy.spec
    objects: dict[str, Any] = dict.fromkeys(("_last_obs", "_last_original_obs", "_last_episode_starts", "_last_dones"))
    objects |= dict.fromkeys(("lr_schedule", "clip_range", "exploration_schedule"), _zero)
    objects["learning_rate"] = 0.0
    objects["observation_space"] = gymnasium.spaces.Box(-np.inf, np.inf, spec.observation_shape)
    objects["action_space"] = gymnasium.spaces.Discrete(spec.actions)
    if not spec.discrete:
        low, high = (np.array(bound, np.float32) for bound in (spec.action_low, spec.action_high))
        objects["action_space"] = gymnasium.spaces.Box(low, high)
    model: BaseAlgorithm = ALGORITHMS[algorithm].load(path, device="cpu", custom_objects=objects)
    return model


def _zero(_: float) -> float:
    return 0.0


ZOO = "dlr_rl-trained-agents"


@pytest.mark.teachers
@pytest.mark.filterwarnings("ignore")  # from unpickling what gym and numpy of years ago wrote
@pytest.mark.parametrize(
    ("name", "algorithm", "env", "normalised"),
    [
        (f"{ZOO}/a2c/Acrobot-v1_1/Acrobot-v1.zip", "a2c", "acrobot", True),
        (f"{ZOO}/a2c/CartPole-v1_1/CartPole-v1.zip", "a2c", "cartpole", False),
        (f"{ZOO}/a2c/LunarLander-v2_1/LunarLander-v2.zip", "a2c", "", False),
        (f"{ZOO}/dqn/Acrobot-v1_1/Acrobot-v1.zip", "dqn", "acrobot", False),
        (f"{ZOO}/dqn/CartPole-v1_1/CartPole-v1.zip", "dqn", "cartpole", False),
        (f"{ZOO}/dqn/LunarLander-v2_1/LunarLander-v2.zip", "dqn", "", False),
        (f"{ZOO}/dqn/MountainCar-v0_1/MountainCar-v0.zip", "dqn", "mountaincar", False),
        (f"{ZOO}/ppo/Acrobot-v1_1/Acrobot-v1.zip", "ppo", "acrobot", True),
        (f"{ZOO}/ppo/CartPole-v1_1/CartPole-v1.zip", "ppo", "cartpole", False),
        (f"{ZOO}/ppo/HalfCheetah-v3_1/HalfCheetah-v3.zip", "ppo", "", True),
        (f"{ZOO}/ppo/LunarLander-v2_1/LunarLander-v2.zip", "ppo", "", False),
        (f"{ZOO}/ppo/LunarLanderContinuous-v2_1/LunarLanderContinuous-v2.zip", "ppo", "", False),
        (f"{ZOO}/ppo/MountainCar-v0_1/MountainCar-v0.zip", "ppo", "mountaincar", True),
        ("humancompatible_imitation/cartpole_0_model.zip", "ppo", "cartpole", False),
        (f"{ZOO}/a2c/Pendulum-v1_1/Pendulum-v1.zip", "a2c", "pendulum", True),  # gSDE
        (f"{ZOO}/ppo/Pendulum-v1_1/Pendulum-v1.zip", "ppo", "pendulum", False),  # gSDE
        (f"{ZOO}/trpo/Hopper-v3_1/Hopper-v3.zip", "trpo", "", True),
        (f"{ZOO}/trpo/LunarLander-v2_1/LunarLander-v2.zip", "trpo", "", False),
        (f"{ZOO}/ars/Acrobot-v1_1/Acrobot-v1.zip", "ars", "acrobot", True),
        (f"{ZOO}/ars/CartPole-v1_1/CartPole-v1.zip", "ars", "cartpole", False),
        (f"{ZOO}/ars/HalfCheetah-v3_1/HalfCheetah-v3.zip", "ars", "", True),
        (f"{ZOO}/ars/LunarLanderContinuous-v2_1/LunarLanderContinuous-v2.zip", "ars", "", True),
        (f"{ZOO}/qrdqn/CartPole-v1_1/CartPole-v1.zip", "qrdqn", "cartpole", False),
        (f"{ZOO}/sac/HalfCheetah-v3_1/HalfCheetah-v3.zip", "sac", "", False),
        (f"{ZOO}/sac/MountainCarContinuous-v0_1/MountainCarContinuous-v0.zip", "sac", "", False),  # gSDE
        (f"{ZOO}/sac/Pendulum-v1_1/Pendulum-v1.zip", "sac", "pendulum", False),  # gSDE, from before torch 1.6
        (f"{ZOO}/tqc/Pendulum-v1_1/Pendulum-v1.zip", "tqc", "pendulum", False),
        (f"{ZOO}/tqc/MountainCarContinuous-v0_1/MountainCarContinuous-v0.zip", "tqc", "", False),
    ],
)
def test_teachers_of_others_act_as_in_stable_baselines3(name: str, algorithm: str, env: str, normalised: bool) -> None:
    policy = load_policy(teacher(name), env=env or None)
    model = their_model(teacher(name), algorithm, policy)
    raw = draw(gymnasium.spaces.Box(-1, 1, policy.spec.observation_shape), 200)
    normaliser = policy.spec.normaliser
    assert (normaliser is not None) == normalised
    seen = raw
    if normaliser is not None:  # the formula of VecNormalize.normalize_obs
        centred = raw - np.array(normaliser.mean)
        white = centred / np.sqrt(np.array(normaliser.variance) + normaliser.epsilon)
        seen = np.clip(white, -normaliser.limit, normaliser.limit).astype(np.float32)
    want, _ = model.predict(seen, deterministic=True)
    if policy.spec.kind == "squashed_gaussian":
        np.testing.assert_allclose(policy.predict(raw)[0], want, rtol=0, atol=1e-5)
    else:
        np.testing.assert_array_equal(policy.predict(raw)[0], want)
    assert len(np.unique(want)) > 1


def test_a_zip_plays_in_the_environment_that_its_name_holds_if_it_fits(tmp_path: Path) -> None:
    lander, cartpole = gymnasium.spaces.Box(-1, 1, (8,)), gymnasium.spaces.Box(-1, 1, (4,))
    for name, space, actions, found in (
        ("LunarLander-v2", lander, 4, "LunarLander-v3"),
        ("ppo-LunarLander-v3", lander, 4, "LunarLander-v3"),
        ("CartPole-v1", cartpole, 2, "CartPole-v1"),
        ("CartPole-v1", lander, 2, None),
        ("CartPole-v9", cartpole, 2, None),
        ("mine", cartpole, 2, None),
    ):
        make_model("ppo", space, gymnasium.spaces.Discrete(actions)).save(tmp_path / f"{name}.zip")
        environment = load_policy(tmp_path / f"{name}.zip").spec.environment
        assert (None if environment is None else environment.id) == found
    make_model("ppo", cartpole, gymnasium.spaces.Discrete(2)).save(tmp_path / "CartPole-v0.zip")
    assert load_policy(tmp_path / "CartPole-v0.zip", env="cartpole").spec.environment == as_recipe("cartpole")


@pytest.mark.teachers
def test_a_teacher_plays_and_refuses_another_game() -> None:
    policy = load_policy(teacher(f"{ZOO}/dqn/CartPole-v1_1/CartPole-v1.zip"), env="cartpole")
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    score, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(policy.predict(observation)[0])
        score, over = score + float(reward), terminated or truncated
    assert score == 500
    with pytest.raises(MismatchError, match=r"reads observations of shape \[8\], CartPole-v1 gives \[4\]"):
        load_policy(teacher(f"{ZOO}/dqn/LunarLander-v2_1/LunarLander-v2.zip"), env="cartpole")
