"""What a bonus is worth where a search by chance fails: Deep Sea, NChain, one MiniGrid layout; verdict either way.

    make bench NAME=exploration

PPO alone, with random network distillation, with exact counts. All three have the same tuning budget: four sets of
values, three seeds each, on a Deep Sea of a size that is not told of. Taken is the set with the most seeds that found
the reward, of equal ones the first; sets stand in order from much to little exploration. PPO's own schedule of step
sizes and epochs is among its sets.

Then ten seeds an environment, at equal frames; what looks first (random network distillation: 3,200 steps of random
play) is not charged for it. Policies play 100 episodes by their own rule. Scores in these worlds have two values,
nearly, so the seeds that solved it are told beside intervals, which are Student's and Welch's and not corrected for how
many are looked at. Runs are those of `rlkd compare`, resumable, and `rlkd report RUN/ENVIRONMENT` draws their curves.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import Record, end_with, machine, options, store
from rlkd import recipe
from rlkd.recipe import Ppo
from rlkd.study import compare
from rlkd.study.verdicts import spoken

FOLDER = Path(__file__).parent
SLOW = ("learning_rate=1e-3", "final_learning_rate=1e-3", "epochs=4")  # as in the recipes with a bonus
BONUS = tuple(
    (f"streams.1.coefficient={share}", f"entropy_coefficient={entropy}")
    for share, entropy in ((4.0, 0.02), (4.0, 0.005), (1.0, 0.005), (0.25, 0.005))
)
AGENTS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "PPO": (
        "rl/ppo_classic",
        (
            ("entropy_coefficient=0.05", *SLOW),
            ("entropy_coefficient=0.02", *SLOW),
            ("entropy_coefficient=0.02",),
            ("entropy_coefficient=0.005",),
        ),
    ),
    "PPO + RND": ("explore/ppo_rnd_classic", BONUS),
    "PPO + counts": ("explore/ppo_counts", BONUS),
}
FRAMES = {
    "deep_sea_10": 100_000,
    "deep_sea_20": 200_000,
    "deep_sea_30": 300_000,
    "nchain": 100_000,
    "doorkey_5x5_fixed": 150_000,
}
NETWORKS = {"doorkey_5x5_fixed": "grid"}
"""Of environments whose observations are no vectors."""
SOLVED = {"deep_sea_10": 0.5, "deep_sea_20": 0.5, "deep_sea_30": 0.5, "doorkey_5x5_fixed": 0.5}
"""Mean score from which on a seed counts as one that solved it; NChain has no such step."""
TUNED_ON, TUNING_FRAMES, TUNING_SEEDS = FOLDER / "deep_sea_12.toml", 120_000, 3


def main() -> int:
    """Tune, compare, store the table."""
    chosen = options(__doc__ or "", seeds=10)
    tried = {name: tuned(name, chosen.run / "tuning") for name in AGENTS}
    best = {name: taken(found) for name, found in tried.items()}
    lines = [
        f"{chosen.seeds} seeds, means over seeds with 95 % intervals; differences and P(better) against PPO.",
        "",
        "| environment | frames | random | agent | score | solved | difference | P(better) | verdict | seed by seed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine(), "tuning": tried, "taken": best, "environments": {}}
    for env, frames in FRAMES.items():
        files = written(best, chosen.run, NETWORKS.get(env))
        study = compare([env], list(files.values()), seeds=chosen.seeds, run=chosen.run / env, frames=frames)
        told = study["verdicts"]["environments"][env]
        record["environments"][env] = told
        for name, file in files.items():
            lines.append(line(env, frames, name, told["random"], told["agents"][file]))
            print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", f"Tuned on Deep Sea 12, {TUNING_FRAMES:,} frames, seeds that found the reward and mean score:", ""]
    lines += ["| agent | values | found it | score |", "|---|---|---|---|"]
    for name, found in tried.items():
        for k, scores in enumerate(found):
            values = f"`{' '.join(AGENTS[name][1][k])}`{' (taken)' if k == best[name] else ''}"
            lines.append(f"| {name} | {values} | {solved(scores)} of {len(scores)} | {np.mean(scores):.3f} |")
    store(FOLDER, record, lines)
    return 0


def solved(scores: Sequence[float], least: float = 0.5) -> int:
    """How many seeds reached a score."""
    return sum(score >= least for score in scores)


def taken(found: Sequence[Sequence[float]]) -> int:
    """The first set of values of those with which most seeds found the reward."""
    counts = [solved(scores) for scores in found]
    return counts.index(max(counts))


def tuned(name: str, run: Path) -> list[list[float]]:
    """Mean scores of the tuning seeds for each set of values."""
    agent, sets = AGENTS[name]
    found = []
    for place, values in enumerate(sets):
        study = compare(
            [str(TUNED_ON)],
            [agent],
            seeds=TUNING_SEEDS,
            run=run / f"{name.replace(' ', '')}-{place}",
            frames=TUNING_FRAMES,
            overrides=values,
        )
        found.append(study["verdicts"]["environments"][str(TUNED_ON)]["agents"][agent]["by_seed"])
    return found


def written(best: Mapping[str, int], run: Path, network: str | None) -> dict[str, str]:
    """Each agent with its values, and a network if one is named, as a recipe file in the run folder."""
    files = {}
    for name, place in best.items():
        agent, sets = AGENTS[name]
        path = run / f"{name.replace(' ', '').replace('+', '_').lower()}{f'_{network}' if network else ''}.toml"
        overrides = (*sets[place], *([f"network='{network}'"] if network else []))
        path.write_text(recipe.dump(recipe.load(agent, Ppo, overrides=overrides)))
        files[name] = str(path)
    return files


def line(env: str, frames: int, name: str, random: float, row: Record) -> str:
    """One row of the table."""
    seeds = row["by_seed"]
    found = f"{solved(seeds, SOLVED[env])} of {len(seeds)}" if env in SOLVED else ""
    better = f"{row['improvement']:.2f}" if "improvement" in row else ""
    shown = [spoken(row["mean"]), found, spoken(row.get("difference", [])), better, row.get("verdict", "")]
    listed = ", ".join(f"{value:.3g}" for value in seeds)
    return f"| {env} | {frames:,} | {random:.3f} | {name} | {' | '.join(shown)} | {listed} |"


if __name__ == "__main__":
    end_with(main)
