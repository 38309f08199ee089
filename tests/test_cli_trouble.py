"""Tests of `rlkd.cli` in trouble: damaged and hostile files, full disks, folders in use, Ctrl-C."""

import base64
import errno
import json
import os
import pickle
import re
import signal
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from rlkd import metrics, storage
from rlkd.cli import main
from tests.commands import DISTILL, Capture, put_files, refused
from tests.handmade import TINY_PIXELS, ended, environment, policy, started, wait_for


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with files to name, as the current one."""
    put_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def altered(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize(
    ("change", "message"),
    [(cut, "truncated, damaged or not a .safetensors file"), (altered, "does not match its checksum")],
)
@pytest.mark.parametrize("verb", ["eval", "distill", "evolve"])
def test_a_damaged_policy_file_is_named(
    change: Callable[[bytes], bytes], message: str, verb: str, work: Path, capfd: Capture
) -> None:
    path = work / "teacher.safetensors"
    path.write_bytes(change(path.read_bytes()))
    assert f"teacher.safetensors: {message}" in refused([verb, "teacher.safetensors"], capfd).replace(
        "its content ", ""
    )


class Payload:
    """Leaves a file behind when it is unpickled by somebody careless."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("verb", ["eval", "distill", "evolve"])
def test_a_zip_with_a_payload_is_refused_and_not_executed(verb: str, work: Path, capfd: Capture) -> None:
    payload = pickle.dumps(Payload())
    serialized = {":type:": "function", ":serialized:": base64.b64encode(payload).decode()}
    with zipfile.ZipFile("agent.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": serialized, "lr_schedule": serialized}))
        archive.writestr("policy.pth", payload)
        archive.writestr("pytorch_variables.pth", payload)
        archive.writestr("_stable_baselines3_version", "2.8.0")
    assert "agent.zip" in refused([verb, "agent.zip", "--env", "cartpole"], capfd)
    assert not Path("executed").exists()


@pytest.mark.parametrize("verb", ["distill", "evolve", "train"])
def test_a_folder_in_use_is_refused(verb: str, work: Path, capfd: Capture) -> None:
    what = "cartpole" if verb == "train" else "teacher.safetensors"
    with storage.run_folder(work / "busy"):
        line = refused([verb, what, "--run", "busy"], capfd)
    assert f"busy is in use by process {os.getpid()}; wait for it or name another --run" in line


def test_a_run_of_another_verb_is_refused(work: Path, capfd: Capture) -> None:
    assert main(DISTILL) == 0
    assert "run holds a run of `rlkd distill`" in refused(["evolve", "teacher.safetensors", "--run", "run"], capfd)


@pytest.mark.parametrize("kilobytes", [8, 12, 24])
def test_a_full_disk_is_called_so_and_nothing_is_half_written(kilobytes: int, work: Path) -> None:
    """A disk of so many kilobytes, each file taking four at least: it fills up later and later in the run."""
    disk = work / "disk"
    disk.mkdir()
    options = f"size={kilobytes}k"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        process = started([*DISTILL[:-1], "disk/run", "--episodes", "2", "--json"], work)
        out, err = ended(process)
        assert process.returncode == 2, err
        assert out == ""
        assert err.startswith("rlkd: disk/run")
        assert "No space left on device" in err or "the disk is full" in err
        assert not list(disk.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_found_without_one_too(work: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    sync = os.fsync

    def full(descriptor: int) -> None:
        if ".tiny.safetensors." in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert "run/students/tiny.safetensors: the disk is full" in refused(DISTILL, capfd)
    monkeypatch.undo()
    monkeypatch.chdir(work)
    assert not list(work.rglob("*.tmp"))
    assert main(DISTILL) == 0


def test_ctrl_c_stops_training_and_the_same_command_goes_on(work: Path, capfd: Capture) -> None:
    arguments = ["train", "cartpole", "--frames", "24000", "--run", "made", "--json"]
    process = started(arguments, work)
    wait_for(lambda: bool(metrics.read_metrics(work / "made")), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    out, err = ended(process)
    assert (process.returncode, out) == (3, "")
    assert re.fullmatch(r"rlkd: stopped on a signal; run made is saved at agent step \d+; .* goes on\n", err)
    assert not list(work.rglob("*.tmp"))
    assert not (work / "made" / "run.json").exists()
    assert main(arguments) == 0
    steps = [line["step"] for line in metrics.read_metrics(work / "made")]
    assert steps == sorted(set(steps))
    assert json.loads(capfd.readouterr().out)["run"] == "made"


def test_ctrl_c_stops_distilling_and_leaves_nothing_half_written(work: Path) -> None:
    process = started([*DISTILL, "--set", "gradient_steps=6000"], work)
    wait_for(lambda: bool(metrics.read_metrics(work / "run")), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = ended(process)
    assert (process.returncode, out) == (3, "")
    assert err == "rlkd: stopped on a signal; run run is saved; the same command goes on\n"
    assert not list(work.rglob("*.tmp"))
    assert not (work / "run" / "run.json").exists()


PLAYING = """
from rlkd.evaluation.play import Table
send = Table.send
def spy(table):
    Table.send = send
    print("playing", flush=True)
    send(table)
Table.send = spy
"""


@pytest.mark.parametrize("grey", ["palette", "mean"])  # of the C++ environment; of environments in workers
def test_ctrl_c_ends_an_evaluation_in_one_line(grey: Literal["palette", "mean"], work: Path) -> None:
    breakout = environment("breakout")
    played = replace(breakout, views={"pixels": replace(breakout.views["pixels"], grey=grey)})
    policy(played, "categorical", TINY_PIXELS).save(work / "breakout.safetensors")
    process = started(["eval", "breakout.safetensors", "--episodes", "100000"], work, first=PLAYING)
    assert process.stdout is not None
    assert process.stdout.readline() == "playing\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = ended(process)
    assert (process.returncode, out) == (3, "")
    assert err == "rlkd: interrupted\n"


def test_output_that_nobody_reads_to_its_end_is_no_error(work: Path) -> None:
    with started(["list"], work) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0
