"""How new a step was, and what is learnt from it: one module for each name of a bonus.

Every model reads `Steps` whose observations are whitened, but `counts`, which reads them as they are; answers are [B],
one for each step. Networks compute in float32, whatever the policy does (on a GPU, convolutions as torch is set, which
may be TF32): a small difference of large features counts.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.errors import MismatchError
from rlkd.losses import mse
from rlkd.recipe import Bonus


class Steps(NamedTuple):
    """Steps as a bonus looks at them."""

    before: Tensor | None
    """[B, ...] what was acted on; None where the model does not ask."""
    action: Tensor
    """[B] int64, or [B, D] float32."""
    arrived: Tensor
    """[B, ...] what it led to."""

    def rows(self, places: Tensor) -> "Steps":
        """Some of them."""
        before = None if self.before is None else self.before.index_select(0, places)
        return Steps(before, self.action.index_select(0, places), self.arrived.index_select(0, places))

    def clone(self) -> "Steps":
        """The same in memory of its own."""
        before = None if self.before is None else self.before.clone()
        return Steps(before, self.action.clone(), self.arrived.clone())

    def copy_(self, other: "Steps") -> None:
        """Write another's tensors over these."""
        for mine, theirs in zip(self, other, strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)


class RandomNetwork(nn.Module):
    """A random teacher, its features, a squared error: distillation, whose student has not learnt what is new."""

    def __init__(self, recipe: Bonus, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.recipe, self.asks_before = recipe, recipe.learns_from == "before"
        self.target = network(recipe, shape, more=())
        self.predictor = network(recipe, shape, more=recipe.predictor_widths)
        self.target.requires_grad_(requires_grad=False)

    def novelty(self, steps: Steps) -> Tensor:
        """The predictor's error about what the steps led to."""
        error = self._error(steps.arrived)
        return error if self.recipe.error == "mean" else error * self.recipe.features / 2

    def losses(self, steps: Steps, chance: Tensor) -> Tensor:
        """Mean squared error, to be minimised; `chance` [B] is not needed."""
        return self._error(steps.arrived if steps.before is None else steps.before)

    def _error(self, seen: Tensor) -> Tensor:
        return mse(self.target(seen), self.predictor(seen))


class RandomNetworks(nn.Module):
    """A predictor of random networks of which another one is asked each time.

    It can only learn their mean; how far its square is from the mean's, by the targets' variance, estimates one over
    the visits.

    Source:
        Yang et al. 2024, arXiv:2401.09750: bonus b1 and b2 and their mixture. Here both are means over features.
    """

    def __init__(self, recipe: Bonus, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.alpha, self.asks_before = recipe.alpha, False
        self.targets = nn.ModuleList(network(recipe, shape, more=()) for _ in range(recipe.targets))
        self.predictor = network(recipe, shape, more=recipe.predictor_widths)
        self.targets.requires_grad_(requires_grad=False)

    def novelty(self, steps: Steps) -> Tensor:
        """Distance to the mean, and the estimate of 1 / sqrt(visits), by their shares."""
        answers = torch.stack([target(steps.arrived) for target in self.targets])
        mean, variance = answers.mean(0), answers.var(0, correction=0).clamp(min=1e-12)
        predicted: Tensor = self.predictor(steps.arrived)
        # One over the visits, from each feature; what a prediction outside of the targets' range gives is cut off.
        rarity: Tensor = ((predicted.square() - mean.square()).abs() / variance).clamp(1e-6, 1)
        return self.alpha * mse(mean, predicted) + (1 - self.alpha) * rarity.sqrt().mean(1)

    def losses(self, steps: Steps, chance: Tensor) -> Tensor:
        """Squared error about one target, which `chance` [B] in [0, 1) picks for each step."""
        answers = torch.stack([target(steps.arrived) for target in self.targets])
        picked = (chance * len(self.targets)).long()
        asked = answers[picked, torch.arange(len(picked), device=picked.device)]
        return mse(asked, self.predictor(steps.arrived))


class Dynamics(nn.Module):
    """Error of a prediction of what an action leads to, in features that are learnt by telling actions apart.

    What no action moves need not be in the features; what every action moves at random is, and its error never falls.

    Source:
        Pathak et al. 2017, arXiv:1705.05363; the prediction does not move the features.
    """

    def __init__(self, recipe: Bonus, shape: tuple[int, ...], actions: int) -> None:
        super().__init__()
        self.actions, self.forward_share, self.asks_before = actions, recipe.forward_share, True
        self.encoder = network(recipe, shape, more=())
        self.inverse = _behind(2 * recipe.features, recipe.predictor_widths, actions)
        self.forward_model = _behind(recipe.features + actions, recipe.predictor_widths, recipe.features)

    def novelty(self, steps: Steps) -> Tensor:
        """Mean squared error of the prediction."""
        return self._errors(steps)[0]

    def losses(self, steps: Steps, chance: Tensor) -> Tensor:
        """Of the prediction, and of which action it was; `chance` is not needed."""
        forward, inverse = self._errors(steps)
        return self.forward_share * forward + (1 - self.forward_share) * inverse

    def _errors(self, steps: Steps) -> tuple[Tensor, Tensor]:
        assert steps.before is not None
        before, arrived = self.encoder(steps.before), self.encoder(steps.arrived)
        told = self.inverse(torch.cat([before, arrived], dim=1))
        taken = F.one_hot(steps.action, self.actions).to(before.dtype)
        predicted = self.forward_model(torch.cat([before.detach(), taken], dim=1))
        return mse(arrived, predicted), F.cross_entropy(told, steps.action, reduction="none")


class Counts(nn.Module):
    """1 / n^power for the n-th visit of exactly this observation, in order of the steps. Nothing is learnt."""

    def __init__(self, recipe: Bonus) -> None:
        super().__init__()
        self.power, self.asks_before = recipe.power, False
        self.visits: dict[bytes, int] = {}
        """By a digest of 16 bytes."""

    def novelty(self, steps: Steps) -> Tensor:
        """Counts each step, then says how rare what it led to is."""
        found = []
        for key in _keys(steps):
            self.visits[key] = self.visits.get(key, 0) + 1
            found.append(self.visits[key] ** -self.power)
        return torch.tensor(found, device=steps.arrived.device)

    def again(self, steps: Steps) -> Tensor:
        """How rare what steps led to is now that were counted before."""
        found = [max(self.visits.get(key, 0), 1) ** -self.power for key in _keys(steps)]
        return torch.tensor(found, device=steps.arrived.device)

    def get_extra_state(self) -> Tensor:
        """[K, 3] int64: digests and counts, for checkpoints."""
        rows = [[*(int.from_bytes(half, "big", signed=True) for half in (key[:8], key[8:])), count]
                for key, count in sorted(self.visits.items())]  # fmt: skip
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)

    def set_extra_state(self, state: Tensor) -> None:
        """Put them back."""
        self.visits = {
            b"".join(half.to_bytes(8, "big", signed=True) for half in row[:2]): row[2] for row in state.tolist()
        }


def _keys(steps: Steps) -> Iterator[bytes]:
    """A digest of what each step led to."""
    for row in steps.arrived.cpu().numpy():
        yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


Model = RandomNetwork | RandomNetworks | Dynamics | Counts


def make_model(recipe: Bonus, shape: tuple[int, ...], actions: int | None) -> Model:
    """The model that a recipe names, its weights not yet set.

    Args:
        recipe: of the bonus.
        shape: of what is looked at, [1, H, W] or [D].
        actions: how many there are; None where they are continuous.

    Raises:
        MismatchError: it cannot read these observations or actions.
    """
    if recipe.name == "dynamics":
        if actions is None:
            raise MismatchError("a bonus called dynamics tells discrete actions apart, and these are continuous")
        return Dynamics(recipe, shape, actions)
    if recipe.name == "counts":
        return Counts(recipe)
    return RandomNetwork(recipe, shape) if recipe.name == "rnd" else RandomNetworks(recipe, shape)


def network(recipe: Bonus, shape: tuple[int, ...], *, more: Sequence[int]) -> nn.Sequential:
    """Layers from what is looked at to features, with some more in front of the answer."""
    layers: list[nn.Module] = []
    size = list(shape)
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
    return nn.Sequential(*layers, *_behind(math.prod(size), more, recipe.features))


def _behind(width: int, widths: Sequence[int], answers: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for out in widths:
        layers += [nn.Linear(width, out), nn.ReLU()]
        width = out
    return nn.Sequential(*layers, nn.Linear(width, answers))
