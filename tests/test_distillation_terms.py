"""Tests of `rlkd.distillation`, its parts: terms that fit, the loss of a batch, what one student makes of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlkd import losses
from rlkd.distillation.learning import steps_after
from rlkd.distillation.lesson import Minibatch, Seen
from rlkd.distillation.student import Plan, Student
from rlkd.errors import MismatchError, RecipeError
from rlkd.policy import Kind, Output
from rlkd.recipe import Part, Source, Term
from rlkd.replay import Replay
from rlkd.terms import DIVERGENCES, TEMPERATURE, Objective, reported_temperatures
from tests.handmade import TINY, TINY_PIXELS, cartpole_teacher, environment, filled, learn_alone, loss_of, policy
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole")
PENDULUM = environment("pendulum")


KL, SQUARES = Term(divergence=Part("forward_kl")), Term(divergence=Part("mse"))
H1 = Part("label_h1")


def tempered(temperature: float, *more: str) -> tuple[Part, ...]:
    return Part("temper", {"temperature": temperature}), *(Part(name) for name in more)


@pytest.mark.parametrize(
    ("changes", "teacher", "message"),
    [
        ({"teacher": H1, "divergence": Part("cross_entropy")}, "gaussian", "teacher 'label_h1' needs discrete actions"),
        ({"divergence": Part("cross_entropy")}, "gaussian", "'cross_entropy' needs discrete .* are 'gaussian'"),
        ({"target": tempered(4.0)}, "squashed_gaussian", "target 'temper' needs discrete actions"),
        ({"student_temperature": 4.0}, "gaussian", "student_temperature 4.0 needs discrete actions"),
        ({"weight": Part("confidence")}, "gaussian", "weight 'confidence' needs discrete actions"),
        ({"divergence": Part("mse"), "target": tempered(0.5)}, "q", "'mse' needs scores, target 'temper' gives prob"),
        ({"divergence": Part("huber"), "teacher": H1}, "q", "'huber' needs scores, teacher 'label_h1' gives probab"),
        ({"divergence": Part("mse"), "student_temperature": 0.5}, "q", "'mse' reads no student_temperature"),
        (
            {"target": (*tempered(1.0, "harden"), *tempered(2.0))},
            "q",
            "target 'temper' needs scores, target 'harden' gives",
        ),
        (
            {"divergence": Part("reverse_kl"), "target": (Part("harden"),)},
            "categorical",
            "'reverse_kl' needs a probability for every action, target 'harden' leaves some at 0",
        ),
        (
            {"divergence": Part("reverse_kl"), "teacher": H1, "target": (Part("permute"),)},
            "categorical",
            "'reverse_kl' needs a probability for every action, target 'permute' leaves some at 0",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(changes: dict[str, Any], teacher: Kind, message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        Objective((KL, replace(KL, **changes)), teacher, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"divergence": Part("forward_lk")}, "no divergence 'forward_lk'; did you mean 'forward_kl'?"),
        ({"target": (Part("tempre"),)}, "no target 'tempre'; did you mean 'temper'?"),
        ({"teacher": Part("label_h3")}, "no teacher 'label_h3'; did you mean 'label_h2'?"),
        ({"weight": Part("familarity")}, "no weight 'familarity'; did you mean 'familiarity'?"),
        ({"divergence": Part("mse", {"delta": 1.0})}, "divergence 'mse': unknown key 'delta'; it takes none"),
        (
            {"divergence": Part("huber", {"dleta": 1.0})},
            "divergence 'huber': unknown key 'dleta'; did you mean 'delta'?",
        ),
        ({"target": (Part("temper"),)}, "target 'temper': missing key 'temperature'"),
        ({"target": (Part("top_k", {"k": 1.5}),)}, "target 'top_k': k must be int, got 1.5"),
        ({"target": (Part("top_k", {"k": 5}),)}, "k must be in 1 to 4, the number of actions, got 5"),
        ({"target": (Part("smooth", {"epsilon": -0.1}),)}, "epsilon must be above 0 and at most 1, got -0.1"),
        ({"target": (Part("temper", {"temperature": 0}),)}, "temperature must be above 0, got 0"),
        ({"divergence": Part("jensen_shannon", {"beta": 2})}, "beta must be in [0, 1], got 2"),
        ({"divergence": Part("margin", {"least": -1})}, "least must be at least 0, got -1"),
        ({"weight": Part("inverse_entropy", {"temperature": -1})}, "temperature must be above 0, got -1"),
    ],
)
def test_names_and_numbers_that_cannot_be_are_refused_before_anything_runs(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as refusal:
        Objective((replace(KL, **changes),), "categorical", 4)
    assert message in str(refusal.value)


def test_the_loss_of_a_temperature_that_nobody_set_follows_the_teachers_kind() -> None:
    draws = torch.Generator().manual_seed(0)
    answers, own = (torch.randn(5, 4, generator=draws) for _ in range(2))
    student = Output("categorical", {"logits": own})
    for kind, temperature in (("q", 0.01), ("categorical", 1.0)):
        unset = loss_of((KL,), kind, answers, student)  # type: ignore[arg-type]  # mypy widens the pairs
        set_ = loss_of((replace(KL, target=tempered(temperature)),), kind, answers, student)  # type: ignore[arg-type]
        by_hand = losses.forward_kl((answers / temperature).softmax(-1), own.log_softmax(-1))
        assert torch.equal(unset, set_)
        assert torch.equal(unset, by_hand)


def test_the_reported_temperatures_are_those_of_the_first_kl_of_the_teachers_answer() -> None:
    hinton = replace(KL, target=tempered(4.0), student_temperature=2.0)
    label = replace(KL, teacher=H1, student_temperature=9.0)
    pairs = [
        tuple(reported_temperatures(terms, "q").values())
        for terms in ((hinton,), (SQUARES,), (label,), (SQUARES, label, hinton, KL))
    ]
    assert pairs == [(4, 2), (0.01, 1), (0.01, 1), (4, 2)]
    assert reported_temperatures((KL,), "categorical")["teacher_temperature"] == 1


def test_only_a_student_that_regresses_q_values_alone_has_them() -> None:
    margin = Term(divergence=Part("margin"), teacher=H1)
    for terms in ((SQUARES,), (SQUARES, SQUARES), (SQUARES, margin)):
        assert Objective(terms, "q", 4).student == "q"
    for terms in ((KL,), (KL, SQUARES)):
        assert Objective(terms, "q", 4).student == "categorical"
    for kind in ("categorical", "gaussian", "squashed_gaussian"):
        assert Objective((SQUARES,), kind, 4).student == kind


def test_logits_mean_the_same_after_a_shift_and_q_values_do_not() -> None:
    answers = torch.tensor([[1.0, 2.0, 3.0]])
    for kind, name, wanted in (("categorical", "logits", 0.0), ("q", "q", 25.0)):
        student = Output(kind, {name: answers + 5})  # type: ignore[arg-type]  # mypy widens the pairs
        found = loss_of((SQUARES,), kind, answers, student)  # type: ignore[arg-type]
        assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_where_no_term_counts_nothing_is_learnt_and_nothing_breaks() -> None:
    later = replace(KL, coefficient=((0.0, 0.0), (0.5, 0.0), (1.0, 1.0)))
    teacher = policy(CARTPOLE, "categorical", TINY, seed=5)
    recipe = small(terms=(later,), gradient_steps=8)
    student = Student(Plan("tiny", TINY), recipe, teacher.spec, seed=1, device=torch.device("cpu"))
    replay = filled(teacher)
    learn_alone(student, replay, replay.rows(), 1, "float32")
    before = [weight.detach().clone() for weight in student.network.parameters()]
    learn_alone(student, replay, replay.rows(), 4, "float32")
    assert all(torch.equal(*pair) for pair in zip(before, student.network.parameters(), strict=True))
    learn_alone(student, replay, replay.rows(), 8, "float32")
    assert not all(torch.equal(*pair) for pair in zip(before, student.network.parameters(), strict=True))
    objective = Objective((replace(KL, coefficient=((0.3, 1.0), (0.3, 0.0))), replace(KL, coefficient=0.0)), "q", 3)
    assert [objective.over(progress) for progress in (0.0, 0.29, 0.3, 1.0)] == [False, False, True, True]
    assert not Objective((later,), "q", 3).over(0.0)


def test_a_margin_alone_makes_no_q_values() -> None:
    margin = Term(divergence=Part("margin"), teacher=H1)
    assert Objective((margin,), "q", 4).student == "categorical"


TERMS = {
    "categorical": (replace(KL, coefficient=0.5), Term(divergence=Part("cross_entropy"), scale=3.0)),
    "q": (replace(SQUARES, coefficient=2.0),),
    "gaussian": (KL, replace(SQUARES, scale=0.1)),
}


@pytest.mark.parametrize("kind", ["categorical", "q", "gaussian"])
def test_the_loss_is_one_value_a_sample_and_a_sum_of_terms(kind: Kind) -> None:
    draws = torch.Generator().manual_seed(0)
    answers, own = (torch.randn(6, 4, generator=draws) for _ in range(2))
    names = ("mean", "log_std") if kind == "gaussian" else ("q",) if kind == "q" else ("logits",)

    def loss(terms: tuple[Term, ...], copies: int = 1) -> torch.Tensor:
        params = dict(zip(names, own.repeat(copies, 1).chunk(len(names), dim=1), strict=True))
        return loss_of(terms, kind, answers.repeat(copies, 1), Output(kind, params))

    whole = loss(TERMS[kind])
    assert whole.shape == (6,)
    assert torch.equal(loss(TERMS[kind], copies=2), whole.repeat(2))
    plain = [loss((Term(divergence=term.divergence),)) for term in TERMS[kind]]
    by_hand = [float(term.coefficient) * term.scale * part for term, part in zip(TERMS[kind], plain, strict=True)]  # type: ignore[arg-type]
    assert torch.allclose(whole, torch.stack(by_hand).sum(0))


def test_a_term_that_has_stopped_leaves_no_trace_in_loss_and_gradient() -> None:
    """Early-stopped distillation (Cho and Hariharan 2019): behind the stop only the label is left."""
    draws = torch.Generator().manual_seed(0)
    answers, own = torch.randn(6, 4, generator=draws), torch.randn(6, 4, generator=draws, requires_grad=True)
    student = Output("categorical", {"logits": own})
    label = Term(divergence=Part("cross_entropy"), teacher=H1)
    stopped = replace(KL, coefficient=((0.0, 1.0), (0.6, 1.0), (0.6, 0.0)))

    def gradient(terms: tuple[Term, ...], progress: float) -> torch.Tensor:
        (found,) = torch.autograd.grad(loss_of(terms, "categorical", answers, student, progress=progress).sum(), own)
        return found

    for progress in (0.0, 0.59):
        assert torch.equal(gradient((stopped, label), progress), gradient((KL, label), progress))
    for progress in (0.6, 0.61, 1.0):
        assert torch.equal(gradient((stopped, label), progress), gradient((label,), progress))


@pytest.mark.parametrize(
    ("kind", "divergence"),
    [
        *((kind, each) for kind in ("categorical", "q") for each in DIVERGENCES),
        *(
            (kind, each)
            for kind in ("gaussian", "squashed_gaussian")
            for each in DIVERGENCES
            if DIVERGENCES[each].gaussian
        ),
    ],
)
def test_every_divergence_makes_a_student_alike(divergence: Any, kind: Kind) -> None:
    discrete = kind in ("categorical", "q")
    teacher = policy(CARTPOLE if discrete else PENDULUM, kind, TINY, seed=5)
    replay = filled(teacher)
    recipe = small(terms=(Term(divergence=Part(divergence)),), gradient_steps=500)
    student = Student(Plan("tiny", TINY), recipe, teacher.spec, seed=1, device=torch.device("cpu"))
    learn_alone(student, replay, replay.rows(), 30, "float32")
    learn_alone(student, replay, replay.rows(), 500, "float32")
    assert student.steps == 500
    observation, answers = replay.read(replay.rows())
    least = 0.0
    if divergence == "cross_entropy":  # it holds the target's entropy, which no student can change
        least = float(losses.categorical_entropy(answers / TEMPERATURE[kind]).mean())
    assert student.losses[1] - least < 0.7 * (student.losses[0] - least)
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
    learn_alone(student, replay, replay.rows()[:0], 0, "float32")  # a round without data asks for no step
    rates = []
    for goal in range(1, 5):
        learn_alone(student, replay, replay.rows(), goal, "float32")
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
        learn_alone(student, replay, replay.rows(), 8, "float32")
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
        recipe = small(terms=(Term(divergence=Part(divergence)),), gradient_steps=600)
        student = Student(Plan("tiny", TINY), recipe, teacher.spec, seed=1, device=torch.device("cpu"))
        learn_alone(student, replay, replay.rows(), 600, "float32")
        learnt = student.snapshot().network.log_std
        assert learnt is not None
        assert learnt.item() == pytest.approx(-1.5, abs=0.1)


def test_the_shuffled_control_permutes_the_answers_and_not_the_states() -> None:
    teacher = cartpole_teacher(recipe=CARTPOLE)
    replay, rows = filled(teacher, 50), np.arange(50)
    replay._answers[:, 0] = torch.arange(50.0)  # each answer names its state
    seen: dict[str, list[Minibatch]] = {}
    for control in ("none", "shuffled_teacher"):
        plan = Plan(control, TINY, control)
        recipe = small(terms=(SQUARES,))
        student = Student(plan, recipe, teacher.spec, seed=0, device=torch.device("cpu"))
        shuffled = np.random.default_rng(3).permutation(50)
        seen[control] = [
            student._minibatch(Seen(replay, rows), np.arange(k, k + 10), shuffled) for k in range(0, 50, 10)
        ]
    answer_to: dict[int, set[int]] = {}
    for right, wrong in zip(seen["none"], seen["shuffled_teacher"], strict=True):
        assert torch.equal(right.observation, wrong.observation)
        for state, answer in zip(
            right.targets[0][:, 0].int().tolist(), wrong.targets[0][:, 0].int().tolist(), strict=True
        ):
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
