"""Returns and advantages: what is learnt from rewards.

Shapes: B batch, T time, N environments.
"""

import torch
from torch import Tensor


def generalised_advantages(
    reward: Tensor,
    value: Tensor,
    terminated: Tensor,
    valid: Tensor,
    *,
    discount: float,
    gae_lambda: float,
    episodic: bool = True,
    log_ratio: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages by exponentially weighted temporal differences, and the critic's targets, over next-step resets.

    Row t of an episode's last step bootstraps from `value[t + 1]`, the value of the episode's last
    observation, unless it terminated. The step after it only resets: it is not valid, has no advantage, and
    stops the sum, so that nothing leaks from one episode into the one before. A return that is not episodic
    runs on instead: it skips the resetting step and bootstraps from the next episode's first observation; where row
    T - 1 ends an episode that one has not been seen yet, and the last observation's value stands in for it.

    With `log_ratio` the targets are those of V-trace, both of its clips at 1: what follows an action that the
    learner would hardly take counts less. Without, or with ratios of 1, they are TD(lambda).

    Args:
        reward: [T, N].
        value: [T + 1, N], of the observation before each step and after the last one.
        terminated: [T, N] bool.
        valid: [T, N] bool, False for reset steps.
        discount: per step, in [0, 1].
        gae_lambda: in [0, 1].
        episodic: whether the return ends with the episode.
        log_ratio: [T, N], log-probability of each action under the learner minus under who acted.

    Returns:
        Advantages [T, N] and targets [T, N]; 0 and the value where not valid. No gradient.

    Source:
        Schulman et al., arXiv:1506.02438; V-trace: Espeholt et al., arXiv:1802.01561, equation 1 and remark 2.
        The advantage leaves out the ratio of its own step: the surrogate loss brings it.
    """
    trust = torch.ones_like(reward) if log_ratio is None else log_ratio.exp().clamp(max=1)
    goes_on = (~terminated).to(value.dtype) if episodic else torch.ones_like(reward)
    advantage, excess = torch.zeros_like(reward), torch.zeros_like(reward)
    next_value, next_excess = value[-1], torch.zeros_like(value[-1])
    for t in range(len(reward) - 1, -1, -1):
        ahead = goes_on[t] * (next_value + gae_lambda * next_excess)
        advantage[t] = (reward[t] + discount * ahead - value[t]).where(valid[t], 0)
        excess[t] = trust[t] * advantage[t]
        if episodic:
            next_value, next_excess = value[t], excess[t]
        else:
            next_value = value[t].where(valid[t], next_value)
            next_excess = excess[t].where(valid[t], next_excess)
    return advantage.detach(), (value[:-1] + excess).detach()


def n_step_return(
    reward: Tensor, terminated: Tensor, valid: Tensor, *, discount: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Discounted rewards of up to n steps, and what to multiply the value behind them with.

    The sum ends with a step that terminated, and before a step that only resets: the observation there is the
    episode's last one, and may be bootstrapped from.

    Args:
        reward: [B, n], of steps 0 to n - 1; step 0 was played.
        terminated: [B, n] bool, of the same steps.
        valid: [B, n] bool, of the steps 1 to n: they were played.
        discount: per step, in [0, 1].

    Returns:
        [B] the sum; [B] int64 how many steps it holds, 1 to n; [B] `discount` to that power, 0 where the last of them
        terminated.

    Source:
        Sutton 1988; as used by Hessel et al., arXiv:1710.02298.
    """
    goes_on = (~terminated & valid).long()
    within = torch.cat([torch.ones_like(goes_on[:, :1]), goes_on[:, :-1]], dim=1).cumprod(dim=1)
    powers = discount ** torch.arange(reward.shape[1] + 1, dtype=reward.dtype, device=reward.device)
    length = within.sum(dim=1)
    over = (within.bool() & terminated).any(dim=1)
    return (reward * within * powers[:-1]).sum(dim=1), length, powers[length] * ~over
