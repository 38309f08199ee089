"""Tests of `rlkd.exporting.card`: the run's own figures, measured ones where there is no run, and no invented ones."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import rlkd
from rlkd.exporting.card import find_facts
from rlkd.lineage import evolve
from rlkd.policy import load_policy
from tests import handmade, small_run
from tests.test_exporting import SHORT, made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.make_run(tmp_path_factory.mktemp("card") / "run")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No times, which take an export each; one test measures them."""
    monkeypatch.setattr("rlkd.exporting.card.latencies", lambda policy: {"torch": 12e-6})


def cells(text: str) -> dict[str, str]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in rows}


def test_a_students_card_holds_its_runs_figures(run: Path, tmp_path: Path) -> None:
    record = small_run.record(run)
    entry: dict[str, Any] = record["students"][0]
    path = Path(entry["path"])
    exported = rlkd.export(path, tmp_path / "card.md", to="card")
    text = (tmp_path / "card.md").read_text()
    found = cells(text)
    low, high = entry["ci95"]
    assert (
        found["score, mean [95 %]"] == f"{entry['mean']:.2f} [{low:.2f}, {high:.2f}] over {small_run.EPISODES} episodes"
    )
    low, high = entry["normalised_ci95"]
    assert found["TN [95 %]"] == f"{entry['normalised']:.3f} [{low:.3f}, {high:.3f}]"
    assert found["parameters"] == f"{entry['parameters']:,}" == "114"
    assert found["bytes of weights"].startswith(f"{entry['weight_bytes']:,} ")
    assert found["bytes of the file"] == f"{path.stat().st_size:,}"
    assert found["floating-point operations of a decision"] == f"{entry['flops']:,}"
    assert found["decision rule"] == entry["rule"]
    assert found["its score, mean [95 %]"].startswith(f"{record['teacher']['mean']:.2f} [")
    assert found["its content hash"] == f"`{record['teacher']['hash']}`"
    assert found["time of a decision, torch"] == "12 microseconds"
    assert f"Learned from `{record['teacher']['hash']}` ({record['teacher']['policy']})." in text
    assert "```shell\nrlkd distill teacher\n```" in text
    assert f'rlkd.load("{path.name}")' in text
    assert exported.parity is None
    assert exported.source_hash == entry["hash"]
    front = text.split("---")[1].splitlines()
    assert "library_name: rlkd" in front
    assert f'      value: "{entry["mean"]:.2f} +/- {entry["std"]:.2f}"' in front
    assert f'- name: "{entry["name"]}"' in front


def test_without_a_run_the_score_is_measured_and_no_teacher_is_claimed(run: Path, tmp_path: Path) -> None:
    entry = small_run.record(run)["students"][0]
    alone = tmp_path / "alone.safetensors"
    shutil.copy(entry["path"], alone)
    exported = rlkd.export(alone, tmp_path / "card.md", to="card", episodes=SHORT)
    text = (tmp_path / "card.md").read_text()
    assert "No teacher is known." in text
    assert "TN" not in text
    assert "```shell" not in text
    assert f"over {SHORT} episodes" in cells(text)["score, mean [95 %]"]
    assert "measured now" in exported.notes[0]


def test_a_run_of_other_policies_is_not_believed(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    other = handmade.policy(handmade.environment("cartpole", episodes=SHORT), "categorical", handmade.TINY, seed=9)
    other.save(copied / "students" / "other.safetensors")
    assert find_facts(other, copied / "students" / "other.safetensors").run is None
    entry = small_run.record(copied)["students"][0]
    mine = copied / Path(entry["path"]).relative_to(run)
    assert find_facts(load_policy(mine), mine).entry == entry
    teacher = load_policy(copied / "teacher.safetensors")
    found = find_facts(teacher, copied / "teacher.safetensors")
    assert (found.entry, found.teacher, found.command) == (small_run.record(copied)["teacher"], None, "")
    (copied / "run.json").write_text("{")
    assert find_facts(load_policy(mine), mine).run is None


def test_a_generation_names_its_parents(tmp_path: Path) -> None:
    where = handmade.environment("cartpole", frame_cap=100, episodes=SHORT)
    (tmp_path / "small.toml").write_text(rlkd.recipe.dump(handmade.small_distillation()))
    rule = rlkd.recipe.Generations(
        operator=rlkd.recipe.Part("fresh"), distill=str(tmp_path / "small.toml"), generations=2
    )
    (tmp_path / "line.toml").write_text(rlkd.recipe.dump(rule))
    teacher = handmade.cartpole_teacher(rule="sampled", recipe=where)
    record = evolve(teacher, str(tmp_path / "line.toml"), run=tmp_path / "line", episodes=SHORT, device="cpu")
    first, second = record["generations"][1:]
    rlkd.export(tmp_path / "line" / second["path"], tmp_path / "card.md", to="card")
    text = (tmp_path / "card.md").read_text()
    assert f"Learned from `{first['hash']}` ({first['policy']})." in text
    assert cells(text)["TN [95 %]"].startswith(f"{second['normalised']:.3f} [")


def test_times_are_measured_for_torch_and_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlkd.exporting.latency import latencies

    found = latencies(made("cartpole", "categorical", handmade.TINY))
    assert list(found) == ["torch", "ONNX Runtime"]
    assert all(1e-6 < value < 0.1 for value in found.values())
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert list(latencies(made("cartpole", "categorical", handmade.TINY))) == ["torch"]
