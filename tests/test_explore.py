"""Tests of `rlkd.explore`: random network distillation against an oracle that was written from the formulae."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlkd import recipe as recipes
from rlkd.errors import MismatchError
from rlkd.explore import Novelty, Steps, warm_up
from rlkd.explore.models import Counts, RandomNetwork
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


def made(
    recipe: Bonus = SMALL, shape: tuple[int, ...] = VECTORS, *, num_envs: int = N, actions: int | None = 3
) -> Novelty:
    view = PONG if shape[-1:] == (84,) else None
    bonus = Novelty(recipe, view, shape, actions, num_envs=num_envs, rollout_steps=T)
    bonus.initialise(torch.Generator().manual_seed(0))
    return bonus


def arriving(states: Tensor) -> Steps:
    """Steps that led to some states, by action 0 from nowhere."""
    return Steps(None, torch.zeros(len(states), dtype=torch.int64), states)


def bonus_of(bonus: Novelty, states: Tensor) -> Tensor:
    return bonus.bonus(arriving(states), torch.ones(len(states), dtype=torch.bool))


def model(bonus: Novelty) -> RandomNetwork:
    assert isinstance(bonus.model, RandomNetwork)
    return bonus.model


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


def test_nothing_but_the_prior_widens_the_scale_of_numbers_that_hardly_vary() -> None:
    bonus, seen = made(), 6400 * 128
    bonus.seen.combine(torch.zeros(6).double(), torch.zeros(6).double(), seen)
    white = bonus.whiten(torch.full((1, 6), 2e-5))
    np.testing.assert_allclose(white.numpy(), 2e-5 / np.sqrt(1e-4 / (1e-4 + seen)), rtol=1e-4)


def test_a_bonus_is_the_mean_squared_error_about_the_whitened_newest_frame() -> None:
    bonus = made(SMALL, PIXELS)
    generator = torch.Generator().manual_seed(1)
    seen = torch.randint(0, 256, (7, 1, 84, 84), dtype=torch.uint8, generator=generator)
    stack = torch.randint(0, 256, (2, N, *PIXELS), dtype=torch.uint8, generator=generator)
    bonus.seen.update(seen)
    got = bonus_of(bonus, bonus.look(stack).flatten(0, 1))
    target, predictor = arrays(model(bonus).target), arrays(model(bonus).predictor)
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
        for net in (model(bonus).target, model(bonus).predictor)
    ]
    assert sizes[0] == [(32, 1, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136)]
    assert sizes[1][3:] == [(512, 3136), (512, 512), (512, 512)]
    for net in (model(bonus).target, model(bonus).predictor):
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
        steps = bonus.steps(observation, torch.zeros(T, 2, dtype=torch.int64), first, ended)
        assert steps.before is None
        assert steps.arrived[:, 0].view(T, 2).T.tolist() == want
        assert bonus.start[:, 0].tolist() == [30, 7]


@pytest.mark.parametrize("order", ["oldest_first", "newest_first"])
def test_only_the_newest_frame_is_looked_at(order: Any) -> None:
    view = recipes.build(type(PONG), recipes.to_table(PONG) | {"stack_order": order}, where="here")
    bonus = Novelty(SMALL, view, PIXELS, 3, num_envs=N, rollout_steps=T)
    stack = torch.arange(4, dtype=torch.uint8)[:, None, None].expand(2, N, 4, 84, 84)
    assert torch.unique(bonus.look(stack)).tolist() == [3 if order == "oldest_first" else 0]
    assert bonus.look(stack).shape == (2, N, 1, 84, 84)


def test_all_numbers_of_what_is_no_stack_of_frames_are_looked_at() -> None:
    symbols = made(SMALL, (3, 7, 7))
    assert symbols.look(torch.zeros(2, N, 3, 7, 7)).shape == (2, N, 147)


@pytest.mark.parametrize(("num_envs", "share"), [(8, 1.0), (32, 1.0), (128, 0.25), (1024, 1 / 32)])
def test_the_predictor_learns_from_as_many_samples_as_32_environments_bring(num_envs: int, share: float) -> None:
    bonus, generator = made(num_envs=num_envs), torch.Generator().manual_seed(0)
    rows = torch.arange(20_000) % 5 != 0
    weights, lucks = zip(*(bonus.keep(rows, generator) for _ in range(2)), strict=True)
    assert not torch.equal(*lucks)
    kept = weights[0] > 0
    assert not kept[~rows].any()
    assert weights[0].sum().item() == pytest.approx(1, abs=1e-4)
    assert len(torch.unique(weights[0][kept])) == 1
    spread = 4 * np.sqrt(16_000 * share * (1 - share))
    assert abs(kept.sum().item() - 16_000 * share) <= spread
    assert torch.equal(kept, weights[1] > 0) == (share == 1.0)


def test_a_minibatch_of_which_nothing_is_kept_costs_nothing() -> None:
    bonus = made()
    weights, luck = bonus.keep(torch.zeros(9, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert (bonus.losses(arriving(torch.randn(9, 6)), luck) * weights).sum().item() == 0.0


@pytest.mark.parametrize("name", ["rnd", "drnd", "dynamics"])
def test_learning_changes_the_predictor_and_nothing_else(name: Any) -> None:
    bonus = made(replace(SMALL, name=name))
    before = copy.deepcopy(bonus.state_dict())
    optimiser = torch.optim.AdamW(bonus.learning.values(), lr=1e-2, weight_decay=0.1)
    bonus.train()
    action = torch.arange(9) % 3
    bonus.losses(Steps(torch.randn(9, 6), action, torch.randn(9, 6)), torch.rand(9)).mean().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    changed = {name for name, tensor in bonus.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"model.{name}" for name in bonus.learning}
    assert not any("target" in name for name in changed)


def trained(bonus: Novelty, steps: Steps, count: int) -> None:
    optimiser = torch.optim.Adam(bonus.learning.values(), lr=1e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(count):
        rows = torch.randint(len(steps.arrived), (64,), generator=draw)
        optimiser.zero_grad()
        bonus.losses(steps.rows(rows), torch.rand(64, generator=draw)).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def test_the_bonus_of_what_was_seen_fades_and_of_what_was_not_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    seen, unseen = (torch.randn(64, 6, generator=generator) + shift for shift in (0.0, 6.0))
    bonus = made(Bonus(features=32, predictor_widths=(64,), clip=20.0))
    bonus.seen.update(seen)
    before = [bonus_of(bonus, states).mean().item() for states in (seen, unseen)]
    trained(bonus, arriving(seen), 300)
    after = [bonus_of(bonus, states).mean().item() for states in (seen, unseen)]
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
    bonus = made(Bonus(features=32, predictor_widths=(64,)), (16,))
    bonus.seen.update(states)
    trained(bonus, arriving(states), 600)
    novelty = [bonus_of(bonus, examples(k, 256)).mean().item() for k in range(1, 6)]
    assert novelty == sorted(novelty, reverse=True), novelty
    assert novelty[-1] < novelty[0] / 2


def test_a_first_look_sees_what_random_steps_led_to_and_is_repeatable() -> None:
    def looked(seed: int) -> Novelty:
        bonus = made(Bonus(warm_up_steps=300, features=8), (4,), num_envs=4)
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
        (
            lambda: Novelty(SMALL, PONG, (4, 20, 20), 3, num_envs=N, rollout_steps=T),
            "frames of 20 x 20 pixels are too small for the bonus's convolutions",
        ),
        (lambda: made(Bonus(name="dynamics"), actions=None), "tells discrete actions apart, and these are continuous"),
    ],
)
def test_what_a_bonus_cannot_read_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        make()


def test_the_nth_visit_of_a_state_brings_one_over_the_root_of_n() -> None:
    bonus = made(Bonus(name="counts"))
    assert not bonus.learning
    assert bonus.warm_up_steps == 0
    a, b = torch.zeros(6), torch.ones(6)
    found = bonus.bonus(arriving(torch.stack([a, b, a, a])), torch.tensor([True, True, False, True]))
    assert found.tolist() == pytest.approx([1, 1, 0, 2**-0.5])
    assert bonus_of(bonus, torch.stack([a, a])).tolist() == pytest.approx([3**-0.5, 0.5])
    again = made(Bonus(name="counts"))
    again.load_state_dict(bonus.state_dict())
    assert isinstance(again.model, Counts)
    assert bonus_of(again, torch.stack([b, a])).tolist() == pytest.approx([2**-0.5, 5**-0.5])
    assert sorted(again.model.visits.values()) == [2, 5]


def test_a_predictor_of_many_networks_is_scored_by_distance_and_by_the_estimate_of_visits() -> None:
    bonus = made(Bonus(name="drnd", features=8, widths=(12,), predictor_widths=(10,), targets=4, alpha=0.3))
    states = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    state = bonus.state_dict()
    target_layers, layers = (("0", 0.2), ("2", 1.0)), (("0", 0.2), ("2", 0.0), ("4", 1.0))

    def weights(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v.numpy() for k, v in state.items() if k.startswith(prefix)}

    want, wanted_loss, luck = [], [], np.linspace(0, 0.99, 9)
    for place, value in enumerate(states.numpy()):
        white = reference_explore.whitened(value, np.zeros((0, 6)), 5.0)
        answers = [reference_explore.answer(weights(f"model.targets.{k}."), white, target_layers) for k in range(4)]
        predicted = reference_explore.answer(weights("model.predictor."), white, layers)
        mean, second = np.mean(answers, axis=0), np.mean(np.square(answers), axis=0)
        estimate = np.sqrt(np.clip(np.abs(predicted**2 - mean**2) / (second - mean**2), 1e-6, 1)).mean()
        want.append(0.3 * reference_explore.error(mean, predicted) + 0.7 * estimate)
        wanted_loss.append(reference_explore.error(answers[int(luck[place] * 4)], predicted))
    np.testing.assert_allclose(bonus_of(bonus, states).numpy(), want, rtol=1e-4)
    losses = bonus.losses(arriving(states), torch.from_numpy(luck))
    np.testing.assert_allclose(losses.detach().numpy(), wanted_loss, rtol=1e-4)


def test_a_state_to_which_all_targets_answer_the_same_has_a_bonus_all_the_same() -> None:
    bonus = made(Bonus(name="drnd", features=8, widths=(12,), predictor_widths=(10,), targets=4))
    assert bonus_of(bonus, torch.zeros(2, 6)).isfinite().all()


def test_half_a_sum_is_rewarded_and_the_mean_is_learnt() -> None:
    states = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    mean, half = made(SMALL), made(replace(SMALL, error="half_sum"))
    torch.testing.assert_close(bonus_of(half, states), bonus_of(mean, states) * SMALL.features / 2)
    torch.testing.assert_close(*(each.losses(arriving(states), torch.zeros(5)) for each in (half, mean)))


def test_who_learns_from_the_observation_before_is_rewarded_for_the_one_it_led_to() -> None:
    bonus = made(replace(SMALL, learns_from="before"))
    before, arrived = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    steps = Steps(before, torch.zeros(5, dtype=torch.int64), arrived)
    every = torch.ones(5, dtype=torch.bool)
    torch.testing.assert_close(bonus.bonus(steps, every), bonus_of(made(SMALL), arrived))
    torch.testing.assert_close(
        bonus.losses(steps, torch.zeros(5)), made(SMALL).losses(arriving(before), torch.zeros(5))
    )


def test_dynamics_that_were_learnt_bring_less_than_a_wrong_action_and_noise_brings_nothing_new() -> None:
    # Three numbers that the action moves in a circle, and three of noise.
    generator = torch.Generator().manual_seed(0)
    place, action = (torch.randint(3, (4096,), generator=generator) for _ in range(2))

    def seen(place: Tensor) -> Tensor:
        return torch.cat([torch.eye(3)[place], torch.randn(len(place), 3, generator=generator)], dim=1)

    steps = Steps(seen(place), action, seen((place + action) % 3))
    bonus = made(Bonus(name="dynamics", features=8, widths=(32,), predictor_widths=(32,)))
    assert steps.before is not None
    bonus.seen.update(steps.before)
    every = torch.ones(4096, dtype=torch.bool)
    before = bonus.bonus(steps, every).mean().item()
    trained(bonus, steps, 1500)
    after = bonus.bonus(steps, every).mean().item()
    wrong = bonus.bonus(Steps(steps.before, (action + 1) % 3, steps.arrived), every).mean().item()
    noise = torch.cat([steps.arrived[:, :3], torch.randn(4096, 3, generator=generator)], dim=1)
    other_noise = bonus.bonus(Steps(steps.before, action, noise), every).mean().item()
    told = (before, after, wrong, other_noise)
    assert after < wrong / 2, told
    assert other_noise == pytest.approx(after, rel=0.1), told  # no less surprising, no more
