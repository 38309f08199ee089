"""What runs in a worker process: several environments, stepped one after the other when the parent says so."""

import fcntl
import os
import signal
import traceback
from multiprocessing.connection import Connection
from typing import Any

import gymnasium

from rlkd.errors import RecipeError
from rlkd.metrics import STOPS
from rlkd.vector.making import make
from rlkd.vector.shared import NO_ROOM, NOWHERE, RESET, STAY, UNSEEDED, Block, Failure, Task

MAX_TEXT = 500
"""Characters of an exception that travel to the parent."""


def main(commands: int, lifeline: int, memory: int) -> None:
    """Serve until the parent closes the commands, or is gone.

    Args:
        commands: file descriptor of a pipe both ways: a `Task`, then one message for each step; the answer to each is
            None or a `Failure`, after which the worker ends.
        lifeline: file descriptor of a pipe that the parent holds open while it lives.
        memory: file descriptor of the shared memory.
    """
    # The parent decides when to stop: a signal to all processes must cost no episode that is being saved.
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent(lifeline)
    for descriptor in (commands, lifeline, memory):
        os.set_inheritable(descriptor, False)
    with Connection(commands) as parent:
        try:
            _serve(parent, memory)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent has closed the vector environment, perhaps in the middle of a step


def _die_with_parent(lifeline: int) -> None:
    """Ask the kernel for SIGKILL when the other end of the lifeline closes: it works on a frozen process, too."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    try:
        os.read(lifeline, 1)
    except BlockingIOError:
        return
    os.kill(os.getpid(), signal.SIGKILL)  # it closed before we asked


def _serve(parent: "Connection[Any, Any]", memory: int) -> None:
    task: Task = parent.recv()
    try:
        envs = [make(task.recipe) for _ in task.rows]
    except RecipeError as error:
        parent.send(Failure(str(error), recipe=True))
        return
    except Exception as error:  # noqa: BLE001  # whatever it is, the parent reports it
        parent.send(Failure(in_one_line(error)))
        return
    block = Block(task.layout, memory)
    parent.send(None)
    try:
        while True:
            parent.recv_bytes()
            try:
                for row, env in zip(task.rows, envs, strict=True):
                    block.at[task.index] = row
                    _play(block, row, env)
            except Exception as error:  # noqa: BLE001  # as above
                parent.send(Failure(in_one_line(error)))
                return
            block.at[task.index] = NOWHERE
            parent.send(None)
    finally:
        for env in envs:
            env.close()


def _play(block: Block, row: int, env: gymnasium.Env[Any, Any]) -> None:
    """Do what is to be done with one row."""
    todo = block.todo[row]
    if todo == STAY:
        return
    reward: Any = 0.0
    terminated = truncated = False
    if todo == RESET:
        seed = int(block.seed[row])
        observation, info = env.reset(seed=None if seed == UNSEEDED else seed)
    else:
        # A copy, because environments keep their last action.
        observation, reward, terminated, truncated, info = env.step(block.action[row].copy())
    block.observation[row] = observation
    block.reward[row] = reward
    block.terminated[row] = terminated
    block.truncated[row] = truncated
    block.lives[row] = info.get("lives", 0)
    room = info.get("room")  # of other environments, it may be anything
    block.room[row] = room if isinstance(room, int) else NO_ROOM


def in_one_line(error: Exception) -> str:
    """Type and text of an exception, and the place that raised it."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_TEXT]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text
