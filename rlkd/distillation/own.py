"""Earlier selves of a student as its teachers: as it was when the round began, and its moving average."""

import copy
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, nn

from rlkd.policy import PolicyNetwork, discrete_logits
from rlkd.policy.compute import Precision, autocast
from rlkd.terms import TEMPERATURE

NAMES = ("last_round", "moving_average")


class EarlierSelves:
    """Copies of a student's network, as far as its loss asks them."""

    def __init__(self, network: PolicyNetwork, asked: AbstractSet[str], *, keep: float) -> None:
        """Take copies.

        Args:
            network: the student's.
            asked: fields of `Sample`; others than NAMES are passed over.
            keep: share of the old weights that stays in the moving average at each gradient step.
        """
        self.keep = keep
        self.copies = nn.ModuleDict({name: copy.deepcopy(network) for name in NAMES if name in asked})
        self.copies.requires_grad_(False)
        self.goal = 0
        """Gradient steps at the end of the round that is learnt in: tells whether another one has begun."""

    def begin(self, network: PolicyNetwork, goal: int, *, fresh: bool) -> None:
        """A round of learning begins, or goes on where the goal is the one before's; `fresh`: it is the first."""
        for name, earlier in self.copies.items():
            if fresh or (name == "last_round" and goal > self.goal):
                earlier.load_state_dict(network.state_dict())
        self.goal = max(goal, self.goal)  # a resumed run passes over the rounds that it has behind it

    def follow(self, network: PolicyNetwork) -> None:
        """A gradient step was taken."""
        if "moving_average" in self.copies:
            pairs = zip(self.copies["moving_average"].parameters(), network.parameters(), strict=True)
            with torch.no_grad():
                for average, current in pairs:
                    average.lerp_(current, 1 - self.keep)

    def answers(self, observation: Tensor, first: Tensor | None, precision: Precision) -> dict[str, Tensor]:
        """[B, A] probabilities of each copy, by field of `Sample`.

        Args:
            observation: [B, ...], or [B, T, ...] of a recurrent student, whose answers are [B * T, A].
            first: [B, T] bool where T is.
            precision: as the student learns with.
        """
        found = {}
        for name, earlier in self.copies.items():
            assert isinstance(earlier, PolicyNetwork)
            with torch.no_grad(), autocast(observation.device, precision, pixels=earlier.pixels):
                output = earlier(observation) if first is None else earlier.unroll(observation, first)
            scores = discrete_logits(output.kind, output.params).float()
            found[name] = (scores / TEMPERATURE[output.kind]).softmax(-1)
        return found
