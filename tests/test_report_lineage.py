"""Tests of `rlkd.report` on lineages: nothing is drawn over anything else, figures are those of run.json, names stay
text, what is missing or damaged is told."""

import json
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import scipy.stats

from rlkd import storage
from rlkd.data import JsonDict
from rlkd.errors import StorageError
from rlkd.evaluation.reading import READING
from rlkd.lineage.verdicts import verdicts
from rlkd.recipe import ARMS, Arm
from rlkd.report import write_report
from rlkd.report.family import Member, members, typeset
from rlkd.report.lineage_charts import Curve, by_generation, heat, stacked
from rlkd.report.record import read_run
from rlkd.report.svg import FONT, LETTER
from rlkd.report.tree import Layout, family_tree, place
from tests.made_up_lineage import PARTS, lineage
from tests.small_run import Page

Box = tuple[float, float, float, float]


def written(run: Path, record: JsonDict) -> Path:
    storage.write_json(run / "run.json", record)
    return run


def page(run: Path, record: JsonDict) -> Page:
    return Page(write_report(written(run, record)).read_text(encoding="utf-8"))


def everybody(run: Path, record: JsonDict) -> tuple[Member, ...]:
    return members(read_run(written(run, record)))


@pytest.fixture(scope="module")
def whole() -> JsonDict:
    """Three lines with all arms."""
    record = lineage(lines=3, arms=ARMS, effects={"permuted": -0.15, "main": 0.05, "ensemble": 0.1})
    return record | {"verdicts": verdicts(record)}


@pytest.fixture(scope="module")
def shown(whole: JsonDict, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page(tmp_path_factory.mktemp("whole"), whole)


def drawn(content: str) -> list[ET.Element]:
    """Elements of a drawing."""
    return list(ET.fromstring(content).iter())


def text_boxes(elements: Sequence[ET.Element]) -> dict[str, Box]:
    """Where texts stand, by what they say and where: as wide as letters are on average."""
    found = {}
    for element in elements:
        if element.tag == "text":
            words, x, y = element.text or "", float(element.attrib["x"]), float(element.attrib["y"])
            wide, style = len(words) * LETTER * 0.95, element.attrib["class"].split()
            left = x - wide / 2 if "middle" in style else x - wide if "end" in style else x
            found[f"{words} at {x:.0f}, {y:.0f}"] = (left, y - 0.75 * FONT, left + wide, y + 0.2 * FONT)
    return found


def overlap(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])


def points(path: str) -> list[tuple[float, float]]:
    """A path of M, L and C, as points close to each other."""
    found: list[tuple[float, float]] = []
    for kind, numbers in re.findall(r"([MLC])([^MLC]*)", path):
        values = np.array([float(number) for number in numbers.split()]).reshape(-1, 2)
        if kind == "M":
            found.append(tuple(values[0]))
            continue
        corners = [np.array(found[-1]), *values]
        for t in np.linspace(0, 1, 50):
            weights = scipy.stats.binom.pmf(range(len(corners)), len(corners) - 1, t)  # Bernstein's polynomials
            x, y = sum(w * corner for w, corner in zip(weights, corners, strict=True))
            found.append((float(x), float(y)))
    return found


TREES: list[Any] = [pytest.param(name, lines, (), id=f"{name}, {lines}") for name in PARTS for lines in (1, 3)]
TREES.append(pytest.param("fresh", 3, ARMS, id="fresh, all arms"))


def laid_out(run: Path, operator: str, lines: int, arms: tuple[Arm, ...]) -> tuple[JsonDict, Layout, str]:
    record = lineage(operator, lines=lines, arms=arms, generations=4)
    found = everybody(run, record)
    return record, place(found, operator), family_tree(found, operator)


@pytest.mark.parametrize(("operator", "lines", "arms"), TREES)
def test_nothing_in_a_family_tree_hides_anything_else(
    operator: str, lines: int, arms: tuple[Arm, ...], tmp_path: Path
) -> None:
    record, layout, content = laid_out(tmp_path, operator, lines, arms)
    assert len(layout.nodes) == len(record["steps"])
    elements = drawn(content)
    boxes = text_boxes(elements)
    for (words, one), (others, other) in combinations(boxes.items(), 2):
        assert not overlap(one, other), (words, others)
    for one_node, other_node in combinations(layout.nodes, 2):
        assert not overlap(one_node.box, other_node.box)
    svg = next(element for element in elements if element.tag == "svg")
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    assert all(min(box) >= 0 and box[2] <= width and box[3] <= height for box in boxes.values()), boxes
    for edge in layout.edges:
        way = points(edge.path)
        assert way[0] == pytest.approx((edge.parent.box[2], edge.parent.y), abs=5)
        assert way[-1] == pytest.approx((edge.child.box[0], edge.child.y), abs=5)
        for node in layout.nodes:
            left, top, right, bottom = node.box
            if node not in (edge.parent, edge.child):
                assert not any(left < x < right and top < y < bottom for x, y in way), (edge, node)
        for box in (box for words, box in boxes.items() if not re.match(r"\d", words)):
            assert not any(overlap((x, y, x + 0.1, y + 0.1), box) for x, y in way), (edge, box)


@pytest.mark.parametrize(("operator", "lines", "arms"), TREES)
def test_a_tree_has_everybodys_parents_and_its_columns_are_in_the_order_of_descent(
    operator: str, lines: int, arms: tuple[Arm, ...], tmp_path: Path
) -> None:
    record, layout, _ = laid_out(tmp_path, operator, lines, arms)
    for row in record["steps"]:
        own = [edge for edge in layout.edges if edge.child.member.name == row["name"]]
        assert {edge.parent.member.name for edge in own} == set(row["parent_names"])
        assert len(own) == len({(edge.parent.member.name, edge.start) for edge in own})
    assert all(edge.parent.column < edge.child.column for edge in layout.edges)
    numbers = sorted({(node.column, node.member.number) for node in layout.nodes})
    assert [number for _, number in numbers] == sorted(number for _, number in numbers)
    for one, other in combinations(layout.nodes, 2):
        same = (one.member.line, one.member.arm, one.member.role) == (
            *(other.member.line, other.member.arm, other.member.role),
        )
        if one.member.number and other.member.number:
            assert (one.y == other.y) == same


@pytest.mark.parametrize(
    ("operator", "child", "solid", "dashed"),
    [
        ("fresh", "002", {"001"}, set()),
        ("reset", "003", {"000"}, {"002"}),
        ("reset", "001", {"000"}, set()),
        ("perturb", "002", {"001"}, {"001"}),
        ("perturb", "001", {"000"}, set()),
        ("residual", "002", {"000"}, {"002-student"}),
        ("improve", "002-trained", set(), {"001"}),
        ("improve", "002", {"002-trained"}, set()),
        ("iterate", "002", {"001"}, set()),
        ("follow", "002", {"002-best"}, {"001"}),
        ("follow", "002-best", {"001-best", "002-trained"}, set()),
        ("select", "001", {"001-stop025", "001-stop050", "001-stop100"}, set()),
        ("ensemble", "003-ensemble", {"001", "002", "003"}, set()),
    ],
)
def test_whom_it_learns_from_and_whose_weights_it_begins_with_are_told_apart(
    operator: str, child: str, solid: set[str], dashed: set[str], tmp_path: Path
) -> None:
    layout = place(everybody(tmp_path, lineage(operator)), operator)
    own = [edge for edge in layout.edges if edge.child.member.name == child]
    assert {edge.parent.member.name for edge in own if not edge.start} == solid
    assert {edge.parent.member.name for edge in own if edge.start} == dashed


def test_a_tree_shows_scores_colours_by_arm_and_says_what_it_is(whole: JsonDict, tmp_path: Path) -> None:
    elements = drawn(family_tree(everybody(tmp_path, whole), "fresh"))
    svg = next(element for element in elements if element.tag == "svg")
    assert svg.attrib["aria-label"] == "Family tree of 43 policies: 3 generations, 3 lines, 3 arms"
    titled = {(element.findtext("title") or "").split(":")[0]: element for element in elements if element.tag == "rect"}
    texts = {(element.findtext("title") or "").split(":")[0]: element for element in elements if element.tag == "text"}
    styles: dict[str | None, set[str]] = {}
    for row in whole["steps"]:
        assert texts[row["name"]].text == (f"{row['normalised']:.2f}" if row["number"] else "1")
        styles.setdefault(row["arm"], set()).add(titled[row["name"]].attrib["class"].split()[1])
    assert all(len(found) == 1 for found in styles.values())
    assert len(set.union(*styles.values())) == 4
    words = {element.text for element in elements if element.tag == "text"}
    assert {"line 0", "line 2", "main line", "permuted", "ensemble", "gen. 3", "learns from, or is made of"} <= words


def test_the_page_says_what_the_verdicts_say_at_its_top(whole: JsonDict, shown: Page) -> None:
    text = shown.text
    ends = text.index("Score and learning")
    for row in whole["verdicts"]:
        sentence = typeset(row["sentence"]).replace("\u00a0", " ")
        assert text.index(sentence) < ends
        assert text.index(row["question"]) < ends
    for part in (
        "Family tree",
        "Every arm and generation",
        "What happened?",
        "Where the time went",
        "lines of descent",
    ):
        assert part in text
    assert text.startswith("Generation 3 against the first teacher")
    signs = [attributes["class"] for tag, attributes in shown.elements if tag == "b"]
    tones = {"better": "good", "worse": "bad"}
    assert signs[1 : 1 + len(whole["verdicts"])] == [
        tones.get(row["verdict"], "unsure") for row in whole["verdicts"]
    ]  # the first is about how few episodes there are


def test_minus_signs_are_real_and_intervals_stay_in_one_piece() -> None:
    assert typeset("x: -0.1 [-0.2, +0.3] TN-y 1-2") == "x: \u22120.1 [\u22120.2,\u00a0+0.3] TN-y 1-2"


def test_tables_have_means_over_lines_with_students_intervals(whole: JsonDict, shown: Page) -> None:
    values = [row["normalised"] for row in whole["steps"] if row["arm"] == "smoothed" and row["number"] == 2]
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    wanted = f"{np.mean(values):.2f} [{interval.low:.2f},\u00a0{interval.high:.2f}]"
    assert ["", "2", "3", wanted] in [row[:4] for row in shown.rows if len(row) == 10]


def test_the_table_of_everybody_says_what_was_measured_of_arms_and_controls(whole: JsonDict, shown: Page) -> None:
    for role in ("ensemble", "longer"):
        found = [row["measures"] for row in whole["steps"] if row["role"] == role]
        entropy = np.mean([row["child"]["entropy_student_states"] for row in found])
        error = np.mean([row["first"]["calibration_error"] for row in found])
        rows = [row for row in shown.rows if row[0] == role and len(row) == 10]
        assert [(row[7], row[9]) for row in rows] == [(f"{entropy:.3f}", f"{error:.3f}")]


def test_a_single_line_with_policies_on_the_way_has_the_table_of_everybody(tmp_path: Path) -> None:
    residual, fresh = (page(tmp_path / operator, lineage(operator)).text for operator in ("residual", "fresh"))
    assert "Every arm and generation" in residual
    assert "Every arm and generation" not in fresh


def test_measures_of_the_main_line_are_means_over_lines_each_with_how_to_read_it(whole: JsonDict, shown: Page) -> None:
    rows = [row for row in shown.rows if row[0] == "entropy student states"]
    assert len(rows) == 1
    for number in range(4):
        found = [
            row["measures"]["child"]["entropy_student_states"]
            for row in whole["steps"]
            if row["number"] == number and row["arm"] is None and not row["role"]
        ]
        assert rows[0][1 + number] == f"{np.mean(found):.3f}"
    assert rows[0][-1] == READING["entropy_student_states"]
    named = {row[0] for row in shown.rows}
    assert {"KL teacher states", "gradient variance ratio", "disagreement", "median seconds", "own states"} <= named
    assert "knowledge relation" not in named
    assert "parent: knowledge relation: it does not vary here" in shown.text
    said = [row[-1] for row in shown.rows if row[0] == "KL teacher states"]
    assert said[0] == READING["kl_teacher_states"]
    assert len(said) == 2  # beside the parent and beside the first teacher: said once
    assert said[1] != said[0]
    labels = [attributes.get("aria-label", "") for tag, attributes in shown.elements if tag == "svg"]
    assert sum(label.startswith("CKA of each layer") for label in labels) == 2


def test_measures_that_this_version_does_not_know_are_shown_and_missing_ones_left_out(tmp_path: Path) -> None:
    record = lineage()
    for row in record["steps"]:
        row["measures"] = {"child": {"wit": 0.125, "none": None, "nan": float("nan")}, "odd": [1, "x"], "luck": 0.25}
    record["steps"][-1]["measures"]["first"] = {"by_place": [{"place": "left", "worth": 0.5}]}
    storage.write_json(tmp_path / "run.json", record)
    found = page(tmp_path, record)
    assert ["wit", *4 * ["0.125"]] in found.rows
    assert ["luck", *4 * ["0.250"]] in found.rows
    assert ["3", "left", "0.500"] in found.rows
    assert not [row for row in found.rows if row[0] in ("none", "nan", "odd")]
    for row in record["steps"]:
        del row["measures"]
    assert "What happened?" not in page(tmp_path, record).text


def test_time_is_told_by_phases_and_the_rest(tmp_path: Path) -> None:
    content = stacked([("a", {"x": 10.0, "y": 30.0}), ("b", {"y": 20.0})], "time")
    bars = [element for element in drawn(content) if element.tag == "rect" and element.findtext("title")]
    wide = [float(bar.attrib["width"]) for bar in bars]
    assert wide == pytest.approx([99, 297, 198], abs=0.1)
    assert [float(bar.attrib["x"]) for bar in bars] == pytest.approx([2, 101, 2], abs=0.1)
    assert bars[1].attrib["class"] == bars[2].attrib["class"] != bars[0].attrib["class"]
    found = page(tmp_path, lineage("improve"))
    assert "generation 1, trained, 55 s" in found.text
    assert "all the rest" in found.text
    assert "6 min 25 s in all" in found.text


def test_scores_and_intervals_of_arms_stand_where_the_ticks_say() -> None:
    curves = [
        Curve("main line", (1, 2), (1.0, 1.2), ((0.9, 1.1), (1.1, 1.3)), 0),
        Curve("permuted", (1, 2), (0.8, 0.85), ((-9.0, 9.0), (0.8, 0.9)), 2),
        Curve("ensemble", (2,), (1.25,), ((1.2, 1.3),), 0, dim=True),
    ]
    elements = drawn(by_generation(curves))
    ticks = {
        float(element.text or ""): float(element.attrib["y"]) - 0.35 * FONT
        for element in elements
        if element.tag == "text"
        and element.attrib["class"] == "tick end"
        and re.fullmatch(r"[\d.]+", element.text or "")
    }
    (low, y_low), (high, y_high) = min(ticks.items()), max(ticks.items())
    unit = (y_high - y_low) / (high - low)
    bars = [element.attrib for element in elements if element.attrib.get("class", "").startswith("interval")]
    wanted = [pair for curve in curves for pair in curve.intervals]
    for bar, pair in zip(bars, wanted, strict=True):
        for edge, value in zip(("y1", "y2"), pair, strict=True):
            if abs(value) < 9:
                assert float(bar[edge]) == pytest.approx(y_low + unit * (value - low), abs=0.1)
    caps = [element for element in elements if element.attrib.get("class", "").startswith("cap")]
    assert len(caps) == 2 * 4  # the interval that goes on beyond the chart has none
    assert not [pair for pair in combinations(text_boxes(elements).values(), 2) if overlap(*pair)]


def test_layers_are_the_darker_the_more_alike() -> None:
    elements = drawn(heat(["first", "second"], ["1", "2"], [[1.0, 0.5], [None, 0.0]], "layers"))
    strengths = [float(element.attrib["fill-opacity"]) for element in elements if "fill-opacity" in element.attrib]
    assert strengths == [0.5, 0.27, 0.04]
    assert not [pair for pair in combinations(text_boxes(elements).values(), 2) if overlap(*pair)]


@pytest.mark.parametrize("operator", PARTS)
def test_every_operator_has_a_page(operator: str, tmp_path: Path) -> None:
    record = lineage(operator, generations=2)
    found = page(tmp_path, record | {"verdicts": verdicts(record)})
    rows = [row for row in found.rows if len(row) == 10 and row[0].isdecimal()]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert rows[2][3] == {
        **dict.fromkeys(("reset", "residual"), "generation 0"),
        "improve": "002-trained",
        "follow": "002-best",
        "select": "002-stop025, 002-stop050, 002-stop100",
    }.get(operator, "generation 1")
    begins = {"reset": "001", "perturb": "001", "residual": "002-student", "follow": "001"}
    if operator == "select":
        assert "the same as 002-stop100, best of 3" in rows[2][4]
    elif operator in begins:
        assert f"begins with weights of {begins[operator]}" in rows[2][4]
    else:
        assert f"new weights from seed {2500 if operator == 'iterate' else 2000}" in rows[2][4]
    assert "one seed shows nothing about seeds" in found.text


def test_curves_of_arms_and_lines_do_not_mix_with_those_of_the_main_line(whole: JsonDict, tmp_path: Path) -> None:
    for name in ("001", "001-line1", "001-permuted"):
        folder = tmp_path / "generations" / name / "distill"
        folder.mkdir(parents=True)
        lines = [{"step": s, f"{name}/kl": 1 / s, f"{name}/agreement": 0.5} for s in (1, 9)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(values) + "\n" for values in lines))
    found = page(tmp_path, whole)
    curves = [attributes for tag, attributes in found.elements if attributes.get("class", "").startswith("curve")]
    # Arms by generation; agreement and KL of 001 alone; both of three generations in quarters, beside two teachers.
    assert len(curves) == 4 + 2 + 2 * 3 * 2
    for told in ("What changed from one to the next", "the same preferred action", "on held-out teacher states"):
        assert f"{told}, line 0" in found.text


def test_names_and_sentences_from_files_stay_text(tmp_path: Path) -> None:
    record, name = lineage(arms=("smoothed",)), '"><img src=x onerror=alert(1)>'
    record["verdicts"] = [{"question": name, "verdict": name, "sentence": name}]
    for row in record["steps"]:
        row["name"] = row["name"] + name
        row["parent_names"] = [parent + name for parent in row["parent_names"]]
        row["role"] = name if row["number"] == 3 else ""
        row["phases"] = {name: 1.0, f"{name}: x": 1.0}
        row["measures"] = {name: {name: 1.0}, "child": {name: 2.0, "layer_cka": [{"layer": name, "cka": 0.5}]}}
        row["measures"] |= {"skipped": {name: name}, "first": {name: [{name: name}]}}
    found = page(tmp_path, record)
    assert found.count("img") == 0
    assert name in found.text
    assert not [at for _, at in found.elements if any(key.startswith("on") for key in at)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"steps": "none"}, "'steps' must be a list", id="no list"),
        pytest.param({"steps": [1]}, "'steps' must be a list of tables", id="no tables"),
        pytest.param({"steps": [{"name": "000"}]}, "steps 0.*missing key 'number'", id="a key is missing"),
        pytest.param({"verdicts": {"a": 1}}, "'verdicts' must be a list", id="verdicts are no list"),
        pytest.param({"verdicts": [{"question": "why"}]}, "'verdicts' must be a list", id="no sentence"),
    ],
)
def test_a_damaged_lineage_is_named(change: JsonDict, message: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        page(tmp_path, lineage() | change)
    assert str(tmp_path / "run.json") in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normalised", float("nan"), "missing key 'normalised'"),
        ("how", "magic", "how cannot be 'magic'"),
        ("parent_names", ["005"], "003 has a parent that is not before it"),
        ("name", "002", "names of their own"),
        ("phases", {"learn": "long"}, "phases.learn must be float"),
    ],
)
def test_a_damaged_step_is_named(key: str, value: object, message: str, tmp_path: Path) -> None:
    record = lineage()
    record["steps"] = [*record["steps"][:-1], record["steps"][-1] | {key: value}]
    with pytest.raises(StorageError, match=message):
        page(tmp_path, record)


def test_a_lineage_that_still_runs_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    record = lineage(lines=2, arms=("smoothed",))
    record["steps"] = record["steps"][:5]  # three generations, and the arm's first
    found = page(tmp_path, record | {"status": "running", "verdicts": verdicts(record)})
    assert "still running" in found.text
    assert "gen. 3" in found.text
