"""What policy-gradient learning does with a rollout: targets, minibatches, gradient steps."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.learn.guard import check_finite
from rlkd.learn.rollout import Rollout
from rlkd.losses import (
    categorical_entropy,
    gaussian_entropy,
    gaussian_log_prob,
    generalised_advantages,
    ppo_surrogate,
)
from rlkd.policy import Kind, Output, PolicyNetwork
from rlkd.policy.compute import Precision, autocast
from rlkd.recipe import Ppo

CHUNK = 256  # samples of a forward pass without gradients; more fall out of the cache
SMALLEST_PART = 64  # samples of a minibatch; below, threads cost more than they bring


@dataclass(frozen=True, slots=True)
class Samples:
    """A rollout as it is learnt from. Rows run over T steps of N environments, step by step."""

    rollout: Rollout
    """Observations, actions and what was remembered."""
    log_prob: Tensor
    """[T * N], of the action under the policy that acted."""
    advantage: Tensor
    """[T * N], summed over streams by their coefficients; 0 where not valid."""
    target: Tensor
    """[T * N, K], of the critic."""
    valid: Tensor
    """[T * N] bool."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a minibatch: [b] rows of a rollout, or [B, T] for who remembers."""

    samples: Samples
    """Whose rows."""
    rows: Tensor
    """Which."""
    advantage: Tensor
    """Shaped as `rows`, normalised over the minibatch."""
    weight: Tensor
    """Shaped as `rows`: the row's share in the minibatch; 0 where it is not valid."""


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


def prepare(network: PolicyNetwork, rollout: Rollout, agent: Ppo, precision: Precision) -> Samples:
    """Advantages and targets of a rollout, by the learner's own eyes where it lags (V-trace)."""
    value, log_ratio = rollout.value, None
    if agent.vtrace:
        output = answer_all(network, rollout, precision)
        T, N = rollout.log_prob.shape
        assert output.value is not None
        value = output.value.float().view(T + 1, N, -1)
        now = {name: tensor[: T * N] for name, tensor in output.params.items()}
        log_prob, _ = log_prob_and_entropy(output.kind, now, rollout.action.flatten(0, 1))
        log_ratio = log_prob.view(T, N) - rollout.log_prob
    advantage = torch.zeros_like(rollout.log_prob)
    target = torch.empty_like(rollout.reward)
    for k, stream in enumerate(agent.streams):
        by_stream, target[..., k] = generalised_advantages(
            rollout.reward[..., k],
            value[..., k],
            rollout.terminated,
            rollout.valid,
            discount=stream.discount,
            gae_lambda=stream.gae_lambda,
            episodic=stream.episodic,
            log_ratio=log_ratio,
        )
        advantage += stream.coefficient * by_stream
    return Samples(
        rollout, rollout.log_prob.flatten(), advantage.flatten(), target.flatten(0, 1), rollout.valid.flatten()
    )


@torch.no_grad()
def answer_all(network: PolicyNetwork, rollout: Rollout, precision: Precision) -> Output:
    """The learner's answers to all T + 1 steps of N environments, as rows step by step, without features or state."""
    seen, device = rollout.observation, network.head.weight.device
    parts: list[Output] = []
    state = rollout.state
    size = CHUNK if state is None else seen.shape[1]  # who remembers has to see one step after the other
    rows, firsts = (torch.split(tensor.flatten(0, 1), size) for tensor in (seen, rollout.first))
    for part, first in zip(rows, firsts, strict=True):
        state = None if state is None else state.to(device) * ~first.to(device)[:, None]
        with autocast(device, precision, pixels=network.pixels):
            parts.append(network(part.to(device), state))
        state = parts[-1].state
    params = {name: torch.cat([part.params[name] for part in parts]).float().cpu() for name in parts[0].params}
    value = torch.cat([part.value for part in parts if part.value is not None]).cpu()
    return Output(parts[0].kind, params, value)


def update(
    network: PolicyNetwork,
    optimiser: torch.optim.Optimizer,
    agent: Ppo,
    samples: Samples,
    order: torch.Generator,
    *,
    precision: Precision,
    rate: float,
    parts: int = 1,
    where: str = "",
) -> dict[str, float]:
    """All gradient steps on one rollout.

    Args:
        network: the learner.
        optimiser: of its weights.
        agent: how.
        samples: what `prepare` made of the rollout.
        order: of the minibatches.
        precision: of forward passes.
        rate: step size.
        parts: pieces of a minibatch that are learnt from side by side, a thread each.
        where: of the run, for messages.

    Returns:
        Figures of the last minibatch, by TensorBoard tag.

    Raises:
        NotFiniteError: a loss, a gradient or a weight is NaN or infinite; the weights are then of no use.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
    losses: Losses | None = None
    parameters = list(network.parameters())
    with ThreadPoolExecutor(parts) as pool:
        each = pool.map if parts > 1 else map
        for rows in minibatches(samples, agent, order):
            pieces = each(partial(_gradients, network, agent, precision), minibatch_pieces(samples, rows, parts))
            by_piece, gradients = zip(*pieces, strict=True)
            losses = Losses(*(torch.stack(of_pieces).sum(0) for of_pieces in zip(*by_piece, strict=True)))
            for parameter, *of_pieces in zip(parameters, *gradients, strict=True):
                parameter.grad = sum(of_pieces[1:], of_pieces[0])
            check_finite({"loss": losses.total(agent)}, where=where)
            norm = nn.utils.clip_grad_norm_(parameters, agent.max_gradient_norm, foreach=True)
            if not norm.isfinite():
                named = network.named_parameters()
                check_finite({f"gradient of {name}": p.grad for name, p in named if p.grad is not None}, where=where)
            optimiser.step()
    check_finite({f"weight {name}": parameter.detach() for name, parameter in network.named_parameters()}, where=where)
    if losses is None:
        return {}
    return {f"train/{name}": value.item() for name, value in losses._asdict().items()} | {"train/learning_rate": rate}


def minibatches(samples: Samples, agent: Ppo, order: torch.Generator) -> Iterator[Tensor]:
    """Rows of each minibatch of all epochs: [b] valid ones, or [B, T] whole sequences for who remembers."""
    T, N = samples.rollout.log_prob.shape
    recurrent = samples.rollout.state is not None
    played = torch.arange(N) if recurrent else torch.nonzero(samples.valid).squeeze(-1)
    size = max(1, agent.minibatch // T) if recurrent else agent.minibatch
    for _ in range(agent.epochs):
        shuffled = played[torch.randperm(len(played), generator=order)]
        for rows in torch.split(shuffled, size):
            if len(rows) < max(2 - recurrent, min(size, len(shuffled)) // 2):
                continue  # a small rest has noisy advantages after normalising, one row has none
            yield rows[:, None] + N * torch.arange(T) if recurrent else rows


def minibatch_pieces(samples: Samples, rows: Tensor, parts: int) -> list[Piece]:
    """A minibatch in so many pieces, its advantages normalised as a whole."""
    valid = samples.valid[rows]
    advantage = normalised(samples.advantage[rows], valid)
    weight = valid / valid.sum().clamp(min=1)
    pieces = (tensor.chunk(parts) for tensor in (rows, advantage, weight))
    return [Piece(samples, *piece) for piece in zip(*pieces, strict=True)]


def normalised(advantage: Tensor, valid: Tensor) -> Tensor:
    """Advantages with mean 0 and deviation 1 over the valid ones."""
    chosen = advantage[valid]
    return (advantage - chosen.mean()) / (chosen.std() + 1e-8)


def piece_losses(network: PolicyNetwork, agent: Ppo, precision: Precision, piece: Piece) -> Losses:
    """What a piece adds to each loss of its minibatch."""
    samples, rollout, device = piece.samples, piece.samples.rollout, network.head.weight.device
    rows = piece.rows.flatten()
    observation = rollout.observation.flatten(0, 1).index_select(0, rows).to(device)
    with autocast(device, precision, pixels=network.pixels):
        if rollout.state is None:
            output = network(observation)
        else:
            first = rollout.first.flatten()[piece.rows].to(device)
            state = rollout.state[piece.rows[:, 0]].to(device)  # rows of step 0 are numbers of environments
            output = network.unroll(observation.view(*piece.rows.shape, *observation.shape[1:]), first, state)
    if output.value is None:
        raise ValueError("PPO needs a network with a critic")
    action, old, target, advantage, weight = (
        tensor.to(device)
        for tensor in (
            rollout.action.flatten(0, 1)[rows],
            samples.log_prob[rows],
            samples.target[rows],
            piece.advantage.flatten(),
            piece.weight.flatten(),
        )
    )
    log_prob, entropy = log_prob_and_entropy(output.kind, output.params, action)
    log_ratio = (log_prob - old).detach()
    return Losses(
        policy=(ppo_surrogate(log_prob, old, advantage, clip=agent.clip) * weight).sum(),
        value=(0.5 * (output.value.float() - target).square().sum(-1) * weight).sum(),
        entropy=(entropy * weight).sum(),
        approx_kl=((log_ratio.exp() - 1 - log_ratio) * weight).sum(),
    )


def log_prob_and_entropy(kind: Kind, params: Mapping[str, Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
    """[B] and [B], nats: of actions [B] or [B, D] under a policy's parameters."""
    if kind == "categorical":
        logits = params["logits"].float()
        return F.log_softmax(logits, dim=-1).gather(1, action[:, None]).squeeze(-1), categorical_entropy(logits)
    mean, log_std = params["mean"].float(), params["log_std"].float()
    return gaussian_log_prob(mean, log_std, action), gaussian_entropy(log_std)


def _gradients(
    network: PolicyNetwork, agent: Ppo, precision: Precision, piece: Piece
) -> tuple[Losses, tuple[Tensor, ...]]:
    """What a piece adds to the losses, and to each parameter's gradient."""
    losses = piece_losses(network, agent, precision, piece)
    gradients = torch.autograd.grad(losses.total(agent), list(network.parameters()), materialize_grads=True)
    return Losses(*(value.detach() for value in losses)), gradients
