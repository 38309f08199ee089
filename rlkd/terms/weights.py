"""Which states count how much in a loss.

Shapes: B batch, A discrete actions.
"""

from torch import Tensor

from rlkd.terms.parts import Weight


def familiarity(familiarity: Tensor) -> Tensor:
    """[B]: states unlike the rest of the replay count less, by 1 / (1 + novelty) over the mean of that, where novelty 1
    is the replay's mean; `[novelty]` says how it is measured."""
    return familiarity


def confidence(probabilities: Tensor) -> Tensor:
    """[B]: how probable the teacher's best action is, over the mean of that in the minibatch.

    Confidence-weighted by teacher max, Furlanello et al., arXiv:1805.04770.
    """
    best = probabilities.amax(dim=-1)
    return best / best.mean()


def inverse_entropy(scores: Tensor, *, temperature: float, least: float = 0.01, most: float = 2.0) -> Tensor:
    """[B]: 1 / entropy of softmax(scores / temperature), in nats, clipped: where the choice matters counts more.

    The weight of IPPD with its limits.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    log_p = (scores / temperature).log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return (1 / entropy).clamp(least, most)


def exp_advantage(advantage: Tensor, *, temperature: float = 1.0, least: float = 0.01, most: float = 20.0) -> Tensor:
    """[B]: exp(advantage / temperature), clipped: what turned out well counts more (label H3, beside `label_h2`).

    Reward-weighted regression of Peters and Schaal 2007; with its clip Peng et al. 2019, arXiv:1910.00177, whose
    advantage is over a learnt value and not over a mean.

    Args:
        advantage: [B], in deviations of the replay's returns.
        temperature: above 0; lower tells states apart more.
        least, most: limits of a weight.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return (advantage / temperature).exp().clamp(least, most)


def ppo_ratio(ratio: Tensor, *, clip: float = 0.2) -> Tensor:
    """[B]: max(ratio, 1 - clip): states in which who learns does more than who acted what was done count more.

    Proximal policy distillation, Spigler 2024, arXiv:2407.15134; taken as a constant.

    Args:
        ratio: [B], of probabilities of what was done.
        clip: half width of PPO's trust interval.
    """
    return ratio.clamp_min(1 - clip)


def demonstrated(demonstrated: Tensor) -> Tensor:
    """[B]: 1 where the teacher acted, 0 where the learner did (DQfD, Hester et al. 2018, arXiv:1704.03732)."""
    return demonstrated


def asked(lot: Tensor, *, share: float) -> Tensor:
    """[B]: the states about which a teacher that is dear to ask was asked, a share of all; 1 on average."""
    _check_share(share)
    return (lot < share).to(lot.dtype) / share


def not_asked(lot: Tensor, *, share: float) -> Tensor:
    """[B]: all states but those of `asked` with the same share; 1 on average."""
    _check_share(share)
    return (lot >= share).to(lot.dtype) / (1 - share)


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"share must be above 0 and below 1, got {share}")


WEIGHTS = {
    "familiarity": Weight(familiarity, ("familiarity",), discrete=False),
    "confidence": Weight(confidence, ("probabilities",)),
    "exp_advantage": Weight(exp_advantage, ("advantage",), discrete=False),
    "ppo_ratio": Weight(ppo_ratio, ("ratio",), discrete=False),
    "demonstrated": Weight(demonstrated, ("demonstrated",), discrete=False),
    "asked": Weight(asked, ("lot",), discrete=False),
    "not_asked": Weight(not_asked, ("lot",), discrete=False),
    "inverse_entropy": Weight(inverse_entropy, ("scores",)),
}
