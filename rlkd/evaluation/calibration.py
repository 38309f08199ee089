"""How much a policy's probabilities are worth, and how different those of several policies are. Pure functions.

Shapes: S states, A discrete actions. Statistics in float64.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from rlkd.losses import jensen_shannon

BINS = 15  # of confidence, as Guo et al. take them


def sampled_actions(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """[S] int64: one action a state, drawn from its row of `probabilities` [S, A]."""
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def calibration_error(confidence: Tensor, accuracy: Tensor) -> float:
    """Expected calibration error: how far in a bin of states mean confidence is from mean accuracy.

    `sum_b S_b / S |mean accuracy - mean confidence|` over 15 bins of equal width, (0, 1/15] to (14/15, 1].

    Against labels that are drawn the error of a perfectly calibrated policy is above 0, by the noise of each bin: where
    the labels' probabilities are known, give those.

    Args:
        confidence: [S] in (0, 1], a policy's probability of the action that it prefers.
        accuracy: [S] in [0, 1]: whether that action is the label, 0 or 1; or the probability that it is, in closed
            form.

    Source:
        Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    confidence, accuracy = confidence.double(), accuracy.double()
    edges = torch.arange(1, BINS, dtype=torch.float64) / BINS
    bins = torch.bucketize(confidence, edges)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, accuracy - confidence)
    return float(gaps.abs().sum() / len(confidence))


def diversity(log_probabilities: Sequence[Tensor]) -> tuple[float, float]:
    """How different some policies are: mean share of states on which two prefer other actions, and mean Jensen-Shannon
    divergence of two, nats, at most log 2. Means over all pairs.

    Args:
        log_probabilities: of at least two policies, [S, A] each, finite.
    """
    if len(log_probabilities) < 2:
        raise ValueError(f"diversity is of at least two policies, got {len(log_probabilities)}")
    apart, divergence = [], []
    for one, other in combinations([each.double() for each in log_probabilities], 2):
        apart.append(float((one.argmax(-1) != other.argmax(-1)).double().mean()))
        divergence.append(float(jensen_shannon(one.exp(), other).mean()) / 4)  # the loss is divided by beta (1 - beta)
    return sum(apart) / len(apart), sum(divergence) / len(divergence)
