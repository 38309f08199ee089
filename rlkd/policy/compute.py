"""Where and how numbers are computed: device, threads, precision. The machine decides, not the recipe."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from rlkd.errors import RlkdError

Precision = Literal["auto", "float32", "bfloat16"]
SMALLEST_PART = 64
"""Samples of a minibatch that are learnt from side by side with others; below, threads cost more than they bring."""


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` to a device; auto takes a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise RlkdError(f"--device {name}: known are auto, cpu and cuda")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RlkdError(f"--device {name}: what follows the colon must be a device's number") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RlkdError(f"--device {name}: no such CUDA device is at hand; take --device cpu or auto")
    return device


def one_thread_per_role() -> None:
    """One intra-op thread: samplers, learners and emulators run side by side, and two torch threads next to busy
    emulator threads collapse (measured: 160 times slower with the default spinning wait)."""
    torch.set_num_threads(1)


def idle_cores(roles: int) -> int:
    """How many cores each of some learners has to itself, at least 1."""
    return max(1, (os.cpu_count() or 1) // roles)


def add_up(parameters: Sequence[Tensor], of_pieces: Sequence[Sequence[Tensor]]) -> None:
    """Set the gradient of each parameter to the sum of what each piece of a minibatch adds to it, in its layout."""
    for parameter, first, *more in zip(parameters, *of_pieces, strict=True):
        gradient = sum(more, first)
        if gradient.stride() != parameter.stride():  # a fused optimiser on a device takes no other
            gradient = torch.empty_like(parameter).copy_(gradient)
        parameter.grad = gradient


def rows_at_once(device: torch.device, *, pixels: bool) -> int:
    """Observations in one forward pass without gradients: of pictures, more fall out of a core's cache."""
    return 64 if pixels and device.type == "cpu" else 4096


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported is not None and supported())


def autocast(device: torch.device, precision: Precision, *, pixels: bool) -> AbstractContextManager[object]:
    """A context for forward passes: bfloat16 for pixel networks where it is fast (or asked for), else float32."""
    wanted = takes_bfloat16(device, precision, pixels=pixels)
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def takes_bfloat16(device: torch.device, precision: Precision, *, pixels: bool) -> bool:
    """Whether `autocast` computes in bfloat16 for the same arguments."""
    return precision == "bfloat16" or (precision == "auto" and pixels and bfloat16_is_fast(device))
