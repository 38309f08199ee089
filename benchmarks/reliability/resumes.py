"""Row 4: distillations that were killed at random events end with the bits of one that nobody stopped."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.common import Record
from benchmarks.reliability.commands import EVERY_ROUND, finished
from benchmarks.reliability.crashes import emptied
from benchmarks.reliability.kills import curves_of, interrupted
from benchmarks.reliability.outcome import Outcome, Trials, added
from rlkd import recipe, storage
from rlkd.learn.ppo import policy_spec
from rlkd.policy import Policy, Rule
from rlkd.policy.file import build_network
from rlkd.recipe import Distill, Environment, Network, Part, Ppo, Source, Term
from rlkd.vector import as_recipe

EVENTS = 12
"""Acknowledged events of most of a run; a kill comes at one of them, any as likely."""
FORGETFUL = """
import numpy
from rlkd.distillation import learning
load = learning.load_students
def forgetful(run, students, **named):
    found = load(run, students, **named)
    for student in students:
        if student.steps:
            student.generator = numpy.random.default_rng(0)
    return found
learning.load_students = forgetful
"""
"""Runs before a command: random streams of students begin anew where a run goes on."""


@dataclass(frozen=True, slots=True)
class World:
    """Where somebody teaches, in episodes that are cut short, and with which networks."""

    place: Environment
    """The environment."""
    network: Network
    """Of the student."""
    states: int
    """In the replay."""
    gradient_steps: int
    """Of the student."""


WORLDS: Mapping[str, World] = {
    "CartPole": World(replace(as_recipe("cartpole"), frame_cap=100), Network(encoder="mlp", hidden=(16,)), 640, 160),
    # An empty room: behind a door a teacher of random weights would score no more than random play, which is nothing.
    "MiniGrid": World(
        replace(as_recipe("doorkey_5x5"), id="MiniGrid-Empty-5x5-v0", frame_cap=100),
        Network(encoder="conv", channels=(4,), kernels=(2,), strides=(1,), hidden=(16,)),
        states=640,
        gradient_steps=160,
    ),
    "Pong, sticky actions": World(
        replace(as_recipe("pong"), frame_cap=1200),
        Network(encoder="conv", channels=(4, 4), kernels=(8, 4), strides=(4, 4), hidden=(16,)),
        states=320,
        gradient_steps=80,
    ),
}
ROUNDS = 4


def resumed(work: Path, *, cuts: int, control_cuts: int, draws: random.Random) -> Outcome:
    """Kill `rlkd distill` so often in each world, several times a run; and, as often as is asked, one that forgets."""
    same: list[Trials] = []
    forgot: list[Trials] = []
    for name, world in WORLDS.items():
        folder = emptied(work / "resumes")
        command = put(folder, world)
        finished([*command, "whole"], folder, first=EVERY_ROUND)
        wanted, ends, done = end_of(folder / "whole"), [], 0
        while done < cuts:
            found, times = cut(folder, command, cuts - done, EVERY_ROUND, draws)
            done += times
            ends.append(found)
        same.append(Trials(f"runs on {name}, of {done} cuts", len(ends), sum(end != wanted for end in ends)))
        others = [cut(folder, command, 1, EVERY_ROUND + FORGETFUL, draws)[0] for _ in range(control_cuts)]
        forgot.append(Trials(f"streams not restored, {name}", len(others), sum(end != wanted for end in others)))
    return Outcome(
        row="4",
        promise="`rlkd distill`, killed at random events and resumed: students and curves are those of the whole run",
        trials=added("runs", same),
        controls=tuple(forgot),
        note=f"{'; '.join(map(str, same))}; teacher and student act",
    )


def put(folder: Path, world: World) -> list[str]:
    """A recipe and networks in a folder: the command, all but the run.

    Pong has the shipped teacher, the other worlds one of random weights that is sure of itself.
    """
    teacher, episodes = "policy:pong", 1
    if world.place.source == "gymnasium":
        teacher, episodes = "teacher.safetensors", 4
        made = policy_spec(world.place, recipe.load("rl/ppo_classic", Ppo), origin="by hand")
        spec = replace(made, network=world.network, rule=Rule(name="sampled"))
        network = build_network(spec)
        network.initialise(torch.Generator().manual_seed(0), for_rl=False)
        with torch.no_grad():
            network.head.weight *= 8
        Policy(network, spec).save(folder / teacher)
    storage.write_bytes(folder / "place.toml", recipe.dump(world.place).encode())
    storage.write_bytes(folder / "student.toml", recipe.dump(world.network).encode())
    how = Distill(
        source=Source(states=world.states, rounds=ROUNDS, num_envs=4, epsilon=0.1, teacher_fraction=(0.8, 0.0)),
        terms=(Term(divergence=Part("forward_kl")),),
        gradient_steps=world.gradient_steps,
        batch_size=32,
        students=("student.toml",),
        controls=(),
        held_out_states=64,
    )
    storage.write_bytes(folder / "how.toml", recipe.dump(how).encode())
    named = ["--env", "place.toml", "--agent", "how.toml", "--episodes", str(episodes)]
    return ["distill", teacher, *named, "--run"]


def cut(folder: Path, command: Sequence[str], most: int, first: str, draws: random.Random) -> tuple[Record, int]:
    """Kill a run again and again until it is finished: its end, and how often."""
    run = emptied(folder / "cut")
    told = interrupted([*command, run.name], run, most=most, events_apart=EVENTS, draws=draws, first=first)
    return end_of(run), len(told)


def end_of(run: Path) -> Record:
    """Students as they are on the disk, and the curves without the time of day."""
    students = {path.name: path.read_bytes() for path in (run / "students").iterdir()}
    return students | curves_of(run)
