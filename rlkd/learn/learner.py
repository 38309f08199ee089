"""The learner of policy-gradient methods: losses of a minibatch, gradient steps on a rollout."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlkd.explore import Novelty
from rlkd.learn.graphs import Captured, prime
from rlkd.learn.guard import check_finite
from rlkd.learn.samples import Piece, Samples, log_prob_and_entropy, minibatches, pieces_of
from rlkd.learn.teaching import Teaching
from rlkd.losses import ppo_surrogate
from rlkd.policy import PolicyNetwork
from rlkd.policy.compute import SMALLEST_PART, Precision, add_up, autocast, idle_cores
from rlkd.recipe import Ppo, value_at


class Losses(NamedTuple):
    """Weighted sums over samples: means of a minibatch, or what a piece adds to them. Scalars."""

    policy: Tensor
    """The surrogate."""
    value: Tensor
    """Half the squared error, summed over streams."""
    entropy: Tensor
    """Nats."""
    approx_kl: Tensor
    """Nats, from who acted to the learner."""
    bonus: Tensor
    """What a bonus's model minimises; 0 without one."""
    distillation: Tensor
    """The terms of a teacher; 0 without one."""

    def total(self, agent: Ppo, progress: float) -> Tensor:
        """What is minimised at a progress in [0, 1]. A bonus's model shares no weight with the policy; the clip of the
        gradient's norm is over both."""
        coefficient = agent.policy_coefficient
        policy = self.policy if coefficient is None else value_at(coefficient, progress) * self.policy
        policy = policy + agent.value_coefficient * self.value - agent.entropy_coefficient * self.entropy
        return policy + self.bonus + self.distillation


class Learner:
    """Network and optimiser, and what a machine needs to learn fast: threads on a CPU, a CUDA graph on a GPU."""

    def __init__(
        self,
        network: PolicyNetwork,
        agent: Ppo,
        precision: Precision,
        bonus: Novelty | None = None,
        teaching: Teaching | None = None,
    ) -> None:
        """Take a network, a bonus whose model learns beside it, and a teacher, on their device; fresh moments."""
        self.network, self.agent, self.precision, self.bonus = network, agent, precision, bonus
        self.teaching = teaching
        self.progress = 0.0
        """Share of the run that lies behind."""
        self.parameters = [*network.parameters(), *(bonus.learning.values() if bonus is not None else ())]
        self.device = network.head.weight.device
        on_gpu = self.device.type == "cuda"
        rate = torch.tensor(agent.learning_rate, device=self.device) if on_gpu else agent.learning_rate
        self.optimiser = torch.optim.Adam(
            self.parameters, lr=rate, eps=agent.adam_epsilon, fused=True, capturable=on_gpu
        )
        pieces = max(1, agent.minibatch // SMALLEST_PART)
        self.parts = min(idle_cores(1), pieces) if network.pixels and not on_gpu else 1
        """Pieces of a minibatch that are learnt from side by side, a thread each. Sums are rounded otherwise than in
        one piece: a seed gives the same bits with the same number of them only."""
        self.captures = on_gpu and teaching is None
        """Whether gradient steps are replayed as a CUDA graph: not where coefficients change with the progress."""
        self._fixed: tuple[Samples, Tensor, Tensor | None, Captured[tuple[Losses, Tensor]]] | None = None

    def learn(
        self,
        samples: Samples,
        order: torch.Generator,
        *,
        rate: float,
        where: str,
        keeps: torch.Generator | None = None,
        progress: float = 0.0,
    ) -> dict[str, float]:
        """All gradient steps on one rollout.

        Args:
            samples: what `prepare` made of the rollout.
            order: of the minibatches; a generator on the CPU.
            rate: step size.
            where: of the run, for messages.
            keeps: draws what a bonus learns from; a generator on the device.
            progress: share of the run that lies behind.

        Returns:
            Figures of the last minibatch, by TensorBoard tag.

        Raises:
            NotFiniteError: a loss, a gradient or a weight is NaN or infinite; the weights are then of no use.
        """
        self.progress = progress
        for group in self.optimiser.param_groups:
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
        if self._fixed is not None:
            _copy(samples, self._fixed[0])
        with ThreadPoolExecutor(self.parts) as pool:
            each = pool.map if self.parts > 1 else map
            for rows in minibatches(samples, self.agent, order):
                kept = None
                if self.bonus is not None and self.bonus.learning:
                    assert keeps is not None, "a bonus learns from what a generator draws"
                    kept = self.bonus.keep(samples.valid[rows.flatten()], keeps)
                if self.captures:
                    losses, norm = self._replayed(samples, rows, kept)
                else:
                    losses, norm = self._step(samples, rows, kept, each)
                if self.device.type == "cpu":  # a GPU would be waited for: there, the end of the rollout shows it
                    self._check(losses, norm, where)
        self._check(losses, norm, where)
        check_finite({f"weight {name}": weight.detach() for name, weight in self._named()}, where=where)
        told = losses._asdict()
        if self.bonus is None:
            del told["bonus"]
        if self.teaching is None:
            del told["distillation"]
        figures = {f"train/{name}": value.item() for name, value in told.items()}
        return figures | {"train/learning_rate": rate}

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        learning = self.bonus.learning.items() if self.bonus is not None else ()
        return [*self.network.named_parameters(), *((f"bonus {name}", weight) for name, weight in learning)]

    def _step(
        self, samples: Samples, rows: Tensor, kept: Tensor | None, each: Callable[..., Iterable[Any]] = map
    ) -> tuple[Losses, Tensor]:
        """One gradient step: the minibatch's losses, and the norm of its gradient before clipping."""
        pieces = pieces_of(samples, self.agent, rows, kept, self.parts)
        done = each(partial(gradients_of, self), pieces)
        by_piece, gradients = zip(*done, strict=True)
        add_up(self.parameters, gradients)
        limit = self.agent.max_gradient_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True)
        self.optimiser.step()
        return Losses(*(torch.stack(values).sum(0) for values in zip(*by_piece, strict=True))), norm

    def _replayed(self, samples: Samples, rows: Tensor, kept: Tensor | None) -> tuple[Losses, Tensor]:
        """The same as one CUDA graph, which reads the samples from copies at fixed addresses."""
        if self._fixed is None:
            values: dict[str, Any] = {field.name: getattr(samples, field.name) for field in fields(samples)}
            copies = replace(samples, **{name: value.clone() for name, value in values.items() if value is not None})
            places, shares = rows.clone(), None if kept is None else kept.clone()
            changes = [*self.parameters, *prime(self.optimiser)]
            captured = Captured(partial(self._step, copies, places, shares), changes=changes)
            self._fixed = copies, places, shares, captured
        _, places, shares, captured = self._fixed
        if rows.shape != places.shape:
            return self._step(samples, rows, kept)  # the rest of an epoch
        places.copy_(rows)
        if shares is not None and kept is not None:
            shares.copy_(kept)
        return captured()

    def _check(self, losses: Losses, norm: Tensor, where: str) -> None:
        check_finite({"loss": losses.total(self.agent, self.progress)}, where=where)
        if not norm.isfinite():
            named = self._named()
            check_finite({f"gradient of {name}": p.grad for name, p in named if p.grad is not None}, where=where)


def piece_losses(
    network: PolicyNetwork,
    agent: Ppo,
    precision: Precision,
    piece: Piece,
    bonus: Novelty | None = None,
    teaching: Teaching | None = None,
    progress: float = 0.0,
) -> Losses:
    """What a piece adds to each loss of its minibatch."""
    with autocast(piece.weight.device, precision, pixels=network.pixels):
        if piece.state is None:
            output = network(piece.observation)
        else:
            output = network.unroll(piece.observation, piece.first, piece.state)
    if output.value is None:
        raise ValueError("PPO needs a network with a critic")
    rows = piece.weight.dim()
    action, target = piece.action.flatten(0, rows - 1), piece.target.flatten(0, rows - 1)
    old, advantage, weight = piece.log_prob.flatten(), piece.advantage.flatten(), piece.weight.flatten()
    log_prob, entropy = log_prob_and_entropy(output, action)
    log_ratio = (log_prob - old).detach()
    of_bonus = weight.new_zeros(())
    if bonus is not None and piece.learnt is not None:
        of_bonus = (bonus.losses(piece.learnt.steps, piece.learnt.chance) * piece.learnt.share).sum()
    of_teacher = weight.new_zeros(())
    if teaching is not None and piece.answers is not None:
        answers = piece.answers.flatten(0, rows - 1)
        of_teacher = (teaching.losses(answers, output, {"ratio": log_ratio.exp()}, progress) * weight).sum()
    return Losses(
        policy=(ppo_surrogate(log_prob, old, advantage, clip=agent.clip) * weight).sum(),
        value=(0.5 * (output.value.float() - target).square().sum(-1) * weight).sum(),
        entropy=(entropy * weight).sum(),
        approx_kl=((log_ratio.exp() - 1 - log_ratio) * weight).sum(),
        bonus=of_bonus,
        distillation=of_teacher,
    )


def gradients_of(learner: Learner, piece: Piece) -> tuple[Losses, tuple[Tensor, ...]]:
    """What a piece adds to the losses, and to each parameter's gradient."""
    beside = (learner.bonus, learner.teaching, learner.progress)
    losses = piece_losses(learner.network, learner.agent, learner.precision, piece, *beside)
    total = losses.total(learner.agent, learner.progress)
    gradients = torch.autograd.grad(total, learner.parameters, materialize_grads=True)
    return Losses(*(value.detach() for value in losses)), gradients


def _copy(samples: Samples, into: Samples) -> None:
    for field in fields(samples):
        value = getattr(samples, field.name)
        if value is not None:
            getattr(into, field.name).copy_(value)
