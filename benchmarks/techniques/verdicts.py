"""From what was measured, seed by seed, to what is said of a claim. Pure functions; limits come from thresholds.toml.

Every quantity is compared within a seed, since arms of a seed share their states: differences are paired, and their
intervals are Student's over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlkd.stats import Estimate, seed_interval

Records = Sequence[Mapping[str, float]]
"""Of each seed, what was measured by name."""
Limits = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came out."""

    measured: str
    """Means over seeds with 95 % intervals."""
    holds: bool
    """Whether it is what was claimed."""


def mean(records: Records, name: str) -> Estimate:
    """Mean over seeds, with Student's interval."""
    return seed_interval([record[name] for record in records])


def difference(records: Records, name: str, other: str) -> Estimate:
    """Mean over seeds of one quantity less another of the same seed, with Student's interval."""
    return seed_interval([record[name] - record[other] for record in records])


def more(records: Records, limits: Limits, *, ours: str, theirs: str, beside: Sequence[str] = ()) -> Finding:
    """Ours is higher, and the interval of the difference says so; a shuffled teacher, where there is one, failed."""
    gain = difference(records, ours, theirs)
    return Finding(_told(records, (ours, theirs, *beside), difference=gain), gain.low > 0 and _sound(records, limits))


def less(records: Records, limits: Limits, *, ours: str, theirs: str, beside: Sequence[str] = ()) -> Finding:
    """Ours is lower, and the interval of the difference says so."""
    gain = difference(records, theirs, ours)
    return Finding(_told(records, (ours, theirs, *beside), reduction=gain), gain.low > 0 and _sound(records, limits))


def kept(records: Records, limits: Limits, *, ours: str, theirs: str, beside: Sequence[str] = ()) -> Finding:
    """Ours is lower by no more than a limit, and zero lies in the interval or below it."""
    gain = difference(records, ours, theirs)
    holds = gain.point >= -limits["loss_at_most"] and gain.high >= 0 and _sound(records, limits)
    return Finding(_told(records, (ours, theirs, *beside), difference=gain), holds)


def ordered(records: Records, limits: Limits, *, names: Sequence[str], beside: Sequence[str] = ()) -> Finding:
    """No mean is below the next one, and the first is above the last outside the interval of their difference."""
    points = [mean(records, name).point for name in names]
    gain = difference(records, names[0], names[-1])
    holds = points == sorted(points, reverse=True) and gain.low > 0 and _sound(records, limits)
    return Finding(_told(records, (*names, *beside), **{f"{names[0]} less {names[-1]}": gain}), holds)


def missing_action(records: Records, limits: Limits) -> Finding:
    """Soft answers teach an action that was never anybody's first choice, hard labels do not."""
    soft, hard = mean(records, "soft").point, mean(records, "hard").point
    holds = soft >= limits["soft_at_least"] and hard <= limits["hard_at_most"]
    return Finding(_told(records, ("soft", "hard")), holds)


def wrong_labels(records: Records, limits: Limits) -> Finding:
    """One's own earlier answers keep wrong labels from being memorised, and right ones are found more often."""
    gain = difference(records, "right with AIR", "right without")
    own, others = (mean(records, name).point for name in ("memorised with AIR", "memorised without"))
    holds = (
        gain.point >= limits["gain_at_least"]
        and gain.low > 0
        and own <= limits["memorised_at_most"]
        and others >= limits["memorised_without_at_least"]
    )
    names = ("right with AIR", "right without", "memorised with AIR", "memorised without")
    return Finding(_told(records, names, gain=gain), holds)


def calibrated(records: Records, limits: Limits) -> Finding:
    """A fitted temperature makes what is done more likely, and the student nearer to it on its own states."""
    found = [
        less(records, limits, ours=f"{what} calibrated", theirs=f"{what} at 0.01") for what in ("NLL", "student's KL")
    ]
    return Finding("; ".join(each.measured for each in found), all(each.holds for each in found))


def critical_states(records: Records, limits: Limits) -> Finding:
    """KL is lower where the choice matters, and not higher than a limit's share on average."""
    critical = difference(records, "critical plain", "critical weighted")
    ratio = mean(records, "mean weighted").point / mean(records, "mean plain").point
    names = ("critical weighted", "critical plain", "mean weighted", "mean plain")
    holds = critical.low > 0 and ratio <= limits["mean_ratio_at_most"]
    return Finding(_told(records, names, reduction=critical), holds)


def similar_actions(records: Records, limits: Limits) -> Finding:
    """Each teacher's alike pairs all stand above every other pair."""
    told, holds = [], True
    for name in sorted({key.split(": ")[0] for key in records[0]}):
        alike, other = (records[0][f"{name}: {what}"] for what in ("least of alike pairs", "most of other pairs"))
        told.append(f"{name}: least cosine of alike pairs {alike:.2f}, most of other pairs {other:.2f}")
        holds = holds and alike - other > limits["apart_at_least"]
    return Finding("; ".join(told), holds)


def beats_in_seeds(records: Records, limits: Limits, *, ours: str, others: Sequence[str]) -> Finding:
    """Ours is the lowest in so many seeds at least, whatever the seed."""
    wins = sum(all(record[ours] < record[name] for name in others) for record in records)
    told = f"{_told(records, (ours, *others))}; lowest in {wins} of {len(records)} seeds"
    return Finding(told, wins >= limits["share_of_seeds_at_least"] * len(records))


def expected_excess(records: Records, limits: Limits) -> Finding:
    """What is learnt from sampled labels is off by as much as theory says; from whole answers it is not."""
    excess, soft = mean(records, "sampled labels"), mean(records, "whole answers")
    theory = records[0]["(A - 1) / 2N"]
    holds = abs(excess.point / theory - 1) <= limits["off_by_at_most"] and soft.point <= limits["soft_at_most"]
    told = f"sampled labels {excess.point:.6f} [{excess.low:.6f}, {excess.high:.6f}]"
    return Finding(f"{told}, (A - 1) / 2N = {theory:.6f}, whole answers {soft.point:.1e}", holds)


def _sound(records: Records, limits: Limits) -> bool:
    """Whether the shuffled teacher, where there is one, taught as little as it must."""
    if not any("shuffled teacher" in record for record in records):
        return True
    return mean(records, "shuffled teacher").point <= limits["shuffled_at_most"]


def _told(records: Records, names: Sequence[str], **differences: Estimate) -> str:
    named = [*names, *(["shuffled teacher"] if "shuffled teacher" in records[0] else [])]
    told = [f"{name} {mean(records, name)}" for name in named]
    return ", ".join([*told, *(f"{name} {estimate}" for name, estimate in differences.items())])
