"""Tests of `rlkd.evaluation`, playing: the same episodes and raw scores in any company."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlkd import metrics
from rlkd.errors import MismatchError, RecipeError, RlkdError, Stopped
from rlkd.evaluation import (
    environment_of,
    evaluate,
    evaluate_files,
    play,
    play_randomly,
    result_record,
)
from rlkd.evaluation import record as record_module
from rlkd.evaluation.players import FIXED_BATCH, Seat, padded_answer
from rlkd.policy import Answer, Policy, Rule, parse_rule
from rlkd.recipe import Environment, Network
from rlkd.vector import Stepper, make
from tests.handmade import TINY, TINY_PIXELS, cartpole_teacher, environment, policy

RESULT_KEYS = (
    *("policy", "environment", "protocol", "rule", "episodes", "seeds", "mean", "std", "ci95"),
    *("random_mean", "parameters", "weight_bytes", "file_bytes", "hash"),
)
PONG = environment("pong", frame_cap=80)
INVADERS = environment("space_invaders", frame_cap=1600)
CARTPOLE = environment("cartpole", frame_cap=200)
PENDULUM = environment("pendulum", frame_cap=40)
RECURRENT = Network(encoder="mlp", hidden=(8,), core="gru", core_width=8)

PLAYERS = {
    "pong": policy(PONG, "categorical", TINY_PIXELS, rule="sampled"),
    "cartpole": policy(CARTPOLE, "categorical", TINY, rule="sampled"),
    "pendulum": policy(PENDULUM, "gaussian", TINY, rule="sampled"),
    "recurrent": policy(CARTPOLE, "categorical", RECURRENT, rule="sampled", sharpness=5),
}


@pytest.mark.parametrize("name", PLAYERS)
def test_scores_episodes_and_states_do_not_depend_on_the_number_of_environments(name: str) -> None:
    one, four = (play(PLAYERS[name], episodes=5, num_envs=n, keep_states=40) for n in (1, 4))
    sixteen = play(PLAYERS[name], episodes=17, num_envs=16, keep_states=8 * 17)
    assert one.evaluation == four.evaluation
    for field in ("scores", "steps", "seeds"):
        assert getattr(sixteen.evaluation, field)[:5] == getattr(one.evaluation, field)
    assert len(set(one.evaluation.scores)) > 2 or name == "pong"  # nobody scores in 20 steps
    assert np.array_equal(one.states, four.states)
    assert np.array_equal(one.states, sixteen.states[:40])
    assert len(one.states) == 40
    assert len(np.unique(one.states, axis=0)) > 30


def test_games_that_end_while_others_go_on_do_not_change_them() -> None:
    """Breakout of random moves, some games over before they are cut: the next ones take their seats."""
    player = policy(environment("breakout", frame_cap=1200), "categorical", TINY_PIXELS, rule="sampled")
    one, four = (play(player, episodes=6, num_envs=n).evaluation for n in (1, 4))
    assert one == four
    assert len(set(one.steps)) > 2
    assert len(set(one.scores)) > 1


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "pong"])
def test_random_play_does_not_depend_on_the_number_of_environments(name: str) -> None:
    recipe = environment(name, frame_cap=80)
    one, four = (play_randomly(recipe, episodes=5, num_envs=n) for n in (1, 4))
    assert one == four
    assert (one.policy, one.rule) == ("random", "uniform")


def test_more_episodes_begin_with_the_same_ones() -> None:
    few, many = (play(PLAYERS["cartpole"], episodes=n).evaluation for n in (3, 9))
    assert few.scores == many.scores[:3]
    assert few.seeds == many.seeds[:3]


def test_every_episode_has_its_own_seed_from_the_protocols_on() -> None:
    recipe = replace(CARTPOLE, protocol=replace(CARTPOLE.protocol, episodes=4, first_seed=910_123))
    found = play(cartpole_teacher(recipe=recipe)).evaluation
    assert found.seeds == play_randomly(recipe).seeds == (910_123, 910_124, 910_125, 910_126)
    assert play(cartpole_teacher(recipe=recipe), episodes=2, first_seed=9).evaluation.seeds == (9, 10)
    assert (found.environment, found.protocol) == ("CartPole-v1", recipe.protocol.name)


@pytest.mark.parametrize("name", ["space_invaders", "cartpole"])
def test_scores_are_raw_and_of_whole_games(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same actions in a plain environment, reset with the episode's seed, bring the same score."""
    recipe = {"space_invaders": INVADERS, "cartpole": CARTPOLE}[name]
    sent: list[int] = []
    send = Stepper.send

    def spy(stepper: Stepper, action: np.ndarray) -> None:
        sent.append(int(action[0]))
        send(stepper, action)

    monkeypatch.setattr(Stepper, "send", spy)
    network = TINY_PIXELS if recipe.views else TINY
    found = play(policy(recipe, "categorical", network, rule="sampled"), episodes=3, num_envs=1).evaluation
    monkeypatch.undo()
    env, largest, lives = make(recipe), 0.0, set()
    for seed, score, steps in zip(found.seeds, found.scores, found.steps, strict=True):
        env.reset(seed=seed)
        total = 0.0
        for step in range(steps):
            _, reward, terminated, truncated, info = env.step(sent.pop(0))
            total += float(reward)
            largest = max(largest, float(reward))
            lives.add(info.get("lives"))
            assert (terminated or truncated) == (step == steps - 1)
        assert total == score
    if recipe.views:
        assert largest >= 5  # nothing was clipped
        assert {1, 2, 3} <= lives  # and lost lives end nothing


def test_evaluation_shares_no_random_stream_with_predict_or_anybody_else() -> None:
    player, observation = PLAYERS["cartpole"], np.zeros((50, 4), np.float32)
    player.seed(3)
    want = player.predict(observation)[0]
    first = play(player, episodes=2).evaluation
    torch_before, numpy_before = torch.random.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    player.seed(3)
    assert play(player, episodes=2).evaluation == first
    assert np.array_equal(player.predict(observation)[0], want)
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    assert str(np.random.get_state()) == numpy_before  # noqa: NPY002


def test_the_rule_is_the_policys_own_unless_another_is_named() -> None:
    player = cartpole_teacher(rule="sampled", recipe=CARTPOLE)
    own, greedy, random = (evaluate(player, episodes=5, rule=rule) for rule in (None, "greedy", "epsilon_greedy 1.0"))
    assert [found.rule for found in (own, greedy, random)] == ["sampled", "greedy", "epsilon_greedy 1"]
    assert greedy.mean == 200 > random.mean
    assert 8 < random.mean < 60


def flat(answer: Answer) -> np.ndarray:
    return np.concatenate(list(answer.params.values()), axis=-1)


def test_a_row_is_answered_alike_in_every_place_of_the_batch() -> None:
    for player in (PLAYERS["pong"], PLAYERS["cartpole"]):
        states = play(player, episodes=3, keep_states=FIXED_BATCH).states
        want = flat(padded_answer(player, states, None))
        for shift in range(1, FIXED_BATCH):
            rolled = flat(padded_answer(player, np.roll(states, shift, axis=0), None))
            assert np.array_equal(np.roll(rolled, -shift, 0), want)
        for rows in range(1, FIXED_BATCH):
            assert np.array_equal(flat(padded_answer(player, states[:rows], None)), want[:rows])


def test_every_episode_draws_from_a_stream_of_its_own_that_never_repeats() -> None:
    one, again, other = (Seat(0, seed, draws=2, keep=0) for seed in (5, 5, 6))
    drawn: dict[str, list[float]] = {"one": [], "again": [], "other": []}
    for _ in range(1100):  # two blocks and a bit
        for name, seat in (("one", one), ("again", again), ("other", other)):
            drawn[name] += seat.uniforms().tolist()
            seat.step += 1
    assert drawn["one"] == drawn["again"]
    assert len({*drawn["one"], *drawn["other"]}) == 4 * 1100


@pytest.mark.parametrize("stretch", [1, 4])
def test_states_are_kept_with_the_same_chance_from_an_episodes_beginning_to_its_end(stretch: int) -> None:
    counts, episodes, steps, keep = np.zeros(20), 2000, 20 * stretch, 5
    for number in range(episodes):
        seat = Seat(number, 1000 + number, draws=1, keep=keep, stretch=stretch)
        for step in range(steps + stretch - 1):  # the last stretch is cut short and never kept
            seat.visit(np.array([step]))
            seat.step += 1
        kept = [[int(state[0]) for state in states] for states in seat.stretches]
        assert all(states == list(range(states[0], states[0] + stretch)) for states in kept)
        begins = [states[0] // stretch for states in kept]
        assert len(set(begins)) == keep
        counts[begins] += 1
    assert counts / episodes == pytest.approx(np.full(20, keep / 20), abs=0.05)  # 5 standard errors


def test_playing_stops_when_asked() -> None:
    stop = metrics.StopSignal()
    stop.asked = True
    with pytest.raises(Stopped, match="the same command goes on"):
        play(PLAYERS["cartpole"], episodes=3, stop=stop)
    with pytest.raises(Stopped):
        play_randomly(CARTPOLE, episodes=3, stop=stop)


@pytest.mark.parametrize(("episodes", "num_envs"), [(0, 4), (-1, 4), (3, 0)])
def test_less_than_one_episode_or_environment_is_refused(episodes: int, num_envs: int) -> None:
    with pytest.raises(RecipeError, match=rf"must be at least 1, got {episodes} and {num_envs}"):
        play(PLAYERS["cartpole"], episodes=episodes, num_envs=num_envs)


def other_actions(player: Policy) -> Policy:
    return Policy(player.network, replace(player.spec, environment=None, action_meanings=("RIGHT", "LEFT")))


@pytest.mark.parametrize(
    ("player", "recipe", "message"),
    [
        (PLAYERS["cartpole"], PONG, "CartPole-v1-by-hand was made for CartPole-v1, not for pong"),
        (PLAYERS["pong"], environment("breakout"), "was made for pong, not for breakout"),
        (
            PLAYERS["pong"],
            replace(PONG, emulator=replace(PONG.emulator, action_set="full")),  # type: ignore[type-var]  # Pong has one
            "has 6 discrete actions, pong takes 18",
        ),
        (
            PLAYERS["pong"],
            replace(PONG, views={"pixels": replace(PONG.views["pixels"], stack=2)}),
            r"reads observations of shape \[4, 84, 84\], pong gives \[2, 84, 84\]",
        ),
        (
            PLAYERS["pong"],
            replace(PONG, views={"pixels": replace(PONG.views["pixels"], stack_order="newest_first")}),
            r"pictures with stack_order = 'oldest_first', pong has 'newest_first' in \[views.pixels\]",
        ),
        (
            other_actions(PLAYERS["cartpole"]),
            CARTPOLE,
            r"numbers its actions \['RIGHT', 'LEFT'\], CartPole-v1 \['LEFT'",
        ),
        (other_actions(PLAYERS["cartpole"]), None, "does not say where it plays; name it with --env"),
    ],
    ids=[
        "another kind of game",
        "another game",
        "action set",
        "view",
        "order of frames",
        "order of actions",
        "nowhere",
    ],
)
def test_a_policy_plays_only_where_it_fits(player: Policy, recipe: Environment | None, message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        environment_of(player, recipe)
    with pytest.raises(MismatchError, match=message):
        play(player, recipe, episodes=1)


def test_rules_are_read_and_anything_else_is_refused() -> None:
    assert parse_rule("greedy") == Rule(name="greedy")
    assert parse_rule(" sampled ") == Rule(name="sampled")
    assert parse_rule("epsilon_greedy 0.05") == Rule(name="epsilon_greedy", epsilon=0.05)
    for text in ("", "best", "greedy 0.1", "epsilon_greedy", "epsilon_greedy much", "epsilon_greedy 1.5"):
        with pytest.raises(RlkdError):
            parse_rule(text)


def test_a_result_says_all_that_is_promised(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    player = PLAYERS["cartpole"]
    player.save(path)
    random = play_randomly(CARTPOLE, episodes=6)
    found = evaluate(path, episodes=6)
    record = result_record(found, random=random, path=path)
    assert set(RESULT_KEYS) <= record.keys()
    assert record["file_bytes"] == path.stat().st_size
    assert (record["hash"], record["parameters"], record["weight_bytes"]) == (player.spec.hash, 114, 456)
    assert record["mean"] == np.mean(record["scores"])
    assert record["std"] == np.std(record["scores"])
    assert record["ci95"][0] <= record["mean"] <= record["ci95"][1]
    assert record["random_mean"] == random.mean
    assert found == evaluate(player, episodes=6)


def test_files_are_scored_and_random_play_once_for_each_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cartpole, pendulum = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    PLAYERS["cartpole"].save(cartpole)
    PLAYERS["pendulum"].save(pendulum)
    played: list[str] = []

    def once(recipe: Environment, *, episodes: int | None) -> object:
        played.append(recipe.id)
        return play_randomly(recipe, episodes=episodes)

    monkeypatch.setattr(record_module, "play_randomly", once)
    records = evaluate_files([str(cartpole), str(pendulum), str(cartpole)], episodes=2)
    assert [record["policy"] for record in records] == [str(cartpole), str(pendulum), str(cartpole)]
    assert records[0] == records[2]
    assert played == ["CartPole-v1", "Pendulum-v1"]


def test_nothing_is_played_before_all_files_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    PLAYERS["cartpole"].save(path)
    monkeypatch.setattr(record_module, "play_randomly", pytest.fail)
    with pytest.raises(RlkdError, match="no policy at"):
        evaluate_files([str(path), str(tmp_path / "missing.safetensors")])
