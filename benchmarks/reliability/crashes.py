"""Rows 2 and 3: a crash, or a power loss, at every step of a save leaves the content of before or the new one."""

import random
import shutil
from pathlib import Path

from benchmarks.reliability.disk import killed, powerless
from benchmarks.reliability.outcome import Outcome, Trials, added
from benchmarks.reliability.saves import FILES, WAYS, Saved
from benchmarks.reliability.watch import traced
from rlkd import storage
from rlkd.errors import RlkdError

RUN = Path("runs") / "one"
FOLDER = RUN / "generations" / "001"
SITUATIONS = ("first save", "first save of a new run", "overwrite")


def process_killed(work: Path) -> Outcome:
    """Row 2: every state that a killed process leaves in the middle of a save."""
    return Outcome(
        row="2",
        promise="killed at any step of a save: the content of before or the new one loads, and no stump stays",
        trials=added("states", [tried(work, saved, "as it is") for saved in FILES]),
        controls=tuple(
            added(way, [tried(work, saved, way) for saved in FILES])
            for way in ("plain overwrite", "rename before write")
        ),
        exhaustive=True,
    )


def power_lost(work: Path, *, reorderings: int, draws: random.Random) -> Outcome:
    """Row 3: every state that a power loss leaves in the middle of a save or after it."""

    def of_all(what: str, way: str) -> Trials:
        parts = [tried(work, saved, way, power=True, reorderings=reorderings, draws=draws) for saved in FILES]
        return added(what, parts)

    return Outcome(
        row="3",
        promise="power lost at any step of a save: the content of before or the new one loads; afterwards the new one",
        trials=of_all("states", "as it is"),
        controls=tuple(of_all(way, way) for way in WAYS if way != "as it is"),
        exhaustive=True,
        note=(
            "simulated: whatever no fsync has made durable is dropped, cut at each sector or left as zeros; where "
            f"sectors of one write come apart, {reorderings} draws"
        ),
    )


def tried(
    work: Path, saved: Saved, way: str, *, power: bool = False, reorderings: int = 0, draws: random.Random | None = None
) -> Trials:
    """Load every state that a crash leaves of a file that is saved in some way, in each situation, and count.

    States that are alike on the disk are loaded once. At the end of a save only the new content counts.
    """
    n = failures = 0
    for situation in SITUATIONS:
        root = emptied(work / "traced")
        if situation != "first save of a new run":
            (root / FOLDER).mkdir(parents=True)
        if situation == "overwrite":
            saved.save(root / FOLDER, 0)
        old = saved.content(root / FOLDER)

        def save(root: Path = root) -> None:
            with WAYS[way](), storage.run_folder(root / RUN):
                saved.save(root / FOLDER, 1)

        before, steps = traced(root, save)
        new = saved.content(root / FOLDER)
        draws = draws or random.Random(0)
        states = powerless(before, steps, reorderings=reorderings, draws=draws) if power else killed(before, steps)
        seen = set()
        for over, disk in states:
            ended = over == len(steps)
            key = (ended, frozenset(disk.files().items()), frozenset(disk.folders()))
            if key in seen:
                continue
            seen.add(key)
            place = emptied(work / "state")
            disk.put(place)
            n += 1
            failures += not loads(saved, place, {new} if ended else {old, new})
    return Trials(saved.what, n, failures)


def loads(saved: Saved, root: Path, allowed: set[str | None]) -> bool:
    """Whether a run that goes on finds one of some contents, and no stump."""
    with storage.run_folder(root / RUN):
        stumps = list(root.rglob(storage.STUMP))
    try:
        return saved.content(root / FOLDER) in allowed and not stumps
    except RlkdError:
        return False


def emptied(folder: Path) -> Path:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
