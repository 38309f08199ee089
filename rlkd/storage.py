"""Files that are whole or not there, and run folders.

A file appears under its final name only after its bytes are on the disk: temporary name, fsync, rename, fsync
of the folder, and of those above it that were made for it. A crash at any point leaves the previous file or the new
one. Checksums detect damage, not
malice.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlkd.errors import StorageError

MAX_JSON_BYTES = 64 * 1024 * 1024
STUMP = f".*.{'[0-9a-f]' * 8}.tmp"
"""What a crash in the middle of `write_bytes` leaves."""
CHECKSUM = "checksum"
"""Of the other entries of a JSON object."""
MARKS = {
    "train": ("checkpoint.safetensors", "sb3.json"),
    "distill": ("students.checkpoint.safetensors",),
    "evolve": ("random.json",),
    "compare": ("cells",),
}
"""Files by which a run folder of each verb is known, whether finished or not."""


@contextmanager
def whole(path: Path, size: int) -> Iterator[Path]:
    """A path to write a file of so many bytes to; it gets its final name once the block is over and all is on the disk.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _make_folder(path.parent)
        try:
            if shutil.disk_usage(path.parent).free < size:  # said before gigabytes are written
                raise OSError(errno.ENOSPC, "the disk is full")
            yield temporary
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(_explain(error, path, size)) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` under `path`, all of it or nothing.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    with whole(path, len(content)) as temporary, temporary.open("xb") as file:
        file.write(content)


def write_json(path: Path, value: object) -> None:
    """Put a JSON document under `path`, all of it or nothing."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Put a JSON object under `path`, all of it or nothing, with a checksum that `read_json` looks at."""
    write_json(path, {**record, CHECKSUM: _checksum(record)})


def _checksum(record: Mapping[str, object]) -> str:
    return sha256(json.dumps(record, sort_keys=True).encode())


def read_json(path: Path) -> Any:
    """The JSON document under `path`, without the checksum where it has one.

    Raises:
        StorageError: missing, unreadable, too large, not JSON, or not what its checksum says.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise StorageError(f"{path}: larger than {MAX_JSON_BYTES} bytes; not one of our files")
        found = json.loads(path.read_text(encoding="utf-8"))
        told = found.pop(CHECKSUM, None) if isinstance(found, dict) else None
        if told is not None and told != _checksum(found):
            raise StorageError(f"{path}: its content does not match its checksum; it was damaged or altered")
        return found
    except OSError as error:
        raise StorageError(_explain(error, path, 0)) from None
    except (ValueError, RecursionError):
        raise StorageError(f"{path}: damaged, not a JSON document") from None


def versions() -> dict[str, str]:
    """Versions of what a result depends on, for its record."""
    names = ("torch", "numpy", "gymnasium", "ale-py")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def changes(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What is other than it was, as a message says it: `torch 2.10.0, now 2.13.0; ...`; empty where nothing is."""
    return "; ".join(f"{name} {then.get(name)}, now {value}" for name, value in now.items() if then.get(name) != value)


def sha256(content: bytes) -> str:
    """SHA-256 in 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def run_folder(path: Path) -> Iterator[Path]:
    """A run folder, made if missing and locked while the block runs, so that two runs never write into one.

    The lock goes with the process, also after kill -9: nothing stale has to be cleaned up.

    Raises:
        StorageError: another process writes there, or the folder cannot be made.
    """
    try:
        _make_folder(path)
        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(_explain(error, path, 0)) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            where_to = "wait for it or name another --run"
            raise StorageError(f"{path} is in use by process {owner}; {where_to}") from None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            # Not deeper: other runs may lie in this folder.
            for below in ("", "students/", "replay/**/", "generations/**/"):
                for stump in path.glob(below + STUMP):
                    stump.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(_explain(error, path, 0)) from None
        yield path
    finally:
        os.close(descriptor)


def refuse_other_kinds(run: Path, kind: str) -> None:
    """Raise StorageError where the folder holds a run of another verb: ours would overwrite its records."""
    for other, files in MARKS.items():
        if other != kind and any((run / file).exists() for file in files):
            raise StorageError(f"{run} holds a run of `rlkd {other}`; name another --run")


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; a power loss would take along all that was saved in one that is not synced."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, path: Path, size: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = f"{size} bytes are needed" if size else "not one byte more fits"
        return f"{path}: the disk is full, {needed}; free some space and run the same command again"
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file"
    return f"{path}: {error.strerror or error}"
