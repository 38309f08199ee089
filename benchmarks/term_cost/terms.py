"""Overhead of each part of a loss over plain forward KL: learning steps of two students, taken in turn."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.common import Record
from rlkd import recipe as recipes
from rlkd.collect import Collector
from rlkd.distillation.lesson import Seen
from rlkd.distillation.steps import learn
from rlkd.distillation.student import Plan, Student
from rlkd.evaluation import environment_of
from rlkd.policy import PolicySpec, load_policy
from rlkd.policy.rule import GREEDY
from rlkd.recipe import Bonus, Distill, Network, Part, Source, Term
from rlkd.replay import Replay
from rlkd.terms import DIVERGENCES, TARGETS, TEACHERS, WEIGHTS

BATCH = 256
PLAIN = Term(divergence=Part("forward_kl"))
VALUES: dict[str, dict[str, bool | int | float]] = {
    "temper": {"temperature": 4.0},
    "top_k": {"k": 3},
    "smooth": {"epsilon": 0.1},
    "similar": {"temperature": 0.3, "share": 0.3},
    "inverse_entropy": {"temperature": 1.0},
    "asked": {"share": 0.5},
    "not_asked": {"share": 0.5},
}
"""Numbers of parts that have no defaults."""
BESIDE_REWARDS = ("ppo_ratio", "demonstrated")
"""Weights that read what only reinforcement learning knows."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A loss to be compared with plain forward KL."""

    name: str
    terms: tuple[Term, ...]
    several: bool = False
    """Whether it asks two teachers."""
    values: bool = False
    """Whether the answers are Q-values."""


def trials() -> list[Trial]:
    """One for each shipped part."""
    found = [Trial("forward_kl again", (PLAIN,)), Trial("forward_kl twice", (PLAIN, PLAIN))]
    divergences = {name: Term(divergence=Part(name)) for name in DIVERGENCES if name != "forward_kl"}
    found += [Trial(f"divergence {name}", (term,)) for name, term in divergences.items()]
    found += [Trial(f"target {name}", (replace(PLAIN, target=(_part(name),)),)) for name in TARGETS]
    weights = [name for name in WEIGHTS if name not in BESIDE_REWARDS]
    found += [Trial(f"weight {name}", (replace(PLAIN, weight=_part(name)),)) for name in weights]
    for name, record in TEACHERS.items():
        if name != "teacher":
            several = any(need.startswith("every_") for need in record.needs)
            # One's own answers alone teach nothing: the recipe asks the teacher as well.
            own = any(need in ("last_round", "moving_average") for need in record.needs)
            terms = (*([PLAIN] if own else []), replace(PLAIN, teacher=Part(name)))
            label = f"teacher {name}{' beside forward_kl' if own else ''}"
            found.append(Trial(label, terms, several, values=record.of == ("q",)))
    return found


def pixels(states: int, seed: int) -> tuple[Replay, PolicySpec, str]:
    """States of Pong with its teacher's answers."""
    teacher = load_policy("policy:pong")
    environment = environment_of(teacher, None)
    source = Source(states=states, rounds=1, num_envs=16)
    shape, actions = teacher.spec.observation_shape, teacher.spec.actions
    replay = Replay(16, states, shape, actions, environment.views["pixels"], keeps_actions=True)
    collector = Collector(environment, teacher, source, seed=seed)
    collector.collect(replay, 0, [])
    collector.close()
    return replay, teacher.spec, "nature_62k"


def vectors(states: int, seed: int) -> tuple[Replay, PolicySpec, str]:
    """Vectors of eight numbers and answers of four actions, all drawn at random: what they are changes no time."""
    generator = np.random.default_rng(seed)
    replay = Replay(16, states, (8,), 4, None, keeps_actions=True)
    for _ in range(replay.capacity):
        seen, said = (generator.normal(size=(16, width)).astype(np.float32) for width in (8, 4))
        action = generator.integers(4, size=16)
        replay.append(np.arange(16), seen, np.zeros(16, bool), torch.from_numpy(said), action)
    spec = PolicySpec(
        name="drawn",
        kind="categorical",
        network=recipes.load("mlp_64", Network),
        observation_shape=(8,),
        observation_dtype="float32",
        actions=4,
        rule=GREEDY,
    )
    return replay, spec, "mlp_16"


def twice(replay: Replay, spec: PolicySpec) -> Replay:
    """The same states with every answer twice, for losses that ask two teachers."""
    states = replay.num_envs * replay.capacity
    other = Replay(replay.num_envs, states, spec.observation_shape, 2 * spec.actions, replay.view, keeps_actions=True)
    for name, tensor in replay.tensors().items():
        other.fill(name, tensor.repeat(1, 2) if name == "answers" else tensor)
    other.fill_counts(replay.written)
    return other


def compared(
    replay: Replay, spec: PolicySpec, network: str, trial: Trial, *, repeats: int, steps: int, seed: int
) -> list[Record]:
    """Wall and CPU seconds of so many steps of plain forward KL and of another loss, in turn, `repeats` times."""
    rows = replay.rows()
    by_address = np.ones(replay.num_envs * replay.stride, np.float32)
    its_own = replace(spec, kind="q") if trial.values else spec
    students = {
        "plain": (_student((PLAIN,), spec, network, seed, several=False), replay),
        "other": (
            _student(trial.terms, its_own, network, seed, several=trial.several),
            twice(replay, spec) if trial.several else replay,
        ),
    }
    found: list[Record] = []
    for repeat in range(repeats + 1):
        spent: Record = {}
        order = list(students.items())
        for name, (student, states) in order if repeat % 2 else reversed(order):
            familiarity, advantage = (
                by_address if name in student.objective.needs else None for name in ("familiarity", "advantage")
            )
            wall, cpu = time.perf_counter(), time.process_time()
            learn([student], [Seen(states, rows, familiarity, advantage)], student.steps + steps, "auto")
            spent[name] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        if repeat:  # the first turn warms up
            found.append(spent)
    return found


def _student(terms: tuple[Term, ...], spec: PolicySpec, network: str, seed: int, *, several: bool) -> Student:
    weighed = any(term.weight is not None and term.weight.name == "familiarity" for term in terms)
    recipe = Distill(
        source=Source(states=BATCH),
        terms=terms,
        gradient_steps=1_000_000,  # the step size falls by their share, and only a few are taken
        students=(network,),
        batch_size=BATCH,
        novelty=Bonus(name="rnd") if weighed else None,
    )
    plan = Plan(network, recipes.load(network, Network))
    head = torch.eye(spec.actions, 16)
    return Student(
        plan,
        recipe,
        spec,
        seed=seed,
        device=torch.device("cpu"),
        head=head,
        more_teachers=[spec] if several else [],
    )


def _part(name: str) -> Part:
    return Part(name, VALUES.get(name, {}))


def ratios(found: Sequence[Record], clock: str) -> list[float]:
    """Of each repeat, the other loss's seconds over plain forward KL's."""
    return [each["other"][clock] / each["plain"][clock] for each in found]
