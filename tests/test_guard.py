"""Tests of `rlkd.learn.guard`: the first number that is not finite is named."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from rlkd.errors import NotFiniteError
from rlkd.learn.guard import check_finite


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_and_counted(wrong: float) -> None:
    tensors: dict[str, Any] = {
        "reward": np.zeros(3),
        "loss": torch.tensor([1.0, wrong, wrong]),
        "weight": torch.tensor([math.nan]),
    }
    with pytest.raises(NotFiniteError, match="^loss is not finite at agent step 8: 2 of 3 numbers$"):
        check_finite(tensors, where="agent step 8")


def test_finite_numbers_and_whole_ones_pass() -> None:
    check_finite({"pixels": np.full(4, 255, np.uint8), "reward": np.full(2, 1e300), "none": torch.empty(0)}, where="")
    check_finite({"sum overflows": np.full(2, 1.7e308)}, where="")
