"""What a student learns from: states of a round, minibatches of them, and what is known of single states."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor

from rlkd.evaluation.agreement import SEQUENCE
from rlkd.replay import Replay
from rlkd.stats import fitted_temperature

GOLDEN = (5**0.5 - 1) / 2  # its multiples, less their whole parts, fill [0, 1) evenly from the first on
UNSEEN = 0.05  # how much of what follows on a state may be unseen
FITTED_ON = 20_000  # states, at most, by which a temperature is fitted


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to learn from in a round."""

    replay: Replay
    """States and teacher answers."""
    rows: np.ndarray
    """[S] addresses of the states to learn from."""
    familiarity: np.ndarray | None = None
    """Of each state, by its address; where a term asks for it."""
    advantage: np.ndarray | None = None
    """The same."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A round of one student."""

    seen: Seen
    """What it learns from."""
    starts: np.ndarray
    """Places in `seen.rows` where a sample may begin."""
    shuffled: np.ndarray
    """[S]: the place of another state for each state, for the control that learns from answers to others."""


@dataclass(frozen=True, slots=True)
class Minibatch:
    """What one gradient step is computed from. B samples; of a recurrent student, each is T states in a row."""

    observation: Tensor
    """[B, ...] or [B, T, ...]."""
    share: Tensor
    """[B] or [B, T]: of each state in the loss; they sum to 1."""
    first: Tensor | None
    """[B, T] bool, the state begins an episode; None of a feed-forward student."""
    targets: tuple[Tensor, ...]
    """[B, P] or [B, T, P] for each term."""
    weights: tuple[Tensor | None, ...]
    """[B] or [B, T] for each term; None where all states count alike."""

    def chunk(self, parts: int) -> list[Self]:
        """The samples in so many pieces."""
        firsts = [None] * parts if self.first is None else self.first.chunk(parts)
        plain = zip(self.observation.chunk(parts), self.share.chunk(parts), firsts, strict=True)
        targets, weights = (
            zip(*([None] * parts if tensor is None else tensor.chunk(parts) for tensor in each), strict=True)
            for each in (self.targets, self.weights)
        )
        return [type(self)(*piece, *of_terms) for piece, *of_terms in zip(plain, targets, weights, strict=True)]


def fitted_on(replay: Replay, rows: np.ndarray, actions: int) -> float:
    """The temperature of the first teacher's scores that makes most likely what was done in some states of a replay."""
    some = rows[:: max(1, len(rows) // FITTED_ON)]
    done = replay.actions(some)
    assert done is not None
    return fitted_temperature(replay.read(some)[1][:, :actions].cpu().numpy(), done.cpu().numpy())


def advantages(replay: Replay, rows: np.ndarray, discount: float) -> np.ndarray:
    """[rows] float32, by address: the returns of some states less their mean, over their deviation.

    States of which a good deal of what follows has not been seen yet count for neither, and have an advantage of 0.
    """
    counts = np.bincount(rows // replay.stride, minlength=replay.num_envs)
    returns, unseen = replay.returns(counts, discount)
    seen = np.zeros(len(returns), bool)
    seen[rows] = unseen[rows] <= UNSEEN
    known = returns[seen].astype(np.float64)
    spread = known.std() if len(known) else 0.0
    if spread == 0:
        return np.zeros(len(returns), np.float32)
    found: np.ndarray = np.where(seen, (returns - known.mean()) / spread, 0.0).astype(np.float32)
    return found


def lots(rows: np.ndarray) -> np.ndarray:
    """[B] float32 in [0, 1) by address, the same for every student and after a resume: multiples of the golden ratio,
    so that any share of them is spread evenly over each environment's play."""
    return (rows * GOLDEN % 1).astype(np.float32)


def sequence_starts(rows: np.ndarray) -> np.ndarray:
    """Places in `rows`, ascending addresses of a replay, from which on SEQUENCE addresses follow each other.

    Where the ranges of two environments touch, a sequence may run from one into the other: the second range begins with
    a state that begins an episode for `Replay.begins`, and what was remembered is forgotten there.
    """
    return np.flatnonzero(rows[SEQUENCE - 1 :] - rows[: len(rows) - SEQUENCE + 1] == SEQUENCE - 1)
