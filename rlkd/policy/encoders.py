"""Encoders: what a network does with an observation before its core and head, and what can be said of such layers.

An encoder is an `nn.Sequential` of convolutions, pools, `Residual` blocks and fully connected layers, whatever made it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkd.errors import MismatchError
from rlkd.recipe import Network

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
MIN_DEVIATION = 1e-3  # a unit that answers the same to all states is not blown up more than this allows


class Residual(nn.Module):
    """[B, C, H, W] -> the same shape: the input plus what two convolutions make of it.

    Source: Espeholt et al. 2018, arXiv:1802.01561, figure 3 (right); the order is that of He et al. 2016,
    arXiv:1603.05027, without normalisation.
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [ACTIVATIONS[activation](), nn.Conv2d(channels, channels, 3, padding=1)]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        branch: Tensor = self.branch(x)
        return x + branch


def make_encoder(recipe: Network, shape: Sequence[int]) -> tuple[nn.Sequential, int]:
    """Layers from an observation to features, and the width F of the features.

    Args:
        recipe: encoder and hidden widths are read.
        shape: of an observation, [C, H, W] for pixels and [D] for vectors.

    Raises:
        MismatchError: the network reads observations of another kind, or larger ones.
    """
    shape = tuple(shape)
    if recipe.pixels != (len(shape) == 3):
        raise MismatchError(f"encoder '{recipe.encoder}' cannot read observations of shape {list(shape)}")
    makers = {"conv": _convolutions, "resnet": _sections}
    layers = [*makers[recipe.encoder](recipe, shape), nn.Flatten()] if recipe.pixels else []
    _, size = flops(nn.Sequential(*layers), shape)
    connected, width = fully_connected(recipe.hidden, size[0], behind_layers(recipe))
    return nn.Sequential(*layers, *connected), width


def fully_connected(widths: Sequence[int], size: int, activation: str) -> tuple[nn.Sequential, int]:
    """Linear layers with an activation behind each, and the width of what comes out."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(size, width), ACTIVATIONS[activation]()]
        size = width
    return nn.Sequential(*layers), size


def behind_layers(recipe: Network) -> str:
    """Name of the activation behind fully connected layers."""
    return recipe.hidden_activation or recipe.activation


def flops(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Floating-point operations of one observation, and the shape of what comes out.

    A multiply-add counts as two; biases, activations, maxima and a residual block's sum are left out.

    Args:
        module: an encoder, or one of its layers.
        shape: of what goes in, without the batch.
    """
    if isinstance(module, nn.Sequential):
        total = 0
        for layer in module:
            count, shape = flops(layer, shape)
            total += count
        return total, shape
    if isinstance(module, Residual):
        return flops(module.branch, shape)
    if isinstance(module, nn.Conv2d):
        height, width = (_size_after(module, size) for size in shape[1:])
        return 2 * height * width * module.weight.numel(), (module.out_channels, height, width)
    if isinstance(module, nn.MaxPool2d):
        return 0, (shape[0], *(_size_after(module, size) for size in shape[1:]))
    if isinstance(module, nn.Flatten):
        return 0, (math.prod(shape),)
    if isinstance(module, nn.Linear):
        return 2 * module.weight.numel(), (module.out_features,)
    return 0, shape


@torch.no_grad()
def standardise(module: nn.Module, x: Tensor, *, centred: bool) -> Tensor:
    """Scale and shift each unit so that it answers with mean 0 and deviation 1; layer by layer, as the input comes.

    Inside a residual block each layer sees what the layer before it makes of the block's input.

    Args:
        module: an encoder, or one of its layers; its weights are changed.
        x: [B, ...] what goes in.
        centred: each unit's weights are given mean 0 first: what is common to all its inputs then moves it no more.

    Returns:
        What the changed layers make of `x`.
    """
    if isinstance(module, nn.Sequential):
        for layer in module:
            x = standardise(layer, x, centred=centred)
        return x
    if isinstance(module, Residual):
        return x + standardise(module.branch, x, centred=centred)
    if isinstance(module, nn.Conv2d | nn.Linear):
        incoming = tuple(range(1, module.weight.dim()))
        if centred:
            module.weight -= module.weight.mean(incoming, keepdim=True)
        by_unit = module(x).transpose(0, 1).flatten(1)
        deviation = by_unit.std(1).clamp_min(MIN_DEVIATION)
        module.weight /= deviation.view(-1, *(1 for _ in incoming))
        bias: Tensor = module.bias  # type: ignore[assignment]  # our layers all have one
        bias.sub_(by_unit.mean(1)).div_(deviation)
    out: Tensor = module(x)
    return out


def _convolutions(recipe: Network, shape: tuple[int, ...]) -> list[nn.Module]:
    """Convolutions, an activation behind each, a maximum behind it where the recipe says so."""
    layers: list[nn.Module] = []
    now = shape
    paddings = recipe.paddings or (0,) * len(recipe.channels)
    pools = recipe.pools or (1,) * len(recipe.channels)
    for out, kernel, stride, padding, pool in zip(
        recipe.channels, recipe.kernels, recipe.strides, paddings, pools, strict=True
    ):
        new: list[nn.Module] = [nn.Conv2d(now[0], out, kernel, stride, padding), ACTIVATIONS[recipe.activation]()]
        new += [nn.MaxPool2d(pool)] if pool > 1 else []
        _, now = flops(nn.Sequential(*new), now)
        if min(now) < 1:
            raise MismatchError(f"observations of shape {list(shape)} are too small for these convolutions")
        layers += new
    return layers


def _sections(recipe: Network, shape: tuple[int, ...]) -> list[nn.Module]:
    """For each entry of channels a convolution, a maximum that halves rows and columns, residual blocks.

    Pictures never vanish: half of 1 pixel is 1.
    """
    layers: list[nn.Module] = []
    channels = shape[0]
    for out in recipe.channels:
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        layers += [Residual(out, recipe.activation) for _ in range(recipe.section_blocks)]
        channels = out
    return [*layers, ACTIVATIONS[recipe.activation]()]


def _size_after(layer: nn.Conv2d | nn.MaxPool2d, size: int) -> int:
    """Rows or columns of what a square layer makes of so many."""
    kernel, stride, padding = (
        int(value[0] if isinstance(value, tuple) else value)
        for value in (layer.kernel_size, layer.stride, layer.padding)
    )
    return (size + 2 * padding - kernel) // stride + 1
