"""One distillation run: teacher and students -> trained, evaluated students with their controls.

    evaluate teacher and random play -> rounds of (collect round k + 1 | learn from rounds up to k) -> evaluate students

Collecting and learning overlap with a lag of exactly one round. All students share one replay, so the teacher is asked
once. Controls are extra students of the first one's shape at the same budget.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlkd import metrics, storage
from rlkd.data import Evaluation
from rlkd.distillation.learning import Setting, learn_rounds
from rlkd.distillation.student import Plan, Student
from rlkd.distillation.terms import reported_temperature, student_kind
from rlkd.errors import MismatchError
from rlkd.evaluation import agreement, environment_of, mean_kl, play, play_randomly
from rlkd.policy import PARAMS, Policy
from rlkd.policy.compute import Precision, one_thread_per_role, pick_device
from rlkd.recipe import Distill, Environment, Network
from rlkd.replay import Replay


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentResult:
    """One student after its run."""

    plan: Plan
    """What it was to be."""
    policy: Policy
    """What it became."""
    path: Path
    """Its file."""
    evaluation: Evaluation
    """Its scores."""
    agreement: float
    """Share of held-out teacher states on which teacher and student prefer the same action."""
    kl_teacher_states: float
    """Mean KL(teacher || student) on states that the teacher visits, nats; held out from training."""
    kl_student_states: float
    """The same on states that the student itself visits."""
    gradient_steps: int
    """Steps it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished distillation run."""

    run: Path
    """Its folder."""
    teacher: Policy
    """The teacher, with its environment."""
    teacher_evaluation: Evaluation
    """The teacher's scores."""
    random_evaluation: Evaluation
    """Scores of uniformly random play."""
    students: tuple[StudentResult, ...]
    """In the order asked for."""
    controls: tuple[StudentResult, ...]
    """In the order of the recipe."""
    states: int
    """Distinct states in the replay."""
    steps: int
    """Agent steps that were played to collect them."""
    seconds: Mapping[str, float]
    """Wall seconds by phase, and busy seconds of the roles that overlap."""


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
) -> Result:
    """Distil a teacher into students, all from one replay, and measure what was lost.

    Args:
        teacher: any policy.
        students: networks by name, at least one; controls copy the first.
        recipe: source, terms and budget.
        run: folder; one that was stopped is taken up again: data are collected anew from the same seeds, learning goes
            on where it was.
        seed: of collection, weights and minibatches; the evaluation's episodes are the protocol's.
        environment: where; None takes the teacher's own.
        episodes: per evaluation; None takes the protocol's.
        device: `auto`, `cpu` or `cuda`.
        precision: of collecting and learning; `auto` takes bfloat16 for pixels where the processor has it. Evaluation
            is always float32.

    Raises:
        MismatchError: teacher, environment and terms do not fit.
        MemoryBudgetError: the replay cannot fit.
        Stopped: on SIGINT or SIGTERM, after saving.
    """
    one_thread_per_role()
    environment = environment_of(teacher, environment)
    student_kind(recipe.terms, teacher.spec.kind)
    if any(network.core != "none" for network in students.values()):
        raise MismatchError("recurrent students cannot be distilled yet; take a network with core = 'none'")
    if teacher.recurrent:
        raise MismatchError(f"{teacher.spec.name} is recurrent; distilling recurrent teachers does not work yet")
    plans = [Plan(name, network) for name, network in students.items()]
    plans += [Plan(control, plans[0].network, control) for control in recipe.controls]
    where = pick_device(device)
    learners = [
        Student(plan, recipe, teacher.spec, seed=1009 * seed + place, device=where) for place, plan in enumerate(plans)
    ]
    replay = Replay(
        recipe.source.num_envs,
        recipe.source.states,
        teacher.spec.observation_shape,
        teacher.spec.actions * len(PARAMS[teacher.spec.kind]),
        environment.views.get("pixels"),
    )
    seconds = {}
    clock = time.perf_counter()
    with storage.run_folder(run), metrics.stop_signal() as stop:
        teacher.save(run / "teacher.safetensors")
        played = play(teacher, environment, episodes=episodes, keep_states=recipe.held_out_states, title="teacher")
        random_evaluation = play_randomly(environment, episodes=episodes)
        stop.check(f"run {run} has nothing to keep yet; the same command starts again")
        seconds["evaluate teacher and random play"], clock = time.perf_counter() - clock, time.perf_counter()
        setting = Setting(teacher, environment, recipe, seed, precision, played.states, run)
        steps, busy = learn_rounds(setting, replay, learners, stop)
        seconds["collect and learn"], clock = time.perf_counter() - clock, time.perf_counter()
        results = []
        for student in learners:
            results.append(measure(student, setting, episodes))
            stop.check(f"the students of run {run} are trained and saved; the same command goes on")
        seconds["evaluate students"] = time.perf_counter() - clock
    return Result(
        run=run,
        teacher=teacher,
        teacher_evaluation=played.evaluation,
        random_evaluation=random_evaluation,
        students=tuple(results[: len(students)]),
        controls=tuple(results[len(students) :]),
        states=len(replay),
        steps=steps,
        seconds=seconds | busy,
    )


def measure(student: Student, setting: Setting, episodes: int | None) -> StudentResult:
    """Save a trained student and play it: scores, agreement and KL on the teacher's states and on its own."""
    policy, teacher = student.snapshot(), setting.teacher
    path = setting.run / "students" / f"{student.plan.name}.safetensors"
    policy.save(path)
    played = play(policy, setting.environment, episodes=episodes, keep_states=setting.recipe.held_out_states)
    temperature = reported_temperature(setting.recipe, teacher.spec.kind)
    return StudentResult(
        plan=student.plan,
        policy=policy,
        path=path,
        evaluation=played.evaluation,
        agreement=agreement(policy, teacher, setting.probes),
        kl_teacher_states=mean_kl(policy, teacher, setting.probes, teacher_temperature=temperature),
        kl_student_states=mean_kl(policy, teacher, played.states, teacher_temperature=temperature),
        gradient_steps=student.steps,
    )
