"""How weights of another project become a policy: the recipes of `agents/imports/`. Meanings stand under fields."""

import re
from dataclasses import dataclass
from typing import Literal

from rlkd.recipe.network import Network
from rlkd.recipe.read import require

Layout = Literal["torch", "input_first", "channels_last", "rotated", "rows_columns_input_output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where one tensor of ours lies in the file, and how its axes lie there."""

    name: str
    """Its name in the file; parts of the path to it are joined by "/"."""
    layout: Layout = "torch"
    """`torch`, Chainer: [output, input] and [output, input, rows, columns]. `input_first`: [input, output] of a fully
    connected layer. `channels_last`: the same, and the input is a picture flattened as rows, columns, channels (Keras
    2, TensorFlow, Flax). `rotated`: kernels turned by 180 degrees, as true convolution wants them (Theano, Keras 1).
    `rows_columns_input_output`: kernels of Keras 2, TensorFlow, Flax."""
    start: int | None = None
    """Index of its first number, where the file's tensor is one vector of all weights; unset: it stands alone."""

    def __post_init__(self) -> None:
        require(self.start is None or self.start >= 0, f"start must be at least 0, got {self.start}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Where the file keeps what observations were whitened with."""

    mean: str
    """Name of the means, [D]."""
    variance: str | None = None
    """Name of the variances, [D]; this or `mean_square`."""
    mean_square: str | None = None
    """Name of the means of squares, [D]."""
    deviation_epsilon: float = 0.0
    """Added to the standard deviation."""
    epsilon: float = 0.0
    """Added to the variance."""
    limit: float = float("inf")
    """Largest absolute value that the network sees."""

    def __post_init__(self) -> None:
        require((self.variance is None) != (self.mean_square is None), "give either variance or mean_square")
        positive = self.limit > 0 and self.epsilon >= 0 and self.deviation_epsilon >= 0
        require(positive, "limit must be above 0, epsilon and deviation_epsilon at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What others measured with one file."""

    file: str
    """What it is called, for people."""
    sha256: str
    """Of its content, 64 hex digits: how the file is known."""
    mean: float
    """Mean score."""
    std: float
    """Standard deviation over episodes."""
    episodes: int
    """How many."""
    first_seed: int | None = None
    """Environment seed of the first of them, the others follow: `--check` then plays the same episodes, and more."""

    def __post_init__(self) -> None:
        require(bool(re.fullmatch("[0-9a-f]{64}", self.sha256)), f"sha256 must be 64 hex digits, got '{self.sha256}'")
        require(self.episodes >= 2 and self.std >= 0, "a score needs at least 2 episodes and a std of at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """A file of weights as a policy. The file's format is told from its first bytes."""

    output: Literal["categorical", "q", "gaussian", "squashed_gaussian"]
    """What the head answers. A file's squashed_gaussian head gives means alone, and acts without noise; so does a
    gaussian one without `log_std`."""
    network: Network
    """The shape that the weights have."""
    tensors: dict[str, str | Tensor]
    """Our name of each tensor, and its name in the file (or a table with its layout)."""
    rule: str
    """How actions are picked: "greedy", "sampled" or "epsilon_greedy 0.01"."""
    env: str | None = None
    """Environment recipe or gymnasium id, where it is one; unset: the caller says."""
    clip: Literal["never"] | None = None
    """`never`: actions go to the environment as they are, also beyond its bounds, where its reward may see them.
    Unset: they are clipped to the bounds."""
    actions: tuple[str, ...] = ()
    """Names of the head's actions in the file's order, where that is not the environment's; one that is missing is
    never chosen, though an epsilon_greedy rule may draw it."""
    normaliser: Statistics | None = None
    """How observations are whitened; unset: not at all."""
    scores: tuple[Score, ...] = ()
    """What files of the kind are known to score in `env`; `rlkd import --check` compares."""

    def __post_init__(self) -> None:
        fits = self.clip is None or self.output == "gaussian"
        require(fits, "clip = 'never' belongs to output = 'gaussian': others are scaled to the bounds, or choices")
        require(self.network.members is None, "a file's weights are read into one network, not into members")
