"""Names and shapes of Stable-Baselines3's state dicts, turned into those of a `PolicyNetwork`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlkd.errors import PolicyFileError
from rlkd.policy.output import Kind

NATURE_KERNELS = (8, 4, 3)
FOREIGN = {
    "quantile_net.": "qrdqn",
    "actor.": "sac, td3, ddpg, tqc or crossq",
    "lstm_actor.": "recurrent ppo",
    "mlp_extractor.shared_net.": "layers shared by policy and critic, from before Stable-Baselines3 1.8",
    "features_extractor.": "another features extractor than NatureCNN",
    "q_net.features_extractor.": "another features extractor than NatureCNN",
}
"""How a tensor's name begins, and what has such tensors."""
OFF_PATH = ("q_net_target.", "value_net.", "mlp_extractor.value_net.", "pi_features_", "vf_features_")
"""Tensors that do not act; pi_features_extractor is a second name of features_extractor."""

Critic = Literal["none", "shared", "separate"]


@dataclass(frozen=True, slots=True)
class Layers:
    """A stock network in our words."""

    channels: tuple[int, ...]
    """Of NatureCNN; none for a vector."""
    hidden: tuple[int, ...]
    """Widths of the fully connected layers before the head."""
    deepened: bool
    """Whether layers with the policy's own activation follow NatureCNN's."""
    value: Critic
    """The critic, where ours can be the same; one of other widths than the policy's is left out."""
    tensors: dict[str, Tensor]
    """State dict of our network: float32 copies on the CPU."""


def rename(weights: Mapping[str, Tensor], kind: Kind, where: str) -> Layers:
    """The layers of an actor-critic or Q network of Stable-Baselines3.

    Raises:
        PolicyFileError: a tensor that the stock networks do not have, one that is missing, or NaN in one.
    """
    value: Critic = "none"
    critic: dict[str, str] = {}
    if kind == "q":
        features, body = _cnn(weights, "q_net.features_extractor."), _sequence(weights, "q_net.q_net.")
        head = body.pop() if body else "q_net.q_net.0"
    else:
        features, body = _cnn(weights, "features_extractor."), _sequence(weights, "mlp_extractor.policy_net.")
        head = "action_net"
        value, critic = _critic(weights, features, body)
    layers = _numbered("encoder", features, body) | {"head": head} | critic
    names = {f"{ours}.{part}": f"{layers[ours]}.{part}" for ours in layers for part in ("weight", "bias")}
    if kind == "gaussian":
        names["log_std"] = "log_std"
    _check_names(weights, set(names.values()), where)
    kernels = [tuple(weights[f"{layer}.weight"].shape[2:]) for layer in features[:3]]
    if features and kernels != [(size, size) for size in NATURE_KERNELS]:
        raise PolicyFileError(f"{where}: its convolutions are not NatureCNN's, and a file does not tell the strides")
    tensors = {ours: weights[name].detach().to("cpu", torch.float32, copy=True) for ours, name in names.items()}
    for ours, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise PolicyFileError(f"{where}: tensor '{names[ours]}' holds NaN or infinity; such a policy cannot act")
    widths = tuple(weights[f"{layer}.bias"].numel() for layer in features + body)
    split = 3 if features else 0
    return Layers(widths[:split], widths[split:], bool(features and body), value, tensors)


def _cnn(weights: Mapping[str, Tensor], prefix: str) -> list[str]:
    """NatureCNN's layers, where there is any features extractor with tensors."""
    if not any(name.startswith(prefix) for name in weights):
        return []
    return [f"{prefix}{layer}" for layer in ("cnn.0", "cnn.2", "cnn.4", "linear.0")]


def _sequence(weights: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Linear layers with an activation behind each: every second module."""
    layers: list[str] = []
    while f"{prefix}{2 * len(layers)}.weight" in weights:
        layers.append(f"{prefix}{2 * len(layers)}")
    return layers


def _critic(weights: Mapping[str, Tensor], features: list[str], body: list[str]) -> tuple[Critic, dict[str, str]]:
    """Which of our critics is the same, and its layers by our names."""
    body_of_critic = _sequence(weights, "mlp_extractor.value_net.")
    twins = [f"vf_{layer}" for layer in features]
    own = all(f"{twin}.weight" in weights for twin in twins) and any(
        not torch.equal(weights[f"vf_{layer}.weight"], weights[f"{layer}.weight"])
        for layer in features
        if f"{layer}.weight" in weights
    )
    if features and not own:
        plain = not body and not body_of_critic
        return ("shared", {"critic": "value_net"}) if plain else ("none", {})
    shapes = [[weights[f"{layer}.weight"].shape for layer in layers] for layers in (body, body_of_critic)]
    if shapes[0] != shapes[1]:
        return "none", {}
    return "separate", _numbered("critic_encoder", twins, body_of_critic) | {"critic": "value_net"}


def _numbered(encoder: str, features: list[str], body: list[str]) -> dict[str, str]:
    """Layers by their names in our encoder: an activation behind each, a Flatten after the convolutions."""
    return {
        f"{encoder}.{2 * index + (1 if features and index >= 3 else 0)}": layer
        for index, layer in enumerate(features + body)
    }


def _check_names(weights: Mapping[str, Tensor], wanted: set[str], where: str) -> None:
    foreign = sorted(name for name in set(weights) - wanted if not name.startswith(OFF_PATH))
    if foreign:
        known = next((f" ({what})" for start, what in FOREIGN.items() if foreign[0].startswith(start)), "")
        raise PolicyFileError(f"{where}: tensor '{foreign[0]}'{known} is not of a stock ppo, a2c or dqn policy")
    missing = sorted(wanted - set(weights))
    if missing:
        raise PolicyFileError(f"{where}: no tensor '{missing[0]}', which the stock policy has")
