"""Work, wall seconds and CPU seconds of one variant; and which of its parts the CPU seconds went into."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed stretch."""

    work: float
    """Agent steps, states or transitions."""
    wall: float
    """Seconds."""
    cpu: float
    """Seconds of all threads of the own process, and of worker processes where there are any."""

    def record(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def timed(work: Callable[[], int], seconds: float) -> Sample:
    """Call again and again for about so many wall seconds, once before that to warm up.

    Args:
        work: does some, and returns how much.
        seconds: at least; a call that has begun ends.
    """
    (sample,) = in_turn([work], seconds)
    return sample


def in_turn(works: Sequence[Callable[[], int]], seconds: float) -> list[Sample]:
    """The same of several that take turns, so that what slows the machine down for a second slows all of them down."""
    for work in works:
        work()
    samples = [Sample(0, 0.0, 0.0) for _ in works]
    while min(sample.wall for sample in samples) < seconds:
        for place, work in enumerate(works):
            wall, cpu = time.perf_counter(), time.process_time()
            done = work()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            before = samples[place]
            samples[place] = Sample(before.work + done, before.wall + wall, before.cpu + cpu)
    return samples


class Window:
    """A stretch of a training run that somebody else's loop drives: from the first mark to the last."""

    def __init__(self, seconds: float) -> None:
        """A window that is wide enough after so many wall seconds."""
        self.seconds = seconds
        self._marks: list[tuple[float, float, float]] = []

    def mark(self, work: float) -> bool:
        """Note how much work there was in all until now; True when that was long enough."""
        self._marks = [*self._marks[:1], (work, time.perf_counter(), time.process_time())]
        return self._marks[-1][1] - self._marks[0][1] >= self.seconds and len(self._marks) > 1

    def sample(self) -> Sample:
        """Between the first mark and the last."""
        first, last = self._marks
        return Sample(*(after - before for before, after in zip(first, last, strict=True)))


def tree_cpu_seconds(process: int) -> float:
    """CPU seconds of a process and of all processes below it, those included that have ended and were waited for."""
    spent: dict[int, tuple[int, float]] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue  # it ended meanwhile
            numbers = text.rpartition(")")[2].split()  # a name may hold spaces
            spent[int(entry.name)] = int(numbers[1]), sum(int(number) for number in numbers[11:15]) / tick
    total, level = 0.0, {process}
    while level:
        total += sum(spent[each][1] for each in level if each in spent)
        level = {each for each, (parent, _) in spent.items() if parent in level}
    return total


@dataclass(slots=True)
class Shares:
    """CPU seconds by part of a program, measured on its own threads by wrapping some of its functions."""

    spent: dict[str, float] = field(default_factory=dict)
    """Seconds by part, each without the parts called from it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _local: threading.local = field(default_factory=threading.local)
    _main: float = 0.0
    _process: float = 0.0
    _elsewhere: float = 0.0

    def start(self) -> None:
        """Forget everything until now. On the main thread."""
        with self._lock:
            self.spent.clear()
            self._elsewhere = 0.0
            self._main, self._process = time.thread_time(), time.process_time()

    def wrapped(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, with its CPU seconds counted."""

        @wraps(function)
        def counted(*args: Any, **options: Any) -> Any:
            nested: list[float] = self._local.__dict__.setdefault("nested", [])
            nested.append(0.0)
            started = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                seconds = time.thread_time() - started
                inner = nested.pop()
                if nested:
                    nested[-1] += seconds
                with self._lock:
                    self.spent[part] = self.spent.get(part, 0.0) + seconds - inner
                    if threading.current_thread() is not threading.main_thread():
                        self._elsewhere += seconds - inner

        return counted

    def over(self, parts: Mapping[tuple[Any, str], str]) -> ExitStack:
        """A context in which the functions (owner, name) are counted, each for its part."""
        stack = ExitStack()
        for (owner, name), part in parts.items():
            stack.enter_context(mock.patch.object(owner, name, self.wrapped(getattr(owner, name), part)))
        return stack

    def shares(self) -> dict[str, float]:
        """Share of each part in the process's CPU seconds since `start`, largest first.

        `other Python` is the main thread's rest. `emulators` is what no thread of Python's spent: threads of the C++
        environments, and little else where torch has one thread.
        """
        process, main = time.process_time() - self._process, time.thread_time() - self._main
        with self._lock:
            in_main = sum(self.spent.values()) - self._elsewhere
            parts = self.spent | {
                "other Python": main - in_main,
                "emulators": process - main - self._elsewhere,
            }
        return {name: seconds / process for name, seconds in sorted(parts.items(), key=lambda item: -item[1])}
