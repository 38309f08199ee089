"""Tests of what we ship: the wheel, built by way of the source archive, works from an empty folder."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rlkd import recipe

ROOT = Path(__file__).parent.parent


def _run(*command: str, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a Python command whose `sys.path` starts with `path`."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    _run("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(target))
    _run("-m", "pip", "install", *options, str(wheel), cwd=target)
    return target


def _ask(installed: Path, cwd: Path, code: str) -> Any:
    return json.loads(_run("-c", code, cwd=cwd, path=installed))


def test_the_wheel_lists_and_loads_every_recipe(installed: Path, tmp_path: Path) -> None:
    code = """
import json, rlkd
from rlkd import recipe
entries = [*recipe.shipped("envs"), *recipe.shipped("agents")]
print(json.dumps({
    "package": rlkd.__file__,
    "hashes": {entry.name: recipe.recipe_hash(recipe.load_any(entry.path)) for entry in entries},
    "files": [str(entry.path) for entry in entries],
    "policies": [entry.name for entry in recipe.shipped("policies")],
}))
"""
    answer = _ask(installed, tmp_path, code)
    ours = [*recipe.shipped("envs"), *recipe.shipped("agents")]
    assert Path(answer["package"]) == installed / "rlkd" / "__init__.py"
    assert answer["hashes"] == {entry.name: recipe.recipe_hash(recipe.load_any(entry.path)) for entry in ours}
    assert answer["policies"] == [entry.name for entry in recipe.shipped("policies")]
    assert len(answer["files"]) == len(ours) > 0
    for file in answer["files"]:
        assert Path(file).is_relative_to(installed / "rlkd" / "recipes_data")


def test_the_wheel_brings_one_import_package_only(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} <= {"rlkd", "bin"}
    data = installed / "rlkd" / "recipes_data"
    assert {path.suffix for path in data.rglob("*") if path.is_file()} <= {".toml", ".safetensors", ".md"}


def test_the_command_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import sys; from rlkd.cli import main; sys.exit(main(['show', 'pong']))"
    assert 'id = "pong"' in _run("-c", code, cwd=tmp_path, path=installed)


def test_the_source_archive_holds_what_building_and_testing_need(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    wanted = {"LICENSE", "Makefile", "README.md", "pyproject.toml", "rlkd/__init__.py", "tests/test_wheel.py"}
    assert names >= wanted | {"envs/atari/pong.toml", "agents/README.md"}
    assert not {name for name in names if name.startswith((".venv", "runs")) or "__pycache__" in name}
