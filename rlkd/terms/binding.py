"""A recipe's term becomes functions: names are looked up, numbers filled in, and what does not fit is refused."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from rlkd.errors import MismatchError
from rlkd.policy import Kind
from rlkd.recipe import Part, Term
from rlkd.terms.divergences import DIVERGENCES
from rlkd.terms.parts import Divergence, Parts, Sample, Space, Target, Teacher, Weight, find, settled
from rlkd.terms.targets import TARGETS, temper
from rlkd.terms.teachers import TEACHERS
from rlkd.terms.weights import WEIGHTS

TEMPERATURE: dict[Kind, float] = {"q": 0.01, "categorical": 1.0, "gaussian": 1.0, "squashed_gaussian": 1.0}
"""Of a teacher where a term sets none: 0.01 for Q-values (Rusu et al., arXiv:1511.06295), 1 for policies."""


@dataclass(frozen=True, slots=True)
class Step:
    """A function of a term, by which a recipe's part has become one."""

    who: str
    """Kind and name of the part, for messages."""
    function: Callable[..., Tensor]
    """With its numbers."""
    needs: tuple[str, ...] = ()
    """Fields of `Sample` that it takes, behind what the step before it gave."""

    def of(self, sample: Sample, *before: Tensor) -> Tensor:
        """What it makes of a sample, and of what the step before it gave."""
        return self.function(*before, *(getattr(sample, name) for name in self.needs))


@dataclass(frozen=True, slots=True)
class Bound:
    """A term whose names have become functions."""

    term: Term
    """With all numbers of its parts."""
    steps: tuple[Step, ...]
    """Teacher and targets, in order."""
    divergence: Divergence
    """The record."""
    distance: Callable[..., Tensor]
    """Its function, with its numbers."""
    weight: Step | None
    """Which states count; None: all alike."""


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
    if kind not in teacher.of:
        raise MismatchError(f"teacher '{term.teacher.name}' needs answers of kind '{teacher.of[0]}', not '{kind}'")
    divergence = find(term.divergence, DIVERGENCES, parts, Divergence)
    steps = [_step("teacher", term.teacher, teacher)]
    space, one_hot = teacher.gives, teacher.one_hot

    def reach(wanted: Space, who: str) -> None:
        nonlocal space
        if space == "scores" and wanted == "probabilities":
            steps.append(Step("the default temperature", partial(temper, temperature=TEMPERATURE[kind])))
            space = "probabilities"
        elif space != wanted:
            raise MismatchError(f"{who} needs {wanted}, {steps[-1].who} gives {space}; leave one of them out")

    for part in term.target:
        record = find(part, TARGETS, parts, Target)
        reach(record.takes, f"target '{part.name}'")
        steps.append(_step("target", part, record))
        space = "probabilities"
        one_hot = one_hot if record.one_hot is None else record.one_hot
    who = f"divergence '{term.divergence.name}'"
    reach(divergence.target, who)
    if one_hot and divergence.whole_support:
        raise MismatchError(
            f"{who} needs a probability for every action, {steps[-1].who} leaves some at 0; put 'smooth' between"
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
    steps = (_step("teacher", term.teacher, teacher),)
    return Bound(term, steps, divergence, distance, _weight(term, parts, discrete=False))


def _weight(term: Term, parts: Parts, *, discrete: bool) -> Step | None:
    if term.weight is None:
        return None
    record = find(term.weight, WEIGHTS, parts, Weight)
    if record.discrete and not discrete:
        raise MismatchError(f"weight '{term.weight.name}' needs discrete actions, the teacher's are continuous")
    return _step("weight", term.weight, record)


def _step(kind: str, part: Part, record: Teacher | Target | Weight) -> Step:
    return Step(f"{kind} '{part.name}'", _with(part, record.function), record.needs)


def _with(part: Part, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return partial(function, **part.values) if part.values else function
