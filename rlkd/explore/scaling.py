"""What a bonus is divided by: the deviation of its discounted sums over time."""

import torch
from torch import Tensor, nn

from rlkd.explore.moments import Moments
from rlkd.recipe import Bonus


class Scaling(nn.Module):
    """A forward filter over each environment's bonuses, and the moments of what comes out of it.

    The filter runs on over ends of episodes and over rollouts, and starts from nothing: its first value is the first
    bonus. So in the first rollout the sums climb, their deviation is too large, and since moments never forget, bonuses
    are damped for long, in the released code as here.
    """

    filter: Tensor

    def __init__(self, recipe: Bonus, *, num_envs: int, rollout_steps: int) -> None:
        """For N environments and rollouts of T steps; nothing was seen yet."""
        super().__init__()
        self.discount, self.over_time = recipe.filter_discount, recipe.filter_over == "time"
        self.sums = Moments(())
        self.register_buffer("filter", torch.zeros(num_envs if self.over_time else rollout_steps, dtype=torch.float64))

    @torch.no_grad()
    def scale(self, bonus: Tensor, valid: Tensor) -> Tensor:
        """[T, N] float32: a rollout's bonus over the deviation of its discounted sums, which are seen first.

        Nothing is subtracted: a bonus stays positive.

        Args:
            bonus: [T, N], of each step.
            valid: [T, N] bool; other rows are passed over, and get 0.
        """
        lines = (bonus.double(), valid) if self.over_time else (bonus.double().T, valid.T)
        sums = []
        for reward, counts in zip(*lines, strict=True):
            self.filter.copy_(torch.where(counts, self.discount * self.filter + reward, self.filter))
            sums.append(self.filter.clone())
        found = torch.stack(sums)
        if self.over_time:
            self.sums.update(found[valid])
        else:  # the port takes one count for each environment, whatever the length of the rollout
            self.sums.combine(found.mean(), found.var(correction=0), len(found))
        return (bonus.double() / self.sums.deviation()).where(valid, 0).float()
