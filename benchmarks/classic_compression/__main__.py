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
from benchmarks.common import Record, end_with, entries, machine, options, over_seeds, read_run, store
from rlkd import recipe as recipes
from rlkd.recipe import Distill

FOLDER = Path(__file__).parent
ZIPS = "dlr_rl-trained-agents"
AGENT = "classic"
# Teacher, environment, student. The larger student of lunarlander-dqn was added after the smaller had missed.
PAIRS = (
    ("dqn/LunarLander-v2", "lunarlander", "mlp_16"),
    ("dqn/LunarLander-v2", "lunarlander", "mlp_64"),
    ("ppo/LunarLander-v2", "lunarlander", "mlp_16"),
    ("dqn/Acrobot-v1", "acrobot", "mlp_16"),
    ("ppo/Acrobot-v1", "acrobot", "mlp_16"),
)


def main() -> int:
    """Run what is not there yet, and store the table."""
    chosen = options(__doc__ or "")
    root = os.environ.get("RLKD_TEACHERS")
    if root is None or not Path(root).is_dir():
        print(f"set RLKD_TEACHERS to a folder with DLR-RM/rl-trained-agents in it, as {ZIPS}/", file=sys.stderr)
        return 2
    limits = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    most = limits["student_parameters_at_most_share"]
    lines = [
        (
            f"Recipe `{AGENT}`, {chosen.seeds} seeds, 100 episodes each, 95 % intervals. Wanted: at most {most:.0%} "
            f"of the teacher's parameters, TN >= {limits['normalised_at_least']:g}, shuffled teacher <= "
            f"{limits['shuffled_teacher_at_most']:g}. The larger student of `dqn/LunarLander-v2` was added after the "
            "smaller had missed."
        ),
        "",
        (
            "| teacher | its score | random | student | parameters | share | TN student | verdict | TN hard labels | "
            "soft targets | TN shuffled | failed episodes | agrees |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine(), "thresholds": limits, "students": []}
    for path, env, network in PAIRS:
        zipped = Path(root) / ZIPS / f"{path}_1" / f"{Path(path).name}.zip"
        folder = chosen.run / path / network
        runs = [_one(zipped, env, network, folder / f"seed{seed}", seed) for seed in range(chosen.seeds)]
        student, failed = over_seeds(runs, network)
        hard, shuffled = (over_seeds(runs, control)[0] for control in ("hard_labels", "shuffled_teacher"))
        first = entries(runs, network)[0]
        share = first["parameter_ratio"]
        agrees = sum(entry["agreement"] for entry in entries(runs, network)) / len(runs)
        met = (
            share <= most
            and student.point >= limits["normalised_at_least"]
            and shuffled.point <= limits["shuffled_teacher_at_most"]
        )
        gain = "gain" if student.low > hard.high else "worse" if student.high < hard.low else "no gain"
        lines.append(
            f"| {path} | {runs[0]['teacher']['mean']:.1f} | {runs[0]['random']['mean']:.1f} "
            f"| `{network}` | {first['parameters']:,} | {share:.1%} | {student} | {'met' if met else 'MISSED'} "
            f"| {hard} | {gain} | {shuffled} | {failed:.1%} | {agrees:.1%} |"
        )
        record["students"].append(
            {
                "teacher": path,
                "student": network,
                "normalised": [student.point, student.low, student.high],
                "hard_labels": [hard.point, hard.low, hard.high],
                "shuffled_teacher": [shuffled.point, shuffled.low, shuffled.high],
                "parameter_share": share,
                "failed_share": failed,
                "seed_means": [entry["mean"] for entry in entries(runs, network)],
            }
        )
    store(FOLDER, record, lines)
    return 0


def _one(teacher: Path, env: str, network: str, folder: Path, seed: int) -> Record:
    found = read_run(folder, rlkd.load(teacher, env=env).spec.hash, recipes.load(AGENT, Distill))
    return found or rlkd.distill(teacher, [network], run=folder, agent=AGENT, env=env, seed=seed)


if __name__ == "__main__":
    end_with(main)
