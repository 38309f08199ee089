"""Tests of `rlkd.lineage.verdicts`, `lines` and `table`: intervals against scipy's, words against intervals."""

import json
from io import StringIO

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from rlkd.data import JsonDict
from rlkd.lineage.lines import groups
from rlkd.lineage.table import lineage_table
from rlkd.lineage.verdicts import BRINGS, HAPPENS, OUTPERFORM, WORKS, verdicts
from rlkd.recipe import ARMS
from rlkd.stats import normalised_score
from tests.made_up_lineage import PARTS, lineage


def told(record: JsonDict, comparison: str, question: str | None = None) -> JsonDict:
    """The only line on a comparison."""
    (found,) = (
        row
        for row in verdicts(record)
        if row["comparison"] == comparison and (question is None or row["question"] == question)
    )
    return found


def scores_of(record: JsonDict, number: int, *, arm: str | None = None, role: str = "") -> list[float]:
    """Normalised scores by line."""
    return [
        row["normalised"]
        for row in record["steps"]
        if (row["number"], row["arm"], row["role"]) == (number, arm, role) and row["name"] != "000"
    ]


def check(row: JsonDict, point: float, interval: tuple[float, float], lines: int) -> None:
    assert row["estimate"] == pytest.approx(point, abs=1e-9)
    assert row["ci95"] == pytest.approx(list(interval), abs=1e-9)
    assert row["lines"] == lines
    low, high = interval
    assert row["verdict"] == ("better" if low > 0 else "worse" if high < 0 else "no effect here")


def span_of(record: JsonDict) -> float:
    return float(np.mean(record["teacher"]["scores"]) - np.mean(record["random"]["scores"]))


@pytest.fixture(scope="module")
def whole() -> JsonDict:
    """Four lines with all arms, of which one teaches worse and one better."""
    return lineage(lines=4, arms=ARMS, effects={"main": 0.1, "permuted": -0.2, "confidence": 0.3})


@pytest.mark.parametrize("arm", ["smoothed", "permuted", "confidence", "longer", "ensemble"])
def test_arms_are_paired_by_line_at_the_first_generation_and_the_last(whole: JsonDict, arm: str) -> None:
    role = arm if arm in ("longer", "ensemble") else ""
    for number, comparison in ((3, arm),) if role else ((1, arm), (3, f"{arm}, last generation")):
        ours, theirs = scores_of(whole, number), scores_of(whole, number, arm=None if role else arm, role=role)
        interval = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        row = told(whole, comparison, OUTPERFORM if role else WORKS)
        check(row, float(np.mean(ours) - np.mean(theirs)), (interval.low, interval.high), 4)
        assert f"eneration {number}" in row["sentence"]
        assert ("its own line" in row["sentence"]) == ("last" in comparison)


def test_what_differs_is_seen_and_what_does_not_is_not(whole: JsonDict) -> None:
    assert told(whole, "permuted")["verdict"] == "better"
    assert "dark knowledge" in told(whole, "permuted")["sentence"]
    assert told(whole, "confidence")["verdict"] == "worse"
    same = lineage(lines=4, arms=("smoothed",))
    assert told(same, "smoothed")["verdict"] == "no effect here"
    assert "not seen to teach less" in told(same, "smoothed")["sentence"]
    assert {row["question"] for row in verdicts(same)} == {WORKS, OUTPERFORM, HAPPENS}


def test_the_first_teachers_own_episodes_count_once_in_what_is_said_of_it(whole: JsonDict) -> None:
    last = [row for row in whole["steps"] if row["number"] == 3 and row["arm"] is None and not row["role"]]
    means = [float(np.mean(row["scores"])) for row in last]
    welch = scipy.stats.ttest_ind(means, whole["teacher"]["scores"], equal_var=False).confidence_interval(0.95)
    row, span = told(whole, "first teacher, last generation"), span_of(whole)
    check(row, float(np.mean(scores_of(whole, 3))) - 1, (welch.low / span, welch.high / span), 4)


def test_the_best_generation_is_chosen_by_other_episodes_than_it_is_judged_by(whole: JsonDict) -> None:
    judged = []
    for line in range(4):
        rows = [
            row
            for row in whole["steps"]
            if row["line"] == line and row["number"] and row["arm"] is None and not row["role"]
        ]
        halves = [(sum(row["scores"][::2]), sum(row["scores"][1::2]) / 10) for row in rows]
        judged.append(max(halves)[1])
    welch = scipy.stats.ttest_ind(judged, whole["teacher"]["scores"], equal_var=False).confidence_interval(0.95)
    row, span = told(whole, "first teacher, best generation"), span_of(whole)
    point = (np.mean(judged) - np.mean(whole["teacher"]["scores"])) / span
    check(row, float(point), (welch.low / span, welch.high / span), 4)


def test_choosing_the_best_of_equals_makes_nothing_better_on_average() -> None:
    found, naive, record = [], [], lineage(generations=6, lines=2)
    for seed in range(25):  # everybody plays like everybody else: what differs is luck
        generator = np.random.default_rng(seed)
        for row in record["steps"]:
            row["scores"] = generator.normal(120, 30, 20).tolist()
        record["teacher"]["scores"] = [120.0, 120.0 + 1e-9] * 10
        found.append(told(record, "first teacher, best generation")["estimate"] * span_of(record))
        by_line = [[np.mean(r["scores"]) for r in record["steps"][1:] if r["line"] == line] for line in (0, 1)]
        naive.append(np.mean([max(means) for means in by_line]) - 120)
    error = 30 / np.sqrt(10 * 2 * 25)
    assert abs(np.mean(found)) < 3 * error
    assert np.mean(naive) > 3 * error


@pytest.mark.parametrize("above", [0, 3, 8])
def test_the_share_of_lines_above_the_teacher_is_a_count_without_an_interval(above: int) -> None:
    record = lineage(lines=8, generations=1)
    for line, row in enumerate(record["steps"][1:]):
        row["normalised"] = 1.1 if line < above else 0.9
    row = told(record, "share of lines")
    assert (row["estimate"], row["ci95"], row["verdict"]) == (above / 8, None, "a count: no verdict")
    assert f"in {above} of 8 lines" in row["sentence"]
    record["steps"][1]["normalised"] = 1.0
    assert told(record, "share of lines")["lines"] == 7
    assert "of the 7 of 8 lines that do not equal it" in told(record, "share of lines")["sentence"]


@pytest.mark.parametrize(
    ("comparison", "path", "first", "verdict"),
    [
        ("score", ("normalised",), 1, "no effect here"),
        ("entropy", ("measures", "child", "entropy_student_states"), 0, "changes"),
        ("kl_first", ("measures", "first", "kl_teacher_states"), 1, "changes"),
        ("effective_rank", ("measures", "child", "effective_rank"), 0, "worse"),
        ("calibration_error", ("measures", "first", "calibration_error"), 1, "worse"),
    ],
)
def test_changes_are_mean_slopes_over_lines(
    whole: JsonDict, comparison: str, path: tuple[str, ...], first: int, verdict: str
) -> None:
    slopes = []
    for line in range(4):
        points = []
        for row in whole["steps"]:
            own = row["line"] == line or row["number"] == 0
            if own and row["arm"] is None and not row["role"] and row["number"] >= first:
                value = row
                for key in path:
                    value = value[key]
                points.append((row["number"], value))
        slopes.append(scipy.stats.linregress(*zip(*points, strict=True)).slope)
    interval = scipy.stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    row = told(whole, comparison, HAPPENS)
    assert row["estimate"] == pytest.approx(np.mean(slopes))
    assert row["ci95"] == pytest.approx([interval.low, interval.high])
    assert row["verdict"] == verdict
    assert f"from {first} to 3 over 4 lines" in row["sentence"]


def test_one_line_has_intervals_over_episodes_and_no_verdict() -> None:
    record = lineage(arms=ARMS, effects={"permuted": -0.5})
    rows = verdicts(record)
    assert {row["verdict"] for row in rows} == {"one line: no verdict"}
    assert all("one seed shows nothing about seeds" in row["sentence"] for row in rows if row["ci95"] is not None)
    last = record["generations"][-1]
    against = told(record, "first teacher, last generation")
    assert against["estimate"] == pytest.approx(last["normalised"] - 1)
    whole = normalised_score([last["scores"]], record["teacher"]["scores"], record["random"]["scores"])
    assert against["ci95"] == pytest.approx([whole.low - 1, whole.high - 1])
    arm = next(row for row in record["steps"] if row["name"] == "003-permuted")
    error = np.sqrt(np.var(last["scores"]) / 20 + np.var(arm["scores"]) / 20) / span_of(record)
    low, high = told(record, "permuted")["ci95"]
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert told(record, "entropy")["ci95"] is None


@pytest.mark.parametrize(
    ("operator", "comparison", "ours", "theirs"),
    [
        ("shrink", "longer", (3, ""), (3, "longer")),
        ("sequence", "longer", (3, ""), (3, "longer")),
        ("residual", "student", (3, ""), (3, "student")),
        ("reset", "slim", (3, "slim"), (3, "")),
        ("reset", "first generation", (3, ""), (1, "")),
        ("reset", "slim, first generation", (3, "slim"), (1, "slim")),
    ],
)
def test_operators_are_compared_with_what_they_leave_out(
    operator: str, comparison: str, ours: tuple[int, str], theirs: tuple[int, str]
) -> None:
    record = lineage(operator, lines=3)
    pair = [scores_of(record, number, role=role) for number, role in (ours, theirs)]
    interval = scipy.stats.ttest_rel(*pair).confidence_interval(0.95)
    row = told(record, comparison, BRINGS)
    check(row, float(np.mean(pair[0]) - np.mean(pair[1])), (interval.low, interval.high), 3)
    assert [found["comparison"] for found in verdicts(record)].count(comparison) == 1


@pytest.mark.parametrize("operator", PARTS)
def test_every_operator_says_something_that_a_file_can_hold(operator: str) -> None:
    for lines in (1, 2):
        record = lineage(operator, lines=lines)
        rows = verdicts(record)
        json.dumps(rows, allow_nan=False)
        keys = {"question", "comparison", "estimate", "ci95", "lines", "verdict", "sentence"}
        assert all(row.keys() == keys and row["sentence"].endswith(".") for row in rows)
        assert len({(row["question"], row["comparison"]) for row in rows}) == len(rows)
        if lines == 2:
            assert all("two lines" in row["sentence"] for row in rows if "not seen" in row["sentence"])


def test_what_is_not_there_yet_is_not_spoken_of() -> None:
    record = lineage(lines=3, arms=("smoothed", "longer"))
    kept = [row for row in record["steps"] if row["line"] < 2 or row["number"] < 2]
    for row in kept:
        row.pop("measures")
    record["steps"] = [row for row in kept if row["role"] != "longer"]
    rows = {row["comparison"]: row for row in verdicts(record)}
    assert rows.pop("smoothed, last generation")["lines"] == 2
    assert rows.keys() == {
        *("smoothed", "first teacher, last generation", "first teacher, best generation", "share of lines", "score"),
    }
    assert rows["smoothed"]["lines"] == 3  # all have generation 1, and only two the others
    assert "generation 1" in rows["smoothed"]["sentence"]
    assert rows["score"]["lines"] == 2
    record["steps"] = record["steps"][:1]
    assert verdicts(record) == []


def shown(record: JsonDict, width: int) -> list[str]:
    text = StringIO()
    Console(file=text, width=width).print(lineage_table(record, width=width))
    return text.getvalue().splitlines()


def test_the_table_of_several_lines_has_a_row_an_arm_and_generation(whole: JsonDict) -> None:
    lines = [line.split() for line in shown(whole, 130)]
    rows = [cells for cells in lines if cells and "114" in cells]
    assert [cells[0] for cells in rows if not cells[0].isdigit()] == [
        *("main", "smoothed", "permuted", "confidence", "longer", "ensemble"),
    ]
    assert len(rows) == 4 * 3 + 2
    values = scores_of(whole, 2, arm="smoothed")
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    wanted = f"{np.mean(values):.3f} [{interval.low:.2f}, {interval.high:.2f}]"
    (row,) = (line for line in shown(whole, 130) if wanted in line)
    assert row.split()[:2] == ["2", "4"]  # generation, lines
    assert all(len(line.rstrip()) <= 80 for line in shown(whole, 80))
    assert any(wanted in line for line in shown(whole, 80))


def test_a_plain_line_keeps_its_table_and_controls_are_in_the_other() -> None:
    plain = lineage()
    assert any(plain["generations"][1]["hash"][:8] in line for line in shown(plain, 130))
    assert not any("main line" in line for line in shown(plain, 130))
    assert any("longer" in line for line in shown(lineage("shrink"), 130))


def test_groups_bring_lines_together_and_leave_the_founder_out(whole: JsonDict) -> None:
    found = groups(whole["steps"])
    assert len(found) == 4 * 3 + 2
    assert all([row["line"] for row in group.records] == [0, 1, 2, 3] for group in found)
    assert [group.number for group in found if group.main] == [1, 2, 3]
