"""A bonus for who learns from a memory.

Each step is looked at twice. Once when it was played: it is counted, its bonus scales all others and is noted beside
the rewards; the whitening sees it, then the model learns from it. And at each draw: what it would be worth now is added
to the return that is learnt from, so that an old step is not worth more for having been new once. Rewards stay as they
were.

The order within a round is that of `rlkd.explore.novelty`. The whitening sees what steps led to, which is what is
rewarded. Shapes: T steps, N environments, B transitions, n rewards in a return.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from rlkd.explore import Novelty, Steps
from rlkd.learn.guard import check_finite
from rlkd.learn.scored import figures_of
from rlkd.policy.compute import add_up
from rlkd.recipe import Dqn
from rlkd.replay import Batch, Transitions


@dataclass(frozen=True, slots=True)
class Curiosity:
    """A bonus, and what it learns by."""

    bonus: Novelty
    """On the memory's device."""
    agent: Dqn
    """How its owner learns."""
    optimiser: torch.optim.Adam | None
    """Of the bonus's model; None where nothing is learnt."""
    keeps: torch.Generator
    """On the device; draws what is learnt from."""

    def visit(self, memory: Transitions, length: int, *, where: str) -> dict[str, float]:
        """See the steps whose outcome came with the last `length` appends of each environment.

        Returns:
            Figures by TensorBoard tag; none where there were no such steps.

        Raises:
            NotFiniteError: the bonus or a loss of its model is NaN or infinite.
        """
        rows = memory.arrivals(length)
        if not rows.size:
            return {}
        steps, valid = self._steps(memory, rows)
        raw = self.bonus.bonus(steps, valid.flatten()).view(valid.shape)
        check_finite({"bonus": raw}, where=where)
        memory.bonus[rows] = raw.cpu().numpy()
        self.bonus.seen.update(steps.arrived[valid.flatten()])
        told = figures_of(self.bonus, raw, self.bonus.scaling.scale(raw, valid), valid)
        if self.optimiser is not None:
            loss = self._learn(self.optimiser, steps, valid.flatten())
            weights = {f"bonus weight {name}": weight.detach() for name, weight in self.bonus.learning.items()}
            check_finite({"bonus loss": loss} | weights, where=where)
            told["bonus/loss"] = float(loss)
        return told

    def relabelled(self, memory: Transitions, batch: Batch) -> tuple[Batch, dict[str, Tensor]]:
        """A batch whose returns hold the bonus as it is now; and figures, scalars on the device.

        `bonus drawn` is the mean of what a drawn step is worth, `bonus when visited` of what it was worth at its visit,
        both by today's scale.
        """
        weight = self.agent.bonus_coefficient
        assert weight is not None, "the recipe has seen to it"
        steps = memory.steps_from(batch.rows)
        found, valid = self._steps(memory, steps[:, :-1])
        scale = self.bonus.scaling.sums.deviation().float()
        now = (self.bonus.again(found) / scale).view(valid.shape)
        bonus, *_ = memory.returns(steps, now)
        figures = {
            "bonus drawn": now[:, 0].mean(),
            "bonus when visited": torch.from_numpy(memory.bonus[batch.rows]).to(scale.device).mean() / scale,
        }
        return replace(batch, reward=batch.reward + weight * bonus), figures

    def _steps(self, memory: Transitions, rows: np.ndarray) -> tuple[Steps, Tensor]:
        """The steps at rows of any shape, in one row, and whether each was played, shaped as they are."""
        look, observation = self.bonus.look, memory.observation
        before = look(observation(rows.ravel())) if self.bonus.model.asks_before else None
        arrived = look(observation(memory.states.after(rows.ravel(), np.ones(1, int))))
        action, valid = memory.moves(rows)
        return Steps(before, action.flatten(), arrived), valid

    def _learn(self, optimiser: torch.optim.Adam, steps: Steps, valid: Tensor) -> Tensor:
        """One pass over the steps in minibatches of about the owner's size; the mean loss of the last one."""
        weights = optimiser.param_groups[0]["params"]
        order = torch.randperm(len(valid), generator=self.keeps, device=valid.device)
        loss = torch.zeros((), device=valid.device)
        for rows in order.chunk(max(1, len(order) // self.agent.batch)):
            share, chance = self.bonus.keep(valid[rows], self.keeps)
            loss = (share * self.bonus.losses(steps.rows(rows), chance)).sum()
            add_up(weights, [torch.autograd.grad(loss, weights)])
            nn.utils.clip_grad_norm_(weights, self.agent.max_gradient_norm or float("inf"), foreach=True)
            optimiser.step()
        return loss.detach()


def make_curiosity(bonus: Novelty | None, agent: Dqn, *, attempt: int, device: torch.device) -> Curiosity | None:
    """A bonus with what it learns by, on a device; None where there is none. `attempt` seeds what is learnt from."""
    if bonus is None:
        return None
    learning = list(bonus.learning.values())
    keeps = torch.Generator(device).manual_seed(attempt)
    if not learning:
        return Curiosity(bonus, agent, None, keeps)
    optimiser = torch.optim.Adam(learning, lr=agent.learning_rate, eps=agent.adam_epsilon, fused=True)
    return Curiosity(bonus, agent, optimiser, keeps)
