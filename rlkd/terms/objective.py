"""The loss of a distillation recipe: a sum of terms, put together and type-checked when the recipe meets its teacher.

L(student) = sum_j coefficient_j(t) * weight_j(state) * scale_j * divergence_j(target_j(teacher's answer), student's
answer), one value a sample. To add a divergence, write it in `rlkd.losses.divergences` and enter it in DIVERGENCES.

Shapes: B samples, A discrete actions, D action dimensions, P numbers in an answer.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd.errors import MismatchError, RecipeError
from rlkd.policy import Kind, Output, discrete_logits
from rlkd.recipe import Part, Term, ended, value_at
from rlkd.terms.binding import TEMPERATURE, Bound, bind_continuous, bind_discrete, settle
from rlkd.terms.parts import FIELDS, Parts, Sample
from rlkd.terms.targets import temper

T = TypeVar("T")


def hard_labels(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The loss of the control beside these terms that learns from the teacher's greedy actions alone: on the states
    about which they ask the teacher, if they ask about few."""
    asked = [term.weight for term in terms if term.weight is not None and term.weight.name == "asked"]
    weight = asked[0] if asked else None
    return (Term(teacher=Part("label_h1"), divergence=Part("cross_entropy"), weight=weight),)


class Objective:
    """A recipe's loss for one kind of teacher, or several of one kind."""

    def __init__(
        self, terms: Sequence[Term], teacher: Kind, actions: int, parts: Parts | None = None, *, teachers: int = 1
    ) -> None:
        """Look up all names, check that the parts fit, and try them on two made-up states.

        Args:
            terms: of a recipe.
            teacher: what its answers mean.
            actions: how many there are, or how many dimensions one has.
            parts: of a user's own, by name.
            teachers: how many answer.

        Raises:
            RecipeError: an unknown name or key, or a number that cannot be.
            MismatchError: two parts that do not fit; both are named.
        """
        self.teacher, self.teachers, self.discrete = teacher, teachers, teacher in ("q", "categorical")
        bind = bind_discrete if self.discrete else bind_continuous
        self.terms = tuple(bind(settle(term, parts), teacher, parts or {}) for term in terms)
        records = [bound.divergence for bound in self.terms]
        scored = any(each.target == "scores" for each in records)
        regresses = scored and all(each.student == "scores" for each in records)
        self.student: Kind = ("q" if regresses else "categorical") if teacher == "q" else teacher
        """What the student's outputs mean: Q-values where a Q-valued teacher's scores alone are learnt."""
        self.steps = [step for bound in self.terms for step in (*bound.steps, bound.weight) if step is not None]
        """All functions that read a `Sample`."""
        self.needs = {name for step in self.steps for name in step.needs}
        """Fields of `Sample` that some part reads."""
        unknown = self.needs - FIELDS
        if unknown:
            raise RecipeError(f"a part needs {', '.join(sorted(unknown))}, which is no field of Sample")
        self.asks_several = any(name.startswith("every_") for name in self.needs)
        if self.asks_several and teachers == 1:
            raise MismatchError("the recipe asks several teachers, and one was given; name more")
        self._try(actions)

    def check_known(self, known: AbstractSet[str], where: str) -> None:
        """Raise MismatchError where a part reads a field of `Sample` that there is not.

        Args:
            known: fields that there are.
            where: ends the message, "beside PPO".
        """
        for step in self.steps:
            for name in set(step.needs) - known:
                raise MismatchError(f"{step.who} reads '{name}', which there is not {where}")

    def over(self, progress: float) -> bool:
        """Whether no term counts any more from a progress on."""
        return all(ended(bound.term.coefficient, progress) for bound in self.terms)

    def sample(self, answers: Tensor, known: Mapping[str, Tensor | None] | None = None) -> Sample:
        """What is known of states: the teachers' flat answers side by side, [B, K * P], and other fields by name."""
        every = probability = answers.reshape(len(answers), self.teachers, -1)
        if self.discrete and self.needs & {"probabilities", "every_probability"}:
            probability = temper(every, temperature=TEMPERATURE[self.teacher])
        return Sample(every, probability, **(known or {}))

    def targets(self, sample: Sample) -> tuple[Tensor, ...]:
        """Each term's target, [B, A] or [B, P]; nothing of it depends on the student."""
        found = []
        for bound in self.terms:
            first, *others = bound.steps
            target = first.of(sample)
            for step in others:
                target = step.of(sample, target)
            found.append(target)
        return tuple(found)

    def weights(self, sample: Sample) -> tuple[Tensor | None, ...]:
        """[B] for each term: how much each state counts; None where all count alike."""
        return tuple(None if bound.weight is None else bound.weight.of(sample) for bound in self.terms)

    def losses(
        self,
        targets: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        student: Output,
        progress: float,
        gate: float = 1.0,
    ) -> Tensor:
        """[B]: the summed loss of each sample; the gradient flows to the student only.

        Args:
            targets, weights: one each for every term.
            student: its answers for the same B states.
            progress: share of the gradient steps that are taken.
            gate: multiplies the coefficients of terms that have a gate.
        """
        params = {name: tensor.float() for name, tensor in student.params.items()}
        found = []
        for bound, target, weight in zip(self.terms, targets, weights, strict=True):
            coefficient = bound.term.scale * value_at(bound.term.coefficient, progress)
            coefficient *= gate if bound.term.gate else 1.0
            if coefficient != 0:
                distance = self._distance(bound, target, student.kind, params)
                distance = distance if weight is None else weight * distance
                found.append(distance if coefficient == 1 else coefficient * distance)
        if not found:  # no term counts at this progress: 0, and still with a gradient
            found = [tensor.flatten(1).sum(1).nan_to_num(0, 0, 0) * 0 for tensor in params.values()]
        return found[0] if len(found) == 1 else torch.stack(found).sum(0)

    def _distance(self, bound: Bound, target: Tensor, kind: Kind, params: dict[str, Tensor]) -> Tensor:
        if not self.discrete:
            return bound.distance(*target.chunk(2, dim=-1), params["mean"], params["log_std"])
        own = discrete_logits(kind, params)
        if bound.divergence.student == "log_probabilities":
            return bound.distance(target, F.log_softmax(own / bound.term.student_temperature, dim=-1))
        if kind == "q" or bound.divergence.target != "scores":
            return bound.distance(target, own)
        return bound.distance(centred(target), centred(own))  # logits mean the same after a shift

    def _try(self, actions: int) -> None:
        """What a part cannot do is found here, and not in the first gradient step."""
        width = actions if self.discrete else 2 * actions
        answers = torch.linspace(-1, 1, 2 * width).reshape(2, width)
        two = torch.ones(2)
        made_up = answers[:, :actions].softmax(-1)
        known = {"action": two.long() - 1, "familiarity": two, "noise": answers.abs(), "lot": two / 2, "luck": two / 2}
        known |= {"advantage": two, "fitted": torch.ones(()), "demonstrated": two, "ratio": two}
        known |= {"last_round": made_up, "moving_average": made_up, "head": torch.eye(actions, 4)}
        sample = self.sample(answers.repeat(1, self.teachers), known)
        names = ("q",) if self.student == "q" else ("logits",) if self.discrete else ("mean", "log_std")
        output = Output(self.student, dict(zip(names, answers.flip(0).chunk(len(names), dim=-1), strict=True)))
        for bound, weight in zip(self.terms, _tried(self.weights, sample), strict=True):
            if weight is not None and bound.weight is not None:
                _must_be(weight, (2,), bound.weight.who)
        for bound, target in zip(self.terms, _tried(self.targets, sample), strict=True):
            _must_be(target, (2, width), bound.steps[-1].who)
            distance = _tried(self._distance, bound, target, output.kind, output.params)
            _must_be(distance, (2,), f"divergence '{bound.term.divergence.name}'")


def _tried(function: Callable[..., T], *arguments: object) -> T:
    try:
        return function(*arguments)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise RecipeError(f"the loss cannot be computed: {error}") from error


def _must_be(found: Tensor, shape: tuple[int, ...], who: str) -> None:
    if found.shape != shape:
        wanted = "one value a sample, [2]" if shape == (2,) else str(list(shape))
        raise RecipeError(f"{who} must give {wanted}, gave {list(found.shape)}")


def centred(scores: Tensor) -> Tensor:
    """[B, A]: each row less its mean."""
    return scores - scores.mean(dim=-1, keepdim=True)


def reported_temperatures(terms: Sequence[Term], teacher: Kind) -> dict[str, float]:
    """Teacher's and student's temperature under which KL is reported, as arguments of `mean_kl`: those of the first
    forward KL of the teacher's own answer, else the teacher's default and 1."""
    for term in terms:
        if term.divergence.name == "forward_kl" and term.teacher.name == "teacher":
            tempered = [part.values["temperature"] for part in term.target if part.name == "temper"]
            temperature = tempered[0] if tempered and isinstance(tempered[0], float) else TEMPERATURE[teacher]
            return {"teacher_temperature": temperature, "student_temperature": term.student_temperature}
    return {"teacher_temperature": TEMPERATURE[teacher], "student_temperature": 1.0}
