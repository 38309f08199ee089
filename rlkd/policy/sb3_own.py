"""Zips of Stable-Baselines3 that `rlkd export` wrote with a features extractor of ours: its recipe and its tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlkd.errors import PolicyFileError, RlkdError
from rlkd.policy.rule import Kind
from rlkd.policy.sb3_layers import FEATURES, OFF_PATH, Family, float32_copy
from rlkd.policy.sb3_spaces import table
from rlkd.policy.torch_file import refuse_nan
from rlkd.recipe import Network, build

OWN_EXTRACTOR = "<class 'rlkd.exporting.extractor.Encoder'>"
HEADS: dict[str, tuple[str, ...]] = {
    "actor_critic": ("action_net",),
    "dqn": ("q_net.q_net.0",),
    "sac": ("actor.mu", "actor.log_std"),
}
"""Layers behind the extractor, by family; their outputs side by side are our head's."""


def own_encoder(data: Mapping[str, Any], where: str) -> Network | None:
    """The network recipe that a zip tells in plain values; None where its extractor is not ours."""
    arguments = table(data.get("policy_kwargs"))
    if arguments.get("features_extractor_class") != OWN_EXTRACTOR:
        return None
    recipe = table(arguments.get("features_extractor_kwargs")).get("network")
    try:
        return build(Network, table(recipe), where=where)
    except (RlkdError, TypeError, ValueError) as error:
        raise PolicyFileError(f"{where}: does not tell the network of its features extractor: {error}") from None


def own_tensors(weights: Mapping[str, Tensor], family: Family, kind: Kind, where: str) -> dict[str, Tensor]:
    """State dict of our network, float32 copies on the CPU; a critic is left out.

    Raises:
        PolicyFileError: a tensor too many or too few, or NaN in one.
    """
    if family not in HEADS:
        raise PolicyFileError(f"{where}: rlkd writes no {family} policy with a features extractor of its own")
    acting = {name: tensor for name, tensor in weights.items() if not name.startswith(OFF_PATH)}
    prefix, heads = FEATURES[family], HEADS[family]
    names = {name: name.removeprefix(prefix) for name in acting if name.startswith(f"{prefix}encoder.")}
    wanted = {f"{head}.{part}" for head in heads for part in ("weight", "bias")} | set(names)
    wanted |= {"log_std"} if kind == "gaussian" else set()
    if wanted != set(acting):
        odd = min(wanted ^ set(acting))
        raise PolicyFileError(f"{where}: tensor '{odd}' is {'missing' if odd in wanted else 'not of such a policy'}")
    for name, tensor in sorted(acting.items()):
        refuse_nan(tensor, name, where)
    tensors = {ours: float32_copy(acting[name]) for name, ours in names.items()}
    for part in ("weight", "bias"):
        tensors[f"head.{part}"] = torch.cat([float32_copy(acting[f"{head}.{part}"]) for head in heads])
    if kind == "gaussian":
        tensors["log_std"] = float32_copy(acting["log_std"])
    return tensors
