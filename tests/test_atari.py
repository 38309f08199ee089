"""Tests of `rlkd.vector.atari`: each preprocessing choice does what its name says, and is never silently ignored."""

import dataclasses
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from rlkd.recipe import Environment
from rlkd.vector import WorkerVectorEnv, as_recipe, make_vec
from rlkd.vector.atari import AtariGame, cpp_can_play


def with_view(recipe: Environment | str, **changes: Any) -> Environment:
    recipe = as_recipe(recipe)
    return dataclasses.replace(recipe, views={"pixels": dataclasses.replace(recipe.views["pixels"], **changes)})


def with_emulator(recipe: Environment | str, **changes: Any) -> Environment:
    recipe = as_recipe(recipe)
    assert recipe.emulator is not None
    return dataclasses.replace(recipe, emulator=dataclasses.replace(recipe.emulator, **changes))


STILL = with_emulator("breakout", sticky_probability=0.0, noop_max=0)
"""Breakout without chance."""


def first_frame(**view: Any) -> np.ndarray:
    """The newest picture after a reset, [height, width]."""
    game = AtariGame(with_view(STILL, **view))
    observation, _ = game.reset(seed=0)
    picture: np.ndarray = observation[-1]
    return picture


def colours() -> np.ndarray:
    """The screen of that moment, [210, 160, 3]."""
    game = AtariGame(STILL)
    game.reset(seed=0)
    return game.render()


def within(got: np.ndarray, want: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(got.astype(float) - want).max() <= tolerance)


# Full-size views, so that resizing does nothing and each grey can be checked pixel by pixel.
FULL: dict[str, Any] = {"height": 210, "width": 160}


def test_luminance_is_the_weighted_sum_of_the_screens_colours() -> None:
    red, green, blue = np.moveaxis(colours().astype(float), -1, 0)
    want = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert within(first_frame(grey="luminance", **FULL), np.floor(want), 1)


def test_mean_is_the_plain_mean_of_the_screens_colours() -> None:
    assert within(first_frame(grey="mean", **FULL), np.floor(colours().astype(float).mean(-1)), 1)


def test_the_three_greys_differ() -> None:
    pictures = {first_frame(grey=grey, **FULL).tobytes() for grey in ("palette", "luminance", "mean")}
    assert len(pictures) == 3


@pytest.mark.parametrize(("resize", "flag"), [("area", cv2.INTER_AREA), ("bilinear", cv2.INTER_LINEAR)])
def test_resize_is_opencvs(resize: str, flag: int) -> None:
    full = first_frame(**FULL)
    assert np.array_equal(first_frame(resize=resize), cv2.resize(full, (84, 84), interpolation=flag))


def test_area_is_the_mean_of_the_covered_pixels_and_bilinear_is_not() -> None:
    full = first_frame(**FULL).astype(float)
    want = full.reshape(105, 2, 80, 2).mean((1, 3))
    assert within(first_frame(resize="area", height=105, width=80), want, 0.51)
    sizes: dict[str, Any] = {"height": 42, "width": 32}
    covered = full.reshape(42, 5, 32, 5).mean((1, 3))
    assert within(first_frame(resize="area", **sizes), covered, 0.51)
    assert not within(first_frame(resize="bilinear", **sizes), covered, 5)


def test_crop_keeps_its_rows_before_the_picture_is_resized() -> None:
    full = first_frame(**FULL)
    want = cv2.resize(full[34:194], (84, 84), interpolation=cv2.INTER_AREA)
    assert np.array_equal(first_frame(crop=(34, 194)), want)


@pytest.mark.parametrize("padding", ["zeros", "repeat"])
@pytest.mark.parametrize("order", ["oldest_first", "newest_first"])
def test_the_stack_is_ordered_and_padded_as_asked(order: str, padding: str) -> None:
    game = AtariGame(with_view(STILL, stack_order=order, stack_padding=padding, stack=3))
    oldest_first = slice(None) if order == "oldest_first" else slice(None, None, -1)
    frames = [np.zeros((84, 84), np.uint8)] * 2
    observation, _ = game.reset(seed=0)
    first = observation[oldest_first][-1]
    frames = [first] * 2 if padding == "repeat" else frames
    frames.append(first)
    for _ in range(4):
        assert np.array_equal(observation[oldest_first], np.stack(frames[-3:]))
        observation, *_ = game.step(np.int64(2))
        frames.append(observation[oldest_first][-1])
    assert not np.array_equal(frames[-1], frames[-2])  # something moves, or order could not be seen


def test_the_maximum_over_two_frames_holds_what_either_frame_shows() -> None:
    """Breakout's ball at its two last places: brighter somewhere than in either frame alone, darker nowhere."""
    games = {frames: AtariGame(with_view(STILL, max_over_last=frames, **FULL)) for frames in (1, 2)}
    one_frame = AtariGame(with_emulator(with_view(STILL, max_over_last=1, **FULL), frame_skip=1))
    for game in (*games.values(), one_frame):
        game.reset(seed=0)
    differs = 0
    for _ in range(20):
        last, pooled = (games[frames].step(np.int64(1))[0][-1] for frames in (1, 2))
        third, fourth = [one_frame.step(np.int64(1))[0][-1] for _ in range(4)][-2:]
        assert np.array_equal(last, fourth)
        assert np.array_equal(pooled, np.maximum(third, fourth))
        differs += not np.array_equal(pooled, last)
    assert differs > 0


OTHER_VIEWS: list[dict[str, Any]] = [
    {"grey": "luminance"},
    {"grey": "mean"},
    {"resize": "bilinear"},
    {"crop": (34, 194)},
    {"stack_order": "newest_first"},
    {"stack_padding": "repeat"},
]


@pytest.mark.parametrize("view", OTHER_VIEWS, ids=lambda view: next(iter(view)) + " " + str(next(iter(view.values()))))
def test_what_the_cpp_environment_cannot_show_is_left_to_our_own(view: dict[str, Any]) -> None:
    assert cpp_can_play(STILL)
    assert not cpp_can_play(with_view(STILL, **view))
    with pytest.raises(ValueError, match=r"C\+\+ environment cannot express the recipe of breakout"):
        make_vec(with_view(STILL, **view), 1, seed=0, backend="ale")


def test_the_right_environment_is_picked_by_itself() -> None:
    for recipe, kind in ((STILL, AtariVectorEnv), (with_view(STILL, grey="mean"), WorkerVectorEnv)):
        env = make_vec(recipe, 1, seed=0)
        assert type(env) is kind
        env.close()


@pytest.mark.parametrize("view", [{"stack": 2}, {"max_over_last": 1}, {"height": 42, "width": 64}, FULL])
def test_both_show_the_same_in_what_both_can_show(view: dict[str, Any]) -> None:
    recipe = with_view(STILL, **view)
    game, env = AtariGame(recipe), make_vec(recipe, 1, seed=3, backend="ale")
    theirs, _ = env.reset(seed=3)
    ours, _ = game.reset(seed=3)
    for action in (1, 2, 3, 1, 2, 3):
        assert np.array_equal(ours, theirs[0])
        ours, *_ = game.step(np.int64(action))
        theirs, *_ = env.step(np.array([action]))
    env.close()


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_both_repeat_an_action_as_often(skip: int) -> None:
    recipe = with_emulator(STILL, frame_skip=skip)
    game, env = AtariGame(recipe), make_vec(recipe, 1, seed=3, backend="ale")
    theirs, _ = env.reset(seed=3)
    ours, _ = game.reset(seed=3)
    for action in (1, 2, 3, 1, 2, 3) * 3:
        assert np.array_equal(ours, theirs[0])
        ours, *_ = game.step(np.int64(action))
        theirs, *_ = env.step(np.array([action]))
    assert game.frames == 18 * skip
    env.close()


def test_the_full_action_set_has_all_18_actions_and_the_minimal_one_the_games_own() -> None:
    full = with_emulator(STILL, action_set="full")
    for recipe, size in ((full, 18), (STILL, 4)):
        env = make_vec(recipe, 1, seed=0)
        assert env.single_action_space == gymnasium.spaces.Discrete(size)
        assert AtariGame(recipe).action_space == gymnasium.spaces.Discrete(size)
        env.close()


def test_fire_is_pressed_after_a_reset_only_if_asked() -> None:
    """Without it Breakout's ball never appears, whatever else is pressed."""
    moved = {}
    for fire in (True, False):
        game = AtariGame(with_emulator(STILL, fire_on_reset=fire))
        game.reset(seed=0)
        pictures = {game.step(np.int64(0))[0][-1].tobytes() for _ in range(30)}
        moved[fire] = len(pictures)
    assert moved[True] > 10
    assert moved[False] <= 2


def test_no_ops_are_drawn_from_the_seed_and_stay_below_their_maximum() -> None:
    game = AtariGame(with_emulator("pong", sticky_probability=0.0, noop_max=5))
    counts = []
    for seed in range(20):
        game.reset(seed=seed)
        counts.append(game.ale.getEpisodeFrameNumber())
    assert set(counts) == {1, 2, 3, 4}  # FIRE counts as the first: 0 no-ops and 1 are the same
    game.reset(seed=7)
    assert game.ale.getEpisodeFrameNumber() == counts[7]


def test_the_room_is_the_byte_of_the_consoles_memory_that_the_recipe_names() -> None:
    game = AtariGame(as_recipe("montezuma"))
    _, info = game.reset(seed=0)
    assert info["room"] == 1  # where every game begins
    other = AtariGame(with_emulator("montezuma", room_address=42))
    other.reset(seed=0)
    found = set()
    for action in np.random.default_rng(0).integers(18, size=60):
        info = other.step(action)[-1]
        assert info["room"] == other.ale.getRAM()[42]
        found.add(info["room"])
    assert len(found) > 1  # a place of the player's
    assert "room" not in AtariGame(STILL).reset(seed=0)[1]
    assert not cpp_can_play(as_recipe("montezuma"))
