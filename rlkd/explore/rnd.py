"""Random network distillation: how new a state is, told by the error of a network that learns what a random one
answers. A random teacher, its features, a squared error: the loss is distillation's.

Order within a round of learning (Burda et al. 2018, arXiv:1810.12894, and its released code): the rollout's bonus comes
from the whitening as it was; then the whitening sees the rollout; then the bonus is scaled; then, minibatch by
minibatch, the predictor learns from the same observations, whitened anew.

Shapes: T steps, N environments, B observations. What is looked at of an observation, [...], is its newest frame
[1, H, W], or all its numbers [D] where it is no stack of frames.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkd.errors import MismatchError
from rlkd.explore.moments import Moments
from rlkd.explore.scaling import Scaling
from rlkd.losses import mse
from rlkd.policy.compute import rows_at_once
from rlkd.recipe import Bonus, View


class Rnd(nn.Module):
    """Random network, predictor, and all that they remember: everything is in `state_dict`.

    Networks compute in float32, whatever the policy does: a small difference of large features is what counts.
    """

    start: Tensor

    def __init__(
        self, recipe: Bonus, view: View | None, observation_shape: Sequence[int], *, num_envs: int, rollout_steps: int
    ) -> None:
        """Weights are not yet set.

        Args:
            recipe: how.
            view: how a policy's frames are stacked; None: observations are plain numbers.
            observation_shape: of one of the policy's observations.
            num_envs: N.
            rollout_steps: T.

        Raises:
            MismatchError: the picture is smaller than the convolutions need.
        """
        super().__init__()
        self.recipe, self.view = recipe, view
        self.shape = (1, *observation_shape[1:]) if view else (math.prod(observation_shape),)
        """Of what is looked at."""
        self.target = _network(recipe, self.shape, more=())
        self.predictor = _network(recipe, self.shape, more=recipe.predictor_widths)
        self.target.requires_grad_(requires_grad=False)
        self.seen = Moments(self.shape)
        self.scaling = Scaling(recipe, num_envs=num_envs, rollout_steps=rollout_steps)
        self.register_buffer("start", torch.zeros(num_envs, *self.shape, dtype=torch.uint8 if view else torch.float32))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights: orthogonal with gain sqrt(2), also of the answers; biases 0."""
        for layer in (*self.target, *self.predictor):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(layer.weight, math.sqrt(2), generator=generator)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # our layers all have one

    def look(self, observation: Tensor) -> Tensor:
        """What is looked at of observations [T, N, *observation_shape]: [T, N, ...]."""
        if self.view is None:
            return observation.flatten(2)
        return observation[:, :, -1:] if self.view.stack_order == "oldest_first" else observation[:, :, :1]

    def arrivals(self, observation: Tensor, first: Tensor, ended: Tensor) -> Tensor:
        """[T, N, ...]: what each step of a rollout led to.

        Behind an episode's last step stands its final observation, and behind that one the next episode's first. Where
        the last step of a rollout ends an episode, the next one has not begun yet: the beginning of the environment's
        last one stands in for it, which is the same in games that always begin alike.

        Args:
            observation: [T + 1, N, *observation_shape].
            first: [T + 1, N] bool, the observation begins an episode.
            ended: [T, N] bool, the step ended an episode.
        """
        seen = self.look(observation)
        for t in range(len(seen)):  # some are never begun in a rollout, others several times
            begins = first[t].view(-1, *(1 for _ in self.shape))
            self.start.copy_(torch.where(begins, seen[t], self.start))
        if self.recipe.terminal == "final":
            return seen[1:]
        behind = torch.cat([seen[2:], self.start[None]])
        return torch.where(ended.view(*ended.shape, *(1 for _ in self.shape)), behind, seen[1:])

    def whiten(self, looked_at: Tensor) -> Tensor:
        """[B, ...] float32: centred and scaled by what was seen, then clipped."""
        mean, deviation = self.seen.mean.float(), self.seen.deviation().float()
        return ((looked_at.float() - mean) / deviation).clamp(-self.recipe.clip, self.recipe.clip)

    def errors(self, looked_at: Tensor) -> Tensor:
        """[B]: how wrong the predictor is about [B, ...]; with a gradient."""
        with torch.autocast(looked_at.device.type, enabled=False):
            white = self.whiten(looked_at)
            error = mse(self.target(white), self.predictor(white), centre=False)
        return error if self.recipe.error == "mean" else error * self.recipe.features / 2

    @torch.no_grad()
    def bonus(self, looked_at: Tensor) -> Tensor:
        """[B]: `errors`, in passes that fit a cache."""
        rows = rows_at_once(looked_at.device, pixels=self.view is not None)
        return torch.cat([self.errors(part) for part in torch.split(looked_at, rows)])

    def keep(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A minibatch's weights [B] in the predictor's loss: a random share of it, averaged; all 0 where none is kept.

        Args:
            rows: [B] bool, that may be learnt from.
            generator: on their device.
        """
        share = self.recipe.keep_environments / len(self.start)
        kept = rows & (torch.rand(rows.shape, generator=generator, device=rows.device) < share)
        return kept / kept.sum().clamp(min=1)


def _network(recipe: Bonus, shape: tuple[int, ...], *, more: Sequence[int]) -> nn.Sequential:
    """Layers from what is looked at to features, with some more in front of the answer."""
    layers, size = [], list(shape)
    if len(shape) == 3:
        for out, kernel, stride in zip(recipe.channels, recipe.kernels, recipe.strides, strict=True):
            layers += [nn.Conv2d(size[0], out, kernel, stride), nn.LeakyReLU(recipe.slope)]
            size = [out, *((side - kernel) // stride + 1 for side in size[1:])]
            if min(size) < 1:
                raise MismatchError(
                    f"frames of {shape[1]} x {shape[2]} pixels are too small for the bonus's convolutions"
                )
        layers.append(nn.Flatten())
    else:
        for out in recipe.widths:
            layers += [nn.Linear(size[0], out), nn.LeakyReLU(recipe.slope)]
            size = [out]
    width = math.prod(size)
    for out in more:
        layers += [nn.Linear(width, out), nn.ReLU()]
        width = out
    return nn.Sequential(*layers, nn.Linear(width, recipe.features))
