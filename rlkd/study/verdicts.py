"""What a study says: each agent against the first one, on each environment and over all of them."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from rlkd.data import JsonDict
from rlkd.evaluation.record import WIDE, terminal_table
from rlkd.stats import (
    Estimate,
    interquartile_mean,
    mean_difference,
    mean_interval,
    performance_profile,
    probability_of_improvement,
)

PROFILE = tuple(round(0.05 * k, 2) for k in range(21))
"""Normalised scores at which performance profiles are told."""
FEWEST_SEEDS = 3  # below, no interval over seeds is worth the name


def verdicts(record: JsonDict) -> JsonDict:
    """Scores and differences of a finished study.

    On each environment: the mean over seeds, its interval from the seeds' means; the difference to the first agent,
    whose interval resamples seeds, then episodes; the probability of improvement. Over several environments: the
    interquartile mean of normalised scores, 0 for random play and 1 for the best agent's mean there.

    Args:
        record: `run.json`, with `cells` and random play.
    """
    agents, environments = record["order"]["agents"], record["order"]["environments"]
    scores = {(env, agent): _scores(record, env, agent) for env in environments for agent in agents}
    found: JsonDict = {"environments": {}, "suite": {}, "profile_at": list(PROFILE)}
    normalised: dict[str, list[list[float]]] = {agent: [] for agent in agents}
    for env in environments:
        base = float(np.mean(record["environments"][env]["random"]))
        means = {agent: [float(np.mean(each)) for each in scores[env, agent]] for agent in agents}
        top = max(float(np.mean(values)) for values in means.values())
        for agent in agents:
            span = top - base
            normalised[agent].append([(value - base) / span if span > 0 else 0.0 for value in means[agent]])
        rows: dict[str, JsonDict] = {}
        for agent in agents:
            against = mean_difference(scores[env, agent], scores[env, agents[0]])
            rows[agent] = {"mean": _plain(mean_interval(means[agent])), "by_seed": means[agent]}
            if agent != agents[0]:
                better = probability_of_improvement([means[agent]], [means[agents[0]]])
                rows[agent] |= {
                    "difference": _plain(against),
                    "improvement": _plain(better),
                    "verdict": verdict(against, seeds=record["seeds"]),
                }
        found["environments"][env] = {"random": base, "agents": rows}
    if len(environments) > 1:
        for agent in agents:
            row: JsonDict = {"iqm": _plain(interquartile_mean(normalised[agent]))}
            row["profile"] = [_plain(each) for each in performance_profile(normalised[agent], PROFILE)]
            if agent != agents[0]:
                row["improvement"] = _plain(probability_of_improvement(normalised[agent], normalised[agents[0]]))
            found["suite"][agent] = row
    return found


def verdict(difference: Estimate, *, seeds: int) -> str:
    """What an interval of a difference allows to say."""
    if seeds < FEWEST_SEEDS:
        return "too few seeds"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "no difference"


def comparison_table(record: JsonDict, *, width: int) -> Table:
    """A study's verdicts for the terminal, `width` characters wide."""
    first = record["order"]["agents"][0]
    headers = ["score [95 %]", "difference [95 %]", "P(better)", "verdict"]
    if width < WIDE:
        headers = ["score [95 %]", "difference [95 %]", "verdict"]
    table = terminal_table(
        f"{record['frames']:,} frames, {record['seeds']} seeds", f"differences and verdicts: against {first}"
    )
    table.add_column("environment", overflow="fold")
    table.add_column("agent", overflow="fold")
    for header in headers:
        table.add_column(header, justify="right")
    told = record["verdicts"]
    rows = [(env, agent, row) for env, each in told["environments"].items() for agent, row in each["agents"].items()]
    rows += [("all, normalised IQM", agent, row) for agent, row in told["suite"].items()]
    for env, agent, row in rows:
        cells = {
            "score [95 %]": spoken(row["mean"] if "mean" in row else row["iqm"]),
            "difference [95 %]": spoken(row["difference"]) if "difference" in row else "",
            "P(better)": spoken(row["improvement"]) if "improvement" in row else "",
            "verdict": row.get("verdict", ""),
        }
        table.add_row(env if agent == first else "", agent, *(cells[header] for header in headers))
    return table


def spoken(values: Sequence[float]) -> str:
    """An estimate as a number and its interval."""
    digits = 3 if max(map(abs, values)) < 10 else 1
    point, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{point} [{low}, {high}]"


def _scores(record: JsonDict, env: str, agent: str) -> list[list[float]]:
    """One sequence of episode scores a seed."""
    return [cell["scores"] for cell in record["cells"] if (cell["env"], cell["agent"]) == (env, agent)]


def _plain(estimate: Estimate) -> list[float]:
    return [estimate.point, estimate.low, estimate.high]
