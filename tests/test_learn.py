"""Tests of `rlkd.learn`: PPO learns what is known to be learnable, repeats itself, and loses nothing when it stops."""

import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch

from rlkd import recipe as recipes
from rlkd import storage
from rlkd.errors import NotFiniteError, StorageError
from rlkd.learn import train
from rlkd.learn.checkpoint import FILE
from rlkd.learn.chunks import ChunkSampler
from rlkd.learn.dqn import train_dqn
from rlkd.learn.ppo import train_ppo
from rlkd.learn.rollout import Sampler
from rlkd.metrics import read_metrics
from rlkd.policy import load_policy
from rlkd.recipe import Dqn, Ppo
from rlkd.vector import Stepper, as_recipe, make, make_vec
from tests.test_metrics import SCORE, tensorboard_curve

CLASSIC = recipes.load("rl/ppo_classic", Ppo)
VALUES = recipes.load("rl/dqn_classic", Dqn)
SHORT = dataclasses.replace(CLASSIC, frames=1024, num_envs=4, rollout_steps=32, epochs=2, minibatch=64)
POLICY = Path("generations") / "000" / "policy.safetensors"


def curve(run: Path) -> list[int]:
    """Agent steps of the lines in the run's record."""
    return [line["step"] for line in read_metrics(run)]


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        pytest.param("cartpole", 450.0, id="cartpole: at most 500, random 22"),
        pytest.param("acrobot", -110.0, id="acrobot: at best about -60, random -500", marks=pytest.mark.slow),
    ],
)
def test_ppo_learns_within_a_minute(env: str, wanted: float, tmp_path: Path) -> None:
    started = time.process_time()
    policy = train_ppo(as_recipe(env), CLASSIC, run=tmp_path, seed=0)
    assert time.process_time() - started < 60
    last = read_metrics(tmp_path)[-1]
    assert last[SCORE] >= wanted  # mean of the last 100 episodes, while still exploring
    assert last["step"] >= CLASSIC.frames
    step, score = tensorboard_curve(tmp_path)[-1]
    assert step == last["step"]
    assert score == pytest.approx(last[SCORE])
    saved = load_policy(tmp_path / POLICY)
    assert saved.spec == policy.spec
    scores = []
    for seed in range(1_000_000, 1_000_010):  # and in an environment of gymnasium's own, by the file alone
        game = make(env)
        observation, _ = game.reset(seed=seed)
        score, over = 0.0, False
        while not over:
            action, _ = saved.predict(observation)
            observation, reward, terminated, truncated, _ = game.step(action)
            score, over = score + float(reward), terminated or truncated
        scores.append(score)
    assert np.mean(scores) >= wanted


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    one, again, other = (
        train_ppo(as_recipe("cartpole"), SHORT, run=tmp_path / name, seed=seed)
        for name, seed in (("one", 3), ("again", 3), ("other", 4))
    )
    weights = one.network.state_dict()
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    assert one.spec.hash == again.spec.hash != other.spec.hash
    assert not torch.equal(weights["head.weight"], other.network.state_dict()["head.weight"])


def test_a_finished_run_started_again_changes_nothing(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        policy = train_ppo(as_recipe("cartpole"), SHORT, run=tmp_path, seed=0)
        checkpoint = (tmp_path / FILE).read_bytes()
        found.append((policy.spec.hash, checkpoint, curve(tmp_path), tensorboard_curve(tmp_path)))
    assert found[0] == found[1]
    assert curve(tmp_path)[-1] == 1024


ENDLESS = """
import dataclasses, sys
from pathlib import Path
from rlkd import recipe
from rlkd.errors import Stopped
from rlkd.learn.ppo import train_ppo
from rlkd.recipe import Ppo
from rlkd.vector import as_recipe
agent = dataclasses.replace(recipe.load("rl/ppo_classic", Ppo), frames=10**9, checkpoint_seconds=0.3)
try:
    train_ppo(as_recipe("cartpole"), agent, run=Path(sys.argv[1]), seed=0)
except Stopped as stopped:
    print(stopped)
    sys.exit(stopped.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_where_it_was_with_one_curve(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while len(curve(tmp_path)) < 5 or not (tmp_path / FILE).exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        said = process.communicate()[0]
    before = curve(tmp_path)
    saved = checkpoint_progress(tmp_path)["steps"]
    if number != signal.SIGKILL:
        assert process.returncode == 3
        assert said == (
            f"stopped on a signal; run {tmp_path} is saved at agent step {saved}; the same command goes on\n"
        )
    agent = dataclasses.replace(CLASSIC, frames=saved + 6000)
    train_ppo(as_recipe("cartpole"), agent, run=tmp_path, seed=0)
    after = curve(tmp_path)
    kept = [step for step in before if step <= saved]
    assert kept
    assert after[: len(kept)] == kept
    assert len(after) > len(kept)
    assert after == sorted(set(after))
    assert after[-1] == checkpoint_progress(tmp_path)["steps"] >= saved + 6000
    shown = [step for step, _ in tensorboard_curve(tmp_path)]
    assert shown == [step for step in after if step in shown]
    assert shown[-1] == after[-1]
    if number != signal.SIGKILL:  # TensorBoard's writer holds back its last two minutes
        assert set(kept) <= set(shown)


def checkpoint_progress(run: Path) -> dict[str, Any]:
    with safetensors.safe_open(str(run / FILE), framework="pt") as opened:
        progress: dict[str, Any] = json.loads(opened.metadata()["progress"])
    return progress


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a short run with seed 0."""
    run = tmp_path_factory.mktemp("finished")
    train_ppo(as_recipe("cartpole"), SHORT, run=run, seed=0)
    return (run / FILE).read_bytes()


@pytest.mark.parametrize(
    ("env", "changes", "seed"),
    [
        pytest.param("cartpole", {"network": "WIDE"}, 0, id="other network"),
        pytest.param("acrobot", {}, 0, id="other environment"),
        pytest.param("cartpole", {}, 1, id="other seed"),
    ],
)
def test_a_run_folder_that_holds_another_run_is_refused_and_kept(
    env: str, changes: dict[str, Any], seed: int, finished: bytes, tmp_path: Path
) -> None:
    path = tmp_path / FILE
    path.write_bytes(finished)
    if changes.get("network"):
        wide = tmp_path / "wide.toml"
        wide.write_text('kind = "network"\nencoder = "mlp"\nhidden = [128]\n')
        changes = {"network": str(wide)}
    with pytest.raises(
        StorageError, match=r"holds a run with another environment, network, start or seed \(0\); name another --run"
    ):
        train_ppo(as_recipe(env), dataclasses.replace(SHORT, **changes), run=tmp_path, seed=seed)
    assert path.read_bytes() == finished


def test_a_run_goes_on_with_other_rates_and_its_checkpoint_says_since_when(
    finished: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE).write_bytes(finished)
    before = checkpoint_progress(tmp_path)
    slower = dataclasses.replace(SHORT, learning_rate=1e-4, frames=2 * SHORT.frames)
    train_ppo(as_recipe("cartpole"), slower, run=tmp_path, seed=0)
    after = checkpoint_progress(tmp_path)
    assert after["steps"] > before["steps"]
    assert after["chunks"][0] == before["chunks"][0]
    assert [int(chunk.split()[0]) for chunk in after["chunks"]] == [0, before["steps"]]
    assert f"going on at agent step {before['steps']} with another agent recipe" in capsys.readouterr().err


def damaged(content: bytes, how: str) -> bytes:
    if how in ("empty", "cut off", "not a checkpoint"):
        return {"empty": b"", "cut off": content[:-100], "not a checkpoint": b"\x00" * 4096}[how]
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    progress = header["__metadata__"]["progress"]
    if how == "a weight is missing":
        del tensors["network.head.weight"]
    elif how == "a weight has another shape":
        tensors["network.head.weight"] = torch.zeros(3, 3)
    else:
        progress = {"no progress": None, "progress is no table": "[1]", "progress is cut off": progress[:-5]}.get(
            how, json.dumps(json.loads(progress) | {"steps": "many"})
        )
    return safetensors.torch.save(tensors, metadata={} if progress is None else {"progress": progress})


def test_a_run_that_was_saved_under_other_versions_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("network='mlp_16'", "num_envs=4", "rollout_steps=32")
    train("cartpole", "rl/ppo_classic", run=tmp_path, frames=256, overrides=small)
    train("cartpole", "rl/ppo_classic", run=tmp_path, frames=512, overrides=small)
    assert "was saved under" not in capsys.readouterr().err
    now = storage.versions()
    monkeypatch.setattr(storage, "versions", lambda: now | {"numpy": "9.0"})
    train("cartpole", "rl/ppo_classic", run=tmp_path, frames=768, overrides=small)
    assert f"was saved under numpy {now['numpy']}, now 9.0: it goes on" in capsys.readouterr().err
    train("cartpole", "rl/ppo_classic", run=tmp_path, frames=1024, overrides=small)
    assert "was saved under" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "how",
    [
        *("empty", "cut off", "not a checkpoint", "a weight is missing", "a weight has another shape"),
        *("no progress", "progress is no table", "progress is cut off", "a count is no number"),
    ],
)
def test_a_damaged_checkpoint_is_named(how: str, finished: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(damaged(finished, how))
    with pytest.raises(StorageError, match=rf"{FILE}: damaged; delete it to start this run afresh"):
        train_ppo(as_recipe("cartpole"), SHORT, run=tmp_path, seed=0)


def test_continuous_actions_stay_finite_and_inside_their_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[np.ndarray] = []
    real = Stepper.send

    def watched(self: Stepper, actions: np.ndarray) -> None:
        played.append(actions.copy())
        real(self, actions)

    monkeypatch.setattr(Stepper, "send", watched)
    policy = train_ppo(as_recipe("pendulum"), SHORT, run=tmp_path, seed=0)
    assert policy.spec.kind == "gaussian"
    for name, tensor in policy.network.state_dict().items():
        assert torch.isfinite(tensor).all(), name
    assert policy.network.log_std is not None
    assert policy.network.log_std.abs().max() > 0  # it learns how widely to explore
    assert all(actions.shape == (2, 1) and np.abs(actions).max() <= 2 for actions in played)
    assert max(np.abs(actions).max() for actions in played) == 2  # clipped at the bound, but only for the environment
    (line,) = read_metrics(tmp_path)[-1:]
    assert all(np.isfinite(value) for value in line.values())


@pytest.mark.parametrize(("file", "kind"), [("students.checkpoint.safetensors", "distill"), ("random.json", "evolve")])
def test_a_folder_of_another_verb_is_refused(file: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("theirs")
    for agent in ("rl/ppo_classic", "sb3/ppo"):
        with pytest.raises(StorageError, match=f"holds a run of `rlkd {kind}`; name another --run"):
            train("cartpole", agent, run=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {file, ".lock"}


class Recall(gymnasium.Env[np.ndarray, np.int64]):
    """A cue is shown in the first of four steps; the last action has to name it: at best 1, without memory 0.5."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cue, self.step_number = int(self.np_random.integers(2)), 0
        return np.array([2 * self.cue - 1, 0], np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        last = self.step_number == 4
        reward = float(last and action == self.cue)
        return np.array([0, self.step_number / 4], np.float32), reward, last, False, {}


gymnasium.register("Recall-v0", f"{__name__}:Recall", max_episode_steps=10)


@pytest.mark.parametrize(("core", "least", "most"), [("gru", 0.95, 1.0), ("none", 0.3, 0.7)])
def test_who_remembers_learns_what_only_memory_can_know(core: str, least: float, most: float, tmp_path: Path) -> None:
    network = tmp_path / "network.toml"
    network.write_text(f'kind = "network"\nencoder = "mlp"\nhidden = [16]\ncore = "{core}"\ncore_width = 16\n')
    agent = dataclasses.replace(
        SHORT, network=str(network), frames=15_000, num_envs=16, rollout_steps=30, minibatch=120, epochs=4
    )
    policy = train_ppo(as_recipe("Recall-v0"), agent, run=tmp_path / "run", seed=0)
    assert least <= read_metrics(tmp_path / "run")[-1][SCORE] <= most
    assert policy.recurrent == (core == "gru")


def test_early_policies_are_kept_on_request_and_the_best_and_last_always(tmp_path: Path) -> None:
    for keep, frames in ((False, SHORT.frames), (True, 12_800)):
        agent, run = dataclasses.replace(SHORT, frames=frames), tmp_path / str(keep)
        train_ppo(as_recipe("cartpole"), agent, run=run, seed=0, keep_early=keep)
        early = sorted(path.stem for path in run.glob("early/*.safetensors"))
        assert early == (["001", "002", "005", "010", "025", "050", "075", "100"] if keep else [])
        assert load_policy(run / "best.safetensors").spec.environment == as_recipe("cartpole")
    last, tenth, whole = (
        load_policy(tmp_path / "True" / name) for name in (POLICY, "early/010.safetensors", "early/100.safetensors")
    )
    assert tenth.spec.origin.endswith("at agent step 1,280")
    assert whole.spec.hash == last.spec.hash != tenth.spec.hash
    scores = [line[SCORE] for line in read_metrics(tmp_path / "True") if line["time/frames"] > 0]
    assert checkpoint_progress(tmp_path / "True")["best"] == pytest.approx(max(scores))


@pytest.mark.parametrize(("env", "lag"), [("cartpole", 0.0), ("pong", 1.0)])
def test_a_rollout_lags_one_update_where_it_is_sampled_beside_the_learner(env: str, lag: float, tmp_path: Path) -> None:
    agent = dataclasses.replace(SHORT, frames=12_800)
    if env == "pong":
        agent = dataclasses.replace(SHORT, network="nature_62k", frames=4 * SHORT.num_envs * SHORT.rollout_steps * 10)
    train_ppo(as_recipe(env), agent, run=tmp_path, seed=0)
    lines = read_metrics(tmp_path)
    assert {line["train/lag"] for line in lines} == {lag}
    assert all(0 <= line[f"time/{who}"] <= 1 for line in lines for who in ("learner_waited", "sampler_waited"))


@pytest.mark.parametrize("learner", ["ppo", "dqn"])
def test_a_thread_samples_where_environments_step_outside_and_changes_what_values_learn_in_nothing(
    learner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, threads, hashes = as_recipe("cartpole"), [], []
    sampler: Any = {"ppo": Sampler, "dqn": ChunkSampler}[learner]
    collect = sampler.collect

    def noted(self: Any, *arguments: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return collect(self, *arguments)

    monkeypatch.setattr(sampler, "collect", noted)
    for outside in (False, True):
        monkeypatch.setattr(Stepper, "outside", outside)
        threads.clear()
        run = tmp_path / str(outside)
        if learner == "ppo":
            policy = train_ppo(environment, SHORT, run=run, seed=0)
        else:
            policy = train_dqn(environment, dataclasses.replace(VALUES, frames=4000), run=run, seed=0)
        assert threads[1:] == [not outside] * (len(threads) - 1)  # the first of all has nobody to wait for
        hashes.append(policy.spec.hash)
    # PPO samples with its newest weights where no thread does it beside the learner.
    assert (hashes[0] == hashes[1]) == (learner == "dqn")


@pytest.mark.parametrize(("env", "outside"), [("cartpole", False), ("pong", True)])
def test_the_emulators_of_games_step_outside_of_the_interpreter(env: str, outside: bool) -> None:
    stepper = Stepper(make_vec(env, 2, 0))
    assert stepper.outside == outside
    stepper.close()


class Spoilt(Recall):
    """Its 2000th reward is not a number."""

    steps = 0

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        Spoilt.steps += 1
        observation, reward, *rest = super().step(action)
        return observation, np.nan if Spoilt.steps == 2000 else reward, *rest  # type: ignore[return-value]


gymnasium.register("Spoilt-v0", f"{__name__}:Spoilt", max_episode_steps=10)


def test_a_reward_that_is_no_number_stops_the_run_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    agent = dataclasses.replace(SHORT, frames=12_800, checkpoint_seconds=1e-9)
    with pytest.raises(NotFiniteError, match="^reward is not finite at step .* of a rollout: 1 of 2 numbers"):
        train_ppo(as_recipe("Spoilt-v0"), agent, run=tmp_path, seed=0)
    saved = checkpoint_progress(tmp_path)["steps"]
    assert 1500 < saved < 2500  # 2000 steps of the game, and the resets between them
    assert not (tmp_path / POLICY).exists()
    train_ppo(as_recipe("Spoilt-v0"), dataclasses.replace(agent, frames=saved + 500), run=tmp_path, seed=0)
    assert checkpoint_progress(tmp_path)["steps"] >= saved + 500
