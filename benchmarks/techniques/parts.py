"""Parts of losses that only these checks need, passed to `rlkd.distill(..., parts=...)`.

Shapes: B batch, A discrete actions.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd.terms import Teacher, Weight


def never_first(scores: Tensor, *, action: int) -> Tensor:
    """[B]: 0 where the teacher's best action is this one, 1 elsewhere: the student never sees it as a best action."""
    return (scores.argmax(dim=-1) != action).to(scores.dtype)


def mislabelled(scores: Tensor, lot: Tensor, *, share: float) -> Tensor:
    """[B, A]: the teacher's best action; in a share of the states another one instead, the same one whenever asked."""
    labels = wrong_labels(scores, lot, share=share)
    return F.one_hot(labels, scores.shape[-1]).to(scores.dtype)


def wrong_labels(scores: Tensor, lot: Tensor, *, share: float) -> Tensor:
    """[B] int64: as `mislabelled`, as numbers. Where the lot is below the share it also says which wrong action."""
    actions = scores.shape[-1]
    best = scores.argmax(dim=-1)
    shift = 1 + (lot / share * (actions - 1)).long().clamp_max(actions - 2)
    return torch.where(lot < share, (best + shift) % actions, best)


NEVER_FIRST = Weight(never_first, ("scores",))
MISLABELLED = Teacher(mislabelled, "probabilities", ("scores", "lot"), one_hot=True)
