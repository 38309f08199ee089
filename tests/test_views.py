"""Tests of the views of other people's preprocessing, against slow float64 references of each step."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest

from rlkd.errors import MismatchError, RecipeError
from rlkd.policy.loading import attach
from rlkd.recipe import Environment, Network, View
from rlkd.vector import as_recipe, make
from rlkd.vector.atari import AtariGame, cpp_can_play
from rlkd.vector.sight import picture
from tests import handmade, reference
from tests.test_atari import STILL, with_emulator, with_view

FULL = View(
    max_over_last=1,
    crop=(0, 210),
    grey="luminance",
    resize="bilinear",
    height=210,
    width=160,
    stack=1,
    stack_order="oldest_first",
    stack_padding="zeros",
)
"""A view that leaves the screen's size alone, so that each step can be checked by itself."""


def noise(low: int = 0, high: int = 256) -> np.ndarray:
    """A screen of random colours, uint8 [210, 160, 3]: every grey and every edge is in it."""
    return np.random.default_rng(0).integers(low, high, (210, 160, 3)).astype(np.uint8)


def differs(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference, in grey levels."""
    assert got.shape == want.shape
    assert got.dtype == np.uint8
    return float(np.abs(got.astype(float) - want).max())


@pytest.mark.parametrize(
    ("grey", "weights"),
    [
        ("luminance", (0.2126, 0.7152, 0.0722)),
        ("luminance_601", (0.299, 0.587, 0.114)),
        ("luminance_skimage", (0.2125, 0.7154, 0.0721)),
        ("mean", (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_each_grey_is_its_weighted_sum_of_colours(grey: Any, weights: tuple[float, float, float]) -> None:
    got = picture(noise(), replace(FULL, grey=grey))
    want = reference.grey(noise(), weights)
    assert differs(got, want) <= 1
    assert abs(np.mean(got - want)) < 0.55  # cut off or rounded; another weight of 1 % would show
    rows = ((0.2126, 0.7152, 0.0722), (0.299, 0.587, 0.114), (1 / 3, 1 / 3, 1 / 3))
    for other in (row for row in rows if abs(row[0] - weights[0]) > 0.01):
        assert differs(got, reference.grey(noise(), other)) > 10


def test_rec_601_rounds_as_opencv_does() -> None:
    got = picture(noise(), replace(FULL, grey="luminance_601"))
    assert differs(got, np.rint(reference.grey(noise(), (0.299, 0.587, 0.114)))) <= 1


def test_stretch_spreads_each_frame_over_all_greys() -> None:
    view = replace(FULL, grey="mean", stretch="frame")
    screen = noise(60, 130)
    got = picture(screen, view)
    assert (got.min(), got.max()) == (0, 255)
    grey = screen.astype(float).mean(-1)
    want = np.floor((grey - grey.min()) * 255 / (grey.max() - grey.min()) + 0.5)
    assert differs(got, want) <= 1
    even = picture(np.full((210, 160, 3), 77, np.uint8), view)
    assert (even == 0).all()


def test_stretch_comes_behind_the_crop_and_before_resizing() -> None:
    screen = noise(60, 130)
    screen[:35] = 255  # the score's bright digits are cut off and stretch nothing
    view = replace(FULL, grey="mean", stretch="frame", crop=(35, 195), resize="pil_bilinear", height=80, width=80)
    grey = screen[35:195].astype(float).mean(-1)
    stretched = np.floor((grey - grey.min()) * 255 / (grey.max() - grey.min()) + 0.5)
    assert differs(picture(screen, view), reference.triangle_resized(stretched, 80, 80)) <= 1.5


@pytest.mark.parametrize(("height", "width"), [(84, 84), (80, 80), (210, 160), (300, 200), (10, 7)])
def test_pillows_bilinear_is_a_triangle_as_wide_as_the_step(height: int, width: int) -> None:
    view = replace(FULL, resize="pil_bilinear", height=height, width=width)
    full = picture(noise(), FULL).astype(float)
    assert differs(picture(noise(), view), reference.triangle_resized(full, height, width)) <= 1.01


@pytest.mark.parametrize(("height", "width"), [(84, 84), (80, 80), (300, 200), (10, 7)])
def test_bilinear_reads_four_pixels_however_large_the_step(height: int, width: int) -> None:
    view = replace(FULL, height=height, width=width)
    full = picture(noise(), FULL).astype(float)
    assert differs(picture(noise(), view), reference.bilinear_resized(full, height, width)) <= 1
    if height < 210:
        assert differs(picture(noise(), view), reference.triangle_resized(full, height, width)) > 20


def test_grey_after_resize_resizes_colours() -> None:
    view = replace(FULL, grey="luminance_skimage", resize="pil_bilinear", height=84, width=84, grey_after="resize")
    colours = np.stack([reference.triangle_resized(noise()[..., one].astype(float), 84, 84) for one in range(3)], -1)
    want = reference.grey(colours, (0.2125, 0.7154, 0.0721))
    assert differs(picture(noise(), view), want) <= 1.51  # Pillow rounds twice, then the grey is rounded
    assert not np.array_equal(picture(noise(), view), picture(noise(), replace(view, grey_after=None)))


@pytest.mark.parametrize("padding", ["zeros", "repeat"])
@pytest.mark.parametrize("order", ["oldest_first", "newest_first"])
def test_a_new_episode_starts_its_stack_afresh(order: str, padding: str) -> None:
    changes: dict[str, Any] = {"stack_order": order, "stack_padding": padding}
    game = AtariGame(with_view(with_emulator("foreign/breakout_grzego", frame_skip_max=None), **changes))
    game.reset(seed=0)
    for action in (1, 2, 2, 3):
        game.step(np.int64(action))
    observation, _ = game.reset(seed=0)
    newest, older = (
        (observation[-1], observation[:-1]) if order == "oldest_first" else (observation[0], observation[1:])
    )
    assert newest.any()
    want = np.zeros_like(newest) if padding == "zeros" else newest
    assert all(np.array_equal(frame, want) for frame in older)


# How the game is played


def skips(game: AtariGame, steps: int, seed: int) -> list[int]:
    """Emulator frames of each step, counted by the emulator."""
    game.reset(seed=seed)
    counts, before = [], game.ale.getEpisodeFrameNumber()
    for _ in range(steps):
        game.step(np.int64(0))
        counts.append(game.ale.getEpisodeFrameNumber() - before)
        before += counts[-1]
    return counts


def test_a_random_frame_skip_draws_2_3_and_4_alike_and_from_the_seed() -> None:
    game = AtariGame(as_recipe("foreign/pong_baby_a3c"))
    drawn = skips(game, 600, seed=1)
    assert set(drawn) == {2, 3, 4}
    assert all(150 < drawn.count(skip) < 250 for skip in (2, 3, 4))  # 200 +- 4 deviations of 12
    assert game.frames == sum(drawn)
    assert skips(game, 100, seed=1) == drawn[:100]
    assert skips(game, 100, seed=2) != drawn[:100]
    assert set(skips(AtariGame(with_emulator("pong", frame_skip=3)), 50, seed=1)) == {3}


def test_the_same_seed_gives_the_same_game_with_a_random_frame_skip() -> None:
    games = [AtariGame(as_recipe("foreign/breakout_baby_a3c")) for _ in range(2)]
    for game in games:
        game.reset(seed=5)
    for action in (1, 2, 3, 2, 0, 1, 2, 3) * 5:
        one, other = (game.step(np.int64(action)) for game in games)
        assert np.array_equal(one[0], other[0])
        assert one[1:] == other[1:]


@pytest.mark.parametrize("press", ["press", None])
def test_fire_after_a_life_serves_the_ball_again(press: str | None) -> None:
    """An agent that never presses FIRE itself: Breakout's ball is served once, or until all lives are lost."""
    recipe = with_emulator(STILL, fire_on_reset=True, fire_after_life=press)
    game = AtariGame(recipe)
    game.reset(seed=0)
    lives, over, frames = [5], False, []
    while not over and len(lives) < 400:
        before = game.frames
        *_, over, _, info = game.step(np.int64(0))
        lives.append(info["lives"])
        frames.append(game.frames - before)
    assert over == (press == "press")
    assert lives[-1] == (0 if press else 4)
    lost = [after < before for before, after in pairwise(lives)]
    longer = [count == 8 for count in frames]
    assert longer == [bool(press) and fell and left > 0 for fell, left in zip(lost, lives[1:], strict=True)]


def test_symbols_are_minigrids_picture_with_channels_first() -> None:
    pytest.importorskip("minigrid")
    recipe = as_recipe("minigrid/doorkey_5x5")
    env = make(recipe)
    plain = make(replace(recipe, observation=None))
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (3, 7, 7), np.float32)
    theirs: Any
    ours, _ = env.reset(seed=3)
    theirs, _ = plain.reset(seed=3)
    for action in (2, 1, 2, 3, 1, 2, 5):
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == np.float32
        assert env.observation_space.contains(ours)
        assert set(theirs) == {"image", "direction", "mission"}
        for row, column, channel in np.ndindex(7, 7, 3):
            assert ours[channel, row, column] == theirs["image"][row, column, channel]
        ours = env.step(action)[0]
        theirs = plain.step(action)[0]


# A teacher of single frames where a student sees several


@pytest.mark.parametrize("order", ["oldest_first", "newest_first"])
def test_a_stack_gives_a_teacher_of_single_frames_its_newest(order: str) -> None:
    single = with_view("foreign/breakout_baby_a3c", stack_order=order)
    stacked = with_view(single, stack=4)
    network = Network(encoder="conv", channels=(4,), kernels=(8,), strides=(8,), hidden=(8,))
    teacher = handmade.policy(single, "categorical", network)
    attached = attach(teacher, stacked, where="teacher")
    game = AtariGame(with_emulator(stacked, frame_skip_max=None))
    game.reset(seed=0)
    for action in (1, 2, 3):
        observation, *_ = game.step(np.int64(action))
    newest = observation[-1:] if order == "oldest_first" else observation[:1]
    assert not np.array_equal(observation[0], observation[-1])
    assert np.array_equal(attached.seen(observation), newest)
    assert np.array_equal(attached.seen(observation[None]), newest[None])
    want = teacher.answer(newest[None]).params["logits"]
    np.testing.assert_array_equal(attached.answer(observation[None]).params["logits"], want)
    assert np.array_equal(teacher.seen(newest[None]), newest[None])


def test_a_teacher_of_more_frames_than_there_are_is_refused() -> None:
    single, stacked = as_recipe("foreign/breakout_baby_a3c"), as_recipe("foreign/breakout_baby_a3c_stacked")
    network = Network(encoder="conv", channels=(4,), kernels=(8,), strides=(8,), hidden=(8,))
    teacher = handmade.policy(stacked, "categorical", network)
    with pytest.raises(MismatchError, match=r"reads observations of shape \[4, 80, 80\]"):
        attach(teacher, single, where="teacher")
    with pytest.raises(MismatchError, match="made for pictures with stretch = 'frame'"):
        attach(handmade.policy(single, "categorical", network), with_view(single, stretch=None), where="teacher")


# What recipes may say


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: with_emulator(STILL, frame_skip=4, frame_skip_max=3), "frame_skip_max must be at least frame_skip"),
        (lambda: with_view(STILL, grey="palette", grey_after="resize"), "grey_after = 'resize' needs colours"),
        (lambda: with_view(STILL, grey="mean", grey_after="resize", stretch="frame"), "goes with neither"),
        (lambda: with_view(STILL, crop=(195, 35)), "rows first < last within 0..210"),
        (lambda: replace(STILL, observation="symbols"), "observation = 'symbols' belongs to source = 'gymnasium'"),
        (lambda: make(replace(as_recipe("cartpole"), observation="symbols")), "'symbols' is of MiniGrid's games"),
        (lambda: Network(encoder="conv", channels=(4,), kernels=(3,), strides=(1,), pools=(0,)), "pools must be"),
        (lambda: Network(encoder="conv", channels=(4,), kernels=(3,), strides=(1,), paddings=(-1,)), "paddings must"),
        (
            lambda: Network(encoder="conv", channels=(4,), kernels=(3,), strides=(1,), pools=(2, 2)),
            "one entry for each",
        ),
        (lambda: Network(encoder="mlp", hidden=(4,), pools=(2,)), "belong to encoder = 'conv'"),
    ],
)
def test_impossible_choices_are_refused_with_their_reason(change: Callable[[], object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        change()


@pytest.mark.parametrize(
    "recipe",
    [
        with_emulator(STILL, frame_skip_max=5),
        with_emulator(STILL, fire_after_life="press"),
        with_view(STILL, stretch="frame"),
        with_view(STILL, grey="luminance_601", grey_after="resize"),
        with_view(STILL, resize="pil_bilinear"),
    ],
)
def test_no_new_choice_is_left_to_the_cpp_environment(recipe: Environment) -> None:
    assert cpp_can_play(STILL)
    assert not cpp_can_play(recipe)
