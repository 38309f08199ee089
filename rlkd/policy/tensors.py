"""Weights and an optimiser's moments as tensors by name: what checkpoints keep, a checksum over it, files with one."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rlkd import storage


def tensors_of(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that `put_back` needs, under `network.` and `optimiser.`."""
    return {f"network.{name}": tensor for name, tensor in network.state_dict().items()} | moments_of(optimiser)


def moments_of(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that `put_moments_back` needs, under `optimiser.`."""
    tensors: dict[str, Tensor] = {}
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in values.items()}
    return tensors


def put_back(tensors: Mapping[str, Tensor], network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Set weights and moments to what `tensors_of` took.

    Raises:
        ValueError, RuntimeError: they do not fit.
    """
    network.load_state_dict(below(tensors, "network."))
    put_moments_back(tensors, optimiser)


def put_moments_back(tensors: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
    """Set an optimiser's moments to what `moments_of` took; errors as of `put_back`."""
    parameters = [parameter.detach() for group in optimiser.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in below(tensors, "optimiser.").items():
        index, _, key = name.partition(".")
        if int(index) >= len(parameters):
            raise ValueError("moments of more weights than there are")
        # Laid out like its weight: fused optimisers walk memory as it lies, whatever strides say.
        weight = parameters[int(index)]
        same = tensor.shape == weight.shape
        states.setdefault(int(index), {})[key] = torch.empty_like(weight).copy_(tensor) if same else tensor
    if states and (len(states) < len(parameters) or len({frozenset(state) for state in states.values()}) > 1):
        raise ValueError("moments of some weights are missing")
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": states, "param_groups": groups})


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def digest(record: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a text and tensors on the CPU, in order of their names."""
    found = hashlib.sha256(record.encode())
    for name, tensor in sorted(tensors.items()):
        add_to(found, name, tensor)
    return found.hexdigest()


def add_to(found: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    """Let a tensor on the CPU enter a hash."""
    found.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
    found.update(tensor.flatten().view(torch.uint8).numpy().data)  # numpy knows no bfloat16


def write_sealed(path: Path, record: str, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors and a record beside them, whole or not at all, with a checksum of both, which is returned.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    found = digest(record, tensors)
    storage.write_bytes(path, safetensors.torch.save(dict(tensors), metadata={"record": record, "digest": found}))
    return found


def read_sealed(path: Path) -> tuple[str, dict[str, Tensor], str]:
    """Record, tensors and checksum of a file that `write_sealed` wrote.

    Raises:
        OSError: missing or not to be read.
        SafetensorError, KeyError, ValueError: damaged, or another kind of file.
    """
    with safetensors.safe_open(str(path), framework="pt") as opened:
        metadata = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
    record, found = metadata["record"], metadata["digest"]
    if digest(record, tensors) != found:
        raise ValueError("the checksum differs")
    return record, tensors, found
