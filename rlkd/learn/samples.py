"""A rollout as it is learnt from: advantages, targets, minibatches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd.explore import Steps
from rlkd.learn.rollout import Rollout
from rlkd.losses import categorical_entropy, gaussian_entropy, gaussian_log_prob, generalised_advantages
from rlkd.policy import Output, PolicyNetwork
from rlkd.policy.compute import Precision, autocast, rows_at_once
from rlkd.policy.output import joined
from rlkd.recipe import Ppo


@dataclass(frozen=True, slots=True)
class Samples:
    """R = T * N rows, step by step, on the learner's device."""

    observation: Tensor
    """[R, ...] uint8 or float32."""
    first: Tensor
    """[R] bool, the observation begins an episode."""
    state: Tensor | None
    """[N, S], what a recurrent policy remembered before the first step; None of feed-forward ones."""
    action: Tensor
    """[R] int64, or [R, D] float32."""
    log_prob: Tensor
    """[R], of the action under the policy that acted."""
    advantage: Tensor
    """[R], summed over streams by their coefficients; 0 where not valid."""
    target: Tensor
    """[R, K], of the critic."""
    valid: Tensor
    """[R] bool."""
    shares: Tensor
    """[K], of each stream in the advantages' mean size; they add up to 1, or are all 0."""
    steps: Steps | None = None
    """[R] what a bonus learns from; None without one."""
    answers: Tensor | None = None
    """[R, P] what a teacher says; None without one."""


class Learnt(NamedTuple):
    """Steps of a minibatch, or of a part of one, that a bonus learns from."""

    steps: Steps
    """[B']."""
    share: Tensor
    """[B'], in the minibatch's mean."""
    chance: Tensor
    """[B'], luck of each, in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A minibatch or a part of one. Shapes begin with [B], or with [B, T] for who remembers: whole sequences."""

    observation: Tensor
    """[B, ...] or [B, T, ...]."""
    first: Tensor
    """The observation begins an episode."""
    state: Tensor | None
    """[B, S], before the sequence; None of feed-forward policies."""
    action: Tensor
    """As taken."""
    log_prob: Tensor
    """Under the policy that acted."""
    advantage: Tensor
    """Normalised over the minibatch."""
    target: Tensor
    """[..., K], of the critic."""
    weight: Tensor
    """Share in the minibatch; 0 where not valid."""
    learnt: Learnt | None
    """What a bonus learns from; None without one."""
    answers: Tensor | None
    """[..., P] of a teacher; None without one."""


def prepare(network: PolicyNetwork, rollout: Rollout, agent: Ppo, precision: Precision) -> Samples:
    """Advantages and targets of a rollout, by the learner's own eyes where it lags (V-trace)."""
    value, log_ratio = rollout.value, None
    if agent.vtrace:
        output = answer_all(network, rollout, precision)
        T, N = rollout.log_prob.shape
        assert output.value is not None
        value = output.value.view(T + 1, N, -1)
        output = Output(output.kind, {name: tensor[: T * N] for name, tensor in output.params.items()})
        log_ratio = log_prob_and_entropy(output, rollout.action.flatten(0, 1))[0].view(T, N) - rollout.log_prob
    advantage = torch.zeros_like(rollout.log_prob)
    target, sizes = torch.empty_like(rollout.reward), torch.zeros(len(agent.streams), device=value.device)
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
        sizes[k] = abs(stream.coefficient) * by_stream.abs().mean()
    return Samples(
        observation=rollout.observation[:-1].flatten(0, 1),
        first=rollout.first[:-1].flatten(),
        state=rollout.state,
        action=rollout.action.flatten(0, 1),
        log_prob=rollout.log_prob.flatten(),
        advantage=advantage.flatten(),
        target=target.flatten(0, 1),
        valid=rollout.valid.flatten(),
        shares=sizes / sizes.sum().clamp(min=1e-12),
    )


@torch.no_grad()
def answer_all(network: PolicyNetwork, rollout: Rollout, precision: Precision) -> Output:
    """The network's answers to all T + 1 steps of N environments, as rows, without state."""
    seen, state = rollout.observation, rollout.state
    parts: list[Output] = []
    # Who remembers has to see one step after the other.
    size = rows_at_once(seen.device, pixels=network.pixels) if state is None else seen.shape[1]
    rows, firsts = (torch.split(tensor.flatten(0, 1), size) for tensor in (seen, rollout.first))
    for part, first in zip(rows, firsts, strict=True):
        state = None if state is None else state * ~first[:, None]
        with autocast(seen.device, precision, pixels=network.pixels):
            parts.append(network(part, state))
        state = parts[-1].state
    return joined(parts)


def minibatches(samples: Samples, agent: Ppo, order: torch.Generator) -> Iterator[Tensor]:
    """Rows of each minibatch of all epochs, on the samples' device: [B], or [B, T] whole sequences for who remembers.

    Rows that are not valid come along with a weight of 0, so that all minibatches have one size, whatever was played;
    a rest of less than half of it is left out.
    """
    T, N, device = agent.rollout_steps, len(samples.valid) // agent.rollout_steps, samples.valid.device
    remembers, shuffled = samples.state is not None, agent.minibatches == "shuffled"
    whole = remembers or not shuffled
    steps = N * torch.arange(T if whole else 1, device=device)
    size, total = (max(1, agent.minibatch // T), N) if whole else (agent.minibatch, T * N)
    for _ in range(agent.epochs):
        places = torch.randperm(total, generator=order) if shuffled else torch.arange(total)
        for part in torch.split(places.to(device), size):
            if 2 * len(part) >= min(size, total):
                rows = part[:, None] + steps
                yield rows if remembers else rows.flatten()


def pieces_of(samples: Samples, agent: Ppo, rows: Tensor, kept: Tensor | None, parts: int) -> list[Piece]:
    """A minibatch in so many pieces, its advantages normalised as a whole.

    Args:
        samples: of the rollout.
        agent: how to learn.
        rows: of the minibatch, [B] or [B, T].
        kept: [2, rows.numel()], shares in what a bonus learns from, and its luck in [0, 1); None without one.
        parts: how many pieces, at most; no more than there are rows or sequences.
    """
    parts = min(parts, len(rows))
    valid = samples.valid[rows]
    advantage = samples.advantage[rows]
    if agent.normalise_advantages:
        advantage = normalised(advantage, valid)
    weight = valid / valid.sum().clamp(min=1)
    learnt: list[Learnt | None] = [None] * parts
    if samples.steps is not None and kept is not None:
        share, chance = kept
        # A graph needs the same shapes in each replay: there, rows without a share are looked at as well.
        on_cpu = share.device.type == "cpu"
        where = share.nonzero().flatten() if on_cpu else torch.arange(len(share), device=share.device)
        split = (tensor[where].tensor_split(parts) for tensor in (rows.flatten(), share, chance))
        learnt = [Learnt(samples.steps.rows(places), *luck) for places, *luck in zip(*split, strict=True)]
    split = (tensor.tensor_split(parts) for tensor in (rows, advantage, weight))
    pieces = []
    for places, normal, part, of_bonus in zip(*split, learnt, strict=True):
        flat = samples.observation.index_select(0, places.flatten())
        pieces.append(
            Piece(
                observation=flat.view(*places.shape, *flat.shape[1:]),
                first=samples.first[places],
                state=None if samples.state is None else samples.state[places[:, 0]],  # row n of step 0: environment n
                action=samples.action[places],
                log_prob=samples.log_prob[places],
                advantage=normal,
                target=samples.target[places],
                weight=part,
                learnt=of_bonus,
                answers=None if samples.answers is None else samples.answers[places],
            )
        )
    return pieces


def normalised(advantage: Tensor, valid: Tensor) -> Tensor:
    """Advantages with mean 0 and deviation 1 over the valid ones."""
    count = valid.sum()
    mean = (advantage * valid).sum() / count.clamp(min=1)
    deviation = ((advantage - mean).square() * valid).sum().div((count - 1).clamp(min=1)).sqrt()
    return (advantage - mean) / (deviation + 1e-8)


def log_prob_and_entropy(output: Output, action: Tensor) -> tuple[Tensor, Tensor]:
    """[B] and [B], nats: of actions [B] or [B, D] under a policy's answer, and of the answer."""
    params = {name: tensor.float() for name, tensor in output.params.items()}
    if output.kind == "categorical":
        log_p = F.log_softmax(params["logits"], dim=-1)
        return log_p.gather(1, action[:, None]).squeeze(-1), categorical_entropy(params["logits"])
    return gaussian_log_prob(params["mean"], params["log_std"], action), gaussian_entropy(params["log_std"])
