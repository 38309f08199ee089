"""What it costs that a distillation run can be stopped at any time, and how soon a run that goes on learns.

    make bench NAME=resume

The shipped Pong policy as the teacher, sticky actions, `nature_113k` as the student. A run that goes on takes its
teacher's games and all its rounds from files, and learns; meanwhile it makes its environments, which play the rounds
again, before they play the next. What is written is timed in a whole run, collecting and learning. Control: the same
rounds collected anew, as a run without their files would have to.
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
from unittest import mock

import torch

from benchmarks.common import Record, end_with, machine, store
from rlkd import recipe as recipes
from rlkd.collect import Collector, Round, keep_round, round_file, take_round
from rlkd.distillation import learning, measure_baseline, playing, run_distillation
from rlkd.distillation.checkpoint import Found, load_students, save_students
from rlkd.distillation.student import Plan, Student
from rlkd.policy import load_policy
from rlkd.policy.compute import one_thread_per_role
from rlkd.recipe import Distill, Network
from rlkd.replay import Replay

FOLDER = Path(__file__).parent
TEACHER, STUDENT, RECIPE = "policy:pong", "nature_113k", "policy_distillation"
STEPS = 1_000  # at most what a run of so many states takes by its recipe: what is written counts rather too much
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
        ("**rounds' files and checkpoints, of the wall time of a whole run**", "share", "**{:.2%}**"),
        ("**until it learns, wall seconds**", "until_it_learns", "**{:.1f}**"),
        ("until the next round can begin", "until_it_plays", "{:.1f}"),
        ("control: until it learns, had it to collect anew", "control", "{:.1f}"),
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
    network = recipes.load(STUDENT, Network)

    def timed(name: str, do: Callable[..., T]) -> Callable[..., T]:
        return lambda *given, **named: clock.time(name, lambda: do(*given, **named))

    def whole_run() -> None:
        own = replace(recipe, source=source, gradient_steps=STEPS, controls=())
        found = measure_baseline(teacher, where, episodes=2, keep_states=recipe.held_out_states)
        with (
            mock.patch.object(playing, "keep_round", timed("in a run: write rounds", keep_round)),
            mock.patch.object(Replay, "since", timed("in a run: read what a round brought", Replay.since)),
            mock.patch.object(learning, "save_students", timed("in a run: checkpoints", save_students)),
        ):
            result = run_distillation(
                teacher, {STUDENT: network}, own, run=folder / "run", seed=0, episodes=1, baseline=found
            )
        clock.spent["in a run: collect and learn"] = (result.seconds["collect and learn"], 0.0)

    def empty() -> Replay:
        spec = teacher.spec
        view = where.views["pixels"]
        shape, actions = spec.observation_shape, spec.actions
        return Replay(source.num_envs, states, shape, actions, view, keeps_actions=True, keeps_rewards=True)

    def collected(replay: Replay, player: Collector) -> list[Round]:
        clock.time("make environments", player.start)
        rounds = []
        for number in range(source.rounds):
            rounds.append(clock.time("collect", lambda n=number: player.collect(replay, n, ())))  # type: ignore[misc]
            print(f"collect: round {number + 1} of {source.rounds}", file=sys.stderr, flush=True)
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
    rounds = collected(first, Collector(where, teacher, source, seed=0))
    files = [round_file(folder, number) for number in range(source.rounds)]
    for file, each in zip(files, rounds, strict=True):
        clock.time("write rounds", lambda f=file, e=each: keep_round(f, e, about))  # type: ignore[misc]
    player = Collector(where, teacher, source, seed=0)
    for file in files:
        clock.time("rounds from their files", lambda f=file: player.take_up(second, take_round(f, about)[0]))  # type: ignore[misc]
    clock.time("make environments again", player.start)
    clock.time("play rounds again", lambda: player.catch_up(()))
    player.close()
    if any(
        not torch.equal(one, two) for one, two in zip(first.tensors().values(), second.tensors().values(), strict=True)
    ):
        raise SystemExit("what came from files is not what was collected")
    student = Student(Plan(STUDENT, network), recipe, teacher.spec, seed=0, device=torch.device("cpu"))
    for weight in student.network.parameters():
        weight.grad = torch.zeros_like(weight)
    student.optimiser.step()  # moments are there
    save_students(folder, [student], identity="benchmark", found=Found())
    clock.time("read a checkpoint", lambda: load_students(folder, [student], identity="benchmark"))
    whole_run()
    wall = {name: both[0] for name, both in clock.spent.items()}
    begin = ("start of a process, imports", "read a checkpoint")
    goes_on = sum(wall[name] for name in (*begin, "the same, from a file", "rounds from their files"))
    again = wall["make environments again"] + wall["play rounds again"]
    written = ("write rounds", "read what a round brought", "checkpoints")
    return {
        "seconds": {name: [round(each, 3) for each in both] for name, both in clock.spent.items()},
        "bytes": sum(file.stat().st_size for file in files),
        "share": sum(wall[f"in a run: {name}"] for name in written) / wall["in a run: collect and learn"],
        "until_it_learns": goes_on,
        "until_it_plays": goes_on + again,
        "control": sum(wall[name] for name in (*begin, "teacher and random play", "make environments", "collect")),
    }


if __name__ == "__main__":
    end_with(main)
