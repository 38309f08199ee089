"""Tests of what turned out well: returns in a replay, advantages, the weight and the target that read them."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from rlkd.collect import Collector, Searcher
from rlkd.distillation import run_distillation
from rlkd.distillation.checks import check_parts
from rlkd.distillation.lesson import Seen, advantages
from rlkd.distillation.student import Plan, Student
from rlkd.errors import MismatchError, RecipeError
from rlkd.policy import Policy
from rlkd.recipe import Part, Search, Source, Term
from rlkd.replay import Replay
from rlkd.terms.targets import tilt
from rlkd.terms.weights import exp_advantage
from rlkd.vector import make
from tests.handmade import LINEAR, TINY, cartpole_teacher, environment, filled, policy
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole", frame_cap=30)


def slow_returns(rewards: list[float], begins: list[bool], discount: float) -> list[float]:
    """Of each state, the discounted sum of what came before the later ones, up to the first that begins a game."""
    found = []
    for place in range(len(rewards)):
        total, factor = 0.0, 1.0
        for later in range(place + 1, len(rewards)):
            total += factor * rewards[later]
            factor *= discount
            if begins[later]:
                break
        found.append(total)
    return found


@given(
    st.lists(st.tuples(st.floats(-5, 5, width=32), st.booleans()), min_size=1, max_size=20),
    st.floats(0, 1),
    st.integers(0, 20),
)
def test_returns_are_sums_within_a_game(told: list[tuple[float, bool]], discount: float, known: int) -> None:
    replay = Replay(2, 2 * len(told), (1,), 1, None, keeps_rewards=True)
    for reward, first in told:
        both = np.array([0, 1])
        flags, earned = np.array([first, first]), np.array([reward, -reward])
        replay.append(both, np.zeros((2, 1), np.float32), flags, torch.zeros(2, 1), None, earned)
    counts = np.array([len(told), min(known, len(told))])
    rewards, begins = [reward for reward, _ in told], [place == 0 or first for place, (_, first) in enumerate(told)]
    whole = slow_returns(rewards, begins, discount)
    part = slow_returns([-reward for reward in rewards[: counts[1]]], begins, discount)
    wanted = [*whole, *part, *[0.0] * (len(told) - counts[1])]
    returns, unseen = replay.returns(counts, discount)
    np.testing.assert_allclose(returns, wanted, rtol=1e-4, atol=1e-4)
    for place in range(len(told)):
        over = any(begins[place + 1 :])
        assert unseen[place] == pytest.approx(0.0 if over else discount ** (len(told) - 1 - place), abs=1e-6)
    assert not unseen[len(told) + counts[1] :].any()


def test_rewards_that_are_not_kept_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="rewards are not kept"):
        Replay(1, 4, (1,), 1, None).returns(np.array([0]), 0.9)


@pytest.mark.parametrize("way", ["plain", "search"])
def test_who_plays_keeps_what_came_of_it(way: str) -> None:
    """A point for each step of CartPole: the return of a state is the number of steps that its game still had."""
    teacher = policy(CARTPOLE, "categorical", LINEAR, rule="sampled")
    search = Search(name="sampled", width=2, length=7, choose="return")
    source = Source(states=300, rounds=2, num_envs=4, epsilon=0.0, search=search if way == "search" else None)
    replay = Replay(4, 300, (4,), 2, None, keeps_actions=True, keeps_rewards=True)
    player = (Collector if source.search is None else Searcher)(CARTPOLE, teacher, source, seed=1)
    for number in range(2):
        player.collect(replay, number, ())
    player.close()
    rows = replay.rows()
    begins, returns = replay.begins(rows).reshape(4, 75), replay.returns(replay.filled, 1.0)[0][rows].reshape(4, 75)
    assert begins.sum() > 12
    for firsts, found in zip(begins, returns, strict=True):
        starts = [*np.flatnonzero(firsts), 75]
        for start, end in pairwise(starts):
            last = end == 75  # the rewards of a state's own step come with the next one
            assert found[start:end].tolist() == [float(end - place - last) for place in range(start, end)]


def test_advantages_are_returns_in_deviations_from_their_mean() -> None:
    replay = Replay(2, 40, (1,), 1, None, keeps_rewards=True)
    draws = np.random.default_rng(0)
    for place in range(20):
        both, nothing, earned = np.arange(2), np.zeros((2, 1), np.float32), draws.normal(size=2)
        replay.append(both, nothing, np.array([place % 8 == 0, False]), torch.zeros(2, 1), None, earned)
    counts = np.array([20, 12])
    rows = replay.rows(counts)
    advantage = advantages(replay, rows, 0.5)
    returns = replay.returns(counts, 0.5)[0].astype(float)
    # Two games of eight states were seen to their ends, and of the others what lies five steps before the end of what
    # was seen: there 0.5 to the power of that is less than 0.05.
    known = [*range(16), *range(20, 27)]
    wanted = (returns[known] - returns[known].mean()) / returns[known].std()
    np.testing.assert_allclose(advantage[known], wanted, rtol=1e-4, atol=1e-5)
    assert not np.delete(advantage, known).any()


def test_the_end_of_what_was_seen_is_no_disadvantage() -> None:
    """A point for each step and no end: every state is as good as the others."""
    replay = Replay(2, 400, (1,), 1, None, keeps_rewards=True)
    nothing, first = np.zeros((2, 1), np.float32), np.zeros(2, bool)
    for _ in range(200):
        replay.append(np.arange(2), nothing, first, torch.zeros(2, 1), None, np.ones(2))
    rows = replay.rows()
    returns = replay.returns(replay.filled, 0.9)[0][rows]
    advantage = advantages(replay, rows, 0.9)[rows]
    assert returns.std() > 1
    assert not advantage.reshape(2, 200)[:, -28:].any()
    short = Replay(1, 4, (1,), 1, None, keeps_rewards=True)
    short.append(np.zeros(1, int), nothing[:1], np.ones(1, bool), torch.zeros(1, 1), None, np.zeros(1))
    assert advantages(short, short.rows(), 0.9).tolist() == [0.0] * 4


def test_what_turned_out_well_weighs_its_exponential_within_limits() -> None:
    advantage = torch.tensor([-9.0, -1.0, 0.0, 0.5, 9.0], dtype=torch.float64)
    found = exp_advantage(advantage, temperature=0.5, least=0.05, most=10)
    assert found.tolist() == pytest.approx([0.05, math.exp(-2), 1, math.exp(1), 10])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        exp_advantage(advantage, temperature=0)


def test_a_tilted_answer_moves_what_was_done_and_keeps_the_ratio_of_the_rest() -> None:
    p = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3]], dtype=torch.float64)
    advantage = torch.tensor([2.0, -2.0, 0.0], dtype=torch.float64)
    found = tilt(p, torch.tensor([0, 0, 1]), advantage, temperature=2.0)
    for row, tilted in ((0, math.e), (1, 1 / math.e)):
        total = 0.2 * tilted + 0.8
        assert found[row].tolist() == pytest.approx([0.2 * tilted / total, 0.5 / total, 0.3 / total])
    torch.testing.assert_close(found[2], p[2])
    far = tilt(p, torch.tensor([0, 0, 1]), torch.tensor([900.0, -900.0, 0.0]), temperature=0.1)
    torch.testing.assert_close(far[:2], torch.tensor([[1, 0, 0], [0, 0.625, 0.375]], dtype=torch.float64))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        tilt(p, torch.tensor([0, 0, 1]), advantage, temperature=-1)


def test_actions_of_a_random_player_that_turned_out_well_make_a_better_one(tmp_path: Path) -> None:
    """Play by chance falls after twenty steps; what is done in its better moments stands longer."""
    where = environment("cartpole", frame_cap=200)
    nobody = policy(where, "categorical", LINEAR, rule="sampled", sharpness=0.0)
    with torch.no_grad():
        nobody.network.head.weight.zero_()
    chance = Policy(nobody.network, nobody.spec)
    scores = {}
    for name, weight in (("weighed", Part("exp_advantage", {"temperature": 0.3})), ("plain", None)):
        recipe = small(
            source=Source(states=8_000, rounds=1, num_envs=8, epsilon=0.0),
            terms=(Term(teacher=Part("label_h2"), divergence=Part("cross_entropy"), weight=weight),),
            gradient_steps=600,
            batch_size=256,
            discount=0.9,
            controls=(),
        )
        result = run_distillation(chance, {"tiny": TINY}, recipe, run=tmp_path / name, seed=0, episodes=20)
        student = result.students[0].policy
        greedy = Policy(student.network, replace(student.spec, rule=cartpole_teacher().spec.rule))
        scores[name] = np.mean([steps_of(greedy, seed) for seed in range(20)])
    assert scores["weighed"] > 1.3 * scores["plain"], scores


def steps_of(player: Policy, seed: int) -> int:
    """How long a pole stands."""
    env = make(environment("cartpole", frame_cap=200))
    observation, _ = env.reset(seed=seed)
    for step in range(200):
        observation, _, over, _, _ = env.step(player.predict(observation)[0])
        if over:
            return step + 1
    return 200


WEIGHED = Term(teacher=Part("label_h2"), divergence=Part("cross_entropy"), weight=Part("exp_advantage"))


def test_what_is_told_of_another_state_is_its_advantage_too() -> None:
    teacher = cartpole_teacher(recipe=CARTPOLE)
    replay, recipe = filled(teacher), small(terms=(WEIGHED,))
    student = Student(Plan("tiny", TINY), recipe, teacher.spec, seed=0, device=torch.device("cpu"))
    advantage = np.arange(400, dtype=np.float32)
    rows = replay.rows()
    known = student._known(Seen(replay, rows, None, advantage), rows[:5], rows[20:25])
    assert known["advantage"] is not None
    assert known["advantage"].tolist() == [20, 21, 22, 23, 24]


def test_the_recipe_says_how_far_rewards_reach(tmp_path: Path) -> None:
    learnt = set()
    for discount in (0.5, 0.99):
        recipe = small(terms=(WEIGHED,), discount=discount, gradient_steps=20)
        teacher = cartpole_teacher(recipe=CARTPOLE, rule="sampled")
        result = run_distillation(teacher, {"tiny": TINY}, recipe, run=tmp_path / str(discount), seed=0, episodes=2)
        learnt.add(result.students[0].policy.spec.hash)
    assert len(learnt) == 2


def test_made_up_states_have_no_future() -> None:
    recipe = small(terms=(WEIGHED,), source=replace(small().source, synthetic=Part("munge"), copies=1))
    with pytest.raises(MismatchError, match="no rewards follow on made-up states"):
        check_parts(cartpole_teacher(), {"tiny": TINY}, recipe, CARTPOLE)
    with pytest.raises(RecipeError, match=r"discount must be in \[0, 1\]"):
        small(discount=1.5)
