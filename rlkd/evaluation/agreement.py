"""How alike two policies answer on given states."""

import numpy as np
import torch
from torch import Tensor

from rlkd.losses import forward_kl, gaussian_kl
from rlkd.policy import Policy, discrete_logits, unflatten

BATCH = 64  # fast on one core for every network


def answers(policy: Policy, states: np.ndarray) -> Tensor:
    """[S, P]: the policy's flat outputs in float32; recurrent policies start afresh on every state."""
    parts = [states[k : k + BATCH] for k in range(0, len(states), BATCH)]
    with torch.inference_mode():
        return torch.cat([policy(part, policy.initial_state(len(part))).flat.detach().float().cpu() for part in parts])


def agreement(policy: Policy, teacher: Policy, states: np.ndarray) -> float:
    """Share of states where both have the same greedy action (discrete), or the mean actions' R^2 (continuous).

    R^2 of a teacher whose action never changes is 1 for an exact copy, else 0.
    """
    own, other = (unflatten(p.spec.kind, answers(p, states)) for p in (policy, teacher))
    if teacher.spec.discrete:
        same = discrete_logits(policy.spec.kind, own).argmax(-1) == discrete_logits(teacher.spec.kind, other).argmax(-1)
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
) -> float:
    """Mean KL(teacher || policy) over states, nats, under the temperatures that training used.

    A policy that answers in Q-values takes the teacher's temperature: a perfect copy of the teacher scores 0.
    """
    if policy.spec.kind == "q":
        student_temperature = teacher_temperature
    own, other = (unflatten(p.spec.kind, answers(p, states)) for p in (policy, teacher))
    if not teacher.spec.discrete:
        kl = gaussian_kl(other["mean"], other["log_std"], own["mean"], own["log_std"])
    else:
        kl = forward_kl(
            discrete_logits(teacher.spec.kind, other).double(),
            discrete_logits(policy.spec.kind, own).double(),
            teacher_temperature=teacher_temperature,
            student_temperature=student_temperature,
            scale=1.0,
        )
    return float(kl.mean())
