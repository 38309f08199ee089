"""What a network looks like, as a frozen value. Meanings stand under fields."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from rlkd.recipe.read import require

KERNELS, STRIDES = (8, 4, 3), (4, 2, 1)  # of Mnih et al. 2015
MAX_BLOCKS = MAX_MEMBERS = 64  # a damaged record must not build for hours
Combine = Literal["mean", "sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The shape of a network: encoder, optional recurrent core, then one linear head."""

    encoder: Literal["conv", "resnet", "mlp", "members"]
    """Convolutions over pixels [C, H, W], a residual network over pixels (Espeholt et al. 2018, arXiv:1802.01561,
    figure 3, right), or a plain multilayer perceptron over a vector. `members`: several networks that answer together;
    all keys but `members` and `combine` then stay as they are here, and stand for nothing."""
    channels: tuple[int, ...] = ()
    """Output channels of each convolution, or of each section of a resnet; none for an mlp."""
    kernels: tuple[int, ...] = KERNELS
    """Square kernel size of each convolution, in pixels; all those of a resnet are 3."""
    strides: tuple[int, ...] = STRIDES
    """Stride of each convolution, in pixels; a section of a resnet halves rows and columns instead."""
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
    branches: Literal["residual"] | None = None
    """`residual`: head and a shared critic each read the features plus what a layer of their own makes of them, as in
    the policies of Burda et al. 2018, arXiv:1810.12894. Unset: the features."""
    blocks: int | None = None
    """Residual blocks of each section of a resnet, two convolutions each; unset: 2."""
    members: tuple["Network", ...] | None = None
    """encoder = 'members' only: the networks, feed-forward and without critics, that read the same observation."""
    combine: Combine | None = None
    """encoder = 'members' only. `mean`: an action's probability is the mean of the members' (an ensemble of
    generations, Furlanello et al. 2018, arXiv:1805.04770), a Q-value the mean of theirs. `sum`: logits and Q-values are
    the sums of theirs."""

    @property
    def acting(self) -> "Network":
        """The same without a critic: what acts."""
        return replace(self, value="none", value_heads=None)

    def __post_init__(self) -> None:
        if self.encoder == "members":
            self._check_members()
            return
        single = self.members is None and self.combine is None
        require(single, "members and combine belong to encoder = 'members'")
        if self.encoder == "conv":
            same = len(self.channels) == len(self.kernels) == len(self.strides) > 0
            require(same, "channels, kernels and strides need one entry for each convolution")
            extra = [values for values in (self.paddings, self.pools) if values is not None]
            fit = all(len(values) == len(self.channels) for values in extra)
            require(fit, "paddings and pools need one entry for each convolution")
            require(min((0, *(self.paddings or ()))) == 0, "paddings must be at least 0")
            require(min((1, *(self.pools or ()))) == 1, "pools must be at least 1")
        elif self.encoder == "resnet":
            require(len(self.channels) > 0, "a resnet needs channels, one entry for each section")
            own = (self.kernels, self.strides) == (KERNELS, STRIDES) and not (self.paddings or self.pools)
            require(
                own, "kernels, strides, paddings and pools belong to encoder = 'conv'; a resnet's are always the same"
            )
        else:
            require(
                not (self.channels or self.paddings or self.pools),
                "channels belong to encoder = 'conv' or 'resnet', paddings and pools belong to encoder = 'conv'",
            )
        require(self.blocks is None or self.encoder == "resnet", "blocks belong to encoder = 'resnet'")
        require(
            self.blocks is None or 1 <= self.blocks <= MAX_BLOCKS,
            f"blocks must be from 1 to {MAX_BLOCKS}, got {self.blocks}",
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

    @property
    def pixels(self) -> bool:
        """Whether it reads pictures [C, H, W] rather than vectors [D]."""
        if self.members is not None:
            return self.members[0].pixels
        return self.encoder != "mlp"

    @property
    def state_width(self) -> int:
        """Numbers of the recurrent state; 0 of feed-forward networks."""
        return {"none": 0, "gru": 1, "lstm": 2}[self.core] * self.core_width  # lstm: hidden and cell state

    @property
    def section_blocks(self) -> int:
        """Residual blocks of each section; 0 where there are no sections."""
        return (self.blocks or 2) if self.encoder == "resnet" else 0

    def _check_members(self) -> None:
        own = {"encoder", "members", "combine"}
        for field in fields(self):
            plain = field.name in own or getattr(self, field.name) == field.default
            require(plain, f"{field.name} belongs to a network by itself, not to one of members")
        members = self.members or ()
        require(
            1 <= len(members) <= MAX_MEMBERS and self.combine is not None,
            f"encoder = 'members' needs combine and 1 to {MAX_MEMBERS} members, got {len(members)}",
        )
        require(all(member.members is None for member in members), "a member cannot be made of members itself")
        fit = all((member.core, member.value) == ("none", "none") for member in members)
        require(fit, "members have neither a recurrent core nor a critic")
        require(len({member.pixels for member in members}) == 1, "members read the same observation: pixels or vectors")


# Records of files are built by annotations, and nothing that is text in them is to be evaluated while a file is read.
Network.__annotations__["members"] = tuple[Network, ...] | None
