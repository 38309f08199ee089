"""Tests of `rlkd.explore`: random network distillation against an oracle that was written from the formulae."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlkd import recipe as recipes
from rlkd.errors import MismatchError
from rlkd.explore import Rnd, warm_up
from rlkd.explore.moments import Moments
from rlkd.explore.scaling import Scaling
from rlkd.recipe import Bonus, Environment
from rlkd.vector import Stepper, make_vec
from tests import reference_explore

T, N = 5, 3
PONG = recipes.load("pong", Environment).views["pixels"]
SMALL = Bonus(features=16, predictor_widths=(24, 20), widths=(12,), channels=(4, 6, 6))
PIXELS, VECTORS = (4, 84, 84), (6,)
CONV_LAYERS = (("0", 0.2), ("2", 0.2), ("4", 0.2))
TARGET = (*CONV_LAYERS, ("7", 1.0))
PREDICTOR = (*CONV_LAYERS, ("7", 0.0), ("9", 0.0), ("11", 1.0))


def made(recipe: Bonus = SMALL, shape: tuple[int, ...] = VECTORS, *, num_envs: int = N) -> Rnd:
    bonus = Rnd(recipe, PONG if len(shape) == 3 else None, shape, num_envs=num_envs, rollout_steps=T)
    bonus.initialise(torch.Generator().manual_seed(0))
    return bonus


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def test_moments_are_those_of_everything_seen_and_of_a_small_prior() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(0, 256, (size, 2, 3), dtype=torch.uint8, generator=generator) for size in (1, 700, 0, 5)]
    moments = Moments((2, 3))
    for part in parts:
        moments.update(part)
    mean, variance, count = reference_explore.moments(torch.cat(parts).numpy())
    np.testing.assert_allclose(moments.mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(moments.var.numpy(), variance, rtol=1e-12)
    assert moments.count.item() == pytest.approx(count, rel=1e-12)


@pytest.mark.parametrize("count", [2**24, 2**33])
def test_moments_still_move_after_billions_of_observations(count: int) -> None:
    moments = Moments(())
    moments.combine(torch.tensor(0.0).double(), torch.tensor(1.0).double(), count)
    before = moments.count.item()
    moments.update(torch.tensor([1e6]))
    assert moments.count.item() - before == 1
    assert moments.mean.item() == pytest.approx(1e6 / (count + 1), rel=1e-6)


@pytest.mark.parametrize("seen", [6400 * 32, 6400 * 128])
def test_a_pixel_that_never_changed_is_whitened_by_the_prior_alone_and_one_grey_more_is_clipped(seen: int) -> None:
    bonus = made(SMALL, PIXELS)
    greys = torch.zeros(1, 84, 84, dtype=torch.uint8)
    greys[0, 40] = 200
    bonus.seen.combine(greys.double(), torch.zeros(1, 84, 84).double(), seen)
    for grey in (0, 200):
        row = 40 if grey else 0
        want = np.sqrt(1e-4 * (1 + grey**2) / (1e-4 + seen))
        # The closed form leaves out a term of the size of the prior's share.
        assert bonus.seen.deviation()[0, row, 0].item() == pytest.approx(want, rel=1e-8, abs=1e-9)
        brighter = greys.clone()
        brighter[0, row] = grey + 1
        white = bonus.whiten(brighter[None])
        assert torch.unique(white[0, 0, row]).tolist() == [5.0]
    assert bonus.whiten(greys[None]).abs().max() < 0.2
    assert bonus.whiten(torch.zeros(2, 1, 84, 84, dtype=torch.uint8)).isfinite().all()


def test_a_bonus_is_the_mean_squared_error_about_the_whitened_newest_frame() -> None:
    bonus = made(SMALL, PIXELS)
    generator = torch.Generator().manual_seed(1)
    seen = torch.randint(0, 256, (7, 1, 84, 84), dtype=torch.uint8, generator=generator)
    stack = torch.randint(0, 256, (2, N, *PIXELS), dtype=torch.uint8, generator=generator)
    bonus.seen.update(seen)
    got = bonus.bonus(bonus.look(stack).flatten(0, 1))
    target, predictor = arrays(bonus.target), arrays(bonus.predictor)
    want = []
    for frames in stack.flatten(0, 1).numpy():
        white = reference_explore.whitened(frames[-1:], seen.numpy(), 5.0)
        pair = [reference_explore.answer(*each) for each in ((target, white, TARGET), (predictor, white, PREDICTOR))]
        want.append(reference_explore.error(*pair))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5)


def test_the_predictor_is_larger_than_what_it_learns_and_both_begin_orthogonal() -> None:
    bonus = made(Bonus(), PIXELS)
    sizes = [
        [tuple(weight.shape) for name, weight in net.named_parameters() if name.endswith("weight")]
        for net in (bonus.target, bonus.predictor)
    ]
    assert sizes[0] == [(32, 1, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136)]
    assert sizes[1][3:] == [(512, 3136), (512, 512), (512, 512)]
    for net in (bonus.target, bonus.predictor):
        for layer in net:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                flat = layer.weight.detach().flatten(1)
                small = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
                torch.testing.assert_close(small, 2 * torch.eye(len(small)), atol=1e-4, rtol=0)
                assert layer.bias is not None
                assert not layer.bias.any()


def test_the_filter_runs_over_time_across_ends_of_episodes_and_rollouts() -> None:
    scaling = Scaling(SMALL, num_envs=N, rollout_steps=T)
    draw = np.random.default_rng(0)
    before, sums = [0.0] * N, []
    for _ in range(2):
        bonus, valid = draw.random((T, N)), draw.random((T, N)) < 0.8
        scaled = scaling.scale(torch.from_numpy(bonus), torch.from_numpy(valid))
        found = reference_explore.filtered(bonus, valid, before, 0.99)
        before = [each[-1] if each else last for each, last in zip(found, before, strict=True)]
        sums += [value for each in found for value in each]
        _, variance, count = reference_explore.moments(np.array(sums))
        np.testing.assert_allclose(scaling.filter.numpy(), before, rtol=1e-12)
        assert scaling.sums.count.item() == pytest.approx(count, rel=1e-12)
        assert scaling.sums.var.item() == pytest.approx(float(variance), rel=1e-12)
        np.testing.assert_allclose(scaled.numpy(), np.where(valid, bonus / np.sqrt(variance), 0), rtol=1e-6)


def test_the_port_filters_over_environments_and_counts_them_alone() -> None:
    recipe = Bonus(filter_over="environments")
    scaling = Scaling(recipe, num_envs=N, rollout_steps=T)
    bonus = np.random.default_rng(0).random((T, N))
    scaling.scale(torch.from_numpy(bonus), torch.ones(T, N, dtype=torch.bool))
    rows = np.array(reference_explore.filtered(bonus.T, np.ones((N, T), bool), [0.0] * T, 0.99))
    assert scaling.sums.count.item() == pytest.approx(N + 1e-4)
    spread, mean, total = rows.var(), rows.mean(), N + 1e-4
    want = (1e-4 + spread * N + mean**2 * 1e-4 * N / total) / total
    assert scaling.sums.var.item() == pytest.approx(want, rel=1e-12)
    np.testing.assert_allclose(scaling.filter.numpy(), rows[:, -1], rtol=1e-12)


def marked(value: int) -> list[float]:
    return [float(value)] * 6


def test_a_step_is_scored_on_what_it_led_to_and_an_ending_one_on_the_next_beginning() -> None:
    observation = torch.tensor([[marked(10 * t + n) for n in range(2)] for t in range(T + 1)])
    first, ended = torch.zeros(T + 1, 2, dtype=torch.bool), torch.zeros(T, 2, dtype=torch.bool)
    first[0, 0] = True
    ended[1, 0], first[3, 0] = True, True  # step 2 only resets
    ended[4, 0] = True  # and the next episode has not begun yet
    ended[4, 1] = True  # of one that begun in an earlier rollout
    for terminal, want in (
        ("final", [[10, 20, 30, 40, 50], [11, 21, 31, 41, 51]]),
        ("reset", [[10, 30, 30, 40, 30], [11, 21, 31, 41, 7]]),
    ):
        bonus = made(Bonus(terminal=terminal), num_envs=2)  # type: ignore[arg-type]
        bonus.start[1] = 7.0
        assert bonus.arrivals(observation, first, ended)[:, :, 0].T.tolist() == want
        assert bonus.start[:, 0].tolist() == [30, 7]


@pytest.mark.parametrize("order", ["oldest_first", "newest_first"])
def test_only_the_newest_frame_is_looked_at(order: Any) -> None:
    view = recipes.build(type(PONG), recipes.to_table(PONG) | {"stack_order": order}, where="here")
    bonus = Rnd(SMALL, view, PIXELS, num_envs=N, rollout_steps=T)
    stack = torch.arange(4, dtype=torch.uint8)[:, None, None].expand(2, N, 4, 84, 84)
    assert torch.unique(bonus.look(stack)).tolist() == [3 if order == "oldest_first" else 0]
    assert bonus.look(stack).shape == (2, N, 1, 84, 84)


def test_all_numbers_of_what_is_no_stack_of_frames_are_looked_at() -> None:
    symbols = Rnd(SMALL, None, (3, 7, 7), num_envs=N, rollout_steps=T)
    assert symbols.look(torch.zeros(2, N, 3, 7, 7)).shape == (2, N, 147)


@pytest.mark.parametrize(("num_envs", "share"), [(8, 1.0), (32, 1.0), (128, 0.25), (1024, 1 / 32)])
def test_the_predictor_learns_from_as_many_samples_as_32_environments_bring(num_envs: int, share: float) -> None:
    bonus, generator = made(num_envs=num_envs), torch.Generator().manual_seed(0)
    rows = torch.arange(20_000) % 5 != 0
    weights = [bonus.keep(rows, generator) for _ in range(2)]
    kept = weights[0] > 0
    assert not kept[~rows].any()
    assert weights[0].sum().item() == pytest.approx(1, abs=1e-4)
    assert len(torch.unique(weights[0][kept])) == 1
    spread = 4 * np.sqrt(16_000 * share * (1 - share))
    assert abs(kept.sum().item() - 16_000 * share) <= spread
    assert torch.equal(kept, weights[1] > 0) == (share == 1.0)


def test_a_minibatch_of_which_nothing_is_kept_costs_nothing() -> None:
    bonus = made()
    weights = bonus.keep(torch.zeros(9, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert (bonus.errors(torch.randn(9, 6)) * weights).sum().item() == 0.0


def test_learning_changes_the_predictor_and_nothing_else() -> None:
    bonus = made()
    before = copy.deepcopy(bonus.state_dict())
    optimiser = torch.optim.AdamW([p for p in bonus.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    bonus.train()
    bonus.errors(torch.randn(9, 6)).mean().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    changed = {name for name, tensor in bonus.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"predictor.{name}" for name, _ in bonus.predictor.named_parameters()}


def trained(bonus: Rnd, states: Tensor, steps: int) -> None:
    optimiser = torch.optim.Adam(bonus.predictor.parameters(), lr=1e-3)
    draw = np.random.default_rng(0)
    for _ in range(steps):
        optimiser.zero_grad()
        bonus.errors(states[draw.integers(len(states), size=64)]).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def test_the_bonus_of_what_was_seen_fades_and_of_what_was_not_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    seen, unseen = (torch.randn(64, 6, generator=generator) + shift for shift in (0.0, 6.0))
    bonus = made(Bonus(features=32, predictor_widths=(64,), clip=20.0))
    bonus.seen.update(seen)
    before = [bonus.bonus(states).mean().item() for states in (seen, unseen)]
    trained(bonus, seen, 300)
    after = [bonus.bonus(states).mean().item() for states in (seen, unseen)]
    assert after[0] < 0.05 * before[0]
    assert after[1] > 10 * after[0]


def test_novelty_falls_with_the_logarithm_of_how_often_a_class_was_seen() -> None:
    # As the toy of the paper: much of class 0, and k examples of another class.
    generator = torch.Generator().manual_seed(0)
    prototypes = 3 * torch.randn(6, 16, generator=generator)
    counts = [0, 1, 4, 16, 64, 256]

    def examples(label: int, count: int) -> Tensor:
        return prototypes[label] + torch.randn(count, 16, generator=generator)

    states = torch.cat([examples(0, 1024), *(examples(k, count) for k, count in enumerate(counts) if k)])
    bonus = Rnd(Bonus(features=32, predictor_widths=(64,)), None, (16,), num_envs=N, rollout_steps=T)
    bonus.initialise(generator)
    bonus.seen.update(states)
    trained(bonus, states, 600)
    novelty = [bonus.bonus(examples(k, 256)).mean().item() for k in range(1, 6)]
    assert novelty == sorted(novelty, reverse=True), novelty
    assert novelty[-1] < novelty[0] / 2


def test_a_first_look_sees_what_random_steps_led_to_and_is_repeatable() -> None:
    def looked(seed: int) -> Rnd:
        bonus = Rnd(Bonus(warm_up_steps=300, features=8), None, (4,), num_envs=4, rollout_steps=T)
        steppers = [Stepper(make_vec("cartpole", 2, seed)) for seed in (5, 9)]
        steps = list(warm_up(bonus, steppers, np.random.default_rng(seed)))
        for stepper in steppers:
            stepper.close()
        assert steps == [128, 256, 300]
        return bonus

    bonus, again, other = looked(0), looked(0), looked(1)
    ends = round(4 * 300 - bonus.seen.count.item())
    assert 4 * 300 / 40 < ends < 4 * 300 / 10  # random play of CartPole lasts for some 22 steps
    assert torch.equal(bonus.seen.mean, again.seen.mean)
    assert not torch.equal(bonus.seen.mean, other.seen.mean)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made(SMALL, (4, 20, 20)), "frames of 20 x 20 pixels are too small for the bonus's convolutions"),
    ],
)
def test_what_a_bonus_cannot_read_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        make()
