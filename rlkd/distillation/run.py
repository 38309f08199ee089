"""One distillation run: teacher and students -> trained, evaluated students with their controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlkd.distillation.checks import check_keepable, check_one_game, check_parts
from rlkd.distillation.games import run_games
from rlkd.distillation.learning import Setting
from rlkd.distillation.result import Baseline, Result
from rlkd.distillation.student import Plan
from rlkd.distillation.views import check_views
from rlkd.errors import MismatchError
from rlkd.evaluation import environment_of, stretch_of
from rlkd.policy import Policy, as_policy
from rlkd.policy.compute import Precision
from rlkd.recipe import Distill, Environment, Network
from rlkd.terms import Parts, source_hash


def run_distillation(
    teacher: Policy,
    students: Mapping[str, Network],
    recipe: Distill,
    *,
    run: Path,
    seed: int,
    environment: Environment | None = None,
    episodes: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    baseline: Baseline | None = None,
    own_parts: Parts | None = None,
    more_teachers: Sequence[Policy] = (),
    replay_folder: Path | None = None,
    student_environment: Environment | None = None,
    starts: Mapping[str, Policy] | None = None,
    frozen: str = "",
    student_seed: int | None = None,
) -> Result:
    """Distil a teacher into students, all from one replay, and measure what was lost.

    Args:
        teacher: any policy.
        students: networks by name, at least one; controls copy the first.
        recipe: source, terms and budget.
        run: folder; one that was stopped or killed is taken up again, and ends with the bits of a run that was not:
            states and answers are taken from the rounds' files, nobody is asked, and learning goes on where it was,
            while emulators play again what was decided in them. Under other versions, on another kind of processor or
            device, one line says that bits may differ. A search is made anew, and two views are compared anew.
        seed: of collection, weights and minibatches; the evaluation's episodes are the protocol's.
        environment: where; None takes the teacher's own.
        episodes: per evaluation; None takes the protocol's.
        device: `auto`, `cpu` or `cuda`.
        precision: of collecting and learning; `auto` takes bfloat16 for pixels where the processor has it. Evaluation
            is always float32.
        baseline: teacher and random play, where several runs compare with one measurement; None measures them.
        own_parts: parts of a loss of a user's own, that the recipe names.
        more_teachers: who answers beside the teacher; they need its kind and its actions. Scores are normalised by the
            first one's, agreement and KL are those with the first.
        replay_folder: where states and answers are kept, and taken from where they are there already: the same
            teachers, environment, source and seed are played and asked once.
        student_environment: the same game as students see it, if otherwise than the teacher does: both views are of the
            same tick.
        starts: policies whose weights students begin with, by the students' names; controls begin afresh.
        frozen: weights of students whose names begin so keep their values; empty: all learn.
        student_seed: of weights and minibatches, where `seed` is to be of collection alone; None takes `seed`.

    Raises:
        MismatchError: teacher, environment and terms do not fit, or the teacher plays as random play does.
        RecipeError: the recipe names parts or numbers that there are not.
        MemoryBudgetError: the replay cannot fit.
        StorageError: the folder holds another run, is in use or full; a round that students have learnt from is
            damaged or gone; the environment does not give what it gave.
        Stopped: on SIGINT, SIGTERM or SIGUSR1, after saving.
    """
    environment = environment_of(teacher, environment)
    if environment != teacher.spec.environment:
        teacher = as_policy(teacher, env=environment)  # its students are told where they play
    check_one_game(teacher, environment, more_teachers)
    others = tuple(as_policy(each, env=environment) for each in more_teachers)
    recipe = check_parts(teacher, students, recipe, environment, own_parts, others)
    check_keepable(recipe, replay_folder)
    if student_environment is not None:
        check_views(recipe, student_environment, environment)
    if baseline is not None and baseline.teacher.evaluation.hash != teacher.spec.hash:
        raise MismatchError(f"the baseline was measured with another teacher than {teacher.spec.name}")
    stretch = stretch_of(teacher.recurrent, *(network.core != "none" for network in students.values()))
    if baseline is not None and baseline.teacher.stretch < stretch:
        raise MismatchError(
            f"policies that remember are compared on {stretch} states in a row; measure the baseline so"
        )
    source = source_hash(own_parts or {})
    setting = Setting(
        teacher,
        student_environment or environment,
        recipe,
        seed,
        precision,
        np.empty(0),
        run,
        stretch,
        own_source=source,
        more_teachers=others,
        begun=(*(f"{name} {start.spec.hash}" for name, start in (starts or {}).items()), *([frozen] if frozen else [])),
        student_seed=student_seed,
    )
    (result,) = run_games(
        [setting],
        [
            Plan(name, network, start=(starts or {}).get(name), frozen=frozen if name in (starts or {}) else "")
            for name, network in students.items()
        ],
        identity=setting.identity,
        episodes=episodes,
        device=device,
        baseline=baseline,
        own_parts=own_parts,
        replay_folder=replay_folder,
    )
    return result
