"""What a bonus is worth where a search by chance fails: Deep Sea, NChain, one MiniGrid layout; verdict either way.

    make bench NAME=exploration

PPO alone, with random network distillation, with exact counts. All three have the same tuning budget: three values of
the one thing that decides how much each explores (entropy weight, share of the bonus), three seeds each, on a Deep Sea
of a size that is not told of; the best mean is taken everywhere. Then ten seeds an environment, equal frames; greedy
play is not asked for: policies act by their own rule, 100 episodes. Runs are those of `rlkd compare`, resumable, and
`rlkd report RUN/ENVIRONMENT` draws their curves.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.common import Record, machine, options, store
from rlkd import recipe
from rlkd.recipe import Ppo
from rlkd.study import compare

FOLDER = Path(__file__).parent
AGENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "PPO": ("rl/ppo_classic", ("entropy_coefficient=0.005", "entropy_coefficient=0.02", "entropy_coefficient=0.05")),
    "PPO + RND": (
        "explore/ppo_rnd_classic",
        ("streams.1.coefficient=0.25", "streams.1.coefficient=1.0", "streams.1.coefficient=4.0"),
    ),
    "PPO + counts": (
        "explore/ppo_counts",
        ("streams.1.coefficient=0.25", "streams.1.coefficient=1.0", "streams.1.coefficient=4.0"),
    ),
}
FRAMES = {
    "deep_sea_10": 100_000,
    "deep_sea_20": 200_000,
    "deep_sea_30": 300_000,
    "nchain": 100_000,
    "doorkey_5x5_fixed": 150_000,
}
SAME = "learning_rate=1e-3", "final_learning_rate=1e-3", "epochs=4"  # as in the recipes with a bonus
TUNED_ON, TUNING_FRAMES, TUNING_SEEDS = FOLDER / "deep_sea_12.toml", 120_000, 3


def main() -> int:
    """Tune, compare, store the table."""
    chosen = options(__doc__ or "", seeds=10)
    tried = {name: tuned(name, chosen.run / "tuning") for name in AGENTS}
    best = {name: max(found, key=lambda value: float(np.mean(found[value]))) for name, found in tried.items()}
    files = written(best, chosen.run)
    lines = [
        f"{chosen.seeds} seeds, means over seeds with 95 % intervals of Student; differences to PPO, of Welch.",
        "",
        "| environment | frames | random | agent | score | difference | verdict | seed by seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine(), "tuning": tried, "chosen": best, "environments": {}}
    for env, frames in FRAMES.items():
        study = compare([env], list(files.values()), seeds=chosen.seeds, run=chosen.run / env, frames=frames)
        told = study["verdicts"]["environments"][env]
        record["environments"][env] = told
        for name, file in files.items():
            lines.append(line(env, frames, name, told["random"], told["agents"][file]))
            print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", "Tuned on Deep Sea 12, mean score of three seeds:", "", "| agent | value | score |", "|---|---|---|"]
    for name, found in tried.items():
        for value, scores in found.items():
            taken = " (taken)" if value == best[name] else ""
            lines.append(f"| {name} | `{value}`{taken} | {np.mean(scores):.3f} |")
    store(FOLDER, record, lines)
    return 0


def tuned(name: str, run: Path) -> dict[str, list[float]]:
    """Mean scores of the tuning seeds by value."""
    agent, values = AGENTS[name]
    found = {}
    for place, value in enumerate(values):
        study = compare(
            [str(TUNED_ON)],
            [agent],
            seeds=TUNING_SEEDS,
            run=run / f"{name.replace(' ', '')}-{place}",
            frames=TUNING_FRAMES,
            overrides=(*SAME, value),
        )
        found[value] = study["verdicts"]["environments"][str(TUNED_ON)]["agents"][agent]["by_seed"]
    return found


def written(best: Mapping[str, str], run: Path) -> dict[str, str]:
    """Each agent with its values as a recipe file in the run folder."""
    files = {}
    for name, value in best.items():
        path = run / f"{name.replace(' ', '').replace('+', '_').lower()}.toml"
        path.write_text(recipe.dump(recipe.load(AGENTS[name][0], Ppo, overrides=(*SAME, value))))
        files[name] = str(path)
    return files


def line(env: str, frames: int, name: str, random: float, row: Record) -> str:
    """One row of the table."""
    shown = [told(row["mean"]), told(row["difference"]) if "difference" in row else "", row.get("verdict", "")]
    seeds = ", ".join(f"{value:.3g}" for value in row["by_seed"])
    return f"| {env} | {frames:,} | {random:.3f} | {name} | {' | '.join(shown)} | {seeds} |"


def told(values: list[float]) -> str:
    """A mean and its interval, where it has one."""
    point, *interval = (f"{value:.3f}" for value in values)
    return f"{point} [{', '.join(interval)}]" if interval else point


if __name__ == "__main__":
    sys.exit(main())
