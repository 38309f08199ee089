"""Records of lineages that nobody bred: real plans, made-up scores and measurements."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlkd.data import JsonDict
from rlkd.lineage.operators import operator_of, plan
from rlkd.lineage.step import FIRST, Chain, Step
from rlkd.recipe import Arm, Generations, Part, to_table
from tests.handmade import TINY, small_distillation

RANDOM, TEACHER = 20.0, 120.0
"""Means of what normalises: one TN is 100 points."""
EPISODES = 20
PARTS: Mapping[str, Any] = {
    "fresh": {},
    "ensemble": {},
    "reset": {"mask": "kels", "share": 0.5},
    "perturb": {"keep": 0.6, "noise": 0.1},
    "shrink": {},
    "sequence": {},
    "residual": {"assistant": "nature_16k"},
    "select": {"shares": (0.25, 0.5, 1.0)},
    "improve": {},
    "iterate": {},
    "follow": {},
}
"""Numbers of each operator."""


def lineage(
    operator: str = "fresh",
    *,
    generations: int = 3,
    lines: int = 1,
    arms: tuple[Arm, ...] = (),
    effects: Mapping[str, float] = {},
    noise: float = 10.0,
    seed: int = 0,
) -> JsonDict:
    """Content of run.json of a finished lineage.

    Args:
        operator: its name.
        generations: how many.
        lines: how many.
        arms: bred beside.
        effects: in TN, by arm or role, or "main", added to 1.
        noise: standard deviation of an episode's score; a line's is a third of it.
        seed: of everything.
    """
    generator = np.random.default_rng(seed)
    train = "rl/ppo" if operator in ("improve", "iterate", "follow") else None
    rule = Generations(operator=Part(operator, PARTS[operator]), generations=generations, arms=arms, train=train)
    operator_of(rule.operator)
    teacher = generator.normal(TEACHER, noise, EPISODES)
    random = generator.normal(RANDOM, noise, EPISODES)
    founder = _record(FIRST, 0, teacher, teacher, random, []) | {"how": "found", "role": "", "arm": None, "line": 0}
    founder |= {"normalised": 1.0, "normalised_ci95": [1.0, 1.0], "seed": None, "recipe_hash": None, "parents": []}
    founder["measures"] = _measures(0, generator)
    steps = [founder]
    for line in range(lines):
        chain = Chain(rule=rule, seed=0, student=TINY, between=(TINY,) * generations, line=line)
        luck = generator.normal(0, noise / 3)
        steps += [_made(step, luck, effects, noise, teacher, random, generator) for step in plan(chain)]
    main = [row for row in steps if not row["role"] and row["arm"] is None and row["line"] == 0]
    return {
        "kind": "evolve",
        "status": "done",
        "command": "rlkd evolve policy:cartpole",
        "seed": 0,
        "lines": lines,
        "operator": operator,
        "rule": to_table(rule),
        "recipe": to_table(small_distillation()),
        "environment": {"id": "CartPole-v1"},
        "teacher": founder,
        "random": {"mean": float(random.mean()), "scores": random.tolist()},
        "generations": main,
        "steps": steps,
        "versions": {"rlkd": "0.1.0"},
    }


def _made(
    step: Step,
    luck: float,
    effects: Mapping[str, float],
    noise: float,
    teacher: np.ndarray,
    random: np.ndarray,
    generator: np.random.Generator,
) -> JsonDict:
    effect = effects.get(step.role or step.arm or "main", 0.0)
    mean = TEACHER + luck + 100 * effect + generator.normal(0, noise / 5)
    names = [*step.parents, *([step.start] if step.start and step.start not in step.parents else [])]
    record = _record(step.name, step.number, generator.normal(mean, noise, EPISODES), teacher, random, names)
    record |= {"how": step.how, "role": step.role, "arm": step.arm, "line": step.line, "seed": step.seed}
    if step.how == "select":
        record |= {"chosen": step.parents[-1], "validation": dict.fromkeys(step.parents, 1.0)}
    elif step.how == "distil":
        record |= {"agreement": float(generator.uniform(0.8, 1)), "kl_teacher_states": 0.02}
        record["phases"] = {"evaluate teacher and random play": 3.0, "collect and learn": 40.0, "learning: sgd": 31.0}
    record["measures"] = _measures(step.number, generator)
    return record


def _record(
    name: str, number: int, scores: np.ndarray, teacher: np.ndarray, random: np.ndarray, names: list[str]
) -> JsonDict:
    # A bootstrap of everybody's scores would take the tests seconds: these intervals are Gauss's.
    mean, half, span = (
        float(scores.mean()),
        float(1.96 * scores.std() / np.sqrt(len(scores))),
        teacher.mean() - random.mean(),
    )
    normalised, wide = float((mean - random.mean()) / span), float(half / span * np.sqrt(2))
    return {
        "name": name,
        "number": number,
        "policy": name,
        "environment": "CartPole-v1",
        "protocol": "handmade",
        "rule": "sampled",
        "episodes": len(scores),
        "scores": scores.tolist(),
        "mean": mean,
        "ci95": [mean - half, mean + half],
        "normalised": normalised,
        "normalised_ci95": [normalised - wide, normalised + wide],
        "parameters": 114,
        "weight_bytes": 456,
        "flops": 200,
        "hash": _hash(name),
        "path": f"generations/{name}/policy.safetensors",
        "parents": [_hash(parent) for parent in names],
        "parent_names": names,
        "recipe_hash": "ab" * 32,
        "seconds": 55.0,
    }


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _measures(number: int, generator: np.random.Generator) -> JsonDict:
    """As `rlkd.evaluation.inheritance` gives them, with numbers that drift from generation to generation."""

    def about(value: float) -> float:
        return float(value * generator.uniform(0.95, 1.05))

    beside: JsonDict = {
        "agreement_teacher_states": about(0.95 - 0.02 * number),
        "kl_teacher_states": about(0.03 * number),
        "kl_student_states": about(0.04 * number),
        "calibration_error": about(0.01 * (1 + number)),
        "nll": about(0.4),
        "gradient_variance_soft": about(0.00021),
        "gradient_variance_hard": about(0.31),
        "gradient_variance_ratio": about(0.0007),
        "knowledge_relation": None,
        "feature_cka": about(0.9 - 0.05 * number),
        "layer_cka": [{"layer": f"encoder.{k}", "cka": 0.99 - 0.1 * k - 0.05 * number} for k in range(3)],
        "novelty_quarters": [
            {"distance": 0.1 * k, "agreement": 0.99 - 0.03 * k * number, "kl": 0.01 * k} for k in range(4)
        ],
    }
    return {
        "child": {
            "temperature": 1.0,
            "parameters": 114,
            "flops": 1234567,
            "entropy_teacher_states": about(0.5 - 0.03 * number),
            "entropy_student_states": about(0.5 - 0.03 * number),
            "effective_rank": about(5.0 - 0.4 * number),
        },
        "parent": beside,
        "first": beside,
        "siblings": {"disagreement": about(0.05), "jensen_shannon": about(0.004)} if number else {},
        "latency": {"median_seconds": about(0.00021)},
        "states": 512,
        "own_states": 512,
        "skipped": {"parent.knowledge_relation": "it does not vary here", "first.knowledge_relation": "it does not"},
    }
