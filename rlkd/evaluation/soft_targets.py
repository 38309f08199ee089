"""What soft targets bring over hard ones: less variance of the gradient, and three kinds of knowledge.

The loss is the cross-entropy of a student to its target; its gradient with respect to the student's logits is what the
student says less the target, `p_S - target`, [S, A].

Shapes: S states, A discrete actions. Statistics in float64.
"""

from dataclasses import dataclass

from torch import Tensor

from rlkd.terms.targets import harden


@dataclass(frozen=True, slots=True)
class GradientVariance:
    """Trace of the covariance of the gradient with respect to the logits."""

    soft: float
    """Over states, where the target is the teacher's whole answer."""
    hard: float
    """Over states and labels, where the target is one action drawn from the teacher's answer."""
    labels: float
    """Mean over states of the variance that drawing a label adds: hard less soft."""

    @property
    def ratio(self) -> float:
        """What soft targets leave of the variance, soft / hard, in [0, 1]; NaN where there is none at all."""
        return self.soft / self.hard if self.hard > 0 else float("nan")


def gradient_variance(target: Tensor, student: Tensor) -> GradientVariance:
    """Variance of one sample's gradient with soft and with hard targets; both have the same mean.

    Soft: `p_S - p_T`. Hard: `p_S - onehot(y)`, y drawn from p_T: the expectation over y is summed, nothing is drawn.
    Each is computed by itself; the law of total variance, hard = soft + labels, holds up to rounding.

    Args:
        target: [S, A], the teacher's probabilities p_T.
        student: [S, A], the student's p_S.

    Source:
        Menon et al. 2020, arXiv:2005.10419, section 3, who say it of the loss; here of the loss's gradient.
    """
    target, student = _pair(target, student)
    soft = student - target
    mean = soft.mean(0)
    square = student.square().sum(-1, keepdim=True)
    # |p_S - onehot(y)|^2 = |p_S|^2 - 2 p_S(y) + 1
    by_label = square - 2 * student + 1
    return GradientVariance(
        soft=float((soft - mean).square().sum(-1).mean()),
        hard=float((target * by_label).sum(-1).mean() - mean.square().sum()),
        labels=float((1 - target.square().sum(-1)).mean()),
    )


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What turns a teacher's preferred action into its whole answer, in three steps."""

    total: float
    """Mean over states of the squared change of the gradient, `|p_T - onehot(best)|^2`."""
    smoothing: float
    """Share of it that comes of taking the same mass off every preferred action."""
    rescaling: float
    """Share of it that comes of taking off more where the teacher is less sure."""
    relation: float
    """Share of it that comes of which of the other actions get that mass."""


def knowledge(target: Tensor) -> Knowledge:
    """A teacher's answers split into smoothing, rescaling by how sure it is, and relation between actions.

    Four targets, each closer to the teacher, b its preferred action, e = 1 - p_T(b), u uniform over the other actions:

        0  onehot(b)                      its hard label, H1
        1  (1 - mean e) onehot(b) + (mean e) u    the same smoothing everywhere; the mean is over states
        2  (1 - e) onehot(b) + e u        as sure as the teacher is (KD-pt)
        3  p_T                            which actions are alike

    A target's change is the gradient's, whatever the student says. The three changes are orthogonal on average over
    states: 0 to 1 and 1 to 2 go along `u - onehot(b)`, whose length is the same everywhere, the second with factors of
    mean 0; 2 to 3 moves mass among the others only. So mean squared changes add up to that from 0 to 3, in any order,
    and the three shares to 1: `A / (A - 1) (mean e)^2`, `A / (A - 1) var e`, and `mean |p_T - target 2|^2`.

    Where the teacher is one-hot everywhere there is nothing to split: total is 0 and the shares are NaN.

    Args:
        target: [S, A], the teacher's probabilities, A at least 2.

    Source:
        The three kinds are those of Tang et al. 2020, arXiv:2002.03532; that they are steps, and how each is measured,
        is ours. The preferred action stands for the true class.
    """
    target = target.double()
    if target.ndim != 2 or target.shape[1] < 2:
        raise ValueError(f"target must be [states, at least 2 actions], got {list(target.shape)}")
    best = harden(target)
    lost = (target * (1 - best)).sum(-1, keepdim=True)  # more exact than 1 - p_T(b) where the teacher is sure
    others = (1 - best) / (target.shape[1] - 1)
    smoothed, kept = (best + mass * (others - best) for mass in (lost.mean(), lost))
    steps = (smoothed - best, kept - smoothed, target - kept)
    smoothing, rescaling, relation = (float(step.square().sum(-1).mean()) for step in steps)
    total = float((target - best).square().sum(-1).mean())
    if not total > 0:
        return Knowledge(0.0, *(3 * [float("nan")]))
    return Knowledge(total, smoothing / total, rescaling / total, relation / total)


def _pair(target: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    if target.ndim != 2 or target.shape != student.shape:
        raise ValueError(
            f"target and student must both be [states, actions], got {list(target.shape)} and {list(student.shape)}"
        )
    return target.double(), student.double()
