"""How exploration is rewarded, as a frozen value. Meanings stand under fields."""

from dataclasses import dataclass, fields
from typing import Literal

from rlkd.recipe.read import require

Name = Literal["rnd", "drnd", "dynamics", "counts"]
LEARNT: tuple[Name, ...] = ("rnd", "drnd", "dynamics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bonus:
    """A reward for what is new. Defaults are those of the released code of random network distillation.

    Burda et al. 2018, arXiv:1810.12894; where the paper says otherwise, the code's: the error is a mean over features
    (paper: a squared norm, which differs by the number of features), and the scale of rewards is updated once a rollout
    (paper: at every step).
    """

    name: Name = "rnd"
    """`rnd`: error of a predictor of a random network. `drnd`: of one of many random networks, Yang et al. 2024,
    arXiv:2401.09750. `dynamics`: error of a prediction of what an action leads to, in features that tell actions apart,
    Pathak et al. 2017, arXiv:1705.05363. `counts`: how rarely exactly this was seen."""
    features: int = 512
    """Numbers that a network answers."""
    channels: tuple[int, ...] = (32, 64, 64)
    """Output channels of each convolution over a picture."""
    kernels: tuple[int, ...] = (8, 4, 3)
    """Square kernel size of each convolution, in pixels."""
    strides: tuple[int, ...] = (4, 2, 1)
    """Stride of each convolution, in pixels."""
    widths: tuple[int, ...] = (128,)
    """Fully connected layers over a vector, in the place of the convolutions."""
    predictor_widths: tuple[int, ...] = (512, 512)
    """Fully connected layers in front of a prediction, which a random network does not have."""
    slope: float = 0.2
    """Of the leaky rectifiers behind convolutions (and `widths`) below zero."""
    clip: float = 5.0
    """Largest absolute whitened pixel (or number of a vector)."""
    warm_up_steps: int = 6_400
    """Random agent steps in each environment whose observations the whitening begins with; they are not counted as
    frames of the run."""
    keep_environments: int = 32
    """Learnt from is a random share of each minibatch: as many samples as so many environments bring."""
    error: Literal["mean", "half_sum"] = "mean"
    """rnd only. The bonus, of the squared error over the features: its mean, or half its sum. Learnt is the mean."""
    learns_from: Literal["arrived", "before"] = "arrived"
    """rnd only. Observation that the predictor learns from: the one that a step led to, which is rewarded, or the one
    before."""
    targets: int = 10
    """drnd only. Random networks, at least 2."""
    alpha: float = 0.9
    """drnd only. Share of the distance to their mean; the rest is an estimate of 1 / sqrt(visits)."""
    forward_share: float = 0.2
    """dynamics only. Weight of the prediction in what is learnt; the rest is of telling actions apart."""
    power: float = 0.5
    """counts only. The n-th visit brings 1 / n to this power."""
    terminal: Literal["reset", "final"] = "reset"
    """Observation that rewards an episode's last step: the next episode's first one, or the episode's final one."""
    filter_over: Literal["time", "environments"] = "time"
    """Axis of the discounted sum whose deviation scales the bonus. `environments` is a fault of a widely used port,
    kept for comparison."""
    filter_discount: float = 0.99
    """Discount of that sum."""

    def __post_init__(self) -> None:
        owners: dict[str, tuple[Name, ...]] = {"error": ("rnd",), "learns_from": ("rnd",)}
        owners |= {"targets": ("drnd",), "alpha": ("drnd",), "forward_share": ("dynamics",), "power": ("counts",)}
        networks = ("features", "channels", "kernels", "strides", "widths", "predictor_widths", "slope")
        owners |= dict.fromkeys((*networks, "clip", "warm_up_steps", "keep_environments"), LEARNT)
        for field in fields(self):
            names = owners.get(field.name)
            own = names is None or self.name in names or getattr(self, field.name) == field.default
            require(own, f"{field.name} belongs to a bonus called {' or '.join(names or ())}, not to {self.name}")
        same = len(self.channels) == len(self.kernels) == len(self.strides) > 0
        require(same, "channels, kernels and strides of a bonus need one entry for each convolution")
        sizes = (*self.channels, *self.kernels, *self.strides, *self.widths, *self.predictor_widths)
        require(min(self.features, *sizes) > 0, "features, widths, channels, kernels and strides must be above 0")
        for name in ("clip", "keep_environments", "power"):
            require(getattr(self, name) > 0, f"{name} of a bonus must be above 0, got {getattr(self, name)}")
        for name in ("alpha", "forward_share"):
            require(0 <= getattr(self, name) <= 1, f"{name} of a bonus must be in [0, 1], got {getattr(self, name)}")
        require(self.targets >= 2, f"targets of a bonus must be at least 2, got {self.targets}")
        require(self.warm_up_steps >= 0, f"warm_up_steps must be at least 0, got {self.warm_up_steps}")
        require(0 <= self.filter_discount < 1, f"filter_discount must be in [0, 1), got {self.filter_discount}")
