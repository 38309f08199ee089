"""What a policy's network answers, as tensors.

Shapes: B batch, A discrete actions, D action dimensions, F features, S recurrent state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlkd.policy.rule import PARAMS, Kind, Params


@dataclass(frozen=True, slots=True)
class Output:
    """One answer for a batch of observations."""

    kind: Kind
    """How to read `params`."""
    params: dict[str, Tensor]
    """categorical: logits [B, A]. q: q [B, A]. gaussian, squashed_gaussian: mean and log_std, each [B, D];
    the squashed one acts with tanh(sample), scaled to the action bounds."""
    value: Tensor | None = None
    """[B, K]: expected discounted returns, one a reward stream, where the network has a critic."""
    features: Tensor | None = None
    """[B, F], input of the head."""
    state: Tensor | None = None
    """[B, S], recurrent state after this observation; None for feed-forward policies."""

    @property
    def flat(self) -> Tensor:
        """[B, P]: all parameters side by side, as the replay stores them."""
        return torch.cat([self.params[name] for name in PARAMS[self.kind]], dim=-1)

    def numpy(self) -> Params:
        """The parameters as float32 arrays on the CPU."""
        return {name: tensor.detach().float().cpu().numpy() for name, tensor in self.params.items()}


def joined(parts: Sequence[Output]) -> Output:
    """Answers of one network to several batches as the answer to all of them; states are left out."""
    params = {name: torch.cat([part.params[name] for part in parts]) for name in parts[0].params}
    values = [part.value for part in parts if part.value is not None]
    features = [part.features for part in parts if part.features is not None]
    return Output(
        parts[0].kind,
        params,
        torch.cat(values) if values else None,
        torch.cat(features) if features else None,
    )


def unflatten(kind: Kind, flat: Tensor) -> dict[str, Tensor]:
    """Parameters by name from [B, P]; the reverse of `Output.flat`."""
    names = PARAMS[kind]
    return dict(zip(names, flat.chunk(len(names), dim=-1), strict=True))


def discrete_logits(kind: Kind, params: dict[str, Tensor]) -> Tensor:
    """[B, A]: what ranks the actions. Raises ValueError for continuous kinds."""
    if kind == "categorical":
        return params["logits"]
    if kind == "q":
        return params["q"]
    raise ValueError(f"{kind} outputs have no discrete actions")
