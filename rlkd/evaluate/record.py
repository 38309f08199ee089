"""Evaluations as JSON: what `--json` prints and `run.json` keeps."""

from pathlib import Path

from rlkd.data import Evaluation, JsonDict
from rlkd.stats import mean_interval


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
