"""Tests of `rlkd.collect`: what ends up in the replay, who acted for it, and that the same seed gives the same data."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlkd.collect import Collector
from rlkd.policy import PARAMS, Kind, Policy
from rlkd.policy.compute import Precision
from rlkd.recipe import Environment, Source
from rlkd.replay import Replay
from rlkd.vector import Stepper
from tests.handmade import LINEAR, TINY, TINY_PIXELS, always, cartpole_teacher, environment, policy

CARTPOLE = environment("cartpole", frame_cap=60)
PONG = environment("pong", frame_cap=100)  # 25 steps an episode
PENDULUM = environment("pendulum", frame_cap=40)


def collected(
    teacher: Policy,
    source: Source,
    *,
    seed: int = 0,
    students: Sequence[Policy] = (),
    precision: Precision = "float32",
) -> tuple[Replay, Collector]:
    """All rounds of one collection."""
    recipe = teacher.spec.environment
    assert recipe is not None
    replay = empty(teacher, recipe, source)
    collector = Collector(recipe, teacher, source, seed=seed, precision=precision)
    try:
        for number in range(source.rounds):
            collector.collect(replay, number, students)
    finally:
        collector.close()
    return replay, collector


def empty(teacher: Policy, recipe: Environment, source: Source) -> Replay:
    spec = teacher.spec
    outputs = spec.actions * len(PARAMS[spec.kind])
    return Replay(source.num_envs, source.states, spec.observation_shape, outputs, recipe.views.get("pixels"))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """All actions that are sent to environments from now on, one array a step of one half."""
    actions: list[np.ndarray] = []
    send = Stepper.send

    def spy(stepper: Stepper, action: np.ndarray) -> None:
        actions.append(np.array(action))
        send(stepper, action)

    monkeypatch.setattr(Stepper, "send", spy)
    return actions


def pong_teacher() -> Policy:
    return policy(PONG, "categorical", TINY_PIXELS, rule="sampled")


TEACHERS = {
    "pong": pong_teacher(),
    "cartpole": cartpole_teacher("q", rule="sampled", recipe=CARTPOLE),
    "pendulum": policy(PENDULUM, "gaussian", TINY, rule="sampled"),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_the_same_seed_gives_the_same_data_to_the_last_bit_and_another_seed_does_not(name: str) -> None:
    source = Source(states=320, rounds=3, num_envs=4, epsilon=0.2)
    (one, first), (again, second), (other, _) = (
        collected(TEACHERS[name], source, seed=seed, precision="auto") for seed in (5, 5, 6)
    )
    rows = one.rows()
    for mine, theirs, others in zip(one.read(rows), again.read(rows), other.read(rows), strict=True):
        assert torch.equal(mine, theirs)
        assert not torch.equal(mine, others)
    assert first.steps == second.steps


def test_neighbouring_seeds_share_no_game() -> None:
    source = Source(states=64, rounds=1, num_envs=16)
    begins = set()
    for seed in (5, 6):
        replay, _ = collected(TEACHERS["cartpole"], source, seed=seed)
        first = replay.read(replay.rows(np.ones(16, int)))[0]
        begins |= {tuple(state) for state in first.tolist()}
    assert len(begins) == 32


@pytest.mark.parametrize("name", TEACHERS)
def test_the_stored_answers_are_the_teachers_to_the_stored_observations(name: str) -> None:
    teacher = TEACHERS[name]
    students = [policy(environment(name), teacher.spec.kind, teacher.spec.network, seed=9, rule="sampled")]
    source = Source(states=320, rounds=2, num_envs=4, epsilon=0.2, teacher_fraction=(1.0, 0.5))
    replay, _ = collected(teacher, source, students=students)
    observation, answers = replay.read(replay.rows())
    with torch.inference_mode():
        want = teacher(observation.numpy()).flat
    assert torch.allclose(answers, want, rtol=0, atol=1e-5)
    assert len(np.unique(answers.numpy(), axis=0)) > 100


def test_q_values_of_pixels_are_kept_in_float32_whatever_the_precision() -> None:
    teacher = policy(PONG, "q", TINY_PIXELS, rule="greedy")
    replay, _ = collected(teacher, Source(states=64, rounds=1, num_envs=4), precision="bfloat16")
    observation, answers = replay.read(replay.rows())
    with torch.inference_mode():
        want = teacher(observation.numpy()).flat
    assert torch.allclose(answers, want, rtol=0, atol=1e-5)


def test_no_last_observation_of_an_episode_is_stored_where_the_time_is_up() -> None:
    """Each episode of this Pong is acted on 25 times; its 26th observation is there and must not be learnt from."""
    replay, collector = collected(pong_teacher(), Source(states=400, rounds=2, num_envs=4))
    for env in range(4):
        rows = replay.rows()[100 * env : 100 * (env + 1)]
        begins = np.flatnonzero([not stack[:-1].any() for stack in replay.read(rows)[0].numpy()])
        assert begins.tolist() == [0, 25, 50, 75]
    assert collector.steps == 400  # steps that only reset are not counted


def test_no_last_observation_of_an_episode_is_stored_where_the_pole_has_fallen() -> None:
    replay, collector = collected(cartpole_teacher(recipe=CARTPOLE), Source(states=2000, num_envs=4, epsilon=1.0))
    observation = replay.read(replay.rows())[0]
    position, angle = observation[:, 0].abs(), observation[:, 2].abs()
    assert angle.max() > 0.15  # poles do fall
    assert angle.max() <= np.deg2rad(12)
    assert position.max() <= 2.4
    begins = (observation.abs() <= 0.05).all(1)
    assert begins.sum() > 60  # about 22 steps to an episode
    assert 0 <= collector.steps - len(replay) < 100  # rows that are full play on until the others are


@pytest.mark.parametrize(("states", "num_envs", "rounds"), [(320, 4, 1), (321, 4, 5), (50, 6, 3), (64, 64, 2)])
def test_every_round_fills_its_share_and_the_last_one_all_of_it(states: int, num_envs: int, rounds: int) -> None:
    teacher = cartpole_teacher(recipe=CARTPOLE)
    source = Source(states=states, rounds=rounds, num_envs=num_envs, epsilon=0.5)
    replay = empty(teacher, CARTPOLE, source)
    collector = Collector(CARTPOLE, teacher, source, seed=0)
    total = -(-states // num_envs) * num_envs
    for number in range(rounds):
        collector.collect(replay, number, ())
        due = total * (number + 1) // rounds
        assert due <= len(replay) < due + num_envs // 2
    collector.close()
    assert len(replay) == total
    assert total - states < num_envs
    assert replay.filled.tolist() == [total // num_envs] * num_envs


def test_all_rounds_are_kept() -> None:
    teacher, students = cartpole_teacher(recipe=CARTPOLE), [always(0, cartpole_teacher(recipe=CARTPOLE))]
    source = Source(states=320, rounds=2, num_envs=4, epsilon=0.0, teacher_fraction=(1.0, 0.0))
    replay = empty(teacher, CARTPOLE, source)
    collector = Collector(CARTPOLE, teacher, source, seed=0)
    collector.collect(replay, 0, students)
    rows = replay.rows()
    before = replay.read(rows)
    collector.collect(replay, 1, students)
    collector.close()
    for old, new in zip(before, replay.read(rows), strict=True):
        assert torch.equal(old, new)
    assert len(replay) == 320 > len(rows) >= 160


def test_epsilon_is_the_share_of_uniform_actions(sent: list[np.ndarray]) -> None:
    left = always(0, cartpole_teacher(recipe=CARTPOLE))
    collected(left, Source(states=8000, num_envs=8, epsilon=0.3))
    actions = np.concatenate(sent)
    assert set(actions.tolist()) == {0, 1}
    assert actions.mean() == pytest.approx(0.15, abs=0.02)  # half of the random ones; 5 standard errors
    sent.clear()
    collected(left, Source(states=800, num_envs=8, epsilon=0.0))
    assert not np.concatenate(sent).any()


@pytest.mark.parametrize("kind", ["gaussian", "squashed_gaussian"])
def test_epsilon_of_continuous_actions_draws_evenly_between_the_bounds(kind: Kind, sent: list[np.ndarray]) -> None:
    still = policy(PENDULUM, kind, LINEAR)
    with torch.no_grad():
        for weight in still.network.parameters():
            weight.zero_()
    collected(still, Source(states=8000, num_envs=8, epsilon=0.3))
    actions = np.concatenate(sent).ravel()
    random = actions[actions != 0]
    assert len(random) / len(actions) == pytest.approx(0.3, abs=0.03)
    assert np.abs(random).max() <= 2
    quarters = np.histogram(random, bins=4, range=(-2, 2))[0] / len(random)
    assert quarters == pytest.approx(np.full(4, 0.25), abs=0.05)


def test_the_teachers_own_rule_acts(sent: list[np.ndarray]) -> None:
    """Logits 0 and log 3 everywhere: sampled, the second action comes three times in four; greedy, always."""
    teacher = always(1, cartpole_teacher(rule="sampled", recipe=CARTPOLE))
    with torch.no_grad():
        teacher.network.head.bias[1] = float(np.log(3))
    collected(teacher, Source(states=8000, num_envs=8, epsilon=0.0))
    assert np.concatenate(sent).mean() == pytest.approx(0.75, abs=0.025)
    sent.clear()
    greedy = Policy(teacher.network, replace(teacher.spec, rule=cartpole_teacher().spec.rule))
    collected(greedy, Source(states=80, num_envs=8, epsilon=0.0))
    assert np.concatenate(sent).all()


def test_students_act_more_and_more_each_on_its_own_environments(sent: list[np.ndarray]) -> None:
    """The teacher pushes right, two of three students left and the third right: environments 2 and 5 are its own."""
    base = cartpole_teacher(recipe=CARTPOLE)
    teacher, students = always(1, base), [always(0, base), always(0, base), always(1, base)]
    source = Source(states=9000, rounds=3, num_envs=6, epsilon=0.0, teacher_fraction=(1.0, 0.0))
    replay = empty(teacher, CARTPOLE, source)
    collector = Collector(CARTPOLE, teacher, source, seed=0)
    shares = []
    for number in range(3):
        sent.clear()
        collector.collect(replay, number, students)
        halves = [np.stack(sent[k::2]) for k in range(2)]  # environments 0 to 2, and 3 to 5
        shares.append([float(column.mean()) for half in halves for column in half.T])
    collector.close()
    assert shares[0] == [1, 1, 1, 1, 1, 1]
    assert shares[1] == pytest.approx([0.5, 0.5, 1, 0.5, 0.5, 1], abs=0.12)
    assert shares[2] == [0, 0, 1, 0, 0, 1]


def test_states_are_those_that_the_actor_visits() -> None:
    """Pushed right by the teacher the cart gets faster to the right, pushed left by the student to the left."""
    base = cartpole_teacher(recipe=CARTPOLE)
    for fraction, direction in ((1.0, 1.0), (0.0, -1.0)):
        source = Source(states=400, rounds=2, num_envs=4, epsilon=0.0, teacher_fraction=(1.0, fraction))
        replay, _ = collected(always(1, base), source, students=[always(0, base)])
        last = replay.read(np.concatenate([replay.rows()[100 * k + 60 : 100 * (k + 1)] for k in range(4)]))[0]
        assert (last[:, 1].abs() > 0.1).float().mean() > 0.7
        assert float(last[:, 1].mean()) * direction > 0.5
        answers = replay.read(replay.rows())[1]
        assert (answers.argmax(1) == 1).all()  # whoever acts, the teacher answers


def test_a_student_of_another_kind_can_act() -> None:
    student = policy(CARTPOLE, "categorical", TINY)
    source = Source(states=80, rounds=2, num_envs=4, teacher_fraction=(1.0, 0.0))
    replay, _ = collected(TEACHERS["cartpole"], source, students=[student])
    assert len(replay) == 80


def test_students_are_asked_for_where_the_teacher_does_not_always_act() -> None:
    source = Source(states=80, rounds=2, num_envs=4, teacher_fraction=(1.0, 0.0))
    with pytest.raises(ValueError, match="a teacher_fraction below 1 needs students to act"):
        collected(TEACHERS["cartpole"], source)


def test_time_is_accounted_for() -> None:
    _, collector = collected(TEACHERS["cartpole"], Source(states=320, num_envs=4))
    spent = collector.seconds
    assert min(spent.inference, spent.environment, spent.storing) > 0


@pytest.mark.parametrize("fails", [1, 2, 3], ids=["the first half", "the second half", "a twin"])
def test_where_starting_fails_all_that_was_started_is_closed(fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = environment("cartpole_positions", frame_cap=60)
    resets, closed = [0], []
    reset, close = Stepper.reset, Stepper.close

    def failing(stepper: Stepper) -> np.ndarray:
        resets[0] += 1
        if resets[0] == fails:
            raise OSError("no more of them")
        return reset(stepper)

    def counted(stepper: Stepper) -> None:
        closed.append(stepper)
        close(stepper)

    monkeypatch.setattr(Stepper, "reset", failing)
    monkeypatch.setattr(Stepper, "close", counted)
    source = Source(states=40, rounds=1, num_envs=4)
    collector = Collector(shown, cartpole_teacher(), source, seed=0, teacher_environment=CARTPOLE)
    with pytest.raises(OSError, match="no more of them"):
        collector.start()
    assert len(set(map(id, closed))) == (4 if fails == 3 else 2)
