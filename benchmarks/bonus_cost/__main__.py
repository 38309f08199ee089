"""Agent steps per second of PPO on Montezuma's Revenge with random network distillation and without, paired in one run.

    make bench NAME=bonus_cost
    python -m benchmarks.bonus_cost --device cuda   # where there is one; kept in cuda/

`train_ppo` (in float32 on the CPU, with encoders in bfloat16 on a device), Nature's network, 128 steps a rollout, 4
epochs, minibatches of a quarter, with 32 and 128 environments (128 and 512 on a device); the bonus is that of
`explore/ppo_rnd`. The game runs in ale-py's C++ environment, in threads of the own process, so rooms are not counted.
Each sample is a process of its own, all in turn; set-up and the first look are not timed. Shares are of the CPU seconds
of the run with the bonus.
"""

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.common import Record, end_with, in_its_own_process, machine, store
from benchmarks.throughput.table import rates, ratios, shares_of, spread
from benchmarks.throughput.training import FOR_EVER, windowed

FOLDER = Path(__file__).parent
ENVS = {"cpu": (32, 128), "cuda": (128, 512)}
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}
VARIANTS = ("without", "with")
CELL = "8"  # what `windowed` calls its sample


def main() -> int:
    """Run all in turn, and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="wall seconds of a timed sample, at least")
    parser.add_argument("--device", choices=tuple(ENVS), default="cpu")
    parser.add_argument("--one", nargs=3, metavar=("VARIANT", "ENVS", "SEED"), help="one sample, for the above")
    chosen = parser.parse_args()
    if chosen.one:
        variant, envs, seed = chosen.one
        print(json.dumps(one(variant, int(envs), int(seed), chosen.seconds, chosen.device)))
        return 0
    runs: dict[str, list[Record]] = {f"{variant} {envs}": [] for envs in ENVS[chosen.device] for variant in VARIANTS}
    for repeat in range(chosen.repeats):
        for name, found in runs.items():
            options = ["--seconds", str(chosen.seconds), "--device", chosen.device]
            found.append(in_its_own_process("bonus_cost", [*options, "--one", *name.split(), str(repeat)]))
            print(f"repeat {repeat + 1}, {name}: {found[-1]['cells']}", file=sys.stderr, flush=True)
    where = "CPU" if chosen.device == "cpu" else torch.cuda.get_device_name()
    lines = [
        f"{chosen.repeats} repeats in turn; medians (least to most); {where}, {PRECISION[chosen.device]}.",
        "",
        "| environments | without, agent steps/s | with | wall: without / with | CPU seconds: with / without |",
        "|---|---|---|---|---|",
    ]
    for envs in ENVS[chosen.device]:
        plain, rewarded = (runs[f"{variant} {envs}"] for variant in VARIANTS)
        speeds = [spread(rates(found, CELL, "wall"), 0) for found in (plain, rewarded)]
        costs = [spread(ratios(plain, rewarded, (CELL, CELL), clock), 2) for clock in ("wall", "cpu")]
        lines.append(f"| {envs} | {' | '.join((*speeds, *costs))} |")
    rewarded_runs = {f"with the bonus, {envs} environments": runs[f"with {envs}"] for envs in ENVS[chosen.device]}
    lines += shares_of("ppo", rewarded_runs)
    record: Record = {"machine": machine() | {"device": where}, "seconds": chosen.seconds, "runs": runs}
    store(FOLDER if chosen.device == "cpu" else FOLDER / chosen.device, record, lines)
    return 0


def one(variant: str, envs: int, seed: int, seconds: float, device: str) -> Record:
    """Work, wall and CPU seconds of one training, and where the CPU seconds went."""
    from rlkd import recipe
    from rlkd.explore import Novelty
    from rlkd.learn import learner, ppo
    from rlkd.learn.ppo import train_ppo
    from rlkd.learn.rollout import Sampler
    from rlkd.recipe import Ppo
    from rlkd.vector import as_recipe

    agent = recipe.load("explore/ppo_rnd", Ppo)
    assert agent.bonus is not None
    bonus = replace(agent.bonus, warm_up_steps=8)
    agent = replace(agent, frames=FOR_EVER, num_envs=envs, rollout_steps=128, epochs=4, minibatch=32 * envs)
    plain = tuple(stream for stream in agent.streams if stream.reward == "game")
    agent = replace(agent, bonus=bonus) if variant == "with" else replace(agent, bonus=None, streams=plain)
    parts = {
        (Sampler, "collect"): "sampling besides inference",
        (Sampler, "_answer"): "acting inference",
        (ppo, "prepare"): "V-trace pass",
        (ppo, "scored"): "bonus: rewards and statistics",
        (learner, "gradients_of"): "forward of the policy, backward of both",
        (Novelty, "losses"): "bonus: forward of learning",
        (torch.optim.Adam, "step"): "optimiser",
    }
    game = as_recipe("montezuma")
    assert game.emulator is not None
    game = replace(game, emulator=replace(game.emulator, room_address=None))
    train = partial(train_ppo, game, agent, seed=seed, device=device)
    cells, shares = windowed(train, f"rlkd {PRECISION[device]}", seconds, after=0, parts=parts)
    return {"cells": {name: sample.record() for name, sample in cells.items()}, "shares": shares}


if __name__ == "__main__":
    end_with(main)
