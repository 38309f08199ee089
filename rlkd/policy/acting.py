"""What every policy that plays can do, whatever computes its answers. No torch here.

Shapes: B batch, D action dimensions, S recurrent state.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar, cast

import numpy as np

from rlkd.errors import MismatchError
from rlkd.policy.rule import EPSILON_GREEDY, GREEDY, SAMPLED, Params, Rule, decide
from rlkd.policy.spec import PolicySpec

if TYPE_CHECKING:
    from torch import Tensor

Observations = TypeVar("Observations", bound="np.ndarray | Tensor")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a policy says to a batch of observations, on the CPU."""

    params: Params
    """By the names that its kind has."""
    state: np.ndarray | None
    """[B, S] float32, the recurrent state afterwards; None for feed-forward policies."""


class Acting(ABC):
    """A policy that plays: `predict` with Stable-Baselines3's signature, by the rule that its record holds.

    `stable_baselines3.common.evaluation.evaluate_policy` takes it as it is.
    """

    spec: PolicySpec

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)

    @abstractmethod
    def answer(self, observation: np.ndarray, state: np.ndarray | None = None) -> Answer:
        """Parameters for observations [B, *shape], raw, and recurrent states [B, S]."""

    @abstractmethod
    def under(self, spec: PolicySpec) -> Self:
        """The same policy under another record."""

    @property
    def recurrent(self) -> bool:
        """Whether it carries a state from step to step."""
        return self.spec.network.core != "none"

    @property
    def state_width(self) -> int:
        """Numbers in a recurrent state; 0 for feed-forward policies."""
        return self.spec.network.state_width

    def start(self, batch: int) -> np.ndarray | None:
        """[batch, S] zeros, the state before an episode's first observation; None for feed-forward policies."""
        return np.zeros((batch, self.state_width), np.float32) if self.recurrent else None

    def seen(self, observation: Observations) -> Observations:
        """What it reads of observations [..., *shape]: of a longer stack of frames than its own, the newest ones."""
        shape, environment = self.spec.observation_shape, self.spec.environment
        more = observation.ndim >= 3 == len(shape) and observation.shape[-2:] == shape[1:]
        if not more or observation.shape[-3] <= shape[0] or environment is None or "pixels" not in environment.views:
            return observation
        oldest_first = environment.views["pixels"].stack_order == "oldest_first"
        newest = slice(-shape[0], None) if oldest_first else slice(shape[0])
        return cast(Observations, observation[..., newest, :, :])

    def seed(self, seed: int) -> None:
        """Restart the random stream of `predict`."""
        self._generator = np.random.default_rng(seed)

    def predict(
        self,
        observation: np.ndarray,
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Actions for one observation or a batch, as in Stable-Baselines3.

        Args:
            observation: [*shape] or [B, *shape]; pixels may also have their channels last.
            state: recurrent state from the last call; None starts afresh.
            episode_start: [B] bool, rows where a new episode begins.
            deterministic: True greedy, False sampled (Q-values: 5 % uniform actions), None the policy's own rule.

        Returns:
            Action (int64, or float32 [D] within the bounds), with a batch axis if the observation had one, and state.
        """
        observation, batched = self._batch(self.seen(np.asarray(observation)))
        rule = self.spec.rule if deterministic is None else (GREEDY if deterministic else self._exploring)
        if state is None:
            state = self.start(len(observation))
        if state is not None and episode_start is not None:
            state = state * ~np.asarray(episode_start, bool)[:, None]
        uniforms = self._generator.random((len(observation), max(2, 2 * self.spec.actions)))
        answer = self.answer(observation, state)
        action = self.to_environment(decide(self.spec.kind, answer.params, rule, uniforms))
        return (action if batched else action[0]), answer.state

    def preferred(self, params: Params) -> np.ndarray:
        """[B] or [B, D]: the most likely or highest valued action, or the mean, as the environment takes it."""
        rows = len(next(iter(params.values())))
        return self.to_environment(decide(self.spec.kind, params, GREEDY, np.zeros((rows, 2))))

    def to_environment(self, action: np.ndarray) -> np.ndarray:
        """The action as the environment takes it: continuous ones scaled (if squashed) and clipped to the bounds."""
        if self.spec.discrete:
            return action
        low, high = (np.array(bound, np.float32) for bound in (self.spec.action_low, self.spec.action_high))
        if self.spec.kind == "squashed_gaussian":
            action = low + 0.5 * (action + 1) * (high - low)
        clipped: np.ndarray = np.clip(action, low, high)
        return clipped

    @property
    def _exploring(self) -> Rule:
        if self.spec.rule.name == "epsilon_greedy":
            return self.spec.rule
        return EPSILON_GREEDY if self.spec.kind == "q" else SAMPLED

    def _batch(self, observation: np.ndarray) -> tuple[np.ndarray, bool]:
        shape = self.spec.observation_shape
        channels_last = (*shape[1:], shape[0]) if len(shape) == 3 else shape
        for wanted in (shape, channels_last):
            if observation.shape == wanted:
                observation, batched = observation[None], False
            elif observation.shape[1:] == wanted:
                batched = True
            else:
                continue
            return (observation if wanted == shape else np.moveaxis(observation, -1, 1)), batched
        raise MismatchError(f"this policy reads observations of shape {list(shape)}, got {list(observation.shape)}")
