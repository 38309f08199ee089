"""Tests of `rlkd.distillation`: a run that was stopped or killed ends with the bits of the uninterrupted one, whoever
acts, and nobody is asked again for what was said already."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from torch import Tensor

from rlkd import storage
from rlkd.cli import main
from rlkd.collect import Collector, round_file
from rlkd.distillation import Baseline, learning, measure_baseline, run_distillation
from rlkd.distillation import games as games_module
from rlkd.distillation.checkpoint import FILE, load_students
from rlkd.distillation.learning import Game, learn_rounds
from rlkd.distillation.student import Student
from rlkd.errors import OtherRunError, Stopped, StorageError
from rlkd.metrics import StopSignal, read_metrics
from rlkd.policy import Policy
from rlkd.recipe import Distill, Network, Source
from tests.handmade import (
    TINY,
    TINY_PIXELS,
    cartpole_teacher,
    ended,
    environment,
    policy,
    started,
    student_file,
    who_is_asked,
)
from tests.handmade import small_distillation as small

TINY_GRID = Network(encoder="conv", channels=(4,), kernels=(2,), strides=(1,), hidden=(16,))
ROUNDS = 4
TEACHER = small(
    source=Source(states=320, rounds=ROUNDS, num_envs=4, epsilon=0.1),
    gradient_steps=60,
    batch_size=16,
    held_out_states=16,
    controls=("shuffled_teacher",),
)
MIXED = replace(TEACHER, source=replace(TEACHER.source, teacher_fraction=(0.5, 0.0)))
STUDENTS = replace(TEACHER, source=replace(TEACHER.source, teacher_fraction=(0.0, 0.0)))


@dataclass(frozen=True)
class Played:
    """Who teaches whom, and what they are compared with."""

    teacher: Policy
    student: Network
    baseline: Baseline


@dataclass(frozen=True)
class End:
    """All that a run has come to, times left out."""

    tensors: dict[str, Tensor]
    """Weights and moments in the last checkpoint, and what is in the replay."""
    record: list[Any]
    """What else that checkpoint says of students, the learning curves, the students' hashes."""

    def same(self, other: "End") -> bool:
        """To the last bit."""
        assert self.tensors.keys() == other.tensors.keys()
        equal = all(torch.equal(tensor, other.tensors[name]) for name, tensor in self.tensors.items())
        return equal and self.record == other.record


@pytest.fixture(scope="module")
def games() -> dict[str, Played]:
    cartpole, grid, pong = (
        environment("cartpole", frame_cap=100),
        environment("doorkey_5x5", frame_cap=60),
        environment("pong", frame_cap=120),
    )
    assert pong.emulator is not None
    assert pong.emulator.sticky_probability == 0.25
    found = {
        "cartpole": (cartpole_teacher(rule="sampled", recipe=cartpole), TINY),
        "minigrid": (policy(grid, "categorical", TINY_GRID, rule="sampled", sharpness=8.0), TINY_GRID),
        "pong": (policy(pong, "categorical", TINY_PIXELS, rule="sampled", sharpness=8.0), TINY_PIXELS),
    }
    played = {}
    for name, (teacher, student) in found.items():
        assert teacher.spec.environment is not None
        baseline = measure_baseline(teacher, teacher.spec.environment, episodes=1, keep_states=16)
        played[name] = Played(teacher, student, baseline)
    return played


def end_of(game: Played, recipe: Distill, run: Path, monkeypatch: pytest.MonkeyPatch) -> End:
    """Run it, or go on with it, to its end."""
    replays: list[dict[str, Tensor]] = []

    def spy(games: Sequence[Game], *given: Any, **named: Any) -> dict[str, float]:
        spent = learn_rounds(games, *given, **named)
        replays.append(games[0].replay.tensors())
        return spent

    with monkeypatch.context() as patch:
        patch.setattr(games_module, "learn_rounds", spy)
        result = run_distillation(
            game.teacher, {"tiny": game.student}, recipe, run=run, seed=3, episodes=1, baseline=game.baseline
        )
    with safetensors.safe_open(str(run / FILE), framework="pt") as opened:
        record = json.loads(opened.metadata()["record"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
    curves = [{tag: value for tag, value in line.items() if tag != "time"} for line in read_metrics(run)]
    for student in record["students"]:
        del student["seconds"]
    hashes = [entry.policy.spec.hash for entry in (*result.students, *result.controls)]
    return End(tensors | {f"replay.{name}": each for name, each in replays[0].items()}, [record, curves, hashes])


def stopped(stop: int | str, go: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a signal come when a round is over, or while students learn, and the run end with it."""
    count, look, step = Game.count, Student.look, Student.step

    def after_a_round(game: Game, **named: Any) -> None:
        count(game, **named)
        if len(game.counts) - 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    def before_the_first_step(student: Student, *given: Any) -> Tensor:
        if stop == "look" and student.plan.control == "none":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)  # until the signal is heard
        return look(student, *given)

    def within_a_round(student: Student, *given: Any) -> Tensor:
        if f"step {student.steps}" == stop and student.plan.control == "none":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return step(student, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Game, "count", after_a_round)
        patch.setattr(Student, "look", before_the_first_step)
        patch.setattr(Student, "step", within_a_round)
        with pytest.raises(Stopped):
            go()


def named_rounds(run: Path) -> list[str]:
    """Checksums of the rounds that a checkpoint counts on."""
    with safetensors.safe_open(str(run / FILE), framework="pt") as opened:
        found: list[str] = json.loads(opened.metadata()["record"])["rounds"][""]
    assert len(found) == ROUNDS
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return who_is_asked(monkeypatch)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        pytest.param("cartpole", TEACHER, id="cartpole, the teacher acts"),
        pytest.param("cartpole", STUDENTS, id="cartpole, students act"),
        pytest.param("minigrid", MIXED, id="minigrid, both act"),
        pytest.param("pong", TEACHER, id="pong, the teacher acts"),
        pytest.param("pong", MIXED, id="pong, both act"),
    ],
)
def test_stopped_again_and_again_it_ends_with_the_bits_of_the_uninterrupted_run(
    name: str,
    recipe: Distill,
    games: dict[str, Played],
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stops: Sequence[int | str] = (0, "look", 1, "step 25", 0, 3)
    if name == "pong":  # smaller, because emulators take their time to start
        source = replace(recipe.source, states=80, num_envs=2)
        recipe, stops = replace(recipe, source=source, gradient_steps=20, controls=()), (1, "step 9", 0)
    whole = end_of(games[name], recipe, tmp_path / "whole", monkeypatch)
    once = sorted(asked)
    asked.clear()
    for stop in stops:  # the last 0: when the first round has been taken up
        stopped(stop, lambda: end_of(games[name], recipe, tmp_path / "run", monkeypatch), monkeypatch)
    assert end_of(games[name], recipe, tmp_path / "run", monkeypatch).same(whole)
    assert sorted(asked) == once
    assert len(read_metrics(tmp_path / "run")) == ROUNDS
    files = sorted(path.name for path in (tmp_path / "run" / "replay").iterdir())
    assert files == [f"round-{number:03d}.safetensors" for number in range(ROUNDS)]


@pytest.mark.parametrize("stream", ["of the collector", "of the students"])
def test_a_run_that_does_not_restore_a_random_stream_ends_otherwise(
    stream: str, games: dict[str, Played], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = end_of(games["cartpole"], MIXED, tmp_path / "whole", monkeypatch)
    stopped(1, lambda: end_of(games["cartpole"], MIXED, tmp_path / "run", monkeypatch), monkeypatch)
    catch_up = Collector.catch_up

    def forgetful(collector: Collector, *given: Any) -> None:
        late = bool(collector.behind)
        catch_up(collector, *given)
        if late:
            collector.generator = np.random.default_rng([3, 3])

    def reseeded(run: Path, students: Sequence[Student], **named: Any) -> Any:
        found = load_students(run, students, **named)
        for student in students:
            student.generator = np.random.default_rng(3)
        return found

    if stream == "of the collector":
        monkeypatch.setattr(Collector, "catch_up", forgetful)
    else:
        monkeypatch.setattr(learning, "load_students", reseeded)
    assert not end_of(games["cartpole"], MIXED, tmp_path / "run", monkeypatch).same(whole)


def test_students_learn_while_environments_play_the_rounds_again(
    games: dict[str, Played], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = end_of(games["cartpole"], MIXED, tmp_path / "whole", monkeypatch)
    run, learns = tmp_path / "run", threading.Event()
    stopped(1, lambda: end_of(games["cartpole"], MIXED, run, monkeypatch), monkeypatch)
    catch_up, step, waited = Collector.catch_up, Student.step, []

    def afterwards(collector: Collector, *given: Any) -> None:
        if collector.behind:
            waited.append(learns.wait(timeout=60))
        catch_up(collector, *given)

    def first(student: Student, *given: Any) -> Tensor:
        learns.set()
        return step(student, *given)

    monkeypatch.setattr(Collector, "catch_up", afterwards)
    monkeypatch.setattr(Student, "step", first)
    assert end_of(games["cartpole"], MIXED, run, monkeypatch).same(whole)
    assert waited == [True]


@pytest.mark.parametrize(
    ("recipe", "behind"),
    [
        pytest.param(TEACHER, "step", id="the teacher acts"),
        pytest.param(TEACHER, "end_round", id="the teacher acts, all is learnt"),
        pytest.param(MIXED, "step", id="both act"),
    ],
)
def test_a_signal_while_rounds_are_played_again_is_heard_at_once(
    recipe: Distill, behind: str, games: dict[str, Played], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learnt meanwhile is kept where students do not act in the round that is not there yet."""
    whole = end_of(games["cartpole"], recipe, tmp_path / "whole", monkeypatch)
    run, catch_up = tmp_path / "run", Collector.catch_up
    stopped(2, lambda: end_of(games["cartpole"], recipe, run, monkeypatch), monkeypatch)
    before, learns, done = steps_in(run), threading.Event(), set[str]()
    wanted = {"none"} if behind == "step" else {"none", "shuffled_teacher"}

    def signalled(collector: Collector, students: Any, stop: StopSignal) -> None:
        assert learns.wait(timeout=60)
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.asked:  # until the signal is heard
            time.sleep(0.01)
        catch_up(collector, students, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "catch_up", signalled)
        patch.setattr(Student, "step", slowly(Student.step))
        real = getattr(Student, behind)

        def heard(student: Student, *given: Any) -> Any:
            found = real(student, *given)
            done.add(student.plan.control)
            if done >= wanted:
                learns.set()
            return found

        patch.setattr(Student, behind, heard)
        with pytest.raises(Stopped, match="all up to its last checkpoint is saved; the same command goes on"):
            end_of(games["cartpole"], recipe, run, monkeypatch)
    assert (steps_in(run) > before) == (recipe is TEACHER and behind == "step")
    assert end_of(games["cartpole"], recipe, run, monkeypatch).same(whole)


def slowly(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A gradient step that takes its time."""

    def taken(*given: Any) -> Tensor:
        time.sleep(0.02)
        return step(*given)

    return taken


def steps_in(run: Path) -> int:
    """Gradient steps of the first student in a checkpoint."""
    with safetensors.safe_open(str(run / FILE), framework="pt") as opened:
        return int(json.loads(opened.metadata()["record"])["students"][0]["steps"])


def test_learners_end_where_environments_cannot_play_the_rounds_again(
    games: dict[str, Played], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, taken = replace(TEACHER, gradient_steps=10_000), []
    step, run = slowly(Student.step), tmp_path / "run"
    stopped(2, lambda: end_of(games["cartpole"], replace(recipe, controls=()), run, monkeypatch), monkeypatch)

    def fails(*_: Any) -> None:
        raise OtherRunError("what was played cannot be played again")

    def counted(*given: Any) -> Tensor:
        taken.append(1)
        return step(*given)

    monkeypatch.setattr(Collector, "catch_up", fails)
    monkeypatch.setattr(Student, "step", counted)
    with pytest.raises(StorageError, match="cannot be played again"):
        end_of(games["cartpole"], replace(recipe, controls=()), run, monkeypatch)
    assert 0 < len(taken) < 1000  # of the 3,000 that were due


def test_a_round_that_students_have_learnt_from_has_to_be_as_it_was(
    games: dict[str, Played], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go() -> End:
        return end_of(games["cartpole"], MIXED, tmp_path, monkeypatch)

    stopped(2, go, monkeypatch)
    stopped(0, go, monkeypatch)  # when the first one has been taken up: the others are counted on all the same
    path = round_file(tmp_path / "replay", 1)
    content = path.read_bytes()
    others: dict[str, list[bytes | None]] = {
        "damaged, of another version, or of another run": [
            content[:-1],
            content[:-1] + bytes([content[-1] ^ 1]),
            b"nonsense",
        ],
        "no such file": [None],
    }
    for message, contents in others.items():
        for other in contents:
            path.unlink()
            if other is not None:
                path.write_bytes(other)
            with pytest.raises(StorageError, match=rf"round-001\.safetensors: {message}; students have learnt") as told:
                go()
            assert "\n" not in str(told.value)
            path.touch()
    path.write_bytes(content)
    assert len(go().record[1]) == ROUNDS


def test_a_later_round_that_is_damaged_is_collected_anew_and_one_line_says_so(
    games: dict[str, Played],
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A kill may come at any time behind a checkpoint: rounds that it does not name lie beside it."""
    whole = end_of(games["cartpole"], MIXED, tmp_path / "whole", monkeypatch)
    run = tmp_path / "run"
    stopped(1, lambda: end_of(games["cartpole"], MIXED, run, monkeypatch), monkeypatch)
    shutil.copy(run / FILE, tmp_path / "earlier")
    stopped(3, lambda: end_of(games["cartpole"], MIXED, run, monkeypatch), monkeypatch)
    shutil.copy(tmp_path / "earlier", run / FILE)
    path = round_file(run / "replay", 3)
    written = path.read_bytes()
    path.write_bytes(written[: len(written) // 2])
    asked.clear()
    capsys.readouterr()
    assert end_of(games["cartpole"], MIXED, run, monkeypatch).same(whole)
    assert asked.count(games["cartpole"].teacher.spec.name) == len(asked) / 2 > 0  # of one round, beside its student
    assert (
        capsys.readouterr().err
        == f"{path}: damaged, of another version, or of another run; its round is collected anew\n"
    )
    assert named_rounds(run) == named_rounds(tmp_path / "whole")


def test_other_circumstances_are_told_in_one_line_and_parts_are_the_checkpoints(
    games: dict[str, Played], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = replace(TEACHER.source, states=80, rounds=2, num_envs=2)
    recipe = replace(TEACHER, source=source, batch_size=128, gradient_steps=4, controls=())
    monkeypatch.setattr(games_module, "idle_cores", lambda _: 2)
    whole = end_of(games["pong"], recipe, tmp_path / "whole", monkeypatch)
    assert whole.record[0]["students"][0]["parts"] == 2
    stopped(1, lambda: end_of(games["pong"], recipe, tmp_path / "run", monkeypatch), monkeypatch)
    monkeypatch.setattr(games_module, "idle_cores", lambda _: 1)
    versions = storage.versions()
    monkeypatch.setattr(storage, "versions", lambda: versions | {"torch": "3.0", "numpy": "4.1"})
    capsys.readouterr()
    again = end_of(games["pong"], recipe, tmp_path / "run", monkeypatch)
    changed = f"torch {versions['torch']}, now 3.0; numpy {versions['numpy']}, now 4.1"
    told = f"{tmp_path / 'run'} was begun under {changed}: it goes on, but bits may differ\n"
    assert capsys.readouterr().err == told
    assert again.record[0].pop("under")["torch"] == "3.0"
    whole.record[0].pop("under")
    assert again.same(whole)  # nothing was really other


def test_killed_at_any_event_the_same_command_ends_with_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = cartpole_teacher(rule="sampled", recipe=environment("cartpole", frame_cap=100))
    teacher.save(tmp_path / "teacher.safetensors")
    settings = (
        *("source.states=320", "source.rounds=4", "source.num_envs=4", "source.teacher_fraction=[0.5,0.0]"),
        *("gradient_steps=200", "batch_size=16", "held_out_states=16", "controls=[]"),
    )
    named = ["distill", str(tmp_path / "teacher.safetensors"), "--student", student_file(tmp_path, "tiny", TINY)]
    named += [
        "--agent",
        "classic",
        "--episodes",
        "2",
        "--json",
        *[part for each in settings for part in ("--set", each)],
    ]
    assert main([*named, "--run", str(tmp_path / "whole")]) == 0

    def killed_behind(module: str, name: str, number: int) -> None:
        """Killed as soon as a function has come back for the so-many-th time."""
        first = (
            f"import os, {module} as module\nfrom rlkd.distillation import learning\nlearning.CHECKPOINT_SECONDS = 0\n"
            f"real, calls = module.{name}, []\n"
            "def once_more(*given, **named):\n"
            "    found = real(*given, **named)\n"
            "    calls.append(1)\n"
            f"    if len(calls) == {number}:\n        os.kill(os.getpid(), 9)\n"
            "    return found\n"
            f"module.{name} = once_more"
        )
        process = started([*named, "--run", str(tmp_path / "run")], tmp_path, first=first)
        ended(process)
        assert process.returncode == -signal.SIGKILL

    killed_behind("rlkd.distillation.playing", "keep_round", 2)  # behind the file of a round that no checkpoint names
    assert round_file(tmp_path / "run" / "replay", 1).exists()
    killed_behind("rlkd.distillation.learning", "save_students", 3)  # behind the checkpoint after round 2
    capsys.readouterr()
    assert main([*named, "--run", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "done"
    students = [tmp_path / run / "students" / "tiny.safetensors" for run in ("whole", "run")]
    assert students[0].read_bytes() == students[1].read_bytes()
    curves = [read_metrics(tmp_path / run) for run in ("whole", "run")]
    for line in curves[0] + curves[1]:
        del line["time"]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 4
    assert named_rounds(tmp_path / "whole") == named_rounds(tmp_path / "run")
