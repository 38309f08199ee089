"""Tests of `rlkd.vector`: every source gives the same transitions under one convention for resets."""

import dataclasses
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rlkd.recipe import Environment
from rlkd.vector import Backend, Stepper, as_recipe, make, make_vec

MOVES = 400


@dataclass(frozen=True)
class Transition:
    """One step of one row that was really played."""

    observation: np.ndarray
    action: Any
    reward: float
    terminated: bool
    truncated: bool
    life_lost: bool
    arrived: np.ndarray


def play(env: VectorEnv[Any, Any, Any], moves: int) -> list[list[Transition]]:
    """Per row, its first `moves` valid transitions; a row's n-th played action is the same whatever the source."""
    stepper = Stepper(env)
    observation = stepper.reset()
    actions = [scripted(env, row, moves) for row in range(env.num_envs)]
    played: list[list[Transition]] = [[] for _ in actions]
    while min(len(row) for row in played) < moves:
        chosen = np.array([mine[min(len(row), moves - 1)] for mine, row in zip(actions, played, strict=True)])
        step = stepper.step(chosen)
        for row in np.flatnonzero(step.valid):
            transition = Transition(
                observation=observation[row],
                action=chosen[row],
                reward=float(step.reward[row]),
                terminated=bool(step.terminated[row]),
                truncated=bool(step.truncated[row]),
                life_lost=bool(step.life_lost[row]),
                arrived=step.arrived[row],
            )
            played[row].append(transition)
        observation = step.observation
    stepper.close()
    return [row[:moves] for row in played]


def scripted(env: VectorEnv[Any, Any, Any], row: int, moves: int) -> np.ndarray:
    """[moves] random actions, or [moves, D]."""
    space, draws = env.single_action_space, np.random.default_rng(row)
    if isinstance(space, gymnasium.spaces.Discrete):
        return draws.integers(int(space.n), size=moves)
    assert isinstance(space, gymnasium.spaces.Box)
    return draws.uniform(space.low, space.high, (moves, *space.shape)).astype(np.float32)


def assert_same(got: list[list[Transition]], want: list[list[Transition]]) -> None:
    """Same rows of same transitions, down to the last bit."""
    for row, (mine, theirs) in enumerate(zip(got, want, strict=True)):
        for n, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            for field in dataclasses.fields(Transition):
                left, right = getattr(one, field.name), getattr(other, field.name)
                assert np.array_equal(left, right), f"row {row}, move {n}: {field.name}"


def atari(game: str, *, sticky: float = 0.0, noop_max: int = 0, frame_cap: int = 108_000) -> Environment:
    shipped = as_recipe(game)
    assert shipped.emulator is not None
    emulator = dataclasses.replace(shipped.emulator, sticky_probability=sticky, noop_max=noop_max)
    return dataclasses.replace(shipped, emulator=emulator, frame_cap=frame_cap)


# A Breakout game of random moves ends after about 200 steps: 5 lives, some games end, some are cut at 760 frames.
GAMES = {
    "plain": atari("breakout", frame_cap=760),
    "one no-op is none": atari("breakout", noop_max=1, frame_cap=760),
    "sticky, no-ops": atari("breakout", sticky=0.25, noop_max=30, frame_cap=762),
    "no FIRE key": atari("ms_pacman", sticky=0.25, noop_max=30, frame_cap=502),
}


@cache
def by_our_own_game(name: str) -> list[list[Transition]]:
    return play(make_vec(GAMES[name], 2, seed=5, backend="sync"), MOVES)


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("backend", ["ale", "ale_same_step"])
def test_the_cpp_environment_and_our_own_game_give_the_same_transitions(backend: Backend, name: str) -> None:
    assert_same(play(make_vec(GAMES[name], 2, seed=5, backend=backend), MOVES), by_our_own_game(name))


def test_worker_processes_give_the_same_transitions() -> None:
    want = by_our_own_game("sticky, no-ops")
    assert_same(play(make_vec(GAMES["sticky, no-ops"], 2, seed=5, backend="workers"), MOVES), want)


def test_the_scripted_games_end_in_both_ways_and_go_on_after_a_lost_life() -> None:
    rows = by_our_own_game("plain") + by_our_own_game("sticky, no-ops")
    for row in rows:
        assert sum(step.life_lost for step in row) >= 3
        assert not any(step.life_lost and (step.terminated or step.truncated) for step in row)
        assert not any(step.terminated and step.truncated for step in row)
    moves = [step for row in rows for step in row]
    assert sum(step.terminated for step in moves) >= 2
    assert sum(step.truncated for step in moves) >= 2


def test_a_game_is_cut_at_its_frame_cap_and_its_last_observation_is_not_the_next_ones_first() -> None:
    first = by_our_own_game("plain")[0]
    cut = [n for n, step in enumerate(first) if step.truncated]
    assert cut
    assert cut[0] == 760 // 4 - 1
    for n in cut:
        if n + 1 < len(first):
            assert np.array_equal(first[n].arrived[:-1], first[n].observation[1:])  # the stack goes on
            assert not first[n + 1].observation[:-1].any()  # and starts anew


CLASSIC = ("CartPole-v1", "Pendulum-v1")


@pytest.mark.parametrize("env_id", CLASSIC)
@pytest.mark.parametrize("source", ["same step", "workers"])
def test_workers_and_resets_within_the_step_give_the_same_transitions(source: str, env_id: str) -> None:
    recipe = dataclasses.replace(as_recipe(env_id), frame_cap=30)
    want = play(make_vec(recipe, 3, seed=5, backend="sync"), 100)
    env: VectorEnv[Any, Any, Any]
    if source == "workers":
        env = make_vec(recipe, 3, seed=5, backend="workers", threads=2)
    else:
        env = SyncVectorEnv([partial(make, recipe)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
        env.reset(seed=5)
    assert_same(play(env, 100), want)
    assert any(step.truncated for row in want for step in row)
    if env_id == "CartPole-v1":
        assert any(step.terminated for row in want for step in row)


def test_every_action_counts_and_none_is_lost_to_a_reset() -> None:
    """CartPole pays 1 a step: what the records say and what the episodes say must agree."""
    stepper = Stepper(make_vec("cartpole", 3, seed=0))
    stepper.reset()
    rewards, invalid, before = 0.0, 0, np.zeros(3, bool)
    for _ in range(100):
        step = stepper.step(np.ones(3, np.int64))
        assert np.array_equal(step.valid, ~before)  # the step after an end, and no other, is a reset
        assert np.array_equal(step.first, before)
        assert not step.reward[~step.valid].any()
        assert not step.ended[~step.valid].any()
        before = step.ended
        rewards += step.reward.sum()
        invalid += int((~step.valid).sum())
    assert len(stepper.finished) >= 20
    assert rewards == 300 - invalid
    assert all(episode.score == episode.steps for episode in stepper.finished)
    assert sum(episode.steps for episode in stepper.finished) <= rewards


def test_lost_lives_split_no_score() -> None:
    scores = {}
    for backend in ("ale", "sync"):
        stepper = Stepper(make_vec(atari("breakout"), 1, seed=3, backend=backend))
        stepper.reset()
        rewards, lives = 0.0, 0
        draws = np.random.default_rng(1)
        while not stepper.finished:
            step = stepper.step(draws.integers(4, size=1))
            rewards += step.reward[0]
            lives += int(step.life_lost[0])
        assert lives == 4  # of five: the last one ends the game
        assert stepper.finished[0].score == rewards > 0
        scores[backend] = stepper.finished[0]
        stepper.close()
    assert scores["ale"] == scores["sync"]


@pytest.mark.parametrize("backend", ["ale", "ale_same_step", "sync"])
def test_rewards_are_not_clipped(backend: Backend) -> None:
    moves = play(make_vec(atari("space_invaders"), 1, seed=0, backend=backend), 150)[0]
    assert max(move.reward for move in moves) > 1


SEEDED: dict[str, tuple[Environment, Backend]] = {
    "ale": (atari("breakout", sticky=0.25, noop_max=30, frame_cap=160), "ale"),
    "ale_same_step": (atari("breakout", sticky=0.25, noop_max=30, frame_cap=160), "ale_same_step"),
    "atari sync": (atari("breakout", sticky=0.25, noop_max=30, frame_cap=160), "sync"),
    "cartpole sync": (as_recipe("cartpole"), "sync"),
    "cartpole workers": (as_recipe("cartpole"), "workers"),
}


def replayed(stepper: Stepper, observation: np.ndarray, row: int, moves: int) -> list[tuple[Any, ...]]:
    """The next moves of one row, played alternately left and right; the others play along."""
    seen: list[tuple[Any, ...]] = [(observation[row].tobytes(),)]
    for n in range(moves):
        step = stepper.step(np.full(stepper.num_envs, n % 2))
        assert step.valid[row], f"move {n} was a reset"
        seen.append((step.arrived[row].tobytes(), float(step.reward[row]), bool(step.ended[row])))
        if step.ended[row]:
            break
    return seen


@pytest.mark.parametrize(("recipe", "backend"), SEEDED.values(), ids=SEEDED.keys())
def test_a_row_reset_with_a_seed_replays_its_episode_in_any_company_and_at_any_time(
    recipe: Environment, backend: Backend
) -> None:
    alone = Stepper(make_vec(recipe, 1, seed=0, backend=backend))
    want = replayed(alone, alone.reset(np.array([77])), 0, 30)
    company = Stepper(make_vec(recipe, 3, seed=40, backend=backend))
    company.reset()
    rows = np.array([False, True, False])
    for _ in range(7):
        step = company.step(np.zeros(3, np.int64))
    observation = company.reset_rows(rows, np.array([77]))
    assert np.array_equal(observation[~rows], step.observation[~rows])  # the others stay as they were
    assert replayed(company, observation, 1, 30) == want
    while not step.ended[1]:  # until the row has just ended: then it is reset by hand, and not once more by itself
        step = company.step(np.zeros(3, np.int64))
    company.finished.clear()
    observation = company.reset_rows(rows, np.array([77]))
    assert replayed(company, observation, 1, 30) == want
    for stepper in (alone, company):
        stepper.close()


@pytest.mark.parametrize(("recipe", "backend"), SEEDED.values(), ids=SEEDED.keys())
def test_a_row_that_has_ended_still_resets_by_itself_when_another_is_reset_by_hand(
    recipe: Environment, backend: Backend
) -> None:
    stepper = Stepper(make_vec(recipe, 2, seed=0, backend=backend))
    stepper.reset(np.array([5, 6]))
    step = stepper.step(np.zeros(2, np.int64))
    while not step.ended[0]:
        step = stepper.step(np.zeros(2, np.int64))
    stepper.reset_rows(np.array([False, True]), np.array([9]))
    step = stepper.step(np.zeros(2, np.int64))
    next_step = stepper.next_step
    assert step.valid.tolist() == [not next_step, True]
    assert step.first.tolist() == [next_step, False]
    stepper.close()


def test_a_reset_by_hand_forgets_the_episode_that_it_cuts() -> None:
    stepper = Stepper(make_vec("cartpole", 2, seed=0))
    stepper.reset()
    for _ in range(5):
        stepper.step(np.zeros(2, np.int64))
    stepper.reset_rows(np.array([True, False]), np.array([1]))
    while len(stepper.finished) < 2:
        stepper.step(np.zeros(2, np.int64))
    assert all(episode.score == episode.steps < 20 for episode in stepper.finished)


def test_a_step_that_a_signal_broke_off_is_not_taken_again_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_vec("cartpole", 2, seed=0)
    stepper = Stepper(env)
    stepper.reset()
    taken = []

    def broken_off(actions: np.ndarray) -> None:
        taken.append(actions)
        raise KeyboardInterrupt

    monkeypatch.setattr(env, "step", broken_off)
    stepper.send(np.zeros(2, np.int64))
    with pytest.raises(KeyboardInterrupt):
        stepper.receive()
    stepper.close()
    assert len(taken) == 1


@pytest.mark.parametrize("backend", ["ale", "workers"])
def test_it_closes_in_the_middle_of_a_step(backend: Backend) -> None:
    stepper = Stepper(make_vec("pong", 2, seed=0, backend=backend))
    stepper.reset()
    stepper.send(np.zeros(2, np.int64))
    stepper.close()


@pytest.mark.parametrize("backend", ["ale", "sync"])
def test_a_reset_of_no_row_or_of_too_few_seeds_is_refused(backend: Backend) -> None:
    stepper = Stepper(make_vec("pong", 2, seed=0, backend=backend))
    for rows, seeds in (([False, False], []), ([True, True], [1])):
        with pytest.raises(ValueError, match="need at least one row and a seed for each"):
            stepper.reset_rows(np.array(rows), np.array(seeds, np.int64))
    stepper.close()


@pytest.mark.parametrize("backend", ["ale", "sync"])
def test_the_same_seed_gives_the_same_stream_and_another_seed_another(backend: Backend) -> None:
    recipe = atari("breakout", sticky=0.25, noop_max=30)
    one, again, other = (play(make_vec(recipe, 2, seed, backend=backend, threads=1), 40) for seed in (5, 5, 6))
    assert_same(one, again)
    for mine, theirs in zip(one, other, strict=True):
        with pytest.raises(AssertionError, match="row 0, move"):
            assert_same([mine], [theirs])


class Rooms(gymnasium.Env[np.ndarray, np.int64]):
    """Episodes of 1, 2, 3, ... steps; each state is a room of its own: 100 times the episode, and the step."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.episode = self.place = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode = 1 if seed is not None else self.episode + 1
        self.place = 0
        return np.zeros(1, np.float32), {"room": 100 * self.episode}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place += 1
        return (
            np.zeros(1, np.float32),
            0.0,
            self.place == self.episode,
            False,
            {"room": 100 * self.episode + self.place},
        )


def test_an_episodes_rooms_are_those_from_its_first_state_to_its_last() -> None:
    stepper = Stepper(SyncVectorEnv([Rooms] * 2, autoreset_mode=AutoresetMode.NEXT_STEP))
    stepper.reset(np.array([0, 1]))
    while len(stepper.finished) < 10:
        stepper.step(np.zeros(2, int))
    for place, episode in enumerate(stepper.finished[:10]):
        number = place // 2 + 1
        assert episode.rooms == {100 * number + step for step in range(number + 1)}
    rows = np.array([True, False])
    stepper.reset_rows(rows, np.array([7]))  # what was seen before is another episode's
    stepper.finished.clear()
    while len(stepper.finished) < 1:
        stepper.step(np.zeros(2, int))
    assert stepper.finished[0].rooms == {100, 101}


def test_rooms_come_through_worker_processes() -> None:
    recipe = dataclasses.replace(as_recipe("montezuma"), frame_cap=80)
    stepper = Stepper(make_vec(recipe, 2, seed=5, timeout=120.0))
    try:
        stepper.reset()
        while len(stepper.finished) < 2:
            stepper.step(np.zeros(2, int))
        assert all(episode.rooms == {1} for episode in stepper.finished)
    finally:
        stepper.close()
