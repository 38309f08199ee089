"""Row 10: a disk that is full after any byte of a save keeps the old content, whole, and says so."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from benchmarks.reliability.crashes import emptied
from benchmarks.reliability.outcome import Outcome, Trials, added
from benchmarks.reliability.saves import FILES, Saved
from benchmarks.reliability.watch import watched
from rlkd.errors import RlkdError, StorageError

PAGE = 4096
"""Bytes in which a disk in memory is given out."""
PAGES = 32


class Usage(NamedTuple):
    """What is read of `shutil.disk_usage`."""

    free: int
    """Bytes."""


def disk_full(work: Path, *, points: int) -> Outcome:
    """Let the disk be full after so many different bytes of each file; on a real small disk too, where that may be."""
    simulated = [after_some_bytes(work / "simulated", saved, points) for saved in FILES]
    with small_disk(emptied(work / "disk")) as disk:
        real = [] if disk is None else [on_a_small_disk(disk, saved) for saved in FILES]
    on_real = f"{sum(each.n for each in real)} on a real disk of {PAGES * PAGE // 1024} kB"
    return Outcome(
        row="10",
        promise="disk full in the middle of a save: the old content loads, no stump, disk and bytes needed are named",
        trials=added("full disks", simulated + real),
        controls=(torch_save(work / "control", points),),
        note=(
            f"of four files, at {points} bytes of each, spread evenly, simulated, and "
            f"{on_real if real else 'none on a real disk: mounting one was refused'}; afterwards the same save works"
        ),
    )


def after_some_bytes(run: Path, saved: Saved, points: int) -> Trials:
    """Save a second version when there is room for some of its bytes."""
    rooms = spread(size_of(saved, run), points)
    failures = 0
    for room in rooms:
        saved.save(emptied(run), 0)
        failures += not kept(saved, run, watched(run, room=room))
    return Trials(saved.what, len(rooms), failures)


def on_a_small_disk(disk: Path, saved: Saved) -> Trials:
    """The same on a disk that really fills up: found before the first byte, or by the kernel in the middle."""
    run = disk / "run"
    n = failures = 0
    for pages in range(-(-size_of(saved, run) // PAGE)):
        for asked in (True, False):
            saved.save(emptied(run), 0)
            n += 1
            failures += not kept(saved, run, filled(disk, pages, asked=asked))
    return Trials(saved.what, n, failures)


def kept(saved: Saved, run: Path, full: AbstractContextManager[object]) -> bool:
    """Whether a save over the first version while the disk is full is refused as promised, and works afterwards."""
    old, before = saved.content(run), sorted(run.iterdir())
    with full:
        try:
            saved.save(run, 1)
            said = ""
        except StorageError as error:
            said = str(error)
    try:
        left = saved.content(run) == old and sorted(run.iterdir()) == before
        saved.save(run, 1)
        needed = (run / saved.name).stat().st_size
        works = saved.content(run) not in (old, None)
    except RlkdError:
        return False
    return left and works and f"{run / saved.name}: the disk is full, {needed} bytes are needed" in said


def torch_save(run: Path, points: int) -> Trials:
    """Control: `torch.save` to the final name, over an older file, when the file may have only some of its bytes."""
    path, lost = emptied(run) / "weights.pth", 0
    old, new = torch.zeros(2000), torch.ones(2000)
    torch.save(new, path)
    rooms = spread(path.stat().st_size, points)
    for room in rooms:
        torch.save(old, path)
        try:
            with at_most(room):
                torch.save(new, path)
        except (OSError, RuntimeError):
            lost += not _reads(path, old)
    return Trials("torch.save to the final name", len(rooms), lost)


def _reads(path: Path, wanted: torch.Tensor) -> bool:
    try:
        return torch.equal(torch.load(path, weights_only=True), wanted)
    except (OSError, RuntimeError, EOFError, ValueError):
        return False


def spread(size: int, points: int) -> list[int]:
    """So many bytes of a file at equal distances, the first and the last among them; all where it has no more."""
    return sorted({round(k * (size - 1) / max(1, points - 1)) for k in range(points)})


def size_of(saved: Saved, run: Path) -> int:
    """Bytes of the second version."""
    saved.save(emptied(run), 1)
    return (run / saved.name).stat().st_size


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A small disk in memory; None where the right to mount one is missing."""
    options = f"size={PAGES * PAGE}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def filled(disk: Path, pages: int, *, asked: bool) -> Iterator[None]:
    """A disk with so many pages left; where it is not asked for that before, it is believed to be empty."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - pages * PAGE))
    usage = shutil.disk_usage
    with mock.patch.object(shutil, "disk_usage", usage if asked else lambda _: Usage(1 << 40)):
        yield
    ballast.unlink()


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
