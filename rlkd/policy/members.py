"""Several policies as one: an ensemble over generations, or a student with the assistant that mends its answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlkd.errors import MismatchError
from rlkd.policy import file
from rlkd.policy.policy import Policy
from rlkd.policy.spec import PolicySpec
from rlkd.recipe import Combine, Network, Protocol

SHARED = ("kind", "observation_shape", "observation_dtype", "actions", "action_meanings", "normaliser", "environment")
"""What policies have in common that answer together: they read the same numbers and mean the same actions."""

PLAIN = Protocol(name="any")


def combined(policies: Sequence[Policy], combine: Combine, *, name: str) -> Policy:
    """One policy, on the CPU, that answers as several do together; the weights are copied, critics stay behind.

    Rule, environment and normaliser are those of the first; parents are all of them, in order.

    Args:
        policies: feed-forward, with discrete actions.
        combine: `mean` or `sum`, as in `Network.combine`.
        name: what tables call it.

    Raises:
        MismatchError: policies of different kinds or games, recurrent ones, or ones that have members themselves.
        RecipeError: too many, or none.
    """
    for policy in policies:
        if policy.recurrent or policy.spec.network.members is not None:
            what = "recurrent" if policy.recurrent else "made of members itself"
            raise MismatchError(f"{policy.spec.name} is {what}, and cannot be a member")
        for key in SHARED:
            if _shared(policy.spec, key) != _shared(policies[0].spec, key):
                raise MismatchError(f"{policy.spec.name} has another {key} than {policies[0].spec.name}")
    members = tuple(policy.spec.network.acting for policy in policies)
    network = Network(encoder="members", members=members, combine=combine)
    spec = replace(
        policies[0].spec,
        name=name,
        network=network,
        precision="float32",
        origin=f"rlkd.policy.combined, {combine} of {len(policies)}",
        parents=tuple(policy.spec.hash for policy in policies),
    )
    built = file.build_network(spec)
    built.load_state_dict(
        {
            f"members.{place}.{weight}": tensor.cpu()
            for place, policy in enumerate(policies)
            for weight, tensor in policy.network.state_dict().items()
            if not weight.startswith("critic")
        }
    )
    return Policy(built, spec)


def _shared(spec: PolicySpec, key: str) -> Any:
    """A field of the record; how an environment's scores are measured is no part of the game."""
    value = getattr(spec, key)
    return value if key != "environment" or value is None else replace(value, protocol=PLAIN)
