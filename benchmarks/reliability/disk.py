"""A model of a disk: every state that a crash in the middle of a save can leave it in.

What a killed process leaves: all steps up to some point, the last write cut anywhere. What a power loss leaves: of the
steps up to some point those that were made durable, by fsync of the file (its content) and of the folder (its names),
and any of the others: each change of a name for itself; contents up to any point, or their length without them, or some
sectors without others. POSIX promises no more than that; file systems in use promise more, and differ.

Source:
    sqlite.org/testing.html (crash testing) for the method; Pillai et al., "All file systems are not created equal",
    OSDI 2014, for which steps may come apart.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

SECTOR = 512
"""Bytes that a disk writes together."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was asked of the file system."""

    kind: Literal["make", "create", "empty", "write", "sync", "sync folder", "rename", "remove"]
    """`make` a folder, `create` an empty file, `empty` one that is there, and so on."""
    path: str = ""
    """The name that changes, or the folder that is synced, below the root; not of contents."""
    file: int = 0
    """Which file's content it is about, whatever its name: the inode."""
    at: int = 0
    """Byte from which on it is written."""
    content: bytes = b""
    """What is written."""
    to: str = ""
    """The new name."""


@dataclass(slots=True)
class Disk:
    """Names and contents below a root."""

    names: dict[str, int | None] = field(default_factory=dict)
    """By path, the file behind it; None is a folder."""
    contents: dict[int, bytes] = field(default_factory=dict)
    """By file."""

    def after(self, steps: Sequence[Step]) -> "Disk":
        """Another one, changed by some steps. A rename gives a file its name though its creation was lost."""
        names, contents = dict(self.names), dict(self.contents)
        for step in steps:
            if step.kind in ("rename", "remove"):
                names.pop(step.path, None)
            if step.kind in ("make", "create", "rename"):
                names[step.to or step.path] = None if step.kind == "make" else step.file
            if step.kind == "empty":
                contents[step.file] = b""
            elif step.kind == "write":
                before = contents.get(step.file, b"").ljust(step.at, b"\0")
                contents[step.file] = before[: step.at] + step.content + before[step.at + len(step.content) :]
        return Disk(names, contents)

    def folders(self) -> set[str]:
        """Those that can be reached: a folder that got lost took along what was in it."""
        here = {name for name, file in self.names.items() if file is None}
        return {name for name in here if {str(above) for above in Path(name).parents} <= here | {"."}}

    def files(self) -> dict[str, bytes]:
        """Contents by path, of those that can be reached."""
        folders = self.folders() | {"."}
        return {
            name: self.contents.get(file, b"")
            for name, file in self.names.items()
            if file is not None and str(Path(name).parent) in folders
        }

    def put(self, root: Path) -> None:
        """Write it out, into a folder that is empty."""
        for name in sorted(self.folders()):
            (root / name).mkdir()
        for name, content in self.files().items():
            (root / name).write_bytes(content)


def found(root: Path) -> Disk:
    """What is below a folder now."""
    disk = Disk()
    for path in root.rglob("*"):
        name, number = str(path.relative_to(root)), path.stat().st_ino
        disk.names[name] = None if path.is_dir() else number
        if path.is_file():
            disk.contents[number] = path.read_bytes()
    return disk


def killed(before: Disk, steps: Sequence[Step]) -> Iterator[tuple[int, Disk]]:
    """Every state that a killed process leaves, and how many steps were over by then."""
    for over in range(len(steps) + 1):
        disk = before.after(steps[:over])
        yield over, disk
        if over < len(steps) and steps[over].kind == "write":
            for cut in cuts(len(steps[over].content)):
                yield over, disk.after([_partly(steps[over], steps[over].content[:cut])])


def powerless(
    before: Disk, steps: Sequence[Step], *, reorderings: int, draws: random.Random
) -> Iterator[tuple[int, Disk]]:
    """Every state that a power loss may leave, and how many steps were over by then.

    Which sectors of a write are there without others is drawn, `reorderings` times wherever it matters; all else is
    complete.
    """
    for over in range(len(steps) + 1):
        safe, names, contents = _durable(steps[:over])
        start = before.after(safe)
        for variant in _variants(contents, reorderings, draws):
            filled = start.after(variant)
            for chosen in product((True, False), repeat=len(names)):
                yield over, filled.after([step for step, kept in zip(names, chosen, strict=True) if kept])


def cuts(size: int) -> list[int]:
    """Where a write may break off: between sectors, and beside both of its ends."""
    return sorted({0, 1, size - 1, *range(SECTOR, size, SECTOR)} & set(range(size)))


def _durable(steps: Sequence[Step]) -> tuple[list[Step], list[Step], list[Step]]:
    """Steps that no power loss undoes, changes of names that it may, changes of contents that it may."""
    safe: list[Step] = []
    names: list[Step] = []
    contents: list[Step] = []
    for place, step in enumerate(steps):
        later = steps[place + 1 :]
        if step.kind in ("empty", "write"):
            kept = any(each.kind == "sync" and each.file == step.file for each in later)
            (safe if kept else contents).append(step)
        elif step.kind in ("make", "create", "rename", "remove"):
            folder = str(Path(step.to or step.path).parent)
            kept = any(each.kind == "sync folder" and each.path == folder for each in later)
            (safe if kept else names).append(step)
    return safe, names, contents


def _variants(steps: Sequence[Step], reorderings: int, draws: random.Random) -> Iterator[list[Step]]:
    """What may have become of contents that were not synced."""
    yield list(steps)
    for place, step in enumerate(steps):
        before = list(steps[:place])
        yield before
        size = len(step.content)
        sectors = [step.content[first : first + SECTOR] for first in range(0, size, SECTOR)]
        pieces = [
            *(step.content[:cut] for cut in cuts(size)),
            bytes(size),
            *(_some(sectors, draws) for _ in range(reorderings if len(sectors) > 1 else 0)),
        ]
        yield from ([*before, _partly(step, piece)] for piece in pieces if step.kind == "write")


def _some(sectors: Sequence[bytes], draws: random.Random) -> bytes:
    return b"".join(each if draws.random() < 0.5 else bytes(len(each)) for each in sectors)


def _partly(step: Step, content: bytes) -> Step:
    return Step("write", file=step.file, at=step.at, content=content)
