"""Environments that die, freeze or raise: registered when a worker process imports this module by its id.

All count: the observation is [steps, seed % 1000], each step pays 1 + seed % 7, an episode ends after 10 steps.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlkd.recipe import Environment, Protocol

STEPS = 10


class Counting(gymnasium.Env[np.ndarray, np.int64]):
    """Counts its steps; at one of them something happens, if a file is there to ask for it."""

    observation_space = gymnasium.spaces.Box(0, 1000, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(
        self,
        fault: str = "",
        at: int = -1,
        seed: int = -1,
        once: str = "",
        make: str = "",
        render_mode: str | None = None,
    ) -> None:
        """Behave until asked.

        Args:
            fault: exit, kill, freeze or raise.
            at: step of an episode at which it happens; 0: its reset.
            seed: of the episode in which it happens; -1: of any.
            once: a file that is removed by the fault, which happens only where it exists; "": always.
            make: a file from whose disappearance on no environment can be made.
            render_mode: as in gymnasium.
        """
        if make and not Path(make).exists():
            raise OSError("no more of them")
        self.render_mode = render_mode
        self.fault, self.at, self.wanted, self.once = fault, at, seed, once
        self.seed = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        self.seed = int(self.np_random.integers(10_000)) if seed is None else seed
        self.steps = 0
        self._perhaps()
        return self._seen(), {"lives": 3}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self._perhaps()
        return self._seen(), 1.0 + self.seed % 7, self.steps == STEPS, False, {"lives": 3 - self.steps // 4}

    def _seen(self) -> np.ndarray:
        return np.array([self.steps, self.seed % 1000], np.float32)

    def _perhaps(self) -> None:
        if self.steps != self.at or self.wanted not in (-1, self.seed):
            return
        if self.once:
            try:
                Path(self.once).unlink()
            except FileNotFoundError:
                return
        if self.fault == "exit":
            os._exit(7)
        elif self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "freeze":
            time.sleep(1000)
        raise ArithmeticError("a deliberate\nfault")


gymnasium.register("Counting-v0", entry_point="tests.faulty:Counting")


def counting(**options: bool | int | float | str) -> Environment:
    """The recipe, with the options of `Counting`."""
    protocol = Protocol(name="counting", episodes=8)
    return Environment(
        source="gymnasium", id="tests.faulty:Counting-v0", frame_cap=1000, protocol=protocol, options=options
    )
