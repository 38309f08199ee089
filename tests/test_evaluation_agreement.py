"""Tests of `rlkd.evaluation`, comparing: agreement and KL of two policies on given states."""

import numpy as np
import pytest
import torch

from rlkd.evaluation import agreement, answers, mean_kl, play
from rlkd.evaluation.agreement import BATCH
from rlkd.policy import Kind
from rlkd.recipe import Network
from tests import reference
from tests.handmade import TINY, environment, policy

CARTPOLE = environment("cartpole", frame_cap=200)
PENDULUM = environment("pendulum", frame_cap=40)
RECURRENT = Network(encoder="mlp", hidden=(8,), core="gru", core_width=8)
PLAYER = policy(CARTPOLE, "categorical", TINY, rule="sampled")


@pytest.mark.parametrize("kind", ["categorical", "q"])
def test_agreement_and_kl_of_discrete_policies_are_the_slow_ones(kind: Kind) -> None:
    teacher = policy(CARTPOLE, kind, TINY, seed=1, sharpness=20)
    student = policy(CARTPOLE, "categorical", TINY, seed=2, sharpness=5)
    states = play(PLAYER, episodes=4, keep_states=48).states
    assert len(states) == 48
    with torch.inference_mode():
        ours, theirs = (each(states).flat.double().tolist() for each in (student, teacher))
    same = [np.argmax(own) == np.argmax(other) for own, other in zip(ours, theirs, strict=True)]
    assert agreement(student, teacher, states) == np.mean(same)
    assert 0 < np.mean(same) < 1
    for temperatures in ((0.5, 1.0), (4.0, 4.0)):
        slow = [reference.tempered_kl(other, own, *temperatures) for own, other in zip(ours, theirs, strict=True)]
        fast = mean_kl(
            student, teacher, states, teacher_temperature=temperatures[0], student_temperature=temperatures[1]
        )
        assert fast == pytest.approx(np.mean(slow), rel=1e-5)


def test_agreement_and_kl_of_continuous_policies_are_the_slow_ones() -> None:
    teacher, student = (policy(PENDULUM, "gaussian", TINY, seed=seed) for seed in (1, 2))
    for player, log_std in ((teacher, -0.5), (student, 0.3)):
        assert player.network.log_std is not None
        with torch.no_grad():
            player.network.log_std.fill_(log_std)
    states = play(teacher, episodes=3, keep_states=30).states
    with torch.inference_mode():
        ours, theirs = (each(states).params["mean"].double().tolist() for each in (student, teacher))
    spreads = [np.exp(-0.5)], [np.exp(0.3)]
    slow = [reference.gaussian_kl(other, spreads[0], own, spreads[1]) for own, other in zip(ours, theirs, strict=True)]
    assert mean_kl(student, teacher, states, teacher_temperature=1.0) == pytest.approx(np.mean(slow), rel=1e-5)
    error = np.square(np.subtract(ours, theirs)).mean()
    assert agreement(student, teacher, states) == pytest.approx(1 - error / np.var(theirs), rel=1e-5)


@pytest.mark.parametrize("kind", ["categorical", "q", "gaussian", "squashed_gaussian"])
def test_a_policy_agrees_with_itself(kind: Kind) -> None:
    recipe = CARTPOLE if kind in ("categorical", "q") else PENDULUM
    player = policy(recipe, kind, TINY, sharpness=20)
    states = play(player, episodes=3, keep_states=20).states
    assert mean_kl(player, player, states, teacher_temperature=0.01 if kind == "q" else 1.0) == pytest.approx(
        0, abs=1e-12
    )
    assert agreement(player, player, states) == 1


def test_a_teacher_that_never_moves_has_an_agreement_all_the_same() -> None:
    still, other = policy(PENDULUM, "gaussian", TINY), policy(PENDULUM, "gaussian", TINY, seed=1)
    with torch.no_grad():
        still.network.head.weight.zero_()
    states = play(other, episodes=2, keep_states=20).states
    assert (agreement(still, still, states), agreement(other, still, states)) == (1, 0)


def test_answers_to_any_number_of_states_are_the_policys() -> None:
    player = policy(CARTPOLE, "categorical", RECURRENT, sharpness=5)
    states = play(player, episodes=3, keep_states=2 * BATCH + 3).states
    with torch.inference_mode():
        want = player(states, player.initial_state(len(states))).flat
    assert torch.allclose(answers(player, states), want, rtol=0, atol=1e-6)
