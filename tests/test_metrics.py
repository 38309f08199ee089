"""Tests of `rlkd.metrics`: one curve per run whatever happened to it, progress that tells the truth, signals."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlkd import metrics
from rlkd.errors import Stopped, StorageError
from rlkd.metrics import Recorder, bar, read_metrics, stop_signal

SCORE = "rollout/ep_rew_mean"
STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


def disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def record(folder: Path, steps: range, value: float, *, resume_step: int = 0) -> None:
    recorder = Recorder(folder, resume_step=resume_step)
    for step in steps:
        recorder.write(step, {SCORE: value})
    recorder.close()


def jsonl_curve(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line[SCORE]) for line in read_metrics(folder)]


def tensorboard_curve(folder: Path) -> list[tuple[int, float]]:
    """The curve as TensorBoard itself shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(SCORE)]


def test_scalars_arrive_in_both_logs_with_step_and_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.write(128, {SCORE: 12.5, "train/entropy": 0.5})
    recorder.close()
    (line,) = read_metrics(tmp_path)
    assert line.pop("time") > 1_700_000_000
    assert line == {"step": 128, SCORE: 12.5, "train/entropy": 0.5}
    assert tensorboard_curve(tmp_path) == [(128, 12.5)]


def test_a_line_is_on_the_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.write(1, {SCORE: 1.0})
    assert jsonl_curve(tmp_path) == [(1, 1.0)]
    recorder.close()


def test_what_is_not_a_number_is_left_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.write(1, {SCORE: float("nan"), "train/loss": float("inf"), "time/frames": 4})
    recorder.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert set(json.loads(text, parse_constant=pytest.fail)) == {"step", "time", "time/frames"}


@pytest.mark.parametrize("resume_step", [6, 0], ids=["from a checkpoint", "before the first checkpoint"])
def test_a_resumed_run_has_one_curve_in_both_logs(tmp_path: Path, resume_step: int) -> None:
    record(tmp_path, range(10), 1.0)
    # TensorBoard reads files in the order of their names, which begin with a second and end with an unpadded count.
    time.sleep(1.0)
    record(tmp_path, range(resume_step, 12), 2.0, resume_step=resume_step)
    want = [(step, 1.0 if step < resume_step else 2.0) for step in range(12)]
    assert jsonl_curve(tmp_path) == want
    assert tensorboard_curve(tmp_path) == want


def test_a_torn_last_line_is_skipped_and_gone_after_a_resume(tmp_path: Path) -> None:
    record(tmp_path, range(3), 1.0)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])
    assert jsonl_curve(tmp_path) == [(0, 1.0), (1, 1.0)]
    record(tmp_path, range(2, 4), 2.0, resume_step=2)
    assert len(path.read_text().splitlines()) == 4
    assert jsonl_curve(tmp_path) == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0)]


def test_a_run_without_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_a_crash_while_the_record_is_cut_back_loses_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, range(10), 1.0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", disk_full)
        with pytest.raises(StorageError, match=r"metrics\.jsonl: the disk is full"):
            Recorder(tmp_path, resume_step=5)
    assert len(jsonl_curve(tmp_path)) == 10


def test_a_disk_that_fills_up_while_a_run_records_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(recorder._lines, "flush", disk_full)
        with pytest.raises(StorageError, match=r"metrics\.jsonl: cannot be written: No space left on device"):
            recorder.write(1, {SCORE: 1.0})
    recorder.close()


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    return clock


def test_without_a_terminal_a_line_every_30_seconds_says_how_long_it_takes(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("ppo on pong, agent steps", 100_000) as progress:
        for done in range(0, 10_001, 100):  # 100 steps a second: 100 seconds of 1,000
            progress.update(done, "score 3.0")
            clock.now += 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "ppo on pong, agent steps: 3,000 of 100,000, about 16.2 min left  score 3.0",
        "ppo on pong, agent steps: 6,000 of 100,000, about 15.7 min left  score 3.0",
        "ppo on pong, agent steps: 9,000 of 100,000, about 15.2 min left  score 3.0",
    ]


def test_the_time_left_of_a_resumed_run_comes_from_the_speed_of_this_attempt(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("ppo", 100_000) as progress:
        progress.update(90_000)
        clock.now += 60
        progress.update(91_000)
    assert "91,000 of 100,000, about 9.0 min left" in capsys.readouterr().err


def test_on_a_terminal_a_bar_is_drawn_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with bar("ppo on pong", 100) as progress:
        progress.update(40, "score 3.0")
    out, err = capsys.readouterr()
    assert out == ""
    assert "ppo on pong" in err
    assert "40/100" in err
    assert "score 3.0" in err


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_sets_a_flag_and_the_next_check_stops(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in STOPS]
    with stop_signal() as stop:
        stop.check("nothing is lost")
        signal.raise_signal(number)
        assert stop.asked
        with pytest.raises(Stopped, match="stopped on a signal; run 7 is saved") as caught:
            stop.check("run 7 is saved")
    assert caught.value.exit_code == 3
    assert [signal.getsignal(each) for each in STOPS] == before


def test_a_signal_within_a_block_or_around_it_is_known_in_both() -> None:
    with stop_signal() as outer:
        with stop_signal() as inner:
            seen = [inner.asked]
        seen.append(outer.asked)
        with stop_signal():
            signal.raise_signal(signal.SIGINT)  # and nobody looks within
        seen.append(outer.asked)
        with stop_signal() as inner, pytest.raises(Stopped):
            inner.check("at once")
    assert seen == [False, False, True]


def test_handlers_are_restored_after_an_error_too() -> None:
    before = [signal.getsignal(each) for each in STOPS]
    with pytest.raises(RuntimeError, match="anything"), stop_signal():
        raise RuntimeError("anything")
    assert [signal.getsignal(each) for each in STOPS] == before


STUBBORN = """
import signal, time
from rlkd.metrics import stop_signal
with stop_signal() as stop:
    print("ready", flush=True)
    while not stop.asked:
        time.sleep(0.01)
    print("asked", flush=True)
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("number", STOPS)
def test_a_second_signal_ends_a_program_that_does_not_stop(number: signal.Signals) -> None:
    command = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for word in ("ready", "asked"):
            assert process.stdout.readline() == f"{word}\n"
            process.send_signal(number)
        assert process.wait(timeout=30) == -number


def test_outside_the_main_thread_signals_stay_as_they_are() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stop_signal() as stop:
            seen.append((stop.asked, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
