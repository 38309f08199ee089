"""How far a student's answer is from a target, one value a sample.

Every function is pure: tensors in, one tensor out, no module, no state. Averaging, weighting, temperatures and scale
belong to the caller, so no loss can hide its reduction. A target is treated as constant: gradients flow to the student
only. Policies have few actions or are Gaussians, so every divergence is an exact sum or a closed form: nothing is
estimated from sampled actions.

Shapes: B batch, A discrete actions, D action dimensions.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

NO_NOISE = -20.0
"""log_std of policies that have a mean alone, like those of td3; also the least that a squashed Gaussian can have."""
NOISE_OF_THE_NOISELESS = math.log(0.1)
LEAST_PROBABILITY = 1e-8
"""What a target's probability counts as where it is less and its logarithm is taken."""


def forward_kl(target: Tensor, student: Tensor) -> Tensor:
    """KL(target || student), `sum_a p(a) (log p(a) - log q(a))`.

    Args:
        target: [B, A] probabilities; they may be 0.
        student: [B, A] log-probabilities.

    Returns:
        [B], nats, at least 0 up to rounding.
    """
    target = _constant(target, student)
    return (torch.xlogy(target, target) - target * student).sum(dim=-1)


def reverse_kl(target: Tensor, student: Tensor) -> Tensor:
    """KL(student || target), `sum_a q(a) (log q(a) - log p(a))`: a student need not do all that its teacher does.

    Args:
        target: [B, A] probabilities; below LEAST_PROBABILITY they count as that.
        student: [B, A] log-probabilities.

    Returns:
        [B], nats.

    Source:
        As a distillation loss: Gu et al., arXiv:2306.08543.
    """
    target = _constant(target, student)
    return (student.exp() * (student - target.clamp_min(LEAST_PROBABILITY).log())).sum(dim=-1)


def cross_entropy(target: Tensor, student: Tensor) -> Tensor:
    """`-sum_a p(a) log q(a)`: forward KL plus the target's entropy. Of a one-hot target it is the NLL of one action.

    Args:
        target: [B, A] probabilities.
        student: [B, A] log-probabilities.

    Returns:
        [B], nats.
    """
    return -(_constant(target, student) * student).sum(dim=-1)


def jensen_shannon(target: Tensor, student: Tensor, *, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence, divided by beta (1 - beta).

    `(beta KL(p || m) + (1 - beta) KL(q || m)) / (beta (1 - beta))` with `m = beta p + (1 - beta) q`. So divided it runs
    from forward KL at beta 0 to reverse KL at beta 1 without a jump; undivided it would vanish at both ends.

    Args:
        target: [B, A] probabilities.
        student: [B, A] log-probabilities.
        beta: in [0, 1].

    Returns:
        [B], nats over beta (1 - beta).

    Source:
        Agarwal et al., arXiv:2306.13649, equation 1; the division is ours.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
    if beta in (0, 1):
        return reverse_kl(target, student) if beta else forward_kl(target, student)
    # Near the ends small differences are divided by beta: in double precision they are still there.
    kind = student.dtype
    target, student = _constant(target, student).double(), student.double()
    own = student.exp()
    middle = (beta * target + (1 - beta) * own).clamp_min(1e-300).log()
    from_target = (torch.xlogy(target, target) - target * middle).sum(dim=-1)
    from_student = (own * (student - middle)).sum(dim=-1)
    return (from_target / (1 - beta) + from_student / beta).to(kind)


def decoupled(target: Tensor, student: Tensor, *, best: float = 1.0, others: float = 8.0) -> Tensor:
    """KL in two parts with weights of their own: how sure of the best action, and which of the others are alike.

    `best KL(p(b), 1 - p(b) || q(b), 1 - q(b)) + others KL(p without b || q without b)`, b the target's best action and
    the last two renormalised. Forward KL is the same sum with weights 1 and 1 - p(b): it hardly tells a student which
    other actions are alike where the teacher is sure.

    Args:
        target: [B, A] probabilities.
        student: [B, A] log-probabilities.
        best, others: at least 0.

    Returns:
        [B], nats, weighed.

    Source:
        Decoupled knowledge distillation, Zhao et al. 2022, arXiv:2203.08679, equation 7; the best action stands for
        the true class.
    """
    if min(best, others) < 0:
        raise ValueError(f"best and others must be at least 0, got {best} and {others}")
    target = _constant(target, student)
    place = target.argmax(dim=-1, keepdim=True)
    rest, own_rest = target.scatter(-1, place, 0.0), student.scatter(-1, place, -torch.inf)
    total, own_total = rest.sum(-1, keepdim=True), own_rest.logsumexp(-1, keepdim=True)
    pair = torch.cat([target.gather(-1, place), total], dim=-1)
    sure = forward_kl(pair, torch.cat([student.gather(-1, place), own_total], dim=-1))
    alike = forward_kl(rest / total.clamp_min(LEAST_PROBABILITY), (student - own_total).scatter(-1, place, 0.0))
    return best * sure + others * alike


def mse(target: Tensor, student: Tensor) -> Tensor:
    """Squared error, averaged over actions.

    Args:
        target: [B, A] Q-values, centred logits, action means or features.
        student: [B, A], the same.

    Returns:
        [B], in squared units of the outputs.

    Source:
        The MSE loss of Rusu et al., arXiv:1511.06295.
    """
    return (student - _constant(target, student)).square().mean(dim=-1)


def huber_distance(target: Tensor, student: Tensor, *, delta: float = 1.0) -> Tensor:
    """Half the squared error up to `delta`, `delta` times (error less half of `delta`) beyond; averaged over actions.

    Args:
        target: [B, A] Q-values, centred logits or action means.
        student: [B, A], the same.
        delta: above 0, in the unit of the outputs.

    Returns:
        [B], in squared units of the outputs.
    """
    return F.huber_loss(student, _constant(target, student), reduction="none", delta=delta).mean(dim=-1)


def margin(target: Tensor, student: Tensor, *, least: float = 0.8) -> Tensor:
    """How much the target's best action fails to stand above every other one by `least`.

    `max_a (Q(a) + least [a is another]) - Q(best)`.

    Args:
        target: [B, A] probabilities, of which the highest one of each row matters.
        student: [B, A] Q-values or logits.
        least: at least 0, in the unit of the student's outputs.

    Returns:
        [B], in that unit; 0 where the margin holds.

    Source:
        The large-margin loss of DQfD, Hester et al., arXiv:1704.03732.
    """
    if not least >= 0:
        raise ValueError(f"least must be at least 0, got {least}")
    best = _constant(target, student).argmax(dim=-1, keepdim=True)
    others = torch.ones_like(student).scatter(-1, best, 0.0)
    return (student + least * others).amax(dim=-1) - student.gather(-1, best).squeeze(-1)


def gaussian_kl(teacher_mean: Tensor, teacher_log_std: Tensor, student_mean: Tensor, student_log_std: Tensor) -> Tensor:
    """KL(teacher || student) of two diagonal Gaussian policies, in closed form.

    Also the divergence of two tanh-squashed Gaussians: an invertible map of both changes no KL. A teacher without
    noise, whose log_std is NO_NOISE, has no finite likelihood: it is taken to have a deviation of 0.1, and a student of
    such a teacher at least that.

    Args:
        teacher_mean, teacher_log_std: [B, D].
        student_mean, student_log_std: [B, D].

    Returns:
        [B], nats, summed over D.
    """
    teacher_mean, teacher_log_std, student_log_std = _noisy(
        teacher_mean, teacher_log_std, student_mean, student_log_std
    )
    return _kl_of_gaussians(teacher_mean, teacher_log_std, student_mean, student_log_std)


def gaussian_reverse_kl(
    teacher_mean: Tensor, teacher_log_std: Tensor, student_mean: Tensor, student_log_std: Tensor
) -> Tensor:
    """KL(student || teacher) of two diagonal Gaussian policies; arguments and the noiseless as in `gaussian_kl`."""
    teacher_mean, teacher_log_std, student_log_std = _noisy(
        teacher_mean, teacher_log_std, student_mean, student_log_std
    )
    return _kl_of_gaussians(student_mean, student_log_std, teacher_mean, teacher_log_std)


def _noisy(mean: Tensor, log_std: Tensor, student_mean: Tensor, student_log_std: Tensor) -> tuple[Tensor, ...]:
    mean, log_std = _constant(mean, student_mean), log_std.detach()
    noiseless = log_std <= NO_NOISE
    log_std = log_std.where(~noiseless, NOISE_OF_THE_NOISELESS)
    return mean, log_std, student_log_std.where(~noiseless, student_log_std.clamp_min(NOISE_OF_THE_NOISELESS))


def _kl_of_gaussians(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    ratio = (2 * (log_std - other_log_std)).exp()
    distance = (mean - other_mean).square() * (-2 * other_log_std).exp()
    return 0.5 * (ratio + distance - 1 - 2 * (log_std - other_log_std)).sum(dim=-1)


def _constant(target: Tensor, student: Tensor) -> Tensor:
    """The target without a gradient; ValueError unless both are [B, A]."""
    if target.ndim != 2 or target.shape != student.shape:
        raise ValueError(
            f"target and student must both be [batch, actions], got {list(target.shape)} and {list(student.shape)}"
        )
    return target.detach()
