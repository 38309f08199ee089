"""Tests of `rlkd.report`: the page stands alone, says what run.json says, trusts no name, tells of what is missing."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlkd import storage
from rlkd.errors import StorageError
from rlkd.report import write_report
from tests.small_run import Page, make_run, record


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("tensorboard")))


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(finished, tmp_path_factory.mktemp("out") / "page.html").read_text(encoding="utf-8"))


def shown(value: float, digits: int) -> str:
    """A figure as pages write it."""
    text = f"{value:,.{digits}f}"
    return text.replace("-", "\u2212" if float(text.replace(",", "")) else "")


def test_the_report_lies_in_the_run_folder_and_is_small(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    assert 20_000 < path.stat().st_size < 2_000_000


def test_the_page_asks_the_network_for_nothing(run: Path, page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base"), tag
        for name in ("src", "href", "srcset", "data", "action"):
            assert name not in attributes or attributes[name].startswith("data:"), (tag, attributes)
    content = write_report(run).read_text(encoding="utf-8")
    addresses = re.findall(r"url\(([^)]{0,12})", content)
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert "@import" not in content
    assert "default-src 'none'" in content  # the browser refuses the rest


def test_every_policy_is_named_with_the_figures_of_run_json(finished: Path, page: Page) -> None:
    content, rows = record(finished), {row[0]: row for row in page.rows}
    named = {"teacher": content["teacher"]}
    named |= {entry["name"]: entry for entry in content["students"]}
    named |= {"control: " + entry["name"].replace("_", " "): entry for entry in content["controls"]}
    assert len(named) == 5
    for name, entry in named.items():
        row, (low, high) = rows[name], entry["ci95"]
        assert row[2] == f"{shown(entry['mean'], 1)} [{shown(low, 1)},\u00a0{shown(high, 1)}]"
        assert row[4] == f"{entry['parameters']:,}"
        if name != "teacher":
            low, high = entry["normalised_ci95"]
            assert row[1] == f"{shown(entry['normalised'], 2)} [{shown(low, 2)},\u00a0{shown(high, 2)}]"
            assert row[6:8] == [f"{entry['failed_share']:.0%}".replace("%", "\u00a0%"), percent(entry["agreement"])]
            assert row[8:] == [shown(entry["kl_teacher_states"], 3), shown(entry["kl_student_states"], 3)]
    for part in (content["command"], content["recipe_hash"], content["teacher"]["hash"], "forward_kl", "torch"):
        assert part in page.text


def percent(share: float) -> str:
    return f"{shown(100 * share, 1)}\u00a0%"


def test_all_sections_of_a_distillation_are_there(page: Page) -> None:
    for words in ("Score", "Side by side", "Learning", "Where the time went", "How to make it again"):
        assert words in page.text
    assert page.count("svg") >= 6
    labels = {attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg"}
    assert {"agreement", "Wall time by phase"} <= labels


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a'b&amp;c</title>"])
def test_names_from_files_stay_text(run: Path, name: str) -> None:
    content = record(run)
    content["students"][0]["name"] = content["controls"][0]["name"] = content["teacher"]["policy"] = name
    content["command"] = content["teacher"]["rule"] = content["environment"]["id"] = name
    content["versions"] = {name: name}
    content["seconds"] = {name: 3.0, f"learning: {name}": 2.0}
    storage.write_json(run / "run.json", content)
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, f"{name}/kl": 1.0, f"{name}/agreement": 0.5}) + "\n")
    found = Page(write_report(run).read_text(encoding="utf-8"))
    assert " ".join(name.split()) in found.text
    assert found.count("img") == 0
    assert found.count("script") == 1  # no side by side in an environment of that name: only our player's code
    assert not [at for _, at in found.elements if any(key.startswith("on") for key in at)]


def spoil(content: dict[str, Any], key: str, value: object) -> bytes:
    *path, last = key.split(".")
    table: Any = content
    for part in path:
        table = table[int(part)] if isinstance(table, list) else table[part]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("kind", "imitate", "kind"),
        ("teacher", None, "teacher"),
        ("teacher.mean", None, "mean"),
        ("teacher.ci95", [1.0], "ci95"),
        ("students", "none", "students"),
        ("students.0.parameters", "many", "parameters"),
        ("students.1.scores", [None], "scores"),
        ("controls.0.normalised_ci95", [0.1, "x"], "normalised_ci95"),
        ("random.mean", None, "mean"),
    ],
)
def test_a_damaged_record_is_named(run: Path, key: str, value: object, named: str) -> None:
    (run / "run.json").write_bytes(spoil(record(run), key, value))
    with pytest.raises(StorageError, match=named) as caught:
        write_report(run)
    assert str(run / "run.json") in str(caught.value)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"3"])
def test_a_run_json_that_is_none_is_named(run: Path, content: bytes) -> None:
    (run / "run.json").write_bytes(content)
    with pytest.raises(StorageError, match=re.escape(f"{run / 'run.json'}: damaged")):
        write_report(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="neither run.json nor metrics.jsonl"):
        write_report(tmp_path)
    with pytest.raises(StorageError, match="no run folder at"):
        write_report(tmp_path / "nothing")


def test_figures_that_were_not_recorded_are_dashes(run: Path) -> None:
    content = record(run)
    for key in ("agreement", "kl_teacher_states", "failed_share"):
        del content["students"][1][key]
    content["students"][1]["kl_student_states"] = float("nan")
    storage.write_json(run / "run.json", content)
    rows = {row[0]: row for row in Page(write_report(run).read_text(encoding="utf-8")).rows}
    assert rows["tinier"][6:] == ["–"] * 4


def test_a_stopped_distillation_says_so_and_shows_its_curves(run: Path) -> None:
    (run / "run.json").unlink()
    found = Page(write_report(run).read_text(encoding="utf-8"))
    assert "has not finished" in found.text
    assert "no run.json" in found.text
    assert found.count("svg") == 2
    for name in ("tiny", "tinier", "hard_labels", "shuffled_teacher"):
        assert name in found.text


def lineage(run: Path, finished: Path) -> dict[str, Any]:
    """A lineage of three, its figures those of the small run."""
    content = record(finished)
    first = content["teacher"] | {"number": 0, "parents": [], "seed": None, "recipe_hash": None, "seconds": 1.0}
    line = [first | {"normalised": 1.0, "normalised_ci95": [1.0, 1.0], "path": "generations/000/policy.safetensors"}]
    for number, student in enumerate(content["students"], start=1):
        place = {"number": number, "parents": [line[-1]["hash"]], "seed": 1000 * number, "recipe_hash": "ab" * 32}
        line.append(student | place | {"seconds": 2.0, "path": f"generations/{number:03d}/policy.safetensors"})
        folder = run / "generations" / f"{number:03d}" / "distill"
        folder.mkdir(parents=True)
        lines = [{"step": s, f"generation-{number}/kl": 1 / s, f"generation-{number}/agreement": 0.5} for s in (1, 9)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(values) + "\n" for values in lines))
    kept = {key: content[key] for key in ("random", "environment", "recipe", "recipe_hash", "command", "seed")}
    return {"kind": "evolve", "status": "running", "teacher": first, "generations": line, **kept}


def test_a_lineage_shows_parents_changes_and_that_it_still_runs(finished: Path, tmp_path: Path) -> None:
    content = lineage(tmp_path, finished)
    storage.write_json(tmp_path / "run.json", content)
    found = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    rows = {row[0]: row for row in found.rows if len(row) == 10}
    assert [rows[number][3] for number in "012"] == ["–", "generation 0", "generation 1"]
    for number, entry_ in zip("012", content["generations"], strict=True):
        assert rows[number][1].startswith(shown(entry_["mean"], 1))
    assert "seed 2000" in rows["2"][4]
    assert "still running" in found.text
    assert "Not shown: no policy at" in found.text
    bars = [at for tag, at in found.elements if at.get("class", "").startswith("interval")]
    assert len(bars) == 3
    assert {"generation 1", "generation 2"} <= set(found.words)


def test_tags_from_metrics_stay_text(tmp_path: Path) -> None:
    tag = 'train/"><img src=x onerror=alert(1)>'
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, tag: 2.0}) + "\n")
    found = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert found.count("img") == 0
    assert tag in found.words
    assert tag in [attributes.get("aria-label") for _, attributes in found.elements]


def test_a_training_run_shows_its_curves(tmp_path: Path) -> None:
    lines = [
        {
            "step": k,
            "rollout/ep_rew_mean": k / 100,
            "train/entropy": 1.0,
            "time/agent_steps_per_second": 900.0,
            "junk": "x",
        }
        for k in range(10, 5000)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1, "torn'
    (tmp_path / "metrics.jsonl").write_text(text + "\n[1]\n")
    found = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "has not finished" in found.text
    assert "49.99 after 4,999 agent steps" in found.text or "50.0 after 4,999 agent steps" in found.text
    content = {"kind": "train", "status": "done", "environment": {"id": "pong"}, "agent": {"name": "rl/ppo"}, "seed": 3}
    content |= {"command": "rlkd train pong"}
    storage.write_json(tmp_path / "run.json", content)
    path = write_report(tmp_path)
    found = Page(path.read_text(encoding="utf-8"))
    assert "has not finished" not in found.text
    assert "training · pong · rl/ppo" in found.text
    assert "rlkd train pong" in found.text
    assert found.count("svg") == 3
    assert path.stat().st_size < 100_000  # five thousand points were thinned out
