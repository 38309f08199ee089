"""What it costs that a distillation run can be stopped at any time, and how soon a run that goes on learns.

    make bench NAME=resume

The shipped Pong policy as the teacher, sticky actions, `nature_113k` as the student. Collecting alone is timed with
what is written of its rounds beside it: learning takes its time besides, so that the share in a whole run is smaller.
A run that goes on takes its teacher's games from a file, makes its environments and plays all its rounds again.
Control: the same rounds collected anew, as a run without their files would have to.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from benchmarks.common import Record, machine, store
from rlkd import recipe as recipes
from rlkd.collect import Collector, Round, keep_round, round_file, take_round
from rlkd.distillation import measure_baseline
from rlkd.distillation.checkpoint import Found, load_students, save_students
from rlkd.distillation.learning import CHECKPOINT_SECONDS
from rlkd.distillation.student import Plan, Student
from rlkd.policy import load_policy
from rlkd.policy.compute import one_thread_per_role
from rlkd.recipe import Distill, Network
from rlkd.replay import Replay

FOLDER = Path(__file__).parent
TEACHER, STUDENT, RECIPE = "policy:pong", "nature_113k", "policy_distillation"
T = TypeVar("T")


class Clock:
    """Wall and processor seconds, all threads and children together, by what they were spent on."""

    def __init__(self) -> None:
        self.spent: dict[str, tuple[float, float]] = {}

    def time(self, name: str, do: Callable[[], T]) -> T:
        """Do something, and add its time to a name's."""
        wall, processor = time.perf_counter(), sum(os.times()[:4])
        found = do()
        more = (time.perf_counter() - wall, sum(os.times()[:4]) - processor)
        before = self.spent.get(name, (0.0, 0.0))
        self.spent[name] = (before[0] + more[0], before[1] + more[1])
        return found


def main() -> int:
    """Measure it for one or several numbers of states, and store the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, nargs="+", default=[20_000, 100_000], help="in the replay")
    parser.add_argument("--episodes", type=int, default=100, help="of the teacher, which are not played again")
    chosen = parser.parse_args()
    one_thread_per_role()
    with tempfile.TemporaryDirectory() as folder:
        found = {states: measured(states, chosen.episodes, Path(folder) / str(states)) for states in chosen.states}
    busy = f"Load average at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    lines = [
        f"Teacher `{TEACHER}`, student `{STUDENT}`, {chosen.episodes} episodes; wall (processor) seconds. {busy}",
        "",
        f"| | {' | '.join(f'{states:,} states' for states in found)} |",
        f"|---|{'---|' * len(found)}",
    ]
    for name in next(iter(found.values()))["seconds"]:
        cells = ["{:.2f} ({:.2f})".format(*each["seconds"][name]) for each in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    rows = (
        ("bytes of the rounds' files", "bytes", "{:,}"),
        ("rounds' files and checksums, of the wall time of collecting alone", "rounds_share", "{:.2%}"),
        (f"a checkpoint, of the {CHECKPOINT_SECONDS:g} s between two", "checkpoint_share", "{:.2%}"),
        ("**until it learns, wall seconds**", "until_it_learns", "**{:.1f}**"),
        ("the same, processor seconds", "processor_seconds", "{:.1f}"),
        ("control: collected anew, wall seconds", "control", "{:.1f}"),
    )
    for name, key, form in rows:
        lines.append(f"| {name} | {' | '.join(form.format(each[key]) for each in found.values())} |")
    store(FOLDER, {"machine": machine(), "episodes": chosen.episodes, "states": found}, lines)
    return 0


def measured(states: int, episodes: int, folder: Path) -> Record:
    """All times for one number of states."""
    clock, teacher = Clock(), load_policy(TEACHER)
    recipe = recipes.load(RECIPE, Distill)
    source, environment = replace(recipe.source, states=states), teacher.spec.environment
    assert environment is not None
    where, about = environment, {"identity": "benchmark", "game": ""}

    def empty() -> Replay:
        spec = teacher.spec
        view = where.views["pixels"]
        shape, actions = spec.observation_shape, spec.actions
        return Replay(source.num_envs, states, shape, actions, view, keeps_actions=True, keeps_rewards=True)

    def played(replay: Replay, name: str, known: list[Round]) -> list[Round]:
        player = clock.time(f"make environments, {name}", lambda: Collector(where, teacher, source, seed=0))
        rounds = []
        for number in range(source.rounds):
            again = known[number] if known else None
            rounds.append(clock.time(name, lambda n=number, a=again: player.collect(replay, n, (), a)))  # type: ignore[misc]
            print(f"{name}: round {number + 1} of {source.rounds}", file=sys.stderr, flush=True)
        player.close()
        return rounds

    def baseline(name: str) -> None:
        keep = recipe.held_out_states
        file = folder / "teacher.played.safetensors"
        clock.time(name, lambda: measure_baseline(teacher, where, episodes=episodes, keep_states=keep, keep_in=file))

    command = [sys.executable, "-c", "import rlkd.distillation"]
    clock.time("start of a process, imports", lambda: subprocess.run(command, check=True))
    baseline("teacher and random play")
    baseline("the same, from a file")
    first, second = empty(), empty()
    rounds = played(first, "collect", [])
    clock.time("checksums of what was seen", lambda: first.digest_since(np.zeros(source.num_envs, np.int64)))
    files = [round_file(folder, number) for number in range(source.rounds)]
    for file, each in zip(files, rounds, strict=True):
        clock.time("write rounds", lambda f=file, e=each: keep_round(f, e, about))  # type: ignore[misc]
    known = clock.time("read rounds", lambda: [take_round(file, about)[0] for file in files])
    played(second, "play rounds again", known)
    if any(
        not torch.equal(one, two) for one, two in zip(first.tensors().values(), second.tensors().values(), strict=True)
    ):
        raise SystemExit("what was played again is not what was collected")
    network = recipes.load(STUDENT, Network)
    student = Student(Plan(STUDENT, network), recipe, teacher.spec, seed=0, device=torch.device("cpu"))
    for weight in student.network.parameters():
        weight.grad = torch.zeros_like(weight)
    student.optimiser.step()  # moments are there
    clock.time("a checkpoint", lambda: save_students(folder, [student], identity="benchmark", found=Found()))
    clock.time("read it", lambda: load_students(folder, [student], identity="benchmark"))
    wall, processor = ({name: both[place] for name, both in clock.spent.items()} for place in (0, 1))
    begin = ("start of a process, imports", "make environments, collect", "read it")
    goes_on = (*begin, "the same, from a file", "read rounds", "play rounds again")
    written = wall["checksums of what was seen"] + wall["write rounds"]
    return {
        "seconds": {name: [round(each, 3) for each in both] for name, both in clock.spent.items()},
        "bytes": sum(file.stat().st_size for file in files),
        "rounds_share": written / (wall["collect"] + wall["write rounds"]),
        "checkpoint_share": wall["a checkpoint"] / CHECKPOINT_SECONDS,
        "until_it_learns": sum(wall[name] for name in goes_on),
        "processor_seconds": sum(processor[name] for name in goes_on),
        "control": sum(wall[name] for name in (*begin, "teacher and random play", "collect")),
    }


if __name__ == "__main__":
    sys.exit(main())
