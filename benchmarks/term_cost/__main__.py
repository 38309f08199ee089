"""What a further student costs on kept states and answers, and what each part of a loss costs beside plain forward KL.

    make bench NAME=term_cost

A student of `nature_62k` learns the shipped Pong policy: first one that plays and asks, then one that takes states and
answers from the replay that was kept (`--replay`), in processes of their own, one pair after the other. How much is
saved depends on how long is learnt from the states, so several numbers of gradient steps stand beside each other; with
one step it is the states and answers alone.

Parts of losses: steps of a student with plain forward KL and of one with another loss in turn, at batch 256, one
thread, `nature_62k` on states of Pong and `mlp_16` on vectors. The temperature of `calibrate` is fitted once a turn, in
a run once a round; a weight by familiarity is timed without the predictor that measures it,
advantages without the returns that they are made of.
"""

import argparse
import json
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np

from benchmarks.common import Record, end_with, in_its_own_process, machine, store
from benchmarks.term_cost.reuse import STUDENT, student_of
from benchmarks.term_cost.terms import BATCH, compared, pixels, ratios, trials, vectors
from benchmarks.throughput.table import spread
from rlkd.policy.compute import one_thread_per_role
from rlkd.stats import mean_interval

FOLDER = Path(__file__).parent
STEPS = (1, 300, 1000, 3000)
"""Gradient steps of a student; one is the least there is."""


def main() -> int:
    """Time both, and store the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of students")
    parser.add_argument("--states", type=int, default=60_000, help="in the replay of the students")
    parser.add_argument("--turns", type=int, default=12, help="of each loss beside plain forward KL")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes; nothing is stored")
    parser.add_argument("--one", nargs=4, metavar=("FOLDER", "STATES", "STEPS", "SEED"), help="one student, for these")
    chosen = parser.parse_args()
    if chosen.one:
        folder, states, steps, seed = chosen.one
        print(json.dumps(student_of(Path(folder), states=int(states), steps=int(steps), seed=int(seed))))
        return 0
    if chosen.tiny:
        chosen.repeats, chosen.states, chosen.turns = 1, 512, 2
    wanted = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    record: Record = {"machine": machine(), "thresholds": wanted, "students": {}, "terms": {}}
    lines = students(chosen.repeats, chosen.states, (1, 8) if chosen.tiny else STEPS, wanted, record)
    lines += ["", *terms(chosen.turns, record, tiny=chosen.tiny)]
    if chosen.tiny:
        print("\n".join(lines))
    else:
        store(FOLDER, record, lines)
    return 0


def students(repeats: int, states: int, budgets: tuple[int, ...], wanted: Record, record: Record) -> list[str]:
    """Lines about the first student of a replay and the second."""
    least = wanted["second_student_at_least"]
    lines = [
        f"`{STUDENT}`, {states:,} states of Pong, {repeats} pairs; medians (least to most).",
        "",
        "| gradient steps | first, CPU seconds | second | first / second, CPU | first / second, wall | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for steps in budgets:
        pairs = []
        for seed in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                one = ["--one", folder, str(states), str(steps), str(seed)]
                pairs.append([in_its_own_process("term_cost", one) for _ in range(2)])
            print(f"{steps} steps, pair {seed + 1}: {pairs[-1]}", file=sys.stderr, flush=True)
        cpu, wall = ([first[clock] / second[clock] for first, second in pairs] for clock in ("cpu", "wall"))
        firsts, seconds = ([pair[place]["cpu"] for pair in pairs] for place in (0, 1))
        verdict = f"{'met' if np.median(cpu) >= least else 'MISSED'}: wanted >= {least:g}"
        cells = [spread(values, 2) for values in (firsts, seconds, cpu, wall)]
        lines.append(f"| {steps:,} | {' | '.join(cells)} | {verdict} |")
        record["students"][str(steps)] = pairs
    return lines


def terms(turns: int, record: Record, *, tiny: bool) -> list[str]:
    """Lines about each part of a loss."""
    one_thread_per_role()
    lines = [
        f"Time of a step over that of plain forward KL, batch {BATCH}, {turns} turns, means with 95 % intervals:",
        "",
        "| loss | nature_62k, wall | nature_62k, CPU | mlp_16, wall | mlp_16, CPU |",
        "|---|---|---|---|---|",
    ]
    places = ((pixels(1024 if tiny else 8192, 0), 4), (vectors(8192, 0), 400))
    for trial in trials():
        cells: list[str] = []
        for (replay, spec, network), steps in places:
            found = compared(replay, spec, network, trial, repeats=turns, steps=1 if tiny else steps, seed=0)
            record["terms"].setdefault(trial.name, {})[network] = found
            cells += [str(mean_interval(ratios(found, clock))) for clock in ("wall", "cpu")]
        lines.append(f"| {trial.name} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


if __name__ == "__main__":
    end_with(main)
