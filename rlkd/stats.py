"""Intervals and comparisons: normalised scores, suites of environments, one agent against another, failed episodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.stats

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point estimate and its 95 % interval."""

    point: float
    """The estimate."""
    low: float
    """2.5 % quantile of the bootstrap."""
    high: float
    """97.5 % quantile of the bootstrap."""

    def __str__(self) -> str:
        return f"{self.point:.3f} [{self.low:.3f}, {self.high:.3f}]"


def standard_error(std: float, count: int, other_std: float, other_count: int) -> float:
    """Standard error of the difference of two means of independent samples, from their deviations and sizes."""
    return float(np.sqrt(std**2 / count + other_std**2 / other_count))


def mean_interval(scores: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean of one policy's episode scores; the interval resamples episodes."""
    values = np.asarray(scores, float)
    means = _resampled_means([values], np.random.default_rng(seed))
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def normalised_score(
    students: Sequence[Sequence[float]], teacher: Sequence[float], random: Sequence[float], *, seed: int = 0
) -> Estimate:
    """Teacher-normalised score, (student - random) / (teacher - random), as the mean over training seeds.

    The interval resamples training seeds first, then episodes inside each; teacher's and random's episodes too.

    Args:
        students: one sequence of episode scores for each training seed.
        teacher: its episode scores.
        random: episode scores of uniformly random play.
        seed: of the bootstrap.

    Raises:
        ValueError: teacher and random score the same on average, so that nothing can be normalised.
    """
    point, ratios = _normalised(students, teacher, random, np.random.default_rng(seed))
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return Estimate(point, float(low), float(high))


def normalised_over_games(
    games: Sequence[tuple[Sequence[Sequence[float]], Sequence[float], Sequence[float]]], *, seed: int = 0
) -> Estimate:
    """Geometric mean of the teacher-normalised scores of one student on several games.

    A score below 0, worse than random play, counts as 0; one game at 0 makes the mean 0. The interval resamples each
    game as `normalised_score` does.

    Args:
        games: of each game students', teacher's and random's scores, as for `normalised_score`.
        seed: of the bootstrap.

    Raises:
        ValueError: as `normalised_score`.

    Source:
        Rusu et al. 2016, arXiv:1511.06295, who take it of scores over the teacher's, without random play.
    """
    generator = np.random.default_rng(seed)
    points, ratios = zip(*(_normalised(*game, generator) for game in games), strict=True)
    low, high = np.nanquantile(_geometric_mean(np.stack(ratios)), [0.025, 0.975])
    return Estimate(float(_geometric_mean(np.array(points)[:, None])[0]), float(low), float(high))


def _geometric_mean(scores: np.ndarray) -> np.ndarray:
    """[R]: over the games of [G, R], negative scores counting as 0."""
    found: np.ndarray = np.clip(scores, 0, None).prod(0) ** (1 / len(scores))
    return found


def _normalised(
    students: Sequence[Sequence[float]],
    teacher: Sequence[float],
    random: Sequence[float],
    generator: np.random.Generator,
) -> tuple[float, np.ndarray]:
    """Teacher-normalised score, and [RESAMPLES] bootstrap values of it, NaN where nothing can be normalised."""
    base, top = float(np.mean(random)), float(np.mean(teacher))
    if top == base:
        raise ValueError(f"teacher and random play both score {base:g}: nothing to normalise by")
    arrays = [np.asarray(scores, float) for scores in students]
    point = (float(np.mean([scores.mean() for scores in arrays])) - base) / (top - base)
    student_means = _resampled_means(arrays, generator)
    teacher_means = _resampled_means([np.asarray(teacher, float)], generator)
    random_means = _resampled_means([np.asarray(random, float)], generator)
    span = teacher_means - random_means
    return point, (student_means - random_means) / np.where(span == 0, np.nan, span)


def mean_difference(scores: Sequence[Sequence[float]], others: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """Mean score over training seeds, less that of others; the interval resamples seeds, then episodes, on both sides.

    Args:
        scores: one sequence of episode scores for each training seed.
        others: the same of what it is compared with.
        seed: of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    ours, theirs = ([np.asarray(each, float) for each in side] for side in (scores, others))
    point = float(np.mean([each.mean() for each in ours]) - np.mean([each.mean() for each in theirs]))
    low, high = np.quantile(_resampled_means(ours, generator) - _resampled_means(theirs, generator), [0.025, 0.975])
    return Estimate(point, float(low), float(high))


def seed_interval(means: Sequence[float]) -> Estimate:
    """Mean over training seeds, each counting once, with Student's interval; one seed has none (infinite).

    A bootstrap of three or five seeds covers the truth in three of four cases where it says 95 %.
    """
    values = np.asarray(means, float)
    point = float(values.mean())
    if len(values) < 2:
        return Estimate(point, -np.inf, np.inf)
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(point, point - half, point + half)


def seed_difference(means: Sequence[float], others: Sequence[float]) -> Estimate:
    """Mean over training seeds, less that of others, with Welch's interval; one seed has none (infinite).

    Source:
        Welch 1947, with the degrees of freedom of Satterthwaite 1946.
    """
    ours, theirs = np.asarray(means, float), np.asarray(others, float)
    point = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return Estimate(point, -np.inf, np.inf)
    squares = np.array([each.var(ddof=1) / len(each) for each in (ours, theirs)])
    error = float(np.sqrt(squares.sum()))
    if error == 0:
        return Estimate(point, point, point)
    freedom = squares.sum() ** 2 / (squares**2 / (np.array([len(ours), len(theirs)]) - 1)).sum()
    half = float(scipy.stats.t.ppf(0.975, freedom)) * error
    return Estimate(point, point - half, point + half)


def failed_share(scores: Sequence[float], teacher: Sequence[float], random: Sequence[float]) -> float:
    """Share of episodes on random's side of the midpoint between random and teacher. An average hides them."""
    base, top = float(np.mean(random)), float(np.mean(teacher))
    normalised = (np.asarray(scores, float) - base) / (top - base)
    return float(np.mean(normalised < 0.5))


def _resampled_means(seeds: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """[RESAMPLES]: bootstrap means; seeds are drawn with replacement, then episodes inside each drawn seed."""
    picks = generator.integers(len(seeds), size=(len(seeds), RESAMPLES))
    means = np.empty(picks.shape)
    for place, scores in enumerate(seeds):
        picked = picks == place
        equal = np.full(len(scores), 1 / len(scores))
        counts = generator.multinomial(len(scores), equal, int(picked.sum()))  # fresh episodes for each pick
        means[picked] = counts @ scores / len(scores)
    return np.asarray(means.mean(0))


def interquartile_mean(scores: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """Mean of the middle half of all scores of a suite: less noisy than a mean, less blind than a median.

    The interval resamples training seeds within each environment. Weights are fractional at the edges of the middle
    half, so that no number of scores is a special case.

    Args:
        scores: of each environment one normalised score a training seed.
        seed: of the bootstrap.

    Source:
        Agarwal et al. 2021, arXiv:2108.13264.
    """
    generator = np.random.default_rng(seed)
    picked = np.concatenate([_resampled(values, generator) for values in scores], axis=1)
    low, high = np.quantile(_middle_half(picked), [0.025, 0.975])
    every = np.concatenate([np.asarray(values, float) for values in scores])
    return Estimate(float(_middle_half(every[None])[0]), float(low), float(high))


def probability_of_improvement(
    scores: Sequence[Sequence[float]], others: Sequence[Sequence[float]], *, seed: int = 0
) -> Estimate:
    """Chance that a run of ours beats one of theirs on an environment drawn at random; equal scores count half.

    The interval resamples training seeds within each environment, on both sides.

    Args:
        scores: of each environment one score a training seed.
        others: the same of what it is compared with, environments in the same order.
        seed: of the bootstrap.

    Source:
        Agarwal et al. 2021, arXiv:2108.13264; Mann and Whitney 1947.
    """
    generator = np.random.default_rng(seed)
    points, chances = [], []
    for ours, theirs in zip(scores, others, strict=True):
        a, b = np.asarray(ours, float), np.asarray(theirs, float)
        points.append(_wins(a[None], b[None])[0])
        chances.append(_wins(_resampled(a, generator), _resampled(b, generator)))
    low, high = np.quantile(np.mean(chances, axis=0), [0.025, 0.975])
    return Estimate(float(np.mean(points)), float(low), float(high))


def performance_profile(
    scores: Sequence[Sequence[float]], thresholds: Sequence[float], *, seed: int = 0
) -> list[Estimate]:
    """Share of a suite's runs that score above each threshold, environments counting alike.

    Args:
        scores: of each environment one normalised score a training seed.
        thresholds: in the unit of the scores.
        seed: of the bootstrap; intervals are pointwise and resample training seeds within each environment.

    Source:
        Agarwal et al. 2021, arXiv:2108.13264.
    """
    generator = np.random.default_rng(seed)
    picked = [_resampled(values, generator) for values in scores]
    found = []
    for threshold in thresholds:
        point = np.mean([(np.asarray(values, float) > threshold).mean() for values in scores])
        low, high = np.quantile(np.mean([(each > threshold).mean(1) for each in picked], axis=0), [0.025, 0.975])
        found.append(Estimate(float(point), float(low), float(high)))
    return found


def _resampled(values: Sequence[float] | np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[RESAMPLES, len(values)]: drawn with replacement."""
    array = np.asarray(values, float)
    return array[generator.integers(len(array), size=(RESAMPLES, len(array)))]


def _middle_half(rows: np.ndarray) -> np.ndarray:
    """[R]: mean of the middle half of each of the rows [R, M]."""
    ordered, count = np.sort(rows, axis=1), rows.shape[1]
    edges = np.arange(count + 1)
    # How much of each value lies between the quartiles.
    weight = np.diff(np.clip(edges, count / 4, 3 * count / 4))
    means: np.ndarray = ordered @ weight / weight.sum()
    return means


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """[R]: share of pairs that ours [R, A] win against theirs [R, B]."""
    difference = ours[:, :, None] - theirs[:, None, :]
    shares: np.ndarray = (np.sign(difference) + 1).mean(axis=(1, 2)) / 2
    return shares


def fitted_temperature(scores: np.ndarray, actions: np.ndarray) -> float:
    """The temperature at which softmax(scores / temperature) makes what was done most likely, in [1e-4, 1e4].

    Args:
        scores: [N, A] logits or Q-values.
        actions: [N] int, what was done.

    Source:
        Temperature scaling, Guo et al. 2017, arXiv:1706.04599, with actions for labels.
    """
    scores = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    chosen = scores[np.arange(len(actions)), actions]

    def loss(log_temperature: float) -> float:  # has one minimum: it is convex in 1 / temperature
        temperature = np.exp(log_temperature)
        return float((np.log(np.exp(scores / temperature).sum(axis=1)) - chosen / temperature).mean())

    found = scipy.optimize.minimize_scalar(loss, bounds=(np.log(1e-4), np.log(1e4)), method="bounded")
    return float(np.exp(found.x))
