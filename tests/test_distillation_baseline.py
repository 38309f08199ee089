"""Tests of what students are compared with: measured once, and taken from its file by a run that goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkd.distillation import Baseline, measure_baseline
from rlkd.evaluation import Played, play
from rlkd.policy import Policy
from tests.handmade import TINY_PIXELS, cartpole_teacher, environment, policy

CARTPOLE = environment("cartpole", frame_cap=60)
PONG = environment("pong", frame_cap=60)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who plays whole games from now on."""
    names: list[str] = []

    def spy(player: Policy, *given: Any, **named: Any) -> Played:
        names.append(player.spec.name)
        return play(player, *given, **named)

    monkeypatch.setattr("rlkd.distillation.baseline.play", spy)
    return names


def same(mine: Baseline, theirs: Baseline) -> bool:
    states = mine.teacher.states, theirs.teacher.states
    assert states[0].dtype == states[1].dtype
    plain = [(each.teacher.evaluation, each.random, each.teacher.stretch) for each in (mine, theirs)]
    return np.array_equal(*states) and plain[0] == plain[1]


@pytest.mark.parametrize("name", ["cartpole", "pong"])
def test_what_was_measured_comes_back_from_its_file(name: str, played: list[str], tmp_path: Path) -> None:
    teacher = {
        "cartpole": cartpole_teacher(recipe=CARTPOLE, rule="sampled"),
        "pong": policy(PONG, "categorical", TINY_PIXELS, rule="sampled"),
    }[name]
    where, file = teacher.spec.environment, tmp_path / "teacher.played.safetensors"
    assert where is not None
    episodes = {"cartpole": 3, "pong": 1}[name]
    first, again = (
        measure_baseline(teacher, where, episodes=episodes, keep_states=12, stretch=4, keep_in=file) for _ in range(2)
    )
    assert len(played) == 1
    assert same(first, again)
    assert same(first, measure_baseline(teacher, where, episodes=episodes, keep_states=12, stretch=4))
    assert len(first.teacher.states) == 12


def test_what_is_of_something_else_or_damaged_is_measured_again(
    played: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, file = cartpole_teacher(recipe=CARTPOLE), tmp_path / "played.safetensors"

    def measured(**changes: Any) -> Baseline:
        named: dict[str, Any] = {"teacher": teacher, "environment": CARTPOLE, "episodes": 2, "keep_states": 4}
        return measure_baseline(**(named | changes), keep_in=file)

    first = measured()
    others: tuple[dict[str, Any], ...] = (
        {"episodes": 3},
        {"keep_states": 5},
        {"environment": environment("cartpole", frame_cap=50)},
        {"teacher": cartpole_teacher(recipe=CARTPOLE, rule="sampled")},
    )
    for count, changes in enumerate((*others, {}), 2):
        measured(**changes)
        assert len(played) == count
    assert capsys.readouterr().err == ""
    content = file.read_bytes()
    for count, damaged in enumerate((content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""), len(played) + 1):
        file.write_bytes(damaged)
        assert same(measured(), first)
        assert len(played) == count
        assert capsys.readouterr().err == f"{file}: damaged; what it held is measured again\n"
    assert same(measured(random=first.random), first)
    assert len(played) == len(others) + 5
