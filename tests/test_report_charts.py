"""Tests of `rlkd.report`, charts and verdicts: marks stand where the ticks say, sentences say what intervals allow."""

import re
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from rlkd.report.charts import dots, score_against_size
from rlkd.report.record import Entry
from rlkd.report.svg import FONT, Labels, log_ticks, spread, ticks
from rlkd.report.verdict import best_student, headline, verdicts
from tests.small_run import Page

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
            close = (0.01 + 0.02 * abs(value)) / (one - zero)  # coordinates are written to two decimals
            assert (float(bar[edge]) - zero) / (one - zero) == pytest.approx(value, abs=close)
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


def test_a_line_leads_from_a_point_to_a_label_that_had_to_move_away() -> None:
    labels = Labels(400.0, [])
    near = Page("".join(labels.place(100, 100, f"near {k}") for k in range(6)))  # on both sides, at three heights
    assert {tag for tag, _ in near.elements} == {"text"}
    far = Page(labels.place(100, 100, "far"))
    (first, leader), (second, label) = far.elements
    assert (first, second) == ("line", "text")
    assert (float(leader["x1"]), float(leader["y1"])) == (100, 100)
    assert abs(float(leader["y2"]) - float(label["y"])) < FONT


@pytest.mark.parametrize(
    ("student", "hard", "shuffled", "wanted"),
    [
        pytest.param((1.0, 0.9, 1.1), (0.5, 0.4, 0.6), (0.0, -0.1, 0.1), "good good good", id="as hoped"),
        pytest.param((0.92, 0.85, 0.95), (0.9, 0.8, 0.96), (0.0, -0.1, 0.1), "unsure unsure good", id="no gain"),
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
