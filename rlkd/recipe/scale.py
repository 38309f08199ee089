"""A network at another width or depth: `nature@width=0.5`, `impala@width=0.25,depth=2`.

Wherever a network recipe is named, scales may follow behind an `@`. What is built, and what policy files and records
hold, is the scaled network with its own numbers; it does not remember what it was made of.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from rlkd.errors import RecipeError
from rlkd.recipe.network import Network
from rlkd.recipe.read import build, require

MAX_SCALE = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a network's sizes are multiplied by."""

    width: float = 1.0
    """Of channels, hidden widths and the width of a recurrent core and of the layers behind it."""
    depth: float = 1.0
    """Of the number of residual blocks in each section of a resnet; of any other network, of the number of hidden
    layers. Convolutions outside blocks stay: with another number of strides they would see another picture."""

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            value = getattr(self, name)
            require(0 < value <= MAX_SCALE, f"{name} must be above 0 and at most {MAX_SCALE:g}, got {value:g}")


def split_scale(name: str) -> tuple[str, Scale]:
    """A network's name as its recipe's name and the scales behind it; a name that ends in .toml is a path alone.

    Raises:
        RecipeError: what follows the last `@` is no list of scales.
    """
    base, at, text = name.rpartition("@")
    if not at or name.endswith(".toml"):
        return name, Scale()
    table: dict[str, float] = {}
    for part in text.split(","):
        key, _, number = (word.strip() for word in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            raise RecipeError(f"{name}: behind @ stand scales such as width=0.5 or depth=2, got '{part}'") from None
        require(key not in table, f"{name}: {key} stands there twice")
        table[key] = value
    return base, build(Scale, table, where=name)


def scaled(network: Network, scale: Scale) -> Network:
    """The network with more or fewer units and layers: rounded, a half to the even number, and at least 1 of each.

    Of fewer hidden layers those at even distances stay, of more each is repeated where it stands. A network of members
    has each of them scaled.

    Raises:
        RecipeError: a scale other than 1 changes nothing, or is too much.
    """
    if network.members is not None:
        return dataclasses.replace(network, members=tuple(scaled(member, scale) for member in network.members))
    wide = dataclasses.replace(
        network,
        channels=_widths(network.channels, scale.width),
        hidden=_widths(network.hidden, scale.width),
        core_width=network.core_width if network.core == "none" else _times(network.core_width, scale.width),
        core_hidden=None if network.core_hidden is None else _widths(network.core_hidden, scale.width),
    )
    require(scale.width == 1 or wide != network, f"width={scale.width:g} changes nothing in this network")
    if network.encoder == "resnet":
        blocks = _times(network.section_blocks, scale.depth)
        deep = wide if blocks == network.section_blocks else dataclasses.replace(wide, blocks=blocks)
    else:
        deep = dataclasses.replace(wide, hidden=_repeated(wide.hidden, scale.depth))
    require(scale.depth == 1 or deep != wide, f"depth={scale.depth:g} changes nothing in this network")
    return deep


def interpolated(big: Network, small: Network, share: float) -> Network:
    """The small network with widths on the way from the big one's: `big ** (1 - share) * small ** share`, each layer's.

    Rounded as `scaled` rounds; of a network and one at another width it is the network at a width between. What is no
    width is the small one's.

    Raises:
        RecipeError: the two have other layers than each other.
    """
    _check_same_layers(big, small)

    def between(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(_times(size, (goal / size) ** share) for size, goal in zip(one, other, strict=True))

    (core_width,) = between((big.core_width,), (small.core_width,))
    return dataclasses.replace(
        small,
        channels=between(big.channels, small.channels),
        hidden=between(big.hidden, small.hidden),
        core_width=small.core_width if small.core == "none" else core_width,
        core_hidden=small.core_hidden and between(big.core_hidden or (), small.core_hidden),
    )


def network_label(name: str) -> str:
    """What tables and files call a network: the last part of its recipe's name, with the scales behind it."""
    base, _ = split_scale(name)
    return Path(base).stem + name[len(base) :].replace(" ", "")


def _check_same_layers(big: Network, small: Network) -> None:
    """RecipeError naming what differs besides widths, activations and critics, which change no shape that acts."""
    require(big.members is None and small.members is None, "a network of members has no widths of its own")
    for name in ("channels", "hidden", "core_hidden"):
        layers = [len(getattr(each, name) or ()) for each in (big, small)]
        what = "one has {} entries of {name}, the other {}".format(*layers, name=name)
        require(layers[0] == layers[1], f"nothing lies between networks of different depth: {what}")
    convolutions = len(small.channels) if small.encoder == "conv" else 0
    without = {"paddings": (0,) * convolutions, "pools": (1,) * convolutions, "section_blocks": None}
    for name in ("encoder", "core", "kernels", "strides", "paddings", "pools", "section_blocks", "branches"):
        values = [getattr(each, name) or without.get(name) for each in (big, small)]
        require(
            values[0] == values[1],
            f"nothing lies between networks with other {name.removeprefix('section_')}: {values[0]} and {values[1]}",
        )


def _times(size: int, scale: float) -> int:
    return max(1, round(size * scale))


def _widths(widths: tuple[int, ...], scale: float) -> tuple[int, ...]:
    return tuple(_times(width, scale) for width in widths)


def _repeated(hidden: tuple[int, ...], scale: float) -> tuple[int, ...]:
    """Another number of layers of the same widths in the same order."""
    count = _times(len(hidden), scale) if hidden else 0
    return tuple(hidden[layer * len(hidden) // count] for layer in range(count))
