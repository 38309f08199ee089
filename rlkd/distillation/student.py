"""One student: its network, its optimiser, its own order of minibatches."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlkd.distillation.lesson import Lesson, Minibatch, Seen, fitted_on, lots, sequence_starts
from rlkd.distillation.own import EarlierSelves
from rlkd.errors import MismatchError
from rlkd.evaluation.agreement import BURN_IN, SEQUENCE
from rlkd.policy import Policy, PolicyNetwork, PolicySpec
from rlkd.policy.compute import SMALLEST_PART, Precision, add_up, autocast
from rlkd.policy.policy import snapshot
from rlkd.recipe import Distill, Network
from rlkd.terms import Objective, Parts, hard_labels

Control = Literal["none", "hard_labels", "shuffled_teacher"]
MAX_GRADIENT_NORM = 10.0  # far above what a healthy run sees; stops a single bad batch


@dataclass(frozen=True, slots=True)
class Plan:
    """What a student is to be."""

    name: str
    """What tables and files call it."""
    network: Network
    """Its shape."""
    control: Control = "none"
    """`hard_labels` learns from the teacher's greedy actions alone, `shuffled_teacher` from answers to other states."""
    game: str = ""
    """Which of a run's games it plays; empty where there is one."""
    start: Policy | None = None
    """Whose weights it begins with; None draws new ones."""
    frozen: str = ""
    """Weights whose names begin so keep their values; empty: all learn."""

    @property
    def label(self) -> str:
        """What its file and its curves are called: the name, and the game where there are several."""
        return f"{self.name}_{self.game}" if self.game else self.name


class Student:
    """Learns from a replay, one gradient step at a time; of a student of several games, what plays one of them."""

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
        begun: tuple[str, ...] = ()
        if plan.start is not None:
            _begin_from(plan.start, network, kind, plan.name)
            begun = (plan.start.spec.hash,)
        for name, weight in network.named_parameters():
            weight.requires_grad_(not (plan.frozen and name.startswith(plan.frozen)))
        self.network = network.to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lacks this overload
        self.spec = replace(
            teacher,
            name=plan.label,
            kind=kind,
            network=plan.network,
            observation_shape=shape,
            precision="float32",
            origin="rlkd distill",
            parents=(teacher.hash, *(each.hash for each in more_teachers), *begun),
        )
        self.fitted: Tensor | None = None
        """Temperature of the teacher's answers in this round; None where no term asks."""
        self.own = EarlierSelves(self.network, self.objective.needs, keep=recipe.moving_average)
        self.device = device
        self.recurrent = network.core is not None
        self.samples = max(1, recipe.batch_size // SEQUENCE) if self.recurrent else recipe.batch_size
        self.parts = min(parts, max(1, recipe.batch_size // SMALLEST_PART), self.samples) if network.pixels else 1
        self.optimiser = self._adam(self.weights)
        self.optimisers = [self.optimiser]
        """All that take a step with it: its own, and that of the student whose encoder it shares."""
        self.generator = np.random.default_rng(seed)
        self.steps = 0
        """Gradient steps taken on minibatches of its game."""
        self.losses: list[float] = []
        """Mean loss of each round that is over, nats or squared units."""
        self.total = torch.zeros((), device=device)
        """Sum of the losses of the steps since then."""
        self.summed = 0
        """Steps that were taken until then."""
        self.seconds = 0.0
        """Wall seconds of those steps."""

    @property
    def weights(self) -> list[nn.Parameter]:
        """What learns."""
        return [weight for weight in self.network.parameters() if weight.requires_grad]

    def join(self, first: "Student") -> None:
        """Share the encoder of another game's student, and the moments of its weights; the head stays this one's own.

        No weights are in two optimisers. The first step of all has to be the other's, so that its moments are whole.
        """
        self.network.encoder = first.network.encoder
        own = (weight for name, weight in self.network.named_parameters() if not name.startswith("encoder."))
        self.optimiser = self._adam(own)
        self.optimisers = [first.optimiser, self.optimiser]

    def _adam(self, weights: Iterable[nn.Parameter]) -> torch.optim.Adam:
        return torch.optim.Adam(weights, lr=self.recipe.learning_rate, fused=True)

    def look(self, seen: Seen, states: int) -> Tensor:
        """[states, ...]: some of what was seen, as the network reads it."""
        picks = self.generator.integers(len(seen.rows), size=states)
        return self._seen(seen.replay.read(seen.rows[picks])[0])

    def begin(self, seen: Seen, goal: int, *, fresh: bool) -> Lesson:
        """Begin a round, or go on with it.

        Args:
            seen: what there is to learn from.
            goal: how many steps are to be taken at its end, over all games.
            fresh: it is the first one.
        """
        self.own.begin(self.network, goal, fresh=fresh)
        if "fitted" in self.objective.needs:
            self.fitted = torch.tensor(fitted_on(seen.replay, seen.rows, self.actions), device=self.device)
        count = len(seen.rows)
        # Another state's answer for each state, the same all through a round and after a resume.
        shuffled = np.random.default_rng(count).permutation(count)
        return Lesson(seen, sequence_starts(seen.rows) if self.recurrent else np.arange(count), shuffled)

    def step(self, lesson: Lesson, precision: Precision, progress: float, pool: ThreadPoolExecutor) -> Tensor:
        """Take one gradient step.

        Args:
            lesson: of this round.
            precision: `auto` takes bfloat16 for pixels where the processor has it.
            progress: share of the gradient steps that are taken, over all games.
            pool: where the parts of a minibatch are learnt from side by side.

        Returns:
            The loss of the minibatch.
        """
        picks = lesson.starts[self.generator.integers(len(lesson.starts), size=self.samples)]
        minibatch = self._minibatch(lesson.seen, picks, lesson.shuffled, precision)
        gradients_of = partial(self._gradients, precision=precision, progress=progress)
        parts = (pool.map if self.parts > 1 else map)(gradients_of, minibatch.chunk(self.parts))
        losses, gradients = zip(*parts, strict=True)
        for optimiser in self.optimisers:
            optimiser.zero_grad()  # Adam passes over what has no gradient: the head of who lent the encoder
        weights = self.weights
        add_up(weights, gradients)
        nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM, foreach=True)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * (1 - progress)
            optimiser.step()
        self.steps += 1
        return torch.stack(losses).sum()

    def end_round(self) -> None:
        """Take note of the mean loss of a round, if any step was taken in it."""
        if self.steps > self.summed:
            self.losses.append(float(self.total) / (self.steps - self.summed))
        self.total, self.summed = torch.zeros_like(self.total), self.steps

    def _minibatch(
        self, seen: Seen, picks: np.ndarray, shuffled: np.ndarray, precision: Precision = "float32"
    ) -> Minibatch:
        """Samples that begin at some places of the rows."""
        replay, rows = seen.replay, seen.rows
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
        known_of_them = self._known(seen, there, told)
        known_of_them |= self.own.answers(observation, first, precision)
        sample = self.objective.sample(answers.to(self.device), known_of_them)
        targets = tuple(target.reshape(*samples, -1) for target in self.objective.targets(sample))
        found = self.objective.weights(sample)
        weights = tuple(None if weight is None else weight.reshape(samples) for weight in found)
        return Minibatch(observation, share, first, targets, weights)

    def _known(self, seen: Seen, there: np.ndarray, told: np.ndarray) -> dict[str, Tensor | None]:
        """Fields of `Sample` besides answers, as far as some part of the loss needs them.

        Args:
            seen: states, and what is known of each.
            there: [B] addresses of the states.
            told: [B] addresses of the states to which the answers belong.
        """
        needs = self.objective.needs
        found: dict[str, Tensor | None] = {"head": self.head, "fitted": self.fitted}
        if "action" in needs:
            found["action"] = seen.replay.actions(told)
        if "luck" in needs:
            found["luck"] = torch.from_numpy(self.generator.random(len(there), np.float32))
        if "noise" in needs:
            found["noise"] = torch.from_numpy(self.generator.random((len(there), self.actions), np.float32))
        if "lot" in needs:
            found["lot"] = torch.from_numpy(lots(there))
        if seen.familiarity is not None:
            found["familiarity"] = torch.from_numpy(seen.familiarity[there])
        if seen.advantage is not None:
            found["advantage"] = torch.from_numpy(seen.advantage[told])
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
        return loss.detach(), torch.autograd.grad(loss, self.weights, materialize_grads=True)

    def _seen(self, observation: Tensor) -> Tensor:
        """Observations as the network reads them."""
        if self.spec.normaliser is not None:
            observation = torch.from_numpy(self.spec.normaliser(observation.numpy()))
        return observation.to(self.device)

    def snapshot(self) -> Policy:
        """The student as it is now, with weights of its own, so that it can act while it learns."""
        return snapshot(self.network, self.spec)


def _begin_from(start: Policy, network: PolicyNetwork, kind: str, name: str) -> None:
    """Give a student the weights of a policy of its own kind and shape; MismatchError where it has others."""
    given, own = ({key: value.shape for key, value in each.state_dict().items()} for each in (start.network, network))
    if start.spec.kind != kind or given != own:
        raise MismatchError(
            f"student '{name}' cannot begin with the weights of {start.spec.name}: it has to be a '{kind}' policy with "
            "the student's own network"
        )
    network.load_state_dict(start.network.state_dict())
