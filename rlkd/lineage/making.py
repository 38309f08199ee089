"""The steps of a lineage, done: from policies that are there to one more, with what is to be said of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlkd import metrics, recipe
from rlkd.data import Evaluation, JsonDict
from rlkd.distillation import Baseline, keep_baseline, measure_baseline, run_distillation
from rlkd.distillation.steps import FIRST_LOOK
from rlkd.evaluation import Played, play
from rlkd.learn.ppo import train_ppo
from rlkd.lineage.arms import loss_of
from rlkd.lineage.line import Lineage
from rlkd.lineage.step import FIRST, Step
from rlkd.policy import (
    Policy,
    PolicyNetwork,
    combined,
    kels_masks,
    reset_weights,
    shrink_and_perturb,
    slim,
    wels_masks,
)
from rlkd.policy.file import build_network
from rlkd.policy.policy import snapshot
from rlkd.recipe import Network, Part, recipe_hash

VALIDATION = 500_000
"""Added to the protocol's first seed: on these episodes policies are chosen, and no score is reported."""
RECENT = 4  # whose visited states are kept: 115 MB each on Atari


@dataclass(slots=True)
class Seen:
    """What evaluations have brought: in the folder of each policy, and of the last few at hand."""

    line: Lineage
    """Where policies play, and for how long."""
    random: Evaluation
    """Random play."""
    stretch: int
    """How many of the kept states follow each other, of everybody's: more than one where anybody remembers."""
    recent: dict[str, Played] = field(default_factory=dict)
    """By the policy's hash."""

    def keep(self, name: str, policy: Policy, played: Played) -> None:
        """Note a step's evaluation."""
        states = self.line.distilling.held_out_states
        keep_baseline(
            self._file(name),
            Baseline(played, self.random),
            policy,
            self.line.environment,
            episodes=self.line.episodes,
            keep_states=states,
        )
        self._remember(played)

    def baseline(self, name: str, policy: Policy, stop: metrics.StopSignal) -> Baseline:
        """A step's policy on the protocol's episodes: its scores and states, played only if they are not there."""
        line, found = self.line, self.recent.get(policy.spec.hash)
        if found is None:
            found = measure_baseline(
                policy,
                line.environment,
                episodes=line.episodes,
                keep_states=line.distilling.held_out_states,
                stretch=self.stretch,
                random=self.random,
                stop=stop,
                keep_in=self._file(name),
            ).teacher
            self._remember(found)
        return Baseline(found, self.random)

    def _file(self, name: str) -> Path:
        return folder_of(self.line.run, name) / "played.safetensors"

    def _remember(self, played: Played) -> None:
        self.recent[played.evaluation.hash] = played
        for old in list(self.recent)[:-RECENT]:
            del self.recent[old]


def folder_of(run: Path, name: str) -> Path:
    """Of a step."""
    return run / "generations" / name


@dataclass(frozen=True, slots=True)
class Made:
    """A step that is done."""

    policy: Policy
    """What came of it."""
    played: Played
    """Its scores, and states that it visited."""
    told: JsonDict
    """What its record says besides."""


def make(step: Step, policies: Mapping[str, Policy], seen: Seen, stop: metrics.StopSignal) -> Made:
    """Do a step.

    Args:
        step: whose parents are there.
        policies: of the steps before, by name.
        seen: evaluations so far, and what all steps share.
        stop: when set, `Stopped` is raised after saving.
    """
    if step.how == "distil":
        return _distil(step, policies, seen, stop)
    line, parents = seen.line, [policies[name] for name in step.parents]
    told: JsonDict = {}
    if step.how == "train":
        assert line.training is not None
        policy = train_ppo(
            line.environment,
            line.training,
            run=folder_of(line.run, step.name) / "train",
            seed=step.seed,
            device=line.device,
            start=policies[step.start] if step.start else None,
            teacher=parents[0] if parents else None,
            origin=f"rlkd evolve, {step.name}",
        )
        told = {"frames": line.training.frames, "recipe_hash": recipe_hash(line.training)}
    elif step.how == "select":
        scores = {name: _validated(policies[name], line, stop) for name in step.parents}
        chosen = max(step.parents, key=scores.__getitem__)
        policy, told = policies[chosen], {"chosen": chosen, "validation": scores}
    elif step.how == "combine":
        policy = combined(parents, "mean", name=step.name)
    else:
        assert step.change is not None
        policy = slim(parents[0], float(step.change.values["share"]))  # type: ignore[arg-type]  # a number
    return Made(policy, seen.baseline(told.get("chosen", step.name), policy, stop).teacher, told)


def _validated(policy: Policy, line: Lineage, stop: metrics.StopSignal) -> float:
    """Mean score on episodes that nothing else is measured on."""
    protocol = line.environment.protocol
    first, title = protocol.first_seed + VALIDATION, f"validate {policy.spec.name}"
    played = play(policy, line.environment, episodes=line.episodes, first_seed=first, title=title, stop=stop)
    return played.evaluation.mean


def _distil(step: Step, policies: Mapping[str, Policy], seen: Seen, stop: metrics.StopSignal) -> Made:
    line, teacher, name = seen.line, policies[step.parents[0]], step.name
    assert step.network is not None
    baseline = seen.baseline(step.parents[0], teacher, stop)
    network, starts, frozen = step.network, {}, ""
    if step.start:
        start = policies[step.start]
        if step.change is not None:
            start, frozen = changed(start, step.change, step.seed, baseline.teacher.states)
        network, starts = start.spec.network, {name: start}
    rule = line.distilling
    if step.arm is not None:
        rule = loss_of(step.arm, rule, teacher, baseline.teacher.states, baseline.teacher.stretch)
    rule = replace(rule, gradient_steps=max(1, round(step.share * rule.gradient_steps)))
    shares = rule.source.teacher_fraction == (1.0, 1.0) and rule.source.synthetic is None
    alike = step.same_data or (step.parents[0] == FIRST and bool(line.rule.arms))
    shares = shares and (alike or line.rule.operator.name in ("select", "residual"))  # others see the same states
    result = run_distillation(
        teacher,
        {name: network},
        rule,
        run=folder_of(line.run, name) / "distill",
        seed=step.seed - 1000 * (step.number - 1) if step.same_data else step.seed,
        student_seed=step.seed if step.same_data else None,
        environment=line.environment,
        episodes=line.episodes,
        device=line.device,
        baseline=baseline,
        replay_folder=line.run / "replay" if shares else None,
        starts=starts,
        frozen=frozen,
    )
    student = result.students[0]
    told = {
        "recipe_hash": recipe_hash(rule),
        "data_hash": result.data_hash,
        "agreement": student.agreement,
        "kl_teacher_states": student.kl_teacher_states,
        "kl_student_states": student.kl_student_states,
        "gradient_steps": student.gradient_steps,
        "frames": result.steps * line.environment.frame_skip,
        "under": dict(result.under),
        "phases": {phase: round(seconds, 2) for phase, seconds in result.seconds.items()},
    }
    own, played = student.policy, student.played
    if step.change is not None:  # what it began with is in no file: its parents are who that was made of
        parents = (teacher.spec.hash, policies[step.start].spec.hash)
        own = own.under(replace(own.spec, parents=parents[:1] if step.start in step.parents else parents))
        played = replace(played, evaluation=replace(played.evaluation, hash=own.spec.hash))
    return Made(own, played, told)


def changed(start: Policy, change: Part, seed: int, states: np.ndarray) -> tuple[Policy, str]:
    """A policy with the weights that a student begins with, and how the names of those begin that it keeps to the end.

    Args:
        start: whose weights they were.
        change: a name below, with its numbers.
        seed: of new weights.
        states: [S, ...], by which new weights are standardised, as those of a student without a start are.
    """
    return CHANGES[change.name](start, torch.Generator().manual_seed(seed), _looked_at(start, states), **change.values)


def _looked_at(policy: Policy, states: np.ndarray) -> Tensor | None:
    """States as a policy's network reads them; None for policies that remember."""
    if policy.recurrent:
        return None
    seen = policy.seen(states[:FIRST_LOOK])
    return torch.from_numpy(np.asarray(seen if policy.spec.normaliser is None else policy.spec.normaliser(seen)))


def _kels(start: Policy, generator: torch.Generator, states: Tensor | None, *, share: float) -> tuple[Policy, str]:
    network = _copy(start)
    reset_weights(network, kels_masks(start.spec, share), generator, observation=states)
    return Policy(network, start.spec), ""


def _wels(
    start: Policy, generator: torch.Generator, states: Tensor | None, *, share: float, mask_seed: int
) -> tuple[Policy, str]:
    network, masks = _copy(start), wels_masks(start.spec, share, torch.Generator().manual_seed(mask_seed))
    reset_weights(network, masks, generator, observation=states)
    return Policy(network, start.spec), ""


def _perturb(
    start: Policy, generator: torch.Generator, states: Tensor | None, *, keep: float, noise: float
) -> tuple[Policy, str]:
    network = _copy(start)
    shrink_and_perturb(network, generator, keep=keep, noise=noise, observation=states)
    return Policy(network, start.spec), ""


def _beside(start: Policy, generator: torch.Generator, states: Tensor | None, *, assistant: str) -> tuple[Policy, str]:
    """A new assistant, whose scores are added to those of the policy, which stays as it is."""
    spec = replace(start.spec, network=recipe.load(assistant, Network), parents=())
    network = build_network(spec)
    network.initialise(generator, for_rl=False)
    if states is not None:
        network.standardise(states)
    return combined([start, Policy(network, spec)], "sum", name=start.spec.name), "members.0."


def _copy(policy: Policy) -> PolicyNetwork:
    return snapshot(policy.network, policy.spec).network


CHANGES: dict[str, Callable[..., tuple[Policy, str]]] = {
    "kels": _kels,
    "wels": _wels,
    "perturb": _perturb,
    "beside": _beside,
}
