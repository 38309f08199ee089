"""How far a student is from a target: which function of `rlkd.losses` a recipe's name means, and what it takes.

Shapes: B samples, D action dimensions.
"""

from functools import partial

from torch import Tensor

from rlkd.losses import divergences
from rlkd.terms.parts import Divergence


def gaussian_squares(mean: Tensor, log_std: Tensor, own_mean: Tensor, own_log_std: Tensor) -> Tensor:
    """[B]: squared errors of mean and of log_std, [B, D] each: a student whose rule is to sample would else play with
    the spread it was born with."""
    return divergences.mse(mean, own_mean) + divergences.mse(log_std, own_log_std)


def gaussian_huber(
    mean: Tensor, log_std: Tensor, own_mean: Tensor, own_log_std: Tensor, *, delta: float = 1.0
) -> Tensor:
    """[B]: as `gaussian_squares`, with Huber's loss."""
    distance = partial(divergences.huber_distance, delta=delta)
    return distance(mean, own_mean) + distance(log_std, own_log_std)


DIVERGENCES = {
    "forward_kl": Divergence(divergences.forward_kl, gaussian=divergences.gaussian_kl),
    "reverse_kl": Divergence(divergences.reverse_kl, whole_support=True, gaussian=divergences.gaussian_reverse_kl),
    "jensen_shannon": Divergence(divergences.jensen_shannon),
    "cross_entropy": Divergence(divergences.cross_entropy),
    "decoupled": Divergence(divergences.decoupled),
    "mse": Divergence(divergences.mse, "scores", "scores", gaussian=gaussian_squares),
    "huber": Divergence(divergences.huber_distance, "scores", "scores", gaussian=gaussian_huber),
    "margin": Divergence(divergences.margin, "probabilities", "scores"),
}
