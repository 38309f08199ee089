"""What papers claim of ways to make generations, and whether it is so here. Records of a lineage in, findings out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import Record
from benchmarks.techniques.verdicts import Finding, difference, kept, mean, more
from rlkd.evaluation import play
from rlkd.lineage.verdicts import chosen_of, counted
from rlkd.policy import Policy, load_policy
from rlkd.stats import probability_of_improvement

Limits = Mapping[str, float]
STATES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Of one technique, checked on one study."""

    name: str
    """Key of thresholds.toml."""
    study: str
    """Whose lineage is looked at."""
    paper: str
    """Who claims it."""
    text: str
    """What, with limits by name."""
    check: Callable[[Record, Limits], Finding | None]
    """From the content of `run.json` and the limits; None where it has not been bred yet."""


def by_line(found: Record, number: int, role: str = "") -> dict[int, Record]:
    """Records of one generation's policies of the main line, or of a role beside them, by line."""
    rows = [row for row in found["steps"] if (row["number"], row["role"], row["arm"]) == (number, role, None)]
    return {row["line"]: row for row in rows}


def scores_of(found: Record, names: Mapping[str, tuple[int, str]]) -> list[dict[str, float]]:
    """Normalised scores of each line that has all of them, by name."""
    rows = {name: by_line(found, *place) for name, place in names.items()}
    lines = sorted(set.intersection(*({*each} for each in rows.values())))
    return [{name: float(each[line]["normalised"]) for name, each in rows.items()} for line in lines]


def last_of(found: Record) -> int:
    """Number of the last generation."""
    return max(int(row["number"]) for row in found["steps"])


def own_luck(found: Record) -> float:
    """Half the 95 % interval of the first teacher's mean, over episodes, in TN."""
    first = found["teacher"]
    low, high = first["ci95"]
    return float((high - low) / 2 / (first["mean"] - found["random"]["mean"]))


def first_students(found: Record, limits: Limits) -> Finding | None:
    """No generation's mean is below the limit. The teacher's own luck is common to all of them."""
    told, points = [], []
    for number in range(1, last_of(found) + 1):
        rows = scores_of(found, {"TN": (number, "")})
        if rows:
            points.append(mean(rows, "TN").point)
            told.append(f"generation {number} {mean(rows, 'TN')}")
    told.append(f"the teacher's own mean is known to {own_luck(found):.3f}")
    return Finding(", ".join(told), min(points) >= limits["tn_at_least"]) if points else None


def best_generation(found: Record, limits: Limits) -> Finding | None:
    """Each line's best generation, chosen by half of its episodes, is better on the others: by the verdict of the
    lineage, whose interval counts the teacher's episodes once, and by the chance of winning against one of them."""
    told = [row for row in found["verdicts"] if row["comparison"] == "first teacher, best generation"]
    if not told:
        return None
    chosen = chosen_of({number: by_line(found, number) for number in range(1, last_of(found) + 1)})
    first = found["teacher"]["scores"]
    chances = [probability_of_improvement([counted(row)], [first]).point for row in chosen.values()]
    chance, (low, high) = float(np.mean(chances)), told[0]["ci95"]
    measured = f"chance to win {chance:.2f}, TN above the teacher {told[0]['estimate']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return Finding(measured, chance > limits["improvement_above"] and told[0]["verdict"] == "better")


def ensemble_calibration(found: Record, limits: Limits) -> Finding | None:
    """The mean of all answers is better calibrated to the first teacher than each of its members, in every line."""
    told, holds = [], []
    for number in range(1, last_of(found) + 1):
        for line, row in by_line(found, number, "ensemble").items():
            members = [by_line(found, before)[line] for before in range(1, number + 1)]
            ours, *theirs = (_calibration_error(each) for each in (row, *members))
            if ours is None or any(each is None for each in theirs):
                continue
            known = [each for each in theirs if each is not None]
            told.append(f"line {line}: together {ours:.4f}, alone {' '.join(f'{each:.4f}' for each in known)}")
            holds.append(min(known) - ours > limits["lower_by_more_than"])
    return Finding("; ".join(told), all(holds)) if told else None


def _calibration_error(row: Record) -> float | None:
    told: float | None = row["measures"].get("first", {}).get("calibration_error")
    return told


def chain_against_direct(found: Record, limits: Limits) -> Finding | None:
    """The chain's student scores more than one that learnt directly for as long."""
    last = last_of(found)
    records = scores_of(found, {"chain": (last, ""), "direct": (last, "longer")})
    return more(records, limits, ours="chain", theirs="direct") if records else None


def residual_scores(found: Record, limits: Limits) -> Finding | None:
    """Of what the student's scores lack, a share at most is left beside the assistant."""
    if not found.get("left"):
        return None
    share = mean([{"left": each} for each in found["left"]], "left")
    return Finding(f"left {share} of what the student lacked", share.point <= limits["left_at_most"])


def left_beside_the_assistant(found: Record, run: Path) -> list[float]:
    """Of each line: norm of what student and assistant lack of the teacher's scores, over that of the student alone, on
    states that the student visits in the protocol's first episodes, which nobody learns from."""
    alone, both = by_line(found, 1, "student"), by_line(found, 1)
    teacher = load_policy(run / found["steps"][0]["path"])
    shares = []
    for line in sorted({*alone} & {*both}):
        student, summed = (load_policy(run / each[line]["path"]) for each in (alone, both))
        played = play(student, episodes=2, keep_states=STATES, title=f"line {line}, states")
        states = torch.as_tensor(played.states)
        wanted, without, together = (centred_scores(each, states) for each in (teacher, student, summed))
        shares.append(float((wanted - together).norm() / (wanted - without).norm()))
    return shares


def centred_scores(policy: Policy, states: torch.Tensor) -> torch.Tensor:
    """[B, A]: scores of actions less their mean, as the squared error of scores takes them."""
    with torch.no_grad():
        scores = policy(states).params["logits"]
    return scores - scores.mean(1, keepdim=True)


def residual_score(found: Record, limits: Limits) -> Finding | None:
    """Student and assistant make up for a share of the score that the student lacks, and are small."""
    records = scores_of(found, {"both": (1, ""), "student": (1, "student"), "longer": (1, "longer")})
    if not records:
        return None
    size = next(iter(by_line(found, 1).values()))["parameters"]
    gain, gap = difference(records, "both", "student"), 1 - mean(records, "student").point
    told = f"{more(records, limits, ours='both', theirs='student', beside=('longer',)).measured}, {size:,} parameters"
    enough = gain.point >= limits["share_of_gap_at_least"] * gap and gain.low > 0
    return Finding(told, enough and size < limits["parameters_below"])


def evolved_part(found: Record, limits: Limits) -> Finding | None:
    """The kept part scores more at the last generation than at the first."""
    last = last_of(found)
    records = scores_of(found, {f"part at {last}": (last, "slim"), "part at 1": (1, "slim")})
    if not records or last == 1:
        return None
    wins = sum(row[f"part at {last}"] > row["part at 1"] for row in records)
    told = more(records, limits, ours=f"part at {last}", theirs="part at 1").measured
    better = difference(records, f"part at {last}", "part at 1").low > 0
    holds = better and wins >= limits["share_of_lines_at_least"] * len(records)
    return Finding(f"{told}; more in {wins} of {len(records)} lines", holds)


def evolved_whole(found: Record, limits: Limits) -> Finding | None:
    """The whole scores no less than a student that learnt as long in one go."""
    last = last_of(found)
    records = scores_of(found, {"evolved": (last, ""), "longer": (last, "longer")})
    if not records:
        return None
    found_here = kept(records, limits, ours="evolved", theirs="longer")
    clear = difference(records, "evolved", "longer").low >= -limits["interval_within"]
    return Finding(found_here.measured, found_here.holds and clear)


FURLANELLO = "Furlanello et al. 2018, arXiv:1805.04770"
SURVEY = "Gou et al. 2021, arXiv:2006.05525"
TAHA = "Taha et al. 2021, arXiv:2103.05152"
NOT_RUN = (
    (
        "ITER, Pong",
        "Igl et al. 2021, arXiv:2006.05826",
        "a student that begins anew, with its predecessor's answers and rewards, passes who just went on",
        11.0,  # three lines of three generations of 2 million steps at 2.2 ms
    ),
    (
        "Online policy distillation, Pong",
        "Rusu et al. 2016, arXiv:1511.06295",
        "a student that follows the best of a teacher that still learns is less unsteady than that",
        7.0,  # three lines of three generations of 1 million steps at 2.2 ms, and a student of 10,000 steps each
    ),
)
"""Technique, paper, claim and estimated core-hours of what is beyond the ten that were there for all."""
CLAIMS: Sequence[Claim] = (
    Claim(
        name="born_again_first",
        study="pong",
        paper=FURLANELLO,
        text="students of their teacher's size keep {tn_at_least} of the score in every generation",
        check=first_students,
    ),
    Claim(
        name="born_again_best",
        study="pong",
        paper=FURLANELLO,
        text="the best generation beats the first teacher on average, and in a game with a chance above "
        "{improvement_above}",
        check=best_generation,
    ),
    Claim(
        name="born_again_ensemble",
        study="pong",
        paper=FURLANELLO,
        text="all generations together are better calibrated to the first teacher than each of them",
        check=ensemble_calibration,
    ),
    Claim(
        name="teacher_assistant",
        study="teacher_assistant",
        paper="Mirzadeh et al. 2020, arXiv:1902.03393",
        text="a chain's student scores more than one that learnt directly for as many steps",
        check=chain_against_direct,
    ),
    Claim(
        name="residual_scores",
        study="residual_assistant",
        paper=SURVEY,
        text="an assistant leaves <= {left_at_most} of what a student's scores lack, on states that the student visits",
        check=residual_scores,
    ),
    Claim(
        name="residual_score",
        study="residual_assistant",
        paper=SURVEY,
        text="it makes up for {share_of_gap_at_least} of the score that the student lacks, with less than "
        "{parameters_below:,} parameters together",
        check=residual_score,
    ),
    Claim(
        name="evolution_slim",
        study="knowledge_evolution",
        paper=TAHA,
        text="the kept part scores more at the last generation than at the first in {share_of_lines_at_least:.0%} of "
        "lines",
        check=evolved_part,
    ),
    Claim(
        name="evolution_whole",
        study="knowledge_evolution",
        paper=TAHA,
        text="the whole scores no less than a student that learnt as long in one go, the interval within "
        "{interval_within}",
        check=evolved_whole,
    ),
)
