"""The loss of a distillation recipe: a sum of terms, put together and type-checked when the recipe meets its teacher.

L(student) = sum_j coefficient_j(t) * weight_j(state) * scale_j * divergence_j(target_j(teacher's answer), student's
answer), one value a sample. To add a divergence, write it in `rlkd.losses.divergences` and enter it in DIVERGENCES.

Shapes: B samples, A discrete actions, D action dimensions, P numbers in an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd import losses
from rlkd.distillation.parts import Divergence, Parts, Sample, Space, Target, Teacher, Weight, find, settled
from rlkd.distillation.targets import TARGETS, TEACHERS, temper
from rlkd.distillation.weights import WEIGHTS
from rlkd.errors import MismatchError, RecipeError
from rlkd.policy import Kind, Output, discrete_logits
from rlkd.recipe import Part, Term, value_at

T = TypeVar("T")
TEMPERATURE: dict[Kind, float] = {"q": 0.01, "categorical": 1.0, "gaussian": 1.0, "squashed_gaussian": 1.0}
"""Of a teacher where a term sets none: 0.01 for Q-values (Rusu et al., arXiv:1511.06295), 1 for policies."""
HARD_LABELS = (Term(teacher=Part("label", {"label": "H1"}), divergence=Part("cross_entropy")),)
"""The loss of the control that learns from the teacher's greedy actions alone."""


def gaussian_squares(mean: Tensor, log_std: Tensor, own_mean: Tensor, own_log_std: Tensor) -> Tensor:
    """[B]: squared errors of mean and of log_std, [B, D] each: a student whose rule is to sample would else play with
    the spread it was born with."""
    return losses.mse(mean, own_mean) + losses.mse(log_std, own_log_std)


def gaussian_huber(
    mean: Tensor, log_std: Tensor, own_mean: Tensor, own_log_std: Tensor, *, delta: float = 1.0
) -> Tensor:
    """[B]: as `gaussian_squares`, with Huber's loss."""
    distance = partial(losses.huber_distance, delta=delta)
    return distance(mean, own_mean) + distance(log_std, own_log_std)


DIVERGENCES = {
    "forward_kl": Divergence(losses.forward_kl, gaussian=losses.gaussian_kl),
    "reverse_kl": Divergence(losses.reverse_kl, whole_support=True, gaussian=losses.gaussian_reverse_kl),
    "jensen_shannon": Divergence(losses.jensen_shannon),
    "cross_entropy": Divergence(losses.cross_entropy),
    "mse": Divergence(losses.mse, "scores", "scores", gaussian=gaussian_squares),
    "huber": Divergence(losses.huber_distance, "scores", "scores", gaussian=gaussian_huber),
    "margin": Divergence(losses.margin, "probabilities", "scores"),
}


@dataclass(frozen=True, slots=True)
class Bound:
    """A term whose names have become functions."""

    term: Term
    """With all numbers of its parts."""
    steps: tuple[tuple[Callable[..., Tensor], tuple[str, ...]], ...]
    """Teacher and targets, each with the fields of `Sample` that it needs besides what the one before it gave."""
    divergence: Divergence
    """The record."""
    distance: Callable[..., Tensor]
    """Its function, with its numbers."""
    weight: tuple[Callable[..., Tensor], tuple[str, ...]] | None
    """As in `steps`."""


class Objective:
    """A recipe's loss for one kind of teacher."""

    def __init__(self, terms: Sequence[Term], teacher: Kind, actions: int, parts: Parts | None = None) -> None:
        """Look up all names, check that the parts fit, and try them on two made-up states.

        Args:
            terms: of a recipe.
            teacher: what its answers mean.
            actions: how many there are, or how many dimensions one has.
            parts: of a user's own, by name.

        Raises:
            RecipeError: an unknown name or key, or a number that cannot be.
            MismatchError: two parts that do not fit; both are named.
        """
        self.teacher, self.discrete = teacher, teacher in ("q", "categorical")
        bind = bind_discrete if self.discrete else bind_continuous
        self.terms = tuple(bind(settle(term, parts), teacher, parts or {}) for term in terms)
        regresses = all(bound.divergence.student == "scores" for bound in self.terms)
        self.student: Kind = ("q" if regresses else "categorical") if teacher == "q" else teacher
        """What the student's outputs mean: Q-values where a Q-valued teacher's scores alone are learnt."""
        named = [step[1] for bound in self.terms for step in (*bound.steps, bound.weight or (None, ()))]
        self.needs = {name for names in named for name in names}
        """Fields of `Sample` that some part reads."""
        self._try(actions)

    def probabilities(self, answers: Tensor) -> Tensor:
        """What `Sample.probabilities` is of these flat answers [B, P]."""
        return temper(answers, temperature=TEMPERATURE[self.teacher]) if self.discrete else answers

    def targets(self, sample: Sample) -> tuple[Tensor, ...]:
        """Each term's target, [B, A] or [B, P]; nothing of it depends on the student."""
        found = []
        for bound in self.terms:
            target: tuple[Tensor, ...] = ()
            for function, needs in bound.steps:
                target = (function(*target, *(getattr(sample, name) for name in needs)),)
            found.append(target[0])
        return tuple(found)

    def weights(self, sample: Sample) -> tuple[Tensor, ...]:
        """[B] for each term: how much each state counts."""
        every = torch.ones(len(sample.scores), device=sample.scores.device)
        return tuple(
            every if bound.weight is None else bound.weight[0](*(getattr(sample, name) for name in bound.weight[1]))
            for bound in self.terms
        )

    def losses(self, targets: Sequence[Tensor], weights: Sequence[Tensor], student: Output, progress: float) -> Tensor:
        """[B]: the summed loss of each sample; the gradient flows to the student only.

        Args:
            targets, weights: one each for every term.
            student: its answers for the same B states.
            progress: share of the gradient steps that are taken.
        """
        params = {name: tensor.float() for name, tensor in student.params.items()}
        total = torch.zeros(len(targets[0]), device=targets[0].device)
        for bound, target, weight in zip(self.terms, targets, weights, strict=True):
            coefficient = bound.term.scale * value_at(bound.term.coefficient, progress)
            if coefficient != 0:
                total = total + coefficient * weight * self._distance(bound, target, student.kind, params)
        return total

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
        probabilities, head = self.probabilities(answers), torch.eye(actions, 4)
        sample = Sample(answers, probabilities, two.long() - 1, familiarity=two, noise=answers.abs(), head=head)
        names = ("q",) if self.student == "q" else ("logits",) if self.discrete else ("mean", "log_std")
        output = Output(self.student, dict(zip(names, answers.flip(0).chunk(len(names), dim=-1), strict=True)))
        for bound, weight in zip(self.terms, _tried(self.weights, sample), strict=True):
            _must_be(weight, (2,), f"weight '{bound.term.weight and bound.term.weight.name}'")
        for bound, target in zip(self.terms, _tried(self.targets, sample), strict=True):
            last = bound.term.target[-1] if bound.term.target else bound.term.teacher
            _must_be(target, (2, width), f"{'target' if bound.term.target else 'teacher'} '{last.name}'")
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


def settle(term: Term, parts: Parts | None = None) -> Term:
    """A term with a value for every number of its parts.

    Raises:
        RecipeError: an unknown name or key, a missing key, a wrong type.
    """
    own = parts or {}
    weight = term.weight and settled(term.weight, find(term.weight, WEIGHTS, own, Weight).function, "weight")
    return replace(
        term,
        teacher=settled(term.teacher, find(term.teacher, TEACHERS, own, Teacher).function, "teacher"),
        target=tuple(settled(each, find(each, TARGETS, own, Target).function, "target") for each in term.target),
        divergence=settled(term.divergence, find(term.divergence, DIVERGENCES, own, Divergence).function, "divergence"),
        weight=weight,
    )


def bind_discrete(term: Term, kind: Kind, parts: Parts) -> Bound:
    """A settled term's functions for a teacher of discrete actions."""
    teacher = find(term.teacher, TEACHERS, parts, Teacher)
    divergence = find(term.divergence, DIVERGENCES, parts, Divergence)
    steps = [(_with(term.teacher, teacher.function), teacher.needs)]
    space, one_hot, last = teacher.gives, teacher.one_hot, f"teacher '{term.teacher.name}'"

    def reach(wanted: Space, who: str) -> None:
        nonlocal space
        if space == "scores" and wanted == "probabilities":
            steps.append((partial(temper, temperature=TEMPERATURE[kind]), ()))
            space = "probabilities"
        elif space != wanted:
            raise MismatchError(f"{who} needs {wanted}, {last} gives {space}; leave one of them out")

    for part in term.target:
        record = find(part, TARGETS, parts, Target)
        reach(record.takes, f"target '{part.name}'")
        steps.append((_with(part, record.function), record.needs))
        space, last = "probabilities", f"target '{part.name}'"
        one_hot = one_hot if record.one_hot is None else record.one_hot
    who = f"divergence '{term.divergence.name}'"
    reach(divergence.target, who)
    if one_hot and divergence.whole_support:
        raise MismatchError(
            f"{who} needs a probability for every action, {last} leaves some at 0; put 'smooth' between"
        )
    if divergence.student == "scores" and term.student_temperature != 1:
        raise MismatchError(f"{who} reads no student_temperature; leave it out")
    distance = _with(term.divergence, divergence.function)
    return Bound(term, tuple(steps), divergence, distance, _weight(term, parts, discrete=True))


def bind_continuous(term: Term, kind: Kind, parts: Parts) -> Bound:
    """A settled term's functions for a teacher whose answers are Gaussians."""
    divergence = find(term.divergence, DIVERGENCES, parts, Divergence)
    odd = [f"teacher '{term.teacher.name}'"] if term.teacher.name != "teacher" else []
    odd += [f"target '{part.name}'" for part in term.target]
    odd += [f"student_temperature {term.student_temperature}"] if term.student_temperature != 1 else []
    if divergence.gaussian is None or odd:
        who = odd[0] if odd else f"divergence '{term.divergence.name}'"
        raise MismatchError(f"{who} needs discrete actions, the teacher's are '{kind}'")
    teacher, distance = TEACHERS["teacher"], _with(term.divergence, divergence.gaussian)
    steps = ((teacher.function, teacher.needs),)
    return Bound(term, steps, divergence, distance, _weight(term, parts, discrete=False))


def _weight(term: Term, parts: Parts, *, discrete: bool) -> tuple[Callable[..., Tensor], tuple[str, ...]] | None:
    if term.weight is None:
        return None
    record = find(term.weight, WEIGHTS, parts, Weight)
    if record.discrete and not discrete:
        raise MismatchError(f"weight '{term.weight.name}' needs discrete actions, the teacher's are continuous")
    return _with(term.weight, record.function), record.needs


def _with(part: Part, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return partial(function, **part.values) if part.values else function


def centred(scores: Tensor) -> Tensor:
    """[B, A]: each row less its mean."""
    return scores - scores.mean(dim=-1, keepdim=True)


def reported_temperatures(terms: Sequence[Term], teacher: Kind) -> dict[str, float]:
    """Teacher's and student's temperature under which KL is reported, as arguments of `mean_kl`: those of the first
    forward KL of the teacher's own answer, else the teacher's default and 1."""
    for term in terms:
        if term.divergence.name == "forward_kl" and term.teacher.name == "teacher":
            tempered = [part.values["temperature"] for part in term.target if part.name == "temper"]
            temperature = float(tempered[0]) if tempered else TEMPERATURE[teacher]
            return {"teacher_temperature": temperature, "student_temperature": term.student_temperature}
    return {"teacher_temperature": TEMPERATURE[teacher], "student_temperature": 1.0}
