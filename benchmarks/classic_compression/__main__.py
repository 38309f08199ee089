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
TEACHERS = {
    "lunarlander-dqn": (f"{ZIPS}/dqn/LunarLander-v2_1/LunarLander-v2.zip", "lunarlander"),
    "lunarlander-ppo": (f"{ZIPS}/ppo/LunarLander-v2_1/LunarLander-v2.zip", "lunarlander"),
    "acrobot-dqn": (f"{ZIPS}/dqn/Acrobot-v1_1/Acrobot-v1.zip", "acrobot"),
}
STUDENT, AGENT = "mlp_16", "classic"


def main() -> int:
    """Run what is not there yet, and store the table."""
    chosen = options(__doc__ or "")
    root = os.environ.get("RLKD_TEACHERS")
    if root is None or not Path(root).is_dir():
        print("set RLKD_TEACHERS to the folder with the zips (see the README)", file=sys.stderr)
        return 2
    limits = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    lines = [
        f"Students `{STUDENT}`, recipe `{AGENT}`, {chosen.seeds} seeds, 100 episodes each, 95 % intervals.",
        "",
        (
            "| teacher | its score | random | parameters | share | TN student | verdict | TN hard labels | "
            "TN shuffled | failed episodes | agrees |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine(), "thresholds": limits, "teachers": {}}
    for name, (path, env) in TEACHERS.items():
        runs = [_one(Path(root) / path, env, chosen.run / name / f"seed{seed}", seed) for seed in range(chosen.seeds)]
        student, failed = over_seeds(runs, STUDENT)
        hard, shuffled = (over_seeds(runs, control)[0] for control in ("hard_labels", "shuffled_teacher"))
        first = entries(runs, STUDENT)[0]
        share = first["parameter_ratio"]
        agrees = sum(entry["agreement"] for entry in entries(runs, STUDENT)) / len(runs)
        met = verdict(student, at_least=limits["normalised_at_least"])
        lines.append(
            f"| {name} | {runs[0]['teacher']['mean']:.1f} | {runs[0]['random']['mean']:.1f} | {first['parameters']:,} "
            f"| {share:.1%} | {student} | {met} | {hard} | {shuffled} | {failed:.1%} | {agrees:.1%} |"
        )
        record["teachers"][name] = {
            "normalised": [student.point, student.low, student.high],
            "hard_labels": [hard.point, hard.low, hard.high],
            "shuffled_teacher": [shuffled.point, shuffled.low, shuffled.high],
            "parameter_share": share,
            "failed_share": failed,
            "seed_means": [entry["mean"] for entry in entries(runs, STUDENT)],
        }
    store(FOLDER, record, lines)
    return 0


def _one(teacher: Path, env: str, folder: Path, seed: int) -> Record:
    return read_run(folder) or rlkd.distill(teacher, [STUDENT], run=folder, agent=AGENT, env=env, seed=seed)


if __name__ == "__main__":
    sys.exit(main())
