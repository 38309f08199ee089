"""The learner of policy-gradient methods: losses of a minibatch, gradient steps on a rollout."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlkd.learn.graphs import Captured, prime
from rlkd.learn.guard import check_finite
from rlkd.learn.samples import Piece, Samples, log_prob_and_entropy, minibatches, pieces_of
from rlkd.losses import ppo_surrogate
from rlkd.policy import PolicyNetwork
from rlkd.policy.compute import SMALLEST_PART, Precision, add_up, autocast, idle_cores
from rlkd.recipe import Ppo


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

    def total(self, agent: Ppo) -> Tensor:
        """What is minimised."""
        return self.policy + agent.value_coefficient * self.value - agent.entropy_coefficient * self.entropy


class Learner:
    """Network and optimiser, and what a machine needs to learn fast: threads on a CPU, a CUDA graph on a GPU."""

    def __init__(self, network: PolicyNetwork, agent: Ppo, precision: Precision) -> None:
        """Take a network, on its device; fresh moments."""
        self.network, self.agent, self.precision = network, agent, precision
        self.device = network.head.weight.device
        on_gpu = self.device.type == "cuda"
        rate = torch.tensor(agent.learning_rate, device=self.device) if on_gpu else agent.learning_rate
        self.optimiser = torch.optim.Adam(network.parameters(), lr=rate, eps=1e-5, fused=True, capturable=on_gpu)
        pieces = max(1, agent.minibatch // SMALLEST_PART)
        self.parts = min(idle_cores(1), pieces) if network.pixels and not on_gpu else 1
        """Pieces of a minibatch that are learnt from side by side, a thread each. Sums are rounded otherwise than in
        one piece: a seed gives the same bits with the same number of them only."""
        self.captures = on_gpu
        """Whether gradient steps are replayed as a CUDA graph."""
        self._fixed: tuple[Samples, Tensor, Captured[tuple[Losses, Tensor]]] | None = None

    def learn(self, samples: Samples, order: torch.Generator, *, rate: float, where: str) -> dict[str, float]:
        """All gradient steps on one rollout.

        Args:
            samples: what `prepare` made of the rollout.
            order: of the minibatches; a generator on the CPU.
            rate: step size.
            where: of the run, for messages.

        Returns:
            Figures of the last minibatch, by TensorBoard tag.

        Raises:
            NotFiniteError: a loss, a gradient or a weight is NaN or infinite; the weights are then of no use.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
        if self._fixed is not None:
            _copy(samples, self._fixed[0])
        with ThreadPoolExecutor(self.parts) as pool:
            each = pool.map if self.parts > 1 else map
            for rows in minibatches(samples, self.agent, order):
                losses, norm = self._replayed(samples, rows) if self.captures else self._step(samples, rows, each)
                if self.device.type == "cpu":  # a GPU would be waited for: there, the end of the rollout shows it
                    self._check(losses, norm, where)
        self._check(losses, norm, where)
        weights = self.network.named_parameters()
        check_finite({f"weight {name}": weight.detach() for name, weight in weights}, where=where)
        figures = {f"train/{name}": value.item() for name, value in losses._asdict().items()}
        return figures | {"train/learning_rate": rate}

    def _step(self, samples: Samples, rows: Tensor, each: Callable[..., Iterable[Any]] = map) -> tuple[Losses, Tensor]:
        """One gradient step: the minibatch's losses, and the norm of its gradient before clipping."""
        pieces = pieces_of(samples, rows, self.parts)
        done = each(partial(gradients_of, self.network, self.agent, self.precision), pieces)
        by_piece, gradients = zip(*done, strict=True)
        parameters = list(self.network.parameters())
        add_up(parameters, gradients)
        norm = nn.utils.clip_grad_norm_(parameters, self.agent.max_gradient_norm, foreach=True)
        self.optimiser.step()
        return Losses(*(torch.stack(values).sum(0) for values in zip(*by_piece, strict=True))), norm

    def _replayed(self, samples: Samples, rows: Tensor) -> tuple[Losses, Tensor]:
        """The same as one CUDA graph, which reads the samples from copies at fixed addresses."""
        if self._fixed is None:
            tensors = {field.name: getattr(samples, field.name) for field in fields(samples)}
            copies = replace(samples, **{name: t.clone() for name, t in tensors.items() if t is not None})
            places = rows.clone()
            changes = [*self.network.parameters(), *prime(self.optimiser)]
            self._fixed = copies, places, Captured(partial(self._step, copies, places), changes=changes)
        _, places, captured = self._fixed
        if rows.shape != places.shape:
            return self._step(samples, rows)  # the rest of an epoch
        places.copy_(rows)
        return captured()

    def _check(self, losses: Losses, norm: Tensor, where: str) -> None:
        check_finite({"loss": losses.total(self.agent)}, where=where)
        if not norm.isfinite():
            named = self.network.named_parameters()
            check_finite({f"gradient of {name}": p.grad for name, p in named if p.grad is not None}, where=where)


def piece_losses(network: PolicyNetwork, agent: Ppo, precision: Precision, piece: Piece) -> Losses:
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
    return Losses(
        policy=(ppo_surrogate(log_prob, old, advantage, clip=agent.clip) * weight).sum(),
        value=(0.5 * (output.value.float() - target).square().sum(-1) * weight).sum(),
        entropy=(entropy * weight).sum(),
        approx_kl=((log_ratio.exp() - 1 - log_ratio) * weight).sum(),
    )


def gradients_of(
    network: PolicyNetwork, agent: Ppo, precision: Precision, piece: Piece
) -> tuple[Losses, tuple[Tensor, ...]]:
    """What a piece adds to the losses, and to each parameter's gradient."""
    losses = piece_losses(network, agent, precision, piece)
    gradients = torch.autograd.grad(losses.total(agent), list(network.parameters()), materialize_grads=True)
    return Losses(*(value.detach() for value in losses)), gradients


def _copy(samples: Samples, into: Samples) -> None:
    for field in fields(samples):
        tensor = getattr(samples, field.name)
        if tensor is not None:
            getattr(into, field.name).copy_(tensor)
