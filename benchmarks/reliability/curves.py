"""Row 21: after any number of kills and resumes, metrics are one curve, in the record and in TensorBoard."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.commands import killed, lines_of, python
from benchmarks.reliability.crashes import emptied
from benchmarks.reliability.outcome import Outcome, Trials
from rlkd.storage import read_json

TAG = "curve"
EVERY = 7
"""Lines between two checkpoints."""
MOST = 40
"""Lines of an attempt, at most, before it is killed."""
WRITER = """
import time
from pathlib import Path
from rlkd import storage
from rlkd.metrics import Recorder
folder, attempt, blind, every = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "blind", int(sys.argv[4])
saved = storage.read_json(folder / "saved.json")["step"] if (folder / "saved.json").exists() else -1
recorder = Recorder(folder, resume_step=10**9 if blind else saved + 1)
step = saved
while True:
    step += 1
    recorder.write(step, {"curve": attempt})
    if step % every == 0:
        storage.write_json(folder / "saved.json", {"step": step})
    print(step, flush=True)
    time.sleep(0.002)
"""
"""Writes a line a step and a checkpoint every few. A blind one resumes far beyond its end, and cuts nothing back."""


@dataclass(frozen=True, slots=True)
class Curves:
    """What a run left that was killed again and again."""

    kills: int
    """How often."""
    lost: int
    """Kills after which a line of before their checkpoint was missing in the end, or other than before."""
    single: bool
    """Whether both logs have one curve: each step once, in order, the same values in both."""
    points: tuple[int, int]
    """How many the record and TensorBoard have."""


def one_curve(work: Path, *, resumes: int, control_resumes: int, draws: random.Random) -> Outcome:
    """Kill what writes metrics so often, and read both logs."""
    found = written(emptied(work / "curves"), resumes, draws)
    blind = written(emptied(work / "blind"), control_resumes, draws, mode="blind")
    return Outcome(
        row="21",
        promise="killed and resumed: no line of metrics of before a checkpoint is lost, and one curve in both logs",
        trials=Trials("resumes", found.kills, max(found.lost, not found.single)),
        controls=(Trials("without cutting back and purge_step, more than one curve", 1, int(not blind.single)),),
        note=f"{found.points[1]} of the record's {found.points[0]} points are in TensorBoard",
    )


def written(folder: Path, resumes: int, draws: random.Random, *, mode: str = "as it is") -> Curves:
    """Write curves, killed after a random line of each attempt, the last one too."""
    promised: list[list[str]] = []
    for attempt in range(resumes + 1):
        process = python(WRITER, folder, str(folder), str(attempt), mode, str(EVERY))
        assert process.stdout is not None
        for _ in range(draws.randint(EVERY + 1, MOST)):
            process.stdout.readline()
        if not killed(process):
            raise RuntimeError(f"a writer of metrics ended by itself in {folder}")
        saved = read_json(folder / "saved.json")["step"]
        promised.append([line for line in lines_of(folder / "metrics.jsonl") if json.loads(line)["step"] <= saved])
    last = lines_of(folder / "metrics.jsonl")
    lost = sum(not set(lines) <= set(last) for lines in promised)
    record = [(line["step"], line[TAG]) for line in map(json.loads, last)]
    board = tensorboard_curve(folder)
    steps = [step for step, _ in board]
    single = [step for step, _ in record] == list(range(len(record))) and steps == sorted(set(steps))
    return Curves(resumes, lost, single and set(board) <= set(record), (len(record), len(board)))


def tensorboard_curve(folder: Path) -> list[tuple[int, float]]:
    """Steps and values as TensorBoard itself shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(TAG)]
