"""Tests of states found by search: copies of a game's state, which continuations there are, which of them is kept."""

import copy
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from rlkd.collect import Searcher
from rlkd.distillation import run_distillation
from rlkd.distillation.checks import check_parts
from rlkd.errors import MismatchError, RecipeError
from rlkd.policy import Policy
from rlkd.recipe import EVALUATION_SEEDS, Emulator, Environment, Network, Part, Search, Source, Term
from rlkd.replay import Replay
from rlkd.vector import forked, make
from tests.handmade import LINEAR, TINY, TINY_PIXELS, cartpole_teacher, environment, policy
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole", frame_cap=40)
PONG = environment("pong", frame_cap=600)


def source(states: int, num_envs: int, search: Search, rounds: int = 1) -> Source:
    """Where a search plays for states."""
    return Source(states=states, rounds=rounds, num_envs=num_envs, epsilon=0.0, search=search)


def found(where: Environment, teacher: Policy, how: Source, seed: int = 0) -> tuple[Replay, Searcher]:
    """A replay filled by search, and who searched."""
    view = where.views.get("pixels")
    shape = teacher.spec.observation_shape
    replay = Replay(how.num_envs, how.states, shape, teacher.spec.actions, view, keeps_actions=True)
    searcher = Searcher(where, teacher, how, seed=seed)
    try:
        for number in range(how.rounds):
            searcher.collect(replay, number)
    finally:
        searcher.close()
    return replay, searcher


@pytest.mark.parametrize("name", ["pong", "breakout", "foreign/pong_baby_a3c"])
def test_a_game_follows_another_frame_for_frame_luck_included(name: str) -> None:
    where = environment(name, frame_cap=400)
    assert isinstance(where.emulator, Emulator)
    where = replace(where, emulator=replace(where.emulator, sticky_probability=0.25, frame_skip_max=None))
    one, other = make(where), make(where)
    draws = np.random.default_rng(0)
    for seed in range(12):
        one.reset(seed=seed)
        other.reset(seed=seed + 100)
        for _ in range(10):  # what either did last must not stick in the other
            one.step(np.int64(draws.integers(4)))
            other.step(np.int64(draws.integers(4)))
        forked(one, other)
        for action in draws.integers(4, size=100 if seed == 0 else 8):
            mine, theirs = one.step(action), other.step(action)
            assert np.array_equal(one.unwrapped.ale.getRAM(), other.unwrapped.ale.getRAM())  # type: ignore[attr-defined]
            assert np.array_equal(mine[0], theirs[0])
            assert mine[1:] == theirs[1:]
            if mine[2] or mine[3]:  # the next game's no-ops are the same too
                assert np.array_equal(one.reset()[0], other.reset()[0])


def test_a_random_frame_skip_is_copied() -> None:
    where = environment("pong", frame_cap=4000)
    assert where.emulator is not None
    where = replace(where, emulator=replace(where.emulator, frame_skip=2, frame_skip_max=4))
    one, other = make(where), make(where)
    one.reset(seed=3)
    other.reset(seed=4)
    forked(one, other)
    for action in np.random.default_rng(0).integers(6, size=50):
        assert np.array_equal(one.step(action)[0], other.step(action)[0])


def test_copies_of_a_game_do_not_move_with_it() -> None:
    one, other = make(PONG), make(PONG)
    one.reset(seed=3)
    other.reset(seed=3)
    forked(one, other)
    sight = other.unwrapped.sight  # type: ignore[attr-defined]
    before = [copy.deepcopy(screen) for screen in (sight.stacked, *sight.screens)]
    for _ in range(60):
        one.step(np.int64(2))
    after = (sight.stacked, *sight.screens)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(before, after, strict=True))


@pytest.mark.parametrize(("where", "network"), [(CARTPOLE, LINEAR), (PONG, TINY_PIXELS)])
def test_a_beam_of_width_one_is_greedy_play(where: Environment, network: Network) -> None:
    teacher = policy(where, "categorical", network, seed=2, sharpness=5)
    search = Search(name="beam", width=1, length=16, choose="likelihood")
    replay, searcher = found(where, teacher, source(400, 2, search))
    assert searcher.steps >= 400
    generator, env = np.random.default_rng([0, 3]), make(where)
    for rows in np.split(replay.rows(), 2):
        observations, answers = replay.read(rows)
        actions = replay.actions(rows)
        assert actions is not None
        observation, _ = env.reset(seed=int(generator.integers(EVALUATION_SEEDS)))
        over = False
        for place, begins in enumerate(replay.begins(rows)):
            assert begins == (place == 0 or over)
            if over:
                break
            assert np.array_equal(observations[place], observation)
            with torch.inference_mode():
                scores = teacher(np.asarray(observation)[None]).flat[0]
            torch.testing.assert_close(answers[place], scores, rtol=1e-4, atol=1e-4)
            assert actions[place] == scores.argmax()
            observation, _, terminated, truncated, _ = env.step(actions[place].numpy())
            over = terminated or truncated


def all_ways(teacher: Policy, seed: int, length: int) -> dict[tuple[int, ...], tuple[float, float]]:
    """Log-probability and return of every way through the first steps of a game of CartPole, float64."""
    told = {}
    for way in product((0, 1), repeat=length):
        env = make(CARTPOLE)
        observation, _ = env.reset(seed=seed)
        likelihood = gained = 0.0
        for action in way:
            with torch.inference_mode():
                scores = teacher(np.asarray(observation, np.float32)[None]).flat[0].double()
            likelihood += float(scores.log_softmax(-1)[action])
            observation, reward, terminated, _, _ = env.step(action)
            gained += float(reward)
            if terminated:
                break
        told[way[: int(gained)]] = (likelihood, gained)
    return told


@pytest.mark.parametrize("choose", ["likelihood", "return"])
def test_the_widest_beam_finds_the_best_way_of_all(choose: str) -> None:
    length = 5
    teacher = policy(CARTPOLE, "categorical", TINY, seed=4, sharpness=2, rule="sampled")
    differs = 0
    for seed in range(6):
        told = all_ways(teacher, int(np.random.default_rng([seed, 3]).integers(EVALUATION_SEEDS)), length)
        search = Search(
            name="beam", width=2**length, length=length, choose="return" if choose == "return" else "likelihood"
        )
        replay, _ = found(CARTPOLE, teacher, source(2 * length, 2, search), seed)
        actions = replay.actions(replay.rows()[:length])  # of the first game
        assert actions is not None
        way = tuple(actions.tolist())
        assert told[way][choose == "return"] == pytest.approx(max(each[choose == "return"] for each in told.values()))
        narrow = replace(search, width=1)
        greedy = found(CARTPOLE, teacher, source(2 * length, 2, narrow), seed)[0]
        taken = greedy.actions(greedy.rows()[:length])
        assert taken is not None
        assert told[way][0] >= told[tuple(taken.tolist())][0] - 1e-4 or choose == "return"
        differs += way != tuple(taken.tolist())
    assert differs or choose == "return"  # greedy play is not always the most likely way: the beam has seen further


def returns(width: int, seed: int) -> float:
    """What one continuation of Breakout gains that is chosen among several by its return."""
    where = environment("breakout")
    teacher = policy(where, "categorical", TINY_PIXELS, seed=3, rule="sampled")
    how = source(4, 2, Search(name="sampled", width=width, length=60, choose="return"))
    searcher = Searcher(where, teacher, how, seed=seed)
    try:
        return sum(line.gained for line in searcher._play_on())
    finally:
        searcher.close()


def test_the_return_of_what_is_kept_never_falls_with_the_number_of_continuations() -> None:
    gained = [[returns(width, seed) for width in (1, 3, 8)] for seed in range(2)]
    assert all(few <= more <= most for few, more, most in gained)  # the first ones do the same, however many there are
    assert sum(most - few for few, _, most in gained) > 0


def test_every_continuation_goes_its_own_way_and_the_game_goes_on_from_the_best_one() -> None:
    width, length, where = 6, 8, environment("cartpole", frame_cap=500)
    teacher = policy(where, "categorical", TINY, sharpness=0.1, rule="sampled")
    replay, _ = found(
        where, teacher, source(2 * 16, 2, Search(name="sampled", width=width, length=length, choose="return")), 4
    )
    draws = [np.random.default_rng([4, 4, place + 1]) for place in range(width)]
    generator = np.random.default_rng([4, 3])
    games = [make(where) for _ in range(2)]
    observations = [game.reset(seed=int(generator.integers(EVALUATION_SEEDS)))[0] for game in games]
    taken: list[list[int]] = [[], []]
    told = False
    for _ in range(2):
        uniforms = np.stack([generator.random((length, 2, 4)) for generator in draws])
        for game in range(2):
            ways = []
            for place in range(width):
                env, observation, over = copy.deepcopy(games[game]), observations[game], False
                way: list[int] = []
                while not over and len(way) < length:
                    with torch.inference_mode():
                        scores = teacher(np.asarray(observation)[None]).flat[0].double()
                    way.append(int(scores.softmax(-1)[0] <= float(uniforms[place][len(way)][game][0])))
                    observation, _, over, _, _ = env.step(way[-1])
                ways.append((len(way), way, env, observation))
            told |= len(ways[0][1]) < length  # not all of them are equally good
            _, way, games[game], observations[game] = max(ways, key=lambda each: each[0])
            assert len(way) == length  # else the game is over, and this test too short for it
            taken[game] += way
    actions = replay.actions(replay.rows())
    assert actions is not None
    assert told
    assert actions.tolist() == [*taken[0], *taken[1]]


def test_games_that_end_begin_anew_and_every_state_is_answered() -> None:
    where = environment("cartpole", frame_cap=12)
    teacher = cartpole_teacher(rule="sampled", recipe=where)
    how = source(96, 4, Search(name="sampled", width=3, length=8, choose="return"), rounds=2)
    replay, searcher = found(where, teacher, how)
    assert replay.filled.tolist() == [24] * 4
    rows = replay.rows()
    begins = replay.begins(rows).reshape(4, 24)
    assert (begins.sum(1) == 2).all()  # two games of twelve steps each
    assert searcher.steps == 3 * 96  # what was not kept was played too
    observation, answers = replay.read(rows)
    with torch.inference_mode():
        torch.testing.assert_close(answers, teacher(observation.numpy()).flat)


def test_what_a_recurrent_teacher_remembers_belongs_to_its_continuation() -> None:
    teacher = policy(
        CARTPOLE, "categorical", replace(TINY, core="gru", core_width=8), seed=2, sharpness=4, rule="sampled"
    )
    how = source(160, 2, Search(name="sampled", width=4, length=5, choose="return"))
    replay, _ = found(CARTPOLE, teacher, how)
    rows = replay.rows()
    observations, answers = replay.read(rows)
    begins = replay.begins(rows)
    state = teacher.initial_state(1)
    for place in range(160):
        with torch.inference_mode():
            output = teacher(observations[place : place + 1].numpy(), state, begins[place : place + 1])
        torch.testing.assert_close(answers[place], output.flat[0])
        state = output.state


def test_students_learn_from_what_was_searched_for_and_a_seed_gives_the_same_again(tmp_path: Path) -> None:
    search = Search(name="beam", width=3, length=8, choose="return")
    recipe = small(
        source=source(400, 4, search, rounds=2),
        terms=(Term(teacher=Part("label_h2"), divergence=Part("cross_entropy")),),
        controls=("hard_labels",),
    )
    results = [
        run_distillation(
            cartpole_teacher(recipe=CARTPOLE), {"tiny": TINY}, recipe, run=tmp_path / name, seed=0, episodes=4
        )
        for name in ("one", "other")
    ]
    one, other = (result.students[0] for result in results)
    assert one.agreement > 0.7
    assert one.policy.spec.hash == other.policy.spec.hash
    assert results[0].steps > 400


def test_searches_that_cannot_be_are_refused() -> None:
    search = Search(name="beam", width=2, length=8, choose="likelihood")
    with pytest.raises(RecipeError, match="width and length of at least 1"):
        replace(search, width=0)
    with pytest.raises(RecipeError, match="needs the teacher alone: epsilon = 0"):
        Source(states=100, num_envs=4, search=search)
    with pytest.raises(RecipeError, match="needs the teacher alone"):
        replace(source(100, 4, search, rounds=2), teacher_fraction=(1.0, 0.0))
    pendulum = environment("pendulum", frame_cap=40)
    with pytest.raises(MismatchError, match="a search by likelihood needs discrete actions"):
        check_parts(policy(pendulum, "gaussian", TINY), {"tiny": TINY}, small(source=source(100, 4, search)), pendulum)
    lander = environment("lunarlander", frame_cap=40)
    with pytest.raises(MismatchError, match="copies of LunarLander-v3 do not play as it does"):
        check_parts(policy(lander, "categorical", TINY), {"tiny": TINY}, small(source=source(100, 4, search)), lander)


def test_continuous_actions_can_be_searched_among_by_their_return() -> None:
    pendulum = environment("pendulum", frame_cap=40)
    teacher = policy(pendulum, "gaussian", TINY, rule="sampled")
    how = source(40, 2, Search(name="sampled", width=4, length=10, choose="return"))
    assert check_parts(teacher, {"tiny": TINY}, small(source=how, controls=()), pendulum).source == how
    replay = Replay(2, 40, (3,), 2, None)
    searcher = Searcher(pendulum, teacher, how, seed=0)
    searcher.collect(replay, 0)
    searcher.close()
    assert len(replay) == 40
