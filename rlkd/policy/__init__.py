"""Policies: observation to distribution (and value, features, state), networks, the file format, foreign files.

What needs torch is imported when it is first used: a policy in an ONNX file plays without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlkd.policy.acting import Acting, Answer
from rlkd.policy.loading import as_player, as_policy, from_sb3, load, load_policy
from rlkd.policy.rule import PARAMS, Kind, Rule, decide, parse_rule
from rlkd.policy.spec import Normaliser, PolicySpec

if TYPE_CHECKING:
    from rlkd.policy.members import combined
    from rlkd.policy.networks import PolicyNetwork, acting_flops, acting_parameters
    from rlkd.policy.output import Output, discrete_logits, unflatten
    from rlkd.policy.policy import Policy
    from rlkd.policy.sizes import networks_between
    from rlkd.policy.structure import kels_masks, reset_weights, shrink_and_perturb, slim, wels_masks

__all__ = [
    "PARAMS",
    "Acting",
    "Answer",
    "Kind",
    "Normaliser",
    "Output",
    "Policy",
    "PolicyNetwork",
    "PolicySpec",
    "Rule",
    "acting_flops",
    "acting_parameters",
    "as_player",
    "as_policy",
    "combined",
    "decide",
    "discrete_logits",
    "from_sb3",
    "kels_masks",
    "load",
    "load_policy",
    "networks_between",
    "parse_rule",
    "reset_weights",
    "shrink_and_perturb",
    "slim",
    "unflatten",
    "wels_masks",
]

_HOMES = {
    "Output": "rlkd.policy.output",
    "Policy": "rlkd.policy.policy",
    "PolicyNetwork": "rlkd.policy.networks",
    "acting_flops": "rlkd.policy.networks",
    "acting_parameters": "rlkd.policy.networks",
    "combined": "rlkd.policy.members",
    "discrete_logits": "rlkd.policy.output",
    "kels_masks": "rlkd.policy.structure",
    "networks_between": "rlkd.policy.sizes",
    "reset_weights": "rlkd.policy.structure",
    "shrink_and_perturb": "rlkd.policy.structure",
    "slim": "rlkd.policy.structure",
    "unflatten": "rlkd.policy.output",
    "wels_masks": "rlkd.policy.structure",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlkd.policy' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
