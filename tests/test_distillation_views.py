"""Tests of teachers that see a game otherwise than their students: the same tick, what is learnt, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rlkd
from rlkd.collect import Collector
from rlkd.distillation import run_distillation
from rlkd.distillation.learning import Setting
from rlkd.distillation.views import check_views, compared
from rlkd.errors import MismatchError, RecipeError, StorageError
from rlkd.policy import Normaliser, Policy
from rlkd.recipe import EVALUATION_SEEDS, Environment, Network, Part, Protocol, Search, Source
from rlkd.replay import Replay
from rlkd.report import write_report
from rlkd.vector import make
from tests.handmade import LINEAR, TINY, always, cartpole_teacher, environment, policy
from tests.handmade import small_distillation as small

FULL, POSITIONS = environment("cartpole", frame_cap=60), environment("cartpole_positions", frame_cap=60)
PONG, MEMORY = environment("pong", frame_cap=240), environment("pong_memory", frame_cap=240)
GRU = replace(TINY, core="gru", core_width=16)


def telling(where: Environment, places: list[int], sharpness: float = 1.0) -> Policy:
    """A policy whose scores are some of the numbers that it sees, multiplied."""
    made = policy(where, "categorical", LINEAR, rule="sampled")
    with torch.no_grad():
        made.network.head.weight.zero_()
        made.network.head.bias.zero_()
        made.network.head.weight[range(len(places)), places] = sharpness
    return Policy(made.network, made.spec)


def filled(teacher: Policy, seen: Environment, shown: Environment, source: Source) -> Replay:
    """A replay of what students see, with the answers of a teacher that is shown something else."""
    shape = make(seen).observation_space.shape
    assert shape is not None
    view = seen.views.get("pixels")
    replay = Replay(source.num_envs, source.states, shape, teacher.spec.actions, view, keeps_actions=True)
    collector = Collector(seen, teacher, source, seed=3, teacher_environment=shown)
    try:
        for number in range(source.rounds):
            collector.collect(replay, number, ())
    finally:
        collector.close()
    return replay


def test_teacher_and_student_see_the_same_tick() -> None:
    replay = filled(telling(FULL, [0, 2]), POSITIONS, FULL, Source(states=600, rounds=2, num_envs=4, epsilon=0.2))
    rows = replay.rows()
    seen, told = replay.read(rows)
    torch.testing.assert_close(seen, told)
    assert replay.begins(rows).sum() > 8  # games began anew, in both views together
    late = (seen[1:] - told[:-1]).abs().mean()
    assert late > 0.01  # a view that is a step behind would be seen


def test_a_consoles_memory_and_its_picture_are_of_the_same_tick() -> None:
    places = [49, 54, 50, 51, 58, 60]
    teacher = telling(MEMORY, places)
    replay = filled(teacher, PONG, MEMORY, Source(states=320, rounds=1, num_envs=2, epsilon=0.5))
    start = int(np.random.default_rng([3, 3]).integers(EVALUATION_SEEDS - 2))
    for env, rows in enumerate(np.split(replay.rows(), 2)):
        game = make(PONG)
        frames, told = replay.read(rows)
        actions = replay.actions(rows)
        assert actions is not None
        game.reset(seed=start + env)
        observation, _ = game.reset()  # the collector begins with the second game of a seed
        for place, row in enumerate(rows):
            if place and replay.begins(row[None])[0]:
                observation, _ = game.reset()
            assert np.array_equal(frames[place], observation)
            memory = game.unwrapped.ale.getRAM()[places] / 255  # type: ignore[attr-defined]
            np.testing.assert_allclose(told[place], memory, atol=1e-6)
            observation, *_ = game.step(actions[place].numpy())
        assert replay.begins(rows).sum() > 1


def test_a_memory_is_128_numbers_that_a_learner_takes(tmp_path: Path) -> None:
    observation, _ = make(MEMORY).reset(seed=0)
    assert observation.shape == (128,)
    assert observation.dtype == np.float32
    assert 0 <= observation.min() < observation.max() <= 1
    short = ("num_envs=4", "rollout_steps=8", "minibatch=32", "epochs=1", "network='mlp_16'")
    trained = rlkd.train("pong_memory", "rl/ppo_classic", run=tmp_path, frames=400, overrides=short)
    assert trained.spec.observation_shape == (128,)
    assert trained.spec.observation_dtype == "float32"


def test_some_numbers_of_a_vector_are_seen() -> None:
    whole, some = make(FULL), make(POSITIONS)
    assert some.observation_space.shape == (2,)
    assert np.array_equal(whole.reset(seed=1)[0][[0, 2]], some.reset(seed=1)[0])
    assert np.array_equal(whole.step(1)[0][[0, 2]], some.step(1)[0])
    with pytest.raises(RecipeError, match=r"entries must be in 0\.\.3, got \[0, 4\]"):
        make(replace(FULL, entries=(0, 4)))
    with pytest.raises(RecipeError, match="entries belong to source = 'gymnasium'"):
        replace(PONG, entries=(0,))
    with pytest.raises(RecipeError, match="observation = 'memory' belongs to source = 'ale'"):
        replace(FULL, observation="memory")
    with pytest.raises(RecipeError, match="not beside observation = 'memory'"):
        replace(PONG, observation="memory")


def test_games_that_come_apart_are_noticed() -> None:
    shorter = replace(POSITIONS, frame_cap=10)
    with pytest.raises(MismatchError, match="came apart"):
        filled(cartpole_teacher(recipe=FULL), shorter, FULL, Source(states=200, rounds=1, num_envs=4))


def test_compared_are_states_that_the_player_visits_and_what_the_teacher_says_there(tmp_path: Path) -> None:
    teacher = telling(FULL, [0, 2])
    setting = Setting(teacher, POSITIONS, small(held_out_states=256), 0, "float32", np.empty(0), tmp_path)
    left = always(0, telling(POSITIONS, [0, 1]))
    own, told = compared(setting, (left,), seed=5)
    teachers, said = compared(setting, (), seed=5)
    assert own.shape == teachers.shape == (256, 2)
    np.testing.assert_allclose(own, told, atol=1e-6)
    np.testing.assert_allclose(teachers, said, atol=1e-6)
    assert own[:, 0].mean() < teachers[:, 0].mean() - 0.01  # the cart that is pushed to the left goes there


def test_what_remembers_is_compared_on_states_in_a_row_of_games_of_any_length(tmp_path: Path) -> None:
    teacher = cartpole_teacher(recipe=FULL)
    setting = Setting(teacher, POSITIONS, small(held_out_states=128), 0, "float32", np.empty(0), tmp_path, 32)
    left = always(0, telling(POSITIONS, [0, 1]))
    for players in ((), (left,)):  # whose games last 60 steps, and ten
        states, told = compared(setting, players, seed=5)
        assert states.shape == (128, 2)
        assert told.shape == (128, 2)


def test_students_whiten_nothing_by_what_their_teacher_saw(tmp_path: Path) -> None:
    made = telling(FULL, [0, 2])
    teacher = Policy(made.network, replace(made.spec, normaliser=Normaliser(mean=(0.5,) * 4, variance=(4.0,) * 4)))
    recipe = small(held_out_states=64, gradient_steps=4, source=Source(states=160, rounds=2, num_envs=4))
    result = run_distillation(
        teacher, {"tiny": TINY}, recipe, run=tmp_path, seed=0, episodes=4, student_environment=POSITIONS
    )
    assert result.students[0].policy.spec.normaliser is None


@pytest.mark.parametrize("network", [TINY, GRU], ids=["sees", "remembers"])
def test_students_learn_what_their_teacher_sees_from_what_they_see(network: Network, tmp_path: Path) -> None:
    teacher = telling(FULL, [0, 2], sharpness=30)
    recipe = small(
        source=Source(states=8 * 32 * 4, rounds=4, num_envs=8, epsilon=0.1, teacher_fraction=(1.0, 0.0)),
        gradient_steps=200,
        batch_size=256,
        held_out_states=512,
        controls=("shuffled_teacher",),
    )
    result = run_distillation(
        teacher, {"tiny": network}, recipe, run=tmp_path, seed=0, episodes=10, student_environment=POSITIONS
    )
    student, control = result.students[0], result.controls[0]
    assert student.policy.spec.environment == POSITIONS
    assert student.policy.spec.parents == (teacher.spec.hash,)
    assert student.policy.spec.observation_shape == (2,)
    assert student.agreement > 0.9
    assert student.kl_teacher_states < 0.3 * control.kl_teacher_states
    assert student.kl_student_states < 0.3 * control.kl_student_states
    loaded = rlkd.load(student.path)
    assert loaded.predict(make(POSITIONS).reset(seed=0)[0])[0] in (0, 1)
    other = replace(POSITIONS, entries=(0, 3))
    with pytest.raises(StorageError, match="holds a run with another teacher"):
        run_distillation(
            teacher, {"tiny": network}, recipe, run=tmp_path, seed=0, episodes=10, student_environment=other
        )


def test_pictures_are_learnt_from_a_teacher_of_memory_by_name_and_the_report_shows_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(name: Environment | str) -> Environment:
        return environment(name, frame_cap=1200) if isinstance(name, str) else name

    monkeypatch.setattr("rlkd.distillation.command.as_recipe", short)
    file = tmp_path / "network.toml"
    file.write_text(
        'kind = "network"\nencoder = "conv"\nchannels = [4, 4]\nkernels = [8, 4]\nstrides = [4, 3]\nhidden = [16]\n'
    )
    record = rlkd.distill(
        telling(short("pong_memory"), [49, 54, 50, 51, 58, 60]),
        [str(file)],
        run=tmp_path / "run",
        student_env="pong",  # whose pictures choose the recipe, not the teacher's numbers
        episodes=1,
        overrides=("source.states=160", "source.num_envs=4", "gradient_steps=4", "held_out_states=64", "controls=[]"),
    )
    assert record["environment"]["views"]["pixels"]["stack"] == 4
    assert record["teacher_environment"]["observation"] == "memory"
    assert record["recipe"]["students"] == ["nature_113k"]
    assert np.isfinite(record["students"][0]["kl_student_states"])
    assert record["frames"] == 2 * 4 * record["steps"]  # each of both views is a game that is played
    page = write_report(tmp_path / "run").read_text()
    assert "Side by side" in page
    assert "Not shown" not in page


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (replace(FULL, protocol=Protocol(name="other")), "one protocol only"),
        (environment("acrobot"), "need one game; of Acrobot-v1 and CartPole-v1, id is 'CartPole-v1' and 'Acrobot-v1'"),
        (replace(FULL, frame_cap=50), "frame_cap is 60 and 50"),
    ],
)
def test_what_is_not_one_game_is_refused(changed: Environment, message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        check_views(small(), changed, FULL)


def test_one_emulator_seen_in_two_ways_is_one_game_and_with_other_luck_another() -> None:
    check_views(small(), PONG, MEMORY)
    assert MEMORY.emulator is not None
    with pytest.raises(MismatchError, match=r"\[emulator\] of pong and pong differs"):
        check_views(small(), PONG, replace(MEMORY, emulator=replace(MEMORY.emulator, sticky_probability=0.0)))


def test_neither_search_nor_made_up_states_go_with_two_views() -> None:
    search = Search(name="beam", width=2, length=4, choose="likelihood")
    for source in (
        Source(states=100, num_envs=4, epsilon=0.0, search=search),
        Source(states=100, num_envs=4, synthetic=Part("munge"), copies=1),
    ):
        with pytest.raises(MismatchError, match="neither a search nor made-up states"):
            check_views(small(source=source), POSITIONS, FULL)
