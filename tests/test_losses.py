"""Tests of `rlkd.losses`: values against `tests/reference.py`, then the stated properties."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given
from torch import Tensor

from rlkd import losses
from rlkd.losses.divergences import decoupled
from rlkd.terms.objective import centred
from tests import reference
from tests.reference import Moved, Played

LOGIT = st.floats(-20, 20)
Loss = Callable[[Tensor, Tensor], Tensor]


def of_logits(loss: Loss) -> Loss:
    """The same of two rows of logits: a target's probabilities, a student's log-probabilities."""
    return lambda teacher, student: loss(teacher.softmax(-1), student.log_softmax(-1))


PAIR_LOSSES: dict[str, Loss] = {
    "forward_kl": of_logits(losses.forward_kl),
    "reverse_kl": of_logits(losses.reverse_kl),
    "jensen_shannon": of_logits(partial(losses.jensen_shannon, beta=0.3)),
    "cross_entropy": of_logits(losses.cross_entropy),
    "mse": losses.mse,
    "huber": partial(losses.huber_distance, delta=0.5),
    "margin": losses.margin,
    "gaussian_kl": lambda teacher, student: losses.gaussian_kl(teacher, teacher / 10, student, student / 10),
    "gaussian_reverse_kl": lambda t, s: losses.gaussian_reverse_kl(t, t / 10, s, s / 10),
}
every_pair_loss = pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES.keys())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Teacher's and student's logits over the same two to six actions."""
    actions = draw(st.integers(2, 6))
    logits = st.lists(LOGIT, min_size=actions, max_size=actions)
    return draw(logits), draw(logits)


def rows(*values: list[float]) -> list[Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def of_probabilities(wanted: Callable[..., float], *numbers: float) -> Callable[[list[float], list[float]], float]:
    """A reference of p and log q, asked in logits."""
    return lambda teacher, student: wanted(
        [math.exp(value) for value in reference.log_softmax(teacher)], reference.log_softmax(student), *numbers
    )


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("forward_kl", of_probabilities(reference.kl)),
        ("cross_entropy", of_probabilities(reference.cross_entropy)),
        ("jensen_shannon", of_probabilities(reference.jensen_shannon, 0.3)),
        ("mse", reference.mse),
        ("huber", lambda teacher, student: reference.huber_distance(teacher, student, 0.5)),
        ("margin", lambda teacher, student: reference.margin(teacher, student, 0.8)),
    ],
)
@given(pair=pairs())
def test_a_divergence_matches_its_reference(
    name: str, wanted: Callable[[list[float], list[float]], float], pair: tuple[list[float], list[float]]
) -> None:
    assume(len(set(pair[0])) == len(pair[0]))  # of equally good actions each may be taken for the best
    assert PAIR_LOSSES[name](*rows(*pair)).item() == pytest.approx(wanted(*pair), rel=1e-6, abs=1e-6)


@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=2, max_size=6))
def test_reverse_kl_matches_reference(logits: list[tuple[float, float]]) -> None:
    teacher, student = (list(side) for side in zip(*logits, strict=True))
    wanted = of_probabilities(reference.reverse_kl)(teacher, student)
    assert PAIR_LOSSES["reverse_kl"](*rows(teacher, student)).item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_decoupled_kl_is_its_two_parts_and_forward_kl_a_sum_of_them() -> None:
    draws = torch.Generator().manual_seed(0)
    p, q = (torch.randn(40, 5, generator=draws, dtype=torch.float64).mul(3) for _ in range(2))
    p, log_q = p.softmax(-1), q.log_softmax(-1)
    sure, alike = decoupled(p, log_q, best=1, others=0), decoupled(p, log_q, best=0, others=1)
    for k, row in enumerate(p.tolist()):
        wanted = reference.decoupled(row, log_q[k].tolist(), 0.5, 3)
        assert (0.5 * sure + 3 * alike)[k].item() == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(sure + (1 - p.amax(-1)) * alike, losses.forward_kl(p, log_q))
    one_hot = torch.eye(5, dtype=torch.float64)
    student = q[:5].clone().requires_grad_()
    loss = decoupled(one_hot, student.log_softmax(-1), others=8)
    torch.testing.assert_close(loss, losses.forward_kl(one_hot, student.log_softmax(-1)))  # nothing is alike
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.isfinite().all()
    with pytest.raises(ValueError, match="must be at least 0"):
        decoupled(p, log_q, best=-1)


def test_jensen_shannon_runs_from_forward_to_reverse_kl_without_a_jump() -> None:
    draws = torch.Generator().manual_seed(0)
    p, log_q = torch.randn(6, 5, generator=draws).double().softmax(-1), torch.randn(6, 5, generator=draws).double()
    log_q = log_q.log_softmax(-1)
    ends = {0.0: losses.forward_kl(p, log_q), 1.0: losses.reverse_kl(p, log_q)}
    for end, wanted in ends.items():
        torch.testing.assert_close(losses.jensen_shannon(p, log_q, beta=end), wanted)
        near = losses.jensen_shannon(p, log_q, beta=abs(end - 1e-5))
        torch.testing.assert_close(near, wanted, rtol=1e-3, atol=1e-5)
        single = losses.jensen_shannon(p.float(), log_q.float(), beta=abs(end - 1e-5))
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), wanted, rtol=1e-2, atol=1e-3)
    middle = losses.jensen_shannon(p, log_q, beta=0.5)
    torch.testing.assert_close(middle, losses.jensen_shannon(log_q.exp(), p.log(), beta=0.5))
    for beta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="beta must be in"):
            losses.jensen_shannon(p, log_q, beta=beta)


def test_a_target_of_one_action_costs_its_likelihood_and_no_more() -> None:
    one, log_q = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.5, -1.0, 2.0]]).log_softmax(-1)
    for loss in (losses.forward_kl, losses.cross_entropy):
        assert loss(one, log_q).item() == pytest.approx(-log_q[0, 1].item())
    assert losses.reverse_kl(one, log_q).isfinite().all()


def test_a_teacher_without_noise_is_learnt_as_one_with_little() -> None:
    mean, log_std, own_mean = torch.tensor([[0.3, -1.0]]), torch.tensor([[-20.0, -1.5]]), torch.tensor([[0.2, 0.5]])
    taken = torch.tensor([[math.log(0.1), -1.5]])
    for own_log_std, seen in (([[-0.5, -3.0]], [[-0.5, -3.0]]), ([[-20.0, -3.0]], [[math.log(0.1), -3.0]])):
        got = losses.gaussian_kl(mean, log_std, own_mean, torch.tensor(own_log_std))
        assert torch.equal(got, losses.gaussian_kl(mean, taken, own_mean, torch.tensor(seen)))
    assert losses.gaussian_kl(mean, log_std, mean, log_std).item() == pytest.approx(0, abs=1e-6)


@given(st.lists(st.tuples(*[st.floats(-2, 2)] * 4), min_size=1, max_size=3))
def test_gaussian_kl_matches_the_integral(dimensions: list[tuple[float, float, float, float]]) -> None:
    teacher_mean, teacher_log_std, student_mean, student_log_std = (
        list(column) for column in zip(*dimensions, strict=True)
    )
    got = losses.gaussian_kl(*rows(teacher_mean, teacher_log_std, student_mean, student_log_std))
    want = reference.gaussian_kl(
        teacher_mean,
        [math.exp(value) for value in teacher_log_std],
        student_mean,
        [math.exp(value) for value in student_log_std],
    )
    assert got.item() == pytest.approx(want, rel=1e-8, abs=1e-8)


@given(st.lists(LOGIT, min_size=1, max_size=6))
def test_categorical_entropy_matches_reference(logits: list[float]) -> None:
    got = losses.categorical_entropy(*rows(logits))
    assert got.item() == pytest.approx(reference.entropy(logits), rel=1e-9, abs=1e-9)


@given(st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=1, max_size=3))
def test_gaussian_log_prob_and_entropy_match_reference(
    dimensions: list[tuple[float, float, float]],
) -> None:
    mean, log_std, action = (list(column) for column in zip(*dimensions, strict=True))
    log_prob = losses.gaussian_log_prob(*rows(mean, log_std, action))
    want = sum(reference.normal_log_density(x, m, math.exp(s)) for m, s, x in dimensions)
    assert log_prob.item() == pytest.approx(want, rel=1e-9, abs=1e-9)
    # Entropy is minus the expected log density: that of a normal variable, one std away, in each dimension.
    away = [m + math.exp(s) for m, s, _ in dimensions]
    want = -sum(reference.normal_log_density(x, m, math.exp(s)) for (m, s, _), x in zip(dimensions, away, strict=True))
    entropy = losses.gaussian_entropy(*rows(log_std))
    assert entropy.item() == pytest.approx(want, rel=1e-9, abs=1e-9)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-5, 5), st.sampled_from([0.1, 0.2]))
def test_ppo_surrogate_matches_reference(new: float, old: float, advantage: float, clip: float) -> None:
    arguments = (torch.tensor([value], dtype=torch.float64) for value in (new, old, advantage))
    got = losses.ppo_surrogate(*arguments, clip=clip)
    assert got.item() == pytest.approx(reference.ppo_surrogate(new, old, advantage, clip), rel=1e-9)


def test_ppo_surrogate_stops_pulling_once_the_ratio_has_left_the_trust_interval() -> None:
    log_prob = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss = losses.ppo_surrogate(log_prob, torch.zeros(4), advantage, clip=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    assert (gradient != 0).tolist() == [False, True, True, False]


@every_pair_loss
def test_a_loss_gives_one_value_per_sample_that_no_other_sample_moves(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(8, 4, generator=generator) for _ in range(2))
    alone = torch.cat([loss(teacher[k : k + 1], student[k : k + 1]) for k in range(8)])
    assert alone.shape == (8,)
    torch.testing.assert_close(loss(teacher, student), alone)
    torch.testing.assert_close(loss(teacher.repeat(3, 1), student.repeat(3, 1)), alone.repeat(3))


@every_pair_loss
def test_a_loss_trains_the_student_only(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(8, 4, generator=generator, requires_grad=True) for _ in range(2))
    torch.autograd.backward(loss(teacher, student).sum())
    assert teacher.grad is None
    assert student.grad is not None
    if loss is not losses.margin:  # which pulls at two actions alone, and at none where it holds
        assert student.grad.abs().min() > 0


@pytest.mark.parametrize("name", [name for name in PAIR_LOSSES if name not in ("cross_entropy", "margin")])
def test_a_perfect_student_has_no_loss(name: str) -> None:
    teacher = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PAIR_LOSSES[name](teacher, teacher), torch.zeros(8), atol=1e-6, rtol=0)


def test_a_margin_that_holds_costs_nothing() -> None:
    label = torch.tensor([[0.0, 1.0, 0.0]]).repeat(3, 1)
    q = torch.tensor([[0.0, 0.8, -5.0], [0.0, 0.5, -5.0], [2.0, 1.0, 0.0]], requires_grad=True)
    loss = losses.margin(label, q)
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.3, 1.8]))
    (gradient,) = torch.autograd.grad(loss[1:].sum(), q)
    assert gradient.tolist() == [[0, 0, 0], [1, -1, 0], [1, -1, 0]]


def _hinton(temperature: float) -> Loss:
    tempered = PAIR_LOSSES["forward_kl"]
    return lambda teacher, student: temperature**2 * tempered(teacher / temperature, student / temperature)


def _gradient(loss: Loss, teacher: Tensor, student: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(teacher, student).sum(), student)
    return gradient


def test_forward_kl_pulls_the_student_by_the_difference_of_the_tempered_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    gradient = _gradient(PAIR_LOSSES["forward_kl"], teacher / 0.01, student)
    want = torch.softmax(student, -1) - torch.softmax(teacher / 0.01, -1)  # of Policy Distillation
    torch.testing.assert_close(gradient, want)


def test_at_high_temperature_hintons_loss_is_the_squared_error_of_centred_logits() -> None:
    """Section 2.1 of arXiv:1503.02531; without the factor T^2 the gradient would vanish."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    soft = _gradient(_hinton(200.0), teacher, student)
    squared = _gradient(lambda t, s: losses.mse(centred(t), centred(s)), teacher, student)
    assert torch.cosine_similarity(soft, squared).min() > 0.9999
    # KL is half the squared error in the limit, both averaged over actions.
    torch.testing.assert_close(soft, squared / 2, rtol=0.05, atol=0.005)


def test_hintons_loss_without_its_scale_would_vanish() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    tempered = PAIR_LOSSES["forward_kl"]
    gradient = _gradient(lambda t, s: tempered(t / 200, s / 200), teacher, student)
    assert (gradient.norm() / _gradient(_hinton(200.0), teacher, student).norm()).item() == pytest.approx(2.5e-5)


@every_pair_loss
@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        pytest.param((8, 4), (8, 6), id="different action counts"),
        pytest.param((8, 4), (4, 4), id="different batches"),
        pytest.param((8,), (8,), id="no action axis"),
    ],
)
def test_a_loss_names_the_shapes_it_refuses(loss: Loss, teacher: tuple[int, ...], student: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must both be \[batch, actions\], got \[8.*\] and \["):
        loss(torch.zeros(teacher), torch.zeros(student))


NUMBER = st.floats(-10, 10)


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[dict[str, Any], list[list[list[Played]]]]:
    """Tensors of a rollout with next-step resets, and beside them each environment's episodes step by step.

    A rollout may begin with a reset row: the episode before it ended with the rollout before.
    """
    T, N = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    reward, value = torch.zeros(T, N, dtype=torch.float64), torch.zeros(T + 1, N, dtype=torch.float64)
    terminated, valid = torch.zeros(T, N, dtype=torch.bool), torch.zeros(T, N, dtype=torch.bool)
    episodes: list[list[list[Played]]] = []
    for n in range(N):
        values = draw(st.lists(NUMBER, min_size=T + 1, max_size=T + 1))
        value[:, n] = torch.tensor(values, dtype=torch.float64)
        resets = draw(st.booleans())
        mine: list[list[Played]] = [[]]
        for t in range(T):
            if resets:  # its action is ignored; whatever is written there must not matter
                reward[t, n] = draw(NUMBER)
                terminated[t, n] = draw(st.booleans())
                resets = False
                mine.append([])
                continue
            end = draw(st.sampled_from(["runs", "runs", "terminated", "truncated"]))
            step = Played(t, draw(NUMBER), values[t], values[t + 1], end == "terminated", end == "truncated")
            reward[t, n], terminated[t, n], valid[t, n] = step.reward, step.terminated, True
            mine[-1].append(step)
            resets = end != "runs"
        episodes.append(mine)
    return {"reward": reward, "value": value, "terminated": terminated, "valid": valid}, episodes


@given(rollouts(), st.sampled_from([0.0, 0.9, 1.0]), st.sampled_from([0.0, 0.95, 1.0]))
def test_advantages_over_next_step_resets_are_those_of_each_episode_alone(
    rollout: tuple[dict[str, Any], list[list[list[Played]]]], discount: float, gae_lambda: float
) -> None:
    tensors, environments = rollout
    got, target = losses.generalised_advantages(**tensors, discount=discount, gae_lambda=gae_lambda)
    want = torch.zeros_like(got)
    for n, episodes in enumerate(environments):
        for episode in episodes:
            for t, advantage in reference.episode_advantages(episode, discount, gae_lambda).items():
                want[t, n] = advantage
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target, want + tensors["value"][:-1], rtol=1e-9, atol=1e-9)


@given(rollouts(), st.sampled_from([0.0, 0.9, 1.0]), st.sampled_from([0.0, 0.95, 1.0]))
def test_a_return_that_is_not_episodic_runs_on_over_resets_as_if_play_never_stopped(
    rollout: tuple[dict[str, Any], list[list[list[Played]]]], discount: float, gae_lambda: float
) -> None:
    tensors, environments = rollout
    got, _ = losses.generalised_advantages(**tensors, discount=discount, gae_lambda=gae_lambda, episodic=False)
    want = torch.zeros_like(got)
    for n, episodes in enumerate(environments):
        played = [step for episode in episodes for step in episode]
        last = float(tensors["value"][-1, n])
        for t, advantage in reference.endless_advantages(played, last, discount, gae_lambda).items():
            want[t, n] = advantage
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@given(rollouts(), st.data(), st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 0.95, 1.0]))
def test_lagging_rollouts_are_weighed_as_vtrace_does(
    rollout: tuple[dict[str, Any], list[list[list[Played]]]],
    data: st.DataObject,
    discount: float,
    gae_lambda: float,
) -> None:
    tensors, environments = rollout
    shape = tensors["reward"].shape
    flat = data.draw(st.lists(st.floats(-2, 2), min_size=shape.numel(), max_size=shape.numel()))
    log_ratio = torch.tensor(flat, dtype=torch.float64).view(shape)
    got, target = losses.generalised_advantages(
        **tensors, discount=discount, gae_lambda=gae_lambda, log_ratio=log_ratio
    )
    want, wanted_target = torch.zeros_like(got), tensors["value"][:-1].clone()
    for n, episodes in enumerate(environments):
        for episode in episodes:
            ratios = [math.exp(log_ratio[step.time, n]) for step in episode]
            advantages, targets = reference.vtrace(episode, ratios, discount, gae_lambda)
            for t in advantages:
                want[t, n], wanted_target[t, n] = advantages[t], targets[t]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target, wanted_target, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("terminated", "want"), [(True, 1.0), (False, 1.0 + 0.5 * 7.0)])
def test_a_truncated_episode_bootstraps_from_its_last_observation_and_a_terminated_one_does_not(
    terminated: bool, want: float
) -> None:
    got, _ = losses.generalised_advantages(
        torch.tensor([[1.0], [100.0], [1.0]]),
        torch.tensor([[0.0], [7.0], [9.0], [9.0]]),  # 7: the last observation of the episode that ends at t = 0
        torch.tensor([[terminated], [False], [False]]),
        torch.tensor([[True], [False], [True]]),
        discount=0.5,
        gae_lambda=1.0,
    )
    assert got[:2].flatten().tolist() == pytest.approx([want, 0.0])


def test_advantages_carry_no_gradient() -> None:
    value = torch.ones(3, 1, requires_grad=True)
    flags = torch.zeros(2, 1, dtype=torch.bool)
    got = losses.generalised_advantages(torch.ones(2, 1), value, flags, ~flags, discount=0.9, gae_lambda=0.9)
    assert not any(tensor.requires_grad for tensor in got)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5))
def test_huber_matches_reference(errors: list[float]) -> None:
    got = losses.huber(torch.tensor(errors, dtype=torch.float64))
    assert got.tolist() == pytest.approx([reference.huber(error) for error in errors], rel=1e-9)


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=5), st.lists(st.floats(-4, 4), min_size=1, max_size=4))
def test_quantile_huber_matches_reference(predicted: list[float], target: list[float]) -> None:
    got = losses.quantile_huber(*rows(predicted, target))
    assert got.item() == pytest.approx(reference.quantile_huber(predicted, target), rel=1e-9, abs=1e-12)


def test_quantile_huber_gives_one_value_per_sample_and_trains_the_prediction_only() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(8, 5, generator=generator, requires_grad=True)
    target = torch.randn(8, 3, generator=generator, requires_grad=True)
    loss = losses.quantile_huber(predicted, target)
    alone = torch.cat([losses.quantile_huber(predicted[k : k + 1], target[k : k + 1]) for k in range(8)])
    torch.testing.assert_close(loss, alone)
    torch.autograd.backward(loss.sum())
    assert target.grad is None
    assert predicted.grad is not None


def test_quantile_huber_is_least_at_the_quantiles_of_the_target() -> None:
    samples = 100 * torch.randn(4001, generator=torch.Generator().manual_seed(0)).sort().values
    quantiles = samples.quantile(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    best = losses.quantile_huber(quantiles[None], samples[None]).item()
    for place in range(5):
        for shift in (-4.0, 4.0):
            moved = quantiles.clone()
            moved[place] += shift
            assert losses.quantile_huber(moved[None], samples[None]).item() > best


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6), st.sampled_from([0.0, 0.4, 1.0]), st.integers(1, 99))
def test_importance_weights_match_reference(chances: list[float], beta: float, count: int) -> None:
    got = losses.importance_weights(torch.tensor(chances, dtype=torch.float64), beta=beta)
    assert got.tolist() == pytest.approx(reference.importance_weights(chances, count, beta), rel=1e-9)
    assert got.max() == 1


@given(st.data(), st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.0, 0.9, 1.0]))
def test_n_step_returns_are_those_of_the_episode_alone(
    data: st.DataObject, n_step: int, played: int, discount: float
) -> None:
    moves = [Moved(k, 0, data.draw(NUMBER), data.draw(st.booleans())) for k in range(played)]
    want = reference.n_step_target(moves, 0, n_step, discount)
    junk = [Moved(-1, 0, data.draw(NUMBER), data.draw(st.booleans())) for _ in range(n_step)]  # the next episode's
    tape = [*moves, *junk][:n_step]
    valid = [k + 1 < played or k + 1 > played + 1 for k in range(n_step)]
    reward, length, factor = losses.n_step_return(
        torch.tensor([[move.reward for move in tape]], dtype=torch.float64),
        torch.tensor([[move.terminated for move in tape]]),
        torch.tensor([valid]),
        discount=discount,
    )
    assert reward.item() == pytest.approx(want[0], rel=1e-9, abs=1e-12)
    assert factor.item() == pytest.approx(want[1], rel=1e-9)
    if want[2] is not None:
        assert length.item() == want[2]
