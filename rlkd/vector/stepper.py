"""One convention for stepping and resetting, whatever vectorised environment lies below."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from rlkd.data import Episode, Step
from rlkd.recipe import Environment


class Stepper:
    """Steps a vectorised environment and gives `Step` records; keeps whole-game scores.

    `send` starts a step and `receive` waits for it, so that inference for one half of the environments can
    hide behind the emulators of the other half.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self.env = env
        self.num_envs = env.num_envs
        self.next_step = _autoreset_mode(env) is AutoresetMode.NEXT_STEP
        self.finished: list[Episode] = []
        """Episodes that ended since the caller last emptied this list, in order of ending."""
        self._over = np.zeros(self.num_envs, bool)
        self._score = np.zeros(self.num_envs)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._lives = np.zeros(self.num_envs, np.int64)
        self._rooms: list[set[int]] = [set() for _ in range(self.num_envs)]
        self._actions: np.ndarray | None = None
        self.in_flight = False
        """A step was sent and not received yet."""

    def reset(self, seeds: np.ndarray | None = None) -> np.ndarray:
        """First observations, [N, ...], uint8 or float32.

        Args:
            seeds: [N] int, one for each row; None goes on with the streams that `make_vec` seeded.
        """
        every = np.ones(self.num_envs, bool)
        return self.reset_rows(every, seeds) if seeds is not None else self._restart(self.env.reset(), every)

    def reset_rows(self, rows: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes on some rows, each from its own seed; the other rows stay as they are.

        Args:
            rows: [N] bool.
            seeds: one int for each True in `rows`.

        Returns:
            [N, ...]: the observations of all rows.

        Raises:
            ValueError: no row is to be reset, or there is not one seed for each.
        """
        if not rows.any() or len(seeds) != rows.sum():
            raise ValueError(f"need at least one row and a seed for each, got {rows.sum()} and {len(seeds)}")
        if _is_ale(self.env):
            options = None if rows.all() else {"reset_mask": rows}
            reset = self.env.reset(seed=cast(Any, np.asarray(seeds, np.int64)), options=options)
        else:
            by_row: list[int | None] = [None] * self.num_envs
            for row, seed in zip(np.flatnonzero(rows), seeds, strict=True):
                by_row[row] = int(seed)
            reset = self.env.reset(seed=cast(Any, by_row), options={"reset_mask": rows})
        return self._restart(reset, rows)

    def send(self, actions: np.ndarray) -> None:
        """Start one step with actions [N] or [N, D]."""
        if _is_ale(self.env):
            cast(Any, self.env).send(np.ascontiguousarray(actions, np.int64))
        elif hasattr(self.env, "step_async"):
            self.env.step_async(actions)
        else:
            self._actions = actions
        self.in_flight = True

    def receive(self) -> Step:
        """Wait for the step that `send` started.

        Raises:
            WorkerError: worker processes failed again and again.
        """
        self.in_flight = False
        observation, reward, terminated, truncated, info = self._wait()
        lost = np.asarray(info.get("broken", np.zeros(self.num_envs, bool)))
        valid = ~(self._over | lost) if self.next_step else np.ones(self.num_envs, bool)
        broken = lost & ~self._over  # an episode that was over already has lost nothing
        # Copies, because some sources hand out views of buffers that the next step overwrites.
        reward = np.where(valid, reward, 0.0)
        terminated, truncated = terminated & valid, truncated & valid
        ended = terminated | truncated
        arrived = observation = as_input(observation)
        if not self.next_step and ended.any():
            # Rows of running episodes hold stale memory in some sources: only rows that ended are read.
            arrived = observation.copy()
            final = info["final_obs"]
            for row in np.flatnonzero(ended):
                arrived[row] = final[row]
        first = ended if not self.next_step else ~valid
        lives = np.asarray(info.get("lives", np.zeros(self.num_envs)), np.int64)
        life_lost = valid & ~ended & (lives < self._lives)
        self._lives = lives.copy()
        self._score[lost] = 0
        self._steps[lost] = 0
        for row in np.flatnonzero(lost):
            self._rooms[row].clear()
        self._enter(info, valid & ~first)
        self._account(valid, reward, ended)
        self._enter(info, first)
        self._over = ended if self.next_step else np.zeros(self.num_envs, bool)
        return Step(observation, arrived, reward, terminated, truncated, life_lost, valid, first, broken)

    @property
    def lost(self) -> dict[int, int]:
        """Rows whose worker process died or froze in the last step, and the seeds of the episodes that began there."""
        return dict(getattr(self.env, "lost", {}))

    def lose(self, rows: Mapping[int, int]) -> None:
        """Let the next step come out as one that lost some rows, [row: seed]; only where worker processes play."""
        if rows:
            cast(Any, self.env).lose(rows)

    def step(self, actions: np.ndarray) -> Step:
        """`send` and `receive` in one call."""
        self.send(actions)
        return self.receive()

    @property
    def outside(self) -> bool:
        """Environments step in threads or processes of their own, and leave the interpreter to others meanwhile."""
        return _is_ale(self.env) or hasattr(self.env, "step_async")

    def close(self) -> None:
        """Release emulators and worker processes, also in the middle of a step."""
        if self.in_flight and _is_ale(self.env):
            self._wait()
        self.env.close()

    def _wait(self) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if _is_ale(self.env):
            return cast(Any, self.env).recv()  # type: ignore[no-any-return]
        if hasattr(self.env, "step_wait"):
            return cast(Any, self.env).step_wait()  # type: ignore[no-any-return]
        return self.env.step(self._actions)

    def _restart(self, reset: tuple[Any, dict[str, Any]], rows: np.ndarray) -> np.ndarray:
        observation, info = reset
        self._over[rows] = False
        self._score[rows] = 0
        self._steps[rows] = 0
        lives = np.asarray(info.get("lives", np.zeros(self.num_envs)), np.int64)
        self._lives[rows] = lives[rows]
        for row in np.flatnonzero(rows):
            self._rooms[row].clear()
        self._enter(info, rows)
        return as_input(observation)

    def _enter(self, info: dict[str, Any], rows: np.ndarray) -> None:
        """Note in which rooms some rows are, [N] bool; nothing where the source does not say."""
        room = np.asarray(info.get("room"))
        if room.dtype.kind == "i":  # of other environments, it may be anything
            for row in np.flatnonzero(rows & (room >= 0)):
                self._rooms[row].add(int(room[row]))

    def _account(self, valid: np.ndarray, reward: np.ndarray, ended: np.ndarray) -> None:
        self._score += reward
        self._steps += valid
        for row in np.flatnonzero(ended):
            self.finished.append(Episode(float(self._score[row]), int(self._steps[row]), frozenset(self._rooms[row])))
            self._rooms[row].clear()
        self._score[ended] = 0
        self._steps[ended] = 0


def ends_for_learner(environment: Environment, step: Step) -> np.ndarray:
    """[N] bool: nothing behind the step counts for who learns, as the environment's recipe says."""
    over = step.terminated | step.life_lost if environment.ends_with_life else step.terminated
    return over | step.truncated if environment.at_frame_cap == "terminates" else over


def as_input(observation: Any) -> np.ndarray:
    """A fresh array that networks read: uint8 stays, every other number becomes float32."""
    dtype = np.uint8 if observation.dtype == np.uint8 else np.float32
    return np.array(observation, dtype=dtype)


def _is_ale(env: VectorEnv[Any, Any, Any]) -> bool:
    return hasattr(env, "ale")


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = AutoresetMode(env.metadata["autoreset_mode"])
    if mode is AutoresetMode.DISABLED:
        raise ValueError("environments with autoreset disabled cannot be stepped by rlkd")
    return mode
