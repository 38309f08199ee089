"""Tests of `rlkd.evaluation`'s calibration and soft targets: values against slow ones, then what each must be."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rlkd.evaluation.calibration import calibration_error, diversity, sampled_actions
from rlkd.evaluation.soft_targets import gradient_variance, knowledge
from rlkd.terms.targets import harden, keep_confidence, smooth
from tests import reference_inheritance as reference


def logits(seed: int, states: int = 200, actions: int = 5, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(states, actions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probabilities(seed: int, states: int = 200, actions: int = 5, scale: float = 2.0) -> Tensor:
    return logits(seed, states, actions, scale).softmax(-1)


def test_calibration_error_is_the_slow_one_in_closed_form_and_of_labels() -> None:
    student, teacher = probabilities(1), probabilities(2)
    confidence, best = student.max(-1)
    expected = teacher.gather(1, best[:, None]).squeeze(1)
    drawn = (sampled_actions(teacher, torch.Generator().manual_seed(0)) == best).double()
    for accuracy in (expected, drawn):
        slow = reference.calibration_error(confidence.tolist(), accuracy.tolist())
        assert slow > 0.05
        assert calibration_error(confidence, accuracy) == pytest.approx(slow, rel=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    # One bin would cancel +0.1 and -0.1, two do not.
    edge = 8 / 15
    confidence = torch.tensor([edge, edge + 1e-9], dtype=torch.float64)
    assert calibration_error(confidence, confidence + torch.tensor([0.1, -0.1])) == pytest.approx(0.1)
    below = torch.tensor([edge, edge - 1e-9], dtype=torch.float64)
    assert calibration_error(below, below + torch.tensor([0.1, -0.1])) == pytest.approx(0, abs=1e-9)
    assert calibration_error(torch.ones(3), torch.ones(3)) == 0


def test_a_policy_is_calibrated_against_itself_but_for_the_luck_of_labels() -> None:
    errors = []
    for states in (500, 50_000):
        itself = probabilities(3, states)
        confidence, best = itself.max(-1)
        assert calibration_error(confidence, confidence) == 0
        drawn = sampled_actions(itself, torch.Generator().manual_seed(1))
        errors.append(calibration_error(confidence, (drawn == best).double()))
    assert errors[0] > 0.02
    assert errors[1] < errors[0] / 4  # as 1 / sqrt(states)


def test_sampled_actions_come_as_often_as_the_teacher_says_and_again_with_the_same_seed() -> None:
    row = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=torch.float64).expand(40_000, 4)
    drawn = sampled_actions(row, torch.Generator().manual_seed(5))
    counts = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(counts.double(), row[0], rtol=0, atol=0.01)  # four standard errors
    assert counts[3] == 0
    assert torch.equal(drawn, sampled_actions(row, torch.Generator().manual_seed(5)))


def test_diversity_is_the_slow_one_over_all_pairs() -> None:
    siblings = [logits(seed, 50).log_softmax(-1) for seed in range(4)]
    slow = reference.diversity([each.exp().tolist() for each in siblings])
    assert diversity(siblings) == pytest.approx(slow, rel=1e-9)
    assert 0.5 < slow[0] < 1


def test_copies_are_not_diverse_and_opposites_are_as_diverse_as_can_be() -> None:
    one = logits(1).log_softmax(-1)
    assert diversity([one, one, one]) == pytest.approx((0, 0), abs=1e-12)
    left, right = ((torch.eye(2, dtype=torch.float64)[[k]] * 1e4).log_softmax(-1) for k in (0, 1))
    assert diversity([left, right]) == pytest.approx((1, math.log(2)))
    with pytest.raises(ValueError, match="at least two policies, got 1"):
        diversity([one])


@pytest.mark.parametrize("actions", [2, 5, 18])
@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_gradient_variances_are_the_slow_ones_and_hard_is_soft_and_labels(actions: int, scale: float) -> None:
    teacher, student = probabilities(1, 60, actions, scale), probabilities(2, 60, actions, 1.0)
    found = gradient_variance(teacher, student)
    slow = reference.gradient_variances(teacher.tolist(), student.tolist())
    assert (found.soft, found.hard, found.labels) == pytest.approx(slow, rel=1e-9, abs=1e-12)
    assert found.hard == pytest.approx(found.soft + found.labels, rel=0, abs=1e-9)
    assert found.ratio == found.soft / found.hard < 1


def test_gradient_variance_is_that_of_gradients_of_labels_really_drawn() -> None:
    teacher, student = probabilities(1), logits(2)
    rows = torch.randint(len(teacher), (400_000,), generator=torch.Generator().manual_seed(0))
    labels = sampled_actions(teacher[rows], torch.Generator().manual_seed(1))
    found = gradient_variance(teacher, student.softmax(-1))
    for target, want in ((torch.eye(5, dtype=torch.float64)[labels], found.hard), (teacher[rows], found.soft)):
        drawn = student[rows].requires_grad_()
        (gradient,) = torch.autograd.grad(-(target * drawn.log_softmax(-1)).sum(), drawn)
        assert float(gradient.var(0).sum()) == pytest.approx(want, rel=0.01)


def test_a_perfect_copy_leaves_no_variance_with_soft_targets() -> None:
    teacher = probabilities(1)
    found = gradient_variance(teacher, teacher)
    assert (found.soft, found.ratio) == (0, 0)
    assert found.hard == pytest.approx(found.labels)
    sure = harden(teacher)
    assert math.isnan(gradient_variance(sure, sure).ratio)
    assert gradient_variance(sure, teacher).ratio == pytest.approx(1)  # one-hot answers are labels already
    with pytest.raises(ValueError, match=r"must both be \[states, actions\], got \[200, 5\] and \[200, 4\]"):
        gradient_variance(teacher, teacher[:, :4])


@pytest.mark.parametrize("actions", [2, 3, 18])
@pytest.mark.parametrize("scale", [0.5, 5.0])
def test_knowledge_is_the_slow_chain_and_its_shares_sum_to_one(actions: int, scale: float) -> None:
    teacher = probabilities(1, 80, actions, scale)
    found = knowledge(teacher)
    *steps, whole = reference.knowledge_steps(teacher.tolist())
    assert found.total == pytest.approx(whole, rel=1e-9)
    shares = (found.smoothing, found.rescaling, found.relation)
    assert shares == pytest.approx([step / whole for step in steps], rel=1e-9, abs=1e-15)
    assert sum(shares) == pytest.approx(1, rel=0, abs=1e-12)
    assert min(shares[: 2 if actions == 2 else 3]) > 1e-4


def test_each_kind_of_knowledge_is_found_alone() -> None:
    teacher = probabilities(1)
    smoothed = knowledge(smooth(harden(teacher), epsilon=0.3))
    assert (smoothed.smoothing, smoothed.rescaling, smoothed.relation) == pytest.approx((1, 0, 0), abs=1e-12)
    confident = knowledge(keep_confidence(teacher))
    assert confident.relation == pytest.approx(0, abs=1e-12)
    assert confident.rescaling > 0.05
    # As sure everywhere, all the rest on one other action: A / (A - 1) e^2 of 2 e^2.
    alike = knowledge(torch.tensor([[0.8, 0.2, 0, 0], [0, 0.2, 0, 0.8]], dtype=torch.float64))
    assert (alike.smoothing, alike.rescaling, alike.relation) == pytest.approx((2 / 3, 0, 1 / 3), abs=1e-12)
    assert alike.total == pytest.approx(2 * 0.2**2)


def test_there_is_nothing_to_split_in_labels_and_ties_do_no_harm() -> None:
    nothing = knowledge(harden(probabilities(1)))
    assert nothing.total == 0
    assert np.isnan([nothing.smoothing, nothing.rescaling, nothing.relation]).all()
    even = knowledge(torch.full((3, 4), 0.25, dtype=torch.float64))
    assert (even.smoothing, even.rescaling, even.relation) == pytest.approx((1, 0, 0), abs=1e-12)
    tied = knowledge(torch.tensor([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]], dtype=torch.float64))
    assert tied.smoothing + tied.rescaling + tied.relation == pytest.approx(1, rel=0, abs=1e-12)
    with pytest.raises(ValueError, match=r"at least 2 actions\], got \[3, 1\]"):
        knowledge(torch.ones(3, 1))
