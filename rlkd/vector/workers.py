"""Environments that run in Python, over a few worker processes, several in each.

For Atari views that ale-py's C++ environment cannot express, and for environments whose steps are slow. A worker that
dies or freezes is started again, and its rows go on with new episodes; a run stops only where that does not help.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlkd.errors import RecipeError, WorkerError
from rlkd.recipe import EVALUATION_SEEDS, Environment
from rlkd.vector.faults import IN_A_ROW, Counter, Histories
from rlkd.vector.process import Worker, close_all
from rlkd.vector.shared import NOWHERE, RESET, STAY, STEP, UNSEEDED, Block, Layout

PATIENCE = 1.0
"""Seconds that closing leaves to environments before their processes are killed."""


class WorkerVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N environments over W processes, in gymnasium's NEXT_STEP mode: the transitions are those of SyncVectorEnv.

    Of the infos, `lives` comes through, [N] int64, 0 where an environment does not say; `room`, [N] int64, -1 where it
    does not say; and `broken`, [N] bool: the row's worker died or froze in this step, or when a row was reset since the
    last one. All rows of that worker have begun other episodes then, from seeds drawn from the vector environment's own
    generator; the observation is the first one, the reward 0.
    """

    def __init__(
        self,
        recipe: Environment,
        num_envs: int,
        seed: int,
        *,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        workers: int,
        timeout: float,
    ) -> None:
        """Start the workers and wait until all environments are made; `reset` comes next.

        Args:
            recipe: what all of them play.
            num_envs: how many environments.
            seed: of the episodes that begin after a fault.
            observation_space: of one environment, a Box.
            action_space: of one environment, a Box or Discrete.
            workers: how many processes, at most one an environment.
            timeout: seconds after which a worker that does not answer to a step or a reset is given up.

        Raises:
            RecipeError: the environment cannot be made, or has other spaces.
            WorkerError: a worker died before its environments were made.
        """
        if not 1 <= workers <= num_envs:
            raise ValueError(f"workers must be from 1 to num_envs, got {workers} for {num_envs}")
        self.workers: list[Worker] = []
        self.memory = -1
        if not isinstance(observation_space, gymnasium.spaces.Box):
            raise RecipeError(f"{recipe.id}: observations must be a Box, got {type(observation_space).__name__}")
        if not isinstance(action_space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
            raise RecipeError(f"{recipe.id}: actions must be Discrete or a Box, got {action_space}")
        self.recipe, self.num_envs, self.timeout = recipe, num_envs, timeout
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        # A stream of its own: environments draw from the bare seed.
        self.generator = np.random.default_rng([seed, 4])
        self.histories = Histories(num_envs, action_space)
        self.counter = Counter(num_envs, workers)
        self._over = np.zeros(num_envs, bool)
        self.lost: dict[int, int] = {}
        """Rows whose worker was lost in the last step, and the seeds of the episodes that began in them."""
        self._losing: dict[int, int] = {}
        self._late = np.zeros(num_envs, bool)  # broken in a reset of other rows, not reported yet
        self._under_way = False
        layout = Layout(
            num_envs,
            workers,
            observation_space.shape,
            str(observation_space.dtype),
            action_space.shape or (),
            str(action_space.dtype),
        )
        self.memory = os.memfd_create("rlkd-environments")
        os.ftruncate(self.memory, layout.size)
        self.block = Block(layout, self.memory)
        self.block.at[:] = NOWHERE
        parts = np.array_split(np.arange(num_envs), workers)
        try:
            for index, part in enumerate(parts):
                self.workers.append(Worker(recipe, index, tuple(part.tolist()), layout, self.memory))
            for worker in self.workers:
                if (reason := worker.ready()) is not None:
                    raise WorkerError(f"{recipe.id}: a worker process could not make its environments: {reason}")
        except BaseException:
            self.close()
            raise

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes: first observations [N, ...] and infos.

        Args:
            seed: row i begins from `seed + i`, or from the i-th of a list; None goes on with its random stream.
            options: `reset_mask`, [N] bool, names the rows; the others stay as they are. Unset: all rows.

        Raises:
            WorkerError: three faults in a row.
        """
        if self._under_way:  # a signal broke its `step_wait` off
            self.step_wait()
        rows = self._rows(options)
        given = self._seeds(seed)
        self.block.todo[:] = np.where(rows, RESET, STAY)
        for row in np.flatnonzero(rows).tolist():
            self.block.seed[row] = given.get(row, UNSEEDED)
            self.histories.reset(row, given.get(row))
        self._over[rows] = self._late[rows] = False
        for worker, reason in self._faults(self._go()):
            mine = list(worker.rows)
            self._recover(worker, reason, {row: given[row] for row in mine if rows[row] and row in given})
            self._late[mine] = ~rows[mine]
        return self.block.observation.copy(), {"lives": self.block.lives.copy(), "room": self.block.room.copy()}

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step with actions [N] or [N, D]; `step_wait` gives what came of it."""
        actions = np.asarray(actions)
        if self._under_way:
            raise ValueError("a step is under way; step_wait comes first")
        if actions.shape != self.block.action.shape:
            raise ValueError(f"actions must be {list(self.block.action.shape)}, got {list(actions.shape)}")
        self.block.action[:] = actions
        self.block.todo[:] = np.where(self._late, STAY, np.where(self._over, RESET, STEP))
        self.block.seed[:] = UNSEEDED
        for row in np.flatnonzero(~self._late).tolist():
            self.histories.act(row, self.block.action[row], over=bool(self._over[row]))
        for row, seed in self._losing.items():
            self.block.todo[row], self.block.seed[row] = RESET, seed
            self.histories.reset(row, seed)
        self._go()
        self._under_way = True

    def lose(self, rows: Mapping[int, int]) -> None:
        """Let the next step come out as one in which the workers of some rows were lost: from which seeds, by row."""
        self._losing = dict(rows)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Wait for the step: observations, rewards, terminated, truncated, infos.

        Raises:
            WorkerError: three faults in a row, of a worker that completed no step in between, or of an environment at
                the same step of its episode.
        """
        if not self._under_way:
            raise ValueError("no step is under way; step_async comes first")
        failed = self._faults(self.workers)
        self._under_way = False
        broken, self._late = self._late, np.zeros(self.num_envs, bool)
        for worker, reason in failed:
            self._recover(worker, reason, {})
            broken[list(worker.rows)] = True
        seeds = ((row, self.histories.seeds[row]) for worker, _ in failed for row in worker.rows)
        self.lost = {row: seed for row, seed in seeds if seed is not None}
        broken[list(self._losing)] = True
        self._losing = {}
        block = self.block
        self._over = block.terminated | block.truncated
        lost = {worker.index for worker, _ in failed}
        for worker in self.workers:
            if worker.index not in lost:
                self.counter.completed(worker.index, [row for row in worker.rows if self._over[row]])
        infos = {"lives": block.lives.copy(), "room": block.room.copy(), "broken": broken}
        return block.observation.copy(), block.reward.copy(), block.terminated.copy(), block.truncated.copy(), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """`step_async` and `step_wait` in one call."""
        self.step_async(actions)
        return self.step_wait()

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers, also in the middle of a step; gymnasium's `close` calls this once and passes all on."""
        close_all(self.workers, PATIENCE)
        if self.memory >= 0:
            os.close(self.memory)

    def _rows(self, options: dict[str, Any] | None) -> np.ndarray:
        """[N] bool: which rows a reset is of."""
        options = options or {}
        if set(options) - {"reset_mask"}:
            raise ValueError(f"the only option of a reset is reset_mask, got {sorted(options)}")
        rows = np.asarray(options.get("reset_mask", np.ones(self.num_envs, bool)))
        if rows.shape != (self.num_envs,) or rows.dtype != bool or not rows.any():
            raise ValueError(f"reset_mask must be [{self.num_envs}] bool with at least one True, got {rows}")
        return rows

    def _seeds(self, seed: int | Sequence[int | None] | None) -> dict[int, int]:
        """Seeds by row, of those that have one."""
        if seed is None:
            return {}
        if isinstance(seed, int):
            return {row: seed + row for row in range(self.num_envs)}
        if len(seed) != self.num_envs:
            raise ValueError(f"need a seed for each of {self.num_envs} environments, got {len(seed)}")
        return {row: int(each) for row, each in enumerate(seed) if each is not None}

    def _go(self) -> list[Worker]:
        """Let the workers that have something to do go on: these."""
        busy = [worker for worker in self.workers if (self.block.todo[list(worker.rows)] != STAY).any()]
        for worker in busy:
            worker.go()
        return busy

    def _faults(self, workers: Sequence[Worker]) -> list[tuple[Worker, str]]:
        """Wait for workers: those that failed, and why."""
        deadline = time.monotonic() + self.timeout
        answers = [(worker, worker.answer(deadline, self.timeout)) for worker in workers]
        return [(worker, reason) for worker, reason in answers if reason is not None]

    def _recover(self, worker: Worker, reason: str | None, given: Mapping[int, int]) -> None:
        """Start a worker again, and an episode in each of its rows: from a given seed, else from a new one."""
        while reason is not None:
            worker.kill()
            at = int(self.block.at[worker.index])
            self._report(worker, worker.rows[0] if at == NOWHERE else at, reason)
            self.block.at[worker.index] = NOWHERE
            worker.start()
            reason = worker.ready()
            if reason is not None:
                continue
            for row in worker.rows:
                seed = given.get(row)
                seed = int(self.generator.integers(EVALUATION_SEEDS)) if seed is None else seed
                self.block.todo[row], self.block.seed[row] = RESET, seed
                self.histories.reset(row, seed)
            worker.go()
            reason = worker.answer(time.monotonic() + self.timeout, self.timeout)

    def _report(self, worker: Worker, row: int, reason: str) -> None:
        """Say what happened in one line, or raise WorkerError where it has happened too often."""
        from rlkd import metrics  # its progress bars take long to import, and only now is there a line to print

        step, seed = self.histories.steps[row], self.histories.seeds[row]
        where = f"{self.recipe.id}: environment {row} at step {step} of an episode after seed {seed}"
        if not self.counter.count(worker.index, row, step):
            metrics.say(f"{where}: {reason}; its worker starts again with {len(worker.rows)} new episodes")
            return
        try:
            path = self.histories.write(row, self.recipe, reason)
        except OSError as error:
            raise WorkerError(f"{where}: {reason}; {IN_A_ROW} faults in a row; no file of it: {error}") from None
        raise WorkerError(
            f"{where}: {reason}; {IN_A_ROW} faults in a row; its seed and actions are in {path}, "
            f'play them again with: python -c "from rlkd.vector import replay_fault; replay_fault({str(path)!r})"'
        )
