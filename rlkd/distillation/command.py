"""`distill`: names in, a run folder out."""

from collections.abc import Sequence
from pathlib import Path

from rlkd import recipe as recipes
from rlkd import storage
from rlkd.data import JsonDict
from rlkd.distillation.record import run_record
from rlkd.distillation.result import Baseline
from rlkd.distillation.run import run_distillation
from rlkd.distillation.tasks import run_tasks
from rlkd.distillation.tasks_record import tasks_record
from rlkd.errors import RecipeError
from rlkd.evaluation import environment_of
from rlkd.policy import Policy, as_policy
from rlkd.recipe import Distill, Environment, Network, check_request
from rlkd.terms import Parts
from rlkd.vector import as_recipe


def distill(
    teacher: Policy | str | Path | Sequence[Policy | str | Path],
    students: Sequence[str] = (),
    *,
    run: str | Path,
    agent: str | None = None,
    env: Environment | str | None = None,
    seed: int = 0,
    episodes: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    command: str = "",
    baseline: Baseline | None = None,
    parts: Parts | None = None,
    replay: str | Path | None = None,
    student_env: Environment | str | None = None,
) -> JsonDict:
    """Distil a teacher into students, all from one replay, and measure what was lost.

    Args:
        teacher: a policy or its file; several for recipes that ask several, scores are normalised by the first one's;
            one of each game for recipes with `[tasks]`.
        students: network recipes, scaled as in `nature@width=0.5`; none takes the distillation recipe's own.
        run: folder for everything; the students are `students/NAME.safetensors` in it, of several games
            `students/NAME_GAME.safetensors` for each. One that was stopped goes on.
        agent: distillation recipe; None takes `policy_distillation` for pixels and `classic` for vectors.
        env: where; None takes the teacher's own.
        seed: of collection, weights and minibatches; the evaluation's episodes are the protocol's.
        episodes: per evaluation; None takes the protocol's.
        device: `auto`, `cpu` or `cuda`.
        overrides: `key=value` for the distillation recipe.
        command: for the record.
        baseline: of an earlier run with the same teacher, environment and episodes; None measures one. For one game.
        parts: of a loss, of your own, by the names that the recipe gives them.
        replay: folder where states and answers are kept, and taken from where the same teachers were played and asked
            before; for recipes whose states are all the teachers'.
        student_env: the same game as students see it, if otherwise than the teacher does, as `pong` for a teacher of
            `pong_memory`.

    Returns:
        What `run.json` holds: teacher, students, controls, seconds, recipe, versions; of several games, `tasks` has
        teacher, students and controls of each, and `students` and `controls` are what they come to together.

    Raises:
        RlkdError: what the caller can fix; `Stopped` on a signal, after saving.
    """
    check_request(seed, episodes)
    folder = Path(run)
    several = [teacher] if isinstance(teacher, Policy | str | Path) else list(teacher)
    if not several:
        raise RecipeError("no teacher was named; rlkd distill TEACHER [TEACHER ...]")
    policy, *others = (as_policy(each, env=None if env is None else as_recipe(env)) for each in several)
    students_see = None if student_env is None else as_recipe(student_env)
    recipe = recipes.load(agent or default_recipe(policy, students_see), Distill, overrides=overrides)
    networks = {recipes.network_label(name): recipes.load(name, Network) for name in students or recipe.students}
    if len(networks) < len(students or recipe.students):
        raise RecipeError(f"students need different names, got {', '.join(students or recipe.students)}")
    kept = None if replay is None else Path(replay)
    if recipe.tasks is not None and others:
        if baseline is not None or student_env is not None:
            raise ValueError("a baseline and a student_env are of one game")
        results = run_tasks(
            [policy, *others],
            networks,
            recipe,
            run=folder,
            seed=seed,
            episodes=episodes,
            device=device,
            own_parts=parts,
            replay_folder=kept,
        )
        record = tasks_record(results, recipe, seed=seed, command=command)
        storage.write_json(folder / "run.json", record)
        return record
    environment = students_see or environment_of(policy, None)
    result = run_distillation(
        policy,
        networks,
        recipe,
        run=folder,
        seed=seed,
        environment=environment_of(policy, None),
        episodes=episodes,
        device=device,
        baseline=baseline,
        own_parts=parts,
        more_teachers=others,
        replay_folder=kept,
        student_environment=students_see,
    )
    record = run_record(result, environment, seed=seed, command=command)
    storage.write_json(folder / "run.json", record)
    return record


def default_recipe(teacher: Policy, students_see: Environment | None = None) -> str:
    """Name of the distillation recipe for a teacher where nobody chose one."""
    pixels = teacher.spec.observation_dtype == "uint8" if students_see is None else bool(students_see.views)
    return "policy_distillation" if pixels else "classic"
