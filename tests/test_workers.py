"""Tests of worker processes: they die, freeze and raise; rows begin anew, nothing is left behind, a run may stop."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from rlkd.collect import Collector
from rlkd.data import Step
from rlkd.errors import RecipeError, StorageError, WorkerError
from rlkd.evaluation import play
from rlkd.recipe import Environment, Network, Source
from rlkd.replay import Replay
from rlkd.vector import Stepper, WorkerVectorEnv, make_vec, making, replay_fault, replaying
from rlkd.vector.faults import Counter
from tests.faulty import STEPS, Counting, counting
from tests.handmade import TINY, policy

FAULTS = {
    "exit": "it exited with code 7",
    "kill": "it was killed by SIGKILL",
    "freeze": "no answer within 1 s",
    "raise": r"ArithmeticError: a deliberate fault \(.*faulty.py:\d+\)",
}
ROOT = Path(__file__).parent.parent
IDLE = np.zeros(4, np.int64)


def four(recipe: Environment, *, seed: int = 0, timeout: float = 20.0) -> WorkerVectorEnv:
    """Four environments in two workers: rows 0 and 1, rows 2 and 3."""
    env = make_vec(recipe, 4, seed, backend="workers", threads=2, timeout=timeout)
    assert isinstance(env, WorkerVectorEnv)
    return env


def pids(env: WorkerVectorEnv) -> list[int]:
    return [worker.process.pid for worker in env.workers]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be asked does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of faults are not left among everybody's temporary ones."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def once(tmp_path: Path) -> str:
    """A file that one fault uses up."""
    path = tmp_path / "once"
    path.touch()
    return str(path)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_breaks_the_episodes_of_one_worker_and_disturbs_no_other(
    fault: str, once: str, capfd: pytest.CaptureFixture[str]
) -> None:
    stepper = Stepper(four(counting(fault=fault, at=4, seed=1, once=once), timeout=1.0 if fault == "freeze" else 20.0))
    stepper.reset(np.arange(4))
    steps = [stepper.step(IDLE) for _ in range(14)]
    stepper.close()
    broken = steps[3]
    assert broken.broken.tolist() == broken.first.tolist() == [True, True, False, False]
    assert broken.valid.tolist() == [False, False, True, True]
    assert broken.reward.tolist() == [0, 0, 3, 4]
    assert not broken.ended.any()
    assert not broken.life_lost[:2].any()
    assert broken.observation[:, 0].tolist() == [0, 0, 4, 4]  # the first observation of another episode
    assert not any(step.broken.any() for step in steps if step is not broken)
    assert steps[4].observation[:, 0].tolist() == [1, 1, 5, 5]
    assert [step.observation[2, 0] for step in steps] == [*range(1, 11), 0, 1, 2, 3]
    # All episodes of ten steps; the ones that broke are counted nowhere.
    assert [(episode.steps, episode.score % 10) for episode in stepper.finished] == [(10, 0)] * 4
    assert [episode.score for episode in stepper.finished[:2]] == [30, 40]
    line = capfd.readouterr().err
    assert re.fullmatch(
        f".*Counting-v0: environment 1 at step 4 of an episode after seed 1: {FAULTS[fault]}; "
        "its worker starts again with 2 new episodes\n",
        line,
    ), line


def always(recipe: Environment, timeout: float = 20.0) -> str:
    """What stops four environments whose row 1 begins every time with seed 1."""
    env = four(recipe, timeout=timeout)
    stepper = Stepper(env)

    def play_on() -> None:
        for _ in range(4):
            stepper.reset(np.arange(4))
            for _ in range(STEPS):
                stepper.step(IDLE + 2)

    with pytest.raises(WorkerError) as stop:
        play_on()
    stepper.close()
    assert not any(alive(pid) for pid in pids(env))
    return str(stop.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_three_faults_in_a_row_stop_with_a_file_that_shows_the_fault_again(fault: str, tmp_path: Path) -> None:
    message = always(counting(fault=fault, at=4, seed=1), timeout=1.0 if fault == "freeze" else 20.0)
    found = re.fullmatch(
        f".*Counting-v0: environment 1 at step 4 of an episode after seed 1: {FAULTS[fault]}; 3 faults in a row; "
        "its seed and actions are in (.*), play them again with: python (-c .*)",
        message,
    )
    assert found, message
    path = Path(found[1])
    try:
        if fault == "raise":
            with pytest.raises(ArithmeticError, match="a deliberate\nfault") as raised:
                replay_fault(path)
            assert Path(str(raised.traceback[-1].path)).name == "faulty.py"
        command = [sys.executable, *shlex.split(found[2])]
        if fault == "freeze":
            with pytest.raises(subprocess.TimeoutExpired):
                subprocess.run(command, cwd=ROOT, timeout=5, check=False)
            return
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == {"exit": 7, "kill": -signal.SIGKILL, "raise": 1}[fault]
        assert ("ArithmeticError: a deliberate" in done.stderr) == (fault == "raise")
    finally:
        path.unlink()


def test_a_fault_in_every_reset_stops_before_the_first_step() -> None:
    with pytest.raises(WorkerError, match="environment [02] at step 0 .*ArithmeticError.*3 faults in a row"):
        four(counting(fault="raise", at=0))


def test_a_reset_that_fails_once_is_tried_again_with_its_seed_and_breaks_its_neighbours(once: str) -> None:
    stepper = Stepper(four(counting(fault="exit", at=0, seed=77, once=once)))
    stepper.reset(np.arange(4))
    for _ in range(STEPS):
        step = stepper.step(IDLE)
    assert step.ended.all()
    stepper.reset_rows(np.array([True, False, True, False]), np.array([5, 6]))
    step = stepper.step(IDLE)  # rows 1 and 3 begin by themselves
    stepper.finished.clear()
    observation = stepper.reset_rows(np.array([True, False, False, False]), np.array([77]))
    assert observation[0].tolist() == [0, 77]
    step = stepper.step(IDLE)
    assert step.broken.tolist() == [False, True, False, False]
    assert step.valid.tolist() == [True, False, True, True]
    assert step.observation[:, 0].tolist() == [1, 0, 2, 1]  # row 1 stands where its new episode begins
    step = stepper.step(IDLE)
    assert step.valid.all()
    assert step.observation[:, 0].tolist() == [2, 1, 3, 2]
    stepper.close()


def test_an_episode_that_was_over_when_its_worker_died_is_not_broken(once: str) -> None:
    env = four(counting())
    stepper = Stepper(env)
    stepper.reset(np.arange(4))
    for _ in range(STEPS):
        stepper.step(IDLE)
    os.kill(pids(env)[0], signal.SIGKILL)
    step = stepper.step(IDLE)
    assert not step.broken.any()
    assert step.first.all()
    assert not step.valid.any()
    assert len(stepper.finished) == 4
    stepper.close()


def test_killed_from_outside_again_and_again_it_goes_on_as_long_as_steps_are_completed() -> None:
    env = four(counting())
    stepper = Stepper(env)
    stepper.reset(np.arange(4))
    for n in range(1, 7):
        os.kill(pids(env)[0], signal.SIGKILL)
        assert stepper.step(IDLE).broken.tolist() == [True, True, False, False]
        for _ in range(n):
            assert stepper.step(IDLE).valid[:2].all()
    stepper.close()


def test_a_worker_that_is_stopped_is_noticed_within_its_timeout() -> None:
    env = four(counting(), timeout=2.0)
    stepper = Stepper(env)
    stepper.reset(np.arange(4))
    stopped = pids(env)[1]
    os.kill(stopped, signal.SIGSTOP)
    started = time.monotonic()
    assert stepper.step(IDLE).broken.tolist() == [False, False, True, True]
    assert 1.5 < time.monotonic() - started < 30
    assert not alive(stopped)
    stepper.close()


def test_new_episodes_after_a_fault_come_from_the_seed_of_the_vector_environment(tmp_path: Path) -> None:
    def begun(seed: int) -> list[float]:
        (tmp_path / "once").touch()
        stepper = Stepper(four(counting(fault="kill", at=2, seed=1, once=str(tmp_path / "once")), seed=seed))
        stepper.reset(np.arange(4))
        steps = [stepper.step(IDLE) for _ in range(13)]
        stepper.close()
        assert steps[1].broken[:2].all()
        return [float(step.observation[row, 1]) for step in (steps[1], steps[12]) for row in range(4)]

    one, again, other = begun(5), begun(5), begun(6)
    assert one == again
    assert len({*one[:2], *other[:2]}) == 4


def test_an_environment_that_cannot_be_made_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="gymnasium cannot make '.*Counting-v0'.*wheels"):
        four(counting(wheels=4))
    gymnasium.register("OnlyHere-v0", entry_point="tests.faulty:Counting")
    try:
        with pytest.raises(RecipeError, match="gymnasium cannot make 'OnlyHere-v0'"):
            make_vec("OnlyHere-v0", 2, seed=0, backend="workers")
    finally:
        del gymnasium.registry["OnlyHere-v0"]
    ghost = tmp_path / "ghost"
    ghost.touch()
    env = four(counting(make=str(ghost)))
    ghost.unlink()
    os.kill(pids(env)[0], signal.SIGKILL)
    with pytest.raises(WorkerError, match="OSError: no more of them.*3 faults in a row"):
        env.step(IDLE)
    env.close()


def test_where_a_second_half_cannot_be_made_the_first_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost = tmp_path / "ghost"
    ghost.touch()
    made: list[WorkerVectorEnv] = []

    def once(env: str | Environment, num_envs: int, seed: int) -> WorkerVectorEnv:
        first = make_vec(env, num_envs, seed, backend="workers", threads=1)
        assert isinstance(first, WorkerVectorEnv)
        made.append(first)
        ghost.unlink()
        return first

    monkeypatch.setattr(making, "make_vec", once)
    with pytest.raises(OSError, match="no more of them"):
        making.make_halves(counting(make=str(ghost)), 2, np.random.default_rng(0))
    assert [alive(pid) for pid in pids(made[0])] == [False]


def test_faults_are_in_a_row_only_without_a_completed_step_or_at_the_same_step_of_an_episode() -> None:
    counter = Counter(num_envs=4, workers=2)
    assert [counter.count(0, 0, step) for step in (1, 2, 3)] == [False, False, True]
    for between, last in (([], True), ([1], False), ([2], True)):
        counter = Counter(num_envs=4, workers=2)
        counted = []
        for _ in range(3):
            counted.append(counter.count(0, 1, 9))
            counter.completed(0, between)  # in which episodes of these rows ended
        assert counted == [False, False, last]


class Recorded(Counting):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, int | None]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        self.told.append(("reset", seed))
        return super().reset(seed=seed)

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.told.append(("step", int(action)))
        return super().step(action)


def _itself(env: Recorded) -> Recorded:
    return env


def _other_than(env: Recorded, recipe: Environment) -> Recorded:
    return env


def test_a_replay_tells_an_environment_what_it_was_told_since_its_last_seed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    env, recorded = four(counting()), [Recorded() for _ in range(4)]
    sync = SyncVectorEnv([partial(_itself, each) for each in recorded])
    draws = np.random.default_rng(0)
    for each in (env, sync):
        each.reset(seed=3)
        each.reset(seed=9)
    for by_hand in (0, 0, 7, 26):
        for each in (env, sync):
            each.reset(options={"reset_mask": np.array([False, True, False, True])})
        for _ in range(by_hand):
            actions = draws.integers(3, size=4)
            for each in (env, sync):
                each.step(actions)
    assert isinstance(env, WorkerVectorEnv)
    for row, other in enumerate(recorded):
        path = env.histories.write(row, counting(), "for once none")
        alone = Recorded()
        monkeypatch.setattr(replaying, "make", partial(_other_than, alone))
        replay_fault(path)
        path.unlink()
        last = max(n for n, told in enumerate(other.told) if told == ("reset", 9 + row))
        assert alone.told == other.told[last:]
        assert len(alone.told) > 30
    env.close()
    assert capfd.readouterr().err.count("steps went through; the fault depends on more than seed and actions") == 4


def test_continuous_actions_are_replayed_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_vec("Pendulum-v1", 2, seed=0, backend="workers", threads=1)
    assert isinstance(env, WorkerVectorEnv)
    actions = np.random.default_rng(0).uniform(-2, 2, (5, 2, 1)).astype(np.float32)
    for each in actions:
        env.step(each)
    path = env.histories.write(1, env.recipe, "none")
    env.close()
    recipe, seed, resets, kept = replaying._read(path)
    path.unlink()
    assert (recipe, seed, resets) == (env.recipe, 1, [])
    assert np.array_equal(kept, actions[:, 1])


def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fault.npz"
    path.write_bytes(b"nothing")
    for each in (path, tmp_path / "nowhere.npz"):
        with pytest.raises(StorageError, match=f"{each}: not a file of a fault"):
            replay_fault(each)


def test_what_cannot_be_done_is_refused() -> None:
    env = four(counting())
    with pytest.raises(ValueError, match=r"actions must be \[4\], got \[3\]"):
        env.step(np.zeros(3))
    with pytest.raises(ValueError, match="no step is under way"):
        env.step_wait()
    with pytest.raises(ValueError, match="need a seed for each of 4 environments, got 1"):
        env.reset(seed=[1])
    for mask in (np.zeros(4, bool), np.ones(3, bool), np.ones(4)):
        with pytest.raises(ValueError, match=r"reset_mask must be \[4\] bool with at least one True"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="the only option of a reset is reset_mask, got \\['speed'\\]"):
        env.reset(options={"speed": 2})
    env.step_async(IDLE)
    with pytest.raises(ValueError, match="a step is under way"):
        env.step_async(IDLE)
    observation, _ = env.reset(seed=5)  # as after a step that a signal broke off
    assert observation[:, 1].tolist() == [5, 6, 7, 8]
    env.close()
    with pytest.raises(RecipeError, match="observations must be a Box, got Discrete"):
        make_vec("FrozenLake-v1", 2, seed=0, backend="workers")


def test_closing_in_the_middle_of_a_frozen_step_is_quick_and_leaves_no_process() -> None:
    env = four(counting(fault="freeze", at=2))
    before = len(list(Path("/proc/self/fd").iterdir()))
    stepper = Stepper(env)
    stepper.reset(np.arange(4))
    stepper.step(IDLE)
    stepper.send(IDLE)
    started = time.monotonic()
    stepper.close()
    assert time.monotonic() - started < 5
    assert not any(alive(pid) for pid in pids(env))
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 5  # two pipes a worker, and the memory
    stepper.close()


PARENT = """
import sys, time
import numpy as np
from rlkd.vector import make_vec
from tests.faulty import counting
env = make_vec(counting(fault="freeze", at=2), 4, seed=0, backend="workers", threads=2)
env.step(np.zeros(4, int))
print(*(worker.process.pid for worker in env.workers), "torch" in sys.modules, flush=True)
"""


def parent(end: str) -> "subprocess.Popen[str]":
    """A script without `if __name__ == "__main__"`, which has four environments and comes to an end."""
    return subprocess.Popen(
        [sys.executable, "-c", PARENT + end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


@pytest.mark.parametrize("busy", ["", "env.step_async(np.zeros(4, int))\n"], ids=["idle", "frozen"])
def test_workers_die_with_a_parent_that_is_killed(busy: str) -> None:
    with parent(busy + "time.sleep(1000)") as process:
        assert process.stdout is not None
        first, second, torch = process.stdout.readline().split()
        assert torch == "False"  # nor did anything else of the script's load it
        assert alive(int(first))
        assert alive(int(second))
        os.kill(int(second), signal.SIGSTOP)
        process.kill()
        wait_until(lambda: not alive(int(first)) and not alive(int(second)), 5)
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "end",
    ["", "env.close()", "env.step_async(np.zeros(4, int))", "import os; os._exit(0)"],
    ids=["never closed", "closed", "in a step", "at once"],
)
def test_a_script_that_ends_leaves_neither_processes_nor_complaints(end: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # a file: what a worker would import again, if it imported the caller's script
    script.write_text(PARENT + end)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    wait_until(lambda: not any(alive(int(pid)) for pid in done.stdout.split()[:2]), 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_workers_ignore_the_signals_that_their_parent_decides_about(number: signal.Signals) -> None:
    env = four(counting())
    stepper = Stepper(env)
    stepper.reset(np.arange(4))
    for pid in pids(env):
        assert os.getpgid(pid) == pid  # a terminal's Ctrl-C does not even reach them, which matters while they start
        os.kill(pid, number)
    assert stepper.step(IDLE).valid.all()
    stepper.close()


@pytest.fixture
def on_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation and collecting play cheap environments, too, in worker processes."""
    for module in (sys.modules[play.__module__], making):
        monkeypatch.setattr(
            module, "make_vec", lambda env, n, seed: make_vec(env, n, seed, backend="workers", threads=2)
        )


@pytest.mark.usefixtures("on_workers")
@pytest.mark.parametrize("network", [TINY, Network(encoder="mlp", hidden=(8,), core="gru", core_width=8)])
def test_scores_and_states_of_an_evaluation_do_not_depend_on_a_fault(network: Network, once: str) -> None:
    smooth = counting()
    player = policy(smooth, "categorical", network, rule="sampled", sharpness=3)
    faulty = counting(fault="kill", at=7, seed=1_000_003, once=once)
    want = play(player, smooth, episodes=9, num_envs=6, keep_states=30)
    got = play(player, faulty, episodes=9, num_envs=6, keep_states=30)
    assert not Path(once).exists()
    assert got.evaluation == want.evaluation
    assert np.array_equal(got.states, want.states)
    assert set(want.evaluation.steps) == {STEPS}


@pytest.mark.usefixtures("on_workers")
def test_an_evaluation_stops_at_an_episode_that_breaks_every_time(once: str) -> None:
    faulty = counting(fault="raise", at=7, seed=1_000_003)
    player = policy(faulty, "categorical", TINY)
    with pytest.raises(WorkerError, match="at step 7 of an episode after seed 1000003: .*3 faults in a row"):
        play(player, faulty, episodes=9, num_envs=6)


@pytest.mark.usefixtures("on_workers")
def test_collecting_goes_on_after_a_fault_and_every_episode_is_marked_where_it_begins(
    once: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Step] = []
    receive = Stepper.receive

    def spy(stepper: Stepper) -> Step:
        steps.append(receive(stepper))
        return steps[-1]

    monkeypatch.setattr(Stepper, "receive", spy)
    recipe = counting(fault="kill", at=5, once=once)
    teacher = policy(recipe, "categorical", TINY, rule="sampled")
    replay = Replay(4, 120, (2,), 3, None)
    collector = Collector(recipe, teacher, Source(states=120, rounds=1, num_envs=4), seed=0)
    try:
        collector.collect(replay, 0, ())
    finally:
        collector.close()
    assert sum(step.broken.sum() for step in steps) in (1, 2)  # of one worker, which has one row of a half
    rows = replay.rows()
    states, _ = replay.read(rows)
    assert np.array_equal(replay.begins(rows), states[:, 0].numpy() == 0)
    assert len(replay) == 120
