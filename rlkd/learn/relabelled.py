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
        steps, valid = self._steps(memory, rows.ravel())
        raw = self.bonus.bonus(steps, valid)
        check_finite({"bonus": raw}, where=where)
        memory.bonus[rows.ravel()] = raw.cpu().numpy()
        self.bonus.seen.update(steps.arrived[valid])
        scaled = self.bonus.scaling.scale(raw.view(rows.shape), valid.view(rows.shape))
        count = valid.sum().clamp(min=1)
        figures = {"raw": raw.sum() / count, "scaled": scaled.sum() / count}
        figures["deviation"] = self.bonus.scaling.sums.deviation()
        if self.optimiser is not None:
            figures["loss"] = self._learn(self.optimiser, steps, valid)
            weights = {f"bonus weight {name}": weight.detach() for name, weight in self.bonus.learning.items()}
            check_finite({"bonus loss": figures["loss"]} | weights, where=where)
        return {f"bonus/{name}": float(value) for name, value in figures.items()}

    def relabelled(self, memory: Transitions, batch: Batch) -> tuple[Batch, dict[str, Tensor]]:
        """A batch whose returns hold the bonus as it is now; and figures, scalars on the device.

        `bonus drawn` is the mean of what a drawn step is worth, `bonus when visited` of what it was worth at its visit,
        both by today's scale.
        """
        steps = memory.states.after(batch.rows[:, None], np.arange(memory.n_step))
        found, _ = self._steps(memory, steps.ravel())
        scale = self.bonus.scaling.sums.deviation().float()
        now = (self.bonus.again(found) / scale).view(steps.shape)
        bonus, *_ = memory.returns(batch.rows, now)
        figures = {
            "bonus drawn": now[:, 0].mean(),
            "bonus when visited": torch.from_numpy(memory.bonus[batch.rows]).to(scale.device).mean() / scale,
        }
        return replace(batch, reward=batch.reward + (self.agent.bonus_coefficient or 0.0) * bonus), figures

    def _steps(self, memory: Transitions, rows: np.ndarray) -> tuple[Steps, Tensor]:
        before, action, arrived, valid = memory.moves(rows)
        before, arrived = (self.bonus.look(seen[None])[0] for seen in (before, arrived))
        return Steps(before if self.bonus.model.asks_before else None, action, arrived), valid

    def _learn(self, optimiser: torch.optim.Adam, steps: Steps, valid: Tensor) -> Tensor:
        """One pass over the steps in minibatches of about the owner's size; the mean loss of the last one."""
        weights = optimiser.param_groups[0]["params"]
        order = torch.randperm(len(valid), generator=self.keeps, device=valid.device)
        loss = torch.zeros((), device=valid.device)
        for rows in order.chunk(max(1, len(order) // self.agent.batch)):
            share, chance = self.bonus.keep(valid[rows], self.keeps)
            loss = (share * self.bonus.losses(steps.rows(rows), chance)).sum()
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = gradient
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
