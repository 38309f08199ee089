"""Writes down what a piece of Python asks of the file system, on real files; and lets the disk be full on request.

Calls from C are not seen. That all were seen is checked by doing them over again: that must give the files that are
there.
"""

import builtins
import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal
from unittest import mock

from benchmarks.reliability.disk import Disk, Step, found

OF_OS = ("open", "pwrite", "ftruncate", "fsync", "mkdir", "replace", "rename", "unlink", "remove")
REAL = {name: getattr(os, name) for name in OF_OS}
REAL_OPEN = io.open


class Watch:
    """Stands in for `open` and functions of `os`; what happens below one folder is written down."""

    def __init__(self, root: Path, room: int | None) -> None:
        """Watch a folder, on a disk with so many bytes left, or with enough of them."""
        self.root, self.room = root, room
        self.steps: list[Step] = []

    def below(self, path: object) -> str | None:
        """The name of a path below the folder; None for all others."""
        if not isinstance(path, str | os.PathLike):
            return None
        there = Path(os.path.abspath(path))  # noqa: PTH100  # links stay as they are
        return str(there.relative_to(self.root)) if there.is_relative_to(self.root) else None

    def fits(self, content: bytes) -> bytes:
        """What of it can still be written; OSError where that is nothing."""
        if self.room is None:
            return content
        fitting = content[: self.room]
        self.room -= len(fitting)
        if content and not fitting:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fitting

    def open(self, path: Any, mode: str = "r", *rest: Any, **named: Any) -> IO[Any]:
        """As `io.open`; files that are written below the folder are watched, text in them is UTF-8."""
        name = self.below(path)
        if name is None or not set(mode) & set("wxa+"):
            return REAL_OPEN(path, mode, *rest, **named)
        there = Path(path).exists()
        raw = _Raw(path, mode.replace("b", "").replace("t", ""), self)
        if not there:
            self.steps.append(Step("create", name, raw.number))
        elif "w" in mode:
            self.steps.append(Step("empty", file=raw.number))
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8")

    def open_low(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        """As `os.open`."""
        name, there = self.below(path), Path(path).exists()
        descriptor: int = REAL["open"](path, flags, *rest, **named)
        if name is not None and flags & os.O_CREAT and not there:
            self.steps.append(Step("create", name, os.fstat(descriptor).st_ino))
        return descriptor

    def write_low(self, descriptor: int, content: bytes, at: int) -> int:
        """As `os.pwrite`."""
        done: int = REAL["pwrite"](descriptor, content, at)
        self.steps.append(Step("write", file=os.fstat(descriptor).st_ino, at=at, content=content[:done]))
        return done

    def empty_low(self, descriptor: int, size: Literal[0]) -> None:
        """As `os.ftruncate` to nothing."""
        REAL["ftruncate"](descriptor, size)
        self.steps.append(Step("empty", file=os.fstat(descriptor).st_ino))

    def sync(self, descriptor: int) -> None:
        """As `os.fsync`."""
        REAL["fsync"](descriptor)
        about = os.fstat(descriptor)
        if not stat.S_ISDIR(about.st_mode):
            self.steps.append(Step("sync", file=about.st_ino))
            return
        name = self.below(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115  # no path to begin with
        if name is not None:
            self.steps.append(Step("sync folder", name))

    def named(self, kind: Literal["make", "rename", "remove"], real: str) -> Callable[..., None]:
        """As a function of `os` that changes names."""

        def call(path: Any, *rest: Any, **options: Any) -> None:
            name, to = self.below(path), self.below(rest[0]) if kind == "rename" else None
            number = Path(path).stat().st_ino if kind == "rename" else 0
            REAL[real](path, *rest, **options)
            if name is not None:
                self.steps.append(Step(kind, name, number, to=to or ""))

        return call


class _Raw(io.FileIO):
    """A file whose writes are written down as the kernel gets them, after Python's buffers."""

    def __init__(self, path: Any, mode: str, watch: Watch) -> None:
        super().__init__(path, mode)
        self.watch, self.number = watch, os.fstat(self.fileno()).st_ino

    def write(self, content: Any, /) -> int:
        at, fitting = self.tell(), self.watch.fits(bytes(content))
        done = super().write(fitting) or 0
        self.watch.steps.append(Step("write", file=self.number, at=at, content=fitting[:done]))
        return done


@contextmanager
def watched(root: Path, *, room: int | None = None) -> Iterator[list[Step]]:
    """The steps that are taken below a folder while the block runs; its disk is full after `room` bytes."""
    watch = Watch(root.resolve(), room)
    of_os: dict[str, Any] = {
        "open": watch.open_low,
        "pwrite": watch.write_low,
        "ftruncate": watch.empty_low,
        "fsync": watch.sync,
        "mkdir": watch.named("make", "mkdir"),
        "replace": watch.named("rename", "replace"),
        "rename": watch.named("rename", "rename"),
        "unlink": watch.named("remove", "unlink"),
        "remove": watch.named("remove", "remove"),
    }
    with (
        mock.patch.multiple(os, **of_os),
        mock.patch.object(io, "open", watch.open),
        mock.patch.object(builtins, "open", watch.open),
    ):
        yield watch.steps


def traced(root: Path, save: Callable[[], object]) -> tuple[Disk, list[Step]]:
    """What was below a folder before a save, and what the save asked of the file system.

    Raises:
        RuntimeError: the save did something that was not seen.
    """
    before = found(root)
    with watched(root) as steps:
        save()
    if before.after(steps).files() != found(root).files():
        raise RuntimeError(f"not all was seen of a save in {root}: {[step.kind for step in steps]}")
    return before, steps
