"""Structure operators: what one generation of networks leaves to the next.

Knowledge Evolution keeps a part of the weights and draws the rest anew, shrink-and-perturb keeps a share of all of
them. Fresh weights are those that a student begins with: drawn by `PolicyNetwork.initialise`, and, where states are
given, standardised on them, as students are before their first step. Frozen weights, which require no gradient, stay
as they are. Optimisers are the caller's: moments of weights that were changed have to go.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rlkd.errors import MismatchError, RecipeError
from rlkd.policy.file import build_network
from rlkd.policy.networks import PolicyNetwork
from rlkd.policy.policy import Policy
from rlkd.policy.spec import PolicySpec
from rlkd.recipe import Network


def kels_masks(spec: PolicySpec, share: float) -> dict[str, Tensor]:
    """The fit hypothesis of kernel-level splitting: which weights of a policy's network evolution keeps.

    Of each layer the first ceil(share * C_out) outputs with their biases, as far as they read the first
    ceil(share * C_in) inputs; observations and answers stay whole. Inputs behind flattened convolutions are kept with
    their channel. A residual block's layers keep the same channels, as its sum needs.

    Args:
        spec: of the policy; its network is read, its weights are not.
        share: r in the paper, above 0 and below 1.

    Returns:
        bool tensors by the network's names of its weights, True where the weight is kept.

    Raises:
        MismatchError: a recurrent core, whose gates stand below each other, or a network of members.
        RecipeError: no such share, or one that keeps everything.

    Source:
        Taha et al. 2021, "Knowledge Evolution in Neural Networks", arXiv:2103.05152, section 3.1.
    """
    kept = _weights_of(_slim(spec, share))
    masks = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in _weights_of(spec).items()}
    for name, mask in masks.items():
        mask[_corner(kept[name])] = True
    return masks


def wels_masks(spec: PolicySpec, share: float, generator: torch.Generator) -> dict[str, Tensor]:
    """As `kels_masks`, weight-level splitting: each number is kept with probability `share`, whatever the network.

    Biases are numbers like others. There is no slim policy in such a mask.
    """
    _check_share(share)
    weights = _weights_of(spec).items()
    return {name: torch.rand(weight.shape, generator=generator) < share for name, weight in weights}


@torch.no_grad()
def reset_weights(
    network: PolicyNetwork,
    masks: Mapping[str, Tensor],
    generator: torch.Generator,
    *,
    observation: Tensor | None = None,
) -> None:
    """Draw all weights anew that the masks do not keep, in place: `W <- M * W + (1 - M) * W_fresh`.

    Args:
        network: kept weights stay as they are, bit by bit.
        masks: of `kels_masks` or `wels_masks`.
        generator: of the CPU, wherever the network is.
        observation: [B, *observation_shape], some hundred states on the network's device, where fresh weights are
            standardised on states; None: they are not.
    """
    fresh = dict(_fresh(network, generator, observation).named_parameters())
    for name, weight in _learning(network):
        weight.copy_(torch.where(masks[name].to(weight.device), weight, fresh[name].to(weight)))


@torch.no_grad()
def shrink_and_perturb(
    network: PolicyNetwork,
    generator: torch.Generator,
    *,
    keep: float,
    noise: float,
    observation: Tensor | None = None,
) -> None:
    """Shrink all weights and add fresh ones, in place: `W <- keep * W + noise * W_fresh`.

    Args:
        network: whose weights change.
        generator: of the CPU, wherever the network is.
        keep: lambda in the paper, from 0 to 1; its code has 0.4.
        noise: sigma, at least 0; its code has 0.1. The paper writes Gaussian noise, its code adds a fresh network.
        observation: as of `reset_weights`.

    Raises:
        RecipeError: no such numbers.

    Source:
        Ash and Adams 2020, "On Warm-Starting Neural Network Training", arXiv:1910.08475, section 4.
    """
    if not (0 <= keep <= 1 and 0 <= noise < math.inf):
        raise RecipeError(f"keep must be from 0 to 1 and noise at least 0, got {keep:g} and {noise:g}")
    fresh = dict(_fresh(network, generator, observation).named_parameters())
    for name, weight in _learning(network):
        weight.mul_(keep).add_(fresh[name].to(weight), alpha=noise)


def slim(policy: Policy, share: float) -> Policy:
    """The fit hypothesis of `kels_masks` as a policy of its own, on the CPU.

    It answers what the dense policy would answer if all its other weights were 0.

    Raises:
        MismatchError, RecipeError: as of `kels_masks`.
    """
    spec = _slim(policy.spec, share)
    network = build_network(spec)
    dense = policy.network.state_dict()
    network.load_state_dict({name: dense[name][_corner(weight)].cpu() for name, weight in network.state_dict().items()})
    return Policy(network, spec)


def _slim(spec: PolicySpec, share: float) -> PolicySpec:
    _check_share(share)
    dense = spec.network
    if dense.core != "none" or dense.members is not None:
        what = f"a recurrent core ({dense.core})" if dense.core != "none" else "members"
        raise MismatchError(f"{spec.name} has {what}: kernel-level splitting takes layers whose units stand in order")
    network: Network = replace(dense, channels=_first(dense.channels, share), hidden=_first(dense.hidden, share))
    if network == dense:
        raise RecipeError(f"share {share:g} keeps every unit of {spec.name}; take a smaller one")
    return replace(
        spec,
        name=f"{spec.name}-slim",
        network=network,
        origin=f"rlkd.policy.slim, share {share:g}",
        parents=(spec.hash,),
    )


def _first(widths: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(math.ceil(round(share * width, 9)) for width in widths)  # 0.1 * 30 is a little more than 3


def _corner(weight: Tensor) -> tuple[slice, ...]:
    """Where a smaller tensor lies in a larger one: at the beginning of each axis."""
    return tuple(slice(size) for size in weight.shape)


def _weights_of(spec: PolicySpec) -> dict[str, Tensor]:
    """Names and shapes alone."""
    with torch.device("meta"):
        return dict(build_network(spec).named_parameters())


def _learning(network: PolicyNetwork) -> list[tuple[str, Tensor]]:
    return [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]


def _fresh(network: PolicyNetwork, generator: torch.Generator, observation: Tensor | None) -> PolicyNetwork:
    """A network of the same shape with weights as they are before anything is learnt, in full precision."""
    device = next(network.parameters()).device
    # In torch's own layout: an orthogonal matrix is drawn through a view.
    fresh = copy.deepcopy(network).to("cpu", torch.float32)
    fresh.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch lacks this overload
    if fresh.log_std is not None:
        fresh.log_std.zero_()
    fresh.initialise(generator, for_rl=False)
    fresh.to(device)
    if observation is not None:
        fresh.standardise(observation)
    return fresh


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise RecipeError(f"share must be above 0 and below 1, got {share:g}")
