"""Tests of `rlkd.distillation`: stopped or killed at any time, the same command finishes with the same students."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors

from rlkd import storage
from rlkd.cli import main
from rlkd.distillation import Result, measure_baseline, run_distillation
from rlkd.distillation import games as games_module
from rlkd.distillation.checkpoint import FILE
from rlkd.distillation.lesson import Lesson
from rlkd.distillation.student import Student
from rlkd.errors import Stopped, StorageError
from rlkd.metrics import read_metrics
from rlkd.policy import Policy
from rlkd.recipe import Distill, Network, Source
from tests.handmade import (
    LINEAR,
    TINY,
    TINY_PIXELS,
    cartpole_teacher,
    ended,
    environment,
    policy,
    started,
    student_file,
    wait_for,
)
from tests.handmade import small_distillation as small

STEPS = 1500
CARTPOLE = environment("cartpole", frame_cap=200)
SETTINGS = (
    *("source.states=1600", "source.rounds=4", "source.num_envs=8", f"gradient_steps={STEPS}", "batch_size=64"),
    *("learning_rate=1e-2", "held_out_states=64", "controls=['shuffled_teacher']"),
)


def arguments(folder: Path, run: str) -> list[str]:
    """The command whose interruptions are tested: one student and one control, some seconds of work."""
    named = ["distill", str(folder / "teacher.safetensors"), "--student", str(folder / "tiny.toml")]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    return [*named, "--run", str(folder / run), "--agent", "classic", "--episodes", "5", "--json", *settings]


def begun(folder: Path, run: str, *, checkpoint_seconds: float = 30.0) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    first = f"from rlkd.distillation import learning\nlearning.CHECKPOINT_SECONDS = {checkpoint_seconds}"
    return started(arguments(folder, run), folder, first=first)


def steps_saved(run: Path) -> list[int]:
    """Gradient steps of each student in the checkpoint."""
    if not (run / FILE).exists():
        return [0]
    with safetensors.safe_open(str(run / FILE), framework="pt") as opened:
        return [entry["steps"] for entry in json.loads(opened.metadata()["record"])["students"]]


def students(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "students").iterdir())}


def stumps(run: Path) -> list[Path]:
    return list(run.rglob("*.tmp"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, a student's recipe, and `whole`, the run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("stops")
    cartpole_teacher(rule="sampled", recipe=CARTPOLE).save(folder / "teacher.safetensors")
    student_file(folder, "tiny", TINY)
    assert main(arguments(folder, "whole")) == 0
    return folder


def finish(folder: Path, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command once more: it finishes, and nobody can tell its students from those of the whole run."""
    capsys.readouterr()
    assert main(arguments(folder, run)) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((folder / run / "run.json").read_text())
    assert students(folder / run) == students(folder / "whole")
    assert len(students(folder / run)) == 2
    steps = [line["step"] for line in read_metrics(folder / run)]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert not stumps(folder / run)


def test_stopped_by_a_signal_it_says_so_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process, run = begun(folder, "terminated"), folder / "terminated"
    wait_for(lambda: bool(read_metrics(run)), process)
    process.send_signal(signal.SIGTERM)
    out, err = ended(process)
    assert process.returncode == 3
    assert out == ""
    assert err == f"rlkd: stopped on a signal; run {run} is saved; the same command goes on\n"
    assert not (run / "run.json").exists()
    assert not (run / "students").exists()
    assert not stumps(run)
    assert 0 < min(steps_saved(run)) < STEPS
    finish(folder, "terminated", capsys)


@pytest.mark.parametrize("saved", [False, True], ids=["before the first checkpoint", "after a checkpoint"])
def test_killed_it_leaves_a_folder_that_the_same_command_finishes(
    saved: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"killed-{saved}"
    process = begun(folder, name, checkpoint_seconds=0.0 if saved else 1e9)
    wait_for(lambda: bool(read_metrics(folder / name)) and (min(steps_saved(folder / name)) > 0) == saved, process)
    process.kill()
    process.communicate()
    assert not (folder / name / "run.json").exists()
    finish(folder, name, capsys)


def test_a_signal_while_the_teacher_is_measured_is_answered_at_once(folder: Path) -> None:
    run = folder / "early"
    process = begun(folder, "early")
    wait_for((run / "teacher.safetensors").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == 3
    assert err.count("\n") == 1
    assert "the same command goes on" in err
    assert not stumps(run)


def test_stopped_while_students_are_measured_it_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = games_module.measure

    def interrupted(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return measure(*given)

    monkeypatch.setattr(games_module, "measure", interrupted)
    assert main(arguments(folder, "measured")) == 3
    assert steps_saved(folder / "measured") == [STEPS, STEPS]
    monkeypatch.undo()
    finish(folder, "measured", capsys)


def test_a_finished_run_gives_the_same_students_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(folder, "whole", capsys)


def test_pixels_go_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions keep weights and optimiser in another layout than files do."""
    pong = environment("pong", frame_cap=120)
    teacher = policy(pong, "categorical", TINY_PIXELS, rule="sampled")
    baseline = measure_baseline(teacher, pong, episodes=1, keep_states=8)
    recipe = small(source=Source(states=160, rounds=2, num_envs=4), gradient_steps=60, batch_size=16)

    def go(name: str) -> Result:
        both = {"one": TINY_PIXELS, "two": TINY_PIXELS}
        return run_distillation(teacher, both, recipe, run=tmp_path / name, seed=0, episodes=1, baseline=baseline)

    whole, begin = go("whole"), Student.begin

    def interrupted(student: Student, *given: Any, **named: Any) -> Lesson:
        if student.steps and student.plan.name == "one":  # a second signal would end the process at once
            os.kill(os.getpid(), signal.SIGTERM)
        return begin(student, *given, **named)

    monkeypatch.setattr(Student, "begin", interrupted)
    with pytest.raises(Stopped):
        go("stopped")
    monkeypatch.undo()
    assert max(steps_saved(tmp_path / "stopped")) > 0
    hashes = [[entry.policy.spec.hash for entry in each.students] for each in (whole, go("stopped"))]
    assert hashes[0] == hashes[1]


def files(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def distilled(
    run: Path,
    recipe: Distill,
    *,
    teacher: Policy | None = None,
    students: Mapping[str, Network] | None = None,
    seed: int = 0,
) -> Result:
    teacher = teacher or cartpole_teacher(rule="sampled", recipe=CARTPOLE)
    return run_distillation(teacher, students or {"tiny": TINY}, recipe, run=run, seed=seed, episodes=3)


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "teacher": {"teacher": cartpole_teacher("q", recipe=CARTPOLE)},
    "environment": {"teacher": cartpole_teacher(rule="sampled", recipe=environment("cartpole", frame_cap=100))},
    "recipe": {"recipe": small(learning_rate=2e-2)},
    "student's name": {"students": {"other": TINY}},
    "student's shape": {"students": {"tiny": LINEAR}},
    "another student": {"students": {"tiny": TINY, "linear": LINEAR}},
    "controls": {"recipe": small(controls=("shuffled_teacher",))},
}


def test_another_run_in_the_same_folder_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    distilled(tmp_path, small())
    before = files(tmp_path)
    assert len(before) >= 5
    for what, other in OTHERS.items():
        with pytest.raises(StorageError, match="holds a run with another teacher, recipe, seed or students"):
            distilled(tmp_path, **{"recipe": small()} | other)
        assert files(tmp_path) == before, what


def test_even_a_run_that_was_killed_early_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(Exception):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    monkeypatch.setattr(games_module, "measure_baseline", killed)
    with pytest.raises(KilledError):
        distilled(tmp_path, small())
    monkeypatch.undo()
    with pytest.raises(StorageError, match="holds a run with another"):
        distilled(tmp_path, small(), seed=1)
    distilled(tmp_path, small())


@pytest.mark.parametrize(
    ("file", "kind"), [("checkpoint.safetensors", "train"), ("sb3.json", "train"), ("random.json", "evolve")]
)
def test_a_folder_of_another_verb_is_refused(file: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("theirs")
    before = files(tmp_path)
    with pytest.raises(StorageError, match=f"holds a run of `rlkd {kind}`; name another --run"):
        distilled(tmp_path, small())
    assert files(tmp_path) == before


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with storage.run_folder(tmp_path), pytest.raises(StorageError, match=f"in use by process {os.getpid()}"):
        distilled(tmp_path, small())


@pytest.mark.parametrize("damage", ["cut", "nonsense"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    distilled(tmp_path, small())
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: len(content) // 2] if damage == "cut" else b"nonsense")
    with pytest.raises(StorageError, match=r"students\.checkpoint\.safetensors: damaged; delete it to start"):
        distilled(tmp_path, small())
    (tmp_path / FILE).unlink()
    distilled(tmp_path, small())
