"""The rounds of a distillation run: collect round k + 1 while the students learn from rounds up to k.

The lag is exactly one round, students and collector have random streams of their own, and rows of the replay are read
only after their round is over: the result does not depend on which thread is faster.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlkd import metrics, storage
from rlkd.collect import Collector, Searcher
from rlkd.data import JsonDict
from rlkd.distillation.checkpoint import load_students, save_students
from rlkd.distillation.familiarity import Familiarity
from rlkd.distillation.student import Student
from rlkd.evaluation import agreement, mean_kl
from rlkd.policy import Policy
from rlkd.policy.compute import Precision
from rlkd.recipe import Distill, Environment, recipe_hash, to_table
from rlkd.replay import Kept, Replay, keep
from rlkd.terms import reported_temperatures

CHECKPOINT_SECONDS = 30.0  # at least, between two checkpoints; they are taken between rounds
CURVE_STATES = 256  # held-out states behind each point of a learning curve


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays the same during a run."""

    teacher: Policy
    """Who answers."""
    environment: Environment
    """Where."""
    recipe: Distill
    """How."""
    seed: int
    """Of everything random in collecting and learning."""
    precision: Precision
    """Of collecting and learning."""
    probes: np.ndarray
    """[S, ...]: states that the teacher visited in its evaluation; never trained on."""
    run: Path
    """The run's folder."""
    stretch: int = 1
    """How many of the probes follow each other: policies that remember are compared on consecutive states."""
    own_source: str = ""
    """Hash of the source of a user's own parts; empty where there are none."""
    more_teachers: tuple[Policy, ...] = ()
    """Who answers beside the teacher."""

    @property
    def about(self) -> JsonDict:
        """What the states and answers of a teacher-driven run depend on."""
        return {
            "teachers": [each.spec.hash for each in (self.teacher, *self.more_teachers)],
            "environment": recipe_hash(self.environment),
            "source": to_table(self.recipe.source),
            "seed": self.seed,
            "precision": self.precision,
        }

    @property
    def identity(self) -> str:
        """What a run folder must share with a run that goes on in it."""
        parts = (
            recipe_hash(self.recipe),
            recipe_hash(self.environment),
            self.teacher.spec.hash,
            str(self.seed),
            *([self.own_source] if self.own_source else []),
            *(other.spec.hash for other in self.more_teachers),
        )
        return storage.sha256(" ".join(parts).encode())


def learn_rounds(
    setting: Setting,
    states: Collector | Searcher | Kept,
    replay: Replay,
    students: Sequence[Student],
    stop: metrics.StopSignal,
    *,
    keep_in: Path | None = None,
) -> dict[str, float]:
    """Fill the replay and train all students on it.

    Args:
        setting: of the run.
        states: who plays and fills the replay, or what is known of a replay that is full already.
        replay: states and answers.
        students: who learn.
        stop: when set, all is saved and `Stopped` raised.
        keep_in: the file for what was collected; None keeps nothing.

    Returns:
        Busy seconds by role: the roles overlap, so they add up to more than the wall time.
    """
    recipe = setting.recipe
    load_students(setting.run, students, identity=setting.identity)
    shape = students[0].spec.observation_shape
    weigher = None if recipe.novelty is None else Familiarity(recipe, shape, replay, seed=setting.seed)
    recorded = students[0].steps
    recorder = metrics.Recorder(setting.run, resume_step=recorded + 1 if recorded else 0)
    total = recipe.gradient_steps * len(students)
    try:
        with (
            ThreadPoolExecutor(1) as collecting,
            # One thread a student, also with fewer cores: all finish together, and no core idles at the end.
            ThreadPoolExecutor(len(students)) as learning,
            metrics.bar("collect and learn, gradient steps", total) as bar,
        ):
            rows = np.empty(0, np.int64)
            counts: list[np.ndarray] = []
            familiarity: np.ndarray | None = None
            saved = time.monotonic()
            for number in range(recipe.source.rounds + 1):
                pending: list[Future[None]] = []
                if number < recipe.source.rounds and not isinstance(states, Kept):
                    acting = [student.snapshot() for student in students if student.plan.control == "none"]
                    pending.append(collecting.submit(states.collect, replay, number, acting))
                goal = steps_after(number, recipe)
                pending += [
                    learning.submit(student.learn, replay, rows, goal, setting.precision, stop, familiarity)
                    for student in students
                ]
                while wait(pending, timeout=0.5).not_done:
                    note = f"{len(replay):,} states" + (", stopping" if stop.asked else "")
                    bar.update(sum(student.steps for student in students), note)
                for future in pending:
                    future.result()
                if number < recipe.source.rounds:
                    counts.append(states.rounds[number] if isinstance(states, Kept) else replay.filled)
                    rows = replay.rows(counts[-1])
                    if weigher is not None and not stop.asked:
                        familiarity = weigher.see(rows)
                    if keep_in is not None and number == recipe.source.rounds - 1 and not isinstance(states, Kept):
                        keep(keep_in, replay, Kept(np.stack(counts), states.steps), setting.about)
                if number and students[0].steps > recorded:  # a signal may have come before its first step
                    recorded = students[0].steps
                    recorder.write(recorded, _curves(setting, students))
                if stop.asked or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    saved = time.monotonic()
                    save_students(setting.run, students, identity=setting.identity)
                stop.check(f"run {setting.run} is saved; the same command goes on")
            save_students(setting.run, students, identity=setting.identity)
    finally:
        recorder.close()
    busy = {}
    if not isinstance(states, Kept):
        busy = {
            "collecting: inference": states.seconds.inference,
            "collecting: waiting for emulators": states.seconds.environment,
            "collecting: storing": states.seconds.storing,
        }
    if weigher is not None:
        busy["weighing states"] = weigher.seconds
    return busy | {f"learning: {s.plan.name}": s.seconds for s in students}


def steps_after(rounds: int, recipe: Distill) -> int:
    """Gradient steps that are due once `rounds` rounds of data are there: each round adds in proportion to its data."""
    every = recipe.source.rounds
    return recipe.gradient_steps * rounds * (rounds + 1) // (every * (every + 1))


def _curves(setting: Setting, students: Sequence[Student]) -> dict[str, float]:
    stretches = setting.probes.reshape(-1, setting.stretch, *setting.probes.shape[1:])
    probes = stretches[:: max(1, len(setting.probes) // CURVE_STATES)].reshape(-1, *setting.probes.shape[1:])
    temperatures = reported_temperatures(setting.recipe.terms, setting.teacher.spec.kind)
    values = {}
    for student in students:
        policy, name = student.snapshot(), student.plan.name
        values[f"{name}/loss"] = student.losses[-1] if student.losses else float("nan")
        values[f"{name}/kl"] = mean_kl(policy, setting.teacher, probes, stretch=setting.stretch, **temperatures)
        values[f"{name}/agreement"] = agreement(policy, setting.teacher, probes, stretch=setting.stretch)
    return values
