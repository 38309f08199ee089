"""What is refused before anything runs, or at least before anything is learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rlkd.collect import made_by
from rlkd.data import Evaluation
from rlkd.errors import MismatchError, RecipeError
from rlkd.evaluation.agreement import SEQUENCE
from rlkd.policy import Policy
from rlkd.recipe import Distill, Environment, Network, Part, Search
from rlkd.terms import FIELDS, Objective, Parts
from rlkd.vector import check_copies, spaces

MULTITASK = "policy_distillation_multitask"  # the recipe that errors name


def check_one_game(teacher: Policy, environment: Environment, others: Sequence[Policy]) -> None:
    """Raise MismatchError where teachers were made for other games than the first one's."""
    for other in others:
        own = other.spec.environment
        if own is not None and (own.source, own.id) != (environment.source, environment.id):
            raise MismatchError(
                f"{teacher.spec.name} plays {environment.id}, {other.spec.name} plays {own.id}: one student for "
                f"several games takes a recipe with [tasks], as {MULTITASK}"
            )


def check_tasks(
    teachers: Sequence[Policy], environments: Sequence[Environment], students: Mapping[str, Network], recipe: Distill
) -> None:
    """Raise MismatchError or RecipeError unless one student can learn all these games."""
    for place, environment in enumerate(environments):
        first = environments.index(environment)
        if first < place:
            both = f"{teachers[first].spec.name} and {teachers[place].spec.name}"
            raise MismatchError(
                f"[tasks] is for several games with a teacher each, and {both} play the same {environment.id}; recipes "
                "as multi_teacher_average ask several teachers of one game"
            )
    seen = [
        f"{list(spaces(environment)[0])} {teacher.spec.observation_dtype}"
        for teacher, environment in zip(teachers, environments, strict=True)
    ]
    for environment, given in zip(environments, seen, strict=True):
        if given != seen[0]:
            raise MismatchError(
                f"one student reads observations of one shape, {environments[0].id} gives {seen[0]}, {environment.id} "
                f"gives {given}"
            )
    for name, network in students.items():
        if network.core != "none":
            raise MismatchError(f"student '{name}' is recurrent; students of several games have to be feed-forward")
        if network.members is not None:
            raise MismatchError(f"student '{name}' is made of members; students of several games share one encoder")
    states = recipe.tasks.states if recipe.tasks is not None else None
    if states is not None and len(states) != len(teachers):
        raise RecipeError(f"tasks.states has {len(states)} numbers of states for {len(teachers)} games")


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
    if recipe.tasks is not None:
        raise MismatchError(
            "[tasks] is for teachers of several games, and one was named; name teachers of further games, or take "
            "a recipe without [tasks]"
        )
    teachers, kind = (teacher, *more_teachers), teacher.spec.kind
    specs = [each.spec for each in teachers]
    if len({(spec.kind, spec.actions, spec.action_meanings) for spec in specs}) > 1:
        told = "; ".join(f"{spec.name}: {spec.kind}, {spec.actions} {list(spec.action_meanings)}" for spec in specs)
        raise MismatchError(f"several teachers need one kind of answer and the same actions, these have {told}")
    objective = Objective(recipe.terms, kind, teacher.spec.actions, own_parts, teachers=len(teachers))
    _check_objective(objective, recipe, own_parts or {})
    if "head" in objective.needs and teacher.network.last_weights is None:
        raise MismatchError(f"a term reads the teacher's last weights, and {teacher.spec.name} is made of members")
    if "hard_labels" in recipe.controls and not teacher.spec.discrete:
        remedy = """--set 'controls=["shuffled_teacher"]'"""
        raise MismatchError(f"control 'hard_labels' needs discrete actions, the teacher's are '{kind}'; take {remedy}")
    source, memory = recipe.source, any(network.core != "none" for network in students.values())
    if source.synthetic is not None:
        source = replace(source, synthetic=Part(source.synthetic.name, made_by(source.synthetic).keywords))
        shape = spaces(environment)[0]
        if len(shape) != 1:
            raise MismatchError(f"states can be made up of vectors, those of {environment.id} are {list(shape)}")
        if memory or any(each.recurrent for each in teachers):
            raise MismatchError("made-up states follow no others: neither teachers nor students can be recurrent")
    if source.search is not None:
        _check_search(source.search, teacher)
        check_copies(environment)
    in_a_row = source.states // (source.num_envs * source.rounds)
    if memory and in_a_row < SEQUENCE:
        raise MismatchError(
            f"recurrent students learn from {SEQUENCE} states in a row, the first round brings {in_a_row} of each "
            "environment; raise source.states, or lower source.num_envs or source.rounds"
        )
    return replace(recipe, source=source, terms=tuple(bound.term for bound in objective.terms))


def _check_search(search: Search, teacher: Policy) -> None:
    if not teacher.spec.discrete and (search.name, search.choose) != ("sampled", "return"):
        raise MismatchError(
            f"a search by likelihood needs discrete actions, the teacher's are '{teacher.spec.kind}'; take --set "
            """source.search='{name="sampled",width=4,length=16,choose="return"}'"""
        )


def _check_objective(objective: Objective, recipe: Distill, own_parts: Parts) -> None:
    """Raise MismatchError or RecipeError where the loss does not fit the rest of the recipe."""
    needs = objective.needs
    objective.check_known(FIELDS - {"ratio", "demonstrated"}, "in a replay")
    if not needs & {"scores", "probabilities", "every_score", "every_probability", "action"}:
        raise MismatchError("no term asks the teacher: a student would learn from itself alone")
    if ("familiarity" in needs) != (recipe.novelty is not None):
        raise MismatchError("[novelty] and a weight that reads 'familiarity' belong together")
    if not objective.discrete and needs & {"last_round", "moving_average"}:
        raise MismatchError(f"earlier selves need discrete actions, the teacher's are '{objective.teacher}'")
    if "advantage" in needs and recipe.source.synthetic is not None:
        raise MismatchError("a part reads 'advantage', and no rewards follow on made-up states; leave out synthetic")
    if "fitted" in needs and recipe.source.teacher_fraction != (1.0, 1.0):
        raise MismatchError(
            "target 'calibrate' is fitted to what the teacher did; a teacher_fraction below 1 lets students act: take "
            "--set source.teacher_fraction=[1.0,1.0]"
        )
    if any(term.gate for term in recipe.terms):
        raise MismatchError("a gate follows the score of play in training; it belongs to reinforcement learning")
    if objective.teachers > 1 and not objective.asks_several:
        raise MismatchError(
            f"{objective.teachers} teachers were given, and the recipe asks the first alone; take one as "
            "multi_teacher_average"
        )
    named = {part.name for term in recipe.terms for part in (term.teacher, *term.target, term.divergence)}
    named |= {term.weight.name for term in recipe.terms if term.weight is not None}
    for name in set(own_parts) - named:
        raise RecipeError(f"part '{name}' was passed in, and no term of the recipe names it")


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
