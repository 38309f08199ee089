"""What a network looks like, as a frozen value. Meanings stand under fields."""

from dataclasses import dataclass
from typing import Literal

from rlkd.recipe.read import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The shape of a network: encoder, optional recurrent core, then one linear head."""

    encoder: Literal["conv", "mlp"]
    """Convolutions over pixels [C, H, W], or a plain multilayer perceptron over a vector."""
    channels: tuple[int, ...] = ()
    """Output channels of each convolution; none for an mlp."""
    kernels: tuple[int, ...] = (8, 4, 3)
    """Square kernel size of each convolution, in pixels."""
    strides: tuple[int, ...] = (4, 2, 1)
    """Stride of each convolution, in pixels."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the fully connected layers after the encoder's input or convolutions."""
    activation: Literal["relu", "tanh", "elu"] = "relu"
    """Between all layers."""
    core: Literal["none", "gru", "lstm"] = "none"
    """A recurrent core behind the hidden layers."""
    core_width: int = 128
    """Width of the recurrent core."""
    core_hidden: tuple[int, ...] | None = None
    """Widths of the fully connected layers between core and head; unset: none."""
    paddings: tuple[int, ...] | None = None
    """Zeros around each convolution's input, in pixels; unset: none."""
    pools: tuple[int, ...] | None = None
    """Square size, in pixels, of a maximum taken behind each convolution's activation; unset: none, as is size 1."""
    hidden_activation: Literal["relu", "tanh", "elu"] | None = None
    """Behind fully connected layers, where it is another than behind convolutions."""
    mean_limit: float | None = None
    """Largest absolute mean of a Gaussian policy before it is squashed; unset: none."""
    value: Literal["none", "shared", "separate"] = "none"
    """Critic: none, a head on the same features, or a network of its own with the same hidden widths."""
    value_heads: int | None = None
    """Values that the critic answers, one a reward stream; unset: one."""

    def __post_init__(self) -> None:
        if self.encoder == "conv":
            same = len(self.channels) == len(self.kernels) == len(self.strides) > 0
            require(same, "channels, kernels and strides need one entry for each convolution")
            extra = [values for values in (self.paddings, self.pools) if values is not None]
            fit = all(len(values) == len(self.channels) for values in extra)
            require(fit, "paddings and pools need one entry for each convolution")
            require(min((0, *(self.paddings or ()))) == 0, "paddings must be at least 0")
            require(min((1, *(self.pools or ()))) == 1, "pools must be at least 1")
        else:
            require(
                not (self.channels or self.paddings or self.pools),
                "channels belong to encoder = 'conv', as do paddings and pools",
            )
        widths = (
            *self.channels,
            *self.kernels,
            *self.strides,
            *self.hidden,
            self.core_width,
            *(self.core_hidden or ()),
        )
        require(min(widths) > 0, "channels, kernels, strides, hidden, core_width and core_hidden must be above 0")
        require(self.core != "none" or not self.core_hidden, "core_hidden belongs to a recurrent core")
        require(self.value_heads is None or self.value_heads > 0, "value_heads must be above 0")
        require(self.mean_limit is None or self.mean_limit > 0, f"mean_limit must be above 0, got {self.mean_limit}")
