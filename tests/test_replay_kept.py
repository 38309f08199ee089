"""Tests of states and answers that are kept: further students are the same, nothing is played or asked again."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch

from rlkd.collect import Collector
from rlkd.distillation import Result, run_distillation
from rlkd.errors import MismatchError, StorageError
from rlkd.policy import Policy
from rlkd.recipe import Bonus, Distill, Part, Source, Term
from rlkd.replay import Kept, Replay, keep, path_of, take
from tests.handmade import LINEAR, TINY, TINY_PIXELS, always, cartpole_teacher, environment, policy
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole", frame_cap=60)
TEACHER = cartpole_teacher(recipe=CARTPOLE, rule="sampled")


def run(folder: Path, name: str, *, recipe: Distill | None = None, teacher: Policy = TEACHER, **changes: Any) -> Result:
    students = changes.pop("students", {"tiny": TINY})
    settings: dict[str, Any] = {"seed": 0, "episodes": 2, "replay_folder": folder / "kept"} | changes
    return run_distillation(teacher, students, recipe or small(), run=folder / name, **settings)


def test_a_second_student_learns_what_it_would_have_without_any_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run(tmp_path, "alone", replay_folder=None, students={"linear": LINEAR})
    first = run(tmp_path, "first")
    assert len(list((tmp_path / "kept").iterdir())) == 1
    monkeypatch.setattr(Collector, "collect", lambda *_: pytest.fail("it played"))
    second = run(tmp_path, "second", students={"linear": LINEAR})
    assert second.students[0].policy.spec.hash == alone.students[0].policy.spec.hash
    assert (second.steps, second.states) == (first.steps, first.states)
    assert not any(name.startswith("collecting") for name in second.seconds)


def test_familiarities_are_the_same_from_kept_states(tmp_path: Path) -> None:
    term = Term(divergence=Part("forward_kl"), weight=Part("familiarity"))
    recipe = small(terms=(term,), novelty=Bonus(features=16, predictor_widths=(24, 24), widths=(16,)))
    hashes = {run(tmp_path, name, recipe=recipe).students[0].policy.spec.hash for name in ("first", "second")}
    assert len(hashes) == 1
    assert len(list((tmp_path / "kept").iterdir())) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"teacher": always(0, TEACHER)},
        {"recipe": small(source=replace(small().source, epsilon=0.2))},
        {"environment": environment("cartpole", frame_cap=61)},
        {"precision": "float32"},
    ],
    ids=["seed", "teacher", "source", "environment", "precision"],
)
def test_whatever_else_was_played_or_asked_is_kept_apart(changes: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path, "first")
    run(tmp_path, "second", **changes)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_other_losses_and_budgets_take_the_same_states(tmp_path: Path) -> None:
    run(tmp_path, "first")
    run(tmp_path, "second", recipe=small(terms=(Term(divergence=Part("mse")),), gradient_steps=8, batch_size=16))
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_states_of_students_are_not_kept(tmp_path: Path) -> None:
    recipe = small(source=replace(small().source, teacher_fraction=(1.0, 0.0)))
    with pytest.raises(MismatchError, match="only where the teacher plays alone; leave out --replay"):
        run(tmp_path, "first", recipe=recipe)
    assert not (tmp_path / "first").exists()


def pixels() -> Replay:
    """A replay of some hundred states of Pong, filled to different heights."""
    pong = environment("pong", frame_cap=400)
    teacher, source = policy(pong, "categorical", TINY_PIXELS), Source(states=240, rounds=2, num_envs=4)
    replay = Replay(4, 240, (4, 84, 84), teacher.spec.actions, pong.views["pixels"], keeps_actions=True)
    collector = Collector(pong, teacher, source, seed=0)
    try:
        collector.collect(replay, 0, ())
    finally:
        collector.close()
    return replay


def test_a_kept_replay_reads_as_it_did(tmp_path: Path) -> None:
    replay = pixels()
    path = path_of(tmp_path, {"one": 1})
    keep(path, replay, Kept(np.stack([replay.written // 2, replay.written]), 99), {"one": 1})
    other = Replay(4, 240, (4, 84, 84), 6, replay.view, keeps_actions=True)
    kept = take(path, other)
    assert kept.steps == 99
    assert np.array_equal(kept.rounds[-1], replay.written)
    rows = replay.rows()
    assert np.array_equal(rows, other.rows())
    for one, same in zip(replay.read(rows), other.read(rows), strict=True):
        assert (one == same).all()
    actions = [each.actions(rows) for each in (replay, other)]
    assert actions[0] is not None
    assert actions[1] is not None
    assert (actions[0] == actions[1]).all()
    assert np.array_equal(replay.begins(rows), other.begins(rows))


def test_a_damaged_file_is_refused_and_named(tmp_path: Path) -> None:
    replay = pixels()
    path = path_of(tmp_path, {"one": 1})
    keep(path, replay, Kept(np.stack([replay.written]), 99), {"one": 1})
    content = path.read_bytes()
    spoilt = {
        "a bit": content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:],
        "cut": content[: len(content) // 2],
        "empty": b"",
        "no file of ours": b"x" * 1000,
    }
    for told in spoilt.values():
        path.write_bytes(told)
        with pytest.raises(StorageError, match="damaged; delete it, and the states are collected anew"):
            take(path, Replay(4, 240, (4, 84, 84), 6, replay.view, keeps_actions=True))
    path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        take(path, Replay(4, 244, (4, 84, 84), 6, replay.view, keeps_actions=True))


def test_what_a_killed_run_left_is_swept_and_a_write_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = pixels()
    path = path_of(tmp_path, {"one": 1})
    stump, other = (tmp_path / f".{name}.0123abcd.tmp" for name in (path.name, "other"))
    for left in (stump, other):
        left.write_bytes(b"x")

    def fails(*_: Any, **__: Any) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.torch, "save_file", fails)
        with pytest.raises(StorageError, match="cannot be written: I/O error: No space left"):
            keep(path, replay, Kept(np.stack([replay.written]), 1), {"one": 1})
    assert list(tmp_path.iterdir()) == [other]
    path.mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        take(path, replay)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = pixels()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match="the disk is full"):
        keep(path_of(tmp_path, {}), replay, Kept(np.stack([replay.written]), 1), {})
    assert list(tmp_path.iterdir()) == []
