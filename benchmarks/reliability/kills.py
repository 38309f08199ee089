"""Row 1: generations that are killed again and again lose nothing, and come to the same bits in the end."""

import json
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Record
from benchmarks.reliability.commands import (
    EVERY_ROUND,
    LINE,
    MIXED_LINE,
    TEACHER,
    ended,
    events,
    finished,
    killed,
    lines_of,
    python,
    started,
    until,
)
from benchmarks.reliability.crashes import emptied
from benchmarks.reliability.outcome import Outcome, Trials, added
from rlkd.storage import read_json

KINDS = {LINE: "states of the teacher", MIXED_LINE: "states of teacher and student"}
EVENTS = 20
"""Acknowledged events of about one generation; a kill comes at one of them, any as likely."""
JITTER = 0.03
"""Seconds at most between an event and the kill."""
LOOP_SECONDS = 0.4
"""Longer than one round of the save loop."""
SAVE_LOOP = """
from stable_baselines3 import DQN
large = {"net_arch": [1024, 1024]}
model = DQN("MlpPolicy", "CartPole-v1", buffer_size=400_000, learning_starts=10, policy_kwargs=large)
model.learn(100)
while True:
    model.save("model")
    model.save_replay_buffer("replay")
    print("saved", flush=True)
"""
"""A learner of Stable-Baselines3 that does nothing but save, about 17 MB and 21 MB."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """What became of one that was killed again and again."""

    kills: int
    """How often."""
    lost: int
    """Kills after which something that a finished generation had left was missing, or other than before."""
    left: Record
    """Policies and curves in the end."""


def generations_killed(work: Path, *, kills: int, control_kills: int, draws: random.Random) -> list[Outcome]:
    """Kill `rlkd evolve` so often, lineage after lineage, on states of the teacher, then as often on mixed ones."""
    found: dict[str, list[Lineage]] = {}
    wanted: dict[str, Record] = {}
    for line in KINDS:
        finished(command(line, "whole"), work, first=EVERY_ROUND)
        wanted[line] = left_by(work / "whole")
        shutil.rmtree(work / "whole")
        found[line] = []
        while (still := kills - sum(each.kills for each in found[line])) > 0:
            found[line].append(killed_lineage(work, line, still, draws))
    lineages = [each for of_line in found.values() for each in of_line]
    same = [
        Trials(KINDS[line], len(of_line), sum(each.left != wanted[line] for each in of_line))
        for line, of_line in found.items()
    ]
    policies = sum(policies_of(each.left) != policies_of(wanted[line]) for line in found for each in found[line])
    return [
        Outcome(
            row="1",
            promise="kill -9 of `rlkd evolve` at an acknowledged event: no finished generation is lost, and it goes on",
            trials=Trials("kills", sum(each.kills for each in lineages), sum(each.lost for each in lineages)),
            controls=(save_loop_killed(emptied(work / "control"), control_kills, draws),),
            note=(
                "each kill hit a command at work, within 30 ms of a new line of metrics, checkpoint, policy or record; "
                "the control saves without pause, which is its worst case, and our files are small: that a crash in "
                "the middle of a save does no harm is in rows 2 and 3"
            ),
        ),
        Outcome(
            row="1b",
            promise="the same lineages: policies and curves are bit by bit those of one that nobody killed",
            trials=added("lineages", same),
            controls=(sb3_goes_on(work / "half.zip", seeds=3),),
            note=f"others on {'; on '.join(map(str, same))}; {policies} of them in their policies, not in curves alone",
        ),
    ]


def command(line: str, run: str) -> list[str]:
    """Three generations of a second each."""
    return ["evolve", TEACHER, "--agent", line, "--run", run, "--episodes", "4"]


def killed_lineage(work: Path, line: str, most: int, draws: random.Random) -> Lineage:
    """Kill a lineage again and again until it is finished."""
    run = emptied(work / "killed")
    promised = interrupted(command(line, run.name), run, most=most, events_apart=EVENTS, draws=draws)
    there = generations(run)
    lost = sum(any(there.get(name) != content for name, content in each.items()) for each in promised)
    return Lineage(len(promised), lost, left_by(run))


def interrupted(
    arguments: Sequence[str],
    run: Path,
    *,
    most: int,
    events_apart: int,
    draws: random.Random,
    first: str = EVERY_ROUND,
) -> list[dict[str, bytes]]:
    """Start a command, kill it just after a random event, start it again, until it ends by itself.

    Args:
        arguments: of `rlkd`, started in the folder that the run is in.
        run: its folder.
        most: kills, after which it is left alone.
        events_apart: at most so many events lie between a start and its kill, any number as likely.
        draws: decides when.
        first: Python that runs before.

    Returns:
        Of each kill that hit a command at work, what finished generations, if any, had left before it.
    """
    found: list[dict[str, bytes]] = []
    while True:
        process = started(arguments, run.parent, first=first)
        seen = events(run)
        wanted = len(seen) + draws.randint(1, events_apart)

        def enough(seen: set[str] = seen, wanted: int = wanted) -> bool:
            seen |= events(run)
            return len(seen) >= wanted

        if len(found) == most or not until(enough, process):
            code, said = ended(process)
            if code:
                raise RuntimeError(f"{run.name}, killed {len(found)} times, ended with {code}: {said}")
            return found
        there = generations(run)
        time.sleep(JITTER * draws.random())
        if killed(process) and not over(run):  # else too late: the next attempt finds all of it done
            found.append(there)


def over(run: Path) -> bool:
    """Whether its record says that it is."""
    return (run / "run.json").exists() and read_json(run / "run.json")["status"] == "done"


def generations(run: Path) -> dict[str, bytes]:
    """What finished generations have left, by path."""
    found = {}
    for record in run.glob("generations/*/record.json"):
        for path in (record, record.with_name("policy.safetensors")):
            found[str(path.relative_to(run))] = path.read_bytes()
    return found


def left_by(run: Path) -> Record:
    """Policies of all generations as they are on the disk, and their curves."""
    return policies_of(generations(run)) | curves_of(run)


def curves_of(run: Path) -> Record:
    """All metrics below a folder, without the time of day."""
    found = {}
    for path in run.rglob("metrics.jsonl"):
        curve = [json.loads(line) for line in lines_of(path)]
        found[str(path.relative_to(run))] = [
            {tag: value for tag, value in each.items() if tag != "time"} for each in curve
        ]
    return found


def policies_of(left: Record) -> Record:
    """Those alone."""
    return {name: content for name, content in left.items() if name.endswith(".safetensors")}


def save_loop_killed(work: Path, kills: int, draws: random.Random) -> Trials:
    """Control: kill a learner of Stable-Baselines3 that saves, and read what it saved."""
    from stable_baselines3 import DQN

    unreadable = 0
    for _ in range(kills):
        process = python(SAVE_LOOP, emptied(work))
        assert process.stdout is not None
        if process.stdout.readline() != "saved\n":
            raise RuntimeError(f"the control did not save: {ended(process)[1]}")
        time.sleep(LOOP_SECONDS * draws.random())
        killed(process)
        try:
            DQN.load(work / "model.zip").load_replay_buffer(work / "replay.pkl")
        except Exception:  # noqa: BLE001  # of a dozen kinds; what cannot be read is lost
            unreadable += 1
    return Trials("Stable-Baselines3's save and save_replay_buffer, model or replay unreadable", kills, unreadable)


def sb3_goes_on(path: Path, seeds: int) -> Trials:
    """Control: PPO of Stable-Baselines3, saved half-way, loaded and taken on, beside one that nobody stopped."""
    import gymnasium
    from stable_baselines3 import PPO

    def learner(seed: int) -> PPO:
        return PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=seed, device="cpu")

    def weights(model: PPO) -> list[list[float]]:
        return [weight.flatten().tolist() for weight in model.policy.parameters()]

    other = 0
    for seed in range(seeds):
        whole, again, half = (learner(seed).learn(steps) for steps in (256, 256, 128))
        half.save(path)
        resumed = PPO.load(path, env=gymnasium.make("CartPole-v1"), device="cpu").learn(128, reset_num_timesteps=False)
        other += weights(whole) == weights(again) and weights(whole) != weights(resumed)
    return Trials("Stable-Baselines3's PPO, saved and loaded half-way, other weights", seeds, other)
