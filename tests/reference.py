"""Slow, obvious float64 versions of losses and returns, in plain Python. They share no code with `rlkd`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


def tempered_kl(
    teacher: Sequence[float],
    student: Sequence[float],
    teacher_temperature: float,
    student_temperature: float,
    scale: float,
) -> float:
    """KL(softmax(teacher / its temperature) || softmax(student / its temperature)) * scale, nats."""
    log_p = log_softmax([logit / teacher_temperature for logit in teacher])
    log_q = log_softmax([logit / student_temperature for logit in student])
    return scale * math.fsum(math.exp(lp) * (lp - lq) for lp, lq in zip(log_p, log_q, strict=True))


def cross_entropy(teacher: Sequence[float], student: Sequence[float]) -> float:
    """-log softmax(student) at the teacher's highest logit, the first of equals, nats."""
    return -log_softmax(student)[list(teacher).index(max(teacher))]


def mse(teacher: Sequence[float], student: Sequence[float], centre: bool) -> float:
    """Mean squared difference, each side's mean taken off first if `centre`."""
    shift = math.fsum(student) / len(student) - math.fsum(teacher) / len(teacher) if centre else 0.0
    return math.fsum((s - t - shift) ** 2 for t, s in zip(teacher, student, strict=True)) / len(teacher)


def gaussian_kl(
    teacher_mean: Sequence[float],
    teacher_std: Sequence[float],
    student_mean: Sequence[float],
    student_std: Sequence[float],
) -> float:
    """KL of two diagonal Gaussians, nats: the defining integral on a grid, one dimension after the other."""
    total = 0.0
    for mean, std, other_mean, other_std in zip(teacher_mean, teacher_std, student_mean, student_std, strict=True):
        cells, reach = 4000, 12.0  # midpoint rule over 12 standard deviations: the rest weighs 1e-32
        width = 2 * reach * std / cells
        points = [mean - reach * std + (k + 0.5) * width for k in range(cells)]
        total += math.fsum(
            width
            * math.exp(normal_log_density(x, mean, std))
            * (normal_log_density(x, mean, std) - normal_log_density(x, other_mean, other_std))
            for x in points
        )
    return total


def normal_log_density(x: float, mean: float, std: float) -> float:
    """Log density of one normal variable at x, nats."""
    return -((x - mean) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi))


def entropy(logits: Sequence[float]) -> float:
    """Entropy of softmax(logits), nats."""
    return -math.fsum(math.exp(lp) * lp for lp in log_softmax(logits))


def ppo_surrogate(log_prob: float, old_log_prob: float, advantage: float, clip: float) -> float:
    """The clipped loss of one sample, to be minimised, by the two cases of figure 1 of arXiv:1707.06347."""
    ratio = math.exp(log_prob - old_log_prob)
    trusted = min(ratio, 1 + clip) if advantage > 0 else max(ratio, 1 - clip)
    return -trusted * advantage


@dataclass(frozen=True)
class Played:
    """One step that was played: where it stands in the rollout, and what it brought."""

    time: int
    reward: float
    value: float
    """Of the observation that was acted on."""
    next_value: float
    """Of the observation that the action led to, also where that is the last one of its episode."""
    terminated: bool
    truncated: bool


def episode_advantages(steps: Sequence[Played], discount: float, gae_lambda: float) -> dict[int, float]:
    """Advantage of each step of one episode (or of the part that a rollout saw), by its `time`.

    The double sum of arXiv:1506.02438, equation 16: no recursion, no mask.
    """
    errors = [step.reward + (0.0 if step.terminated else discount * step.next_value) - step.value for step in steps]
    return {
        step.time: math.fsum((discount * gae_lambda) ** k * error for k, error in enumerate(errors[position:]))
        for position, step in enumerate(steps)
    }


def log_softmax(logits: Sequence[float]) -> list[float]:
    """Log-probabilities."""
    top = max(logits)
    log_total = top + math.log(math.fsum(math.exp(logit - top) for logit in logits))
    return [logit - log_total for logit in logits]
