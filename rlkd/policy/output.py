"""What a policy answers, and how an answer becomes an action.

Shapes: B batch, A discrete actions, D action dimensions, M quantiles.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd.errors import RecipeError

Kind = Literal["categorical", "q", "gaussian", "squashed_gaussian"]
PARAMS: dict[str, tuple[str, ...]] = {
    "categorical": ("logits",),
    "q": ("q",),
    "gaussian": ("mean", "log_std"),
    "squashed_gaussian": ("mean", "log_std"),
}
"""Names of the parameter tensors of each kind, in the order in which `Output.flat` joins them."""


@dataclass(frozen=True, slots=True)
class Output:
    """One answer for a batch of observations."""

    kind: Kind
    """How to read `params`."""
    params: dict[str, Tensor]
    """categorical: logits [B, A]. q: q [B, A]. gaussian, squashed_gaussian: mean and log_std, each [B, D];
    the squashed one acts with tanh(sample), scaled to the action bounds."""
    value: Tensor | None = None
    """[B], expected discounted return, where the network has a critic."""
    features: Tensor | None = None
    """[B, F], input of the head."""
    state: Tensor | None = None
    """[B, S], recurrent state after this observation; None for feed-forward policies."""

    @property
    def flat(self) -> Tensor:
        """[B, P]: all parameters side by side, as the replay stores them."""
        return torch.cat([self.params[name] for name in PARAMS[self.kind]], dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a policy picks its action. It belongs to the policy: some teachers loop when greedy."""

    name: Literal["greedy", "sampled", "epsilon_greedy"]
    """Most likely (or highest valued) action; a draw from the distribution; greedy with uniform exploration."""
    epsilon: float = 0.0
    """Chance of a uniform action under epsilon_greedy."""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise RecipeError(f"epsilon must be in [0, 1], got {self.epsilon}")

    def __str__(self) -> str:
        return f"{self.name} {self.epsilon:g}" if self.name == "epsilon_greedy" else self.name


def parse_rule(text: str) -> Rule:
    """A rule from "greedy", "sampled" or "epsilon_greedy 0.05"; RecipeError for anything else."""
    name, _, epsilon = text.strip().partition(" ")
    if name in ("greedy", "sampled") and not epsilon:
        return GREEDY if name == "greedy" else SAMPLED
    if name == "epsilon_greedy":
        try:
            return Rule(name="epsilon_greedy", epsilon=float(epsilon))
        except ValueError:
            pass
    raise RecipeError(f"rule must be 'greedy', 'sampled' or 'epsilon_greedy 0.05', got '{text}'")


GREEDY, SAMPLED = Rule(name="greedy"), Rule(name="sampled")
EPSILON_GREEDY = Rule(name="epsilon_greedy", epsilon=0.05)


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


def decide(output: Output, rule: Rule, uniforms: np.ndarray) -> np.ndarray:
    """Actions from answers, with all randomness passed in.

    Args:
        output: one answer for B observations.
        rule: `sampled` of a q output draws from softmax(q); Q-values are no log-probabilities: prefer epsilon_greedy.
        uniforms: [B, U] float64 in [0, 1), U >= 2 for discrete actions and >= 2 D for continuous ones.

    Returns:
        int64 [B] for discrete actions; float32 [B, D] otherwise, squashed into [-1, 1] where the kind says so.
    """
    if output.kind in ("gaussian", "squashed_gaussian"):
        return _continuous(output, rule, uniforms)
    logits = discrete_logits(output.kind, output.params).float()
    if rule.name == "sampled":
        cumulative = F.softmax(logits.double(), dim=-1).cumsum(-1).numpy()
        picked = (cumulative <= uniforms[:, :1] * cumulative[:, -1:]).sum(-1)  # <=: 0 is drawn too
        sampled: np.ndarray = np.minimum(picked, logits.shape[-1] - 1).astype(np.int64)
        return sampled
    greedy: np.ndarray = logits.argmax(-1).numpy().astype(np.int64)
    if rule.name == "greedy" or rule.epsilon == 0:
        return greedy
    random = (uniforms[:, 1] * logits.shape[-1]).astype(np.int64)
    return np.where(uniforms[:, 0] < rule.epsilon, random, greedy)


def _continuous(output: Output, rule: Rule, uniforms: np.ndarray) -> np.ndarray:
    mean = output.params["mean"].float().numpy()
    action = mean
    if rule.name == "sampled":
        width = mean.shape[-1]
        radius = np.sqrt(-2 * np.log1p(-uniforms[:, :width]))  # Box-Muller
        normal = radius * np.cos(2 * np.pi * uniforms[:, width : 2 * width])
        action = mean + normal * np.exp(output.params["log_std"].float().numpy())
    if output.kind == "squashed_gaussian":
        action = np.tanh(action)
    squashed: np.ndarray = action.astype(np.float32)
    return squashed
