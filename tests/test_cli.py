"""Tests of `rlkd.cli`: one JSON object, tables that fit, one clear line and exit code 2 for every mistake."""

import json
import re
from pathlib import Path

import pytest

from rlkd import recipe
from rlkd.cli import main
from rlkd.policy import load_policy
from tests.commands import DISTILL, Capture, printed, put_files, refused
from tests.test_distillation import PROMISED, PROMISED_OF_STUDENTS
from tests.test_evaluation import RESULT_KEYS

SOON = ("--frames", "4000", "--set", "rollout_steps=16")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with files to name, as the current one."""
    put_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_prints_what_ships(work: Path, capfd: Capture) -> None:
    found = printed(["list"], capfd)
    assert {"name": "policy:pong", "about": ""} in found["policies"] or not found["policies"]
    assert {entry["name"] for entry in found["envs"]} >= {"atari/pong", "classic/cartpole"}
    assert {"distill/hinton", "students/nature_62k", "rl/ppo"} <= {entry["name"] for entry in found["agents"]}
    assert list(printed(["list", "envs"], capfd)) == ["envs"]
    assert main(["list", "agents"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [entry["name"] for entry in found["agents"]]


def test_show_prints_a_recipe_with_every_default(work: Path, capfd: Capture) -> None:
    found = printed(["show", "hinton", "--set", "gradient_steps=7"], capfd)
    table = found["recipe"]
    assert (table["kind"], table["gradient_steps"], table["held_out_states"]) == ("distill", 7, 4096)
    assert found["hash"] == recipe.recipe_hash(recipe.load("hinton", recipe.Distill, overrides=["gradient_steps=7"]))
    numbers = printed(["show", "hinton", "--set", "terms.0.divergence=jensen_shannon"], capfd)["recipe"]["terms"]
    assert numbers[0]["divergence"] == {"name": "jensen_shannon", "beta": 0.5}
    assert main(["show", "kickstarting", "--set", "terms.0.divergence=forward_kll"]) == 2
    assert "did you mean 'forward_kl'" in capfd.readouterr().err
    assert main(["show", "hinton"]) == 0
    (work / "again.toml").write_text(capfd.readouterr().out)
    assert printed(["show", "again.toml"], capfd)["hash"] == printed(["show", "hinton"], capfd)["hash"]


def test_train_then_eval(work: Path, capfd: Capture) -> None:
    found = printed(["train", "cartpole", *SOON, "--run", "made"], capfd)
    assert found["run"] == "made"
    assert load_policy(found["path"]).spec.hash == found["hash"]
    results = printed(["eval", found["path"], "teacher.safetensors", "--episodes", "4"], capfd)["results"]
    assert [entry["policy"] for entry in results] == [found["path"], "teacher.safetensors"]
    for entry in results:
        assert set(RESULT_KEYS) <= entry.keys()
        assert entry["file_bytes"] == Path(entry["policy"]).stat().st_size
    assert results[0]["hash"] == found["hash"]
    assert results[1]["mean"] > 100 > results[1]["random_mean"]


def test_distill_and_evolve(work: Path, capfd: Capture) -> None:
    found = printed([*DISTILL, "--seed", "3"], capfd)
    assert set(PROMISED) <= found.keys()
    assert set(RESULT_KEYS) <= found["teacher"].keys()
    (student,) = found["students"]
    assert set(PROMISED_OF_STUDENTS) <= student.keys()
    assert (student["name"], student["seed"], student["parameters"]) == ("tiny", 3, 114)
    assert [entry["name"] for entry in found["controls"]] == ["hard_labels", "shuffled_teacher"]
    assert json.loads(Path("run/run.json").read_text()) == found
    line = printed(["evolve", student["path"], "--agent", "line.toml", "--run", "line"], capfd)
    assert [entry["number"] for entry in line["generations"]] == [0, 1]
    assert line["generations"][0]["hash"] == student["hash"]


@pytest.mark.parametrize("columns", ["80", "160"])
def test_tables_fit_the_terminal(columns: str, work: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    evolve = ("evolve", "teacher.safetensors", "--agent", "line.toml", "--run", "line")
    for arguments in (DISTILL, evolve, ("eval", "teacher.safetensors")):
        capfd.readouterr()
        assert main(arguments) == 0
        out = capfd.readouterr().out
        assert "…" not in out
        assert max(len(line) for line in out.splitlines()) <= int(columns)
        assert "CartPole-v1" in out
        intervals = re.findall(r"\[[^\]]*\]", out)
        assert len(intervals) >= 2
        assert not any("\n" in interval for interval in intervals)  # none is broken into two lines


MISTAKES: dict[str, tuple[str, str]] = {
    "no teacher": ("distill missing.safetensors", "no policy at missing.safetensors"),
    "no such shipped policy": ("eval policy:pnog", "no shipped policy 'pnog'"),
    "not a policy": (
        "eval tiny.toml",
        r"not a policy by itself; rlkd reads .safetensors, .onnx and Stable-Baselines3 .zip",
    ),
    "wrong game": (
        "distill teacher.safetensors --env pong",
        "teacher.safetensors was made for CartPole-v1, not for pong",
    ),
    "wrong game to eval": ("eval teacher.safetensors --env pong", "was made for CartPole-v1, not for pong"),
    "wrong game to evolve": ("evolve pong.safetensors --env cartpole", "was made for pong, not for CartPole-v1"),
    "other actions": ("eval pong.safetensors --env eighteen.toml", "has 6 discrete actions, pong takes 18"),
    "unknown key": ("distill teacher.safetensors --set gradient_stepz=3", "did you mean 'gradient_steps'"),
    "wrong type": ("distill teacher.safetensors --set gradient_steps=many", "gradient_steps must be int, got 'many'"),
    "no value": ("evolve teacher.safetensors --set generations", "--set takes key=value, got 'generations'"),
    "unknown recipe": ("distill teacher.safetensors --agent hintn", "did you mean 'hinton'"),
    "unknown student": ("distill teacher.safetensors --student nature_114k", "did you mean 'nature_113k'"),
    "recipe of another kind": ("evolve teacher.safetensors --agent hinton", "of kind 'distill', wanted 'generations'"),
    "unknown environment": ("train cartpool", "no recipe 'cartpool' in envs; did you mean 'cartpole'"),
    "unknown agent": ("train cartpole --agent students/nature", "does not say how to train"),
    "no such device": ("distill teacher.safetensors --device tpu", "--device tpu: known are auto, cpu and cuda"),
    "no such number": ("train cartpole --device cuda:99", "--device cuda:99: no such CUDA device"),
    "no number": ("train cartpole --device cuda:first", "--device cuda:first: .* must be a device's number"),
    "a student that cannot see": (
        "distill pong.safetensors --student tiny.toml",
        r"encoder 'mlp' cannot read observations of shape \[4, 84, 84\]",
    ),
    "nobody": ("eval", "nothing to evaluate; name a policy's file"),
    "no rule": ("eval teacher.safetensors --rule best", "rule must be 'greedy', 'sampled'"),
    "no episodes": ("eval teacher.safetensors --episodes 0", "episodes and num_envs must be at least 1"),
    "negative seed to train": ("train cartpole --seed -1", "seed must be at least 0, got -1"),
    "no episodes to distil for": ("distill teacher.safetensors --episodes 0", "episodes must be at least 1, got 0"),
    "negative seed": ("distill teacher.safetensors --seed -1", "seed must be at least 0, got -1"),
    "no memory": (
        "distill teacher.safetensors --student tiny.toml --set source.states=1_000_000_000_000",
        r"the replay needs \d+.\d GB, .*; lower source.states",
    ),
}


@pytest.mark.parametrize(("command", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_gets_one_clear_line(command: str, message: str, work: Path, capfd: Capture) -> None:
    before = set(work.rglob("*"))
    assert re.search(message, refused(command.split(), capfd))
    assert set(work.rglob("*")) <= before | {work / "runs", *(work / "runs").rglob("*")}
    assert not list(work.rglob("*.safetensors.tmp"))


@pytest.mark.parametrize("arguments", [["distil"], ["evolve"], ["show", "pong", "--jsn"]])
def test_words_that_are_no_command_end_with_2(arguments: list[str], capfd: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert "rlkd" in err


def test_help_names_every_verb(capfd: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capfd.readouterr().out
    assert all(verb in out for verb in ("list", "show", "train", "distill", "evolve", "eval", "report"))
