"""What a row measures of one seed: arms are run where they were not yet, numbers come out by name."""

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.techniques.arms import HELD_OUT, LOOKED, MISSING_ACTION, PONG, PONG_DQN, WRONG_SHARE
from benchmarks.techniques.bench import Bench, Numbers
from benchmarks.techniques.parts import wrong_labels
from rlkd.distillation.lesson import lots
from rlkd.evaluation import answers, play
from rlkd.losses import cross_entropy, forward_kl
from rlkd.policy import Policy
from rlkd.stats import fitted_temperature
from rlkd.terms import TARGETS

TEACHER_NOISE = 0.05
"""Chance of a random action in collecting, beside the teacher's own."""
ALIKE = (("RIGHT", "RIGHTFIRE"), ("LEFT", "LEFTFIRE"), ("NOOP", "FIRE"))
"""Actions that do the same in Pong."""


def normalised(bench: Bench, seed: int, arms: Mapping[str, str]) -> Numbers:
    """Normalised scores of arms by the names that the table gives them; `arm/control` is one of its controls."""
    found = {}
    for name, arm in arms.items():
        who, _, control = arm.partition("/")
        found[name.replace("_", " ")] = bench.numbers(who, seed)[control or "student"]["normalised"]
    return found


def missing_action(bench: Bench, seed: int) -> Numbers:
    """Share of held-out states with the missing action as the teacher's first choice where students choose it too."""
    states = bench.states(PONG)
    best = _best(bench.teacher(PONG), states)
    asked = states[best == MISSING_ACTION]
    students = {"soft": "missing_soft", "hard": "missing_hard"}
    return {
        name: float((_best(bench.policy(arm, seed), asked) == MISSING_ACTION).mean()) for name, arm in students.items()
    }


def noisy_labels(bench: Bench, seed: int) -> Numbers:
    """Agreement with the teacher on held-out states; how often a wrong label is chosen where it was learnt."""
    replay = bench.learnt("noisy_plain", seed)
    rows = replay.rows()
    lot = lots(rows)
    states, scores = replay.read(rows)
    labels = wrong_labels(scores, torch.from_numpy(lot), share=WRONG_SHARE).numpy()
    wrong = lot < WRONG_SHARE
    found = {}
    for name, arm in (("with AIR", "noisy_air"), ("without", "noisy_plain")):
        chosen = _best(bench.policy(arm, seed), states.numpy()[wrong])
        found[f"right {name}"] = bench.numbers(arm, seed)["student"]["agreement"]
        found[f"memorised {name}"] = float((chosen == labels[wrong]).mean())
    return found


def calibration(bench: Bench, seed: int) -> Numbers:
    """How likely what the Q-valued teacher does is under its softmax, and how near its students come to what it does.

    What it does is known exactly: greedy, uniform with some probability. The temperature is fitted on one half of the
    held-out states to actions drawn from that, and judged on the other half.
    """
    teacher, states = bench.teacher(PONG_DQN), bench.states(PONG_DQN)
    scores = answers(teacher, states)
    done = _behaviour(teacher, scores)
    actions = torch.multinomial(done, 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)
    fitted = fitted_temperature(scores[::2].numpy(), actions[::2].numpy())
    found = {}
    for name, temperature in (("calibrated", fitted), ("at 0.01", 0.01)):
        likely = (scores[1::2] / temperature).log_softmax(-1)
        found[f"NLL {name}"] = float(cross_entropy(done[1::2], likely).mean())
    for name, arm in (("calibrated", "dqn_calibrated"), ("at 0.01", "dqn_kl")):
        student = bench.policy(arm, seed)
        seen = play(student, episodes=1 if bench.tiny else LOOKED, keep_states=HELD_OUT // 2).states
        own = answers(student, seen).log_softmax(-1)
        found[f"student's KL {name}"] = float(forward_kl(_behaviour(teacher, answers(teacher, seen)), own).mean())
    return found


def own_states(bench: Bench, seed: int) -> Numbers:
    """KL on the states that each student visits itself."""
    arms = {"student-driven": "student_driven", "teacher-driven": "plain"}
    return {name: bench.numbers(arm, seed)["student"]["kl_student_states"] for name, arm in arms.items()}


def asked_states(bench: Bench, seed: int) -> Numbers:
    """Agreement on held-out states of a student with its own labels beside the asked ones, and of one without."""
    found = bench.numbers("pseudo_label", seed)
    return {"pseudo-labels": found["student"]["agreement"], "asked alone": found["hard_labels"]["agreement"]}


def critical_states(bench: Bench, seed: int) -> Numbers:
    """KL on the quarter of held-out states where the teacher's two best actions lie furthest apart, and on all."""
    states = bench.states(PONG)
    scores = answers(bench.teacher(PONG), states)
    best, second = scores.topk(2).values.unbind(-1)
    critical = best - second >= (best - second).quantile(0.75)
    found: Numbers = {}
    for name, arm in (("weighted", "ippd"), ("plain", "plain")):
        kl = forward_kl(scores.softmax(-1), answers(bench.policy(arm, seed), states).log_softmax(-1))
        found |= {f"critical {name}": float(kl[critical].mean()), f"mean {name}": float(kl.mean())}
    return found


def head_rows(bench: Bench, _seed: int) -> Numbers:
    """Cosines between rows of teachers' last weights; nothing is random in them, and the seed changes nothing."""
    found: Numbers = {}
    for name in (PONG, PONG_DQN):
        teacher = bench.teacher(name)
        rows = F.normalize(teacher.network.head.weight.detach(), dim=-1)
        cosine, meanings = rows @ rows.T, teacher.spec.action_meanings
        alike = {tuple(sorted((meanings.index(one), meanings.index(other)))) for one, other in ALIKE}
        pairs = [(i, j) for i in range(len(meanings)) for j in range(i + 1, len(meanings))]
        found[f"{name}: least of alike pairs"] = min(float(cosine[pair]) for pair in pairs if pair in alike)
        found[f"{name}: most of other pairs"] = max(float(cosine[pair]) for pair in pairs if pair not in alike)
    return found


def made_up_states(bench: Bench, seed: int) -> Numbers:
    """KL on states of other episodes."""
    arms = {"MUNGE": "munge", "real states alone": "real_only", "uniform box": "uniform_box"}
    return {name: bench.numbers(arm, seed)["student"]["kl_teacher_states"] for name, arm in arms.items()}


def tabular(_bench: Bench, seed: int) -> Numbers:
    """Excess KL of tables fitted by gradient: to labels drawn from probabilities, and to the probabilities.

    400 states of six actions, 1,000 labels in each; float64, by L-BFGS.
    """
    states, actions, labels = 400, 6, 1000
    generator = torch.Generator().manual_seed(seed)
    scores = 0.7 * torch.randn(states, actions, generator=generator, dtype=torch.float64)
    truth = scores.softmax(-1)
    drawn = torch.multinomial(truth, labels, replacement=True, generator=generator)
    counts = F.one_hot(drawn, actions).double().mean(1)
    return {
        "sampled labels": _fitted_to(counts, truth),
        "whole answers": _fitted_to(truth, truth),
        "(A - 1) / 2N": (actions - 1) / (2 * labels),
    }


def _fitted_to(target: torch.Tensor, truth: torch.Tensor) -> float:
    table = torch.zeros_like(truth, requires_grad=True)
    optimiser = torch.optim.LBFGS([table], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-16)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = cross_entropy(target, table.log_softmax(-1)).mean()
        value.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]  # nor this
    return float(forward_kl(truth, table.detach().log_softmax(-1)).mean())


def _best(policy: Policy, states: np.ndarray) -> np.ndarray:
    """[S]: the actions with the highest scores."""
    best: np.ndarray = answers(policy, states).argmax(-1).numpy()
    return best


def _behaviour(teacher: Policy, scores: torch.Tensor) -> torch.Tensor:
    """[S, A]: probabilities of what is done where the teacher acts and states are collected."""
    chance = 1 - (1 - teacher.spec.rule.epsilon) * (1 - TEACHER_NOISE)
    best = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)
    return TARGETS["smooth"].function(best, epsilon=chance)
