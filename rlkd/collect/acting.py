"""What those who collect share: where their time goes, how networks answer, and noise in what is done."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from rlkd.policy import Policy, PolicySpec
from rlkd.policy.compute import Precision, autocast


@dataclass(slots=True)
class Seconds:
    """Where a collecting thread's wall time went, in seconds."""

    inference: float = 0.0
    environment: float = 0.0
    """Waiting for emulators that were not done yet."""
    storing: float = 0.0


def answering(policy: Policy, precision: Precision) -> AbstractContextManager[object]:
    """How a policy computes its answers where states are collected.

    Q-values stay in float32: their differences are smaller than what bfloat16 resolves at their size.
    """
    kept = "float32" if policy.spec.kind == "q" else precision
    return autocast(policy.device, kept, pixels=policy.spec.network.pixels)


def with_noise(
    action: np.ndarray,
    noisy: np.ndarray,
    draw: np.ndarray,
    spec: PolicySpec,
    bounds: tuple[Sequence[float], Sequence[float]],
    generator: np.random.Generator,
) -> np.ndarray:
    """Replace some actions by uniformly random ones.

    Args:
        action: [N] int64 or [N, D].
        noisy: [N] bool, which.
        draw: [N] in [0, 1): luck of discrete ones.
        spec: of the policy whose actions they are.
        bounds: lower and upper, of continuous ones.
        generator: of the luck of continuous ones; asked only where some are noisy.
    """
    if not noisy.any():
        return action
    if spec.discrete:
        return np.where(noisy, (draw * spec.actions).astype(np.int64), action)
    low, high = (np.array(bound, np.float32) for bound in bounds)
    random = generator.random(action.shape).astype(np.float32)
    random = 2 * random - 1 if spec.kind == "squashed_gaussian" else low + random * (high - low)
    return np.where(noisy[:, None], random, action)
