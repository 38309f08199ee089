"""How fast environments step, learners learn, networks answer and memories are read: ours and others', in one run.

    make bench NAME=throughput
    python -m benchmarks.throughput --only ppo,dqn --cleanrl ppo_atari_envpool.py --cleanrl-python venv/bin/python

Every variant runs in a process of its own, all of them in turn, again and again; set-up, warm-up and imports are not
timed. Two with a plus between them take turns in one process, because little is between them. What is compared is work
per CPU second of the own process, which other programs on the machine disturb little, beside work per wall second,
which also rewards the use of more cores. A ratio is of one repeat's two samples. What each part does stands in its
file: `stepping`, `training`, `inference`, `replay`.

Each variant has the threads that it would have at its user's: no OMP_ or MKL_ setting of the shell. rlkd takes one
torch thread per role. Others take torch's default, all cores, whose threads spin while they wait and spend CPU seconds
with it; so Stable-Baselines3 runs once more with one thread, and what is wanted holds against both.

CleanRL's script and cpprb are no dependencies: without `--cleanrl FILE` and `--cleanrl-python PY` (the interpreter that
has what it needs), or where cpprb cannot be imported, a line says that they did not run. Results are stored where all
parts ran.
"""

import argparse
import json
import os
import sys
import tomllib
from pathlib import Path

from benchmarks.common import Record, end_with, in_its_own_process, machine, store
from benchmarks.throughput import inference, replay, stepping, training
from benchmarks.throughput.table import tables

FOLDER = Path(__file__).parent
PARTS = {
    "stepping": ("emulator", "ale_py/32 + rlkd/32", "gymnasium/32", "sb3/32", "sb3/8"),
    "ppo": ("rlkd float32", "rlkd bfloat16", "sb3", "sb3 one thread", "cleanrl"),
    "dqn": ("rlkd float32", "rlkd bfloat16", "sb3", "sb3 one thread"),
    "inference": ("rlkd float32", "rlkd bfloat16", "sb3 forward", "sb3 forward one thread", "sb3 predict"),
    "replay": ("memcpy", "rlkd transitions", "rlkd distillation", "sb3", "cpprb"),
}
SHORT = 0.25  # of --seconds, for each cell of the parts that only repeat one call


def main() -> int:
    """Run all variants of all parts in turn, `--repeats` times, and store the tables."""
    chosen = options()
    if chosen.variant:
        part, variant, seed = chosen.variant
        print(json.dumps(run(part, variant, int(seed), chosen)))
        return 0
    asked = chosen.only.split(",")
    if unknown := set(asked) - set(PARTS):
        raise SystemExit(f"--only: no part '{min(unknown)}'; parts are {', '.join(PARTS)}")
    absent = {}
    if not (chosen.cleanrl and chosen.cleanrl_python):
        absent["ppo", "cleanrl"] = "ppo | cleanrl not run: no --cleanrl and --cleanrl-python"
    if not replay.has_cpprb():
        absent["replay", "cpprb"] = "replay | cpprb not installed"
    runs: dict[str, dict[str, list[Record]]] = {part: {} for part in PARTS if part in asked}
    for repeat in range(chosen.repeats):
        for part, found in runs.items():
            for variant in PARTS[part]:
                if (part, variant) not in absent:
                    for name, record in measured(part, variant, repeat, chosen).items():
                        found.setdefault(name, []).append(record)
                        print(f"repeat {repeat + 1}, {part}, {name}: {record['cells']}", file=sys.stderr, flush=True)
    told = [line for (part, _), line in absent.items() if part in runs]
    lines, record = tables(runs, tomllib.loads((FOLDER / "thresholds.toml").read_text()), told)
    busy = f"Load average at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    lines = [
        f"{chosen.repeats} repeats, interleaved, {chosen.seconds:g} s a training sample. {busy} {hardware()}",
        *lines,
    ]
    if set(asked) == set(PARTS):
        store(FOLDER, record | {"machine": machine(), "seconds": chosen.seconds, "runs": runs}, lines)
    else:
        print("\n".join(lines))
        print("not stored: only some parts ran", file=sys.stderr)
    return 0


def hardware() -> str:
    """What rows in bfloat16 say on this machine."""
    import torch

    from rlkd.policy.compute import bfloat16_is_fast

    if bfloat16_is_fast(torch.device("cpu")):
        return "The processor multiplies bfloat16 in hardware."
    return "The processor has no bfloat16: rows of it are emulated, and rlkd takes float32 here unless it is asked."


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, with commas between them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="wall seconds of a timed sample, at least")
    parser.add_argument("--cleanrl", type=Path, help="CleanRL's ppo_atari_envpool.py, or what calls it")
    parser.add_argument("--cleanrl-python", type=Path, help="the interpreter that runs it")
    parser.add_argument("--variant", nargs=3, metavar=("PART", "VARIANT", "SEED"), help="one timed run")
    return parser.parse_args()


def run(part: str, variant: str, seed: int, chosen: argparse.Namespace) -> Record:
    """One variant once, or several that take turns: cells by name, and shares of CPU seconds where they are counted."""
    if part == "stepping":
        return {
            name: {"cells": cells, "shares": {}} for name, cells in stepping.run(variant, seed, chosen.seconds).items()
        }
    shares: dict[str, float] = {}
    if variant == "cleanrl":
        cells = training.run_cleanrl(chosen.cleanrl, chosen.cleanrl_python, seed, chosen.seconds)
    elif part in ("ppo", "dqn"):
        train = training.run_ppo if part == "ppo" else training.run_dqn
        cells, shares = train(variant, seed, chosen.seconds)
    else:
        measure = inference.run if part == "inference" else replay.run
        cells = measure(variant, seed, chosen.seconds * SHORT)
    return {variant: {"cells": {name: sample.record() for name, sample in cells.items()}, "shares": shares}}


def measured(part: str, variant: str, seed: int, chosen: argparse.Namespace) -> dict[str, Record]:
    """What `run` returns in a process of its own."""
    arguments = ["--variant", part, variant, str(seed), "--seconds", str(chosen.seconds)]
    if variant == "cleanrl":
        arguments += ["--cleanrl", str(chosen.cleanrl), "--cleanrl-python", str(chosen.cleanrl_python)]
    return in_its_own_process("throughput", arguments)


if __name__ == "__main__":
    end_with(main)
