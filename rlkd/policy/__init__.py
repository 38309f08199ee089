"""Policies: observation to distribution (and value, features, state), networks, the file format, foreign files."""

from rlkd.policy.loading import as_policy, from_sb3, load
from rlkd.policy.networks import PolicyNetwork, acting_flops, acting_parameters
from rlkd.policy.output import PARAMS, Kind, Output, Rule, decide, discrete_logits, parse_rule, unflatten
from rlkd.policy.policy import Policy, to_cpu
from rlkd.policy.spec import Normaliser, PolicySpec

__all__ = [
    "PARAMS",
    "Kind",
    "Normaliser",
    "Output",
    "Policy",
    "PolicyNetwork",
    "PolicySpec",
    "Rule",
    "acting_flops",
    "acting_parameters",
    "as_policy",
    "decide",
    "discrete_logits",
    "from_sb3",
    "load",
    "parse_rule",
    "to_cpu",
    "unflatten",
]
