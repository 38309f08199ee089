"""Evaluations as JSON: what `--json` prints and `run.json` keeps."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from rlkd.data import Evaluation, JsonDict
from rlkd.errors import RecipeError
from rlkd.evaluation.play import environment_of, play, play_randomly
from rlkd.policy import as_player, parse_rule
from rlkd.recipe import recipe_hash, shipped
from rlkd.stats import mean_interval
from rlkd.vector import as_recipe

WIDE = 130  # columns of a terminal from which on tables show everything


def result_record(evaluation: Evaluation, *, random: Evaluation, path: Path | None = None) -> JsonDict:
    """One entry of `results`.

    Args:
        evaluation: of a policy.
        random: of uniformly random play on the same episodes.
        path: the policy's file, for its size.
    """
    interval = mean_interval(evaluation.scores)
    return {
        "policy": evaluation.policy,
        "environment": evaluation.environment,
        "protocol": evaluation.protocol,
        "rule": evaluation.rule,
        "episodes": len(evaluation.scores),
        "seeds": list(evaluation.seeds),
        "mean": evaluation.mean,
        "std": evaluation.std,
        "ci95": [interval.low, interval.high],
        "random_mean": random.mean,
        "parameters": evaluation.parameters,
        "weight_bytes": evaluation.weight_bytes,
        "file_bytes": path.stat().st_size if path is not None else 0,
        "hash": evaluation.hash,
        "scores": list(evaluation.scores),
        "steps": list(evaluation.steps),
    }


def evaluate_files(
    policies: Sequence[str], *, env: str | None = None, episodes: int | None = None, rule: str | None = None
) -> list[JsonDict]:
    """Entries of `results`, one a policy; random play is measured once for each environment.

    Args:
        policies: files or `policy:NAME`.
        env: where; None takes each policy's own.
        episodes: per evaluation; None takes the protocol's.
        rule: None takes each policy's own.

    Raises:
        RlkdError: no policies, or one that cannot be read or does not fit.
    """
    if not policies:
        raise RecipeError("nothing to evaluate; name a policy's file, or policy:NAME for a shipped one")
    environment = None if env is None else as_recipe(env)
    wanted = None if rule is None else parse_rule(rule)
    loaded = [as_player(name, env=environment) for name in policies]  # all of them first: a wrong name costs no minutes
    places = [environment_of(policy, environment) for policy in loaded]
    files = {f"policy:{entry.name}": entry.path for entry in shipped("policies")}
    random: dict[str, Evaluation] = {}
    records = []
    for name, policy, place in zip(policies, loaded, places, strict=True):
        key = recipe_hash(place)
        if key not in random:
            random[key] = play_randomly(place, episodes=episodes)
        played = play(policy, place, episodes=episodes, rule=wanted)
        path = files.get(name, Path(name))
        records.append(result_record(played.evaluation, random=random[key], path=path) | {"policy": name})
    return records


def results_table(records: Sequence[JsonDict], *, width: int = WIDE) -> Table:
    """Scores for the terminal, `width` characters wide."""
    table = terminal_table(" / ".join(sorted({f"{entry['environment']}, {entry['protocol']}" for entry in records})))
    table.add_column("policy", overflow="fold")
    headers = ["score [95 %]", "std", "random", "episodes", "rule", "parameters", "KB"]
    if width < WIDE:
        headers = ["score [95 %]", "random", "episodes", "rule", "parameters"]
    for header in headers:
        table.add_column(header, justify="right")
    for entry in records:
        low, high = entry["ci95"]
        cells = {
            "score [95 %]": f"{entry['mean']:.2f} [{low:.2f}, {high:.2f}]",
            "std": f"{entry['std']:.2f}",
            "random": f"{entry['random_mean']:.2f}",
            "episodes": str(entry["episodes"]),
            "rule": entry["rule"],
            "parameters": f"{entry['parameters']:,}",
            "KB": kilobytes(entry),
        }
        table.add_row(entry["policy"], *(cells[header] for header in headers))
    return table


def terminal_table(title: str, caption: str | None = None) -> Table:
    """An empty table that wastes no columns: terminals have 80."""
    return Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)


def kilobytes(entry: JsonDict) -> str:
    """Stored weights in thousands of bytes."""
    size = float(entry["weight_bytes"]) / 1000
    return f"{size:,.0f}" if size >= 10 else f"{size:.1f}"
