"""What happens from one generation to the next: what a child has of its parent and of the first teacher.

Only states that are passed in are looked at; nothing plays. How long a decision takes is measured elsewhere
(`rlkd.evaluation.decision_seconds`): it depends on the machine, not on states.

Shapes: S states, A discrete actions, F features. Statistics in float64.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlkd.data import JsonDict
from rlkd.errors import MismatchError
from rlkd.evaluation.agreement import BURN_IN, agreement_of_answers, answers_and_features
from rlkd.evaluation.calibration import calibration_error, diversity, sampled_actions
from rlkd.evaluation.features import effective_rank, layer_features, linear_cka, nearest_distances, quarters
from rlkd.evaluation.soft_targets import gradient_variance, knowledge
from rlkd.losses import categorical_entropy, cross_entropy, forward_kl, gaussian_kl
from rlkd.policy import Kind, Policy, discrete_logits, unflatten
from rlkd.recipe import Network
from rlkd.terms import TEMPERATURE

LAYER_STATES = 1024
"""At most so many states, evenly spread, on which layers are compared: those of pictures have many thousand numbers."""
CONTINUOUS = "only actions that are choices have probabilities"
NOTHING_VARIES = "it does not vary here"

Value = float | list[JsonDict] | str
"""A number, a list of them, or the reason why there is none."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What a policy answers to some states."""

    kind: Kind
    """How to read `params`."""
    params: dict[str, Tensor]
    """[S, ...] float64 each."""
    features: Tensor
    """[S, F] float32."""

    @property
    def log_probabilities(self) -> Tensor:
        """[S, A] at the temperature of the kind."""
        return (discrete_logits(self.kind, self.params) / TEMPERATURE[self.kind]).log_softmax(-1)

    def at(self, places: Tensor) -> "_Said":
        """The same of some of the states."""
        return _Said(self.kind, {name: value[places] for name, value in self.params.items()}, self.features[places])


def inheritance(
    child: Policy,
    parent: Policy,
    first: Policy,
    states: np.ndarray,
    own_states: np.ndarray,
    *,
    first_states: np.ndarray | None = None,
    siblings: Sequence[Policy] = (),
    stretch: int = 1,
    seed: int,
) -> JsonDict:
    """Everything that is measured of a child besides scores and time; `READING` says how to read each number.

    Probabilities are those at the temperature of each policy's own kind: 0.01 of Q-values, 1 of logits. (`mean_kl`
    takes a Q-valued policy at its teacher's temperature instead.) Layers are compared where both networks have one
    shape and no memory, on up to LAYER_STATES of `states`.

    Args:
        child: who is measured.
        parent: whom it learnt from. The founder of a lineage is measured as its own parent and first teacher.
        first: generation 0.
        states: [S, *observation_shape] that the parent visits, held out from training; stretches one after the other
            where one of the policies is recurrent.
        own_states: the same of states that the child visits.
        first_states: the same of states that generation 0 visits: there the child is compared with it and its rank is
            taken, so that all generations are measured on one set of states. None: `states`, as where it is the parent.
        siblings: further children of the same parent.
        stretch: states in each stretch, as for `answers`.
        seed: of the actions that are drawn from the teachers' probabilities.

    Returns:
        `child`: numbers of the child alone. `parent`, `first`: beside these two, on the states of each and the child's;
        novelty is told by their features of the child's states, against those of their own. `siblings`: of child and
        siblings, on `states`. What cannot be said is None, and `skipped` holds the reason under `section.key`. Of
        continuous policies agreement (R^2), KL (also by novelty), CKA, effective rank and size are said; what needs
        probabilities of actions is skipped.

    Raises:
        MismatchError: policies with different actions.
        ValueError: fewer than four states, states that are no whole stretches, single states for a recurrent policy.
    """
    everyone = (child, parent, first, *siblings)
    first_states = states if first_states is None else first_states
    for each in (states, own_states, first_states):
        _check(everyone, each, stretch)
    own, own_there = (_said(child, each, stretch) for each in (states, own_states))
    own_first = own if first_states is states else _said(child, first_states, stretch)
    sections: dict[str, Mapping[str, Value]] = {"child": _alone(child, own, own_there, own_first)}
    for name, teacher, seen, here in (("parent", parent, states, own), ("first", first, first_states, own_first)):
        if teacher is parent and "parent" in sections:
            sections[name] = sections["parent"]
            continue
        told, told_there = (_said(teacher, each, stretch) for each in (seen, own_states))
        generator = torch.Generator().manual_seed(seed)
        sections[name] = {
            **_beside(here, told, own_there, told_there),
            **_as_targets(here, told, generator),
            "feature_cka": linear_cka(here.features, told.features),
            "layer_cka": _layer_cka(child, teacher, seen),
            "novelty_quarters": _by_novelty(own_there, told_there, told),
        }
    sections["siblings"] = _among([own, *(_said(each, states, stretch) for each in siblings)])
    skipped: dict[str, str] = {}
    record: JsonDict = {name: _numbers(name, values, skipped) for name, values in sections.items()}
    return record | {"states": len(own.features), "own_states": len(own_there.features), "skipped": skipped}


def _alone(child: Policy, own: _Said, own_there: _Said, own_first: _Said) -> dict[str, Value]:
    return {
        "temperature": TEMPERATURE[own.kind],
        "parameters": child.spec.parameters,
        "flops": child.spec.flops,
        "entropy_teacher_states": _entropy(own),
        "entropy_student_states": _entropy(own_there),
        "effective_rank": effective_rank(own_first.features),
    }


def _entropy(said: _Said) -> Value:
    return CONTINUOUS if "mean" in said.params else float(categorical_entropy(said.log_probabilities).mean())


def _beside(own: _Said, told: _Said, own_there: _Said, told_there: _Said) -> dict[str, Value]:
    """How alike the answers are on both sets of states."""
    return {
        "agreement_teacher_states": agreement_of_answers(own.kind, own.params, told.kind, told.params),
        "agreement_student_states": agreement_of_answers(
            own_there.kind, own_there.params, told_there.kind, told_there.params
        ),
        "kl_teacher_states": float(_kl(own, told).mean()),
        "kl_student_states": float(_kl(own_there, told_there).mean()),
    }


def _kl(own: _Said, told: _Said) -> Tensor:
    """[S]: KL(teacher || child), nats."""
    if "mean" in told.params:
        return gaussian_kl(told.params["mean"], told.params["log_std"], own.params["mean"], own.params["log_std"])
    return forward_kl(told.log_probabilities.exp(), own.log_probabilities)


AS_TARGETS = (
    *("calibration_error", "calibration_error_sampled", "nll", "nll_sampled"),
    *("gradient_variance_soft", "gradient_variance_hard", "gradient_variance_ratio"),
    *("knowledge_total", "knowledge_smoothing", "knowledge_rescaling", "knowledge_relation"),
)


def _as_targets(own: _Said, told: _Said, generator: torch.Generator) -> dict[str, Value]:
    """What the teacher's answers are to who learns from them, and how honest the child is about them."""
    if "mean" in told.params:
        return dict.fromkeys(AS_TARGETS, CONTINUOUS)
    target, log_p = told.log_probabilities.exp(), own.log_probabilities
    confidence, best = log_p.exp().max(-1)
    drawn = sampled_actions(target, generator)
    variance, known = gradient_variance(target, log_p.exp()), knowledge(target)
    values = (
        calibration_error(confidence, target.gather(1, best[:, None]).squeeze(1)),
        calibration_error(confidence, (drawn == best).double()),
        float(cross_entropy(target, log_p).mean()),
        -float(log_p.gather(1, drawn[:, None]).mean()),
        *(variance.soft, variance.hard, variance.ratio),
        *(known.total, known.smoothing, known.rescaling, known.relation),
    )
    return dict(zip(AS_TARGETS, values, strict=True))


def _layer_cka(child: Policy, teacher: Policy, states: np.ndarray) -> Value:
    """CKA of each layer, first to last."""
    if child.recurrent or teacher.recurrent:
        return "what the layers of a recurrent policy give on depends on more than the state"
    if child.spec.network.members is not None:
        return "networks of members have layers side by side"
    if _shape(child) != _shape(teacher):
        return "the networks have different shapes: only their last features are compared"
    some = states[np.linspace(0, len(states) - 1, min(len(states), LAYER_STATES)).round().astype(int)]
    ours, theirs = layer_features(child, some), layer_features(teacher, some)
    return [{"layer": name, "cka": _finite(linear_cka(ours[name], theirs[name]))} for name in ours]


def _shape(policy: Policy) -> tuple[Network, tuple[int, ...]]:
    """What acts; critics do not count."""
    return policy.spec.network.acting, policy.spec.observation_shape


def _by_novelty(own_there: _Said, told_there: _Said, told: _Said) -> list[JsonDict]:
    """The child's states in quarters by how far the teacher's features are from the nearest ones on its own states."""
    distances = nearest_distances(told_there.features, told.features)
    found = []
    for places in quarters(distances):
        own, theirs = own_there.at(places), told_there.at(places)
        # R^2 of a quarter would be of that quarter's spread: of continuous policies KL alone is comparable.
        same = None if "mean" in own.params else agreement_of_answers(own.kind, own.params, theirs.kind, theirs.params)
        found.append(
            {"distance": float(distances[places].mean()), "agreement": same, "kl": float(_kl(own, theirs).mean())}
        )
    return found


def _among(family: Sequence[_Said]) -> dict[str, Value]:
    names = ("disagreement", "jensen_shannon")
    if len(family) < 2:
        return dict.fromkeys(names, "it has no siblings here")
    if "mean" in family[0].params:
        return dict.fromkeys(names, CONTINUOUS)
    return dict(zip(names, diversity([each.log_probabilities for each in family]), strict=True))


def _numbers(section: str, values: Mapping[str, Value], skipped: dict[str, str]) -> JsonDict:
    """The section for a JSON file; reasons for what is not there go to `skipped`."""
    found: JsonDict = {}
    for name, value in values.items():
        reason = value if isinstance(value, str) else None
        if isinstance(value, float) and math.isnan(value):
            reason = NOTHING_VARIES
        if reason is not None:
            skipped[f"{section}.{name}"] = reason
        found[name] = None if reason is not None else value
    return found


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _said(policy: Policy, states: np.ndarray, stretch: int) -> _Said:
    flat, features = answers_and_features(policy, states, stretch)
    return _Said(policy.spec.kind, unflatten(policy.spec.kind, flat.double()), features)


def _check(policies: Sequence[Policy], states: np.ndarray, stretch: int) -> None:
    first = policies[0].spec
    for each in (policy.spec for policy in policies):
        if (each.discrete, each.actions) != (first.discrete, first.actions):
            raise MismatchError(f"'{first.name}' and '{each.name}' have different actions: nothing can be compared")
    if stretch < 1 or len(states) % stretch or len(states) < 4 * stretch:
        raise ValueError(f"states must be at least four whole stretches of {stretch}, got {len(states)} states")
    if stretch <= BURN_IN and (stretch > 1 or any(policy.recurrent for policy in policies)):
        raise ValueError(f"recurrent policies need stretches of more than {BURN_IN} states, got {stretch}")
