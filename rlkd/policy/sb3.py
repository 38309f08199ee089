"""Stable-Baselines3's ppo, a2c and dqn as policies: from a zip without unpickling it, or from a live model.

Read are the tensors of `policy.pth` and, of `data`, the plain values beside its pickled ones. What they do not
settle, or what our networks cannot express, is refused by name.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkd.errors import MismatchError, PolicyFileError, RecipeError
from rlkd.policy.networks import PolicyNetwork
from rlkd.policy.numpy_pickle import read_vecnormalize
from rlkd.policy.output import Kind, Rule
from rlkd.policy.policy import Policy
from rlkd.policy.sb3_zip import read_contents
from rlkd.policy.spec import Normaliser, PolicySpec
from rlkd.recipe import Network

STOCK_POLICIES = ("stable_baselines3.common.policies", "stable_baselines3.dqn.policies")
"""Modules of the policy classes whose forward pass we know."""
STOCK_EXTRACTORS = ("NatureCNN", "FlattenExtractor")
ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu"}
LEARNING_ONLY = frozenset(
    ("net_arch", "activation_fn", "ortho_init", "log_std_init", "optimizer_class", "optimizer_kwargs", "use_sde")
    + ("full_std", "use_expln", "squash_output", "sde_net_arch", "share_features_extractor", "normalize_images")
    + ("features_extractor_class", "features_extractor_kwargs")
)
"""Keyword arguments of policies that are read here, show in the tensors, or matter for learning or gSDE alone."""
IGNORED = ("q_net_target.", "value_net.", "mlp_extractor.value_net.", "pi_features_extractor.", "vf_features_extractor.")
"""Tensors off the acting path (or, for pi_features_extractor, a second name of the same ones)."""
FOREIGN = {
    "quantile_net.": "qrdqn",
    "actor.": "sac, td3, ddpg, tqc or crossq",
    "lstm_actor.": "recurrent ppo",
    "mlp_extractor.shared_net.": "layers shared by policy and critic (Stable-Baselines3 before 1.8)",
}
NATURE_KERNELS, NATURE_STRIDES = (8, 4, 3), (4, 2, 1)


def read_zip(path: Path, *, device: str) -> Policy:
    """The policy in a Stable-Baselines3 zip (ppo, a2c or dqn with CnnPolicy or MlpPolicy).

    Its rule is greedy: Stable-Baselines3's `predict` samples unless told otherwise, but published scores, and those
    that such teachers were chosen by, are those of `deterministic=True`. Statistics of `VecNormalize` are taken from
    `vecnormalize.pkl` beside the zip, or in the folder of its name, as the RL Zoo lays them out.

    Args:
        path: the .zip file.
        device: where the network runs.

    Raises:
        UnsafeFileError: a file that wants more decoded than tensors and numbers.
        PolicyFileError: missing, damaged, or of a kind that is not read; the message names what stands in the way.
    """
    contents = read_contents(path)
    algorithm = _algorithm(contents.data)
    origin = f"Stable-Baselines3 {contents.version} {algorithm}, {path.name}, sha256 {contents.sha256}"
    return _policy(
        contents.data,
        contents.weights,
        where=str(path),
        name=path.stem,
        origin=origin,
        normaliser=_statistics(path),
        device=device,
    )


def from_model(model: Any) -> Policy:
    """The policy of a live Stable-Baselines3 ppo, a2c or dqn; weights are copied, the rule is greedy (see `read_zip`).

    Raises:
        PolicyFileError: a policy of a kind that is not read; the message names what stands in the way.
    """
    from stable_baselines3 import __version__

    policy, name = model.policy, type(model).__name__
    data = {
        "policy_class": {"__module__": type(policy).__module__},
        "policy_kwargs": {
            "activation_fn": str(getattr(policy, "activation_fn", None)),
            "features_extractor_class": str(policy.features_extractor_class),
            "normalize_images": policy.normalize_images,
        },
        "use_sde": model.use_sde,
        "observation_space": _plain_space(model.observation_space),
        "action_space": _plain_space(model.action_space),
    }
    statistics = model.get_vec_normalize_env()
    normaliser = None
    if statistics is not None and statistics.norm_obs:
        if isinstance(statistics.obs_rms, dict):
            raise PolicyFileError(f"{name}: observations are a dictionary; rlkd reads one Box")
        normaliser = Normaliser(
            mean=tuple(np.asarray(statistics.obs_rms.mean, np.float64).ravel().tolist()),
            variance=tuple(np.asarray(statistics.obs_rms.var, np.float64).ravel().tolist()),
            limit=float(statistics.clip_obs),
            epsilon=float(statistics.epsilon),
        )
    return _policy(
        data,
        policy.state_dict(),
        where=name,
        name=name.lower(),
        origin=f"Stable-Baselines3 {__version__} {name.lower()}, {model.num_timesteps} steps",
        normaliser=normaliser,
        device="cpu",
    )


def _policy(
    data: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    where: str,
    name: str,
    origin: str,
    normaliser: Normaliser | None,
    device: str,
) -> Policy:
    kind = _kind(data, weights, where)
    shape = _shape(data, where)
    actions, low, high = _actions(data, kind, where)
    pixels, tensors = _acting(data, weights, kind, where)
    if pixels != (len(shape) == 3):
        read = "MlpPolicy on pictures" if len(shape) == 3 else f"observations of shape {list(shape)}"
        raise PolicyFileError(f"{where}: {read} is not read; CnnPolicy takes [C, H, W], MlpPolicy a vector [D]")
    if normaliser is not None and shape != (len(normaliser.mean),):
        raise PolicyFileError(f"{where}: statistics of {len(normaliser.mean)} numbers, observations {list(shape)}")
    widths = tuple(len(tensor) for key, tensor in tensors.items() if key.endswith("bias") and "encoder" in key)
    network = Network(
        encoder="conv" if pixels else "mlp",
        channels=widths[:3] if pixels else (),
        hidden=widths[3:] if pixels else widths,
        activation="relu" if pixels else _activation(data, kind, where),
    )
    return ...
