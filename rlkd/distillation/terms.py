"""The loss of a distillation recipe: a sum of terms, type-checked when the recipe meets its teacher.

L(student) = sum_j coefficient_j * weight_j(state) * divergence_j(teacher's answer, student's answer), one value per
sample; the weight is 1, or a state's familiarity.
A divergence's name is looked up in `total_loss`; to add one, write it in `rlkd.losses`, add its branch here and its
name to `Term.divergence`.
"""

import torch
from torch import Tensor

from rlkd.errors import MismatchError
from rlkd.losses import cross_entropy, forward_kl, gaussian_kl, mse
from rlkd.policy import Kind, Output, discrete_logits, unflatten
from rlkd.recipe import Distill, Term

TEMPERATURE: dict[Kind, float] = {"q": 0.01, "categorical": 1.0, "gaussian": 1.0, "squashed_gaussian": 1.0}
"""Teacher temperature where a term sets none: 0.01 for Q-values (Rusu et al., arXiv:1511.06295), 1 for policies."""
HARD_LABELS = (Term(divergence="cross_entropy"),)


def teacher_temperature(term: Term, teacher: Kind) -> float:
    """The term's own temperature, or the default of the teacher's kind."""
    return TEMPERATURE[teacher] if term.teacher_temperature is None else term.teacher_temperature


def reported_temperatures(recipe: Distill, teacher: Kind) -> dict[str, float]:
    """Teacher's and student's temperature under which KL is reported, as arguments of `mean_kl`: those of the first
    KL term, else the teacher's default and 1."""
    terms = [term for term in recipe.terms if term.divergence == "forward_kl"] or [Term(divergence="forward_kl")]
    return {
        "teacher_temperature": teacher_temperature(terms[0], teacher),
        "student_temperature": terms[0].student_temperature,
    }


def student_kind(terms: tuple[Term, ...], teacher: Kind) -> Kind:
    """What a student's outputs mean: Q-values where every term regresses Q-values, else the policy's parameters.

    Raises:
        MismatchError: a term cannot be taken of this kind of teacher; both parts are named.
    """
    for term in terms:
        if term.divergence == "cross_entropy" and teacher not in ("q", "categorical"):
            raise MismatchError(f"divergence 'cross_entropy' needs discrete actions, the teacher's are '{teacher}'")
        tempered = teacher_temperature(term, teacher) != 1 or term.student_temperature != 1
        if term.divergence == "forward_kl" and teacher not in ("q", "categorical") and tempered:
            raise MismatchError(f"a temperature does not fit 'forward_kl' of a '{teacher}' teacher; leave it at 1")
        if term.divergence != "forward_kl" and term.teacher_temperature is not None:
            raise MismatchError(f"divergence '{term.divergence}' reads no teacher_temperature; leave it out")
        if term.divergence == "mse" and term.student_temperature != 1:
            raise MismatchError("divergence 'mse' reads no student_temperature; leave it out")
    if teacher == "q":
        return "q" if all(term.divergence == "mse" for term in terms) else "categorical"
    return teacher


def total_loss(
    terms: tuple[Term, ...], teacher: Kind, answers: Tensor, student: Output, familiarity: Tensor | None = None
) -> Tensor:
    """[B]: the summed loss of each sample; the gradient flows to the student only.

    Args:
        terms: of a recipe that `student_kind` has accepted.
        teacher: kind of the teacher's outputs.
        answers: [B, P], the teacher's flat outputs from the replay.
        student: its outputs for the same B observations.
        familiarity: [B], of each observation, 1 on average; for terms that ask for it.

    Raises:
        ValueError: a term asks for familiarities and there are none.
    """
    params = {name: tensor.float() for name, tensor in student.params.items()}
    target = unflatten(teacher, answers)
    total = torch.zeros(len(answers), device=answers.device)
    for term in terms:
        losses = _divergence(term, teacher, target, student.kind, params)
        if term.weight == "familiarity":
            if familiarity is None:
                raise ValueError("a term weighs states by their familiarity, and none is given")
            losses = familiarity * losses
        total = total + term.coefficient * losses
    return total


def _divergence(term: Term, teacher: Kind, target: dict[str, Tensor], kind: Kind, params: dict[str, Tensor]) -> Tensor:
    if teacher in ("gaussian", "squashed_gaussian"):
        if term.divergence == "mse":
            # The spread too: a student whose rule is to sample would else play with the one it was born with.
            means, spreads = (mse(target[name], params[name], centre=False) for name in ("mean", "log_std"))
            return term.scale * (means + spreads)
        return term.scale * gaussian_kl(target["mean"], target["log_std"], params["mean"], params["log_std"])
    wanted, own = discrete_logits(teacher, target), discrete_logits(kind, params)
    if term.divergence == "cross_entropy":
        return term.scale * cross_entropy(wanted, own / term.student_temperature)
    if term.divergence == "mse":
        return term.scale * mse(wanted, own, centre=kind != "q")
    return forward_kl(
        wanted,
        own,
        teacher_temperature=teacher_temperature(term, teacher),
        student_temperature=term.student_temperature,
        scale=term.scale,
    )
