"""A policy as a model of Stable-Baselines3: PPO, DQN or SAC with our weights in their layers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from rlkd.errors import ExportError
from rlkd.exporting.extractor import Encoder
from rlkd.policy import Acting, Answer, Normaliser, Policy, PolicySpec
from rlkd.policy.rule import PARAMS
from rlkd.recipe import to_table
from rlkd.vector import make

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "categorical": stable_baselines3.PPO,
    "gaussian": stable_baselines3.PPO,
    "q": stable_baselines3.DQN,
    "squashed_gaussian": stable_baselines3.SAC,
}
"""By kind of policy."""
NATURE_CHANNELS, NATURE_KERNELS, NATURE_STRIDES = (32, 64, 64), (8, 4, 3), (4, 2, 1)
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Shell(gymnasium.Env[np.ndarray, Any]):
    """Spaces without a game: all that a constructor of Stable-Baselines3 asks of an environment."""

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


class Sb3Player(Acting):
    """What a model of Stable-Baselines3 plays with `deterministic=True`, as a policy that `play` takes.

    Its answers are actions: for discrete ones 1 at the action and 0 elsewhere, else the action as the mean.
    """

    def __init__(self, model: BaseAlgorithm, statistics: VecNormalize | None, spec: PolicySpec) -> None:
        super().__init__()
        self.model, self.statistics = model, statistics
        # Actions come squashed and scaled already.
        self.spec = spec if spec.discrete else dataclasses.replace(spec, kind="gaussian")

    def under(self, spec: PolicySpec) -> "Sb3Player":
        """The same model under another record."""
        return Sb3Player(self.model, self.statistics, spec)

    def answer(self, observation: np.ndarray, state: np.ndarray | None = None) -> Answer:
        """Its actions on observations [B, *shape], raw, as parameters."""
        observation = self.seen(observation)
        if self.statistics is not None:
            normal = self.statistics.normalize_obs(observation)
            assert isinstance(normal, np.ndarray)
            observation = normal
        action, _ = self.model.predict(observation, deterministic=True)
        if self.spec.discrete:
            chosen = np.eye(self.spec.actions, dtype=np.float32)[action]
            return Answer({PARAMS[self.spec.kind][0]: chosen}, None)
        mean = np.asarray(action, np.float32)
        return Answer({"mean": mean, "log_std": np.zeros_like(mean)}, None)


def make_model(policy: Policy) -> BaseAlgorithm:
    """The model, with the policy's weights; on the CPU, learning nothing yet.

    A critic that the policy has is taken along; where it has none, the model's is zero (PPO) or fresh (SAC).

    Raises:
        ExportError: Stable-Baselines3 cannot express the policy; the message names the obstacle.
    """
    spec = policy.spec
    _refuse_inexpressible(spec)
    with torch.random.fork_rng(devices=[]):  # a constructor draws weights; the caller's stream stays as it was
        model = _construct(spec)
    with torch.no_grad():
        _copy_weights(policy, model)
    return model


def is_stock(spec: PolicySpec) -> bool:
    """Whether Stable-Baselines3's own layers are the network, so that its zip loads without rlkd."""
    network = spec.network
    plain = network.activation in ACTIVATIONS and network.hidden_activation in (None, network.activation)
    if not network.pixels:
        return plain
    nature = (network.channels, network.kernels, network.strides) == (NATURE_CHANNELS, NATURE_KERNELS, NATURE_STRIDES)
    nature = nature and network.encoder == "conv"
    bare = not any(network.paddings or ()) and all(pool == 1 for pool in network.pools or ())
    fits = len(network.hidden) > 0 and network.activation == "relu" and spec.observation_dtype == "uint8"
    return plain and nature and bare and fits


def statistics_of(normaliser: Normaliser, model: BaseAlgorithm) -> VecNormalize:
    """The normaliser as Stable-Baselines3's own, not learning any more."""
    assert isinstance(model.observation_space, spaces.Box)
    space = (model.observation_space, model.action_space)
    venv = DummyVecEnv([lambda: Shell(*space)])
    limit, epsilon = normaliser.limit, normaliser.epsilon
    statistics = VecNormalize(venv, training=False, norm_reward=False, clip_obs=limit, epsilon=epsilon)
    moments: Any = statistics.obs_rms  # of a plain Box one record of mean and var, of others a dictionary of them
    moments.mean, moments.var = np.array(normaliser.mean), np.array(normaliser.variance)
    return statistics


def _refuse_inexpressible(spec: PolicySpec) -> None:
    network = spec.network
    obstacles = {
        f"a recurrent core ({network.core})": network.core != "none",
        "several networks that answer together (members)": network.members is not None,
        "a limit of its mean (mean_limit)": network.mean_limit is not None,
        "actions without bounds": not np.isfinite([*spec.action_low, *spec.action_high]).all(),
    }
    for what, present in obstacles.items():
        if present:
            raise ExportError(f"{spec.name}: Stable-Baselines3 has no policy with {what}; take --to onnx")


def _construct(spec: PolicySpec) -> BaseAlgorithm:
    network, arguments = spec.network, _extractor(spec)
    width = list(network.hidden[1:]) if network.pixels else list(network.hidden)
    width = width if is_stock(spec) else []  # our extractor holds them all
    env = Shell(_observation_space(spec), _action_space(spec))
    kind = "CnnPolicy" if spec.observation_dtype == "uint8" else "MlpPolicy"
    if spec.kind == "q":
        # Allocated when a model is made or loaded, and not needed to play.
        arguments["net_arch"] = width
        return stable_baselines3.DQN(kind, env, buffer_size=1, policy_kwargs=arguments, device="cpu")
    if spec.kind == "squashed_gaussian":
        arguments["net_arch"] = {"pi": width, "qf": []}
        return stable_baselines3.SAC(kind, env, buffer_size=1, policy_kwargs=arguments, device="cpu")
    arguments["net_arch"] = {"pi": width, "vf": [] if network.value == "none" else width}
    arguments["share_features_extractor"] = network.value != "separate"
    return stable_baselines3.PPO(kind, env, policy_kwargs=arguments, device="cpu")


def _extractor(spec: PolicySpec) -> dict[str, Any]:
    """Policy arguments that name the features extractor and the activation."""
    network = spec.network
    if not is_stock(spec):
        # What follows the encoder, the critic included, is not the extractor's.
        plain = dataclasses.replace(network, value="none")
        return {"features_extractor_class": Encoder, "features_extractor_kwargs": {"network": to_table(plain)}}
    common: dict[str, Any] = {"activation_fn": ACTIVATIONS[network.activation]}
    if not network.pixels:
        return common | {"features_extractor_class": FlattenExtractor}
    return common | {
        "features_extractor_class": NatureCNN,
        "features_extractor_kwargs": {"features_dim": network.hidden[0]},
    }


def _observation_space(spec: PolicySpec) -> spaces.Box:
    """The environment's own where it is cheap to ask: `load(path, env=...)` wants the same one."""
    if spec.environment is not None and spec.environment.source == "gymnasium":
        env = make(spec.environment)
        try:
            if isinstance(env.observation_space, spaces.Box) and env.observation_space.shape == spec.observation_shape:
                return env.observation_space
        finally:
            env.close()
    if spec.observation_dtype == "uint8":
        return spaces.Box(0, 255, spec.observation_shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, spec.observation_shape, np.float32)


def _action_space(spec: PolicySpec) -> spaces.Space[Any]:
    if spec.discrete:
        return spaces.Discrete(spec.actions)
    return spaces.Box(np.array(spec.action_low, np.float32), np.array(spec.action_high, np.float32))


def _copy_weights(policy: Policy, model: BaseAlgorithm) -> None:
    network, theirs = policy.network, _parts(model)
    encoder = _layers(network.encoder)
    if policy.spec.kind == "squashed_gaussian":
        actor = theirs["actor"]
        _copy(encoder, _layers(actor.features_extractor) + _layers(actor.latent_pi))
        for name, layer in zip(("weight", "bias"), (network.head.weight, network.head.bias), strict=True):
            mean, log_std = layer.chunk(2)
            getattr(actor.mu, name).copy_(mean)
            getattr(actor.log_std, name).copy_(log_std)
        return
    if policy.spec.kind == "q":
        q_net = theirs["q_net"]
        _copy([*encoder, network.head], _layers(q_net.features_extractor) + _layers(q_net.q_net))
        theirs["q_net_target"].load_state_dict(q_net.state_dict())
        return
    body = theirs["mlp_extractor"]
    acting = _layers(theirs["features_extractor"]) + _layers(body.policy_net)
    _copy([*encoder, network.head], [*acting, theirs["action_net"]])
    if network.log_std is not None:
        theirs["log_std"].copy_(network.log_std)
    own = _layers(theirs["vf_features_extractor"]) if policy.spec.network.value == "separate" else []
    critic = [*own, *_layers(body.value_net), theirs["value_net"]]
    if network.critic is None:
        nn.init.zeros_(theirs["value_net"].weight)
        return
    # A critic on the policy's features has copies of those layers that Stable-Baselines3 does not share.
    seeing = encoder if network.critic_encoder is None else _layers(network.critic_encoder)
    _copy([*seeing, network.critic][-len(critic) :], critic)


def _parts(model: BaseAlgorithm) -> dict[str, Any]:
    """Modules and parameters of the model's policy by name; their classes differ by algorithm."""
    return dict(model.policy.named_children()) | dict(model.policy.named_parameters(recurse=False))


def _layers(module: nn.Module) -> list[nn.Module]:
    """What has weights, in order."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def _copy(ours: Sequence[nn.Module], theirs: Sequence[nn.Module]) -> None:
    for source, target in zip(ours, theirs, strict=True):
        target.load_state_dict(source.state_dict())
