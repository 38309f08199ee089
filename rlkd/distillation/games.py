"""What was checked is run: teachers and students of one game, or of several that the same students learn.

    evaluate teacher and random play -> rounds of (collect round k + 1 | learn from rounds up to k) -> evaluate students

Collecting and learning overlap with a lag of exactly one round. All students share one replay (of each game), so the
teacher is asked once. Controls are extra students of the first one's shape at the same budget.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rlkd import metrics, storage
from rlkd.collect import Collector, Searcher
from rlkd.data import Evaluation
from rlkd.distillation.baseline import measure_baseline
from rlkd.distillation.checkpoint import circumstances, claim
from rlkd.distillation.checks import check_normalisable
from rlkd.distillation.learning import Game, Setting, learn_rounds
from rlkd.distillation.result import Baseline, Result, StudentResult
from rlkd.distillation.student import Plan, Student
from rlkd.distillation.views import compared, pupil_of
from rlkd.evaluation import agreement, mean_kl, play
from rlkd.policy import PARAMS
from rlkd.policy.compute import idle_cores, one_thread_per_role, pick_device
from rlkd.recipe import Sampling, View
from rlkd.replay import Kept, Replay, check_memory, path_of, replay_bytes, take
from rlkd.terms import Parts, reported_temperatures
from rlkd.vector import spaces

HELD_OUT = 500_009  # added to the seed of a run for states that students are compared on


def run_games(
    settings: Sequence[Setting],
    students: Sequence[Plan],
    *,
    identity: str,
    episodes: int | None,
    device: str,
    baseline: Baseline | None = None,
    own_parts: Parts | None = None,
    replay_folder: Path | None = None,
    sampling: Sampling = "even",
) -> list[Result]:
    """Train the students on all games together and measure them on each: one result a game.

    Args:
        settings: of each game, all with one run folder.
        students: at least one; controls copy the first's network.
        identity: of the run.
        episodes: per evaluation; None takes the protocol's.
        device: `auto`, `cpu` or `cuda`.
        baseline: of the only game; None measures one of each.
        own_parts: parts of a loss of a user's own.
        replay_folder: where states and answers are kept, a file a game, and taken from.
        sampling: from which games minibatches come, where there are several.
    """
    one_thread_per_role()
    run = settings[0].run
    shapes = [spaces(setting.environment)[0] for setting in settings]
    learners = _students(settings, shapes, students, device, own_parts)
    sizes = [_replay_size(*each) for each in zip(settings, shapes, strict=True)]
    # Beside the replays, a round on its way to its file or from there: its states twice.
    rounds = settings[0].recipe.source.rounds
    needed = sum(replay_bytes(*size) for size in sizes) * (rounds + 2) // rounds
    check_memory(needed, recipe_key="source.states")
    replays = [
        Replay(*size, keeps_actions=setting.teacher.spec.discrete, keeps_rewards=True)
        for setting, size in zip(settings, sizes, strict=True)
    ]
    seconds, clock = {}, time.perf_counter()
    with storage.run_folder(run), metrics.stop_signal() as stop:
        every = [student for of_game in learners for student in of_game]
        claim(run, every, identity=identity, precision=settings[0].precision)
        for setting in settings:
            for place, teacher in enumerate((setting.teacher, *setting.more_teachers), 1):
                teacher.save(teacher_file(run, setting.game, place))
        baselines = [baseline or _baseline(setting, episodes, stop) for setting in settings]
        more = [
            _more(setting, found.random, episodes, stop) for setting, found in zip(settings, baselines, strict=True)
        ]
        seconds["evaluate teacher and random play"], clock = time.perf_counter() - clock, time.perf_counter()
        games: list[Game] = []
        try:
            for setting, found, of_game, replay in zip(settings, baselines, learners, replays, strict=True):
                probed = replace(setting, probes=found.teacher.states, stretch=found.teacher.stretch)
                if setting.teacher_environment is not None:
                    probes, told = compared(probed, (), seed=setting.seed + HELD_OUT)
                    probed = replace(probed, probes=probes, told=told)
                kept_in = None if replay_folder is None else path_of(replay_folder, probed.about)
                games.append(Game(probed, of_game, replay, _states(probed, replay, kept_in), kept_in))
            busy = learn_rounds(games, stop, identity=identity, sampling=sampling)
        finally:
            for game in games:
                if not isinstance(game.states, Kept):
                    game.states.close()
        seconds["collect and learn"], clock = time.perf_counter() - clock, time.perf_counter()
        results = [[measure(student, game.setting, episodes, stop) for student in game.students] for game in games]
        seconds["evaluate students"] = time.perf_counter() - clock
        stop.check(f"run {run} is saved; the same command goes on")  # who asked while KL was measured is heard too
    return [
        Result(
            run=run,
            recipe=game.setting.recipe,
            game=game.setting.game,
            teacher=game.setting.teacher,
            teacher_evaluation=found.teacher.evaluation,
            more_evaluations=others,
            random_evaluation=found.random,
            students=tuple(measured[: len(students)]),
            controls=tuple(measured[len(students) :]),
            states=len(game.replay),
            steps=game.states.steps,
            data_hash=game.replay.digest(),
            seconds=seconds | busy,
            under=circumstances(game.students, game.setting.precision) | {"parts": str(game.students[0].parts)},
        )
        for game, found, others, measured in zip(games, baselines, more, results, strict=True)
    ]


def _students(
    settings: Sequence[Setting],
    shapes: Sequence[tuple[int, ...]],
    wanted: Sequence[Plan],
    device: str,
    own_parts: Parts | None,
) -> list[list[Student]]:
    """Each game's students and controls; those of one network share its encoder."""
    plans = list(wanted)
    plans += [Plan(control, plans[0].network, control) for control in settings[0].recipe.controls]
    where = pick_device(device)
    found = [
        [
            Student(
                replace(plan, game=setting.game),
                setting.recipe,
                pupil_of(setting),
                seed=1009 * _seed_of(setting) + place + number * len(plans),
                device=where,
                parts=idle_cores(len(plans)) if where.type == "cpu" else 1,
                observation_shape=shape,
                own_parts=own_parts,
                head=setting.teacher.network.last_weights,
                more_teachers=[each.spec for each in setting.more_teachers],
            )
            for place, plan in enumerate(plans)
        ]
        for number, (setting, shape) in enumerate(zip(settings, shapes, strict=True))
    ]
    for of_game in found[1:]:
        for student, first in zip(of_game, found[0], strict=True):
            student.join(first)
    return found


def _seed_of(setting: Setting) -> int:
    """Of the students."""
    return setting.seed if setting.student_seed is None else setting.student_seed


def _replay_size(setting: Setting, shape: tuple[int, ...]) -> tuple[int, int, tuple[int, ...], int, View | None]:
    """Arguments of `Replay` for one game."""
    source, spec = setting.recipe.source, setting.teacher.spec
    return (
        source.num_envs * (1 + source.copies),
        source.states * (1 + source.copies),
        shape,
        (1 + len(setting.more_teachers)) * spec.actions * len(PARAMS[spec.kind]),
        setting.environment.views.get("pixels"),
    )


def _states(setting: Setting, replay: Replay, kept_in: Path | None) -> Collector | Searcher | Kept:
    """Who plays one game, or what was kept of an earlier run that fills the replay."""
    if kept_in is not None and kept_in.exists():
        return take(kept_in, replay)
    player: type[Searcher] | partial[Collector] = Searcher
    if setting.recipe.source.search is None:
        player = partial(Collector, teacher_environment=setting.teacher_environment)
    return player(
        setting.environment,
        setting.teacher,
        setting.recipe.source,
        seed=setting.seed,
        precision=setting.precision,
        more_teachers=setting.more_teachers,
    )


def teacher_file(run: Path, game: str, place: int = 1) -> Path:
    """Where a run keeps a teacher: of its game, if it has several, and by its place, if the game has several."""
    parts = ("teacher", *([game] if game else []), *([str(place)] if place > 1 else []))
    return run / f"{'_'.join(parts)}.safetensors"


def _baseline(setting: Setting, episodes: int | None, stop: metrics.StopSignal) -> Baseline:
    """What a game's students are compared with; MismatchError where there is nothing to normalise by."""
    file = teacher_file(setting.run, setting.game)
    found = measure_baseline(
        setting.teacher,
        setting.teacher_environment or setting.environment,
        episodes=episodes,
        keep_states=setting.recipe.held_out_states,
        stretch=setting.stretch,
        stop=stop,
        keep_in=file.with_suffix(".played.safetensors"),
    )
    check_normalisable(found.teacher.evaluation, found.random)
    return found


def _more(
    setting: Setting, random: Evaluation, episodes: int | None, stop: metrics.StopSignal
) -> tuple[Evaluation, ...]:
    """Scores of the teachers beside the first one."""
    return tuple(
        measure_baseline(
            other,
            setting.environment,
            episodes=episodes,
            keep_states=0,
            random=random,
            stop=stop,
            keep_in=teacher_file(setting.run, setting.game, place).with_suffix(".played.safetensors"),
        ).teacher.evaluation
        for place, other in enumerate(setting.more_teachers, 2)
    )


def measure(student: Student, setting: Setting, episodes: int | None, stop: metrics.StopSignal) -> StudentResult:
    """Save a trained student and play it: scores, agreement and KL on the teacher's states and on its own."""
    policy, teacher = student.snapshot(), setting.teacher
    path = setting.run / "students" / f"{student.plan.label}.safetensors"
    policy.save(path)
    keep = setting.recipe.held_out_states
    stretch = setting.stretch
    played = play(policy, setting.environment, episodes=episodes, keep_states=keep, stretch=stretch, stop=stop)
    states, told = played.states, None
    if setting.teacher_environment is not None:
        states, told = compared(setting, (policy,), seed=setting.seed + HELD_OUT)
    temperatures = reported_temperatures(setting.recipe.terms, teacher.spec.kind)
    return StudentResult(
        plan=student.plan,
        policy=policy,
        path=path,
        played=played,
        agreement=agreement(policy, teacher, setting.probes, stretch=stretch, told=setting.told),
        kl_teacher_states=mean_kl(policy, teacher, setting.probes, stretch=stretch, told=setting.told, **temperatures),
        kl_student_states=mean_kl(policy, teacher, states, stretch=stretch, told=told, **temperatures),
        gradient_steps=student.steps,
    )
