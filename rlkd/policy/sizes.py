"""Networks between two sizes, for chains of students that each teach a smaller one."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import torch

from rlkd.errors import RecipeError
from rlkd.policy.networks import PolicyNetwork, acting_parameters
from rlkd.policy.rule import Kind
from rlkd.recipe import Network, interpolated

CLOSE = 0.05
"""Sizes that are further off than this share have single layers widened or narrowed by a unit at a time."""
HALVINGS = 30


def networks_between(
    big: Network, small: Network, count: int, *, observation_shape: Sequence[int], kind: Kind, actions: int
) -> tuple[Network, ...]:
    """Networks whose sizes lie between two others', each the same share of the one before it, the largest first.

    All widths of a network lie the same way between those of the two (`rlkd.recipe.interpolated`); where rounding them
    leaves the size more than 5 % off, single layers are changed by units until no change brings it nearer.

    Args:
        big: the teacher's network; its critic does not count.
        small: the student's, with fewer parameters; all but widths is taken from it.
        count: how many lie between.
        observation_shape: [C, H, W] or [D].
        kind: of the policies.
        actions: discrete ones, or action dimensions.

    Raises:
        RecipeError: the two differ by more than widths, the small one is not smaller, or there are not so many
            different sizes between.

    Source:
        Mirzadeh et al. 2019, "Improved Knowledge Distillation via Teacher Assistant", arXiv:1902.03393. Its networks
        differ in depth; sizes with a constant share between them are ours.
    """
    if count < 1:
        raise RecipeError(f"the number of networks between must be at least 1, got {count}")

    @cache
    def parameters(network: Network) -> int:
        with torch.device("meta"):
            return acting_parameters(PolicyNetwork(network.acting, observation_shape, kind, actions))

    ends = interpolated(big, small, 0), small  # the big one as the small one would be
    sizes = [parameters(network) for network in ends]
    if sizes[0] <= sizes[1]:
        raise RecipeError(
            f"the small network has {sizes[1]:,} parameters, the big one {sizes[0]:,}: nothing lies between"
        )
    found = []
    for place in range(1, count + 1):
        goal = sizes[0] * (sizes[1] / sizes[0]) ** (place / (count + 1))
        found.append(_nearest(*ends, goal, parameters))
    chain = [sizes[0], *(parameters(network) for network in found), sizes[1]]
    if any(after >= before for before, after in pairwise(chain)):
        raise RecipeError(
            f"there are no {count} different sizes between {sizes[0]:,} and {sizes[1]:,} parameters of these networks"
        )
    return tuple(found)


def _nearest(big: Network, small: Network, goal: float, parameters: Callable[[Network], int]) -> Network:
    """The network between whose size is nearest to a goal between theirs."""

    def error(network: Network) -> float:
        return abs(parameters(network) / goal - 1)

    low, high, best = 0.0, 1.0, big
    # Without rounding the size is a sum of exponentials of the share, so it passes the goal once.
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        network = interpolated(big, small, middle)
        best = min(best, network, key=error)
        low, high = (middle, high) if parameters(network) > goal else (low, middle)
    while error(best) > CLOSE:
        nearer = min(_beside(best), key=error)
        if error(nearer) >= error(best):
            break
        best = nearer
    return best


def _beside(network: Network) -> list[Network]:
    """All networks with one layer a unit wider or narrower."""
    found = [dataclasses.replace(network, channels=widths) for widths in _changed(network.channels)]
    found += [dataclasses.replace(network, hidden=widths) for widths in _changed(network.hidden)]
    found += [dataclasses.replace(network, core_hidden=widths) for widths in _changed(network.core_hidden or ())]
    if network.core != "none":
        found += [dataclasses.replace(network, core_width=width) for (width,) in _changed((network.core_width,))]
    return found


def _changed(widths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The same widths but for one, which is a unit larger or smaller."""
    pairs = [(place, width + step) for place, width in enumerate(widths) for step in (-1, 1)]
    return [(*widths[:place], width, *widths[place + 1 :]) for place, width in pairs if width > 0]
