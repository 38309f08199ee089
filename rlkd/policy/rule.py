"""How answers become actions: kinds of outputs, decision rules, and `decide`. No torch here.

Shapes: B batch, A discrete actions, D action dimensions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlkd.errors import RecipeError

Kind = Literal["categorical", "q", "gaussian", "squashed_gaussian"]
PARAMS: dict[str, tuple[str, ...]] = {
    "categorical": ("logits",),
    "q": ("q",),
    "gaussian": ("mean", "log_std"),
    "squashed_gaussian": ("mean", "log_std"),
}
"""Names of the parameters of each kind, in the order in which `Output.flat` joins them."""
Params = dict[str, np.ndarray]
"""Parameters by name, float32 [B, A] or [B, D]."""
NEVER = -1e4
"""Logit or Q-value of an action of the environment that a policy does not have."""


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


def decide(kind: Kind, params: Params, rule: Rule, uniforms: np.ndarray) -> np.ndarray:
    """Actions from answers, with all randomness passed in.

    Args:
        kind: how to read `params`.
        params: of one answer for B observations.
        rule: `sampled` of a q output draws from softmax(q); Q-values are no log-probabilities: prefer epsilon_greedy.
        uniforms: [B, U] float64 in [0, 1), U >= 2 for discrete actions and >= 2 D for continuous ones.

    Returns:
        int64 [B] for discrete actions; float32 [B, D] otherwise, squashed into [-1, 1] where the kind says so.
    """
    if kind in ("gaussian", "squashed_gaussian"):
        return _continuous(kind, params, rule, uniforms)
    (logits,) = params.values()
    if rule.name == "sampled":
        cumulative = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True)).cumsum(-1)
        picked = (cumulative <= uniforms[:, :1] * cumulative[:, -1:]).sum(-1)  # <=: 0 is drawn too
        sampled: np.ndarray = np.minimum(picked, logits.shape[-1] - 1).astype(np.int64)
        return sampled
    greedy: np.ndarray = logits.argmax(-1).astype(np.int64)
    if rule.name == "greedy" or rule.epsilon == 0:
        return greedy
    random = (uniforms[:, 1] * logits.shape[-1]).astype(np.int64)
    return np.where(uniforms[:, 0] < rule.epsilon, random, greedy)


def _continuous(kind: Kind, params: Params, rule: Rule, uniforms: np.ndarray) -> np.ndarray:
    action = mean = params["mean"]
    if rule.name == "sampled":
        width = mean.shape[-1]
        radius = np.sqrt(-2 * np.log1p(-uniforms[:, :width]))  # Box-Muller
        normal = radius * np.cos(2 * np.pi * uniforms[:, width : 2 * width])
        action = mean + normal * np.exp(params["log_std"])
    if kind == "squashed_gaussian":
        action = np.tanh(action)
    squashed: np.ndarray = action.astype(np.float32)
    return squashed
