"""Who answers: from what is known of states to the first form of a target.

Several teachers are of one kind and number their actions alike. An average of probabilities and an average of scores
are different teachers: the second is sharper, since it multiplies probabilities.

Shapes: B batch, K teachers, A discrete actions.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd.terms.parts import Teacher


def as_it_is(scores: Tensor) -> Tensor:
    """[B, A]: the first teacher's own answer."""
    return scores


def best(scores: Tensor) -> Tensor:
    """[B, A]: label H1, probability 1 on the first teacher's action with the highest score."""
    return F.one_hot(scores.argmax(dim=-1), scores.shape[-1]).to(scores.dtype)


def done(scores: Tensor, action: Tensor) -> Tensor:
    """[B, A]: label H2, probability 1 on the action [B] that was done, by whoever acted."""
    return F.one_hot(action, scores.shape[-1]).to(scores.dtype)


def average(every_probability: Tensor, *, shares: tuple[float, ...] = ()) -> Tensor:
    """[B, A]: the mean of the teachers' probabilities: how a player acts who asks one of them at random.

    Args:
        every_probability: [B, K, A].
        shares: of each teacher, in their order; they are divided by their sum. None: all alike.
    """
    return _mean(every_probability, shares)


def average_scores(every_score: Tensor, *, shares: tuple[float, ...] = ()) -> Tensor:
    """[B, A]: the mean of the teachers' logits or Q-values; arguments as of `average`."""
    return _mean(every_score, shares)


def one_at_random(every_score: Tensor, luck: Tensor) -> Tensor:
    """[B, A]: the scores of one teacher for each state, drawn anew whenever the state is learnt from.

    Its expected gradient is that of `average`. Fukuda et al. 2017 draw one for each minibatch.

    Args:
        every_score: [B, K, A].
        luck: [B] uniform.
    """
    teachers = every_score.shape[1]
    drawn = (luck * teachers).long().clamp_max(teachers - 1)
    return every_score[torch.arange(len(drawn), device=drawn.device), drawn]


def best_by_value(every_score: Tensor) -> Tensor:
    """[B, A]: the Q-values of the teacher that expects most of each state.

    Args:
        every_score: [B, K, A] Q-values.
    """
    chosen = every_score.amax(dim=-1).argmax(dim=-1)
    return every_score[torch.arange(len(chosen), device=chosen.device), chosen]


def last_round(last_round: Tensor) -> Tensor:
    """[B, A]: the student itself, as it was when the round of learning began."""
    return last_round


def moving_average(moving_average: Tensor) -> Tensor:
    """[B, A]: the moving average of the student's own weights; `moving_average` of the recipe says how slow it is."""
    return moving_average


def _mean(every: Tensor, shares: tuple[float, ...]) -> Tensor:
    if not shares:
        return every.mean(dim=1)
    if len(shares) != every.shape[1] or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"shares must be {every.shape[1]} numbers of at least 0, one a teacher, got {list(shares)}")
    weights = torch.tensor(shares, dtype=every.dtype, device=every.device)
    return torch.einsum("k,bka->ba", weights / weights.sum(), every)


TEACHERS = {
    "teacher": Teacher(as_it_is, "scores", ("scores",)),
    "label_h1": Teacher(best, "probabilities", ("scores",), one_hot=True),
    "label_h2": Teacher(done, "probabilities", ("scores", "action"), one_hot=True),
    "average": Teacher(average, "probabilities", ("every_probability",)),
    "average_scores": Teacher(average_scores, "scores", ("every_score",)),
    "one_at_random": Teacher(one_at_random, "scores", ("every_score", "luck")),
    "best_by_value": Teacher(best_by_value, "scores", ("every_score",), of=("q",)),
    "last_round": Teacher(last_round, "probabilities", ("last_round",)),
    "moving_average": Teacher(moving_average, "probabilities", ("moving_average",)),
}
