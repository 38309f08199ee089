"""Tests of the repository's shape: which room imports which, what stays light, small and without pickles."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rlkd"

ROOMS = (
    *("errors", "recipe", "data", "storage", "metrics", "stats", "losses", "vector", "policy", "terms", "replay"),
    *("collect", "evaluation", "explore", "learn", "distillation", "lineage", "study", "exporting", "report", "cli"),
)
"""In order: a room imports only from rooms before it."""

OUTSIDE = ("__init__", "__main__")
"""No rooms: the package's front door, which hands out functions of every room, and `python -m rlkd`."""

FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 300

RUNS_CODE = ("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
"""Modules that run code from what they read."""
MAY_IMPORT_THEM: frozenset[str] = frozenset()
"""Files below `rlkd/` that need one of them all the same; each says why in its docstring."""


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _room(path: Path) -> str:
    """`rlkd/policy/file.py` and `rlkd/policy.py` are both of the room `policy`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that is imported, wherever it stands: `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rlkd":
            yield node.lineno, f"rlkd.{node.attr}"


def _imports_downwards(room: str, tree: ast.Module) -> list[str]:
    """Each import of our own package that a file of `room` may not have."""
    wrong = []
    for line, imported in _imports(tree):
        package, _, rest = imported.partition(".")
        target = rest.split(".")[0]
        if package != "rlkd" or not target or target.startswith("__"):
            continue  # somebody else's, `import rlkd` (its attributes are looked at), or `rlkd.__file__`
        if target not in ROOMS:
            wrong.append(f"line {line}: {imported}, which is no room; import it from where it is made")
        elif ROOMS.index(target) > ROOMS.index(room):
            wrong.append(f"line {line}: {imported}, which comes after {room}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_point_upwards(path: Path) -> None:
    room = _room(path)
    if room in OUTSIDE:
        return
    assert room in ROOMS, f"'{room}' is no room; add it to ROOMS where it belongs"
    assert _imports_downwards(room, ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("from rlkd.errors import RlkdError", 0),
        ("from rlkd.policy.spec import PolicySpec", 0),
        ("import rlkd\nrlkd.__file__", 0),
        ("import torch\nfrom torch.nn import functional", 0),
        ("from rlkd.learn import train", 1),
        ("from rlkd import learn", 1),
        ("import rlkd.learn.ppo as ppo", 1),
        ("import rlkd\nrlkd.learn", 1),
        ("from rlkd import load", 1),
        ("def lazy():\n    from rlkd.cli import main", 1),
        ("if TYPE_CHECKING:\n    from rlkd.replay import Replay", 1),
    ],
)
def test_the_check_of_imports_sees_every_kind_of_import(text: str, wrong: int) -> None:
    assert len(_imports_downwards("policy", ast.parse(text))) == wrong


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_nothing_that_could_run_code_from_a_file_is_used(path: Path) -> None:
    if _name(path) in MAY_IMPORT_THEM:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [name for _, name in _imports(tree) if name.split(".")[0] in RUNS_CODE] == []
    assert list(_unsafe_loads(tree)) == []


def _unsafe_loads(tree: ast.Module) -> Iterator[str]:
    """Calls of `torch.load` that do not ask for weights only, and of `numpy.load` that allow pickles."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called == "torch.load" and given.get("weights_only") != "True":
            yield f"line {node.lineno}: torch.load without weights_only=True"
        if given.get("allow_pickle", "False") != "False":
            yield f"line {node.lineno}: {called} with allow_pickle"


@pytest.mark.parametrize("folder", ["agents", "envs"])
def test_recipe_folders_hold_no_python_and_say_what_they_are(folder: str) -> None:
    suffixes = {path.suffix for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert suffixes <= {".toml", ".safetensors", ".md"}
    assert (ROOT / folder / "README.md").is_file()


HEAVY = ("torch", "stable_baselines3", "gymnasium", "scipy", "cv2", "ale_py", "tensorboard", "matplotlib")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("import rlkd", id="import rlkd"),
        pytest.param("from rlkd.cli import main; sys.exit(main(['--help']))", id="rlkd --help"),
        pytest.param("from rlkd.cli import main; sys.exit(main(['list', 'envs']))", id="rlkd list"),
        pytest.param("from rlkd.cli import main; sys.exit(main(['show', 'pong']))", id="rlkd show"),
    ],
)
def test_light_commands_load_nothing_heavy(command: str, tmp_path: Path) -> None:
    code = f"""
import sys
try:
    {command}
except SystemExit as stop:
    assert not stop.code, stop.code
finally:
    print("loaded:", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "loaded:"
