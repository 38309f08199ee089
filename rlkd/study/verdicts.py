"""What a study says: each agent against the first one, on each environment and over all of them."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from rlkd.data import JsonDict
from rlkd.evaluation.record import WIDE, terminal_table
from rlkd.stats import (
    Estimate,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    seed_difference,
    seed_interval,
)

PROFILE = tuple(round(0.05 * k, 2) for k in range(21))
"""Normalised scores at which performance profiles are told."""
FEWEST_SEEDS = 3  # below, no interval over seeds is worth the name


def verdicts(record: JsonDict) -> JsonDict:
    """Scores and differences of a finished study. A training seed counts once, by the mean of its episodes.

    On each environment: means over seeds and differences to the first agent, with intervals of Student and Welch, not
    corrected for how many are looked at; the probability of improvement. Over several environments: that probability,
    and the interquartile mean of normalised scores, 0 for random play and 1 for the best agent's mean there. Its
    interval leaves out the noise of what normalises. Environments on which no agent is clearly better than random play
    cannot be normalised: they are left out of it, and named.

    Args:
        record: `run.json`, with `cells` and random play.
    """
    agents, environments = record["order"]["agents"], record["order"]["environments"]
    found: JsonDict = {"environments": {}, "suite": {}, "profile_at": list(PROFILE), "left_out": []}
    raw: dict[str, list[list[float]]] = {agent: [] for agent in agents}
    normalised: dict[str, list[list[float]]] = {agent: [] for agent in agents}
    for env in environments:
        means = {agent: _means(record, env, agent) for agent in agents}
        random = record["environments"][env]["random"]
        base = float(np.mean(random))
        best = max(agents, key=lambda agent: float(np.mean(means[agent])))
        top = float(np.mean(means[best]))
        clear = top - base > 2 * float(np.std(random)) / np.sqrt(len(random)) + 1e-9
        if not clear:
            found["left_out"].append(env)
        rows: dict[str, JsonDict] = {}
        for agent in agents:
            raw[agent].append(means[agent])
            if clear:
                normalised[agent].append([(value - base) / (top - base) for value in means[agent]])
            rows[agent] = {"mean": _plain(seed_interval(means[agent])), "by_seed": means[agent]}
            if agent != agents[0]:
                against = seed_difference(means[agent], means[agents[0]])
                better = probability_of_improvement([means[agent]], [means[agents[0]]])
                rows[agent] |= {
                    "difference": _plain(against),
                    "improvement": better.point,
                    "verdict": verdict(against, seeds=record["seeds"]),
                }
        found["environments"][env] = {"random": base, "agents": rows}
    if len(environments) > 1:
        for agent in agents:
            row: JsonDict = {}
            if normalised[agent]:
                row["iqm"] = _plain(interquartile_mean(normalised[agent]))
                row["profile"] = [_plain(each) for each in performance_profile(normalised[agent], PROFILE)]
            if agent != agents[0]:
                row["improvement"] = probability_of_improvement(raw[agent], raw[agents[0]]).point
            found["suite"][agent] = row
    return found


def verdict(difference: Estimate, *, seeds: int) -> str:
    """What an interval of a difference allows to say."""
    if seeds < FEWEST_SEEDS:
        return "too few seeds"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "no difference seen"


def comparison_table(record: JsonDict, *, width: int) -> Table:
    """A study's verdicts for the terminal, `width` characters wide."""
    order, told = record["order"], record["verdicts"]
    first = order["agents"][0]
    headers = ["score [95 %]", "difference [95 %]", "P(better)", "verdict"]
    if width < WIDE:
        headers = ["score [95 %]", "difference [95 %]", "verdict"]
    caption = f"differences and verdicts: against {first}"
    if told["left_out"]:
        caption += f"; IQM without {', '.join(told['left_out'])}, where nobody clearly beats random play"
    table = terminal_table(f"{record['frames']:,} frames, {record['seeds']} seeds", caption)
    table.add_column("environment", overflow="fold")
    table.add_column("agent", overflow="fold")
    for header in headers:
        table.add_column(header, justify="right")
    rows = [(env, agent, told["environments"][env]["agents"][agent])
            for env in order["environments"] for agent in order["agents"]]  # fmt: skip
    if told["suite"]:
        rows += [("all, normalised IQM", agent, told["suite"][agent]) for agent in order["agents"]]
    for env, agent, row in rows:
        cells = {
            "score [95 %]": spoken(row.get("mean", row.get("iqm", []))),
            "difference [95 %]": spoken(row.get("difference", [])),
            "P(better)": f"{row['improvement']:.2f}" if "improvement" in row else "",
            "verdict": row.get("verdict", ""),
        }
        table.add_row(env if agent == first else "", agent, *(cells[header] for header in headers))
    return table


def spoken(values: Sequence[float]) -> str:
    """An estimate as a number and its interval, if it has one; nothing where there is none."""
    if not values:
        return ""
    digits = 3 if max(map(abs, values)) < 10 else 1
    point, *interval = (f"{value:.{digits}f}" for value in values)
    return f"{point} [{', '.join(interval)}]" if interval else point


def _means(record: JsonDict, env: str, agent: str) -> list[float]:
    """One number a seed."""
    cells = [cell for cell in record["cells"] if (cell["env"], cell["agent"]) == (env, agent)]
    return [float(np.mean(cell["scores"])) for cell in cells]


def _plain(estimate: Estimate) -> list[float]:
    """Point and interval; the point alone where the interval says nothing."""
    known = np.isfinite([estimate.low, estimate.high]).all()
    return [estimate.point, estimate.low, estimate.high] if known else [estimate.point]
