"""Losses, returns and advantages: pure functions, one value a sample."""

from rlkd.losses.divergences import (
    NO_NOISE,
    NOISE_OF_THE_NOISELESS,
    cross_entropy,
    forward_kl,
    gaussian_kl,
    gaussian_reverse_kl,
    huber_distance,
    jensen_shannon,
    margin,
    mse,
    reverse_kl,
)
from rlkd.losses.reinforcement import (
    categorical_entropy,
    gaussian_entropy,
    gaussian_log_prob,
    huber,
    importance_weights,
    ppo_surrogate,
    quantile_huber,
)
from rlkd.losses.returns import generalised_advantages, n_step_return

__all__ = [
    "NOISE_OF_THE_NOISELESS",
    "NO_NOISE",
    "categorical_entropy",
    "cross_entropy",
    "forward_kl",
    "gaussian_entropy",
    "gaussian_kl",
    "gaussian_log_prob",
    "gaussian_reverse_kl",
    "generalised_advantages",
    "huber",
    "huber_distance",
    "importance_weights",
    "jensen_shannon",
    "margin",
    "mse",
    "n_step_return",
    "ppo_surrogate",
    "quantile_huber",
    "reverse_kl",
]
