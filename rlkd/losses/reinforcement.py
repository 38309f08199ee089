"""Losses of reinforcement learning, and what belongs to them: entropies, likelihoods, weights of drawn samples.

One value a sample: averaging belongs to the caller. Shapes: B batch, A discrete actions, D action dimensions,
M quantiles.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def huber(error: Tensor) -> Tensor:
    """Half the square of an error up to 1, its size less a half beyond; shaped as `error`, in its (squared) unit.

    Source:
        The error clipping of Mnih et al. 2015, written as a loss.
    """
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")


def quantile_huber(predicted: Tensor, target: Tensor) -> Tensor:
    """Quantile regression of one distribution on another, with the Huber loss (kappa 1) in place of the kink.

    Args:
        predicted: [B, M], the quantiles at (i + 1/2) / M.
        target: [B, L] samples or quantiles, treated as constant.

    Returns:
        [B], summed over predicted quantiles and averaged over those of the target.

    Source:
        Dabney et al., arXiv:1710.10044, equation 10.
    """
    error = target.detach()[:, None, :] - predicted[:, :, None]
    count = predicted.shape[1]
    midpoint = (torch.arange(count, dtype=predicted.dtype, device=predicted.device) + 0.5) / count
    weight = (midpoint[None, :, None] - (error.detach() < 0).to(predicted.dtype)).abs()
    return (weight * huber(error)).mean(dim=2).sum(dim=1)


def importance_weights(probability: Tensor, *, beta: float) -> Tensor:
    """Weights that undo drawing by priority: `(1 / probability) ** beta`, divided by the batch's largest.

    Args:
        probability: [B], above 0, up to a common factor.
        beta: 0 undoes nothing, 1 all.

    Returns:
        [B], at most 1.

    Source:
        Schaul et al., arXiv:1511.05952, section 3.4.
    """
    return (probability.min() / probability) ** beta


def ppo_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, clip: float) -> Tensor:
    """Clipped surrogate loss, to be minimised.

    Args:
        log_prob: [B], of the taken action under the learner.
        old_log_prob: [B], under the policy that acted.
        advantage: [B].
        clip: half width of the trust interval of the ratio.

    Returns:
        [B].

    Source:
        Schulman et al., arXiv:1707.06347, equation 7.
    """
    ratio = (log_prob - old_log_prob).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def categorical_entropy(logits: Tensor) -> Tensor:
    """[B]: entropy of softmax(logits [B, A]), nats."""
    log_p = F.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def gaussian_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """[B]: log density of `action` [B, D] under a diagonal Gaussian, nats."""
    z = (action - mean) * (-log_std).exp()
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """[B]: entropy of a diagonal Gaussian with log_std [B, D], nats."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)
