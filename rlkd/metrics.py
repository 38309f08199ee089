"""What a run tells the person who waits: progress with ETA, `metrics.jsonl`, TensorBoard.

The JSONL file is the record; TensorBoard is a view of it. Both count agent steps on the x axis and both are
cut back to the last checkpoint when a run resumes, so that one run gives one curve.
"""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rlkd import storage
from rlkd.errors import Stopped, StorageError


class Recorder:
    """Appends scalars to `metrics.jsonl` and TensorBoard in one run folder."""

    def __init__(self, folder: Path, *, resume_step: int = 0) -> None:
        """Open the logs.

        Args:
            folder: the run folder.
            resume_step: first step to come; what an earlier attempt wrote from there on is dropped.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        from torch.utils.tensorboard.writer import SummaryWriter

        path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(folder) if line["step"] < resume_step]
        storage.write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        try:
            self._lines = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step)
        except OSError as error:
            raise StorageError(f"{folder}: the logs cannot be opened: {error.strerror}") from None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars by tag, {"rollout/ep_rew_mean": 12.5}, at an agent step; NaN is left out."""
        finite = {tag: float(value) for tag, value in values.items() if math.isfinite(value)}
        try:
            self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
            self._lines.flush()
            for tag, value in finite.items():
                self._board.add_scalar(tag, value, step)
        except OSError as error:
            raise StorageError(f"{self._lines.name}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Flush and close both logs."""
        try:
            self._board.close()
            self._lines.close()
        except OSError as error:
            raise StorageError(f"{self._lines.name}: cannot be written: {error.strerror}") from None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's `metrics.jsonl`, in order; a torn last line is skipped."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


class Bar:
    """One progress bar on stderr with counts, remaining time and a few live figures."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def update(self, completed: float, note: str = "") -> None:
        """Set how much is done, in the bar's unit, and the text behind it."""
        self._progress.update(self._task, completed=completed, note=note)


@contextmanager
def bar(title: str, total: float) -> Iterator[Bar]:
    """A progress bar while the block runs; plain lines every 30 seconds where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainBar(title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        yield Bar(progress, progress.add_task(title, total=total, note=""))


class _PlainBar(Bar):
    def __init__(self, title: str, total: float) -> None:
        self._title, self._total = title, total
        self._start = time.monotonic()
        self._next = self._start + 30
        self._before: float | None = None

    def update(self, completed: float, note: str = "") -> None:
        now = time.monotonic()
        if self._before is None:
            # A resumed run starts with much done: the time left comes from this attempt's speed alone.
            self._start, self._before = now, completed
        if now < self._next or completed <= self._before:
            return
        self._next = now + 30
        left = (now - self._start) * max(0.0, self._total - completed) / (completed - self._before)
        share = f"{completed:,.0f} of {self._total:,.0f}"
        print(f"{self._title}: {share}, about {left / 60:.1f} min left  {note}", file=sys.stderr, flush=True)


def say(line: str) -> None:
    """One line for the person who waits, on stderr."""
    print(line, file=sys.stderr, flush=True)


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that ask a run to stop: Ctrl-C, the end of a machine's time, and what batch systems send some time before."""


class StopSignal:
    """Any of `STOPS` sets a flag; the run saves at its next boundary. A second signal ends it at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = True

    def check(self, saved: str) -> None:
        """Raise `Stopped` if a signal came. `saved` says what is safe and how to go on."""
        if self.asked:
            raise Stopped(f"stopped on a signal; {saved}")


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Catch `STOPS` while the block runs; outside the main thread, signals stay as they are.

    Within another such block, what came in the one is known in the other.
    """
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in STOPS}
    around = [handler for handler in before.values() if isinstance(handler, StopSignal)]
    stop.asked = any(outer.asked for outer in around)
    try:
        yield stop
    finally:
        for outer in around:
            outer.asked |= stop.asked
        for number, handler in before.items():
            signal.signal(number, handler)
