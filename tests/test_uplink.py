"""Tests of `rlkd.learn.uplink`: a stack kept on the device from newest frames is the one that the environment gave."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch

from rlkd.learn.uplink import Uplink
from rlkd.vector import Stepper, as_recipe, make_vec


@pytest.mark.parametrize("order", ["oldest_first", "newest_first"])
@pytest.mark.parametrize("padding", ["zeros", "repeat"])
def test_stacks_made_of_newest_frames_are_those_of_the_environment(
    order: Literal["oldest_first", "newest_first"], padding: Literal["zeros", "repeat"]
) -> None:
    shipped = as_recipe("pong")
    view = dataclasses.replace(shipped.views["pixels"], stack_order=order, stack_padding=padding)
    recipe = dataclasses.replace(shipped, views={"pixels": view}, frame_cap=60)
    stepper = Stepper(make_vec(recipe, 3, seed=0, backend="sync"))
    uplink = Uplink(view, stepper.reset(), torch.device("cpu"))
    draws, begun = np.random.default_rng(0), 0
    for _ in range(50):
        before = uplink.seen.data_ptr()
        step = stepper.step(draws.integers(6, size=3))
        uplink.bring(step.observation, step.first)
        np.testing.assert_array_equal(uplink.seen.numpy(), step.observation)
        assert uplink.seen.data_ptr() == before
        begun += int(step.first.sum())
    stepper.close()
    assert begun >= 6


def test_vectors_go_up_whole() -> None:
    first = np.zeros((2, 4), np.float32)
    uplink = Uplink(None, first, torch.device("cpu"))
    uplink.bring(np.ones((2, 4), np.float32), np.array([True, False]))
    assert uplink.seen.tolist() == [[1.0] * 4] * 2
    assert not first.any()
