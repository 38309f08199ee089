"""What the README shows runs: every Python snippet, every command line, every file that it points to."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import tyro

from rlkd.cli import Command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip() for line in README.splitlines() if re.match(r"rlkd (?!takes)[a-z]+( |$)", line.strip())
]


def test_there_is_something_to_run() -> None:
    assert len(SNIPPETS) >= 3
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs_as_it_stands(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "snippet.py"
    file.write_text(snippet, encoding="utf-8")
    runpy.run_path(str(file), run_name="__main__")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command: str) -> None:
    parsed = tyro.cli(Command, args=shlex.split(command)[1:])
    assert parsed is not None


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_file_that_is_pointed_to_exists(target: str) -> None:
    assert (ROOT / target).exists()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z-]+)", README)) - {"make"}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
