"""Losses, returns and advantages.

Every function is pure: tensors in, tensors out, no module, no state, no logging. Losses return one value per
sample; averaging and weighting belong to the caller, so no loss can hide its reduction.

Shapes: B batch, A discrete actions, D action dimensions, T time, N environments.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

NO_NOISE = -20.0
"""log_std of policies that have a mean alone, like those of td3; also the least that a squashed Gaussian can have."""
NOISE_OF_THE_NOISELESS = math.log(0.1)


def forward_kl(
    teacher: Tensor, student: Tensor, *, teacher_temperature: float, student_temperature: float, scale: float
) -> Tensor:
    """KL divergence from the tempered teacher policy to the tempered student policy.

    `scale * sum_a p(a) (log p(a) - log q(a))` with `p = softmax(teacher / teacher_temperature)` and
    `q = softmax(student / student_temperature)`. Policy Distillation is (0.01, 1, 1) on Q-values,
    Hinton (T, T, T^2).

    Args:
        teacher: [B, A] logits or Q-values, treated as constant.
        student: [B, A] logits or Q-values.
        teacher_temperature: above 0; below 1 sharpens.
        student_temperature: above 0.
        scale: multiplies the result.

    Returns:
        [B], nats times scale. The gradient flows to `student` only.

    Source:
        Rusu et al., arXiv:1511.06295; Hinton et al., arXiv:1503.02531.
    """
    _check_pair(teacher, student)
    for value in (teacher_temperature, student_temperature):
        if not value > 0:
            raise ValueError(f"temperatures must be above 0, got {value}")
    log_p = F.log_softmax(teacher.detach() / teacher_temperature, dim=-1)
    log_q = F.log_softmax(student / student_temperature, dim=-1)
    return scale * (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Negative log-likelihood, under the student, of the teacher's greedy action (label H1).

    Args:
        teacher: [B, A] logits or Q-values; only the highest one of each row matters.
        student: [B, A] logits.

    Returns:
        [B], nats. The gradient flows to `student` only.

    Source:
        The NLL loss of Rusu et al., arXiv:1511.06295.
    """
    _check_pair(teacher, student)
    return F.cross_entropy(student, teacher.argmax(dim=-1), reduction="none")


def mse(teacher: Tensor, student: Tensor, *, centre: bool) -> Tensor:
    """Squared error between the two outputs, averaged over actions.

    Args:
        teacher: [B, A] logits, Q-values or action means, treated as constant.
        student: [B, A], the same.
        centre: subtract each row's mean first. Logits mean the same after a shift, Q-values do not.

    Returns:
        [B], in squared units of the outputs. The gradient flows to `student` only.

    Source:
        The MSE loss of Rusu et al., arXiv:1511.06295.
    """
    _check_pair(teacher, student)
    teacher = teacher.detach()
    if centre:
        teacher = teacher - teacher.mean(dim=-1, keepdim=True)
        student = student - student.mean(dim=-1, keepdim=True)
    return (student - teacher).square().mean(dim=-1)


def gaussian_kl(teacher_mean: Tensor, teacher_log_std: Tensor, student_mean: Tensor, student_log_std: Tensor) -> Tensor:
    """KL divergence from one diagonal Gaussian policy to another, in closed form.

    Also the divergence of two tanh-squashed Gaussians: an invertible map of both changes no KL. A teacher without
    noise, whose log_std is NO_NOISE, has no finite likelihood: it is taken to have a deviation of 0.1, and a student of
    such a teacher at least that.

    Args:
        teacher_mean, teacher_log_std: [B, D], treated as constant.
        student_mean, student_log_std: [B, D].

    Returns:
        [B], nats, summed over D.
    """
    _check_pair(teacher_mean, student_mean)
    teacher_mean, teacher_log_std = teacher_mean.detach(), teacher_log_std.detach()
    noiseless = teacher_log_std <= NO_NOISE
    teacher_log_std = teacher_log_std.where(~noiseless, NOISE_OF_THE_NOISELESS)
    student_log_std = student_log_std.where(~noiseless, student_log_std.clamp_min(NOISE_OF_THE_NOISELESS))
    ratio = (2 * (teacher_log_std - student_log_std)).exp()
    distance = (teacher_mean - student_mean).square() * (-2 * student_log_std).exp()
    return 0.5 * (ratio + distance - 1 - 2 * (teacher_log_std - student_log_std)).sum(dim=-1)


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


def huber(error: Tensor) -> Tensor:
    """Half the square of an error up to 1, its size less a half beyond; shaped as `error`, in its (squared) unit.

    Source:
        The error clipping of Mnih et al. 2015, written as a loss.
    """
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")


def quantile_huber(predicted: Tensor, target: Tensor) -> Tensor:
    """Quantile regression of one distribution on another, with the Huber loss (kappa 1) in place of the kink.

    Args:
        predicted: [B, M], the quantiles at (i + 1/2) / M.
        target: [B, L] samples or quantiles, treated as constant.

    Returns:
        [B], summed over predicted quantiles and averaged over those of the target.

    Source:
        Dabney et al., arXiv:1710.10044, equation 10.
    """
    error = target.detach()[:, None, :] - predicted[:, :, None]
    count = predicted.shape[1]
    midpoint = (torch.arange(count, dtype=predicted.dtype, device=predicted.device) + 0.5) / count
    weight = (midpoint[None, :, None] - (error.detach() < 0).to(predicted.dtype)).abs()
    return (weight * huber(error)).mean(dim=2).sum(dim=1)


def importance_weights(probability: Tensor, *, beta: float) -> Tensor:
    """Weights that undo drawing by priority: `(1 / probability) ** beta`, divided by the batch's largest.

    Args:
        probability: [B], above 0, up to a common factor.
        beta: 0 undoes nothing, 1 all.

    Returns:
        [B], at most 1.

    Source:
        Schaul et al., arXiv:1511.05952, section 3.4.
    """
    return (probability.min() / probability) ** beta


def ppo_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, clip: float) -> Tensor:
    """Clipped surrogate loss, to be minimised.

    Args:
        log_prob: [B], of the taken action under the learner.
        old_log_prob: [B], under the policy that acted.
        advantage: [B].
        clip: half width of the trust interval of the ratio.

    Returns:
        [B].

    Source:
        Schulman et al., arXiv:1707.06347, equation 7.
    """
    ratio = (log_prob - old_log_prob).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def categorical_entropy(logits: Tensor) -> Tensor:
    """[B]: entropy of softmax(logits [B, A]), nats."""
    log_p = F.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def gaussian_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """[B]: log density of `action` [B, D] under a diagonal Gaussian, nats."""
    z = (action - mean) * (-log_std).exp()
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """[B]: entropy of a diagonal Gaussian with log_std [B, D], nats."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)


def _check_pair(teacher: Tensor, student: Tensor) -> None:
    if teacher.ndim != 2 or teacher.shape != student.shape:
        raise ValueError(
            f"teacher and student must both be [batch, actions], got {list(teacher.shape)} and {list(student.shape)}"
        )
