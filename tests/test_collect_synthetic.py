"""Tests of states that are made up: by which law, who answers them, what they are worth, where it cannot be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlkd.collect import Collector, made_by, munge, noise, uniform
from rlkd.distillation import run_distillation
from rlkd.distillation.checks import check_parts
from rlkd.errors import MismatchError, RecipeError
from rlkd.recipe import Distill, Network, Part, Source, recipe_hash
from rlkd.replay import Replay
from tests.handmade import TINY, TINY_PIXELS, cartpole_teacher, environment, policy
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole", frame_cap=60)
STATES = np.random.default_rng(0).normal(size=(300, 4)) * np.array([1.0, 10.0, 0.1, 3.0])


def slow_nearest(states: np.ndarray, place: int) -> int:
    """The nearest other state, numbers scaled to [0, 1]."""
    best, found = float("inf"), -1
    span = states.max(0) - states.min(0)
    for other in range(len(states)):
        distance = sum(((states[place, k] - states[other, k]) / span[k]) ** 2 for k in range(states.shape[1]))
        if 0 < distance < best:
            best, found = distance, other
    return found


def test_munge_without_swaps_changes_nothing() -> None:
    made = munge(STATES, STATES, np.random.default_rng(0), swap=0.0)
    assert np.array_equal(made, STATES.astype(np.float32))


def test_munge_draws_numbers_around_those_of_the_nearest_neighbour() -> None:
    near = np.stack([STATES[slow_nearest(STATES, place)] for place in range(len(STATES))])
    made = np.stack([munge(STATES, STATES, np.random.default_rng(k), swap=1.0, variance=2.0) for k in range(400)])
    spread = np.abs(STATES - near) / 2.0
    away = (made - near) / np.maximum(spread, 1e-9)
    assert np.abs(away.mean(axis=(0, 1))).max() < 0.02
    assert away.std(axis=(0, 1)) == pytest.approx(np.ones(4), abs=0.02)


def test_munge_changes_the_share_of_numbers_that_it_is_told_and_keeps_the_means() -> None:
    made = munge(STATES, STATES, np.random.default_rng(3), swap=0.25)
    assert (made != STATES.astype(np.float32)).mean() == pytest.approx(0.25, abs=0.03)
    many = np.concatenate([munge(STATES, STATES, np.random.default_rng(k)) for k in range(20)])
    assert np.abs(many.mean(0) - STATES.mean(0)).max() < 0.05 * STATES.std(0).max()
    assert (np.abs(many.mean(0) - STATES.mean(0)) < 0.05 * STATES.std(0)).all()


def test_a_state_is_not_its_own_neighbour_nor_are_its_copies() -> None:
    twice = np.concatenate([STATES[:20], STATES[:20]])
    made = munge(twice, twice, np.random.default_rng(0), swap=1.0)
    assert (np.abs(made - twice).max(axis=1) > 0).all()


def test_noise_and_uniform_keep_to_their_laws() -> None:
    many = np.stack([noise(STATES, STATES, np.random.default_rng(k), deviation=0.2) - STATES for k in range(200)])
    assert many.std(axis=(0, 1)) == pytest.approx(0.2 * STATES.std(0), rel=0.02)
    box = uniform(STATES, STATES, np.random.default_rng(0))
    assert (box >= STATES.min(0) - 1e-4).all()
    assert (box <= STATES.max(0) + 1e-4).all()
    assert box.std(0) == pytest.approx((STATES.max(0) - STATES.min(0)) / 12**0.5, rel=0.1)


def test_made_up_states_stand_beside_the_visited_ones_and_are_answered_by_the_teacher() -> None:
    teacher = cartpole_teacher(recipe=CARTPOLE, rule="sampled")
    part = Part("munge", {"swap": 0.5})
    source = Source(states=160, rounds=2, num_envs=4, synthetic=part, copies=3)
    replay = Replay(16, 640, (4,), 2, None, keeps_actions=True)
    collector = Collector(CARTPOLE, teacher, source, seed=0)
    try:
        for number in range(2):
            collector.collect(replay, number, ())
            assert replay.filled.reshape(4, 4).tolist() == [replay.filled[:4].tolist()] * 4
    finally:
        collector.close()
    assert replay.filled.tolist() == [40] * 16
    assert collector.steps == 160
    rows = replay.rows()
    observation, answers = replay.read(rows)
    with torch.inference_mode():
        torch.testing.assert_close(answers, teacher(observation.numpy()).flat)
    visited, made = observation[:160], observation[160:320]
    same = (visited == made).float().mean()
    assert 0.4 < same < 0.6  # the first copy of each state in the same place, half of its numbers as they were
    assert replay.begins(rows[160:]).all()


@pytest.mark.slow
def test_students_that_learn_from_more_made_up_states_are_nearer_on_visited_ones(tmp_path: Path) -> None:
    where = environment("lunarlander", frame_cap=100)
    teacher = policy(where, "categorical", Network(encoder="mlp", hidden=(16,)), seed=4)
    few = Source(states=64, rounds=1, num_envs=4, epsilon=0.3)
    kl = {}
    for name, source in (
        ("visited", few),
        ("munge", replace(few, synthetic=Part("munge"), copies=20)),
    ):
        recipe = small(source=source, gradient_steps=1500, learning_rate=5e-3, held_out_states=512)
        kl[name] = 0.0
        for seed in (0, 1, 2):
            result = run_distillation(
                teacher,
                {"tiny": Network(encoder="mlp", hidden=(32,))},
                recipe,
                run=tmp_path / f"{name}{seed}",
                seed=seed,
                episodes=8,
                environment=where,
            )
            kl[name] += result.students[0].kl_teacher_states
    assert kl["munge"] < 0.8 * kl["visited"]


def test_one_way_to_make_up_states_is_one_recipe_however_much_of_it_is_spelt_out(tmp_path: Path) -> None:
    def settled(part: Part) -> Distill:
        recipe = small(source=replace(small().source, synthetic=part, copies=2))
        return check_parts(cartpole_teacher(), {"tiny": TINY}, recipe, CARTPOLE)

    spelt = {"swap": 0.5, "variance": 1.0}
    hashes = {recipe_hash(settled(Part("munge", values))) for values in ({}, spelt, {"variance": 1})}
    assert len(hashes) == 1
    assert recipe_hash(settled(Part("munge", {"swap": 0.4}))) not in hashes


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("mung"), "no way to make up states is called 'mung'; did you mean 'munge'?"),
        (Part("munge", {"swop": 0.5}), "synthetic 'munge': unknown key 'swop'; did you mean 'swap'?"),
        (Part("munge", {"swap": 1.5}), "synthetic 'munge': swap must be in [0, 1]"),
        (Part("noise", {"deviation": "large"}), "deviation must be float, got 'large'"),
    ],
)
def test_ways_to_make_up_states_that_there_are_not_are_refused(part: Part, message: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        made_by(part)
    assert message in str(refusal.value)


def test_pictures_and_memories_cannot_be_made_up(tmp_path: Path) -> None:
    def refused(teacher: Any, network: Network) -> str:
        recipe = small(source=replace(small().source, synthetic=Part("munge"), copies=2))
        with pytest.raises(MismatchError) as refusal:
            run_distillation(teacher, {"tiny": network}, recipe, run=tmp_path / "run", seed=0)
        return str(refusal.value)

    pong = policy(environment("pong", frame_cap=400), "categorical", TINY_PIXELS)
    assert "states can be made up of vectors" in refused(pong, TINY_PIXELS)
    gru = replace(TINY, core="gru", core_width=8)
    assert "neither teachers nor students can be recurrent" in refused(cartpole_teacher(), gru)
    with pytest.raises(RecipeError, match="synthetic and copies above 0 belong together"):
        Source(states=100, num_envs=4, copies=3)
