"""What the tests of the command line share: files to name, one command, and how its two kinds of ending look."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rlkd import recipe
from rlkd.cli import main
from tests.handmade import (
    TINY,
    TINY_PIXELS,
    cartpole_teacher,
    environment,
    policy,
    small_distillation,
    student_file,
    without_progress,
)

Capture = pytest.CaptureFixture[str]
DISTILL = ("distill", "teacher.safetensors", "--student", "tiny.toml", "--agent", "small.toml", "--run", "run")


@cache
def _files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cartpole = environment("cartpole", frame_cap=200, episodes=4)
        cartpole_teacher(rule="sampled", recipe=cartpole).save(folder / "teacher.safetensors")
        pong = environment("pong")
        policy(pong, "categorical", TINY_PIXELS).save(folder / "pong.safetensors")
        student_file(folder, "tiny", TINY)
        small = small_distillation(controls=("hard_labels", "shuffled_teacher"))
        (folder / "small.toml").write_text(recipe.dump(small))
        rule = recipe.Generations(
            operator=recipe.Part("fresh"), distill="small.toml", student="tiny.toml", generations=1
        )
        (folder / "line.toml").write_text(recipe.dump(rule))
        assert pong.emulator is not None
        eighteen = replace(pong, emulator=replace(pong.emulator, action_set="full"))
        (folder / "eighteen.toml").write_text(recipe.dump(eighteen))
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def put_files(folder: Path) -> None:
    """A CartPole teacher, a Pong policy, a student's network, recipes for `distill` and `evolve`, another Pong."""
    for name, content in _files().items():
        (folder / name).write_bytes(content)


def printed(arguments: Sequence[str], capfd: Capture) -> dict[str, Any]:
    """The one JSON object that a command prints; file descriptors are watched, not Python's streams alone."""
    capfd.readouterr()
    assert main([*arguments, "--json"]) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def refused(arguments: Sequence[str], capfd: Capture) -> str:
    """The one line on stderr of a command that ends with exit code 2 and prints nothing."""
    capfd.readouterr()
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    err = without_progress(err)
    assert out == ""
    assert err.startswith("rlkd: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err
