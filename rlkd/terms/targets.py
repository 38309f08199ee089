"""What a teacher's answer is made to be before a student learns it: probabilities in, probabilities out.

Shapes: B batch, A discrete actions, F features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd.terms.parts import Target


def temper(scores: Tensor, *, temperature: float) -> Tensor:
    """softmax(scores / temperature): below 1 sharpens. Hinton et al., arXiv:1503.02531."""
    _require(temperature > 0, f"temperature must be above 0, got {temperature}")
    return F.softmax(scores / temperature, dim=-1)


def calibrate(scores: Tensor, fitted: Tensor) -> Tensor:
    """softmax(scores / fitted): at the temperature that makes most likely what the teacher did, chance included.

    A teacher is worth what its probabilities are worth (Menon et al. 2020, arXiv:2005.10419). Those of a policy that is
    sampled from are right as they are; softmax(Q) is the probability of nothing that was ever done.

    Args:
        scores: [B, A].
        fitted: [], a temperature; fitted anew before each round of learning.
    """
    return F.softmax(scores / fitted, dim=-1)


def top_k(probabilities: Tensor, *, k: int) -> Tensor:
    """The k most probable actions as they are; the remainder spread evenly over the others.

    With k = A nothing changes; with k = 1 it is label smoothing by how unsure the teacher is. Tang et al. 2021,
    arXiv:2002.03532.
    """
    actions = probabilities.shape[-1]
    _require(1 <= k <= actions, f"k must be in 1 to {actions}, the number of actions, got {k}")
    if k == actions:
        return probabilities
    kept = probabilities.topk(k, dim=-1)
    rest = (1 - kept.values.sum(dim=-1, keepdim=True)).clamp_min(0) / (actions - k)
    return rest.expand_as(probabilities).scatter(-1, kept.indices, kept.values)


def smooth(probabilities: Tensor, *, epsilon: float) -> Tensor:
    """(1 - epsilon) p + epsilon / A: how a player acts who is random with probability epsilon."""
    _require(0 < epsilon <= 1, f"epsilon must be above 0 and at most 1, got {epsilon}")
    return (1 - epsilon) * probabilities + epsilon / probabilities.shape[-1]


def harden(probabilities: Tensor) -> Tensor:
    """All probability on the most probable action."""
    return F.one_hot(probabilities.argmax(dim=-1), probabilities.shape[-1]).to(probabilities.dtype)


def permute(probabilities: Tensor, noise: Tensor) -> Tensor:
    """The best action as it is, the other probabilities dealt out among the other actions at random.

    Argmax, maximum and entropy stay: a student that loses nothing by it has not learnt from which actions are alike.
    Dark knowledge with permuted predictions, Furlanello et al., arXiv:1805.04770.

    Args:
        probabilities: [B, A].
        noise: [B, A] uniform.
    """
    best = probabilities.argmax(dim=-1, keepdim=True)
    # The best action sorts first in both orders and so meets itself; the others meet in random order.
    places = noise.scatter(-1, best, -1.0).argsort(dim=-1)
    ranked = probabilities.scatter(-1, best, 2.0).argsort(dim=-1, descending=True)
    return torch.zeros_like(probabilities).scatter(-1, places, probabilities.gather(-1, ranked))


def tilt(probabilities: Tensor, action: Tensor, advantage: Tensor, *, temperature: float = 1.0) -> Tensor:
    """p(a) exp(advantage / temperature) for what was done, p(a) for the rest, divided by their sum.

    What turned out well becomes more probable than the teacher has it, what turned out badly less: the step of a policy
    improvement under a KL (Peters et al. 2010), for the one action of which it is known.

    Args:
        probabilities: [B, A].
        action: [B] that was done.
        advantage: [B], in deviations of the replay's returns.
        temperature: above 0; lower tilts more.
    """
    _require(temperature > 0, f"temperature must be above 0, got {temperature}")
    done = F.one_hot(action, probabilities.shape[-1]).to(probabilities.dtype)
    return (probabilities.log() + done * (advantage / temperature).unsqueeze(-1)).softmax(dim=-1)


def keep_confidence(probabilities: Tensor) -> Tensor:
    """The best action's probability as it is, the rest uniform: how sure the teacher is, not which actions are alike.

    KD-pt of Tang et al. 2021, arXiv:2002.03532; the best action stands for its true class.
    """
    return top_k(probabilities, k=1)


def similar(probabilities: Tensor, head: Tensor, *, temperature: float, share: float) -> Tensor:
    """The best action mixed with which actions are alike, told by the teacher's last weights alone, not its answers.

    `(1 - share) onehot(best) + share softmax(cosine(head[best], head) / temperature)`. KD-sim of Tang et al. 2021,
    arXiv:2002.03532.

    Args:
        probabilities: [B, A].
        head: [A, F], one row an action.
        temperature: above 0; lower tells actions apart more.
        share: in [0, 1].
    """
    _require(temperature > 0, f"temperature must be above 0, got {temperature}")
    _require(0 < share <= 1, f"share must be above 0 and at most 1, got {share}")
    rows = F.normalize(head.to(probabilities.dtype), dim=-1)
    prior = F.softmax(rows @ rows.T / temperature, dim=-1)
    return (1 - share) * harden(probabilities) + share * prior[probabilities.argmax(dim=-1)]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


TARGETS = {
    "temper": Target(temper, "scores"),
    "calibrate": Target(calibrate, "scores", ("fitted",)),
    "top_k": Target(top_k),
    "smooth": Target(smooth, one_hot=False),
    "harden": Target(harden, one_hot=True),
    "tilt": Target(tilt, needs=("action", "advantage")),
    "permute": Target(permute, needs=("noise",)),
    "keep_confidence": Target(keep_confidence),
    "similar": Target(similar, needs=("head",), one_hot=False),
}
