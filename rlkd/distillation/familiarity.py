"""How like the rest of the replay each of its states is, by the error of a predictor of a random network.

A teacher's answers are worth less where it has hardly been. The predictor learns the replay round by round: what is
common in it is predicted well, and what is rare, or far from all else, is not. The random network, the whitening and
the loss are those of `rlkd.explore`.
"""

import time

import numpy as np
import torch

from rlkd.explore import Novelty, Steps
from rlkd.policy.compute import add_up, rows_at_once
from rlkd.recipe import Distill
from rlkd.replay import Replay


class Familiarity:
    """Grows with a replay, one round at a time."""

    def __init__(self, recipe: Distill, observation_shape: tuple[int, ...], replay: Replay, *, seed: int) -> None:
        """Draw the weights.

        Args:
            recipe: with `[novelty]`; batch size and step size are those of the students.
            observation_shape: of one state.
            replay: to be filled.
            seed: of weights and minibatches.
        """
        assert recipe.novelty is not None
        self.replay, self.batch, self.device = replay, recipe.batch_size, replay.device
        self.novelty = Novelty(recipe.novelty, replay.view, observation_shape, None, num_envs=1, rollout_steps=1)
        self.novelty.initialise(torch.Generator().manual_seed(seed))
        self.novelty.to(self.device)
        self.optimiser = torch.optim.Adam(self.novelty.learning.values(), lr=recipe.learning_rate, fused=True)
        self.generator = np.random.default_rng([seed, 7])
        self.known = np.empty(0, np.int64)
        self.seconds = 0.0
        """Wall seconds spent in `see`."""

    def see(self, rows: np.ndarray) -> np.ndarray:
        """Learn what is new in the replay, and say how familiar each state is now.

        Learning takes as many samples of all states as there are new ones.

        Args:
            rows: addresses of all states that are there by now.

        Returns:
            [R] float32 by address in the replay: 1 / (1 + novelty) over the mean of that, where novelty 1 is the mean
            over all states; 0 where no state is.
        """
        started = time.perf_counter()
        fresh = np.setdiff1d(rows, self.known, assume_unique=True)
        self.known = rows
        at_once = rows_at_once(self.device, pixels=self.replay.view is not None)
        for part in np.split(fresh, range(at_once, len(fresh), at_once)):
            self.novelty.seen.update(self._steps(part).arrived)
        weights = list(self.novelty.learning.values())
        for _ in range(-(-len(fresh) // self.batch)):
            steps = self._steps(self.generator.choice(rows, self.batch))
            loss = self.novelty.losses(steps, torch.zeros(self.batch, device=self.device)).mean()
            add_up(weights, [torch.autograd.grad(loss, weights)])
            self.optimiser.step()
        parts = np.split(rows, range(at_once, len(rows), at_once))
        error = np.concatenate([self.novelty.again(self._steps(part)).cpu().numpy() for part in parts])
        familiarity = 1 / (1 + error / max(float(error.mean()), 1e-12))
        found = np.zeros(self.replay.num_envs * self.replay.stride, np.float32)
        found[rows] = familiarity / familiarity.mean()
        self.seconds += time.perf_counter() - started
        return found

    def _steps(self, rows: np.ndarray) -> Steps:
        seen = self.novelty.look(self.replay.read(rows)[0])
        return Steps(None, torch.zeros(len(rows), dtype=torch.int64, device=self.device), seen)
