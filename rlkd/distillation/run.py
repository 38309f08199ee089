"""One distillation run: teacher and students -> trained, evaluated students with their controls.

    evaluate teacher and random play -> rounds of (collect round k + 1 | learn from rounds up to k) -> evaluate students

Collecting and learning overlap with a lag of exactly one round. All students share one replay, so the teacher is asked
once. Controls are extra students of the first one's shape at the same budget.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlkd import metrics, storage
from rlkd.collect import Collector, Searcher
from rlkd.data import Evaluation
from rlkd.distillation.checkpoint import claim
from rlkd.distillation.checks import check_keepable, check_normalisable, check_parts
from rlkd.distillation.learning import Setting, learn_rounds
from rlkd.distillation.student import Plan, Student
from rlkd.errors import MismatchError
from rlkd.evaluation import Played, agreement, environment_of, mean_kl, play, play_randomly, stretch_of
from rlkd.policy import PARAMS, Policy, as_policy
from rlkd.policy.compute import Precision, idle_cores, one_thread_per_role, pick_device
from rlkd.recipe import Distill, Environment, Network
from rlkd.replay import Kept, Replay, path_of, take
from rlkd.terms import Parts, reported_temperatures, source_hash
from rlkd.vector import spaces


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentResult:
    """One student after its run."""

    plan: Plan
    """What it was to be."""
    policy: Policy
    """What it became."""
    path: Path
    """Its file."""
    played: Played
    """Its scores, and states that it visited."""
    agreement: float
    """Share of held-out teacher states on which teacher and student prefer the same action."""
    kl_teacher_states: float
    """Mean KL(teacher || student) on states that the teacher visits, nats; held out from training."""
    kl_student_states: float
    """The same on states that the student itself visits."""
    gradient_steps: int
    """Steps it took."""

    @property
    def evaluation(self) -> Evaluation:
        """Its scores."""
        return self.played.evaluation


@dataclass(frozen=True, slots=True)
class Baseline:
    """What students are compared with."""

    teacher: Played
    """The teacher's scores, and states that it visited: agreement and KL are measured there, nothing is learnt."""
    random: Evaluation
    """Scores of uniformly random play."""


def measure_baseline(
    teacher: Policy,
    environment: Environment,
    *,
    episodes: int | None,
    keep_states: int,
    stretch: int = 1,
    random: Evaluation | None = None,
    stop: metrics.StopSignal | None = None,
) -> Baseline:
    """Play teacher and random actions on the protocol's episodes; `keep_states` of the teacher's are kept, `stretch` of
    them in a row each.

    Random play is not repeated where its scores are given; `Stopped` is raised where `stop` is set.
    """
    played = play(
        teacher, environment, episodes=episodes, keep_states=keep_states, stretch=stretch, title="teacher", stop=stop
    )
    return Baseline(played, random or play_randomly(environment, episodes=episodes, stop=stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished distillation run."""

    run: Path
    """Its folder."""
    recipe: Distill
    """With all numbers of its parts."""
    teacher: Policy
    """The teacher, with its environment."""
    teacher_evaluation: Evaluation
    """The teacher's scores."""
    more_evaluations: tuple[Evaluation, ...]
    """Those of the teachers beside it."""
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
    baseline: Baseline | None = None,
    own_parts: Parts | None = None,
    more_teachers: Sequence[Policy] = (),
    replay_folder: Path | None = None,
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
        baseline: teacher and random play, where several runs compare with one measurement; None measures them.
        own_parts: parts of a loss of a user's own, that the recipe names.
        more_teachers: who answers beside the teacher; they need its kind and its actions. Scores are normalised by the
            first one's, agreement and KL are those with the first.
        replay_folder: where states and answers are kept, and taken from where they are there already: the same
            teachers, environment, source and seed are played and asked once.

    Raises:
        MismatchError: teacher, environment and terms do not fit, or the teacher plays as random play does.
        RecipeError: the recipe names parts or numbers that there are not.
        MemoryBudgetError: the replay cannot fit.
        StorageError: the folder holds another run, is in use or full.
        Stopped: on SIGINT or SIGTERM, after saving.
    """
    one_thread_per_role()
    environment = environment_of(teacher, environment)
    if environment != teacher.spec.environment:
        teacher = as_policy(teacher, env=environment)  # its students are told where they play
    others = tuple(as_policy(each, env=environment) for each in more_teachers)
    recipe = check_parts(teacher, students, recipe, environment, own_parts, others)
    check_keepable(recipe, replay_folder)
    if baseline is not None and baseline.teacher.evaluation.hash != teacher.spec.hash:
        raise MismatchError(f"the baseline was measured with another teacher than {teacher.spec.name}")
    stretch = stretch_of(teacher.recurrent, *(network.core != "none" for network in students.values()))
    if baseline is not None and baseline.teacher.stretch < stretch:
        raise MismatchError(
            f"policies that remember are compared on {stretch} states in a row; measure the baseline so"
        )
    plans = [Plan(name, network) for name, network in students.items()]
    plans += [Plan(control, plans[0].network, control) for control in recipe.controls]
    where = pick_device(device)
    parts = idle_cores(len(plans)) if where.type == "cpu" else 1
    shape = spaces(environment)[0]
    learners = [
        Student(
            plan,
            recipe,
            teacher.spec,
            seed=1009 * seed + place,
            device=where,
            parts=parts,
            observation_shape=shape,
            own_parts=own_parts,
            head=teacher.network.head.weight.detach().float(),
            more_teachers=[each.spec for each in others],
        )
        for place, plan in enumerate(plans)
    ]
    replay = Replay(
        recipe.source.num_envs * (1 + recipe.source.copies),
        recipe.source.states * (1 + recipe.source.copies),
        shape,
        (1 + len(others)) * teacher.spec.actions * len(PARAMS[teacher.spec.kind]),
        environment.views.get("pixels"),
        keeps_actions=teacher.spec.discrete,
    )
    source = source_hash(own_parts or {})
    setting = Setting(
        teacher, environment, recipe, seed, precision, np.empty(0), run, own_source=source, more_teachers=others
    )
    kept_in = None if replay_folder is None else path_of(replay_folder, setting.about)
    seconds = {}
    clock = time.perf_counter()
    with storage.run_folder(run), metrics.stop_signal() as stop:
        claim(run, learners, identity=setting.identity)
        teacher.save(run / "teacher.safetensors")
        for place, other in enumerate(others, 2):
            other.save(run / f"teacher_{place}.safetensors")
        if baseline is None:
            keep = recipe.held_out_states
            baseline = measure_baseline(
                teacher, environment, episodes=episodes, keep_states=keep, stretch=stretch, stop=stop
            )
            check_normalisable(baseline.teacher.evaluation, baseline.random)
        played = [play(each, environment, episodes=episodes, title=each.spec.name, stop=stop) for each in others]
        setting = replace(setting, probes=baseline.teacher.states, stretch=baseline.teacher.stretch)
        seconds["evaluate teacher and random play"], clock = time.perf_counter() - clock, time.perf_counter()
        states: Collector | Searcher | Kept
        if kept_in is not None and kept_in.exists():
            states = take(kept_in, replay)
        else:
            player = Collector if recipe.source.search is None else Searcher
            states = player(environment, teacher, recipe.source, seed=seed, precision=precision, more_teachers=others)
        try:
            busy = learn_rounds(setting, states, replay, learners, stop, keep_in=kept_in)
        finally:
            if not isinstance(states, Kept):
                states.close()
        seconds["collect and learn"], clock = time.perf_counter() - clock, time.perf_counter()
        results = [measure(student, setting, episodes, stop) for student in learners]
        seconds["evaluate students"] = time.perf_counter() - clock
        stop.check(f"run {run} is saved; the same command goes on")  # who asked while KL was measured is heard too
    return Result(
        run=run,
        recipe=recipe,
        teacher=teacher,
        teacher_evaluation=baseline.teacher.evaluation,
        more_evaluations=tuple(each.evaluation for each in played),
        random_evaluation=baseline.random,
        students=tuple(results[: len(students)]),
        controls=tuple(results[len(students) :]),
        states=len(replay),
        steps=states.steps,
        seconds=seconds | busy,
    )


def measure(student: Student, setting: Setting, episodes: int | None, stop: metrics.StopSignal) -> StudentResult:
    """Save a trained student and play it: scores, agreement and KL on the teacher's states and on its own."""
    policy, teacher = student.snapshot(), setting.teacher
    path = setting.run / "students" / f"{student.plan.name}.safetensors"
    policy.save(path)
    keep = setting.recipe.held_out_states
    stretch = setting.stretch
    played = play(policy, setting.environment, episodes=episodes, keep_states=keep, stretch=stretch, stop=stop)
    temperatures = reported_temperatures(setting.recipe.terms, teacher.spec.kind)
    return StudentResult(
        plan=student.plan,
        policy=policy,
        path=path,
        played=played,
        agreement=agreement(policy, teacher, setting.probes, stretch=stretch),
        kl_teacher_states=mean_kl(policy, teacher, setting.probes, stretch=stretch, **temperatures),
        kl_student_states=mean_kl(policy, teacher, played.states, stretch=stretch, **temperatures),
        gradient_steps=student.steps,
    )
