"""Tests of a student's earlier selves as its teachers, and of states about which nobody was asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlkd.distillation.checkpoint import Found, load_students, save_students
from rlkd.distillation.lesson import Seen, lots
from rlkd.distillation.student import Plan, Student
from rlkd.errors import RecipeError
from rlkd.recipe import Part, Term
from rlkd.replay import Replay
from rlkd.terms.weights import asked, not_asked
from tests.handmade import TINY, cartpole_teacher, environment, filled, learn_alone, policy
from tests.handmade import small_distillation as small

LABEL = Term(teacher=Part("label_h1"), divergence=Part("cross_entropy"))
LAST_ROUND = Term(teacher=Part("last_round"), divergence=Part("forward_kl"))
AVERAGE = Term(teacher=Part("moving_average"), divergence=Part("forward_kl"))


def student_of(terms: tuple[Term, ...], **changes: Any) -> tuple[Student, Replay]:
    teacher = cartpole_teacher()
    recipe = small(terms=terms, gradient_steps=100, **changes)
    return Student(Plan("tiny", TINY), recipe, teacher.spec, seed=1, device=torch.device("cpu")), filled(teacher)


def weights(student: Student, name: str = "") -> torch.Tensor:
    network = student.own.copies[name] if name else student.network
    return torch.cat([each.detach().flatten().clone() for each in network.parameters()])


def test_the_last_round_is_the_student_as_it_was_when_the_round_began() -> None:
    student, replay = student_of((LABEL, LAST_ROUND))
    learn_alone(student, replay, replay.rows(), 10, "float32")
    before = weights(student)
    learn_alone(student, replay, replay.rows(), 20, "float32")
    assert torch.equal(weights(student, "last_round"), before)
    expected = student.own.copies["last_round"](replay.read(np.arange(5))[0]).params["logits"].softmax(-1)
    batch = student._minibatch(Seen(replay, replay.rows()), np.arange(5), np.arange(400))
    torch.testing.assert_close(batch.targets[1], expected.detach())
    assert not torch.equal(weights(student), before)


class Soon:
    """Stands for a signal: asks to stop at the fourth look."""

    looks = 0

    @property
    def asked(self) -> bool:
        self.looks += 1
        return self.looks > 3


def test_a_round_that_is_stopped_and_goes_on_keeps_its_earlier_self() -> None:
    student, replay = student_of((LABEL, LAST_ROUND))
    learn_alone(student, replay, replay.rows(), 10, "float32")
    before = weights(student)
    learn_alone(student, replay, replay.rows(), 20, "float32", Soon())  # type: ignore[arg-type]  # stands for a signal
    assert 10 < student.steps < 20
    learn_alone(student, replay, replay.rows(), 20, "float32")
    assert torch.equal(weights(student, "last_round"), before)


def test_earlier_selves_are_in_the_checkpoint(tmp_path: Path) -> None:
    terms = (LABEL, LAST_ROUND, AVERAGE)
    student, replay = student_of(terms)
    learn_alone(student, replay, replay.rows(), 10, "float32")
    learn_alone(student, replay, replay.rows(), 20, "float32", Soon())  # type: ignore[arg-type]  # stands for a signal
    save_students(tmp_path, [student], identity="x", found=Found())
    other, _ = student_of(terms)
    load_students(tmp_path, [other], identity="x")
    for goal in (0, 10):  # a resumed run goes through its rounds again
        learn_alone(other, replay, replay.rows(), goal, "float32")
    for each in (student, other):
        learn_alone(each, replay, replay.rows(), 20, "float32")
    for name in ("", "last_round", "moving_average"):
        assert torch.equal(weights(student, name), weights(other, name)), name
    assert not torch.equal(weights(other), weights(other, "last_round"))


def test_the_moving_average_follows_the_weights_from_the_first_step_on() -> None:
    student, replay = student_of((LABEL, AVERAGE), moving_average=0.9)
    learn_alone(student, replay, replay.rows(), 1, "float32")
    assert (weights(student, "moving_average") - weights(student)).abs().max() < 0.02  # it begins where learning does
    wanted = None
    for goal in range(2, 8):
        if wanted is None:
            wanted = weights(student, "moving_average").double()
        learn_alone(student, replay, replay.rows(), goal, "float32")
        wanted = 0.9 * wanted + 0.1 * weights(student).double()
    torch.testing.assert_close(weights(student, "moving_average").double(), wanted, rtol=1e-5, atol=1e-6)


def test_nobody_copies_a_network_that_no_term_asks() -> None:
    student, replay = student_of((LABEL,))
    learn_alone(student, replay, replay.rows(), 5, "float32")
    assert len(student.own.copies) == 0


def test_no_gradient_flows_into_an_earlier_self_and_it_teaches_what_it_says() -> None:
    """Alone, a student has nothing to learn of what it was."""
    student, replay = student_of((LAST_ROUND,), learning_rate=1e-6)
    learn_alone(student, replay, replay.rows(), 20, "float32")
    assert abs(student.losses[0]) < 1e-6
    assert all(each.grad is None for each in student.own.copies.parameters())


def test_lots_are_spread_evenly_and_asked_and_not_asked_share_the_states() -> None:
    rows = np.arange(10_000)
    found = torch.from_numpy(lots(rows))
    assert ((found >= 0) & (found < 1)).all()
    for share in (0.01, 0.3):
        mine, others = asked(found, share=share), not_asked(found, share=share)
        assert float(mine.mean()) == pytest.approx(1, abs=0.02)
        assert float(others.mean()) == pytest.approx(1, abs=0.02)
        assert ((mine > 0) ^ (others > 0)).all()
        gaps = np.diff(np.flatnonzero(mine.numpy()))
        assert gaps.max() < 3 / share
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="share must be above 0 and below 1"):
            asked(found, share=share)


def test_an_answer_about_a_state_that_was_not_asked_about_changes_nothing() -> None:
    term = replace(LABEL, weight=Part("asked", {"share": 0.2}))
    outcomes = []
    for spoilt in (False, True):
        student, replay = student_of((term,))
        if spoilt:
            away = torch.from_numpy(lots(replay.rows()) >= 0.2)
            replay._answers[away] = -replay._answers[away]
        learn_alone(student, replay, replay.rows(), 20, "float32")
        outcomes.append(weights(student))
    assert torch.equal(*outcomes)


def test_a_label_of_what_was_done_is_what_was_done() -> None:
    student, replay = student_of((Term(teacher=Part("label_h2"), divergence=Part("cross_entropy")),))
    learn_alone(student, replay, replay.rows(), 100, "float32")
    own = student.snapshot()(replay.read(replay.rows())[0].numpy()).params["logits"]
    assert (own.argmax(1) == 1).all()


def test_continuous_teachers_cannot_be_asked_so_and_a_decay_has_limits() -> None:
    teacher = policy(environment("pendulum"), "gaussian", TINY)
    with pytest.raises(Exception, match="teacher 'last_round' needs discrete actions"):
        Student(Plan("tiny", TINY), small(terms=(LAST_ROUND,)), teacher.spec, seed=0, device=torch.device("cpu"))
    with pytest.raises(RecipeError, match="moving_average must be in"):
        small(moving_average=1.0)
    assert lots(np.array([0]))[0] == 0
