"""What a policy's layers make of states: how alike two policies' are, how many directions they fill, which are new.

Shapes: S states, F features (F1 and F2 of two policies). Statistics in float64.
"""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from rlkd.evaluation.agreement import BATCH
from rlkd.policy import Policy

ROWS = 1024  # states that are compared with all reference states at once


def linear_cka(features: Tensor, others: Tensor) -> float:
    """Linear centred kernel alignment, in [0, 1]: 1 where one is the other rotated and scaled.

    `|Y^T X|^2 / (|X^T X| |Y^T Y|)` in Frobenius norms, X and Y less their means over states; NaN where one of them does
    not vary. Independent features are above 0 by about the number of directions that they fill over S: compare
    on many more states than that. Squares are compared, so a few states that are far from all others decide: of
    networks of random weights on Pong, a few states in a thousand move it from 0.5 to 0.2.

    Args:
        features: [S, F1].
        others: [S, F2], of the same states.

    Source:
        Kornblith et al. 2019, arXiv:1905.00414, section 3.
    """
    if features.ndim != 2 or others.ndim != 2 or len(features) != len(others):
        raise ValueError(f"features must be [S, F1] and [S, F2], got {list(features.shape)} and {list(others.shape)}")
    x, y = _centred(features), _centred(others)
    if max(x.shape[1], y.shape[1]) <= len(x):
        both, own, their = y.T @ x, x.T @ x, y.T @ y
        shared = both.square().sum()
    else:  # the same three numbers from how alike states are: S x S is the smaller matrix
        own, their = x @ x.T, y @ y.T
        shared = (own * their).sum()
    return float(shared / (own.square().sum().sqrt() * their.square().sum().sqrt()))


def effective_rank(features: Tensor) -> float:
    """How many directions the features fill: exp of the entropy of their singular values divided by their sum.

    From 1 (all states on a line) to min(S - 1, F) (all directions alike); 0 where nothing varies.

    Args:
        features: [S, F]; their mean over states is taken off first, which the source does not do.

    Source:
        Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    values = torch.linalg.svdvals(_centred(features))
    if not values.sum() > 0:
        return 0.0
    shares = values / values.sum()
    return math.exp(-float(torch.xlogy(shares, shares).sum()))


def nearest_distances(features: Tensor, reference: Tensor) -> Tensor:
    """[S]: Euclidean distance of each row of `features` [S, F] to the nearest row of `reference` [R, F]."""
    x, known = features.double(), reference.double()
    middle = known.mean(0)  # products are exact to the size of what is multiplied: near the middle it is small
    x, known = x - middle, known - middle
    found = []
    for rows in torch.split(x, ROWS):
        # The square of a row is the same for all references: left out, it changes no nearest one.
        nearest = (known.square().sum(1) - 2 * rows @ known.T).argmin(1)
        found.append((rows - known[nearest]).norm(dim=1))
    return torch.cat(found)


def quarters(values: Tensor) -> tuple[Tensor, ...]:
    """Places of the lowest quarter of `values` [S], of the next, and so on; equal values keep their order."""
    order = values.argsort(stable=True)
    return tuple(order.tensor_split(4))


def layer_features(policy: Policy, states: np.ndarray) -> dict[str, Tensor]:
    """[S, F] float32 by layer: what the encoder's layers give on, in order, behind their activations and maxima.

    A layer is a convolution ("convolution 1"), a section of a residual network ("section 1") or a fully connected layer
    ("hidden 1"), with all that follows it up to the next one; pictures are flattened.

    Args:
        policy: feed-forward; nothing about it is changed.
        states: [S, *observation_shape].

    Raises:
        ValueError: a recurrent policy: what its layers give on depends on more than the state.
    """
    if policy.recurrent:
        raise ValueError("layers are compared on single states: a recurrent policy has none")
    layers = _layers(policy)
    kept: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [module.register_forward_hook(partial(_keep, kept[name])) for name, module in layers.items()]
    try:
        with torch.inference_mode():
            for k in range(0, len(states), BATCH):
                policy(states[k : k + BATCH])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in kept.items()}


def _layers(policy: Policy) -> dict[str, nn.Module]:
    """The module behind which each of the encoder's layers ends."""
    encoder, named = list(policy.network.encoder), {}
    starts = [place for place, module in enumerate(encoder) if isinstance(module, nn.Conv2d | nn.Linear)]
    counts = {"hidden": 0, "convolution": 0, "section": 0}
    picture = "section" if policy.spec.network.encoder == "resnet" else "convolution"
    for start, end in zip(starts, [*starts, len(encoder)][1:], strict=True):
        what = "hidden" if isinstance(encoder[start], nn.Linear) else picture
        counts[what] += 1
        named[f"{what} {counts[what]}"] = encoder[end - 1]
    return named


def _keep(parts: list[Tensor], _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
    parts.append(output.flatten(1).float().cpu())


def _centred(features: Tensor) -> Tensor:
    features = features.double()
    return features - features.mean(0)
