"""Tests of `rlkd.distillation`, its parts: terms that fit, the loss of a batch, what one student makes of it."""

from typing import Any

import numpy as np
import pytest
import torch

from rlkd.distillation import student as student_module
from rlkd.distillation import student_kind, total_loss
from rlkd.distillation.learning import steps_after
from rlkd.distillation.student import Plan, Student
from rlkd.distillation.terms import reported_temperatures, teacher_temperature
from rlkd.errors import MismatchError
from rlkd.policy import Kind, Output, Policy
from rlkd.recipe import Source, Term
from rlkd.replay import Replay
from tests.handmade import TINY, TINY_PIXELS, cartpole_teacher, environment, policy
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole")
PENDULUM = environment("pendulum")


@pytest.mark.parametrize(
    ("term", "teacher", "message"),
    [
        (Term(divergence="cross_entropy"), "gaussian", "'cross_entropy' needs discrete actions, .* are 'gaussian'"),
        (
            Term(divergence="forward_kl", teacher_temperature=4.0),
            "squashed_gaussian",
            "temperature does not fit 'forward_kl' of a 'squashed_gaussian' teacher",
        ),
        (Term(divergence="forward_kl", student_temperature=4.0), "gaussian", "temperature does not fit 'forward_kl'"),
        (Term(divergence="mse", teacher_temperature=0.5), "q", "'mse' reads no teacher_temperature"),
        (Term(divergence="mse", student_temperature=0.5), "gaussian", "'mse' reads no student_temperature"),
        (Term(divergence="cross_entropy", teacher_temperature=4.0), "q", "'cross_entropy' reads no teacher_temp"),
    ],
)
def test_parts_that_do_not_fit_are_named(term: Term, teacher: Kind, message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        student_kind((Term(divergence="forward_kl"), term), teacher)


def test_temperatures_follow_the_teachers_kind_unless_they_are_set() -> None:
    unset, hinton = (
        Term(divergence="forward_kl"),
        Term(divergence="forward_kl", teacher_temperature=4.0, student_temperature=4.0),
    )
    kinds: tuple[Kind, ...] = ("q", "categorical", "gaussian", "squashed_gaussian")
    assert [teacher_temperature(unset, kind) for kind in kinds] == [0.01, 1, 1, 1]
    assert teacher_temperature(hinton, "q") == 4
    pairs = [
        tuple(reported_temperatures(small(terms=terms), "q").values())
        for terms in ((hinton,), (Term(divergence="mse"),), (Term(divergence="cross_entropy"), hinton))
    ]
    assert pairs == [(4, 4), (0.01, 1), (4, 4)]


def test_only_a_student_that_regresses_q_values_alone_has_them() -> None:
    kl, regression = Term(divergence="forward_kl"), Term(divergence="mse")
    assert student_kind((regression,), "q") == student_kind((regression, regression), "q") == "q"
    assert student_kind((kl,), "q") == student_kind((kl, regression), "q") == "categorical"
    for kind in ("categorical", "gaussian", "squashed_gaussian"):
        assert student_kind((regression,), kind) == kind


TERMS = {
    "categorical": (Term(divergence="forward_kl", coefficient=0.5), Term(divergence="cross_entropy", scale=3.0)),
    "q": (Term(divergence="mse", coefficient=2.0),),
    "gaussian": (Term(divergence="forward_kl"), Term(divergence="mse", scale=0.1)),
}


@pytest.mark.parametrize("kind", ["categorical", "q", "gaussian"])
def test_the_loss_is_one_value_a_sample_and_a_sum_of_terms(kind: Kind) -> None:
    draws = torch.Generator().manual_seed(0)
    answers, own = (torch.randn(6, 4, generator=draws) for _ in range(2))
    names = ("mean", "log_std") if kind == "gaussian" else ("q",) if kind == "q" else ("logits",)

    def loss(terms: tuple[Term, ...], copies: int = 1) -> torch.Tensor:
        params = dict(zip(names, own.repeat(copies, 1).chunk(len(names), dim=1), strict=True))
        return total_loss(terms, kind, answers.repeat(copies, 1), Output(kind, params))

    whole = loss(TERMS[kind])
    assert whole.shape == (6,)
    assert torch.equal(loss(TERMS[kind], copies=2), whole.repeat(2))
    plain = [loss((Term(divergence=term.divergence),)) for term in TERMS[kind]]
    by_hand = [term.coefficient * term.scale * part for term, part in zip(TERMS[kind], plain, strict=True)]
    assert torch.allclose(whole, torch.stack(by_hand).sum(0))


def filled(teacher: Policy, states: int = 400) -> Replay:
    """A replay of random observations of the teacher's size, answered by it."""
    observation = np.random.default_rng(0).normal(0, 0.5, (states, *teacher.spec.observation_shape)).astype(np.float32)
    with torch.inference_mode():
        answers = teacher(observation).flat
    replay = Replay(1, states, teacher.spec.observation_shape, answers.shape[1], None)
    for k in range(states):
        replay.append(np.zeros(1, int), observation[k : k + 1], np.zeros(1, bool), answers[k : k + 1])
    return replay


@pytest.mark.parametrize(
    ("kind", "divergence"),
    [
        *((kind, each) for kind in ("categorical", "q") for each in ("forward_kl", "cross_entropy", "mse")),
        *((kind, each) for kind in ("gaussian", "squashed_gaussian") for each in ("forward_kl", "mse")),
    ],
)
def test_every_divergence_makes_a_student_alike(divergence: Any, kind: Kind) -> None:
    discrete = kind in ("categorical", "q")
    teacher = policy(CARTPOLE if discrete else PENDULUM, kind, TINY, seed=5)
    replay = filled(teacher)
    recipe = small(terms=(Term(divergence=divergence),), gradient_steps=500)
    student = Student(Plan("tiny", TINY), recipe, teacher.spec, seed=1, device=torch.device("cpu"))
    student.learn(replay, replay.rows(), 30, "float32")
    student.learn(replay, replay.rows(), 500, "float32")
    assert student.steps == 500
    assert student.losses[1] < 0.7 * student.losses[0]
    observation, answers = replay.read(replay.rows())
    with torch.inference_mode():
        own = student.snapshot()(observation.numpy()).flat
    if discrete:
        assert (own.argmax(1) == answers.argmax(1)).float().mean() > 0.93
    else:
        assert (own - answers).square().mean() < 0.1 * answers.var(0).mean()


def test_a_student_looks_at_states_before_it_learns_and_its_rate_falls_to_zero() -> None:
    teacher = policy(CARTPOLE, "categorical", TINY, seed=5)
    replay = filled(teacher)
    recipe = small(gradient_steps=4, learning_rate=1e-9)
    student = Student(Plan("tiny", TINY), recipe, teacher.spec, seed=1, device=torch.device("cpu"))
    student.learn(replay, replay.rows()[:0], 0, "float32")  # a round without data asks for no step
    rates = []
    for goal in range(1, 5):
        student.learn(replay, replay.rows(), goal, "float32")
        rates.append(student.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-9, 0.75e-9, 0.5e-9, 0.25e-9])
    first = student.network.encoder[0](replay.read(replay.rows())[0])
    assert first.mean(0).abs().max() < 0.2
    assert (first.std(0) - 1).abs().max() < 0.2


def test_a_minibatch_learnt_in_parts_teaches_what_the_whole_does() -> None:
    pong = environment("pong")
    teacher = policy(pong, "categorical", TINY_PIXELS)
    replay = Replay(1, 300, (4, 84, 84), teacher.spec.actions, pong.views["pixels"])
    rng = np.random.default_rng(0)
    for _ in range(300):
        observation, answers = (
            rng.integers(0, 256, (1, 4, 84, 84), np.uint8),
            rng.normal(0, 3, (1, teacher.spec.actions)),
        )
        replay.append(np.zeros(1, int), observation, np.zeros(1, bool), torch.from_numpy(answers.astype(np.float32)))
    recipe = small(gradient_steps=8, batch_size=200)
    students = [
        Student(Plan("tiny", TINY_PIXELS), recipe, teacher.spec, seed=1, device=torch.device("cpu"), parts=parts)
        for parts in (1, 3, 99)
    ]
    assert [student.parts for student in students] == [1, 3, 3]
    for student in students:
        student.learn(replay, replay.rows(), 8, "float32")
        assert student.losses == pytest.approx(students[0].losses, rel=1e-4)
        for one, other in zip(student.network.parameters(), students[0].network.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-3)


def test_a_gaussian_student_learns_the_spread_too_whatever_the_divergence() -> None:
    teacher = policy(PENDULUM, "gaussian", TINY, rule="sampled")
    assert teacher.network.log_std is not None
    with torch.no_grad():
        teacher.network.log_std.fill_(-1.5)
    replay = filled(teacher)
    for divergence in ("forward_kl", "mse"):
        recipe = small(terms=(Term(divergence=divergence),), gradient_steps=600)
        student = Student(Plan("tiny", TINY), recipe, teacher.spec, seed=1, device=torch.device("cpu"))
        student.learn(replay, replay.rows(), 600, "float32")
        learnt = student.snapshot().network.log_std
        assert learnt is not None
        assert learnt.item() == pytest.approx(-1.5, abs=0.1)


def test_the_shuffled_control_permutes_the_answers_and_not_the_states(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = cartpole_teacher(recipe=CARTPOLE)
    replay, rows = filled(teacher, 50), np.arange(50)
    replay._answers[:, 0] = torch.arange(50.0)  # each answer names its state
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"none": [], "shuffled_teacher": []}
    for control, batches in seen.items():
        plan = Plan(control, TINY, control)  # type: ignore[arg-type]  # mypy widens the dictionary's keys
        student = Student(plan, small(), teacher.spec, seed=0, device=torch.device("cpu"))
        observations: list[torch.Tensor] = []
        student.network.register_forward_pre_hook(lambda _, given, kept=observations: kept.append(given[0]))

        def spy(*given: Any, kept: Any = observations, into: Any = batches) -> Any:
            into.append((kept[-1], given[2]))
            return total_loss(*given)

        monkeypatch.setattr(student_module, "total_loss", spy)
        student.learn(replay, rows, 40, "float32")
    answer_to: dict[int, set[int]] = {}
    for (observation, right), (also, wrong) in zip(seen["none"], seen["shuffled_teacher"], strict=True):
        assert torch.equal(observation, also)
        for state, answer in zip(right[:, 0].int().tolist(), wrong[:, 0].int().tolist(), strict=True):
            answer_to.setdefault(state, set()).add(answer)
    assert all(len(answers) == 1 for answers in answer_to.values())  # one wrong answer for each state
    given = [answer for answers in answer_to.values() for answer in answers]
    assert len(set(given)) == len(given) == 50  # and each answer once
    assert sum(state in answers for state, answers in answer_to.items()) < 5


def test_every_round_adds_steps_in_proportion_to_the_data_so_far() -> None:
    recipe = small(source=Source(states=800, rounds=7, num_envs=8), gradient_steps=1000)
    due = [steps_after(rounds, recipe) for rounds in range(8)]
    assert (due[0], due[-1]) == (0, 1000)
    assert np.diff(due) == pytest.approx(1000 * np.arange(1, 8) / 28, abs=1)
