"""Tests of `rlkd.replay` for value learning: what is drawn is what a list of whole episodes holds."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from rlkd.errors import MemoryBudgetError, RecipeError
from rlkd.recipe import View
from rlkd.replay import Batch, Priorities, SumTree, Transitions
from rlkd.replay import memory as module
from tests import reference
from tests.handmade import environment
from tests.reference import Moved


@dataclass
class Tape:
    """One environment's whole history, as a list of episodes: what a ring forgets, this keeps."""

    episodes: list[list[Moved]] = field(default_factory=list)
    finals: list[int | None] = field(default_factory=list)
    """Name of each episode's final observation; None while it runs."""
    places: list[tuple[int, int] | None] = field(default_factory=list)
    """Of each appended state, from the first: episode and step; None for a final observation."""


def frame(name: int) -> np.ndarray:
    """A picture that no other name has, and that is not black."""
    return np.array([[1 + name % 250, 1 + name // 250]], np.uint8)


def stacked(names: list[int], view: View) -> np.ndarray:
    """The observation at the end of so many frames since the episode began."""
    frames = [frame(name) for name in names[-view.stack :]]
    blank = frames[0] if view.stack_padding == "repeat" else np.zeros_like(frames[0])
    frames = [blank] * (view.stack - len(frames)) + frames
    return np.stack(frames if view.stack_order == "oldest_first" else frames[::-1])


def observation_of(tape: Tape, episode: int, step: int, view: View | None) -> np.ndarray:
    """Of one step, or of the final one: from the list of episodes alone."""
    names = [move.name for move in tape.episodes[episode]]
    if tape.finals[episode] is not None:
        names.append(tape.finals[episode] or 0)
    if view is None:
        return np.array([names[step], -names[step]], np.float32)
    return stacked(names[: step % len(names) + 1], view)


def played(
    data: st.DataObject, memory: Transitions, num_envs: int, moves: int, view: View | None
) -> Iterator[list[Tape]]:
    """Append so many steps of invented play; the tapes after each."""
    tapes = [Tape() for _ in range(num_envs)]
    names = iter(range(1, 60_000))
    resets = [False] * num_envs  # the step to come only resets
    starts = [True] * num_envs
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for _ in range(moves):
        records: list[tuple[Any, ...]] = []
        for env, tape in enumerate(tapes):
            name, first = next(names), starts[env]
            if resets[env]:
                tape.finals[-1] = name
                tape.places.append(None)
                # What a step that only resets brings must not matter.
                records.append((env, observation_of(tape, -1, -1, view), False, 7, 99.0, False, False))
                resets[env], starts[env] = False, True
                continue
            if first:
                tape.episodes.append([])
                tape.finals.append(None)
            kind = rng.choice(["runs", "terminated", "truncated", "life lost"], p=[0.7, 0.1, 0.1, 0.1])
            move = Moved(name, int(rng.integers(5)), float(rng.integers(-3, 4)), kind in ("terminated", "life lost"))
            tape.episodes[-1].append(move)
            tape.places.append((len(tape.episodes) - 1, len(tape.episodes[-1]) - 1))
            seen = observation_of(tape, -1, -1, view)
            records.append((env, seen, first, move.action, move.reward, move.terminated, True))
            resets[env], starts[env] = kind in ("terminated", "truncated"), False
        for half in (records[: num_envs // 2], records[num_envs // 2 :]):
            if half:
                columns = [np.array(column) for column in zip(*half, strict=True)]
                memory.append(*columns)
        yield tapes


def check(memory: Transitions, tapes: list[Tape], view: View | None, capacity: int) -> set[tuple[int, int]]:
    """All that can be drawn is right; which states (environment, count) that is."""
    stack, n_step = memory.states.stack, memory.n_step
    rows = memory.drawable()
    batch = memory.read(rows, np.full(len(rows), 1.0))
    where = {
        int(memory.states.address(np.array(env), np.array(count))): (env, count)
        for env, tape in enumerate(tapes)
        for count in range(max(0, len(tape.places) - capacity), len(tape.places))
    }
    drawn = {where[row] for row in rows.tolist()}
    want = {
        (env, count)
        for env, tape in enumerate(tapes)
        for count, place in enumerate(tape.places)
        if place is not None and count + n_step < len(tape.places) and count >= len(tape.places) - capacity + stack - 1
    }
    assert drawn == want
    for k, row in enumerate(rows.tolist()):
        env, count = where[row]
        place = tapes[env].places[count]
        assert place is not None
        episode, step = place
        moves = tapes[env].episodes[episode]
        total, factor, later = reference.n_step_target(moves, step, n_step, memory.discount)
        assert batch.action[k] == moves[step].action
        assert batch.reward[k].item() == pytest.approx(total, abs=1e-4)
        assert batch.discount[k].item() == pytest.approx(factor, abs=1e-6)
        assert np.array_equal(batch.observation[k].numpy(), observation_of(tapes[env], episode, step, view))
        if later is not None:
            following = observation_of(tapes[env], episode, step + later, view)
            assert np.array_equal(batch.following[k].numpy(), following)
    return drawn


def small_view(stack: int, **changes: Any) -> View | None:
    """Of pictures as `frame` makes them; None for a stack of 0."""
    shipped = environment("pong").views["pixels"]
    return replace(shipped, height=1, width=2, stack=stack, **changes) if stack else None


def ring(num_envs: int, capacity: int, view: View | None, *, n_step: int, alpha: float | None) -> Transitions:
    """A memory of so many states of each environment, of pictures or of two numbers."""
    shape = (view.stack, 1, 2) if view else (2,)
    return Transitions(num_envs, num_envs * capacity, shape, view, n_step=n_step, discount=0.9, alpha=alpha)


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    num_envs=st.integers(1, 3),
    n_step=st.integers(1, 4),
    stack=st.integers(0, 4),
    spare=st.integers(0, 9),
    order=st.sampled_from(["oldest_first", "newest_first"]),
    padding=st.sampled_from(["zeros", "repeat"]),
    prioritised=st.booleans(),
)
def test_what_is_drawn_from_a_ring_is_what_whole_episodes_hold(
    data: st.DataObject,
    num_envs: int,
    n_step: int,
    stack: int,
    spare: int,
    order: Literal["oldest_first", "newest_first"],
    padding: Literal["zeros", "repeat"],
    prioritised: bool,
) -> None:
    view = small_view(stack, stack_order=order, stack_padding=padding)
    capacity = max(stack, 1) + n_step + spare
    memory = ring(num_envs, capacity, view, n_step=n_step, alpha=0.5 if prioritised else None)
    moves = data.draw(st.integers(1, 3 * capacity))
    for count, tapes in enumerate(played(data, memory, num_envs, moves, view)):
        if count % 5 and count + 1 < moves:
            continue
        drawn = check(memory, tapes, view, capacity)
        if drawn:
            rows = memory.draw(64, np.random.default_rng(count)).rows
            assert set(rows.tolist()) <= set(memory.drawable().tolist())
    assert len(memory) == num_envs * min(moves, capacity)


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    num_envs=st.integers(1, 3),
    stack=st.integers(0, 3),
    spare=st.integers(0, 6),
    chunk=st.integers(1, 30),
)
def test_each_step_is_told_once_when_what_it_led_to_is_there(
    data: st.DataObject, num_envs: int, stack: int, spare: int, chunk: int
) -> None:
    view = small_view(stack, stack_padding="repeat")
    capacity = max(stack, 1) + 1 + spare
    memory = ring(num_envs, capacity, view, n_step=1, alpha=None)
    moves, since = data.draw(st.integers(1, 4 * capacity)), 0
    for count, tapes in enumerate(played(data, memory, num_envs, moves, view), start=1):
        if count % chunk and count < moves:
            continue
        rows = memory.arrivals(count - since)
        oldest = max(0, count - capacity + max(stack, 1) - 1)  # of those before, frames are gone
        steps = range(max(since - 1, 0, oldest), count - 1)
        assert rows.shape == (len(steps), num_envs)
        since = count
        if not rows.size:
            continue
        action, valid = (each.flatten() for each in memory.moves(rows))
        before, arrived = (memory.observation(memory.states.after(rows.ravel(), np.array([k]))) for k in (0, 1))
        for k, (step, env) in enumerate((step, env) for step in steps for env in range(num_envs)):
            place = tapes[env].places[step]
            assert bool(valid[k]) == (place is not None)
            if place is not None:
                episode, at = place
                assert np.array_equal(before[k].numpy(), observation_of(tapes[env], episode, at, view))
                assert np.array_equal(arrived[k].numpy(), observation_of(tapes[env], episode, at + 1, view))
                assert int(action[k]) == tapes[env].episodes[episode][at].action


def filled(count: int, *, alpha: float | None, terminated: bool = False) -> Transitions:
    """One environment, one endless episode of vectors 0, 1, 2, ..."""
    memory = Transitions(1, 40, (1,), None, n_step=1, discount=0.9, alpha=alpha)
    one, yes = np.zeros(1, int), np.ones(1, bool)
    for k in range(count):
        ends = yes if terminated else ~yes
        memory.append(one, np.full((1, 1), k, np.float32), yes if k == 0 else ~yes, one, np.ones(1), ends, yes)
    return memory


def names(batch: Batch) -> Counter[int]:
    return Counter(int(value) for value in batch.observation[:, 0])


def test_without_priorities_all_are_drawn_alike_and_the_same_seed_draws_the_same() -> None:
    memory = filled(95, alpha=None)
    counts = names(memory.draw(39_000, np.random.default_rng(0)))
    assert sorted(counts) == list(range(55, 94))
    assert max(abs(count - 1000) for count in counts.values()) < 150  # five standard deviations
    first, again = (memory.draw(50, np.random.default_rng(3)).rows for _ in range(2))
    assert np.array_equal(first, again)


def test_priorities_draw_in_proportion_to_the_errors_power_and_say_with_what_chance() -> None:
    memory = filled(11, alpha=0.5)
    batch = memory.draw(10, np.random.default_rng(0))
    assert names(batch) == Counter(range(10))  # one from each of ten equal parts
    assert batch.probability.tolist() == pytest.approx([0.1] * 10)
    rows = memory.drawable()
    errors = np.arange(10.0)
    memory.update(rows, torch.from_numpy(errors))
    want = np.sqrt(errors + 1e-6) / np.sqrt(errors + 1e-6).sum()
    batch = memory.draw(20_000, np.random.default_rng(1))
    counts = names(batch)
    assert [counts[k] / 20_000 for k in range(10)] == pytest.approx(want.tolist(), abs=1e-3)
    by_name = {
        int(name): chance.item() for name, chance in zip(batch.observation[:, 0], batch.probability, strict=True)
    }
    assert by_name == pytest.approx({k: want[k] for k in by_name})


def test_a_new_transition_has_the_largest_priority_so_far() -> None:
    memory = filled(11, alpha=1.0)
    memory.update(memory.drawable(), torch.linspace(0, 3, 10))
    one, no = np.zeros(1, int), np.zeros(1, bool)
    memory.append(one, np.full((1, 1), 99, np.float32), no, one, np.ones(1), no, ~no)
    batch = memory.draw(4_000, np.random.default_rng(0))
    newest, most = (batch.probability[batch.observation[:, 0] == name] for name in (10, 9))
    assert len(newest) > 0
    assert newest[0] == pytest.approx(most[0].item())
    assert not (batch.observation == 99).any()  # nobody knows yet what follows it


@settings(deadline=None)
@given(st.data(), st.integers(1, 40))
def test_a_sum_tree_finds_what_a_running_sum_finds(data: st.DataObject, size: int) -> None:
    tree, slow = SumTree(size), np.zeros(size)
    value = st.sampled_from([0.0, 1e-6, 0.5, 1.0, 7.0])
    for _ in range(data.draw(st.integers(1, 5))):
        rows = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8)))
        values = np.array(data.draw(st.lists(value, min_size=len(rows), max_size=len(rows))))
        tree.set(rows, values)
        for row, each in zip(rows, values, strict=True):
            slow[row] = each
    assert tree.total == pytest.approx(slow.sum())
    assert np.array_equal(tree[np.arange(size)], slow)
    if slow.sum() > 0:
        edges = np.concatenate([[0.0], slow.cumsum()])
        middles = (edges[1:] + edges[:-1])[slow > 0] / 2
        assert tree.find(middles).tolist() == np.flatnonzero(slow > 0).tolist()
        # On an edge rounding decides, also for all of it, but never for a row of value 0.
        assert (slow[tree.find(edges)] > 0).all()


def test_rows_that_left_are_never_drawn_whatever_was_their_priority() -> None:
    priorities = Priorities(8, alpha=1.0)
    priorities.replace(np.array([], int), np.arange(4))
    priorities.update(np.arange(4), np.array([1e9, 1.0, 1.0, 1.0]))
    priorities.replace(np.array([0]), np.array([], int))
    rows, chance = priorities.draw(300, np.random.default_rng(0))
    assert set(rows.tolist()) == {1, 2, 3}
    assert chance == pytest.approx(np.full(300, 1 / 3))


def test_nothing_is_drawn_before_a_transition_is_whole() -> None:
    with pytest.raises(ValueError, match="no transition is whole yet"):
        filled(1, alpha=None).draw(1, np.random.default_rng(0))


def test_a_memory_too_small_for_a_transition_is_refused() -> None:
    view = environment("pong").views["pixels"]
    with pytest.raises(
        RecipeError, match=r"states = 96 leaves each of 16 environments 6, but a stack of 4 and 3 steps"
    ):
        Transitions(16, 96, (4, 84, 84), view, n_step=3, discount=0.99, alpha=None)


def test_a_memory_that_cannot_fit_is_refused_before_anything_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 10**9)
    monkeypatch.setattr(torch, "zeros", pytest.fail)
    with pytest.raises(MemoryBudgetError, match=r"needs 7\.1 GB, 1\.0 GB are free .*; lower states"):
        Transitions(32, 10**6, (4, 84, 84), environment("pong").views["pixels"], n_step=3, discount=0.99, alpha=None)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_the_memory_of_transitions_that_is_reserved_is_no_more_than_was_predicted(
    alpha: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("rlkd.replay.transitions.check_memory", lambda needed, recipe_key, device: asked.append(needed))
    memory = Transitions(8, 4000, (4, 84, 84), environment("pong").views["pixels"], n_step=3, discount=0.9, alpha=alpha)
    states = memory.states
    real = states._frames.nbytes + states._age.nbytes + memory._action.nbytes + memory._reward.nbytes
    real += memory._terminated.nbytes + memory._valid.nbytes + memory.bonus.nbytes
    if memory.priorities is not None:
        real += memory.priorities._tree._sums.nbytes
    assert real <= asked[0] <= 1.01 * real
