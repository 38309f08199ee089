"""What the arms of a lineage learn instead of their teacher's whole answer, to tell why whole answers help."""

from dataclasses import replace

import numpy as np
from scipy.optimize import brentq

from rlkd.evaluation.agreement import answers
from rlkd.losses import categorical_entropy
from rlkd.policy import Policy, discrete_logits, unflatten
from rlkd.recipe import Arm, Distill, Part, Term
from rlkd.terms import TEMPERATURE

LEAST = 1e-6  # of a label's smoothing: none at all is what the recipe refuses


def loss_of(arm: Arm, rule: Distill, teacher: Policy, states: np.ndarray, stretch: int) -> Distill:
    """The distillation of an arm that differs from the main line by its loss.

    Args:
        arm: `smoothed`, `permuted` or `confidence`.
        rule: of the main line.
        teacher: whose answers are learnt; its actions are discrete.
        states: [S, ...], that it visited, by which labels are smoothed.
        stretch: how many of them follow each other.
    """
    if arm == "permuted":
        term = Term(teacher=Part("teacher"), target=(Part("permute"),), divergence=Part("cross_entropy"))
    elif arm == "confidence":
        term = Term(teacher=Part("label_h1"), divergence=Part("cross_entropy"), weight=Part("confidence"))
    else:
        told = answers(teacher, states, stretch)
        logits = discrete_logits(teacher.spec.kind, unflatten(teacher.spec.kind, told)).double()
        entropy = float(categorical_entropy(logits / TEMPERATURE[teacher.spec.kind]).mean())
        part = Part("smooth", {"epsilon": smoothing_of(entropy, teacher.spec.actions)})
        term = Term(teacher=Part("label_h1"), target=(part,), divergence=Part("cross_entropy"))
    return replace(rule, terms=(term,))


def smoothing_of(entropy: float, actions: int) -> float:
    """The epsilon by which a label, smoothed over all actions, has a given entropy in nats."""

    def beyond(epsilon: float) -> float:
        other = epsilon / actions
        best = 1 - epsilon + other
        return -best * np.log(best) - (actions - 1) * other * np.log(other) - entropy  # type: ignore[no-any-return]

    if beyond(LEAST) >= 0:
        return LEAST
    return 1.0 if beyond(1.0) <= 0 else float(brentq(beyond, LEAST, 1.0))
