"""A bonus: what is looked at, how new it is, and what that is worth.

Order within a round of learning (Burda et al. 2018, arXiv:1810.12894, and its released code): the rollout's bonus comes
from the whitening as it was; then the whitening sees the rollout; then the bonus is scaled; then, minibatch by
minibatch, the model learns from the same observations, whitened anew.

Shapes: T steps, N environments, B steps in one row. What is looked at of an observation, [...], is its newest frame
[1, H, W], or all its numbers [D] where it is no stack of frames.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkd.explore.models import Counts, Steps, make_model
from rlkd.explore.moments import Moments
from rlkd.explore.scaling import Scaling
from rlkd.policy.compute import rows_at_once
from rlkd.recipe import Bonus, View


class Novelty(nn.Module):
    """A model, and all that is remembered beside it: everything is in `state_dict`."""

    start: Tensor

    def __init__(
        self,
        recipe: Bonus,
        view: View | None,
        observation_shape: Sequence[int],
        actions: int | None,
        *,
        num_envs: int,
        rollout_steps: int,
    ) -> None:
        """Weights are not yet set.

        Args:
            recipe: how.
            view: how a policy's frames are stacked; None: observations are plain numbers.
            observation_shape: of one of the policy's observations.
            actions: how many there are; None where they are continuous.
            num_envs: N.
            rollout_steps: T.

        Raises:
            MismatchError: the model cannot read these observations or actions.
        """
        super().__init__()
        self.recipe, self.view, self.observation_dimensions = recipe, view, len(observation_shape)
        self.shape = (1, *observation_shape[1:]) if view else (math.prod(observation_shape),)
        """Of what is looked at."""
        self.model = make_model(recipe, self.shape, actions)
        self.seen = Moments(self.shape)
        """Of observations: what whitens them."""
        self.scaling = Scaling(recipe, num_envs=num_envs, rollout_steps=rollout_steps)
        self.register_buffer("start", torch.zeros(num_envs, *self.shape, dtype=torch.uint8 if view else torch.float32))
        """[N, ...], how each environment's last episode began."""

    @property
    def learning(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    @property
    def warm_up_steps(self) -> int:
        """Random steps of each environment that it wants to see first."""
        return self.recipe.warm_up_steps if self.learning else 0

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights: orthogonal with gain sqrt(2), also of the answers; biases 0."""
        for layer in self.model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(layer.weight, math.sqrt(2), generator=generator)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # our layers all have one

    def look(self, observation: Tensor) -> Tensor:
        """What is looked at of observations [..., *observation_shape], of any leading dimensions: [..., *shape]."""
        if self.view is None:
            return observation.flatten(-self.observation_dimensions)
        return observation[..., -1:, :, :] if self.view.stack_order == "oldest_first" else observation[..., :1, :, :]

    def steps(self, observation: Tensor, action: Tensor, first: Tensor, ended: Tensor) -> Steps:
        """A rollout's steps in T * N rows, and where each of them led to.

        Behind an episode's last step stands its final observation, and behind that one the next episode's first. Where
        the last step of a rollout ends an episode, the next one has not begun yet: the beginning of the environment's
        last one stands in for it, which is the same in games that always begin alike.

        Args:
            observation: [T + 1, N, *observation_shape].
            action: [T, N] or [T, N, D].
            first: [T + 1, N] bool, the observation begins an episode.
            ended: [T, N] bool, the step ended an episode.
        """
        seen, one = self.look(observation), [1] * len(self.shape)
        for looked_at, begins in zip(seen, first, strict=True):  # some begin in no rollout, others several times
            self.start.copy_(torch.where(begins.view(-1, *one), looked_at, self.start))
        arrived = seen[1:]
        if self.recipe.terminal == "reset":
            behind = torch.cat([seen[2:], self.start[None]])
            arrived = torch.where(ended.view(*ended.shape, *one), behind, arrived)
        before = seen[:-1].flatten(0, 1) if self.model.asks_before else None
        return Steps(before, action.flatten(0, 1), arrived.flatten(0, 1))

    def looked(self, valid: Tensor, ended: Tensor) -> Tensor:
        """[T, N] bool: which observations of a rollout the whitening sees.

        Those that were acted on, and final ones where they are rewarded.

        Args:
            valid: [T, N] bool, of the step from each observation.
            ended: [T, N] bool, the step ended an episode; the observation behind it is the final one.
        """
        if self.recipe.terminal == "reset":
            return valid
        return torch.cat([valid[:1], valid[1:] | ended[:-1]])

    def whiten(self, looked_at: Tensor) -> Tensor:
        """[B, ...] float32: centred and scaled by what was seen, then clipped."""
        mean, deviation = self.seen.mean.float(), self.seen.deviation().float()
        return ((looked_at.float() - mean) / deviation).clamp(-self.recipe.clip, self.recipe.clip)

    @torch.no_grad()
    def bonus(self, steps: Steps, valid: Tensor) -> Tensor:
        """[B]: how new each step was, not scaled; 0 where it is not valid [B], and nothing is counted there."""
        rows = rows_at_once(valid.device, pixels=self.view is not None)
        found = torch.zeros(len(valid), device=valid.device)
        for places in torch.split(valid.nonzero().flatten(), rows):
            found[places] = self.model.novelty(self._white(steps.rows(places))).float()
        return found

    @torch.no_grad()
    def again(self, steps: Steps) -> Tensor:
        """[B]: how new steps would be now that were asked about before, not scaled; nothing is counted."""
        places = torch.arange(len(steps.arrived), device=steps.arrived.device)
        parts = torch.split(places, rows_at_once(places.device, pixels=self.view is not None))
        ask = self.model.again if isinstance(self.model, Counts) else self.model.novelty
        return torch.cat([ask(self._white(steps.rows(part))) for part in parts]).float()

    def losses(self, steps: Steps, chance: Tensor) -> Tensor:
        """[B]: what the model is to minimise, with a gradient; `chance` [B] in [0, 1) is its luck."""
        assert not isinstance(self.model, Counts), "who counts learns nothing"
        with torch.autocast(chance.device.type, enabled=False):
            return self.model.losses(self._white(steps), chance)

    def keep(self, valid: Tensor, generator: torch.Generator) -> Tensor:
        """[2, B]: a minibatch's weights in the model's loss, a random share of it, averaged; and its luck in [0, 1).

        Weights are all 0 where nothing is kept.

        Args:
            valid: [B] bool, that may be learnt from.
            generator: on their device.
        """
        share = self.recipe.keep_environments / len(self.start)
        draw, luck = torch.rand((2, *valid.shape), generator=generator, device=valid.device)
        kept = valid & (draw < share)
        return torch.stack([kept / kept.sum().clamp(min=1), luck])

    def _white(self, steps: Steps) -> Steps:
        if not self.learning:
            return steps
        before = None if steps.before is None else self.whiten(steps.before)
        return Steps(before, steps.action, self.whiten(steps.arrived))
