"""The rounds of a distillation run: collect round k + 1 while the students learn from rounds up to k.

The lag is exactly one round, students and collector have random streams of their own, and rows of the replay are read
only after their round is over: the result does not depend on which thread is faster. Of several games, each has a
replay of its own, filled one after the other.

A run that goes on takes the rounds that it has behind it from their files (`rlkd.distillation.playing`) and learns
where it stopped; environments play them again meanwhile.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from rlkd import metrics, storage
from rlkd.collect import Collector, Searcher
from rlkd.data import JsonDict
from rlkd.distillation.checkpoint import Found, circumstances, load_students, save_students
from rlkd.distillation.familiarity import Familiarity
from rlkd.distillation.lesson import Seen, advantages
from rlkd.distillation.playing import play_round
from rlkd.distillation.steps import Ending, learn, steps_of
from rlkd.distillation.student import Student
from rlkd.errors import Stopped
from rlkd.evaluation import agreement, mean_kl
from rlkd.policy import Policy
from rlkd.policy.compute import Precision
from rlkd.recipe import Distill, Environment, Sampling, recipe_hash, to_table
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
    game: str = ""
    """What files call the environment, where a run has several; empty where it has one."""
    begun: tuple[str, ...] = ()
    """Hashes of the policies that students begin with, and names of what stays of them; empty where all is new."""
    student_seed: int | None = None
    """Of weights and minibatches, where it is not that of what is collected."""
    told: Tensor | None = None
    """[S, P]: its answers to the probes, where it sees them otherwise; None: it is asked."""

    @property
    def teacher_environment(self) -> Environment | None:
        """The same game as the teacher sees it; None where students see it in the same way."""
        own = self.teacher.spec.environment
        return None if own == self.environment else own

    @property
    def about(self) -> JsonDict:
        """What the states and answers of a teacher-driven run depend on."""
        return {
            "teachers": [each.spec.hash for each in (self.teacher, *self.more_teachers)],
            "environment": recipe_hash(self.environment),
            "source": to_table(self.recipe.source),
            "seed": self.seed,
            "precision": self.precision,
            "keeps": "rewards",  # files of before had none
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
            *self.begun,
            *([f"students {self.student_seed}"] if self.student_seed is not None else []),
        )
        return storage.sha256(" ".join(parts).encode())


@dataclass(slots=True)
class Game:
    """One game of a run: who plays it, and what was seen of it so far."""

    setting: Setting
    """Who teaches it, where and how."""
    students: Sequence[Student]
    """Who learn it: of each network the student with this game's head."""
    replay: Replay
    """States and answers."""
    states: Collector | Searcher | Kept
    """Who plays and fills the replay, or what is known of a replay that is full already."""
    keep_in: Path | None = None
    """The file for what was collected; None keeps nothing."""
    weigher: Familiarity | None = None
    """Says how familiar states are, where the recipe asks."""
    counts: list[np.ndarray] = field(default_factory=list)
    """[N] each: states of each environment at the end of each round."""
    seen: Seen | None = None
    """What the rounds so far have brought."""
    digests: list[str] = field(default_factory=list)
    """Checksum of each round that was played and lies in the run's folder."""

    def play(self, number: int, students: Sequence[Policy], identity: str, stop: metrics.StopSignal) -> None:
        """Fill the replay up to the end of a round.

        A search is made anew when a run goes on: it is the teacher's alone, and comes to the same.
        """
        if isinstance(self.states, Searcher):
            self.states.collect(self.replay, number, students)
        elif isinstance(self.states, Collector):
            known = self.digests[number] if number < len(self.digests) else None
            digest = play_round(
                self.states,
                self.replay,
                number,
                students,
                folder=self.setting.run / "replay" / self.setting.game,
                about={"identity": identity, "game": self.setting.game, "after": (["", *self.digests])[number]},
                named=known,
                stop=stop,
            )
            if known is None:
                self.digests.append(digest)

    def count(self, *, weigh: bool) -> None:
        """Take note of what the round that is over has brought, and keep it after the last one."""
        kept, number, setting = isinstance(self.states, Kept), len(self.counts), self.setting
        self.counts.append(self.states.rounds[number] if isinstance(self.states, Kept) else self.replay.filled)
        rows = self.replay.rows(self.counts[-1])
        familiarity = self.weigher.see(rows) if self.weigher is not None and weigh else None
        advantage = None
        if any("advantage" in student.objective.needs for student in self.students):
            advantage = advantages(self.replay, rows, setting.recipe.discount)
        self.seen = Seen(self.replay, rows, familiarity, advantage)
        if self.keep_in is not None and not kept and len(self.counts) == setting.recipe.source.rounds:
            keep(self.keep_in, self.replay, Kept(np.stack(self.counts), self.states.steps), setting.about)


def learn_rounds(
    games: Sequence[Game], stop: metrics.StopSignal, *, identity: str, sampling: Sampling = "even"
) -> dict[str, float]:
    """Fill the replays and train all students on them.

    Args:
        games: of the run; all have as many rounds and students, which are in the same order.
        stop: when set, all is saved and `Stopped` raised.
        identity: of the run.
        sampling: from which games minibatches come, where there are several.

    Returns:
        Busy seconds by role: the roles overlap, so they add up to more than the wall time.
    """
    setting = games[0].setting
    run, recipe = setting.run, setting.recipe
    networks = list(zip(*(game.students for game in games), strict=True))
    students = [student for game in games for student in game.students]
    found = load_students(run, students, identity=identity)
    under = circumstances(students, setting.precision)
    for game in games:
        game.digests = list(found.rounds.get(game.setting.game, ()))
        if recipe.novelty is not None:
            shape = game.students[0].spec.observation_shape
            game.weigher = Familiarity(recipe, shape, game.replay, seed=setting.seed)
    # A point of the curves is of a whole round: what a stopped run learnt of another one has none yet.
    taken = min(steps_of(network) for network in networks)
    ends = [steps_after(number, recipe) for number in range(recipe.source.rounds + 1)]
    recorded = max(end for end in ends if end <= taken)
    recorder = metrics.Recorder(run, resume_step=recorded + 1 if recorded else 0)
    total = recipe.gradient_steps * len(networks)

    def save() -> None:
        found = Found({game.setting.game: game.digests for game in games}, under)
        save_students(run, students, identity=identity, found=found)

    try:
        with (
            ThreadPoolExecutor(1) as collecting,
            # One thread a network, also with fewer cores: all finish together, and no core idles at the end.
            ThreadPoolExecutor(len(networks)) as learning,
            metrics.bar("collect and learn, gradient steps", total) as bar,
        ):
            saved, ending = time.monotonic(), Ending(stop)
            for number, goal in enumerate(ends):
                pending: list[Future[None]] = []
                for game in games:
                    if number < recipe.source.rounds and not isinstance(game.states, Kept):
                        acting = [student.snapshot() for student in game.students if student.plan.control == "none"]
                        pending.append(collecting.submit(game.play, number, acting, identity, stop))
                seen = [game.seen for game in games if game.seen is not None]
                if seen:
                    pending += [
                        learning.submit(learn, network, seen, goal, setting.precision, ending, sampling)
                        for network in networks
                    ]
                while wait(pending, timeout=0.5).not_done:
                    ending.failed = any(future.done() and future.exception() for future in pending)
                    note = f"{sum(len(game.replay) for game in games):,} states" + (", stopping" if stop.asked else "")
                    bar.update(steps_of(students), note)
                try:
                    for future in pending:
                        future.result()
                except Stopped:  # while environments caught up
                    # Who acts in the round that is not there needs the weights of before; a whole round has its point.
                    whole = all(steps_of(network) >= goal for network in networks)
                    if recipe.source.teacher_fraction == (1.0, 1.0) and not whole:
                        save()
                    raise
                if number < recipe.source.rounds:
                    for game in games:
                        game.count(weigh=not stop.asked)
                if goal > recorded and all(steps_of(network) >= goal for network in networks):
                    recorded = goal
                    recorder.write(recorded, {tag: value for game in games for tag, value in _curves(game).items()})
                # Last, so that all it counts on is there: the rounds' files, the points of the curves.
                if stop.asked or number == recipe.source.rounds or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    saved = time.monotonic()
                    save()
                stop.check(f"run {run} is saved; the same command goes on")
    finally:
        recorder.close()
    busy: dict[str, float] = {}
    for game in games:
        if not isinstance(game.states, Kept):
            spent = game.states.seconds
            for role, seconds in (
                ("collecting: inference", spent.inference),
                ("collecting: waiting for emulators", spent.environment),
                ("collecting: storing", spent.storing),
            ):
                busy[role] = busy.get(role, 0.0) + seconds
        if game.weigher is not None:
            busy["weighing states"] = busy.get("weighing states", 0.0) + game.weigher.seconds
    return busy | {f"learning: {student.plan.label}": student.seconds for student in students}


def steps_after(rounds: int, recipe: Distill) -> int:
    """Gradient steps that are due once `rounds` rounds of data are there: each round adds in proportion to its data."""
    every = recipe.source.rounds
    return recipe.gradient_steps * rounds * (rounds + 1) // (every * (every + 1))


def _curves(game: Game) -> dict[str, float]:
    setting = game.setting
    stretches = setting.probes.reshape(-1, setting.stretch, *setting.probes.shape[1:])
    every = max(1, len(setting.probes) // CURVE_STATES)
    probes = stretches[::every].reshape(-1, *setting.probes.shape[1:])
    told = setting.told
    if told is not None:
        told = told.reshape(len(stretches), setting.stretch, -1)[::every].flatten(0, 1)
    temperatures = reported_temperatures(setting.recipe.terms, setting.teacher.spec.kind)
    values = {}
    for student in game.students:
        policy, name = student.snapshot(), student.plan.label
        values[f"{name}/loss"] = student.losses[-1] if student.losses else float("nan")
        teacher, stretch = setting.teacher, setting.stretch
        values[f"{name}/kl"] = mean_kl(policy, teacher, probes, stretch=stretch, told=told, **temperatures)
        values[f"{name}/agreement"] = agreement(policy, teacher, probes, stretch=stretch, told=told)
    return values
