"""How long a bonus holds a player in front of a television that shows a new random picture at each press.

    make bench NAME=noisy_tv

The room of `envs/explore/noisy_tv.toml`, no reward of the game, ten seeds: random network distillation, the error of
learnt dynamics, and no bonus at all (the control: play stays nearly random). Shares are of all agent steps of the
second half of training in which the player stands on the television's cell, one of 49. What looks at 200 random steps
of each environment first is not charged for them.
"""

import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.common import Record, end_with, machine, options, store
from rlkd import recipe
from rlkd.learn import ppo
from rlkd.learn.rollout import Rollout
from rlkd.learn.samples import prepare
from rlkd.recipe import Ppo
from rlkd.stats import seed_difference, seed_interval
from rlkd.storage import read_json, write_json
from rlkd.vector import as_recipe, make

FOLDER = Path(__file__).parent
FRAMES = 200_000
ARMS = {
    "random network distillation": "explore/ppo_rnd_classic",
    "dynamics": "explore/ppo_dynamics_classic",
    "no bonus": "rl/ppo_classic",
}
OVERRIDES = ("learning_rate=1e-3", "final_learning_rate=1e-3", "epochs=4", "streams.0.coefficient=0.0")
TELEVISION = 6  # of the 49 cells that an observation begins with


def main() -> int:
    """Train every arm from every seed, and store the table."""
    chosen = options(__doc__ or "", seeds=10)
    chance = by_chance()
    shares: dict[str, list[float]] = {}
    for name, agent in ARMS.items():
        shares[name] = []
        for seed in range(chosen.seeds):
            path = chosen.run / f"{name} {seed}.json"
            if not path.exists():
                write_json(path, {"share": watched(agent, chosen.run / f"{name} {seed}", seed)})
            shares[name].append(float(read_json(path)["share"]))
            print(f"{name}, seed {seed}: {shares[name][-1]:.3f}", file=sys.stderr, flush=True)
    lines = [
        f"{FRAMES:,} agent steps, {chosen.seeds} seeds, 95 % intervals; uniformly random play: {chance:.3f}.",
        "",
        "| bonus | share of time at the television | difference to RND |",
        "|---|---|---|",
    ]
    first = next(iter(shares.values()))
    for name, found in shares.items():
        mean, apart = seed_interval(found), seed_difference(found, first)
        against = "" if found is first else f"{apart.point:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]"
        lines.append(f"| {name} | {mean.point:.3f} [{mean.low:.3f}, {mean.high:.3f}] | {against} |")
    record: Record = {"machine": machine(), "frames": FRAMES, "shares": shares, "random play": chance}
    store(FOLDER, record, lines)
    return 0


def watched(agent: str, run: Path, seed: int) -> float:
    """Share of the second half of a training run that was spent in front of the television."""
    seen: list[float] = []

    def noting(network: Any, rollout: Rollout, *rest: Any) -> Any:
        seen.append(rollout.observation[:-1][rollout.valid][:, TELEVISION].mean().item())
        return prepare(network, rollout, *rest)

    shutil.rmtree(run, ignore_errors=True)  # of half a run, the half that is looked at would be another one
    learner = recipe.load(agent, Ppo, overrides=(*OVERRIDES, f"frames={FRAMES}"))
    with mock.patch.object(ppo, "prepare", noting):
        ppo.train_ppo(as_recipe("noisy_tv"), learner, run=run, seed=seed)
    return float(np.mean(seen[len(seen) // 2 :]))


def by_chance() -> float:
    """The same share under uniformly random play."""
    env, generator = make("noisy_tv"), np.random.default_rng(0)
    env.reset(seed=0)
    seen = 0
    for _ in range(FRAMES // 10):
        _, _, terminated, truncated, info = env.step(np.int64(generator.integers(5)))
        seen += info["at_television"]
        if terminated or truncated:
            env.reset()
    return seen / (FRAMES // 10)


if __name__ == "__main__":
    end_with(main)
