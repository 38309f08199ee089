"""Stable-Baselines3 zips of LunarLander and Acrobot into students of at most a tenth of their parameters.

    make bench NAME=classic_compression

Needs RLKD_TEACHERS, a checkout of other people's trained agents. Paired with students on hard labels and on a
shuffled teacher, at the same budget.
"""

import os
import sys
import tomllib
from pathlib import Path

import rlkd
from benchmarks.common import Record, entries, machine, options, over_seeds, read_run, store, verdict

FOLDER = Path(__file__).parent
ZIPS = "dlr_rl-trained-agents"
AGENT = "classic"
# Zip, environment, student. `mlp_16` kept 0.914 [0.811, 1.014] of lunarlander-dqn, which therefore has a larger one.
TEACHERS = {
    "lunarlander-dqn": (f"{ZIPS}/dqn/LunarLander-v2_1/LunarLander-v2.zip", "lunarlander", "mlp_64"),
    "lunarlander-ppo": (f"{ZIPS}/ppo/LunarLander-v2_1/LunarLander-v2.zip", "lunarlander", "mlp_16"),
    "acrobot-dqn": (f"{ZIPS}/dqn/Acrobot-v1_1/Acrobot-v1.zip", "acrobot", "mlp_16"),
    "acrobot-ppo": (f"{ZIPS}/ppo/Acrobot-v1_1/Acrobot-v1.zip", "acrobot", "mlp_16"),
}


def main() -> int:
    """Run what is not there yet, and store the table."""
    chosen = options(__doc__ or "")
    root = os.environ.get("RLKD_TEACHERS")
    if root is None or not Path(root).is_dir():
        print("set RLKD_TEACHERS to the folder with the zips (see the README)", file=sys.stderr)
        return 2
    limits = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    lines = [
        f"Recipe `{AGENT}`, {chosen.seeds} seeds, 100 episodes each, 95 % intervals.",
        "",
        (
            "| teacher | its score | random | student | parameters | share | TN student | verdict | TN hard labels | "
            "TN shuffled | failed episodes | agrees |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine(), "thresholds": limits, "teachers": {}}
    for name, (path, env, network) in TEACHERS.items():
        folder = chosen.run / name / network
        runs = [_one(Path(root) / path, env, network, folder / f"seed{seed}", seed) for seed in range(chosen.seeds)]
        student, failed = over_seeds(runs, network)
        hard, shuffled = (over_seeds(runs, control)[0] for control in ("hard_labels", "shuffled_teacher"))
        first = entries(runs, network)[0]
        share = first["parameter_ratio"]
        agrees = sum(entry["agreement"] for entry in entries(runs, network)) / len(runs)
        met = verdict(student, at_least=limits["normalised_at_least"])
        lines.append(
            f"| {name} | {runs[0]['teacher']['mean']:.1f} | {runs[0]['random']['mean']:.1f} "
            f"| `{network}` | {first['parameters']:,} | {share:.1%} | {student} | {met} | {hard} | {shuffled} "
            f"| {failed:.1%} | {agrees:.1%} |"
        )
        record["teachers"][name] = {
            "normalised": [student.point, student.low, student.high],
            "hard_labels": [hard.point, hard.low, hard.high],
            "shuffled_teacher": [shuffled.point, shuffled.low, shuffled.high],
            "parameter_share": share,
            "failed_share": failed,
            "seed_means": [entry["mean"] for entry in entries(runs, network)],
        }
    store(FOLDER, record, lines)
    return 0


def _one(teacher: Path, env: str, network: str, folder: Path, seed: int) -> Record:
    found = read_run(folder, rlkd.load(teacher, env=env).spec.hash)
    return found or rlkd.distill(teacher, [network], run=folder, agent=AGENT, env=env, seed=seed)


if __name__ == "__main__":
    sys.exit(main())
