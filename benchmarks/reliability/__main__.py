"""What rlkd promises about crashes, power loss, full disks, signals and second writers, each beside a control.

    make bench NAME=reliability
    python -m benchmarks.reliability --quick          a few minutes
    python -m benchmarks.reliability --times 4        200 kills of each kind, and so on

A row whose control did not fail proves nothing, and says so. Zero failures in n trials still allow a rate of about
3 / n at 95 %; rows on a model of the disk try all that there is in it. Kills are timed by what a run has acknowledged:
a line of its metrics, a checkpoint, a record.
"""

import argparse
import dataclasses
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Record, end_with, machine, store
from benchmarks.reliability.commands import put_recipes, put_teacher, workplace
from benchmarks.reliability.crashes import power_lost, process_killed
from benchmarks.reliability.curves import one_curve
from benchmarks.reliability.full import disk_full
from benchmarks.reliability.kills import generations_killed
from benchmarks.reliability.outcome import Outcome, table
from benchmarks.reliability.resumes import resumed
from benchmarks.reliability.stops import signals_heard
from benchmarks.reliability.versions import versions_told
from benchmarks.reliability.writers import one_writer

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How often each thing is tried."""

    kills: int
    """Of `rlkd evolve`, on each kind of states."""
    control_kills: int
    """Of the save loop."""
    reorderings: int
    """Of the sectors of a write that power loss hits."""
    cuts: int
    """Of `rlkd distill` in each world."""
    control_cuts: int
    """Of runs that forget their random streams, in each world."""
    versions: int
    """Packages of which there is another version."""
    points: int
    """Bytes of each file after which the disk is full."""
    signals: int
    """To each of `rlkd train` and `rlkd distill`."""
    control_signals: int
    """To each of them with the default handlers."""
    second_signals: int
    """To a command that does not come to a boundary."""
    writers: int
    """Pairs of writers."""
    commands: int
    """Pairs of real commands on one folder."""
    resumes: int
    """Of what writes metrics."""
    control_resumes: int
    """Of what cuts nothing back."""

    def times(self, factor: int) -> "Counts":
        """More of everything but versions."""
        return Counts(
            **{
                field.name: getattr(self, field.name) * (1 if field.name == "versions" else factor)
                for field in dataclasses.fields(self)
            }
        )


QUICK = Counts(
    kills=3,
    control_kills=3,
    reorderings=2,
    cuts=2,
    control_cuts=1,
    versions=1,
    points=10,
    signals=3,
    control_signals=1,
    second_signals=2,
    writers=5,
    commands=1,
    resumes=3,
    control_resumes=2,
)
WHOLE = Counts(
    kills=25,
    control_kills=15,
    reorderings=20,
    cuts=20,
    control_cuts=3,
    versions=3,
    points=50,
    signals=20,
    control_signals=3,
    second_signals=4,
    writers=30,
    commands=2,
    resumes=20,
    control_resumes=4,
)
PACKAGES = ("torch", "numpy", "gymnasium")
BY_TWOS = ("4", "1", "11", "5")
"""Rows whose work is in processes of one thread each, longest first: two rows at a time. Others change what this
process does with files, and have it to themselves."""


def rows(work: Path, counts: Counts, draws: random.Random) -> dict[str, Callable[[], Sequence[Outcome]]]:
    """What tries the promises of each row, in a folder of its own."""
    return {
        "1": lambda: generations_killed(work, kills=counts.kills, control_kills=counts.control_kills, draws=draws),
        "2": lambda: [process_killed(work)],
        "3": lambda: [power_lost(work, reorderings=counts.reorderings, draws=draws)],
        "4": lambda: [resumed(work, cuts=counts.cuts, control_cuts=counts.control_cuts, draws=draws)],
        "5": lambda: [versions_told(work, packages=PACKAGES[: counts.versions])],
        "10": lambda: [disk_full(work, points=counts.points)],
        "11": lambda: [
            signals_heard(
                work,
                signals=counts.signals,
                controls=counts.control_signals,
                seconds=counts.second_signals,
                draws=draws,
            )
        ],
        "17": lambda: [one_writer(work, trials=counts.writers, commands=counts.commands)],
        "21": lambda: [
            one_curve(work, resumes=counts.resumes, control_resumes=counts.control_resumes, draws=draws),
        ],
    }


ROWS = tuple(rows(Path(), WHOLE, random.Random()))


def tried(row: str, work: Path, counts: Counts, seed: int) -> list[Outcome]:
    """Try the promises of a row, and say what came of it."""
    place, start = work / f"row{row}", time.monotonic()
    place.mkdir()
    put_teacher(place)
    put_recipes(place)
    found = rows(place, counts, random.Random(f"{seed} {row}"))[row]()
    for each in found:
        print(f"row {each.row}: {each.trials}; {each.verdict}", file=sys.stderr, flush=True)
    return [dataclasses.replace(each, seconds=time.monotonic() - start) for each in found]


def main() -> int:
    """Try all rows, and store the table; 1 where a promise was broken or nothing was proved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few minutes")
    parser.add_argument("--times", type=int, default=1, help="so many times the trials")
    parser.add_argument("--seed", type=int, default=0, help="of moments and bytes that are drawn")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="only these; nothing is stored")
    chosen = parser.parse_args()
    counts = (QUICK if chosen.quick else WHOLE).times(chosen.times)
    begun = time.monotonic()
    names = [row for row in ROWS if row in (chosen.rows or ROWS)]
    done: dict[str, list[Outcome]] = {}
    with workplace() as work:
        with ThreadPoolExecutor(2) as pool:
            abreast = [row for row in BY_TWOS if row in names]
            found = pool.map(lambda row: tried(row, work, counts, chosen.seed), abreast)
            done |= dict(zip(abreast, found, strict=True))
        for row in names:
            if row not in done:
                done[row] = tried(row, work, counts, chosen.seed)
    outcomes = [each for row in names for each in done[row]]
    minutes = (time.monotonic() - begun) / 60
    size = f"{'Quick' if chosen.quick else 'Whole'} sizes x {chosen.times}, seed {chosen.seed}, {minutes:.1f} minutes"
    load = f"load average at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    bound = "At most: the chance of a failure that these trials still allow at 95 % (Clopper and Pearson)"
    lines = [f"{size}, {load}. {bound}.", "", *table(outcomes)]
    record: Record = {
        "machine": machine(),
        "seed": chosen.seed,
        "quick": chosen.quick,
        "counts": dataclasses.asdict(counts),
        "minutes": round(minutes, 1),
        "rows": [each.record for each in outcomes],
    }
    if chosen.rows:
        print("\n".join(lines))
    else:
        store(FOLDER, record, lines)
    return 0 if all(each.verdict == "met" for each in outcomes) else 1


if __name__ == "__main__":
    end_with(main)
