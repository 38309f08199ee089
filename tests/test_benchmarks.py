"""Tests of what benchmarks compute besides running rlkd."""

import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.common import Record, end_with, store, stored, thinned
from benchmarks.exploration import __main__ as exploration
from benchmarks.first_weights.__main__ import dead_units
from benchmarks.gpu.__main__ import table as gpu_table
from benchmarks.noisy_tv import __main__ as noisy_tv
from benchmarks.novelty_curve import __main__ as novelty_curve
from benchmarks.rnd_mutations import __main__ as rnd_mutations
from benchmarks.teachers import __main__ as teachers
from benchmarks.teachers.revive import answers, revive
from benchmarks.throughput.__main__ import FOLDER, PARTS
from benchmarks.throughput.measure import Shares, Window, tree_cpu_seconds
from benchmarks.throughput.table import rates, ratios, tables, verdict
from rlkd import recipe
from rlkd.errors import RecipeError, Stopped
from rlkd.policy import PolicyNetwork
from rlkd.recipe import Network, Ppo, recipe_hash
from rlkd.vector import as_recipe


def test_what_is_stored_is_read_again(tmp_path: Path) -> None:
    assert stored(tmp_path) == {}
    store(tmp_path, {"rows": [1.5]}, ["a line"])
    assert stored(tmp_path) == {"rows": [1.5]}


def test_a_policy_with_stored_scores_is_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    before, made = stored(teachers.FOLDER), tomllib.loads((teachers.FOLDER / "teachers.toml").read_text())
    monkeypatch.setattr(teachers, "play", played_anew)
    table = (teachers.FOLDER / "result.md").read_text().splitlines()
    for name, told in made.items():
        line, record = teachers.scored(name, told, before[name])
        assert line in table
        assert record == before[name]
        for other in (None, before[name] | {"hash": "of other weights"}):
            with pytest.raises(RuntimeError, match="played"):
                teachers.scored(name, told, other)


def played_anew(*_: object) -> None:
    """Instead of a hundred games."""
    raise RuntimeError("played")


@pytest.mark.parametrize(
    ("ends", "code", "told"),
    [
        (None, 0, ""),
        (RecipeError("no such thing"), 2, "benchmark: no such thing\n"),
        (Stopped("saved at step 3"), 3, "benchmark: saved at step 3\n"),
        (subprocess.CalledProcessError(2, ["python"]), 2, ""),
        (subprocess.CalledProcessError(-9, ["python"]), 1, ""),
        (KeyboardInterrupt(), 3, "benchmark: interrupted; with the same command it goes on where something was kept\n"),
    ],
)
def test_a_benchmark_ends_with_one_line(
    ends: BaseException | None, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        if ends is not None:
            raise ends
        return 0

    with pytest.raises(SystemExit) as ended:
        end_with(main)
    assert (ended.value.code, capsys.readouterr().err) == (code, told)


def test_revived_filters_answer_again_and_the_policy_stays_as_it_was() -> None:
    network = PolicyNetwork(recipe.load("nature", Network), (4, 84, 84), "categorical", 6)
    network.initialise(torch.Generator().manual_seed(0), for_rl=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    states = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network(states).flat.square().sum().backward()
    optimiser.step()
    first, second = (module for module in list(network.encoder)[:4] if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        for layer, dead in ((first, [0, 5]), (second, [7])):
            assert layer.bias is not None
            layer.bias[dead] = -1e6
        before = network(states).flat
        alive = first.weight[1].clone()
        counts = revive(network, optimiser, states, torch.Generator().manual_seed(2))
        assert [int(count.split()[0]) >= dead for count, dead in zip(counts, (2, 1, 0), strict=True)] == [True] * 3
        assert torch.equal(network(states).flat, before)
        for layer in (first, second):
            assert (answers(network, layer, states) > 0).any(0).all()
        assert torch.equal(first.weight[1], alive)
    network(states).flat.square().sum().backward()
    assert second.weight.grad is not None
    assert (second.weight.grad[:, [0, 5]] != 0).any()
    moments = optimiser.state[second.weight]
    assert (moments["exp_avg"][:, [0, 5]] == 0).all()
    assert (moments["exp_avg_sq"] > 0)[:, [0, 5]].all()


def test_dead_units_are_counted_by_layer() -> None:
    network = PolicyNetwork(recipe.load("nature_62k", Network), (4, 84, 84), "categorical", 6)
    network.initialise(torch.Generator().manual_seed(0), for_rl=False)
    states = torch.randint(0, 256, (40, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network.standardise(states)
    assert dead_units(network, states) == [0, 0, 0, 0]
    first, hidden = network.encoder[0], network.encoder[7]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(hidden, nn.Linear)
    assert first.bias is not None
    with torch.no_grad():
        first.bias[[1, 3, 4]] = -1e6
        hidden.bias[7] = -1e6
    counts = dead_units(network, states)
    assert (counts[0], counts[3] >= 1) == (3, True)


def found(*rates: float, shares: dict[str, float] | None = None, cell: str = "8") -> list[Record]:
    """Repeats of a variant that did so much work in two wall seconds and one CPU second."""
    cells = [{cell: {"work": 2.0 * rate, "wall": 2.0, "cpu": 1.0}} for rate in rates]
    return [{"cells": each, "shares": shares or {}} for each in cells]


def test_ratios_are_of_the_same_repeat_and_verdicts_of_their_median() -> None:
    ours, peer = found(30, 10, 90), found(10, 10, 10)
    assert ratios(ours, peer, ("8", "8"), "cpu") == [3.0, 1.0, 9.0]
    assert rates(ours, "8", "wall") == [30, 10, 90]
    assert rates(ours, "8", "cpu") == [60, 20, 180]
    assert verdict([3.0, 1.0, 9.0], 3.0) == "met"
    assert verdict([2.9, 1.0, 9.0], 3.0) == "MISSED"
    assert verdict([3.0], None) == ""


def test_the_table_of_throughput_compares_ours_with_every_peer_and_names_who_did_not_run() -> None:
    runs = {
        "stepping": {"ale_py/32": found(100, cell="32"), "rlkd/32": found(96, cell="32"), "sb3/8": found(10)},
        "replay": {"rlkd transitions": found(9, cell="2"), "memcpy": found(18, cell="2")},
        "ppo": {"rlkd float32": found(4, 4, shares={"optimiser": 0.25, "emulators": 0.75}), "sb3": found(1, 2)},
        "dqn": {"rlkd float32": found(3, shares={"target values": 0.8, "emulators": 0.2}), "sb3": found(2)},
    }
    thresholds = {"stepping": {"ale_py/32": 0.97}, "ppo": {"sb3": 3.0}, "dqn": {"sb3": 2.0}}
    lines, record = tables(runs, thresholds, ["replay | cpprb not installed"])
    assert (
        "| stepping | rlkd/32 / ale_py/32 | 0.96 (0.96 to 0.96) | 0.96 (0.96 to 0.96) | >= 0.97 | MISSED | MISSED |"
        in lines
    )
    assert "| ppo | rlkd float32 / sb3 | 3.00 (2.00 to 4.00) | 3.00 (2.00 to 4.00) | >= 3 | met | met |" in lines
    assert any(line.startswith("| replay | rlkd transitions / memcpy, observations 2 | 0.50") for line in lines)
    assert any("cpprb not installed" in line for line in lines)
    assert "CPU seconds of ppo, rlkd float32: emulators 75%, optimiser 25%." in lines
    assert record["ratios"]["stepping: rlkd/32 / sb3/8"]["cpu"] == [9.6]
    (bound,) = (line for line in lines if line.startswith("- "))
    assert bound.startswith("- rlkd float32 / sb3: 80% of rlkd float32's CPU seconds are arithmetic that both sides do")
    assert "the ratio would be 1.88, and 2 takes" in bound


def test_every_threshold_of_throughput_is_of_a_peer_that_runs() -> None:
    thresholds = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    for part, wanted in thresholds.items():
        assert set(wanted) <= {name for variant in PARTS[part] for name in variant.split(" + ")}


def test_a_window_is_between_its_first_and_its_last_mark() -> None:
    window = Window(seconds=0.0)
    assert [window.mark(work) for work in (5, 7)] == [False, True]
    sample = window.sample()
    assert sample.work == 2
    assert sample.wall > 0


def test_shares_leave_out_what_was_called_from_within_and_add_up() -> None:
    def busy() -> None:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass

    shares = Shares()
    inner = shares.wrapped(busy, "inner")

    def outer() -> None:
        busy()
        inner()
        inner()

    shares.start()
    thread = threading.Thread(target=shares.wrapped(outer, "outer"))
    thread.start()
    thread.join()
    assert shares.spent["inner"] == pytest.approx(0.04, rel=0.3)
    assert shares.spent["outer"] == pytest.approx(0.02, rel=0.3)
    found = shares.shares()
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["inner"] > found["outer"] > 0


def test_cpu_seconds_of_a_tree_hold_those_of_children_alive_and_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint()\nsys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ended = tree_cpu_seconds(process.pid)
        process.communicate()
    assert ended >= 0.28
    assert tree_cpu_seconds(os.getpid()) >= ended


def test_the_table_of_the_gpu_says_what_failed() -> None:
    timed = {"work": 300.0, "wall": 2.0, "cpu": 4.0}
    lines = gpu_table(
        {
            "emulators/128": timed | {"work": 600.0},
            "loop/128": timed | {"work": 100.0},
            "ours/128/float32/graphs": timed | {"shares": {"sampling": 1.0}},
            "ours/128/float32/eager": "failed with exit code 1",
        }
    )
    assert "| ours/128/float32/graphs | 150 | 3.00 | 0.50 | 2.0 | sampling 100% |" in lines
    assert "| ours/128/float32/eager | failed with exit code 1 | | | | |" in lines


def test_of_tuned_values_the_first_with_most_seeds_that_found_the_reward_is_taken() -> None:
    assert exploration.taken([[0.0, 0.0, 0.0], [-0.01, 0.9, 0.0], [0.99, 0.99, 0.0], [0.6, 0.7, -0.2]]) == 2
    assert exploration.taken([[-0.01, -0.01], [0.0, 0.0]]) == 0  # nobody found it: the most exploring one


def test_every_agent_of_exploration_has_as_many_sets_of_values_and_recipes_that_take_them() -> None:
    assert len({len(sets) for _, sets in exploration.AGENTS.values()}) == 1
    for agent, sets in exploration.AGENTS.values():
        assert len({recipe_hash(recipe.load(agent, Ppo, overrides=values)) for values in sets}) == len(sets)
    for env in (*exploration.FRAMES, str(exploration.TUNED_ON)):
        assert as_recipe(env).source == "gymnasium"


def test_novelty_is_measured_on_digits_that_nobody_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 60, "COMMON": 60, "HELD_OUT": 40, "COUNTS": (0, 40)}.items():
        monkeypatch.setattr(novelty_curve, name, value)
    (before, unseen), (also_before, seen) = (novelty_curve.errors_around(count, 3, 0) for count in (0, 40))
    assert before == also_before
    assert seen < unseen
    assert novelty_curve.rank_correlation(np.arange(5), np.array([9.0, 7.0, 5.0, 4.0, 1.0])) == pytest.approx(-1)


def test_a_television_is_watched_in_the_second_half_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noisy_tv, "FRAMES", 4096)
    shares = [noisy_tv.watched("rl/ppo_classic", tmp_path / "run", 0) for _ in range(2)]
    assert shares[0] == shares[1]  # also where the folder holds a run
    assert 0 <= shares[0] < 0.5


def test_a_long_curve_is_told_by_lines_at_equal_distances_up_to_the_last() -> None:
    curve = [{"step": step} for step in range(1, 101)]
    assert [line["step"] for line in thinned(curve, 4)] == [25, 50, 75, 100]
    assert thinned(curve[:2], 4) == curve[:2]


def test_every_deviation_of_a_bonus_finds_the_one_line_that_it_changes() -> None:
    found = {
        each.what: (rnd_mutations.ROOT / each.file).read_text().count(each.old) for each in rnd_mutations.MUTATIONS
    }
    assert {what: count for what, count in found.items() if count != 1} == {}
