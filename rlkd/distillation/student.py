"""One student: its network, its optimiser, its own order of minibatches."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlkd.distillation.own import EarlierSelves
from rlkd.evaluation.agreement import BURN_IN, SEQUENCE
from rlkd.metrics import StopSignal
from rlkd.policy import Policy, PolicyNetwork, PolicySpec
from rlkd.policy.compute import SMALLEST_PART, Precision, add_up, autocast
from rlkd.policy.policy import snapshot
from rlkd.recipe import Distill, Network
from rlkd.replay import Replay
from rlkd.stats import fitted_temperature
from rlkd.terms import Objective, Parts, hard_labels

Control = Literal["none", "hard_labels", "shuffled_teacher"]
MAX_GRADIENT_NORM = 10.0  # far above what a healthy run sees; stops a single bad batch
FITTED_ON = 20_000  # states, at most, by which a temperature is fitted
FIRST_LOOK = 512  # states by which a fresh network is standardised


@dataclass(frozen=True, slots=True)
class Plan:
    """What a student is to be."""

    name: str
    """What tables and files call it."""
    network: Network
    """Its shape."""
    control: Control = "none"
    """`hard_labels` learns from the teacher's greedy actions alone, `shuffled_teacher` from answers to other states."""


@dataclass(frozen=True, slots=True)
class Minibatch:
    """What one gradient step is computed from. B samples; of a recurrent student, each is T states in a row."""

    observation: Tensor
    """[B, ...] or [B, T, ...]."""
    share: Tensor
    """[B] or [B, T]: of each state in the loss; they sum to 1."""
    first: Tensor | None
    """[B, T] bool, the state begins an episode; None of a feed-forward student."""
    targets: tuple[Tensor, ...]
    """[B, P] or [B, T, P] for each term."""
    weights: tuple[Tensor | None, ...]
    """[B] or [B, T] for each term; None where all states count alike."""

    def chunk(self, parts: int) -> list["Minibatch"]:
        """The samples in so many pieces."""
        firsts = [None] * parts if self.first is None else self.first.chunk(parts)
        plain = zip(self.observation.chunk(parts), self.share.chunk(parts), firsts, strict=True)
        targets, weights = (
            zip(*([None] * parts if tensor is None else tensor.chunk(parts) for tensor in each), strict=True)
            for each in (self.targets, self.weights)
        )
        return [Minibatch(*piece, *of_terms) for piece, *of_terms in zip(plain, targets, weights, strict=True)]


class Student:
    """Learns from a replay, some gradient steps at a time."""

    def __init__(
        self,
        plan: Plan,
        recipe: Distill,
        teacher: PolicySpec,
        *,
        seed: int,
        device: torch.device,
        parts: int = 1,
        observation_shape: tuple[int, ...] | None = None,
        own_parts: Parts | None = None,
        head: Tensor | None = None,
        more_teachers: Sequence[PolicySpec] = (),
    ) -> None:
        """Draw initial weights.

        Args:
            plan: what it is to be.
            recipe: how it learns.
            teacher: record of the teacher; rule, action meanings, normaliser and environment go on to the student.
            seed: of weights and minibatches.
            device: where it learns.
            parts: into how many a minibatch of pixels is split, to be learnt from side by side, a thread each. Sums are
                rounded otherwise than in one piece: a seed gives the same bits with the same number of parts only.
            observation_shape: what the environment gives; None: what the teacher reads, which may be the newest frames
                of a longer stack.
            own_parts: parts of a user's own that the recipe names.
            head: [A, F], the teacher's last weights, for parts that read them.
            more_teachers: of the same kind, whose answers stand behind the first one's.
        """
        self.plan, self.recipe = plan, recipe
        terms = hard_labels(recipe.terms) if plan.control == "hard_labels" else recipe.terms
        count = 1 + len(more_teachers)
        self.objective = Objective(terms, teacher.kind, teacher.actions, own_parts, teachers=count)
        self.head, self.actions = None if head is None else head.to(device), teacher.actions
        kind = self.objective.student
        shape = observation_shape or teacher.observation_shape
        network = PolicyNetwork(plan.network, shape, kind, teacher.actions)
        network.initialise(torch.Generator().manual_seed(seed), for_rl=False)
        self.network = network.to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lacks this overload
        self.spec = replace(
            teacher,
            name=plan.name,
            kind=kind,
            network=plan.network,
            observation_shape=shape,
            precision="float32",
            origin="rlkd distill",
            parents=(teacher.hash, *(each.hash for each in more_teachers)),
        )
        self.fitted: Tensor | None = None
        """Temperature of the teacher's answers in this round; None where no term asks."""
        self.own = EarlierSelves(self.network, self.objective.needs, keep=recipe.moving_average)
        self.device = device
        self.recurrent = network.core is not None
        self.samples = max(1, recipe.batch_size // SEQUENCE) if self.recurrent else recipe.batch_size
        self.parts = min(parts, max(1, recipe.batch_size // SMALLEST_PART), self.samples) if network.pixels else 1
        self.optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, fused=True)
        self.generator = np.random.default_rng(seed)
        self.steps = 0
        """Gradient steps taken."""
        self.losses: list[float] = []
        """Mean loss of each round, nats or squared units."""
        self.seconds = 0.0

    def learn(
        self,
        replay: Replay,
        rows: np.ndarray,
        goal: int,
        precision: Precision,
        stop: StopSignal | None = None,
        familiarity: np.ndarray | None = None,
    ) -> None:
        """Take gradient steps on minibatches drawn from some states of the replay.

        Args:
            replay: states and teacher answers.
            rows: [S] addresses of the states to learn from.
            goal: how many steps it is to have taken in all afterwards.
            precision: `auto` takes bfloat16 for pixels where the processor has it.
            stop: when set, learning ends at the next step.
            familiarity: of each state, by its address; where a term asks for it.
        """
        started, before = time.perf_counter(), self.steps
        if self.steps == 0 and goal > 0:
            look = self.generator.integers(len(rows), size=FIRST_LOOK)
            self.network.standardise(self._seen(replay.read(rows[look])[0]))
        self.own.begin(self.network, goal, fresh=self.steps == 0)
        if "fitted" in self.objective.needs and self.steps < goal:
            self.fitted = torch.tensor(fitted_on(replay, rows, self.actions), device=self.device)
        # Another state's answer for each state, the same all through a round and after a resume.
        shuffled = np.random.default_rng(len(rows)).permutation(len(rows))
        starts = sequence_starts(rows) if self.recurrent else np.arange(len(rows))
        total = torch.zeros((), device=self.device)
        with ThreadPoolExecutor(self.parts) as pool:
            each = pool.map if self.parts > 1 else map
            while self.steps < goal and not (stop and stop.asked):
                done = self.steps / self.recipe.gradient_steps
                for group in self.optimiser.param_groups:
                    group["lr"] = self.recipe.learning_rate * (1 - done)
                picks = starts[self.generator.integers(len(starts), size=self.samples)]
                minibatch = self._minibatch(replay, rows, picks, shuffled, familiarity, precision)
                gradients_of = partial(self._gradients, precision=precision, progress=done)
                parts = each(gradients_of, minibatch.chunk(self.parts))
                losses, gradients = zip(*parts, strict=True)
                add_up(list(self.network.parameters()), gradients)
                nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM, foreach=True)
                self.optimiser.step()
                self.own.follow(self.network)
                total += sum(losses)
                self.steps += 1
        if self.steps > before:
            self.losses.append(float(total) / (self.steps - before))
        self.seconds += time.perf_counter() - started

    def _minibatch(
        self,
        replay: Replay,
        rows: np.ndarray,
        picks: np.ndarray,
        shuffled: np.ndarray,
        familiarity: np.ndarray | None = None,
        precision: Precision = "float32",
    ) -> Minibatch:
        """Samples that begin at some places of `rows`."""
        first: Tensor | None = None
        share = torch.full((len(picks),), 1 / len(picks), device=self.device)
        if self.recurrent:
            picks = picks[:, None] + np.arange(SEQUENCE)
            first = torch.from_numpy(replay.begins(rows[picks])).to(self.device)
            # What came before is known from an episode's start on, and well enough behind the burn-in.
            known = (first.cumsum(1) > 0) | (torch.arange(SEQUENCE, device=self.device) >= BURN_IN)
            share = known / known.sum()
        samples, there = picks.shape, rows[picks].ravel()
        observation, answers = replay.read(there)
        told = there
        if self.plan.control == "shuffled_teacher":
            told = rows[shuffled[picks]].ravel()
            answers = replay.read(told)[1]
        observation = self._seen(observation)
        observation = observation.reshape(*samples, *observation.shape[1:])
        known_of_them = self._known(replay, there, told, familiarity)
        known_of_them |= self.own.answers(observation, first, precision)
        sample = self.objective.sample(answers.to(self.device), known_of_them)
        targets = tuple(target.reshape(*samples, -1) for target in self.objective.targets(sample))
        found = self.objective.weights(sample)
        weights = tuple(None if weight is None else weight.reshape(samples) for weight in found)
        return Minibatch(observation, share, first, targets, weights)

    def _known(
        self, replay: Replay, there: np.ndarray, told: np.ndarray, familiarity: np.ndarray | None
    ) -> dict[str, Tensor | None]:
        """Fields of `Sample` besides answers, as far as some part of the loss needs them.

        Args:
            replay: states.
            there: [B] addresses of the states.
            told: [B] addresses of the states to which the answers belong.
            familiarity: of each state, by its address.
        """
        needs = self.objective.needs
        found: dict[str, Tensor | None] = {"head": self.head, "fitted": self.fitted}
        if "action" in needs:
            found["action"] = replay.actions(told)
        if "luck" in needs:
            found["luck"] = torch.from_numpy(self.generator.random(len(there), np.float32))
        if "noise" in needs:
            found["noise"] = torch.from_numpy(self.generator.random((len(there), self.actions), np.float32))
        if "lot" in needs:
            found["lot"] = torch.from_numpy(lots(there))
        if familiarity is not None:
            found["familiarity"] = torch.from_numpy(familiarity[there])
        return {name: None if tensor is None else tensor.to(self.device) for name, tensor in found.items()}

    def _gradients(
        self, batch: Minibatch, *, precision: Precision, progress: float
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What a part of a minibatch adds to the loss, and to each parameter's gradient."""
        with autocast(self.device, precision, pixels=self.network.pixels):
            if batch.first is None:
                output = self.network(batch.observation)
            else:
                output = self.network.unroll(batch.observation, batch.first)
        share = batch.share.flatten()
        targets = [target.reshape(len(share), -1) for target in batch.targets]
        weights = [None if weight is None else weight.flatten() for weight in batch.weights]
        loss = (self.objective.losses(targets, weights, output, progress) * share).sum()
        return loss.detach(), torch.autograd.grad(loss, list(self.network.parameters()), materialize_grads=True)

    def _seen(self, observation: Tensor) -> Tensor:
        """Observations as the network reads them."""
        if self.spec.normaliser is not None:
            observation = torch.from_numpy(self.spec.normaliser(observation.numpy()))
        return observation.to(self.device)

    def snapshot(self) -> Policy:
        """The student as it is now, with weights of its own, so that it can act while it learns."""
        return snapshot(self.network, self.spec)


def fitted_on(replay: Replay, rows: np.ndarray, actions: int) -> float:
    """The temperature of the first teacher's scores that makes most likely what was done in some states of a replay."""
    some = rows[:: max(1, len(rows) // FITTED_ON)]
    done = replay.actions(some)
    assert done is not None
    return fitted_temperature(replay.read(some)[1][:, :actions].cpu().numpy(), done.cpu().numpy())


def lots(rows: np.ndarray) -> np.ndarray:
    """[B] float32 in [0, 1) by address, the same for every student and after a resume: multiples of the golden ratio,
    so that any share of them is spread evenly over each environment's play."""
    return (rows * ((5**0.5 - 1) / 2) % 1).astype(np.float32)


def sequence_starts(rows: np.ndarray) -> np.ndarray:
    """Places in `rows`, ascending addresses of a replay, from which on SEQUENCE addresses follow each other.

    Where the ranges of two environments touch, a sequence may run from one into the other: the second range begins with
    a state that begins an episode for `Replay.begins`, and what was remembered is forgotten there.
    """
    return np.flatnonzero(rows[SEQUENCE - 1 :] - rows[: len(rows) - SEQUENCE + 1] == SEQUENCE - 1)
