"""Tests of the benchmarks `techniques` and `term_cost`: verdicts, limits and arms, without running any."""

import math
import tomllib
from pathlib import Path

import pytest
import torch

from benchmarks.techniques import verdicts
from benchmarks.techniques.__main__ import FOLDER, measured, outcome, table, unpack
from benchmarks.techniques.arms import ARMS, Arm
from benchmarks.techniques.bench import Bench
from benchmarks.techniques.parts import MISLABELLED, NEVER_FIRST, wrong_labels
from benchmarks.techniques.rows import ROWS
from benchmarks.term_cost.terms import BESIDE_REWARDS, compared, trials, vectors
from rlkd import recipe
from rlkd.recipe import Distill, Ppo
from rlkd.storage import read_json
from rlkd.terms import DIVERGENCES, TARGETS, TEACHERS, WEIGHTS, Objective

LIMITS = tomllib.loads((FOLDER / "thresholds.toml").read_text())


def test_every_row_has_limits_a_claim_that_names_them_and_arms_that_there_are() -> None:
    assert {row.name for row in ROWS} | {"budget"} == set(LIMITS)
    for row in ROWS:
        assert "{" not in row.claim.format(**LIMITS[row.name])
        assert set(row.arms) <= set(ARMS)
        assert (row.measure is None) == (LIMITS[row.name]["core_minutes"] > 120)


def test_recipes_of_all_arms_take_their_overrides() -> None:
    for arm in ARMS.values():
        if not isinstance(arm, Arm):
            recipe.load(arm.agent, Ppo, overrides=arm.overrides)
            continue
        loaded = recipe.load(arm.agent, Distill, overrides=arm.overrides)
        Objective(loaded.terms, "categorical", 6, arm.parts)


def test_a_difference_holds_where_its_interval_says_so_and_the_shuffled_teacher_failed() -> None:
    clear = [{"a": 0.9 + k / 100, "b": 0.5, "shuffled teacher": 0.0} for k in range(5)]
    limits = {"shuffled_at_most": 0.5}
    assert verdicts.more(clear, limits, ours="a", theirs="b").holds
    assert not verdicts.more(clear, limits, ours="b", theirs="a").holds
    assert verdicts.less(clear, limits, ours="b", theirs="a").holds
    assert not verdicts.more([one | {"shuffled teacher": 0.9} for one in clear], limits, ours="a", theirs="b").holds
    noisy = [{"a": value, "b": 0.5} for value in (0.0, 1.2, 0.4, 0.9, 0.6)]
    assert not verdicts.more(noisy, {}, ours="a", theirs="b").holds


def test_differences_are_paired_within_a_seed() -> None:
    found = verdicts.difference([{"a": k + 1.0, "b": float(k)} for k in range(5)], "a", "b")
    assert (found.point, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_little_is_lost_where_the_loss_is_below_the_limit_and_zero_is_not_ruled_out() -> None:
    limits = {"loss_at_most": 0.03}
    for losses, holds in (((0.02, -0.01, 0.03), True), ((0.02, 0.02, 0.021), False), ((0.05, -0.01, 0.09), False)):
        records = [{"a": 0.9 - loss, "b": 0.9} for loss in losses]
        assert verdicts.kept(records, limits, ours="a", theirs="b").holds == holds


def test_an_order_holds_from_the_first_to_the_last() -> None:
    records = [{"a": 0.9, "b": 0.8, "c": 0.1 + k / 100} for k in range(5)]
    assert verdicts.ordered(records, {}, names=("a", "b", "c")).holds
    assert not verdicts.ordered(records, {}, names=("a", "c", "b")).holds


def test_seeds_are_won_against_every_other() -> None:
    records = [{"a": 1.0, "b": 2.0, "c": 3.0 if k else 0.5} for k in range(5)]
    found = verdicts.beats_in_seeds(records, {"share_of_seeds_at_least": 0.8}, ours="a", others=("b", "c"))
    assert found.holds
    assert "lowest in 4 of 5 seeds" in found.measured


def test_what_is_stored_is_not_run_again(tmp_path: Path) -> None:
    stored = read_json(FOLDER / "result.json")
    bench = Bench(tmp_path, LIMITS["budget"])
    unpack(stored, bench)
    lines, record = table(bench, LIMITS, range(5))
    run = {name: row for name, row in stored["rows"].items() if row["seeds"]}
    assert {name: record["rows"][name] for name in run} == run
    assert record["arms"] == stored["arms"]
    assert sum(line.count(" holds |") for line in lines) >= 3
    top_k = next(row for row in ROWS if row.name == "top_k")
    assert measured(top_k, bench, 4) == stored["rows"]["top_k"]["seeds"][4]["numbers"]


def test_what_is_not_run_says_why() -> None:
    rows = {row.name: row for row in ROWS}
    assert outcome(rows["qdagger"], [], LIMITS["qdagger"], 5)[1].startswith("not run (needs ")
    assert outcome(rows["top_k"], [], LIMITS["top_k"], 5)[1] == "not run yet"
    one = {"top k": 0.9, "whole answers": 0.9, "hard labels": 0.7, "shuffled teacher": 0.0}
    assert outcome(rows["top_k"], [one], LIMITS["top_k"], 5)[1] == "not run yet to its end"
    assert outcome(rows["top_k"], [one] * 5, LIMITS["top_k"], 5)[1] == "holds"
    with pytest.raises(ValueError, match="cheap enough"):
        outcome(rows["qdagger"], [], {"core_minutes": 100.0}, 5)


def test_a_share_of_labels_is_wrong_in_all_ways_and_always_the_same() -> None:
    scores = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    lot = torch.rand(4000, generator=torch.Generator().manual_seed(1))
    labels, best = wrong_labels(scores, lot, share=0.4), scores.argmax(-1)
    assert torch.equal(labels != best, lot < 0.4)
    shifts = ((labels - best) % 6)[lot < 0.4].bincount(minlength=6)
    assert shifts[0] == 0
    assert all(math.isclose(count, 320, rel_tol=0.25) for count in shifts[1:].tolist())
    assert torch.equal(MISLABELLED.function(scores, lot, share=0.4).argmax(-1), labels)
    assert torch.equal(NEVER_FIRST.function(scores, action=2) == 0, best == 2)


def test_every_part_of_a_loss_is_timed() -> None:
    named = {trial.name.split(" beside ")[0] for trial in trials()}
    wanted = {f"divergence {name}" for name in DIVERGENCES if name != "forward_kl"}
    wanted |= {f"target {name}" for name in TARGETS} | {f"teacher {name}" for name in TEACHERS if name != "teacher"}
    wanted |= {f"weight {name}" for name in WEIGHTS if name not in BESIDE_REWARDS}
    assert wanted <= named
    states, spec, network = vectors(512, 0)
    for trial in trials():
        (spent,) = compared(states, spec, network, trial, repeats=1, steps=1, seed=0)
        assert set(spent) == {"plain", "other"}
