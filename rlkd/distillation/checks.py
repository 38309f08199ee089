"""What is refused before anything runs, or at least before anything is learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from rlkd.collect import made_by
from rlkd.data import Evaluation
from rlkd.errors import MismatchError, RecipeError
from rlkd.evaluation.agreement import SEQUENCE
from rlkd.policy import Policy
from rlkd.recipe import Distill, Environment, Network
from rlkd.terms import Objective, Parts, Sample, settled
from rlkd.vector import spaces


def check_parts(
    teacher: Policy,
    students: Mapping[str, Network],
    recipe: Distill,
    environment: Environment,
    own_parts: Parts | None = None,
    more_teachers: Sequence[Policy] = (),
) -> Distill:
    """The recipe with all numbers of its parts; MismatchError or RecipeError unless by it this teacher can teach these
    students."""
    kind = teacher.spec.kind
    specs = [each.spec for each in (teacher, *more_teachers)]
    if len({(spec.kind, spec.actions, spec.action_meanings) for spec in specs}) > 1:
        told = "; ".join(f"{spec.name}: {spec.kind}, {spec.actions} {list(spec.action_meanings)}" for spec in specs)
        raise MismatchError(f"several teachers need one kind of answer and the same actions, these have {told}")
    count = 1 + len(more_teachers)
    objective = Objective(recipe.terms, kind, teacher.spec.actions, own_parts, teachers=count)
    known = {field.name for field in fields(Sample)} - {"ratio", "demonstrated"} | {"scores", "probabilities"}
    objective.check_known(known, "in a replay")
    needs = objective.needs
    if not needs & {"scores", "probabilities", "every_score", "every_probability", "action"}:
        raise MismatchError("no term asks the teacher: a student would learn from itself alone")
    if ("familiarity" in needs) != (recipe.novelty is not None):
        raise MismatchError("[novelty] and a weight that reads 'familiarity' belong together")
    if not teacher.spec.discrete and needs & {"last_round", "moving_average"}:
        raise MismatchError(f"earlier selves need discrete actions, the teacher's are '{kind}'")
    named = {part.name for term in recipe.terms for part in (term.teacher, *term.target, term.divergence)}
    named |= {term.weight.name for term in recipe.terms if term.weight is not None}
    for name in set(own_parts or {}) - named:
        raise RecipeError(f"part '{name}' was passed in, and no term of the recipe names it")
    if any(term.gate for term in recipe.terms):
        raise MismatchError("a gate follows the score of play in training; it belongs to reinforcement learning")
    if "fitted" in objective.needs and recipe.source.teacher_fraction != (1.0, 1.0):
        raise MismatchError(
            "target 'calibrate' is fitted to what the teacher did; a teacher_fraction below 1 lets students act: take "
            "--set source.teacher_fraction=[1.0,1.0]"
        )
    if more_teachers and not objective.asks_several:
        raise MismatchError(
            f"{count} teachers were given, and the recipe asks the first alone; take one as multi_teacher_average"
        )
    if "hard_labels" in recipe.controls and not teacher.spec.discrete:
        remedy = """--set 'controls=["shuffled_teacher"]'"""
        raise MismatchError(f"control 'hard_labels' needs discrete actions, the teacher's are '{kind}'; take {remedy}")
    if recipe.source.synthetic is not None:
        way = settled(recipe.source.synthetic, made_by(recipe.source.synthetic).func, "synthetic")
        recipe = replace(recipe, source=replace(recipe.source, synthetic=way))
        shape = spaces(environment)[0]
        if len(shape) != 1:
            raise MismatchError(f"states can be made up of vectors, those of {environment.id} are {list(shape)}")
        if any(each.recurrent for each in (teacher, *more_teachers)) or any(
            n.core != "none" for n in students.values()
        ):
            raise MismatchError("made-up states follow no others: neither teachers nor students can be recurrent")
    recurrent = any(network.core != "none" for network in students.values())
    in_a_row = recipe.source.states // (recipe.source.num_envs * recipe.source.rounds)
    if recurrent and in_a_row < SEQUENCE:
        raise MismatchError(
            f"recurrent students learn from {SEQUENCE} states in a row, the first round brings {in_a_row} of each "
            "environment; raise source.states, or lower source.num_envs or source.rounds"
        )
    return replace(recipe, terms=tuple(bound.term for bound in objective.terms))


def check_keepable(recipe: Distill, folder: Path | None) -> None:
    """Raise MismatchError where states are to be kept that depend on the students."""
    if folder is not None and recipe.source.teacher_fraction != (1.0, 1.0):
        raise MismatchError(
            "states are kept for other students only where the teacher plays alone; leave out --replay, or take "
            "--set source.teacher_fraction=[1.0,1.0]"
        )


def check_normalisable(teacher: Evaluation, random: Evaluation) -> None:
    """Raise MismatchError where teacher and random play score the same: found before the training, not after it."""
    if teacher.mean == random.mean:
        raise MismatchError(
            f"{teacher.policy} and random play both score {random.mean:g} over {len(random.scores)} episodes: there is "
            "nothing to normalise by; take another teacher or more --episodes"
        )
