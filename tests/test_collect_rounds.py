"""Tests of `rlkd.collect.rounds`: a round that is played again comes out as it did, with nobody asked."""

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlkd.collect import Collector, Round, keep_round, round_file, take_round
from rlkd.collect.rounds import Trace
from rlkd.data import Step
from rlkd.errors import Stopped, StorageError, WorkerError
from rlkd.metrics import StopSignal
from rlkd.policy import PARAMS, Policy
from rlkd.recipe import Environment, Network, Part, Protocol, Source
from rlkd.replay import Replay
from rlkd.vector import spaces
from rlkd.vector.making import make_vec
from rlkd.vector.stepper import Stepper
from tests.handmade import LINEAR, TINY, TINY_PIXELS, cartpole_teacher, environment, policy, who_is_asked

CARTPOLE, PENDULUM = environment("cartpole", frame_cap=60), environment("pendulum", frame_cap=40)
GRID = environment("doorkey_5x5", frame_cap=30)
PONG = environment("pong", frame_cap=100)  # 25 steps a game; its actions stick with a chance of 0.25
SHOWN = environment("cartpole", frame_cap=60)
POSITIONS = environment("cartpole_positions", frame_cap=60)
TINY_GRID = Network(encoder="conv", channels=(4,), kernels=(2,), strides=(1,), hidden=(16,))
GRU, LSTM = replace(TINY, core="gru", core_width=16), replace(TINY, core="lstm", core_width=8)
SOURCE = Source(states=240, rounds=3, num_envs=4, epsilon=0.2)
MIXED = replace(SOURCE, teacher_fraction=(0.5, 0.0))
PIXELS = PONG.views["pixels"]
IN_PYTHON = replace(PONG, views={"pixels": replace(PIXELS, stack_order="newest_first")})
"""What ale-py's C++ environment cannot express: worker processes play it."""
ABOUT = {"identity": "this run", "round": 0}


@dataclasses.dataclass(frozen=True)
class Case:
    """Who plays what."""

    environment: Environment
    teachers: Sequence[Policy]
    source: Source
    students: Sequence[Policy] = ()
    shown: Environment | None = None

    def collector(self) -> Collector:
        first, *more = self.teachers
        return Collector(
            self.environment, first, self.source, seed=5, more_teachers=more, teacher_environment=self.shown
        )

    def replay(self) -> Replay:
        spec, many = self.teachers[0].spec, 1 + self.source.copies
        return Replay(
            self.source.num_envs * many,
            self.source.states * many,
            spaces(self.environment)[0],
            len(self.teachers) * spec.actions * len(PARAMS[spec.kind]),
            self.environment.views.get("pixels"),
            keeps_actions=spec.discrete,
            keeps_rewards=True,
        )


def made(where: Environment, network: Any = TINY, *, seed: int = 0, **named: Any) -> Policy:
    """One of random weights, large enough for a memory to matter."""
    found = policy(where, named.pop("kind", "categorical"), network, seed=seed, rule="sampled", sharpness=8.0)
    with torch.no_grad():
        for name, tensor in found.network.named_parameters():
            if name.startswith("core.weight"):
                tensor.mul_(3)
    return Policy(found.network, found.spec)


CASES = {
    "cartpole": Case(CARTPOLE, [cartpole_teacher("q", recipe=CARTPOLE)], SOURCE),
    "students act": Case(CARTPOLE, [cartpole_teacher(recipe=CARTPOLE, rule="sampled")], MIXED, [made(CARTPOLE)]),
    "who remembers": Case(CARTPOLE, [made(CARTPOLE, GRU)], MIXED, [made(CARTPOLE, LSTM), made(CARTPOLE)]),
    "two teachers": Case(CARTPOLE, [cartpole_teacher(recipe=CARTPOLE), made(CARTPOLE, LINEAR)], SOURCE),
    "continuous": Case(PENDULUM, [made(PENDULUM, kind="gaussian")], SOURCE),
    "minigrid": Case(GRID, [made(GRID, TINY_GRID)], MIXED, [made(GRID, TINY_GRID, seed=1)]),
    "pong": Case(
        PONG,
        [made(PONG, TINY_PIXELS)],
        replace(MIXED, states=80, rounds=2, num_envs=2),
        [made(PONG, TINY_PIXELS, seed=1)],
    ),
    "worker processes": Case(
        IN_PYTHON, [made(IN_PYTHON, TINY_PIXELS)], replace(SOURCE, states=60, rounds=2, num_envs=2)
    ),
    "two views": Case(POSITIONS, [cartpole_teacher(recipe=SHOWN, rule="sampled")], SOURCE, shown=SHOWN),
    "made up": Case(
        CARTPOLE,
        [cartpole_teacher(recipe=CARTPOLE, rule="sampled")],
        replace(SOURCE, synthetic=Part("munge", {"swap": 0.5}), copies=2),
    ),
    "short rounds": Case(CARTPOLE, [cartpole_teacher(recipe=CARTPOLE)], replace(SOURCE, states=16, rounds=16)),
}


def played(case: Case, known: Sequence[Round]) -> tuple[list[Round], dict[str, Tensor], Collector]:
    """All rounds, the first ones as they are known, and what is in the replay then."""
    collector, replay, rounds = case.collector(), case.replay(), list(known)
    try:
        for each in known:
            collector.take_up(replay, each)
        rest = range(len(known), case.source.rounds)
        rounds += [collector.collect(replay, number, case.students) for number in rest]
    finally:
        collector.close()
    return rounds, replay.tensors(), collector


def same(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    assert mine.keys() == theirs.keys()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return who_is_asked(monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_after_rounds_that_are_played_again_all_goes_on_as_if_they_had_been_the_first(
    name: str, asked: list[str], tmp_path: Path
) -> None:
    case = CASES[name]
    rounds, whole, first = played(case, [])
    assert len(asked) > 0
    kept = []
    for number, each in enumerate(rounds):  # as they come back from files
        keep_round(round_file(tmp_path, number), each, ABOUT)
        kept.append(take_round(round_file(tmp_path, number), ABOUT)[0])
    for count in (1,) if case.environment.source == "ale" else (1, case.source.rounds - 1):
        again, found, second = played(case, kept[:count])
        assert same(found, whole)
        assert [each.seen for each in again] == [each.seen for each in rounds]
        assert all(same(dict(a.memories), dict(b.memories)) for a, b in zip(again, rounds, strict=True))
        assert second.steps == first.steps
        assert second.generator.bit_generator.state == first.generator.bit_generator.state
    asked.clear()
    _, found, last = played(case, kept)
    assert same(found, whole)
    assert asked == []
    assert (last.halves, last.steps) == ([], first.steps)  # nothing more is to be played


def test_the_checksum_of_what_environments_do_has_all_of_it_but_observations_on_the_way() -> None:
    def told(*, last: int = 0, **other: Any) -> str:
        plain = {"reward": np.zeros(2), "terminated": np.zeros(2, bool), "truncated": np.zeros(2, bool)}
        plain |= {"first": np.zeros(2, bool), "observation": np.zeros((2, 3)), "arrived": np.zeros((2, 3))}
        none = np.zeros(2, bool)
        trace = Trace()
        for changes in ({}, other):
            trace.add(Step(**(plain | changes), life_lost=none, valid=~none, broken=none))
        return trace.end([np.full((2, 3), last)])

    one = np.array([False, True])
    others = [told(reward=np.ones(2)), told(terminated=one), told(truncated=~one), told(first=one), told(last=1)]
    assert len({told(), *others}) == 6
    assert told(observation=np.ones((2, 3))) == told()


def test_only_the_replay_holds_the_states_of_a_round_that_was_taken_up() -> None:
    case = CASES["cartpole"]
    rounds, _, _ = played(case, [])
    collector = case.collector()
    collector.take_up(case.replay(), rounds[0])
    assert len(rounds[0].brought["frames"]) == 80
    assert [each.brought for each in collector.behind] == [{}]


def test_a_stop_is_heard_within_a_round_that_is_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    case, stop, start = CASES["cartpole"], StopSignal(), Collector.start
    rounds, _, _ = played(case, [])

    def asked_for_once_all_run(collector: Collector) -> None:
        start(collector)
        stop.asked = True

    monkeypatch.setattr(Collector, "start", asked_for_once_all_run)
    collector = case.collector()
    try:
        collector.take_up(case.replay(), rounds[0])
        with pytest.raises(Stopped, match="all up to its last checkpoint is saved"):
            collector.catch_up((), stop)
    finally:
        collector.close()


@pytest.mark.parametrize("name", ["cartpole", "continuous", "minigrid"])
def test_without_the_random_stream_of_a_rounds_end_what_follows_is_otherwise(name: str) -> None:
    rounds, whole, _ = played(CASES[name], [])
    begin = np.random.default_rng([5, 3]).bit_generator.state
    lost = [replace(each, generator=begin) for each in rounds]
    assert not same(played(CASES[name], lost[:1])[1], whole)


def test_without_what_was_remembered_what_follows_is_otherwise() -> None:
    case = CASES["who remembers"]
    first, second, _ = played(case, [])[0]
    some = {name: state for name, state in first.memories.items() if not name.startswith("student")}
    other = played(case, [replace(first, memories=some)])[0][1]
    assert not torch.equal(other.memories["student.0.0"], second.memories["student.0.0"])
    assert torch.equal(other.memories["teacher.0.0"], second.memories["teacher.0.0"])
    with pytest.raises(ValueError, match="state"):  # a teacher is told where it has none
        played(case, [replace(first, memories={})])


@pytest.mark.parametrize("other", ["actions", "fewer actions", "seen"])
def test_an_environment_that_does_something_else_is_told(other: str) -> None:
    case = CASES["cartpole"]
    rounds, _, _ = played(case, [])
    first, flipped = rounds[0], rounds[0].actions[0].copy()
    flipped[0] = 1 - flipped[0]
    known = {
        "actions": replace(first, actions=(flipped, first.actions[1])),
        "fewer actions": replace(first, actions=(first.actions[0][:-1], first.actions[1])),
        "seen": replace(first, seen="something else"),
    }[other]
    with pytest.raises(
        StorageError, match="what was played in CartPole-v1 cannot be played again: it gives other states"
    ) as told:
        played(case, [known])
    assert f"torch {torch.__version__.partition('+')[0]}" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_changed_file_of_a_round_is_known(tmp_path: Path) -> None:
    case = CASES["students act"]
    rounds, _, _ = played(case, [])
    path = round_file(tmp_path, 0)
    keep_round(path, rounds[0], ABOUT)
    content = path.read_bytes()
    take_round(path, ABOUT)
    for place in np.random.default_rng(0).integers(len(content), size=200):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(
            StorageError, match=r"round-000\.safetensors: damaged, of another version, or of another run$"
        ):
            take_round(path, ABOUT)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StorageError, match="damaged"):
        take_round(path, ABOUT)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="of another run"):
        take_round(path, ABOUT | {"round": 1})
    with pytest.raises(StorageError, match=r"round-001\.safetensors: no such file"):
        take_round(round_file(tmp_path, 1), ABOUT)


def test_episodes_that_a_lost_worker_began_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = tmp_path / "once"
    once.touch()
    recipe = Environment(
        source="gymnasium",
        id="tests.faulty:Counting-v0",
        frame_cap=100,
        protocol=Protocol(name="faulty"),
        options={"fault": "kill", "at": 5, "once": str(once)},
    )

    def in_workers(env: Environment, num_envs: int, seed: int) -> Any:
        return make_vec(env, num_envs, seed, backend="workers", threads=1, timeout=20)

    monkeypatch.setattr("rlkd.vector.making.make_vec", in_workers)
    once.unlink()
    case = Case(recipe, [made(recipe)], replace(SOURCE, states=120))
    plain, _, _ = played(case, [])
    once.touch()
    with pytest.raises(WorkerError, match="lost while rounds were played again; .* the same command goes on"):
        played(case, plain[:-1])
    assert not once.exists()
    once.touch()
    rounds, whole, _ = played(case, [])
    assert not once.exists()
    lost = [each for round_ in rounds for each in round_.lost]
    assert len(lost) == 2  # of one worker, which has both rows of a half
    assert same(played(case, rounds)[1], whole)
    with pytest.raises(StorageError, match="cannot be played again"):
        played(case, [replace(each, lost=()) for each in rounds[:-1]])
    keep_round(round_file(tmp_path, 0), rounds[0], ABOUT)
    assert take_round(round_file(tmp_path, 0), ABOUT)[0].lost == rounds[0].lost


def test_a_step_can_be_let_come_out_as_one_that_lost_rows() -> None:
    env = Stepper(make_vec(IN_PYTHON, 2, seed=3, backend="workers", threads=1))
    try:
        env.reset()
        env.lose({1: 77})
        step = env.step(np.zeros(2, np.int64))
        assert step.broken.tolist() == [False, True]
        assert step.first.tolist() == [False, True]
        assert not env.step(np.zeros(2, np.int64)).broken.any()
    finally:
        env.close()
