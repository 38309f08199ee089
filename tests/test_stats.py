"""Tests of `rlkd.stats`: points by hand, intervals against a slow bootstrap and against what they promise."""

import itertools
import math
import random
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats

from rlkd import stats
from rlkd.stats import (
    Estimate,
    failed_share,
    fitted_temperature,
    interquartile_mean,
    mean_difference,
    mean_interval,
    normalised_score,
    performance_profile,
    probability_of_improvement,
    seed_difference,
    seed_interval,
)

TEACHER = [18.0, 20.0, 21.0, 19.0, 17.0, 21.0]
RANDOM = [-21.0, -20.0, -21.0, -19.0, -20.0]


def slow_bootstrap(
    students: Sequence[Sequence[float]], teacher: Sequence[float], base: Sequence[float], resamples: int
) -> list[float]:
    """Teacher-normalised scores of resampled data, sorted: seeds with replacement, fresh episodes for each pick."""
    draw = random.Random(1)

    def mean(scores: Sequence[float]) -> float:
        return statistics.fmean(draw.choices(scores, k=len(scores)))

    found = []
    for _ in range(resamples):
        student = statistics.fmean(mean(draw.choice(students)) for _ in students)
        top, low = mean(teacher), mean(base)
        found.append((student - low) / (top - low))
    return sorted(found)


NOISE = np.random.default_rng(0)
SEVERAL_SEEDS = [NOISE.normal(level, 3.0, size).tolist() for level, size in ((12, 20), (14, 20), (19, 30), (9, 10))]


@pytest.mark.parametrize(
    "students",
    [SEVERAL_SEEDS, SEVERAL_SEEDS[:1], [[3.0] * 5, [9.0] * 5, [4.0] * 5]],
    ids=["seeds and episodes", "one seed", "seeds alone"],
)
def test_the_interval_is_that_of_the_slow_bootstrap(students: list[list[float]]) -> None:
    got = normalised_score(students, TEACHER, RANDOM)
    want = slow_bootstrap(students, TEACHER, RANDOM, 4000)
    spread = statistics.stdev(want)
    # A 2.5 % quantile of 2,000 (4,000) resamples of a normal value is off by 0.06 (0.04) of its deviation.
    assert got.low == pytest.approx(want[100], abs=0.3 * spread)
    assert got.high == pytest.approx(want[-100], abs=0.3 * spread)


def test_the_point_is_the_mean_over_seeds_of_each_seeds_mean() -> None:
    got = normalised_score([[10.0, 20.0], [0.0], [6.0, 6.0, 6.0]], teacher=[20.0], random=[-10.0, 0.0])
    assert got.point == pytest.approx(((15 + 0 + 6) / 3 + 5) / 25)


@pytest.mark.parametrize(("scale", "shift"), [(-3.0, 0.0), (0.5, -700.0), (100.0, 1000.0)])
def test_units_and_signs_of_a_games_score_do_not_matter(scale: float, shift: float) -> None:
    def changed(scores: Sequence[float]) -> list[float]:
        return [scale * score + shift for score in scores]

    want = normalised_score(SEVERAL_SEEDS, TEACHER, RANDOM)
    got = normalised_score([changed(each) for each in SEVERAL_SEEDS], changed(TEACHER), changed(RANDOM))
    assert (got.point, got.low, got.high) == pytest.approx((want.point, want.low, want.high), abs=1e-6)


def test_teacher_scores_one_and_random_play_zero() -> None:
    assert normalised_score([TEACHER], TEACHER, RANDOM).point == pytest.approx(1)
    assert normalised_score([RANDOM], TEACHER, RANDOM).point == pytest.approx(0)


def test_seeds_are_resampled_before_episodes() -> None:
    """Two seeds of 100 equal episodes: half of all resamples take one seed twice. Pooled, they would hardly vary."""
    got = normalised_score([[0.0] * 100, [1.0] * 100], teacher=[1.0] * 100, random=[0.0] * 100)
    assert (got.point, got.low, got.high) == (0.5, 0.0, 1.0)


def test_each_pick_of_a_seed_draws_its_own_episodes() -> None:
    """Ten seeds alike: as good as ten times the episodes. Picks that shared their episodes would vary more."""
    many = [[0.0, 1.0] * 10] * 10
    got = normalised_score(many, teacher=[1.0] * 9, random=[0.0] * 9)
    assert got.high - got.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(200), rel=0.1)


def test_noise_of_teacher_and_random_play_widens_the_interval() -> None:
    student = [[5.0] * 10]
    assert normalised_score(student, [10.0] * 10, [0.0] * 10) == Estimate(0.5, 0.5, 0.5)
    for teacher, base in (([8.0, 12.0] * 5, [0.0] * 10), ([10.0] * 10, [-2.0, 2.0] * 5)):
        got = normalised_score(student, teacher, base)
        assert got.low < 0.48 < 0.52 < got.high
    got = normalised_score([[0.0] * 10], [10.0] * 10, [-2.0, 2.0] * 5)  # also where the student plays like random
    assert got.low < -0.05 < 0.05 < got.high


@pytest.mark.parametrize(
    ("seeds", "episodes", "band"),
    [(1, 50, (0.90, 0.98)), (5, 12, (0.86, 0.97)), (10, 12, (0.90, 0.99))],
    ids=["one seed", "five seeds", "ten seeds"],
)
def test_the_interval_covers_the_truth_about_as_often_as_it_says(
    seeds: int, episodes: int, band: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synthetic seeds and episodes around a known score. A bootstrap of few seeds is somewhat too narrow."""
    monkeypatch.setattr(stats, "RESAMPLES", 200)
    draws, covered, repeats = np.random.default_rng(7), 0, 300
    for number in range(repeats):
        levels = draws.normal(0.6, 0.1 if seeds > 1 else 0.0, seeds)
        students = [draws.normal(level, 0.3, episodes).tolist() for level in levels]
        teacher, base = draws.normal(1.0, 0.2, 50).tolist(), draws.normal(0.0, 0.2, 50).tolist()
        got = normalised_score(students, teacher, base, seed=number)
        covered += got.low <= 0.6 <= got.high
    assert band[0] <= covered / repeats <= band[1]


def test_the_same_seed_of_the_bootstrap_gives_the_same_interval() -> None:
    one, again, other = (normalised_score(SEVERAL_SEEDS, TEACHER, RANDOM, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.point == other.point
    assert one.low != other.low


def test_a_teacher_that_scores_like_random_play_is_refused() -> None:
    with pytest.raises(ValueError, match="teacher and random play both score -200: nothing to normalise by"):
        normalised_score([[-100.0]], teacher=[-200.0, -200.0], random=[-200.0])


def test_a_mean_has_the_interval_of_its_standard_error() -> None:
    scores = NOISE.normal(50, 10, 400).tolist()
    got = mean_interval(scores)
    assert got.point == pytest.approx(statistics.fmean(scores))
    error = statistics.stdev(scores) / 20
    assert got.low == pytest.approx(got.point - 1.96 * error, abs=0.3 * error)
    assert got.high == pytest.approx(got.point + 1.96 * error, abs=0.3 * error)
    assert mean_interval([7.0]) == Estimate(7.0, 7.0, 7.0)


def test_a_difference_of_means_has_the_interval_of_seeds_that_differ() -> None:
    ours = [NOISE.normal(level, 1, 20).tolist() for level in NOISE.normal(60, 8, 40)]
    theirs = [NOISE.normal(level, 1, 20).tolist() for level in NOISE.normal(50, 8, 40)]
    got = mean_difference(ours, theirs)
    means = [[statistics.fmean(seed) for seed in side] for side in (ours, theirs)]
    assert got.point == pytest.approx(statistics.fmean(means[0]) - statistics.fmean(means[1]))
    error = math.sqrt(sum(statistics.variance(side) / 40 for side in means))  # between seeds, far above that within
    assert got.low == pytest.approx(got.point - 1.96 * error, abs=0.3 * error)
    assert got.high == pytest.approx(got.point + 1.96 * error, abs=0.3 * error)
    assert mean_difference([[3.0]], [[1.0]]) == Estimate(2.0, 2.0, 2.0)


def test_failed_episodes_are_those_on_randoms_side_of_the_midpoint() -> None:
    scores = [21.0, 0.0, -1.0, -20.0]
    assert failed_share(scores, teacher=[20.0, 20.0], random=[-20.0]) == 0.5  # the midpoint itself has not failed
    assert failed_share([-190.0, -110.0], teacher=[-100.0], random=[-200.0]) == 0.5
    assert failed_share([190.0, 110.0], teacher=[100.0], random=[200.0]) == 0.5  # less is more


def test_an_estimate_reads_as_a_number_and_its_interval() -> None:
    assert str(Estimate(0.95, 0.9, 1.0123)) == "0.950 [0.900, 1.012]"


def resampled_suite(scores: Sequence[Sequence[float]], draw: random.Random) -> list[list[float]]:
    """Training seeds with replacement, within each environment."""
    return [draw.choices(values, k=len(values)) for values in scores]


def interval(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered)) - 1]


SUITE = [[0.1, 0.4, 0.2, 0.9], [1.0, 1.1, 0.8, 0.3], [0.0, 0.0, 0.5, 0.6]]
OTHERS = [[0.0, 0.3, 0.2, 0.5], [1.2, 0.9, 0.7, 0.2], [0.0, 0.1, 0.4, 0.7]]


def test_the_interquartile_mean_is_that_of_the_middle_half_of_all_runs() -> None:
    got = interquartile_mean(SUITE)
    flat = sorted(value for values in SUITE for value in values)
    assert got.point == pytest.approx(statistics.fmean(flat[3:9]))
    draw = random.Random(0)
    slow = [statistics.fmean(sorted(itertools.chain(*resampled_suite(SUITE, draw)))[3:9]) for _ in range(4000)]
    assert (got.low, got.high) == pytest.approx(interval(slow), abs=0.03)
    # Of five runs a quarter is one and a quarter: the second and fourth count three quarters.
    five = interquartile_mean([[1.0, 2.0, 4.0, 8.0, 100.0]])
    assert five.point == pytest.approx((0.75 * 2 + 4 + 0.75 * 8) / 2.5)


def test_the_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    got = probability_of_improvement(SUITE, OTHERS)

    def slow(suite: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
        by_environment = []
        for ours, theirs in zip(suite, others, strict=True):
            pairs = [(a > b) + 0.5 * (a == b) for a in ours for b in theirs]
            by_environment.append(statistics.fmean(pairs))
        return statistics.fmean(by_environment)

    assert got.point == pytest.approx(slow(SUITE, OTHERS))
    draw = random.Random(0)
    found = [slow(resampled_suite(SUITE, draw), resampled_suite(OTHERS, draw)) for _ in range(3000)]
    assert (got.low, got.high) == pytest.approx(interval(found), abs=0.03)
    assert probability_of_improvement(SUITE, SUITE).point == pytest.approx(0.5)
    assert probability_of_improvement([[2.0, 3.0]], [[0.0, 1.0]]) == Estimate(1.0, 1.0, 1.0)


def test_a_profile_falls_from_all_runs_to_none() -> None:
    profile = performance_profile(SUITE, [-1.0, 0.0, 0.35, 2.0])
    assert [each.point for each in profile] == pytest.approx([1, 10 / 12, 7 / 12, 0])
    assert all(each.low <= each.point <= each.high for each in profile)
    draw = random.Random(0)
    suites = [resampled_suite(SUITE, draw) for _ in range(4000)]
    for threshold, got in ((0.0, profile[1]), (0.35, profile[2])):
        found = [statistics.fmean(statistics.fmean(v > threshold for v in row) for row in suite) for suite in suites]
        assert (got.low, got.high) == pytest.approx(interval(found), abs=0.01)


def test_intervals_over_seeds_are_those_of_student_and_welch() -> None:
    ours, theirs = [1.0, 2.0, 4.0, 4.5, 6.0], [0.0, 0.5, 3.0]
    low, high = scipy.stats.t.interval(0.95, 4, statistics.fmean(ours), statistics.stdev(ours) / math.sqrt(5))
    got = seed_interval(ours)
    assert (got.point, got.low, got.high) == pytest.approx((3.5, low, high))
    found = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    difference = seed_difference(ours, theirs)
    assert (difference.low, difference.high) == pytest.approx((found.low, found.high))
    assert difference.point == pytest.approx(3.5 - 3.5 / 3)
    assert seed_difference([2.0, 2.0], [1.0, 1.0]) == Estimate(1.0, 1.0, 1.0)
    for alone in (seed_interval([1.0]), seed_difference([1.0], ours)):
        assert (alone.low, alone.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("seeds", [3, 5])
def test_agents_that_do_not_differ_are_told_apart_in_one_of_twenty_studies(seeds: int) -> None:
    draws = np.random.default_rng(3)
    wrong = 0
    for _ in range(2000):
        found = seed_difference(draws.normal(size=seeds).tolist(), draws.normal(size=seeds).tolist())
        wrong += not found.low <= 0 <= found.high
    assert 0.02 < wrong / 2000 < 0.065


@pytest.mark.parametrize("temperature", [0.02, 1.0, 7.0])
def test_the_fitted_temperature_is_that_at_which_actions_were_drawn(temperature: float) -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(20_000, 5)) * temperature * 1.5 + 100
    p = np.exp((scores - scores.max(1, keepdims=True)) / temperature)
    actions = (p.cumsum(1) / p.sum(1, keepdims=True) > generator.random((20_000, 1))).argmax(1)
    assert fitted_temperature(scores, actions) == pytest.approx(temperature, rel=0.03)


def test_a_teacher_who_always_takes_its_best_action_is_as_sharp_as_can_be_and_a_random_one_as_flat() -> None:
    scores = np.random.default_rng(0).normal(size=(500, 4))
    assert fitted_temperature(scores, scores.argmax(1)) < 1e-2
    assert fitted_temperature(scores, np.random.default_rng(1).integers(4, size=500)) > 5
