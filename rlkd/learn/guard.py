"""Faults in numbers: what is not finite stops a run where it arises, with a name."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rlkd.errors import NotFiniteError


def check_finite(tensors: Mapping[str, Tensor | np.ndarray], *, where: str) -> None:
    """Look at each tensor in order, and stop at the first that holds NaN or infinity.

    Args:
        tensors: by the name that the message uses, for example "loss" or "weight encoder.0.weight".
        where: what was going on, for example "agent step 4,096".

    Raises:
        NotFiniteError: with the tensor's name and how many of its numbers are not finite.
    """
    for name, tensor in tensors.items():
        values = torch.as_tensor(tensor)
        if not values.is_floating_point():
            continue
        if math.isfinite(values.sum().item()):
            continue  # nearly always: one pass; a sum of finite numbers that overflows is looked at again
        wrong = values.numel() - int(torch.isfinite(values).sum())
        if wrong:
            raise NotFiniteError(f"{name} is not finite at {where}: {wrong:,} of {values.numel():,} numbers")
