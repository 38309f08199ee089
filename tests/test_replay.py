"""Tests of `rlkd.replay`: what is read is exactly what was acted on, and nothing is reserved that does not fit."""

from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from rlkd.errors import MemoryBudgetError
from rlkd.recipe import Environment, View
from rlkd.replay import Replay, available_memory, replay_bytes
from rlkd.replay import memory as module
from rlkd.vector import Backend, Stepper, make_vec
from tests.handmade import environment

STATES, NUM_ENVS = 360, 3


def played(recipe: Environment, backend: Backend, states: int) -> tuple[Replay, list[list[np.ndarray]]]:
    """A replay filled by random play, and beside it each environment's whole observations as they came."""
    stepper = Stepper(make_vec(recipe, NUM_ENVS, seed=3, backend=backend))
    observation, first = stepper.reset(), np.ones(NUM_ENVS, bool)
    over = np.zeros(NUM_ENVS, bool)
    replay = Replay(NUM_ENVS, states, observation.shape[1:], 2, recipe.views.get("pixels"))
    kept: list[list[np.ndarray]] = [[] for _ in range(NUM_ENVS)]
    draws = np.random.default_rng(0)
    while len(replay) < states:
        envs = np.flatnonzero(~over)
        count = np.array([[env, len(kept[env])] for env in envs], np.int64).reshape(-1, 2)
        replay.append(envs, observation[envs], first[envs], torch.from_numpy(count))
        for env in envs:
            kept[env].append(observation[env].copy())
        step = stepper.step(draws.integers(2, size=NUM_ENVS))
        observation, first, over = step.observation, step.first, step.ended
    stepper.close()
    return replay, kept


def pong(**view: Any) -> Environment:
    """Pong in episodes of 25 steps, its picture changed."""
    short = environment("pong", frame_cap=100)
    return replace(short, views={"pixels": replace(short.views["pixels"], **view)})


SOURCES: dict[str, tuple[Environment, Backend]] = {
    "the C++ environment, zeros": (pong(), "ale"),
    "our own game, zeros": (pong(), "sync"),
    "repeat": (pong(stack_padding="repeat"), "sync"),
    "newest first": (pong(stack_order="newest_first"), "sync"),
    "newest first, repeat, three of 40 x 60": (
        pong(stack_order="newest_first", stack_padding="repeat", stack=3, height=40, width=60),
        "sync",
    ),
    "vectors": (environment("cartpole"), "sync"),
}


@pytest.mark.parametrize(("recipe", "backend"), SOURCES.values(), ids=SOURCES.keys())
def test_what_is_read_is_what_was_acted_on_and_environments_do_not_mix(recipe: Environment, backend: Backend) -> None:
    replay, kept = played(recipe, backend, STATES)
    capacity = STATES // NUM_ENVS
    assert replay.filled.tolist() == [capacity] * NUM_ENVS  # and no row took what came after that
    rows = replay.rows()
    assert len(rows) == len(set(rows.tolist())) == STATES
    want = np.stack([state for states in kept for state in states[:capacity]])
    observation, answers = replay.read(rows)
    assert observation.dtype == (torch.uint8 if recipe.views else torch.float32)
    assert np.array_equal(observation.numpy(), want)
    assert np.array_equal(answers.numpy(), [[env, count] for env in range(NUM_ENVS) for count in range(capacity)])
    order = np.random.default_rng(1).integers(STATES, size=500)  # in any order, some of them twice
    assert np.array_equal(replay.read(rows[order])[0].numpy(), want[order])


def test_the_games_of_these_tests_begin_anew_several_times() -> None:
    _, kept = played(pong(), "ale", STATES)
    for states in kept:
        assert sum(not state[:-1].any() for state in states) >= 4


def test_only_the_asked_for_rows_of_each_environment_are_listed() -> None:
    replay, kept = played(environment("cartpole"), "sync", STATES)
    rows = replay.rows(np.array([2, 0, 5]))
    assert np.array_equal(replay.read(rows)[0].numpy(), np.stack(kept[0][:2] + kept[2][:5]))


@dataclass
class Slow:
    """Keeps every stack whole, one list an environment."""

    view: View
    capacity: int
    stacks: list[list[np.ndarray]]
    frames: list[deque[np.ndarray]]

    def append(self, env: int, frame: np.ndarray, first: bool) -> np.ndarray:
        """The stack that an environment would show; kept while there is room."""
        recent = self.frames[env]
        if first:
            recent.clear()
            blank = frame if self.view.stack_padding == "repeat" else np.zeros_like(frame)
            recent.extend([blank] * (self.view.stack - 1))
        recent.append(frame)
        stack = np.stack(recent if self.view.stack_order == "oldest_first" else list(recent)[::-1])
        if len(self.stacks[env]) < self.capacity:
            self.stacks[env].append(stack)
        return stack


@given(
    data=st.data(),
    num_envs=st.integers(1, 4),
    states=st.integers(1, 24),
    stack=st.integers(1, 5),
    order=st.sampled_from(["oldest_first", "newest_first"]),
    padding=st.sampled_from(["zeros", "repeat"]),
)
def test_any_layout_of_episodes_reads_like_whole_stacks(
    data: st.DataObject,
    num_envs: int,
    states: int,
    stack: int,
    order: Literal["oldest_first", "newest_first"],
    padding: Literal["zeros", "repeat"],
) -> None:
    shipped = environment("pong").views["pixels"]
    view = replace(shipped, height=2, width=3, stack=stack, stack_order=order, stack_padding=padding)
    replay = Replay(num_envs, states, (stack, 2, 3), 1, view)
    newest = [deque[np.ndarray](maxlen=stack) for _ in range(num_envs)]
    slow = Slow(view, -(-states // num_envs), [[] for _ in range(num_envs)], newest)
    answers: list[list[int]] = [[] for _ in range(num_envs)]
    for move in range(data.draw(st.integers(1, 30))):
        acting = data.draw(st.lists(st.integers(0, num_envs - 1), unique=True, min_size=1))
        first = [not newest[env] or data.draw(st.booleans()) for env in acting]
        frames = [np.full((2, 3), 1 + (7 * move + env) % 255, np.uint8) for env in acting]
        stacks = [slow.append(env, frame, begins) for env, frame, begins in zip(acting, frames, first, strict=True)]
        for env in acting:
            answers[env].append(move)
        replay.append(np.array(acting), np.stack(stacks), np.array(first), torch.full((len(acting), 1), move))
    counts = [len(stacks) for stacks in slow.stacks]
    assert replay.filled.tolist() == counts
    assert len(replay) == sum(counts)
    observation, answer = replay.read(replay.rows())
    assert np.array_equal(observation.numpy(), np.stack([each for stacks in slow.stacks for each in stacks]))
    want = [move for moves, count in zip(answers, counts, strict=True) for move in moves[:count]]
    assert answer.squeeze(1).tolist() == want


@given(
    stack=st.sampled_from([None, 1, 3]),
    lengths=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_parts_that_are_added_one_by_one_make_the_same_replay(
    stack: int | None, lengths: list[list[int]], seed: int
) -> None:
    """Rounds of so many states of each environment, longer ones than there is room for among them."""
    draws = np.random.default_rng(seed)
    view = None if stack is None else replace(pong().views["pixels"], stack=stack, height=2, width=3)
    shape = (2,) if stack is None else (stack, 2, 3)
    whole, other = (Replay(3, 30, shape, 2, view, keeps_actions=True, keeps_rewards=True) for _ in range(2))
    for counts in lengths:
        before = whole.filled
        for step in range(max(counts)):
            envs = np.flatnonzero(np.array(counts) > step)
            observation = draws.integers(256, size=(len(envs), *shape)).astype(np.float32 if view is None else np.uint8)
            said = torch.from_numpy(draws.normal(size=(len(envs), 2)))
            first, action = draws.random(len(envs)) < 0.3, draws.integers(3, size=len(envs))
            whole.append(envs, observation, first, said, action, draws.normal(size=len(envs)))
        part = whole.since(before)
        assert part["counts"].sum() == len(part["frames"]) == (whole.filled - before).sum()
        other.add(part)
        assert (other.written == whole.written).all()
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name


def test_a_part_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    replay, _ = played(environment("cartpole"), "sync", STATES)
    part = replay.since(np.array([100, 110, 120]))
    empty = Replay(NUM_ENVS, STATES, (4,), 2, None)
    others = [
        part | {"counts": part["counts"] + 1},
        part | {"counts": part["counts"][:2]},
        part | {"frames": part["frames"][:, :3]},
        part | {"answers": part["answers"].double()},
        {name: each for name, each in part.items() if name != "age"},
        part | {"actions": part["age"]},
    ]
    for other in others:
        with pytest.raises(ValueError, match="of another"):
            empty.add(other)
    with pytest.raises(ValueError, match="of a replay of another shape"):
        replay.add(part)  # it is full
    assert len(empty) == 0
    assert not empty.tensors()["frames"].any()


def test_what_was_read_is_a_copy() -> None:
    replay, _ = played(pong(), "ale", STATES)
    rows = replay.rows()[:4]
    before = replay.read(rows)[0].clone()
    replay.read(rows)[0].fill_(9)
    assert torch.equal(replay.read(rows)[0], before)


@pytest.mark.parametrize(
    ("num_envs", "states", "shape"),
    [(32, 3200, (4, 84, 84)), (32, 64, (4, 84, 84)), (2, 1001, (4, 84, 84)), (16, 64_000, (8,))],
)
def test_the_memory_that_is_reserved_is_the_memory_that_was_predicted(
    num_envs: int, states: int, shape: tuple[int, ...]
) -> None:
    view = environment("pong").views["pixels"] if len(shape) == 3 else None
    replay = Replay(num_envs, states, shape, 6, view)
    real = replay._frames.nbytes + replay._answers.nbytes + replay._age.nbytes
    assert replay_bytes(num_envs, states, shape, 6, view) == pytest.approx(real, rel=0.01)


def test_a_replay_that_cannot_fit_is_refused_before_anything_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    view = environment("pong").views["pixels"]
    needed = replay_bytes(32, 60_000, (4, 84, 84), 6, view)
    monkeypatch.setattr(module, "available_memory", lambda: int(needed / 0.8) - 1000)
    monkeypatch.setattr(torch, "zeros", pytest.fail)
    message = r"needs 0\.4 GB, 0\.5 GB are free and 80% of that may be taken; lower source\.states"
    with pytest.raises(MemoryBudgetError, match=message):
        Replay(32, 60_000, (4, 84, 84), 6, view)


def test_a_replay_that_just_fits_is_made_and_so_is_one_where_the_system_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = replay_bytes(2, 100, (4,), 2, None)
    for free in (int(needed / 0.8) + 1, None):
        monkeypatch.setattr(module, "available_memory", lambda free=free: free)
        assert Replay(2, 100, (4,), 2, None).capacity == 50


def test_free_memory_is_some_and_no_more_than_the_machine_has() -> None:
    free = available_memory()
    assert free is not None
    assert 2**20 < free < 2**50
