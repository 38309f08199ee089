"""Gradient steps of value learning: a learner with its target network, and what one batch does to it."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlkd.learn.checkpoint import Progress, restore, save_checkpoint
from rlkd.learn.graphs import Captured
from rlkd.learn.guard import check_finite
from rlkd.learn.values import ValueNetwork
from rlkd.losses import huber, importance_weights, quantile_huber
from rlkd.policy import PolicySpec
from rlkd.policy.compute import Precision, autocast
from rlkd.policy.tensors import below, tensors_of
from rlkd.recipe import Dqn
from rlkd.replay import Batch, Transitions

BATCH = [field.name for field in fields(Batch)]
STANDARDISE_STATES = 256  # of the memory, that fresh units are scaled on


@dataclass(slots=True)
class Learner:
    """What learns."""

    online: ValueNetwork
    target: ValueNetwork
    """Gives the values to bootstrap from; a copy of `online` from some gradient steps ago."""
    optimiser: torch.optim.Optimizer
    """Of `online`."""
    captures: bool
    """Whether gradient steps are replayed as a CUDA graph."""
    gradient_steps: int = 0
    """So far, over all attempts."""
    fixed: tuple[Batch, tuple[Tensor, Tensor], Captured[tuple[Tensor, Tensor, Tensor, Tensor]]] | None = None
    """What the graph reads, at addresses that stay, and the graph."""

    @property
    def both(self) -> nn.ModuleDict:
        """All weights under one roof, for checkpoints."""
        return nn.ModuleDict({"online": self.online, "target": self.target})


def make_learner(
    spec: PolicySpec, agent: Dqn, *, seed: int, device: torch.device, precision: Precision = "float32"
) -> Learner:
    """Two equal networks with weights from a seed, and an optimiser of the first."""
    online, target = (ValueNetwork(spec, agent) for _ in range(2))
    online.initialise(torch.Generator().manual_seed(seed))
    target.load_state_dict(online.state_dict())
    for network in (online, target):
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
    target.policy.cast_encoder(precision)
    learning = [weight for weight in online.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(learning, lr=agent.learning_rate, eps=agent.adam_epsilon, fused=True)
    return Learner(online, target, optimiser, device.type == "cuda")


def learn(
    learner: Learner,
    agent: Dqn,
    memory: Transitions,
    steps: int,
    draws: np.random.Generator,
    precision: Precision,
    *,
    done: float,
) -> dict[str, float]:
    """Take gradient steps; `done` in [0, 1] is the share of the run that lies behind.

    Returns:
        Figures, means over these steps, by TensorBoard tag; none where there were no steps.
    """
    if not steps:
        return {}
    if learner.gradient_steps == 0 and learner.online.policy.pixels:
        seen = memory.draw(STANDARDISE_STATES, draws).observation
        learner.online.policy.standardise(seen)
        learner.target.load_state_dict(learner.online.state_dict())
    beta = agent.beta + done * (1 - agent.beta)
    sums: dict[str, Tensor] = {}
    look = partial(_look, learner, agent, memory, draws, precision)
    # A second thread costs more than it brings where passes are short; on a device, nobody waits for them.
    looks_ahead = learner.online.policy.pixels and not learner.captures and not agent.prioritised
    with ThreadPoolExecutor(1) as pool:
        ahead: Future[tuple[Batch, Tensor]] | None = None
        for left in range(steps, 0, -1):
            batch, values = look() if ahead is None else ahead.result()
            copies = (learner.gradient_steps + 1) % agent.target_every == 0
            # What comes next is looked at meanwhile, unless it depends on this step.
            ahead = pool.submit(look) if looks_ahead and left > 1 and not copies else None
            errors, figures = update(learner, agent, batch, values, precision, beta=beta)
            memory.update(batch.rows, errors)
            sums = {name: sums[name] + value if sums else value for name, value in figures.items()}
            if copies:
                learner.target.load_state_dict(learner.online.state_dict())
    weights = {f"weight {name}": weight.detach() for name, weight in learner.online.named_parameters()}
    check_finite(sums | weights, where=f"gradient step {learner.gradient_steps:,}")
    means = {f"train/{name.replace(' ', '_')}": value.item() / steps for name, value in sums.items()}
    return means | {"train/gradient_steps": learner.gradient_steps, "train/states_in_memory": len(memory)}


def _look(
    learner: Learner, agent: Dqn, memory: Transitions, draws: np.random.Generator, precision: Precision
) -> tuple[Batch, Tensor]:
    """A batch, and the values behind it."""
    batch = memory.draw(agent.batch, draws)
    return batch, values_behind(learner, batch, precision)


def update(
    learner: Learner, agent: Dqn, batch: Batch, values: Tensor, precision: Precision, *, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """One gradient step.

    Args:
        learner: changes.
        agent: how.
        batch: to be learnt from.
        values: [B, A, M] `values_behind` it.
        precision: of forward passes.
        beta: power of the importance weights.

    Returns:
        [B], how wrong each prediction was: the size of the error, or the loss where quantiles are learnt; and figures,
        scalars. A device is not waited for.

    Raises:
        NotFiniteError: loss or gradient norm, before a weight has changed; on the CPU alone.
    """
    weight = importance_weights(batch.probability, beta=beta)
    read = _replayed if learner.captures else _read
    loss, errors, value, norm = read(learner, agent, batch, values, weight, precision)
    if loss.device.type == "cpu":  # a GPU would be waited for: there, the end of the chunk shows it
        check_finite({"loss": loss, "gradient norm": norm}, where=f"gradient step {learner.gradient_steps + 1:,}")
    learner.optimiser.step()
    learner.gradient_steps += 1
    return errors, {"loss": (weight * loss).mean(), "value": value.clone(), "gradient norm": norm.clone()}


def _read(
    learner: Learner, agent: Dqn, batch: Batch, values: Tensor, weight: Tensor, precision: Precision
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Leave a batch's clipped gradient in the weights; its losses and errors [B], mean prediction, gradient norm."""
    action = batch.action
    target = targets(learner, agent, batch, values, precision)
    with autocast(action.device, precision, pixels=learner.online.policy.pixels):
        answer = learner.online(batch.observation)
    predicted = answer[torch.arange(len(action), device=action.device), action]
    if agent.quantiles:
        loss = quantile_huber(predicted, target)
        errors = loss.detach()
    else:
        error = (target - predicted).squeeze(1)
        loss, errors = huber(error), error.detach().abs()
    learner.optimiser.zero_grad()
    (weight * loss).mean().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    limit = agent.max_gradient_norm or float("inf")
    norm = nn.utils.clip_grad_norm_(learner.online.parameters(), limit, foreach=True)
    return loss.detach(), errors, predicted.detach().mean(), norm


def _replayed(
    learner: Learner, agent: Dqn, batch: Batch, values: Tensor, weight: Tensor, precision: Precision
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same as one CUDA graph, which reads copies at fixed addresses and returns tensors of its own."""
    tensors: dict[str, Any] = {name: value for name in BATCH if isinstance(value := getattr(batch, name), Tensor)}
    if learner.fixed is None:
        fixed = replace(batch, **{name: tensor.clone() for name, tensor in tensors.items()})
        beside = values.clone(), weight.clone()
        learner.fixed = fixed, beside, Captured(partial(_read, learner, agent, fixed, *beside, precision))
    fixed, beside, captured = learner.fixed
    beside[0].copy_(values)
    beside[1].copy_(weight)
    for name, tensor in tensors.items():
        getattr(fixed, name).copy_(tensor)
    return captured()


@torch.no_grad()
def values_behind(learner: Learner, batch: Batch, precision: Precision) -> Tensor:
    """[B, A, M]: what the target network expects of each action behind a batch's steps."""
    with autocast(batch.following.device, precision, pixels=learner.target.policy.pixels):
        values: Tensor = learner.target(batch.following)
    return values


@torch.no_grad()
def targets(learner: Learner, agent: Dqn, batch: Batch, values: Tensor, precision: Precision) -> Tensor:
    """[B, M]: what the value of the taken action should have been, from rewards and the values behind them."""
    chooser, device = values, values.device
    if agent.double:
        with autocast(device, precision, pixels=learner.online.policy.pixels):
            chooser = learner.online(batch.following)
    best = chooser.mean(dim=2).argmax(dim=1)
    chosen = values[torch.arange(len(best), device=device), best]
    wanted: Tensor = batch.reward[:, None] + batch.discount[:, None] * chosen
    return wanted


def save(run: Path, learner: Learner, memory: Transitions, progress: Progress) -> None:
    """Write the checkpoint: weights, target, moments, counters; not the memory."""
    counters = {"counter.gradient_steps": torch.tensor(learner.gradient_steps)}
    if memory.priorities is not None:
        counters["counter.largest_priority"] = torch.tensor(memory.priorities.largest, dtype=torch.float64)
    save_checkpoint(run, tensors_of(learner.both, learner.optimiser) | counters, progress)


def resume(run: Path, tensors: Mapping[str, Tensor], learner: Learner, memory: Transitions) -> None:
    """Put back what `save` took."""
    restore(run, tensors, learner.both, learner.optimiser)
    counters = below(tensors, "counter.")
    learner.gradient_steps = int(counters["gradient_steps"])
    if memory.priorities is not None and "largest_priority" in counters:
        memory.priorities.largest = float(counters["largest_priority"])
