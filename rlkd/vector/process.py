"""The parent's side of one worker process: start it, tell it to go on, listen to it, end it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe

from rlkd.errors import RecipeError
from rlkd.recipe import Environment
from rlkd.vector.shared import Layout, Task

START_SECONDS = 120.0
"""For imports and the making of environments, on a busy machine."""
LAST_SECONDS = 5.0
"""For a process whose pipe has closed to be gone."""
PROGRAM = "import sys; sys.path[:] = sys.argv[4:]; from rlkd.vector.worker import main; main(*map(int, sys.argv[1:4]))"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""There is a worker for each core."""


class Worker:
    """One worker process, which may be started again and again."""

    def __init__(self, recipe: Environment, index: int, rows: tuple[int, ...], layout: Layout, memory: int) -> None:
        """Start it; `ready` waits for it.

        Args:
            recipe: what it plays.
            index: which worker it is.
            rows: its environments.
            layout: of the shared memory.
            memory: its file descriptor.
        """
        self.recipe, self.index, self.rows, self.layout, self.memory = recipe, index, rows, layout, memory
        self.start()

    def start(self) -> None:
        """Start a fresh Python that imports this package and no caller's script.

        Not a fork: a copy of this process, with its threads of emulators and torch, can hang, and would hold the lock
        of the run folder. Its process group is its own, so that Ctrl-C in a terminal reaches the parent alone.
        """
        self.pipe, theirs = Pipe()
        lifeline, self.lifeline = Pipe(duplex=False)
        descriptors = (theirs.fileno(), lifeline.fileno(), self.memory)
        with theirs, lifeline:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, descriptors), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what an environment prints is no result
                env=ONE_THREAD | os.environ,
                pass_fds=descriptors,
                process_group=0,
            )
        self.pipe.send(Task(self.recipe, self.index, self.rows, self.layout))

    def ready(self) -> str | None:
        """Wait for its environments to be made: None, or what went wrong.

        Raises:
            RecipeError: no environment can be made from the recipe.
        """
        return self.answer(time.monotonic() + START_SECONDS, START_SECONDS)

    def go(self) -> None:
        """Let it do what the shared memory says."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it died meanwhile; `answer` finds out how
            self.pipe.send_bytes(b"go")

    def answer(self, deadline: float, timeout: float) -> str | None:
        """Wait for it to be done: None, or what went wrong.

        Args:
            deadline: on `time.monotonic`'s clock, in seconds.
            timeout: the same as a length, for the text.
        """
        if not self.pipe.poll(max(0.0, deadline - time.monotonic())):
            return f"no answer within {timeout:g} s"
        try:
            failure = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return self._ending()
        if failure is None:
            return None
        if failure.recipe:
            raise RecipeError(failure.text)
        return str(failure.text)

    def _ending(self) -> str:
        try:
            code = self.process.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        if code >= 0:
            return f"it exited with code {code}"
        return f"it was killed by {signal.Signals(-code).name}"

    def kill(self) -> None:
        """End it at once, frozen or not."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()
        self.lifeline.close()


def close_all(workers: Sequence[Worker], patience: float) -> None:
    """End workers after the step under way, so that environments can close; kill those that take longer.

    Args:
        workers: all of one vector environment.
        patience: seconds for all of them together.
    """
    for worker in workers:
        worker.pipe.close()
    deadline = time.monotonic() + patience
    for worker in workers:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        worker.kill()
