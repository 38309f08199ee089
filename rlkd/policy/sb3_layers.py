"""Names and shapes of Stable-Baselines3's and sb3-contrib's state dicts, turned into those of a `PolicyNetwork`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlkd.errors import PolicyFileError
from rlkd.losses import NO_NOISE
from rlkd.policy.rule import Kind
from rlkd.policy.torch_file import refuse_nan

Family = Literal["actor_critic", "recurrent", "dqn", "qrdqn", "sac", "td3", "ars"]
"""Policies of one forward pass: ppo, a2c and trpo; recurrent ppo; dqn; qrdqn; sac and tqc; td3 and ddpg; ars."""
ALGORITHMS = "ppo, a2c, dqn, sac, td3 and ddpg, and sb3-contrib's recurrent ppo, trpo, qrdqn, tqc and ars"
FEATURES: dict[Family, str] = {
    "actor_critic": "features_extractor.",
    "recurrent": "features_extractor.",
    "dqn": "q_net.features_extractor.",
    "qrdqn": "quantile_net.features_extractor.",
    "sac": "actor.features_extractor.",
    "td3": "actor.features_extractor.",
    "ars": "features_extractor.",
}
"""Where the features extractor's tensors are."""
BODY: dict[Family, str] = {
    "actor_critic": "mlp_extractor.policy_net.",
    "recurrent": "mlp_extractor.policy_net.",
    "dqn": "q_net.q_net.",
    "qrdqn": "quantile_net.quantile_net.",
    "sac": "actor.latent_pi.",
    "td3": "actor.mu.",
    "ars": "action_net.",
}
"""Where the fully connected layers are; the last of dqn, qrdqn, td3 and ars is the head."""
NATURE_KERNELS = (8, 4, 3)
FOREIGN = {
    "lstm_actor.bias_hh_l1": "a second LSTM layer",
    "mlp_extractor.shared_net.": "layers shared by policy and critic, from before Stable-Baselines3 1.8",
    "features_extractor.": "another features extractor than NatureCNN",
    "q_net.features_extractor.": "another features extractor than NatureCNN",
    "actor.features_extractor.": "another features extractor than NatureCNN",
    "quantile_net.features_extractor.": "another features extractor than NatureCNN",
}
"""How a tensor's name begins, and what has such tensors."""
OFF_PATH = (
    *("q_net_target.", "quantile_net_target.", "critic.", "critic_target.", "actor_target."),
    *("lstm_critic.", "value_net.", "mlp_extractor.value_net.", "pi_features_", "vf_features_"),
)
"""Tensors that do not act; pi_features_extractor is a second name of features_extractor."""

Critic = Literal["none", "shared", "separate"]


@dataclass(frozen=True, slots=True)
class Layers:
    """A stock network in our words."""

    channels: tuple[int, ...]
    """Of NatureCNN; none for a vector."""
    hidden: tuple[int, ...]
    """Widths of the fully connected layers before the core, or before the head where there is none."""
    core_width: int
    """Of the LSTM; 0 where there is none."""
    core_hidden: tuple[int, ...]
    """Widths of the fully connected layers between core and head."""
    deepened: bool
    """Whether layers with the policy's own activation follow NatureCNN's."""
    value: Critic
    """The critic, where ours can be the same; one of other widths than the policy's is left out."""
    tensors: dict[str, Tensor]
    """State dict of our network: float32 copies on the CPU."""


def rename(weights: Mapping[str, Tensor], family: Family, kind: Kind, actions: int, where: str) -> Layers:
    """The acting layers of a stock policy.

    Noise that depends on the state (gSDE) is left out: such policies act by their mean alone here. The quantiles of
    qrdqn are averaged in its last layer, which is linear: what acts is their mean.

    Args:
        weights: the policy's state dict.
        family: whose forward pass it is.
        kind: what our network is to answer.
        actions: how many of them.
        where: what to call the file in errors.

    Raises:
        PolicyFileError: a tensor that the stock networks do not have, one that is missing, or NaN in one.
    """
    features, body = _cnn(weights, FEATURES[family]), _sequence(weights, BODY[family])
    value: Critic = "none"
    critic: dict[str, str] = {}
    noise = {"actor_critic": "log_std", "recurrent": "log_std", "sac": "actor.log_std"}.get(family, "")
    core: dict[str, str] = {}
    if family == "actor_critic":
        head = ["action_net"]
        value, critic = _critic(weights, features, body)
    elif family == "recurrent":
        head = ["action_net"]
        core = {f"core.{part}": f"lstm_actor.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    elif family == "sac":
        # With gSDE the mean stands in a Sequential, and log_std is a parameter instead of a layer.
        head = ["actor.mu.0" if "actor.mu.0.weight" in weights else "actor.mu"]
        head += [] if noise in weights else [noise]
    else:
        head = [body.pop() if body else BODY[family].removesuffix(".")]
    wanted = {name for layer in (*features, *body, *head, *critic.values()) for name in _parts(layer, family, weights)}
    wanted |= {noise} if noise in weights or (kind == "gaussian" and noise) else set()
    wanted |= set(core.values())
    _check_names(weights, wanted, where)
    kernels = [tuple(weights[f"{layer}.weight"].shape[2:]) for layer in features[:3]]
    if features and kernels != [(size, size) for size in NATURE_KERNELS]:
        raise PolicyFileError(f"{where}: its convolutions are not NatureCNN's, and a file does not tell the strides")
    for name in sorted(wanted):
        refuse_nan(weights[name], name, where)
    before, after = (features, body) if core else (features + body, [])
    layers = _numbered("encoder", features, [] if core else body) | critic
    layers |= {f"core_layers.{2 * index}": layer for index, layer in enumerate(after)}
    tensors = {
        f"{ours}.{part}": tensor
        for ours, layer in layers.items()
        for part, tensor in zip(("weight", "bias"), _linear(weights, layer), strict=True)
    }
    tensors |= {ours: float32_copy(weights[name]) for ours, name in core.items()}
    tensors |= _head([_linear(weights, layer) for layer in head], family, kind, actions, where)
    if kind == "gaussian":
        held = weights.get("log_std")
        noiseless = held is None or held.dim() == 2  # ars; gSDE
        tensors["log_std"] = torch.full((actions,), NO_NOISE) if noiseless else float32_copy(weights["log_std"])
    widths, core_hidden = (tuple(len(weights[f"{layer}.weight"]) for layer in part) for part in (before, after))
    core_width = weights["lstm_actor.weight_hh_l0"].shape[1] if core else 0
    split = 3 if features else 0
    return Layers(widths[:split], widths[split:], core_width, core_hidden, bool(features and body), value, tensors)


def _head(
    layers: list[tuple[Tensor, Tensor]], family: Family, kind: Kind, actions: int, where: str
) -> dict[str, Tensor]:
    """Weight and bias of our head."""
    weight, bias = (torch.cat(parts) for parts in zip(*layers, strict=True))
    if family == "qrdqn":
        if len(bias) % actions:
            raise PolicyFileError(f"{where}: {len(bias)} quantiles are not the same number for {actions} actions")
        # [quantiles x actions, H], the actions side by side, to [actions, H]
        weight, bias = (part.view(-1, actions, *part.shape[1:]).mean(0) for part in (weight, bias))
    if kind == "squashed_gaussian" and len(layers) == 1:
        weight = torch.cat([weight, torch.zeros_like(weight)])
        bias = torch.cat([bias, torch.full_like(bias, NO_NOISE)])
    return {"head.weight": weight, "head.bias": bias}


def _linear(weights: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """Weight and bias, zeros where it has none."""
    weight = float32_copy(weights[f"{layer}.weight"])
    bias = weights.get(f"{layer}.bias")
    return weight, torch.zeros(len(weight)) if bias is None else float32_copy(bias)


def float32_copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU, whatever type and device the tensor has."""
    return tensor.detach().to("cpu", torch.float32, copy=True)


def _parts(layer: str, family: Family, weights: Mapping[str, Tensor]) -> list[str]:
    """Names of a layer's tensors; ars's layers may have no bias."""
    lean = family == "ars" and f"{layer}.bias" not in weights
    return [f"{layer}.weight"] if lean else [f"{layer}.weight", f"{layer}.bias"]


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
        raise PolicyFileError(f"{where}: tensor '{foreign[0]}'{known} is not of the stock policy")
    missing = sorted(wanted - set(weights))
    if missing:
        raise PolicyFileError(f"{where}: no tensor '{missing[0]}', which the stock policy has")
