"""Row 17: a run folder has one writer; the lock of one that was killed is no obstacle."""

import subprocess
import time
from pathlib import Path

from benchmarks.reliability.commands import ended, killed, python, started, until
from benchmarks.reliability.crashes import emptied
from benchmarks.reliability.outcome import Outcome, Trials, added
from benchmarks.reliability.stops import COMMANDS, LONG, RUN
from rlkd import storage
from rlkd.errors import StorageError
from rlkd.storage import STUMP, read_json

WRITER = """
import os, time
from pathlib import Path
from rlkd import storage
from rlkd import storage
from rlkd.errors import StorageError
folder = Path(sys.argv[1])
try:
    with storage.run_folder(folder):
        print("writes", flush=True)
        while True:
            storage.write_json(folder / "state.json", {"pid": os.getpid()})
            time.sleep(0.001)
except StorageError as error:
    print(f"refused: {error}", flush=True)
"""
UNLOCKED = "import fcntl\nfcntl.flock = lambda *given: None\n"
"""Runs before a writer and takes away the lock."""


def one_writer(work: Path, *, trials: int, commands: int) -> Outcome:
    """Start a second writer beside a first, then kill the first and start a third; with real commands too."""
    small = [second_refused_third_let_in(emptied(work / "held")) for _ in range(trials)]
    real = [command_refused(work) for _ in range(commands)]
    unlocked = [both_write(emptied(work / "unlocked")) for _ in range(max(2, trials // 5))]
    return Outcome(
        row="17",
        promise="a second writer on a run folder is refused with the first one's process; that of a killed one is free",
        trials=added(
            "pairs of writers",
            [Trials("", len(small), small.count(False)), Trials("", len(real), real.count(False))],
        ),
        controls=(Trials("no lock, both write", len(unlocked), unlocked.count(True)),),
        note=f"{len(real)} with two `rlkd train`, the others with loops that save",
    )


def said(process: "subprocess.Popen[str]") -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def second_refused_third_let_in(folder: Path) -> bool:
    """Whether both are so, and no stump stays of who was killed while it wrote."""
    first = python(WRITER, folder, str(folder))
    writes = said(first) == "writes\n"
    second = python(WRITER, folder, str(folder))
    refusal = said(second)
    killed(second)
    was_there = killed(first)
    third = python(WRITER, folder, str(folder))
    taken = said(third) == "writes\n"
    killed(third)
    with storage.run_folder(folder):
        whole = read_json(folder / "state.json")["pid"] in (first.pid, third.pid) and not list(folder.glob(STUMP))
    return writes and was_there and taken and whole and f"in use by process {first.pid};" in refusal


def command_refused(work: Path) -> bool:
    """The same with `rlkd train` twice."""
    run = emptied(work / RUN)
    first = started(LONG, work)
    until((run / "metrics.jsonl").exists, first)
    code, complaint = ended(started(COMMANDS["train"], work))
    was_there = killed(first)
    return was_there and code == 2 and f"in use by process {first.pid};" in complaint


def both_write(folder: Path) -> bool:
    """Control: whether two writers that take no lock both write."""
    writers = [python(UNLOCKED + WRITER, folder, str(folder)) for _ in range(2)]
    begun = [said(writer) == "writes\n" for writer in writers]
    end = time.monotonic() + 20
    owners: set[int] = set()
    while len(owners) < 2 and time.monotonic() < end:
        try:
            owners.add(read_json(folder / "state.json")["pid"])
        except StorageError:
            continue
    for writer in writers:
        killed(writer)
    return all(begun) and owners == {writer.pid for writer in writers}
