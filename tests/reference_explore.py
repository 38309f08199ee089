"""Random network distillation once more: slow, obvious, float64, from the formulae. It shares no code with `rlkd`."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

PRIOR = 1e-4


def moments(values: Sequence[np.ndarray] | np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, population variance and count of all values [M, ...] ever seen, and of 1e-4 values before them that have
    mean 0 and variance 1."""
    seen = np.asarray(values, np.float64)
    count = len(seen) + PRIOR
    mean = seen.sum(0) / count
    squares = ((seen - mean) ** 2).sum(0) + PRIOR * (1 + mean**2)
    return mean, squares / count, count


def whitened(value: np.ndarray, seen: np.ndarray, clip: float) -> np.ndarray:
    """One observation by the moments of those seen, clipped."""
    mean, variance, _ = moments(seen)
    white: np.ndarray = np.clip((np.asarray(value, np.float64) - mean) / np.sqrt(variance), -clip, clip)
    return white


def answer(weights: Mapping[str, np.ndarray], value: np.ndarray, layers: Sequence[tuple[str, float]]) -> np.ndarray:
    """What a network answers to one whitened observation.

    Args:
        weights: by name as torch has them, "0.weight" and so on.
        value: [1, H, W] or [D].
        layers: of each layer with weights its index, and the slope of what follows below zero; 1 for nothing.
    """
    x = np.asarray(value, np.float64)
    for index, slope in layers:
        weight, bias = (np.asarray(weights[f"{index}.{name}"], np.float64) for name in ("weight", "bias"))
        if weight.ndim == 4:
            stride = {8: 4, 4: 2, 3: 1}[weight.shape[2]]
            x = _convolved(x, weight, stride) + bias[:, None, None]
        else:
            x = weight @ x.reshape(-1) + bias
        x = np.where(x < 0, slope * x, x)
    return x


def _convolved(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    out, _, size, _ = weight.shape
    side = (x.shape[1] - size) // stride + 1
    result = np.zeros((out, side, side))
    for row in range(side):
        for column in range(side):
            patch = x[:, row * stride : row * stride + size, column * stride : column * stride + size]
            result[:, row, column] = [(kernel * patch).sum() for kernel in weight]
    return result


def error(target: np.ndarray, predictor: np.ndarray) -> float:
    """Mean squared difference over features."""
    return math.fsum((t - p) ** 2 for t, p in zip(target, predictor, strict=True)) / len(target)


def filtered(bonus: np.ndarray, valid: np.ndarray, before: Sequence[float], discount: float) -> list[list[float]]:
    """Discounted sums of each environment's bonuses [T, N], in order of time, steps that were not played left out."""
    found = []
    for environment in range(bonus.shape[1]):
        total, sums = before[environment], []
        for step in range(bonus.shape[0]):
            if valid[step, environment]:
                total = discount * total + bonus[step, environment]
                sums.append(total)
        found.append(sums)
    return found
