"""How long one decision takes, and what a smaller network or another runtime saves.

    make bench NAME=latency

The shipped Pong policy as the teacher, and students of random weights (time does not depend on weights): `nature_113k`
and `nature_62k` for Pong, two layers of 64 for LunarLander. Each network is played by `Policy.predict`, by
`OnnxPolicy.predict` of its exported file, and by Stable-Baselines3's own `predict(deterministic=True)` of its exported
model, which for the two small Pong students reads through a features extractor of ours. Batch size 1, one thread each,
one process; the candidates take turns in blocks of calls, in another order every round. Intervals resample rounds;
ratios are of the two blocks of one round.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import Record, end_with, machine, store
from rlkd import recipe as recipes
from rlkd.evaluation import noise_observation
from rlkd.exporting.graph import onnx_bytes
from rlkd.exporting.sb3_model import make_model
from rlkd.policy import Acting, Policy, PolicyNetwork, PolicySpec, Rule, load_policy
from rlkd.policy.compute import one_thread_per_role
from rlkd.policy.onnx_file import OnnxPolicy
from rlkd.recipe import Network
from rlkd.stats import Estimate
from rlkd.vector import action_meanings, as_recipe, spaces

FOLDER = Path(__file__).parent
ROUNDS, CALLS, RESAMPLES = 20, 200, 2000
TEACHER = "policy:pong"
TORCH, ONNX, SB3 = "rlkd, torch", "rlkd, ONNX Runtime", "Stable-Baselines3"
RATIOS = (
    ((TEACHER, TORCH), ("nature_113k", TORCH)),
    ((TEACHER, TORCH), ("nature_62k", TORCH)),
    ((TEACHER, SB3), ("nature_113k", ONNX)),
    ((TEACHER, SB3), ("nature_62k", ONNX)),
    *(((name, SB3), (name, other)) for name in (TEACHER, "nature_62k", "mlp_64") for other in (TORCH, ONNX)),
)
"""Slow and fast one of each ratio."""
Key = tuple[str, str]


def main() -> int:
    """Time every candidate, and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--calls", type=int, default=CALLS, help="calls in a block")
    chosen = parser.parse_args()
    one_thread_per_role()
    policies = {
        TEACHER: load_policy(TEACHER),
        "nature_113k": untrained("pong", "nature_113k"),
        "nature_62k": untrained("pong", "nature_62k"),
        "mlp_64": untrained("lunarlander", "mlp_64"),
    }
    decisions = {key: decide for name, policy in policies.items() for key, decide in candidates(name, policy).items()}
    blocks = timed(decisions, chosen.rounds, chosen.calls)
    medians = {key: interval(values) for key, values in blocks.items()}
    ratios = {pair: interval(np.divide(blocks[pair[0]], blocks[pair[1]])) for pair in RATIOS}
    counts = f"{chosen.rounds} rounds of one block of {chosen.calls} calls for each candidate"
    threads = f"{torch.get_num_threads()} thread for torch, 1 for ONNX Runtime"
    busy = f"Load average at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    lines = [
        f"One decision at batch size 1: {counts}; {threads}. Medians [95 % over rounds], microseconds. {busy}",
        "",
        f"| network | parameters | {TORCH} | {ONNX} | {SB3} |",
        "|---|---|---|---|---|",
    ]
    for name, policy in policies.items():
        cells = [shown(medians[name, runtime], 0) for runtime in (TORCH, ONNX, SB3)]
        lines.append(f"| {name} | {policy.spec.parameters:,} | {' | '.join(cells)} |")
    lines += ["", "| slow | fast | slow / fast, paired by round |", "|---|---|---|"]
    for (slow, fast), ratio in ratios.items():
        lines.append(f"| {', '.join(slow)} | {', '.join(fast)} | {shown(ratio, 2)} |")
    record: Record = {
        "machine": machine(),
        "threads": {"torch": torch.get_num_threads(), "onnxruntime": 1},
        "rounds": chosen.rounds,
        "calls": chosen.calls,
        "block_median_microseconds": [
            {"network": name, "runtime": runtime, "blocks": values.round(2).tolist()}
            for (name, runtime), values in blocks.items()
        ],
    }
    store(FOLDER, record, lines)
    return 0


def untrained(environment: str, network: str) -> Policy:
    """A student as it is drawn."""
    where, shape = as_recipe(environment), recipes.load(network, Network)
    observation, _, actions = spaces(where)
    spec = PolicySpec(
        name=network,
        kind="categorical",
        network=replace(shape, value="none"),
        observation_shape=observation,
        observation_dtype="uint8" if len(observation) == 3 else "float32",
        actions=actions,
        action_meanings=action_meanings(where),
        environment=where,
        rule=Rule(name="greedy"),
    )
    made = PolicyNetwork(spec.network, observation, spec.kind, actions)
    made.initialise(torch.Generator().manual_seed(0), for_rl=False)
    return Policy(made, spec)


def candidates(name: str, policy: Policy) -> dict[Key, Callable[[], object]]:
    """One decision of a network by each runtime, on the same observation."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "policy.onnx"
        file.write_bytes(onnx_bytes(policy, policy.spec.hash))
        exported = OnnxPolicy(file)
    model, observation = make_model(policy), noise_observation(policy)

    def ours(player: Acting) -> Callable[[], object]:
        return lambda: player.predict(observation, deterministic=True)

    return {
        (name, TORCH): ours(policy),
        (name, ONNX): ours(exported),
        (name, SB3): lambda: model.predict(observation, deterministic=True),
    }


def timed(decisions: Mapping[Key, Callable[[], object]], rounds: int, calls: int) -> dict[Key, np.ndarray]:
    """[rounds]: the median microseconds of each candidate's block in each round."""
    order = np.random.default_rng(0)
    keys = list(decisions)
    blocks: dict[Key, list[float]] = {key: [] for key in keys}
    for number in range(-1, rounds):  # the first round warms up
        for index in order.permutation(len(keys)):
            decide, seconds = decisions[keys[index]], np.empty(calls)
            for call in range(calls):
                started = time.perf_counter()
                decide()
                seconds[call] = time.perf_counter() - started
            if number >= 0:
                blocks[keys[index]].append(1e6 * float(np.median(seconds)))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return {key: np.array(values) for key, values in blocks.items()}


def interval(values: Sequence[float] | np.ndarray) -> Estimate:
    """The median, and what resampling makes of it."""
    array = np.asarray(values, float)
    drawn = np.random.default_rng(0).choice(array, (RESAMPLES, len(array)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Estimate(float(np.median(array)), float(low), float(high))


def shown(estimate: Estimate, digits: int) -> str:
    """With its interval, to so many digits behind the point."""
    return f"{estimate.point:,.{digits}f} [{estimate.low:,.{digits}f}, {estimate.high:,.{digits}f}]"


if __name__ == "__main__":
    end_with(main)
