"""Tests of the benchmark `generations`: what is said of papers' claims, and that its recipes fit, without breeding."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common import Record
from benchmarks.generations import __main__ as main
from benchmarks.generations.__main__ import FOLDER, claims, complete, kept, result_of, table
from benchmarks.generations.claims import CLAIMS, STATES, left_beside_the_assistant
from benchmarks.generations.studies import STUDIES, Study, identity, planned
from rlkd import recipe, storage
from rlkd.evaluation import play
from rlkd.lineage import evolve
from rlkd.lineage.verdicts import verdicts
from rlkd.policy import load_policy
from rlkd.recipe import Arm, Generations, Part, Term
from tests.handmade import cartpole_teacher
from tests.made_up_lineage import lineage
from tests.test_lineage_operators import agent

LIMITS = tomllib.loads((FOLDER / "thresholds.toml").read_text())
OF = {study.name: study for study in STUDIES}
ARMS: tuple[Arm, ...] = ("smoothed", "permuted", "confidence", "longer", "ensemble")


def finding(name: str, found: Record) -> tuple[bool, str]:
    """Whether a claim holds, and what is said."""
    told = next(claim for claim in CLAIMS if claim.name == name).check(
        found | {"verdicts": verdicts(found)}, LIMITS[name]
    )
    assert told is not None
    return told.holds, told.measured


def made_up(name: str, **changes: float) -> Record:
    """A lineage as the claim's study breeds it, with effects in TN by role."""
    study = OF[next(claim.study for claim in CLAIMS if claim.name == name)]
    rule = recipe.load(study.agent, Generations)
    arms, generations = ARMS if study.arms else (), study.generations
    return lineage(rule.operator.name, lines=3, generations=generations, arms=arms, effects=changes, noise=2.0)


def test_every_claim_has_limits_and_a_study_and_says_them() -> None:
    assert {claim.name for claim in CLAIMS} == set(LIMITS)
    assert {claim.study for claim in CLAIMS} <= set(OF)
    for claim in CLAIMS:
        assert "{" not in claim.text.format(**LIMITS[claim.name])


@pytest.mark.parametrize("study", STUDIES, ids=list(OF))
def test_recipes_of_studies_fit_together(study: Study) -> None:
    founder, line = planned(study)
    assert len(line.steps(founder, study.lines)) >= study.lines * study.generations


@pytest.mark.parametrize(
    ("name", "effects", "holds"),
    [
        ("born_again_first", {"main": 0.0}, True),
        ("born_again_first", {"main": -0.2}, False),
        ("born_again_best", {"main": 0.3}, True),
        ("born_again_best", {"main": -0.3}, False),
        ("teacher_assistant", {"longer": -0.4}, True),
        ("teacher_assistant", {"longer": 0.4}, False),
        ("residual_score", {"main": -0.05, "student": -0.5}, True),
        ("residual_score", {"main": -0.4, "student": -0.5}, False),
        ("evolution_whole", {"longer": -0.4}, True),
        ("evolution_whole", {"longer": 0.4}, False),
    ],
)
def test_scores_decide(name: str, effects: dict[str, float], holds: bool) -> None:
    found = made_up(name, **effects)
    assert finding(name, found)[0] == holds
    if name == "residual_score" and holds:
        for row in found["steps"]:
            row["parameters"] = LIMITS[name]["parameters_below"]
        assert not finding(name, found)[0]  # as large as the next network


def test_games_that_choose_a_generation_do_not_count_for_its_chance_to_win() -> None:
    found = made_up("born_again_best")
    for row in found["steps"]:
        row["scores"] = [100.0] * len(row["scores"])
    for row in found["steps"][1:]:
        row["scores"] = [200.0 if game % 2 == 0 else 100.0 for game in range(len(row["scores"]))]
    assert "chance to win 0.50" in finding("born_again_best", found)[1]


def test_a_part_has_to_get_better_in_most_lines() -> None:
    found = made_up("evolution_slim")
    for row in found["steps"]:
        if row["role"] == "slim":
            row["normalised"] = row["number"] / 4
    holds, told = finding("evolution_slim", found)
    assert holds
    assert "difference 0.500 [0.500, 0.500]; more in 3 of 3 lines" in told
    unmet = next(claim for claim in CLAIMS if claim.name == "evolution_slim").check(
        found, {"share_of_lines_at_least": 1.1}
    )
    assert unmet is not None
    assert not unmet.holds
    worse = next(row for row in found["steps"] if (row["name"], row["role"]) == ("003-slim-line1", "slim"))
    worse["normalised"] = 0.1
    holds, told = finding("evolution_slim", found)
    assert not holds
    assert "more in 2 of 3 lines" in told


def test_all_together_have_to_be_better_calibrated_than_each_in_every_line() -> None:
    found = made_up("born_again_ensemble")
    for row in found["steps"]:
        row["measures"] = {"first": {"calibration_error": 0.01 if row["role"] == "ensemble" else 0.02}}
    assert finding("born_again_ensemble", found)[0]
    next(row for row in found["steps"] if row["name"] == "002-line2")["measures"]["first"]["calibration_error"] = 0.01
    holds, told = finding("born_again_ensemble", found)
    assert not holds
    assert "line 2: together 0.0100, alone 0.0200 0.0100 0.0200" in told


def test_what_is_not_there_or_not_done_has_no_verdict() -> None:
    record: Record = {"claims": {}}
    assert all("| not run " in row for row in claims({}, LIMITS, record)[4:])
    whole = lineage("shrink", lines=3, generations=2)
    assert complete(OF["teacher_assistant"], whole)
    short = lineage("shrink", lines=2, generations=2)
    assert not complete(OF["teacher_assistant"], short)
    assert not complete(OF["pong"], lineage(lines=3, generations=5))  # its arms are missing
    claims({"teacher_assistant": short}, LIMITS, record)
    assert record["claims"]["teacher_assistant"]["verdict"] == "no verdict: not run to its end"
    assert record["claims"]["evolution_slim"]["verdict"] == "not run yet"
    assert len(table(whole | {"verdicts": verdicts(whole)})) > 8


@pytest.mark.parametrize("study", STUDIES, ids=list(OF))
def test_what_is_stored_of_a_study_says_what_its_run_folder_does(study: Study) -> None:
    name = next(claim.name for claim in CLAIMS if claim.study == study.name) if study.name != "breakout" else ""
    found = made_up(name) if name else lineage(lines=3)
    found |= {"verdicts": verdicts(found)}
    stored: Record = json.loads(json.dumps(kept(found)))
    assert table(stored) == table(found)
    assert claims({study.name: stored}, LIMITS, {"claims": {}}) == claims({study.name: found}, LIMITS, {"claims": {}})


def test_a_study_that_is_stored_to_its_end_is_neither_bred_nor_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, bred = OF["breakout"], lineage(lines=2) | {"verdicts": []}
    whole = kept(lineage(lines=3) | {"verdicts": []})
    whole["teacher"]["identity"] = identity(study)
    asked_for: list[str] = []
    monkeypatch.setattr(main, "breed", lambda study, run: asked_for.append(study.name))
    assert result_of(study, None, tmp_path, asked=False) is None
    storage.write_json(tmp_path / "run.json", bred)
    assert result_of(study, whole, tmp_path, asked=True) == whole
    assert asked_for == []
    other = whole | {"teacher": whole["teacher"] | {"identity": "of another quick.toml"}}
    short = whole | {"steps": [step for step in whole["steps"] if step["line"] < 2]}
    for stored in (other, short):
        assert result_of(study, stored, tmp_path, asked=True) == json.loads(json.dumps(kept(bred)))
    assert asked_for == [study.name] * 2
    assert result_of(study, short, tmp_path / "nowhere", asked=False) == short
    assert result_of(study, other, tmp_path / "nowhere", asked=False) is None


@pytest.mark.parametrize("study", STUDIES, ids=list(OF))
def test_whose_lineage_a_study_is_changes_with_what_it_is_made_of(study: Study) -> None:
    others = [replace(study, teacher="policy:pong_dqn"), replace(study, overrides=('student="nature_113k"',))]
    assert len({identity(each) for each in (study, *others)}) == 3
    assert identity(replace(study, lines=9, arms=not study.arms and study.agent == "born_again")) == identity(study)


def test_what_an_assistant_leaves_is_measured_on_states_of_the_student(tmp_path: Path) -> None:
    mse = {"terms": (Term(divergence=Part("mse")),), "gradient_steps": 200}
    rule = agent(tmp_path, Part("residual", {"assistant": "mlp_16"}), student="mlp_16", generations=1, distill=mse)
    run = tmp_path / "run"
    found = evolve(cartpole_teacher(), rule, run=run, episodes=2)
    left = left_beside_the_assistant(found, run)
    paths = [run / row["path"] for row in found["steps"][:3]]  # the teacher, the student, both
    states = play(load_policy(paths[1]), episodes=2, keep_states=STATES).states
    with torch.no_grad():
        wanted, alone, both = (load_policy(path)(torch.as_tensor(states)).params["logits"].numpy() for path in paths)
    lacks = [np.float64(wanted) - other for other in (both, alone)]
    norms = [np.sqrt(sum(np.var(row) * row.size for row in each)) for each in lacks]  # of rows less their means
    assert left == [pytest.approx(norms[0] / norms[1], rel=1e-4)]
    assert left[0] < 1
