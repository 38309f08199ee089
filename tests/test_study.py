"""Tests of `rlkd.study`: cells are computed once, nothing incomparable is compared, verdicts follow from intervals."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkd import recipe as recipes
from rlkd import storage
from rlkd.cli import main
from rlkd.data import JsonDict
from rlkd.errors import RecipeError, RlkdError
from rlkd.metrics import read_metrics
from rlkd.recipe import Ppo
from rlkd.report import write_report
from rlkd.stats import Estimate
from rlkd.study import compare, comparison_table
from rlkd.study.cell import Cell, cell_key, last_words, start
from rlkd.study.verdicts import verdict, verdicts
from rlkd.vector import as_recipe
from tests.commands import Capture

ENVS, AGENTS = ("deep_sea_10", "cartpole"), ("rl/ppo_classic", "explore/ppo_counts")
SMALL: dict[str, Any] = {"frames": 2048, "episodes": 3, "overrides": ("epochs=1",)}


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("study")
    compare(ENVS, AGENTS, seeds=1, run=run, **SMALL)
    return run


def copied(studied: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(studied, tmp_path / "run"))


def test_every_agent_is_trained_and_played_on_every_environment_from_every_seed(studied: Path) -> None:
    record = json.loads((studied / "run.json").read_text())
    assert record["status"] == "done"
    assert [(cell["env"], cell["agent"], cell["seed"]) for cell in record["cells"]] == [
        (env, agent, 0) for env in ENVS for agent in AGENTS
    ]
    for cell in record["cells"]:
        assert len(cell["scores"]) == 3
        policy = studied / cell["path"] / "generations" / "000" / "policy.safetensors"
        assert policy.is_file()
    assert 5 < record["verdicts"]["environments"]["cartpole"]["random"] < 50
    assert set(record["verdicts"]["suite"]) == set(AGENTS)


def test_what_is_finished_is_not_computed_again_and_seeds_are_added(studied: Path, tmp_path: Path) -> None:
    run = copied(studied, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("score.json")}
    record = compare(ENVS[:1], AGENTS[:1], seeds=2, run=run, **SMALL)
    assert len(record["cells"]) == 2
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert len(list(run.rglob("score.json"))) == len(before) + 1


@pytest.mark.parametrize("changes", [{"frames": 4096}, {"episodes": 4}, {"overrides": ("epochs=2",)}])
def test_whatever_changes_a_score_is_computed_anew_and_the_old_scores_stay(
    changes: dict[str, Any], studied: Path, tmp_path: Path
) -> None:
    run = copied(studied, tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("score.json")}
    record = compare(ENVS[:1], AGENTS[:1], seeds=1, run=run, **(SMALL | changes))
    (cell,) = record["cells"]
    assert run / cell["path"] / "score.json" not in before
    assert all(path.read_bytes() == content for path, content in before.items())
    # And the other way about: the first scores are taken as they were.
    again = compare(ENVS[:1], AGENTS[:1], seeds=1, run=run, **SMALL)
    assert run / again["cells"][0]["path"] / "score.json" in before


def test_what_is_edited_while_a_study_runs_is_not_trained(tmp_path: Path) -> None:
    network = tmp_path / "mine.toml"
    network.write_text('kind = "network"\nencoder = "mlp"\nhidden = [8]\n')
    learner = recipes.load("rl/ppo_classic", Ppo, overrides=(f"network='{network}'", "frames=1024"))
    cell = Cell(
        env="cartpole", agent="mine", place=as_recipe("cartpole"), learner=learner, seed=0, episodes=1, device="cpu",
        study=tmp_path, key=cell_key(as_recipe("cartpole"), learner, 1),
    )  # fmt: skip
    process = start(cell)
    assert process.stdin is not None
    network.write_text('kind = "network"\nencoder = "mlp"\nhidden = [9]\n')
    assert process.wait(60) == 2
    assert "was changed while the study ran" in last_words(cell, 2)
    process.stdin.close()


@pytest.mark.parametrize(
    ("envs", "agents", "seeds", "message"),
    [
        ((), AGENTS, 1, "name at least one environment"),
        (ENVS, (), 1, "name at least one agent"),
        (("cartpole", "cartpole"), AGENTS, 1, "'cartpole' and 'cartpole' are one environment; name it once"),
        (("cartpole", "classic/cartpole"), AGENTS, 1, "are one environment; name it once"),
        (ENVS, AGENTS, 0, "seeds must be at least 1, got 0"),
        (ENVS, ("hinton",), 1, "'hinton' does not say how to train"),
        (("cartpol",), AGENTS, 1, "did you mean 'cartpole'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    envs: tuple[str, ...], agents: tuple[str, ...], seeds: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        compare(envs, agents, seeds=seeds, run=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_agents_with_other_budgets_and_one_game_under_two_protocols_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="other budgets do not compare .* give --frames"):
        compare(ENVS, AGENTS, seeds=1, run=tmp_path / "run")
    other = tmp_path / "other.toml"
    text = (Path(__file__).parent.parent / "envs" / "classic" / "cartpole.toml").read_text()
    other.write_text(text.replace('"500-steps"', '"mine"'))
    with pytest.raises(RecipeError, match=r"'cartpole' and '.*other.toml' are one game under two protocols"):
        compare(("cartpole", str(other)), AGENTS, seeds=1, run=tmp_path / "run", **SMALL)


def test_a_run_that_fails_is_named_with_its_reason_and_the_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(RlkdError, match="1 of 2 runs failed.*\n.*dqn_classic on pendulum, seed 0: .*continuous"):
        compare(("pendulum", "cartpole"), ("rl/dqn_classic",), seeds=1, run=tmp_path, frames=2048, episodes=1)
    assert [path.parent.parent.parent.name for path in tmp_path.rglob("score.json")] == ["cartpole"]


def begun(run: Path, *options: str) -> tuple["subprocess.Popen[str]", Path]:
    """A study of one cell that has learnt for a while, and the cell's folder."""
    command = [
        sys.executable,
        "-m",
        "rlkd",
        "compare",
        "--env",
        "cartpole",
        "--seeds",
        "1",
        "--episodes",
        "2",
        *options,
    ]
    process = subprocess.Popen(
        [*command, "--run", str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    for _ in range(900):
        time.sleep(0.1)
        for metrics in run.rglob("metrics.jsonl"):
            if metrics.read_text().count("\n") > 1:
                return process, metrics.parent
    process.kill()
    raise AssertionError("nothing was learnt")


@pytest.mark.parametrize("agent", ["rl/ppo_classic", "sb3/ppo"])
def test_a_stopped_study_goes_on_with_the_same_command(agent: str, tmp_path: Path) -> None:
    options = ("--agent", agent, "--frames", "16000")
    process, cell = begun(tmp_path, *options)
    with process:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 3, told
    assert "what ran is saved" in told
    assert not (cell / "score.json").exists()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "running"
    record = compare(("cartpole",), (agent,), seeds=1, run=tmp_path, frames=16_000, episodes=2)
    assert len(record["cells"][0]["scores"]) == 2
    if agent == "rl/ppo_classic":  # one curve, where the learner can go on
        steps = [line["step"] for line in read_metrics(cell)]
        assert steps == sorted(set(steps))


def test_runs_save_and_end_when_who_started_them_is_killed(tmp_path: Path) -> None:
    process, cell = begun(tmp_path, "--agent", "rl/ppo_classic", "--frames", "10_000_000")
    with process:
        process.kill()
    checkpoint = cell / "checkpoint.safetensors"
    for _ in range(300):
        time.sleep(0.1)
        if "stopped on a signal" in (cell / "log.txt").read_text():
            break
    assert "stopped on a signal" in (cell / "log.txt").read_text()
    assert checkpoint.exists()
    with storage.run_folder(cell):
        pass  # nobody holds it any more


@pytest.mark.parametrize(
    ("estimate", "seeds", "said"),
    [
        (Estimate(1.0, 0.1, 2.0), 5, "better"),
        (Estimate(-1.0, -2.0, -0.1), 5, "worse"),
        (Estimate(1.0, -0.1, 2.0), 5, "no difference seen"),
        (Estimate(0.0, 0.0, 0.0), 5, "no difference seen"),
        (Estimate(1.0, 0.9, 1.1), 2, "too few seeds"),
    ],
)
def test_a_verdict_is_what_the_interval_allows(estimate: Estimate, seeds: int, said: str) -> None:
    assert verdict(estimate, seeds=seeds) == said


def made_up() -> JsonDict:
    """Two environments, two agents, four seeds of five episodes; the second agent is better on the first alone."""
    draw = np.random.default_rng(0)
    levels = {("a", "one"): 10, ("a", "two"): 20, ("b", "one"): 5, ("b", "two"): 5}
    cells = [
        {"env": env, "agent": agent, "seed": seed, "scores": draw.normal(level, 1, 5).tolist()}
        for (env, agent), level in levels.items()
        for seed in range(4)
    ]
    return {
        "order": {"environments": ["a", "b"], "agents": ["one", "two"]},
        "environments": {name: {"random": [0.0, 0.0]} for name in "ab"},
        "seeds": 4,
        "frames": 1000,
        "cells": cells,
    }


def test_verdicts_name_the_better_agent_where_there_is_one() -> None:
    record = made_up()
    found = verdicts(record)
    assert found["environments"]["a"]["agents"]["two"]["verdict"] == "better"
    assert found["environments"]["a"]["agents"]["two"]["difference"][0] == pytest.approx(10, abs=1)
    assert found["environments"]["b"]["agents"]["two"]["verdict"] == "no difference seen"
    assert "verdict" not in found["environments"]["a"]["agents"]["one"]
    # 0 is random play, 1 the best agent's mean: half of it on one environment, all of it on the other.
    assert found["suite"]["two"]["iqm"][0] == pytest.approx(1, abs=0.1)
    assert found["suite"]["one"]["iqm"][0] == pytest.approx(0.75, abs=0.1)
    assert 0.5 < found["suite"]["two"]["improvement"] < 1
    assert found["left_out"] == []
    for width in (80, 200):
        table = comparison_table(record | {"verdicts": found}, width=width)
        assert len(table.rows) == 6
        assert len(table.columns) == (5 if width == 80 else 6)


def test_where_nobody_beats_random_play_nothing_is_normalised_but_pairs_still_count() -> None:
    record = made_up()
    record["environments"]["b"]["random"] = [5.0, 90.0]
    found = verdicts(record)
    assert found["left_out"] == ["b"]
    assert found["suite"]["two"]["iqm"][0] == pytest.approx(1, abs=0.1)
    assert found["suite"]["two"]["improvement"] == verdicts(made_up())["suite"]["two"]["improvement"]


def test_the_report_says_what_the_study_says(studied: Path, capsys: Capture) -> None:
    page = write_report(studied).read_text()
    for words in (
        *ENVS,
        *AGENTS,
        "too few seeds",
        "interquartile mean",
        "share of the bonus",
        "random play",
    ):
        assert words in page
    assert main(["report", str(studied)]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")


def test_the_command_prints_verdicts_or_one_object(studied: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["compare", "--seeds", "1", "--frames", "2048", "--episodes", "3", "--set", "epochs=1"]
    for env in ENVS:
        arguments += ["--env", env]
    for agent in AGENTS:
        arguments += ["--agent", agent]
    arguments += ["--run", str(copied(studied, tmp_path))]
    assert main(arguments) == 0
    assert "too few seeds" in capsys.readouterr().out.replace("\n", " ")
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "compare"
