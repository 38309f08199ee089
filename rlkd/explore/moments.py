"""Running mean and variance in float64, as the released code of random network distillation keeps them."""

import torch
from torch import Tensor, nn

PRIOR_COUNT = 1e-4  # of observations with mean 0 and variance 1 that are taken for seen: no variance is ever 0
ROWS = 256  # that become float64 at once


class Moments(nn.Module):
    """Mean and population variance of all that was seen. Buffers: they are in the state that checkpoints keep."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Of values of a shape; nothing was seen yet."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(PRIOR_COUNT, dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """See values [B, *shape], of any dtype; none is fine."""
        for part in torch.split(values, ROWS) if len(values) else ():
            rows = part.double()
            self.combine(rows.mean(0), rows.var(0, correction=0), len(rows))

    @torch.no_grad()
    def combine(self, mean: Tensor, var: Tensor, count: int) -> None:
        """See `count` values by their mean and population variance.

        Source:
            Chan, Golub and LeVeque 1979, equation 2.1.
        """
        total, apart = self.count + count, mean - self.mean
        squares = self.var * self.count + var * count + apart.square() * self.count * count / total
        self.mean += apart * count / total
        self.var.copy_(squares / total)
        self.count.copy_(total)

    def deviation(self) -> Tensor:
        """Standard deviation, float64, above 0."""
        return self.var.sqrt()
