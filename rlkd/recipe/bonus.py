"""How exploration is rewarded, as a frozen value. Meanings stand under fields."""

from dataclasses import dataclass
from typing import Literal

from rlkd.recipe.read import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Bonus:
    """Random network distillation: a reward for states that a student of a random network answers wrongly.

    Defaults are those of the released code of Burda et al. 2018, arXiv:1810.12894, also where the paper says otherwise:
    the error is a mean over features (paper: a squared norm, which differs by the number of features), and the scale of
    rewards is updated once a rollout (paper: at every step).
    """

    features: int = 512
    """Numbers that the random network answers."""
    channels: tuple[int, ...] = (32, 64, 64)
    """Output channels of each convolution over a picture."""
    kernels: tuple[int, ...] = (8, 4, 3)
    """Square kernel size of each convolution, in pixels."""
    strides: tuple[int, ...] = (4, 2, 1)
    """Stride of each convolution, in pixels."""
    widths: tuple[int, ...] = (128,)
    """Fully connected layers over a vector, in the place of the convolutions."""
    predictor_widths: tuple[int, ...] = (512, 512)
    """Fully connected layers that the predictor has more than the random network, in front of its answer."""
    slope: float = 0.2
    """Of the leaky rectifiers behind convolutions (and `widths`) below zero."""
    error: Literal["mean", "half_sum"] = "mean"
    """Squared error over the features: its mean, or half its sum."""
    learns_from: Literal["arrived", "acted_on"] = "arrived"
    """Observation that the predictor learns from: the one that a step led to, which is rewarded, or the one before."""
    terminal: Literal["reset", "final"] = "reset"
    """Observation that rewards an episode's last step: the next episode's first one, or the episode's final one."""
    clip: float = 5.0
    """Largest absolute whitened pixel (or number of a vector)."""
    warm_up_steps: int = 6_400
    """Random agent steps in each environment whose observations the whitening begins with."""
    filter_over: Literal["time", "environments"] = "time"
    """Axis of the discounted sum whose deviation scales the bonus. `environments` is a fault of a widely used port,
    kept for comparison."""
    filter_discount: float = 0.99
    """Discount of that sum."""
    keep_environments: int = 32
    """The predictor learns from a random share of each minibatch: as many samples as so many environments bring."""

    def __post_init__(self) -> None:
        same = len(self.channels) == len(self.kernels) == len(self.strides) > 0
        require(same, "channels, kernels and strides of a bonus need one entry for each convolution")
        sizes = (*self.channels, *self.kernels, *self.strides, *self.widths, *self.predictor_widths)
        require(min(self.features, *sizes) > 0, "widths, channels, kernels and strides of a bonus must be above 0")
        require(self.clip > 0, f"clip of a bonus must be above 0, got {self.clip}")
        require(self.warm_up_steps >= 0, f"warm_up_steps must be at least 0, got {self.warm_up_steps}")
        require(0 <= self.filter_discount < 1, f"filter_discount must be in [0, 1), got {self.filter_discount}")
        require(self.keep_environments > 0, f"keep_environments must be above 0, got {self.keep_environments}")
