"""How alike two policies answer on given states."""

import numpy as np
import torch
from torch import Tensor

from rlkd.losses import forward_kl, gaussian_kl
from rlkd.policy import Kind, Policy, discrete_logits, unflatten

BATCH = 64  # fast on one core for every network
SEQUENCE = 32
"""Consecutive states that are kept, and learnt from, where a policy remembers."""
BURN_IN = 8
"""Of them, in which it starts to remember: nothing is compared there, no loss counts (R2D2, Kapturowski et al.)."""


def stretch_of(*recurrent: bool) -> int:
    """Consecutive states to keep, told by which of the policies to be compared are recurrent."""
    return SEQUENCE if any(recurrent) else 1


def answers(policy: Policy, states: np.ndarray, stretch: int = 1) -> Tensor:
    """[S, P]: the policy's flat outputs in float32; arguments and what is left out as in `answers_and_features`."""
    return answers_and_features(policy, states, stretch)[0]


def answers_and_features(policy: Policy, states: np.ndarray, stretch: int = 1) -> tuple[Tensor, Tensor]:
    """[S, P] and [S, F]: the policy's flat outputs and its head's inputs in float32, without each stretch's burn-in.

    Args:
        policy: who answers; a recurrent one starts afresh on every stretch.
        states: [K * stretch, ...], stretches of consecutive states one after the other.
        stretch: states in each; 1 for single states.
    """
    by_stretch = states.reshape(-1, stretch, *states.shape[1:])
    told, seen = [], []
    with torch.inference_mode():
        for k in range(0, len(by_stretch), BATCH):
            part = by_stretch[k : k + BATCH]
            state, rows, features = policy.initial_state(len(part)), [], []
            for t in range(stretch):
                output = policy(part[:, t], state)
                state = output.state
                assert output.features is not None  # a network's own answers have them
                rows.append(output.flat.float().cpu())
                features.append(output.features.float().cpu())
            first = 0 if stretch == 1 else BURN_IN
            told.append(torch.stack(rows[first:], 1).flatten(0, 1))
            seen.append(torch.stack(features[first:], 1).flatten(0, 1))
    return torch.cat(told), torch.cat(seen)


def agreement(
    policy: Policy, teacher: Policy, states: np.ndarray, *, stretch: int = 1, told: Tensor | None = None
) -> float:
    """Share of states where both have the same greedy action (discrete), or the mean actions' R^2 (continuous).

    R^2 of a teacher whose action never changes is 1 for an exact copy, else 0. `told` is what the teacher said where it
    saw these states in another way, [S, P].
    """
    own, other = _both(policy, teacher, states, stretch, told)
    return agreement_of_answers(policy.spec.kind, own, teacher.spec.kind, other)


def agreement_of_answers(kind: Kind, own: dict[str, Tensor], teacher: Kind, other: dict[str, Tensor]) -> float:
    """`agreement` of a policy's and its teacher's parameters by name, and the kinds of both."""
    if "mean" not in other:
        same = discrete_logits(kind, own).argmax(-1) == discrete_logits(teacher, other).argmax(-1)
        return float(same.double().mean())
    error = (own["mean"] - other["mean"]).square().mean()
    spread = other["mean"].var(0, correction=0).mean()
    return float(1 - error / spread) if spread > 0 else float(error == 0)


def mean_kl(
    policy: Policy,
    teacher: Policy,
    states: np.ndarray,
    *,
    teacher_temperature: float,
    student_temperature: float = 1.0,
    stretch: int = 1,
    told: Tensor | None = None,
) -> float:
    """Mean KL(teacher || policy) over states, nats, under the temperatures that training used.

    A policy that answers in Q-values takes the teacher's temperature: a perfect copy of the teacher scores 0. `told` as
    for `agreement`.
    """
    if policy.spec.kind == "q":
        student_temperature = teacher_temperature
    own, other = _both(policy, teacher, states, stretch, told)
    if not teacher.spec.discrete:
        kl = gaussian_kl(other["mean"], other["log_std"], own["mean"], own["log_std"])
    else:
        target = discrete_logits(teacher.spec.kind, other).double() / teacher_temperature
        learnt = discrete_logits(policy.spec.kind, own).double() / student_temperature
        kl = forward_kl(target.softmax(-1), learnt.log_softmax(-1))
    return float(kl.mean())


def _both(
    policy: Policy, teacher: Policy, states: np.ndarray, stretch: int, told: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters of both answers, without the burn-in of each stretch."""
    if told is None:
        said = answers(teacher, states, stretch)
    else:
        said = told.reshape(-1, stretch, told.shape[-1])[:, 0 if stretch == 1 else BURN_IN :].flatten(0, 1)
    return unflatten(policy.spec.kind, answers(policy, states, stretch)), unflatten(teacher.spec.kind, said)
