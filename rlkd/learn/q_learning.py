"""Gradient steps of value learning: a learner with its target network, and what one batch does to it."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rlkd.learn.checkpoint import Progress, restore, save_checkpoint
from rlkd.learn.graphs import Captured
from rlkd.learn.guard import check_finite
from rlkd.learn.relabelled import Curiosity
from rlkd.learn.scored import put_back, state_of
from rlkd.learn.teaching import Teaching
from rlkd.learn.values import ValueNetwork
from rlkd.losses import huber, importance_weights, quantile_huber
from rlkd.policy import Output, PolicySpec
from rlkd.policy.compute import Precision, add_up, autocast, idle_cores
from rlkd.policy.tensors import below, tensors_of
from rlkd.recipe import Dqn
from rlkd.replay import Batch, Transitions

BATCH = [field.name for field in fields(Batch)]
SMALLEST_PART = 16  # transitions of a batch that are learnt from side by side with others


class Answers(NamedTuple):
    """About each transition of a batch, [B]."""

    loss: Tensor
    """Not weighted."""
    errors: Tensor
    """How wrong the prediction was."""
    predicted: Tensor
    """Value of the taken action."""


@dataclass(slots=True)
class Learner:
    """What learns."""

    online: ValueNetwork
    target: ValueNetwork
    """Gives the values to bootstrap from; a copy of `online` from some gradient steps ago."""
    optimiser: torch.optim.Optimizer
    """Of `online`."""
    parts: int
    """Pieces of a batch that are learnt from side by side, a thread each. Sums are rounded otherwise than in one piece:
    a seed gives the same bits with the same number of them only."""
    captures: bool
    """Whether gradient steps are replayed as a CUDA graph."""
    teaching: Teaching | None = None
    """A teacher beside the rewards."""
    progress: float = 0.0
    """Share of the run that lies behind."""
    gradient_steps: int = 0
    """So far, over all attempts."""
    fixed: tuple[Batch, Tensor, Captured[tuple[Answers, Tensor]]] | None = None
    """What the graph reads, at addresses that stay, and the graph."""

    @property
    def both(self) -> nn.ModuleDict:
        """All weights under one roof, for checkpoints."""
        return nn.ModuleDict({"online": self.online, "target": self.target})


def make_learner(
    spec: PolicySpec,
    agent: Dqn,
    *,
    seed: int,
    device: torch.device,
    precision: Precision = "float32",
    teaching: Teaching | None = None,
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
    on_gpu, pieces = device.type == "cuda", max(1, agent.batch // SMALLEST_PART)
    parts = min(idle_cores(1), pieces) if online.policy.pixels and not on_gpu else 1
    # Coefficients of terms change with the progress: a graph would keep those of its capture.
    return Learner(online, target, optimiser, parts, on_gpu and teaching is None, teaching)


def learn(
    learner: Learner,
    agent: Dqn,
    memory: Transitions,
    steps: int,
    draws: np.random.Generator,
    precision: Precision,
    *,
    done: float,
    curiosity: Curiosity | None = None,
) -> dict[str, float]:
    """Take gradient steps; `done` in [0, 1] is the share of the run that lies behind. What is drawn is relabelled where
    there is curiosity.

    Returns:
        Figures, means over these steps, by TensorBoard tag; none where there were no steps.
    """
    if not steps:
        return {}
    beta = agent.beta + done * (1 - agent.beta)
    learner.progress = done
    sums: dict[str, Tensor] = {}
    with ThreadPoolExecutor(learner.parts) as pool:
        each = pool.map if learner.parts > 1 else map
        for _ in range(steps):
            batch = memory.draw(agent.batch, draws)
            worth: dict[str, Tensor] = {}
            if curiosity is not None:
                batch, worth = curiosity.relabelled(memory, batch)
            errors, figures = update(learner, agent, batch, precision, beta=beta, each=each)
            memory.update(batch.rows, errors)
            figures |= worth
            sums = {name: sums[name] + value if sums else value for name, value in figures.items()}
            if learner.gradient_steps % agent.target_every == 0:
                learner.target.load_state_dict(learner.online.state_dict())
    weights = {f"weight {name}": weight.detach() for name, weight in learner.online.named_parameters()}
    check_finite(sums | weights, where=f"gradient step {learner.gradient_steps:,}")
    means = {f"train/{name.replace(' ', '_')}": value.item() / steps for name, value in sums.items()}
    return means | {"train/gradient_steps": learner.gradient_steps, "train/states_in_memory": len(memory)}


def update(
    learner: Learner,
    agent: Dqn,
    batch: Batch,
    precision: Precision,
    *,
    beta: float,
    each: Callable[..., Iterable[Any]] = map,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One gradient step.

    Args:
        learner: changes.
        agent: how.
        batch: to be learnt from.
        precision: of forward passes.
        beta: power of the importance weights.
        each: applies a function to each part of the batch: `map`, or a pool's.

    Returns:
        [B], how wrong each prediction was: the size of the error, or the loss where quantiles are learnt; and figures,
        scalars. A device is not waited for.

    Raises:
        NotFiniteError: loss or gradient norm, before a weight has changed; on the CPU alone.
    """
    weight = importance_weights(batch.probability, beta=beta)
    take = _replayed if learner.captures else partial(_gradient, each=each)
    answers, norm = take(learner, agent, precision, batch, weight)
    loss, errors, predicted = answers
    if loss.device.type == "cpu":  # a GPU would be waited for: there, the end of the chunk shows it
        check_finite({"loss": loss, "gradient norm": norm}, where=f"gradient step {learner.gradient_steps + 1:,}")
    learner.optimiser.step()
    learner.gradient_steps += 1
    return errors, {"loss": (weight * loss).mean(), "value": predicted.mean(), "gradient norm": norm.clone()}


def _gradient(
    learner: Learner,
    agent: Dqn,
    precision: Precision,
    batch: Batch,
    weight: Tensor,
    *,
    each: Callable[..., Iterable[Any]] = map,
) -> tuple[Answers, Tensor]:
    """Leave a batch's clipped gradient in the weights; what was answered, and the gradient's norm before clipping."""
    rows = [slice(*ends) for ends in pairwise(np.linspace(0, len(weight), learner.parts + 1, dtype=int))]
    there = {name: getattr(batch, name) for name in BATCH if getattr(batch, name) is not None}
    pieces = [replace(batch, **{name: each[part] for name, each in there.items()}) for part in rows]
    shares = [weight[part] / len(weight) for part in rows]
    done = each(partial(gradients_of, learner, agent, precision), pieces, shares)
    answers, gradients = zip(*done, strict=True)
    parameters = learner.optimiser.param_groups[0]["params"]
    add_up(parameters, gradients)
    norm = nn.utils.clip_grad_norm_(parameters, agent.max_gradient_norm or float("inf"), foreach=True)
    return Answers(*(torch.cat(parts) for parts in zip(*answers, strict=True))), norm


def gradients_of(
    learner: Learner, agent: Dqn, precision: Precision, batch: Batch, share: Tensor
) -> tuple[Answers, tuple[Tensor, ...]]:
    """What a batch or a part of one answers, and what it adds to each parameter's gradient by its shares [B]."""
    target = targets(learner, agent, batch, precision)
    action = batch.action
    with autocast(action.device, precision, pixels=learner.online.policy.pixels):
        answer = learner.online(batch.observation)
    predicted = answer[torch.arange(len(action), device=action.device), action]
    if agent.quantiles:
        loss = quantile_huber(predicted, target)
        errors = loss.detach()
    else:
        error = (target - predicted).squeeze(1)
        loss, errors = huber(error), error.detach().abs()
    whole = loss
    if learner.teaching is not None:
        assert batch.answers is not None
        assert batch.demonstrated is not None
        known = {"action": action, "demonstrated": batch.demonstrated}
        student = Output("q", {"q": answer.mean(2)})
        whole = loss + learner.teaching.losses(batch.answers, student, known, learner.progress)
    gradients = torch.autograd.grad((share * whole).sum(), learner.optimiser.param_groups[0]["params"])
    return Answers(whole.detach(), errors, predicted.detach().mean(1)), gradients


def _replayed(
    learner: Learner, agent: Dqn, precision: Precision, batch: Batch, weight: Tensor
) -> tuple[Answers, Tensor]:
    """The same as one CUDA graph, which reads copies at fixed addresses; the next replay writes over its answers."""
    tensors: dict[str, Any] = {name: value for name in BATCH if isinstance(value := getattr(batch, name), Tensor)}
    if learner.fixed is None:
        fixed, beside = replace(batch, **{name: tensor.clone() for name, tensor in tensors.items()}), weight.clone()
        learner.fixed = fixed, beside, Captured(partial(_gradient, learner, agent, precision, fixed, beside))
    fixed, beside, captured = learner.fixed
    beside.copy_(weight)
    for name, tensor in tensors.items():
        getattr(fixed, name).copy_(tensor)
    return captured()


@torch.no_grad()
def targets(learner: Learner, agent: Dqn, batch: Batch, precision: Precision) -> Tensor:
    """[B, M]: what the value of the taken action should have been, from rewards and the values behind them."""
    device, pixels = batch.following.device, learner.target.policy.pixels
    with autocast(device, precision, pixels=pixels):
        values = learner.target(batch.following)
        chooser = learner.online(batch.following) if agent.double else values
    best = chooser.mean(dim=2).argmax(dim=1)
    chosen = values[torch.arange(len(best), device=device), best]
    wanted: Tensor = batch.reward[:, None] + batch.discount[:, None] * chosen
    return wanted


def save(
    run: Path, learner: Learner, memory: Transitions, progress: Progress, curiosity: Curiosity | None = None
) -> None:
    """Write the checkpoint: weights, target, moments, counters, all that a bonus remembers; not the memory."""
    beside = {} if curiosity is None else state_of(curiosity.bonus, curiosity.optimiser)
    counters = {"counter.gradient_steps": torch.tensor(learner.gradient_steps)}
    if memory.priorities is not None:
        counters["counter.largest_priority"] = torch.tensor(memory.priorities.largest, dtype=torch.float64)
    save_checkpoint(run, tensors_of(learner.both, learner.optimiser) | counters | beside, progress)


def resume(
    run: Path,
    tensors: Mapping[str, Tensor],
    learner: Learner,
    memory: Transitions,
    curiosity: Curiosity | None = None,
) -> None:
    """Put back what `save` took."""
    restore(run, tensors, learner.both, learner.optimiser)
    bonus, optimiser = (None, None) if curiosity is None else (curiosity.bonus, curiosity.optimiser)
    put_back(bonus, tensors, run=str(run), optimiser=optimiser)
    counters = below(tensors, "counter.")
    learner.gradient_steps = int(counters["gradient_steps"])
    if memory.priorities is not None and "largest_priority" in counters:
        memory.priorities.largest = float(counters["largest_priority"])
