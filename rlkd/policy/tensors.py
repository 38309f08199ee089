"""Weights and an optimiser's moments as tensors by name: what checkpoints keep, and a checksum over it."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def tensors_of(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that `put_back` needs, under `network.` and `optimiser.`."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in values.items()}
    return tensors


def put_back(tensors: Mapping[str, Tensor], network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Set weights and moments to what `tensors_of` took.

    Raises:
        ValueError, RuntimeError: they do not fit.
    """
    network.load_state_dict(below(tensors, "network."))
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in below(tensors, "optimiser.").items():
        index, _, key = name.partition(".")
        # Laid out like the weights of convolutions, or every step after a resume would be slower.
        layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        states.setdefault(int(index), {})[key] = tensor.contiguous(memory_format=layout)
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": states, "param_groups": groups})


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def digest(record: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a text and tensors on the CPU, in order of their names."""
    found = hashlib.sha256(record.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())  # numpy knows no bfloat16
    return found.hexdigest()
