"""Tests of `rlkd.report`: the page stands alone, says what run.json says, draws it where it belongs, trusts no name."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import hypothesis.strategies as st
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from hypothesis import given

from rlkd import storage
from rlkd.distillation import run_distillation
from rlkd.distillation.record import run_record
from rlkd.errors import StorageError
from rlkd.policy import load
from rlkd.recipe import Distill, Network, Source, Term
from rlkd.report import write_report
from rlkd.report.charts import dots, score_against_size
from rlkd.report.duel import busiest, play
from rlkd.report.record import Entry
from rlkd.report.sheet import player, sheet
from rlkd.report.svg import log_ticks, spread, ticks
from rlkd.report.verdict import best_student, headline, verdicts
from rlkd.vector import make
from tests import handmade

VOID = {"meta", "input", "br", "img", "link", "hr"}
CLOSED = {"path", "line", "rect"}  # SVG elements that may close themselves
EPISODES = 5


class Page(HTMLParser):
    """A page's elements, texts and table rows; complains about tags that do not fit."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | CLOSED
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        """All that is there to be read, with plain spaces."""
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def count(self, tag: str) -> int:
        """How many elements there are of a kind."""
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small, real CartPole run; tests copy it before they change anything."""
    run = tmp_path_factory.mktemp("runs") / "small"
    where = handmade.environment("cartpole", frame_cap=200, episodes=EPISODES)
    teacher = handmade.cartpole_teacher(rule="sampled", recipe=where)
    recipe = Distill(
        source=Source(states=640, num_envs=16, rounds=3),
        terms=(Term(divergence="forward_kl"),),
        gradient_steps=60,
        batch_size=64,
        students=("mlp_64",),
        held_out_states=100,
    )
    students = {"tiny": handmade.TINY, "tinier": Network(encoder="mlp", hidden=(2,), activation="tanh")}
    result = run_distillation(teacher, students, recipe, run=run, seed=0, episodes=EPISODES)
    storage.write_json(run / "run.json", run_record(result, recipe, where, seed=0, command="rlkd distill teacher"))
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("tensorboard")))


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(finished, tmp_path_factory.mktemp("out") / "page.html").read_text(encoding="utf-8"))


def record(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return content


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


ENTRIES = st.tuples(st.floats(-2, 3), st.floats(0, 1), st.floats(0, 1)).map(
    lambda drawn: (drawn[0], (drawn[0] - drawn[1], drawn[0] + drawn[2]))
)


def entry(name: str, normalised: float, interval: tuple[float, float], **known: Any) -> Entry:
    figures: dict[str, Any] = {
        "mean": 10.0,
        "ci95": (9.0, 11.0),
        "parameters": 25,
        "weight_bytes": 100,
        "episodes": 100,
    }
    return Entry(name=name, normalised=normalised, normalised_ci95=interval, **(figures | known))


@given(st.lists(ENTRIES, min_size=1, max_size=5))
def test_dots_and_intervals_stand_where_the_ticks_say(drawn: list[tuple[float, tuple[float, float]]]) -> None:
    found = Page(dots([entry(f"s{k}", *values) for k, values in enumerate(drawn)], []))
    zero, one = (float(at["x1"]) for tag, at in found.elements if at.get("class") == "reference")
    bars = [at for tag, at in found.elements if at.get("class", "").startswith("interval")]
    marks = [at["d"] for tag, at in found.elements if at.get("class", "").startswith("mark ")]
    assert len(bars) == len(marks) == len(drawn)
    for bar, (_, (low, high)) in zip(bars, drawn, strict=True):
        for edge, value in (("x1", low), ("x2", high)):
            assert (float(bar[edge]) - zero) / (one - zero) == pytest.approx(value, abs=0.02 / (one - zero))
    for mark, (point, _) in zip(marks, drawn, strict=True):
        x = [float(number) for number in re.findall(r"[ML](-?[\d.]+)", mark)]
        middle = x[0] + 5 if "a" in mark else (min(x) + max(x)) / 2  # a circle starts at its left end
        assert (middle - zero) / (one - zero) == pytest.approx(point, abs=0.1 / (one - zero))


def test_scores_against_size_have_a_linear_and_a_logarithmic_axis() -> None:
    teacher = entry("teacher", 1, (1, 1), mean=100.0, ci95=(90.0, 110.0), weight_bytes=1_000_000)
    students = [
        entry("a", 1, (1, 1), mean=80.0, ci95=(70.0, 95.0), weight_bytes=1_000),
        entry("b", 1, (1, 1), mean=60.0, ci95=(20.0, 75.0), weight_bytes=31_623),
    ]
    found = Page(score_against_size(teacher, students, 0.0))
    bars = [at for tag, at in found.elements if at.get("class", "").startswith("interval")]
    x = [float(bar["x1"]) for bar in bars]
    assert x[2] - x[1] == pytest.approx((x[0] - x[1]) / 2, abs=0.1)  # 31,623 is halfway from 10^3 to 10^6
    tops, bottoms = ([float(bar[edge]) for bar in bars] for edge in ("y2", "y1"))
    unit = (bottoms[0] - tops[0]) / 20
    assert bottoms[1] - tops[1] == pytest.approx(25 * unit, abs=0.1)
    assert bottoms[2] - tops[0] == pytest.approx(90 * unit, abs=0.1)
    assert "random play" in found.text


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
        ("kind", "compare", "kind"),
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


def test_the_game_that_is_shown_is_the_game_that_was_scored(finished: Path) -> None:
    content = record(finished)
    teacher, student = load(finished / "teacher.safetensors"), load(finished / "students" / "tiny.safetensors")
    where = teacher.spec.environment
    assert where is not None
    duel = play(teacher, student, where, seed=where.protocol.first_seed + 1, steps=1000, seconds=60)
    assert duel.teacher.score == content["teacher"]["scores"][1]
    assert duel.student.score == content["students"][0]["scores"][1]
    assert (len(duel.teacher.moments), len(duel.student.moments)) == (
        content["teacher"]["steps"][1],
        content["students"][0]["steps"][1],
    )
    assert duel.teacher.over
    assert duel.student.over


def test_atari_disagreements_are_those_of_the_two_networks() -> None:
    steps, seed = 40, 7
    where = handmade.environment("pong")
    policies = [handmade.policy(where, "categorical", handmade.TINY_PIXELS, seed=k, sharpness=20) for k in (0, 1)]
    duel = play(policies[0], policies[1], where, seed=seed, steps=steps, seconds=60)
    meanings = policies[0].spec.action_meanings
    for side, game in enumerate((duel.teacher, duel.student)):
        env = make(where)
        observation, _ = env.reset(seed=seed)
        for moment in game.moments:
            wanted = [int(p(observation[None]).params["logits"].argmax()) for p in policies]
            assert [moment.teacher.split()[0], moment.student.split()[0]] == [meanings[k] for k in wanted]
            assert moment.differ == (wanted[0] != wanted[1])
            assert moment.played == meanings[wanted[side]]  # these two play greedily
            observation, *_ = env.step(np.int64(wanted[side]))
        assert len(game.moments) == steps
    marks = [[moment.differ for moment in game.moments] for game in (duel.teacher, duel.student)]
    assert {True, False} <= {mark for side in marks for mark in side}

    first, length = 5, 30
    screens = [
        moment.picture for game in (duel.teacher, duel.student) for moment in game.moments[first : first + length]
    ]
    pictures = sheet(screens)
    found = Page(player(duel, pictures, first, length, names=("one", "other"), roles=("the teacher", "the student")))
    ticks_at = [(at["y"], int(at["x"])) for _, at in found.elements if at.get("class") == "differs"]
    for side, y in enumerate(("1", "13")):
        wanted_at = [k for k in range(length) if marks[side][first + k]]
        assert [x for row, x in ticks_at if row == y] == wanted_at
    borders = ["differ" in at["class"] for _, at in found.elements if at.get("class", "").startswith("screen")][:2]
    assert borders == [marks[0][first], marks[1][first]]


def test_a_sheet_holds_every_picture_at_its_position() -> None:
    generator = np.random.default_rng(0)
    tiles = [np.kron(generator.integers(0, 256, (5, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(7)]
    pictures = sheet([cv2.imencode(".png", tile)[1].tobytes() for tile in tiles])
    kind, _, coded = pictures.uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    image = cv2.imdecode(np.frombuffer(base64.b64decode(coded), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    for place, tile in enumerate(tiles):
        x, y = (float(part.rstrip("%")) / 100 for part in pictures.position(place).split())
        left, top = round(x * (image.shape[1] - 32)), round(y * (image.shape[0] - 40))
        cut = np.asarray(image)[top : top + 40, left : left + 32]
        assert np.abs(cut.astype(float) - tile).mean() < 8


def test_the_stretch_with_most_disagreements_is_shown() -> None:
    where = handmade.environment("cartpole", frame_cap=60)
    teacher, student = handmade.cartpole_teacher(recipe=where), handmade.cartpole_teacher(recipe=where)
    duel = play(teacher, student, where, seed=3, steps=60, seconds=60)
    assert not any(duel.differ(step) for step in range(60))  # two copies of one policy never disagree
    assert busiest(duel, 10) == 0
    for step in (31, 33, 36, 50):
        moment = duel.student.moments[step]
        duel.student.moments[step] = type(moment)(moment.picture, "", "", "", True, 0.0)
    assert busiest(duel, 10) == 27


def test_continuous_actions_differ_by_a_tenth_of_their_range() -> None:
    where = handmade.environment("pendulum", frame_cap=5)
    policies = [handmade.policy(where, "gaussian", handmade.LINEAR, seed=k) for k in (0, 0, 1)]
    same = play(policies[0], policies[1], where, seed=0, steps=5, seconds=60)
    other = play(policies[0], policies[2], where, seed=0, steps=5, seconds=60)
    assert same.teacher.differing == 0
    for moment in (*other.teacher.moments, *other.student.moments):
        assert moment.differ == (abs(float(moment.teacher) - float(moment.student)) > 0.1 * 4)  # torque in [-2, 2]


def test_without_the_drawing_package_the_counts_remain(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(self: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr(CartPoleEnv, "render", render)
    found = Page(write_report(run).read_text(encoding="utf-8"))
    assert "No pictures" in found.text
    assert re.search(r"They prefer different actions on [\d.]+ % of \d+ steps of the teacher’s game", found.text)
    assert found.count("button") == 0


@pytest.mark.parametrize("how", ["replaced", "damaged", "missing"])
def test_a_policy_that_is_not_the_measured_one_is_not_shown(run: Path, how: str) -> None:
    files = run / "students" / "tiny.safetensors", run / "students" / "tinier.safetensors"
    for path in files:
        if how == "missing":
            path.unlink()
        elif how == "damaged":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            shutil.copy(run / "students" / "hard_labels.safetensors", path)
    found = Page(write_report(run).read_text(encoding="utf-8"))
    assert "Not shown: " in found.text
    assert found.count("button") == 0


@pytest.mark.parametrize(
    ("student", "hard", "shuffled", "wanted"),
    [
        pytest.param((1.0, 0.9, 1.1), (0.5, 0.4, 0.6), (0.0, -0.1, 0.1), "good good good", id="as hoped"),
        pytest.param((0.9, 0.85, 0.95), (0.9, 0.8, 0.96), (0.0, -0.1, 0.1), "unsure unsure good", id="no gain"),
        pytest.param((0.3, 0.2, 0.4), (0.9, 0.8, 0.96), (0.3, 0.1, 0.5), "bad bad bad", id="all wrong"),
        pytest.param((0.0, -0.1, 0.1), (0.0, -0.1, 0.1), (0.0, -0.1, 0.1), "bad unsure bad", id="nothing learned"),
        pytest.param((1.2, 1.1, 1.3), (1.0, 0.9, 1.05), (0.2, 0.1, 0.3), "good good unsure", id="shuffled too good"),
        pytest.param((0.8, 0.1, 1.5), (0.8, 0.1, 1.5), (0.0, -0.1, 0.05), "unsure unsure good", id="too wide"),
    ],
)
def test_verdicts_are_honest(
    student: tuple[float, float, float],
    hard: tuple[float, float, float],
    shuffled: tuple[float, float, float],
    wanted: str,
) -> None:
    own, *controls = (
        entry(name, point, (low, high))
        for name, (point, low, high) in (("small", student), ("hard_labels", hard), ("shuffled_teacher", shuffled))
    )
    teacher = entry("", 1, (1, 1), policy="expert")
    found = verdicts(teacher, [own], controls, random_mean=0.0)
    assert [verdict.tone for verdict in found] == wanted.split()


def test_verdicts_warn_of_a_weak_teacher_few_episodes_and_missing_controls() -> None:
    teacher = entry("", 1, (1, 1), policy="expert", mean=1.0, ci95=(-1.0, 3.0), episodes=3)
    sentences = " ".join(verdict.sentence for verdict in verdicts(teacher, [], [], random_mean=0.0))
    for words in ("not clearly better than random play", "rest on 3 episodes", "No controls were run"):
        assert words in sentences


def test_the_headline_names_the_smallest_student_that_keeps_the_score() -> None:
    teacher = entry("", 1, (1, 1), policy="expert")
    small = entry("small", 0.97, (0.91, 1.01), weight_bytes=400, parameter_ratio=1 / 27)
    tiny = entry("tiny", 0.6, (0.5, 0.7), weight_bytes=100, parameter_ratio=1 / 100)
    large = entry("large", 1.01, (0.98, 1.03), weight_bytes=900, parameter_ratio=1 / 2)
    best = best_student([large, tiny, small])
    assert best == small
    words = headline(teacher, best).replace("\u00a0", " ")
    assert words == "small keeps 97 % [91, 101] of expert’s lead over random play with 1/27 of its parameters."
    assert best_student([tiny]) == tiny
    failed = entry("f", -0.1, (-0.2, 0.0))
    assert "No student learned to play" in headline(teacher, failed)


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
    content = {"kind": "train", "status": "done", "environment": {"id": "pong"}, "agent": "rl/ppo", "seed": 3}
    content |= {"command": "rlkd train pong", "score": {"mean": 18.25, "ci95": [17.5, 19.0]}}
    storage.write_json(tmp_path / "run.json", content)
    path = write_report(tmp_path)
    found = Page(path.read_text(encoding="utf-8"))
    assert "has not finished" not in found.text
    assert "18.2 [17.5, 19.0]" in found.text
    assert "rlkd train pong" in found.text
    assert found.count("svg") == 3
    assert path.stat().st_size < 100_000  # five thousand points were thinned out


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_labels_are_spread_in_order(places: list[float]) -> None:
    moved = spread(places, 10, 0, 100)
    order = sorted(range(len(places)), key=lambda k: places[k])
    inside = sorted(moved)
    assert [moved[k] for k in order] == inside
    assert all(after - before >= 10 - 1e-9 for before, after in pairwise(inside))
    assert inside[0] >= -1e-9
    assert inside[-1] <= 100 + 1e-9


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_within_the_range(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 11
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in found)


@given(st.floats(1e-6, 1e6), st.floats(2.6, 1e6))
def test_logarithmic_ticks_are_few_and_within_the_range(low: float, ratio: float) -> None:
    found = log_ticks(low, low * ratio)
    assert 1 <= len(found) <= 5
    assert all(low <= value <= low * ratio for value in found)
