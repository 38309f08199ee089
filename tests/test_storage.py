"""Tests of `rlkd.storage`: whatever happens in the middle, a file is the old one or the new one, and whole."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlkd import storage
from rlkd.errors import StorageError

OLD, NEW = b"old" * 1000, b"new" * 2000


class Crash(BaseException):
    """Stands for anything that ends the program in the middle."""


class HalfWritten:
    """An open file that takes half of what is written to it, then fails."""

    def __init__(self, file: Any, failure: BaseException) -> None:
        self.file, self.failure = file, failure

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        raise self.failure


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException) -> None:
    """Let one step of `write_bytes` raise."""

    def fail(*_: object, **__: object) -> None:
        raise failure

    real_open: Callable[..., Any] = Path.open
    if step == "make the folder":
        monkeypatch.setattr(Path, "mkdir", fail)
    elif step == "open":
        monkeypatch.setattr(Path, "open", fail)
    elif step == "write":
        monkeypatch.setattr(Path, "open", lambda *args: HalfWritten(real_open(*args), failure))
    elif step == "sync the file":
        monkeypatch.setattr(os, "fsync", fail)
    elif step == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(storage, "_sync_folder", fail)


STEPS = ["make the folder", "open", "write", "sync the file", "rename", "sync the folder"]
every_step = pytest.mark.parametrize("step", STEPS)


@every_step
@pytest.mark.parametrize("there_before", [True, False])
def test_a_failure_at_any_step_leaves_the_old_file_or_the_new_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, there_before: bool
) -> None:
    path = tmp_path / "file"
    if there_before:
        path.write_bytes(OLD)
    with monkeypatch.context() as patched:
        fail_at(patched, step, OSError(errno.EIO, "Input/output error"))
        with pytest.raises(StorageError, match=r"file: Input/output error"):
            storage.write_bytes(path, NEW)
    left = [NEW] if step == "sync the folder" else [OLD] if there_before else []
    assert [child.read_bytes() for child in tmp_path.iterdir()] == left


@every_step
def test_an_interruption_at_any_step_passes_and_leaves_no_stump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with monkeypatch.context() as patched:
        fail_at(patched, step, Crash())
        with pytest.raises(Crash):
            storage.write_bytes(path, NEW)
    assert [child.name for child in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == (NEW if step == "sync the folder" else OLD)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_full_and_the_message_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fail_at(monkeypatch, "write", OSError(code, os.strerror(code)))
    with pytest.raises(StorageError, match=r"file: the disk is full, 6000 bytes are needed; free some"):
        storage.write_bytes(tmp_path / "file", NEW)


def test_a_write_makes_the_folders_above_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (OLD, NEW):
        storage.write_bytes(path, content)
        assert path.read_bytes() == content
    assert [child.name for child in path.parent.iterdir()] == ["file"]


def test_folders_that_are_made_for_a_file_are_on_the_disk_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", noted)
    storage.write_bytes(tmp_path / "a" / "b" / "file", NEW)
    assert set(synced[:2]) == {tmp_path, tmp_path / "a"}
    assert synced[-1] == tmp_path / "a" / "b"
    synced.clear()
    with storage.run_folder(tmp_path / "runs" / "one"):
        assert set(synced) == {tmp_path, tmp_path / "runs"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(StorageError, match=r"file/below: (Not a directory|File exists)"):
        storage.write_bytes(tmp_path / "file" / "below", NEW)


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "ä"}
    storage.write_json(tmp_path / "value.json", value)
    assert storage.read_json(tmp_path / "value.json") == value


@pytest.mark.parametrize(
    "content",
    [b"", b'{"a": 1', b"\xff\xfe", b"[" * 100_000, b"\x00" * 20],
    ids=["empty", "cut off", "not text", "nested without end", "zeros"],
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"value\.json: damaged, not a JSON document"):
        storage.read_json(path)


def test_json_that_is_missing_or_far_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(StorageError, match=r"value\.json: no such file"):
        storage.read_json(path)
    path.write_text("[1, 2, 3, 4]")
    monkeypatch.setattr(storage, "MAX_JSON_BYTES", 10)
    with pytest.raises(StorageError, match=r"value\.json: larger than 10 bytes; not one of our files"):
        storage.read_json(path)


def test_sha256_is_that_of_the_standard() -> None:
    assert storage.sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert storage.sha256(b"abc").startswith("ba7816bf")


WRITER = """
import hashlib, sys
from pathlib import Path
from rlkd import storage
folder, n = Path(sys.argv[1]), int(sys.argv[2])
with storage.run_folder(folder):
    print("ready", flush=True)
    while True:
        n += 1
        text = str(n) * 20_000
        checksum = hashlib.sha256(text.encode()).hexdigest()
        storage.write_json(folder / "state.json", {"n": n, "text": text, "sum": checksum})
"""
HOLDER = """
import sys, time
from pathlib import Path
from rlkd import storage
with storage.run_folder(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


def start(program: str, *arguments: object) -> "subprocess.Popen[str]":
    """A Python process that has said "ready"."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_writer_killed_at_any_moment_leaves_a_whole_file_and_a_free_folder(tmp_path: Path) -> None:
    written = 0
    for attempt in range(20):
        process = start(WRITER, tmp_path, written)
        time.sleep(0.005 + 0.0007 * attempt)
        kill(process)
        with storage.run_folder(tmp_path):
            assert {child.name for child in tmp_path.iterdir()} <= {".lock", "state.json"}
        if (tmp_path / "state.json").exists():
            state = storage.read_json(tmp_path / "state.json")
            assert state["sum"] == hashlib.sha256(state["text"].encode()).hexdigest()
            assert state["n"] >= written
            written = state["n"]
    assert written > 0


def test_a_folder_in_use_is_refused_with_its_owner_and_free_once_that_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    process = start(HOLDER, run)
    for _ in range(2):
        with (
            pytest.raises(StorageError, match=rf"first is in use by process {process.pid}; .* another --run"),
            storage.run_folder(run),
        ):
            pytest.fail("two runs in one folder")
    kill(process)
    with storage.run_folder(run) as folder:
        assert folder == run
        assert (run / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_is_refused_to_a_second_run_of_the_same_process_and_free_after_the_first(
    tmp_path: Path,
) -> None:
    with storage.run_folder(tmp_path), pytest.raises(StorageError, match="in use"), storage.run_folder(tmp_path):
        pytest.fail("two runs in one folder")
    with storage.run_folder(tmp_path):
        pass


def test_stumps_of_a_crash_are_swept_up_wherever_they_lie_and_other_files_are_not(tmp_path: Path) -> None:
    stump = tmp_path / "generations" / "000" / ".policy.safetensors.0a1b2c3d.tmp"
    stump.parent.mkdir(parents=True)
    others = [
        stump.with_name("policy.safetensors"),
        stump.with_name(".theirs.tmp"),
        tmp_path / "another_run" / "generations" / stump.name,
    ]
    others[-1].parent.mkdir(parents=True)
    for path in (stump, *others):
        path.write_bytes(OLD)
    with storage.run_folder(tmp_path):
        assert not stump.exists()
        assert all(other.exists() for other in others)


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(StorageError, match="file/run: Not a directory"), storage.run_folder(tmp_path / "file/run"):
        pytest.fail("a run in no folder")


def test_a_disk_too_full_for_the_lock_is_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match="the disk is full"), storage.run_folder(tmp_path):
        pytest.fail("a run on a full disk")


def test_json_files_are_sorted_so_that_two_runs_can_be_compared(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "value.json", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "value.json").read_text())) == ["a", "b"]
