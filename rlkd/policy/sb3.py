"""Stable-Baselines3's and sb3-contrib's policies as ours: from a zip without unpickling it, or from a live model.

Read are the tensors of `policy.pth` and, of `data`, the plain values beside its pickled ones. What they do
not settle, or what our networks cannot express, is refused by name.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rlkd.errors import PolicyFileError, RlkdError
from rlkd.policy.networks import PolicyNetwork
from rlkd.policy.numpy_pickle import read_vecnormalize
from rlkd.policy.policy import Policy
from rlkd.policy.rule import GREEDY, Kind
from rlkd.policy.sb3_layers import ALGORITHMS, Family, rename
from rlkd.policy.sb3_own import OWN_EXTRACTOR, own_encoder, own_tensors
from rlkd.policy.sb3_spaces import actions_of, plain_space, shape_of, table
from rlkd.policy.sb3_zip import read_contents
from rlkd.policy.spec import Normaliser, PolicySpec
from rlkd.recipe import Network

FAMILIES: dict[str, Family] = {
    "stable_baselines3.common.policies": "actor_critic",
    "stable_baselines3.dqn.policies": "dqn",
    "stable_baselines3.sac.policies": "sac",
    "stable_baselines3.td3.policies": "td3",
    "sb3_contrib.ars.policies": "ars",
    "sb3_contrib.common.recurrent.policies": "recurrent",
    "sb3_contrib.qrdqn.policies": "qrdqn",
    "sb3_contrib.tqc.policies": "sac",
}
"""Modules of the policy classes whose forward pass is known."""
STOCK_EXTRACTORS = tuple(
    f"<class 'stable_baselines3.common.torch_layers.{name}'>" for name in ("NatureCNN", "FlattenExtractor")
)
ACTIVATIONS: dict[str, Literal["relu", "tanh"]] = {
    "<class 'torch.nn.modules.activation.ReLU'>": "relu",
    "<class 'torch.nn.modules.activation.Tanh'>": "tanh",
}
KNOWN_ARGUMENTS = frozenset(
    (
        *(":type:", ":serialized:", "net_arch", "activation_fn", "ortho_init", "log_std_init", "optimizer_class"),
        *("optimizer_kwargs", "use_sde", "full_std", "use_expln", "squash_output", "share_features_extractor"),
        *("normalize_images", "features_extractor_class", "features_extractor_kwargs"),
        *("lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm", "lstm_kwargs"),
        *("clip_mean", "n_critics", "n_quantiles", "sde_net_arch", "with_bias", "device"),
    )
)
"""Keyword arguments of policies that are checked here, show in the tensors, or matter for learning alone."""


def read_zip(path: Path, *, device: str) -> Policy:
    """The policy in a zip of Stable-Baselines3 or sb3-contrib, with CnnPolicy, MlpPolicy or LinearPolicy.

    Its rule is greedy: Stable-Baselines3's `predict` samples unless told otherwise, but the scores that such
    teachers are known and chosen by are those of `deterministic=True`. Statistics of `VecNormalize` are taken
    from `vecnormalize.pkl` beside the zip or in the folder of its name, where the RL Zoo puts it.

    Args:
        path: the .zip file.
        device: where the network runs.

    Raises:
        UnsafeFileError: a file that wants more decoded than tensors and numbers.
        PolicyFileError: missing, damaged, or of a kind that is not read; the message names the obstacle.
    """
    contents = read_contents(path)
    made_by = f"Stable-Baselines3 {contents.version} {_algorithm(contents.data)}"
    return _policy(
        contents.data,
        contents.weights,
        _statistics(path),
        where=str(path),
        name=path.stem,
        origin=f"{made_by}, {path.name}, sha256 {contents.sha256}",
        device=device,
    )


def from_model(model: Any) -> Policy:
    """The policy of a live algorithm of Stable-Baselines3 or sb3-contrib: weights copied, rule greedy as in `read_zip`.

    Raises:
        PolicyFileError: a policy of a kind that is not read; the message names the obstacle.
    """
    from stable_baselines3 import __version__

    policy, name = model.policy, type(model).__name__.lower()
    data = {
        "policy_class": {"__module__": type(policy).__module__},
        "policy_kwargs": {
            "activation_fn": str(getattr(policy, "activation_fn", None)),
            "features_extractor_class": str(policy.features_extractor_class),
            "normalize_images": policy.normalize_images,
            "squash_output": policy.squash_output,
            "clip_mean": getattr(getattr(policy, "actor", None), "clip_mean", 0.0),
        },
        "use_sde": getattr(model, "use_sde", False),
        "observation_space": plain_space(model.observation_space),
        "action_space": plain_space(model.action_space),
    }
    statistics = model.get_vec_normalize_env()
    normaliser = None
    if statistics is not None and statistics.norm_obs and not isinstance(statistics.obs_rms, dict):
        moments = (statistics.obs_rms.mean, statistics.obs_rms.var)
        mean, variance = (tuple(np.ravel(part).astype(np.float64).tolist()) for part in moments)
        limit, epsilon = float(statistics.clip_obs), float(statistics.epsilon)
        normaliser = Normaliser(mean=mean, variance=variance, limit=limit, epsilon=epsilon)
    origin = f"Stable-Baselines3 {__version__} {name}, {model.num_timesteps} agent steps"
    return _policy(data, policy.state_dict(), normaliser, where=name, name=name, origin=origin, device="cpu")


def _policy(
    data: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    normaliser: Normaliser | None,
    *,
    where: str,
    name: str,
    origin: str,
    device: str,
) -> Policy:
    family = _check_stock(data, where)
    actions, low, high = actions_of(data, where)
    shape = shape_of(data.get("observation_space"), where)
    kind = _kind(data, family, continuous=bool(low))
    own = own_encoder(data, where)
    misfit = f"{where}: its tensors do not make the {'stock' if own is None else 'named'} network "
    misfit += f"from {list(shape)} to {actions} actions"
    if normaliser is not None and shape != (len(normaliser.mean),):
        raise PolicyFileError(
            f"{where}: VecNormalize's statistics are of {len(normaliser.mean)} numbers, observations {list(shape)}"
        )
    try:
        if own is None:
            recipe, tensors = _stock_network(data, weights, family, kind, shape, actions, where)
        else:
            recipe, tensors = own, own_tensors(weights, family, kind, where)
        with torch.device("meta"):  # shapes are compared before anything of that size is allocated
            network = PolicyNetwork(recipe, shape, kind, actions)
        network.load_state_dict(tensors, assign=True)
    except PolicyFileError:
        raise
    except (RlkdError, IndexError, RuntimeError, TypeError, ValueError, OverflowError):  # shapes that do not fit
        raise PolicyFileError(misfit) from None
    spec = PolicySpec(
        name=name,
        kind=kind,
        network=recipe,
        observation_shape=shape,
        observation_dtype="uint8" if recipe.pixels else "float32",
        actions=actions,
        rule=GREEDY,
        action_low=low,
        action_high=high,
        normaliser=normaliser,
        origin=origin,
    )
    return Policy(network, spec, device=device)


def _stock_network(
    data: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    family: Family,
    kind: Kind,
    shape: tuple[int, ...],
    actions: int,
    where: str,
) -> tuple[Network, dict[str, Tensor]]:
    """Recipe and tensors of a policy whose layers are Stable-Baselines3's own."""
    layers = rename(weights, family, kind, actions, where)
    pixels = bool(layers.channels)
    if len(shape) != (3 if pixels else 1):
        policy_class = "CnnPolicy" if pixels else "MlpPolicy"
        raise PolicyFileError(
            f"{where}: a {policy_class} on observations {list(shape)} is not read; rlkd reads CnnPolicy on "
            "[channels, height, width] and MlpPolicy on a vector"
        )
    activation = _activation(data, family, where)
    if layers.deepened and activation != "relu":
        raise PolicyFileError(f"{where}: layers with {activation} behind a CNN with relu are not read")
    recipe = Network(
        encoder="conv" if pixels else "mlp",
        channels=layers.channels,
        hidden=layers.hidden,
        activation="relu" if pixels else activation,
        value=layers.value,
        mean_limit=_mean_limit(data, family),
    )
    if family == "recurrent":
        after = layers.core_hidden or None
        recipe = replace(recipe, core="lstm", core_width=layers.core_width, core_hidden=after)
    return recipe, layers.tensors


def _check_stock(data: Mapping[str, Any], where: str) -> Family:
    """Which forward pass the plain values describe; PolicyFileError unless it is one of the stock ones."""
    module = str(table(data.get("policy_class")).get("__module__"))
    if module not in FAMILIES:
        raise PolicyFileError(
            f"{where}: its policy class is of '{module}'; rlkd reads Stable-Baselines3's {ALGORITHMS}"
        )
    arguments = table(data.get("policy_kwargs"))
    unknown = sorted(set(arguments) - KNOWN_ARGUMENTS)
    if unknown:
        raise PolicyFileError(f"{where}: policy argument '{unknown[0]}' is not known, so neither is what it does")
    if arguments.get("sde_net_arch") is not None:
        raise PolicyFileError(f"{where}: sde_net_arch is not read; it has gone from Stable-Baselines3 itself")
    extractor = arguments.get("features_extractor_class", STOCK_EXTRACTORS[0])
    if extractor not in (*STOCK_EXTRACTORS, OWN_EXTRACTOR):
        raise PolicyFileError(f"{where}: {extractor} is not read; NatureCNN and FlattenExtractor are")
    if not arguments.get("normalize_images", True):
        raise PolicyFileError(f"{where}: normalize_images=False is not read; rlkd scales pictures to [0, 1]")
    return FAMILIES[module]


def _kind(data: Mapping[str, Any], family: Family, *, continuous: bool) -> Kind:
    """What the answers mean. ars ranks discrete actions by scores that are no log-probabilities, as Q-values do."""
    if not continuous:
        return "categorical" if family in ("actor_critic", "recurrent") else "q"
    squashes = family in ("sac", "td3")
    if family == "ars":
        # LinearPolicy clips, MlpPolicy squashes; both may be told otherwise, and tell them apart by __init__ alone.
        squashes = "ARSLinearPolicy" not in str(table(data.get("policy_class")).get("__init__"))
    if family in ("actor_critic", "recurrent", "ars"):
        squashes = bool(table(data.get("policy_kwargs")).get("squash_output", squashes))
    return "squashed_gaussian" if squashes else "gaussian"


def _uses_sde(data: Mapping[str, Any]) -> bool:
    return bool(data.get("use_sde") or table(data.get("policy_kwargs")).get("use_sde"))


def _mean_limit(data: Mapping[str, Any], family: Family) -> float | None:
    """Of sac and tqc with gSDE, whose actors clip the mean."""
    if family != "sac" or not _uses_sde(data):
        return None
    limit = float(table(data.get("policy_kwargs")).get("clip_mean", 2.0))
    return limit if limit > 0 else None


def _activation(data: Mapping[str, Any], family: Family, where: str) -> Literal["relu", "tanh"]:
    text = table(data.get("policy_kwargs")).get("activation_fn")
    if text is None:
        return "tanh" if family in ("actor_critic", "recurrent") else "relu"
    if str(text) not in ACTIVATIONS:
        raise PolicyFileError(f"{where}: activation {text} is not read; ReLU and Tanh are")
    return ACTIVATIONS[str(text)]


def _algorithm(data: Mapping[str, Any]) -> str:
    """Guessed from the policy's module and from which values the constructor took."""
    module = str(table(data.get("policy_class")).get("__module__")).split(".")
    if "recurrent" in module:
        return "recurrent ppo"
    if len(module) == 3 and module[1] not in ("common", "td3"):
        return module[1]
    if module[1:2] == ["td3"]:
        return "ddpg" if data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0 else "td3"
    return next((name for key, name in {"clip_range": "ppo", "cg_max_steps": "trpo"}.items() if key in data), "a2c")


def _statistics(path: Path) -> Normaliser | None:
    """Of `VecNormalize`, where the policy learned behind one.

    Raises:
        PolicyFileError: its configuration says so, but the statistics are not there.
    """
    folder = path.with_suffix("")
    for candidate in (folder / "vecnormalize.pkl", path.with_name("vecnormalize.pkl")):
        if candidate.is_file():
            return read_vecnormalize(candidate)
    config = folder / "config.yml"
    if config.is_file() and re.search(r"- normalize\n\s*- (?!false|null)", config.read_text(errors="replace")[:65536]):
        raise PolicyFileError(
            f"{path}: learned behind VecNormalize, says {config.name}, and plays badly without its statistics; "
            f"put vecnormalize.pkl into {folder}"
        )
    return None
