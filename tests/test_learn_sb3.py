"""Tests of `rlkd.learn.sb3`: Stable-Baselines3's learners leave a policy, a curve and a zip that both sides read."""

import dataclasses
import os
import signal
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO

from rlkd import recipe
from rlkd.errors import RecipeError, Stopped, StorageError
from rlkd.learn.ppo import train_ppo
from rlkd.learn.sb3 import MODEL, LearningView, learning_game, train_sb3
from rlkd.learn.training import POLICY
from rlkd.metrics import read_metrics
from rlkd.policy import Policy, load_policy
from rlkd.recipe import Ppo, Sb3
from rlkd.vector import as_recipe

CARTPOLE = as_recipe("cartpole")
FASTER = ("hyperparameters.learning_rate=2.3e-3", "hyperparameters.target_update_interval=10")


def agent(name: str, *overrides: str) -> Sb3:
    return recipe.load(f"sb3/{name}", Sb3, overrides=overrides)


def score(policy: Policy, env: str = "CartPole-v1", episodes: int = 10) -> float:
    """Mean score in gymnasium's own environment."""
    game, scores = gymnasium.make(env), []
    for seed in range(episodes):
        observation, _ = game.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = game.step(policy.predict(observation)[0])
            total, over = total + float(reward), terminated or truncated
        scores.append(total)
    return float(np.mean(scores))


@pytest.mark.parametrize(
    ("learner", "theirs"),
    [
        pytest.param(agent("ppo", "frames=16_000"), PPO, id="ppo"),
        pytest.param(agent("dqn", "frames=12_000", *FASTER), DQN, id="dqn", marks=pytest.mark.slow),
    ],
)
def test_a_short_run_leaves_a_policy_that_plays(learner: Sb3, theirs: Any, tmp_path: Path) -> None:
    policy = train_sb3(CARTPOLE, learner, run=tmp_path, seed=1, device="cpu", origin="rlkd train cartpole")
    assert score(policy) > 120  # 22 at random
    read = load_policy(tmp_path / POLICY)
    assert read.spec == policy.spec
    assert read.spec.environment == CARTPOLE
    assert read.spec.action_meanings == ("LEFT", "RIGHT")
    assert read.spec.origin.startswith("rlkd train cartpole; Stable-Baselines3")
    lines = [line for line in read_metrics(tmp_path) if "rollout/ep_rew_mean" in line]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert len(lines) > 5
    assert learner.frames <= lines[-1]["step"] < learner.frames + 2000
    assert lines[-1]["rollout/ep_rew_mean"] > 2 * lines[0]["rollout/ep_rew_mean"]
    assert list((tmp_path / "tensorboard").iterdir())
    observation = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    want, _ = theirs.load(tmp_path / MODEL, device="cpu").predict(observation, deterministic=True)
    assert policy.predict(observation)[0].tolist() == want.tolist()
    assert load_policy(tmp_path / MODEL, env="cartpole").predict(observation)[0].tolist() == want.tolist()


def test_a_finished_run_is_not_repeated_and_no_other_run_takes_its_folder(tmp_path: Path) -> None:
    short = agent("a2c", "frames=500")
    policy = train_sb3(CARTPOLE, short, run=tmp_path, seed=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("[!.]*") if path.is_file()}
    assert train_sb3(CARTPOLE, short, run=tmp_path, seed=1).spec == policy.spec
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for seed, learner in ((2, short), (1, agent("a2c", "frames=600")), (1, agent("ppo", "frames=500"))):
        with pytest.raises(StorageError, match="another recipe or seed; name another --run"):
            train_sb3(CARTPOLE, learner, run=tmp_path, seed=seed)
    with pytest.raises(StorageError, match="run of another learner"):
        train_ppo(CARTPOLE, recipe.load("rl/ppo_classic", Ppo), run=tmp_path, seed=1)
    (tmp_path / "sb3.json").unlink()
    with pytest.raises(StorageError, match="run of another learner"):
        train_sb3(CARTPOLE, short, run=tmp_path, seed=1)


def test_the_seed_repeats_a_run(tmp_path: Path) -> None:
    short = agent("a2c", "frames=800")
    one, again, other = (
        train_sb3(CARTPOLE, short, run=tmp_path / name, seed=seed)
        for name, seed in (("one", 3), ("again", 3), ("other", 4))
    )
    assert one.spec.hash == again.spec.hash != other.spec.hash


def test_continuous_actions_learn_too(tmp_path: Path) -> None:
    policy = train_sb3(as_recipe("pendulum"), agent("ppo", "frames=1024"), run=tmp_path, seed=0)
    assert (policy.spec.kind, policy.spec.action_low, policy.spec.action_high) == ("gaussian", (-2.0,), (2.0,))
    assert -2000 < score(policy, "Pendulum-v1", 2) < 0


def test_a_signal_stops_the_run_after_saving(tmp_path: Path) -> None:
    long = agent("ppo", "frames=50_000_000")
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(Stopped, match="cannot go on exactly where it stopped") as caught:
        train_sb3(CARTPOLE, long, run=tmp_path, seed=1)
    timer.join()
    assert caught.value.exit_code == 3
    policy = load_policy(tmp_path / POLICY)
    assert "stopped after" in policy.spec.origin
    assert load_policy(tmp_path / MODEL).network.head.weight.tolist() == policy.network.head.weight.tolist()
    assert not list(tmp_path.rglob("*.tmp"))
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(StorageError, match="stopped early, and Stable-Baselines3 cannot go on"):
        train_sb3(CARTPOLE, long, run=tmp_path, seed=1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hyperparameters.learning_rat=1e-3", "takes no 'learning_rat'; did you mean 'learning_rate'"),
        ("hyperparameters.seed=1", "takes no 'seed'"),
        ("hyperparameters.n_steps='many'", "refuses ppo with MlpPolicy"),
        ("policy=CnnPolicy", "refuses ppo with CnnPolicy"),
    ],
)
def test_hyperparameters_that_the_algorithm_does_not_take_are_refused(
    override: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        train_sb3(CARTPOLE, agent("ppo", override), run=tmp_path, seed=0)
    assert not (tmp_path / POLICY).exists()


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_pixels_learn_with_the_network_of_the_paper(name: str, tmp_path: Path) -> None:
    few = ("hyperparameters.buffer_size=200", "hyperparameters.learning_starts=32", "hyperparameters.gradient_steps=1")
    small = ("num_envs=2", "hyperparameters.n_steps=16", "hyperparameters.n_epochs=1", "hyperparameters.batch_size=32")
    learner = agent(name, "frames=512", *(small if name == "ppo" else (*few, "hyperparameters.train_freq=32")))
    pong = as_recipe("pong")
    policy = train_sb3(pong, learner, run=tmp_path, seed=0)
    assert policy.spec.parameters == 1_693_362 - 12 * 513
    assert len(policy.spec.action_meanings) == 6
    assert 128 <= read_metrics(tmp_path)[-1]["step"] < 256  # agent steps: four frames each


class Lives(gymnasium.Env[Any, Any]):
    """Three lives of two steps each, ten points a step."""

    observation_space = gymnasium.spaces.Box(0, 255, (1,), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.clock = 0
        return np.array([0], np.uint8), {"lives": 3}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        lives = 3 - self.clock // 2
        return np.array([self.clock], np.uint8), 10.0 * (1 - 2 * action), lives == 0, False, {"lives": lives}


def test_a_learner_sees_the_sign_of_the_reward_and_lives_where_asked() -> None:
    for ends_with_life, ends in ((True, [2, 4, 6]), (False, [6])):
        env = LearningView(Lives(), ends_with_life=ends_with_life)
        for _ in range(2):  # two games
            observation, _ = env.reset()
            assert observation == 0
            seen, rewards = [], []
            for clock in range(1, 7):
                observation, reward, terminated, _, _ = env.step(clock % 2)
                assert observation == clock
                rewards.append(reward)
                if terminated:
                    seen.append(clock)
                    if clock < 6:  # the game goes on where it was
                        assert env.reset()[0] == clock
            assert seen == ends
            assert rewards == [-1.0, 1.0] * 3


def test_lives_of_a_real_game_end_episodes_but_the_logged_score_is_of_the_whole_game() -> None:
    breakout = as_recipe("breakout")
    assert breakout.emulator is not None
    lives = dataclasses.replace(breakout, emulator=dataclasses.replace(breakout.emulator, lives="life"))
    env, actions = learning_game(lives), np.random.default_rng(0)
    env.reset(seed=0)
    episodes, steps, positive = 0, 0, 0.0
    info: dict[str, Any] = {}
    while "episode" not in info:
        _, reward, terminated, _, info = env.step(actions.integers(4))
        steps, positive = steps + 1, positive + float(reward)
        if terminated:
            episodes += 1
            env.reset()
    assert (episodes, info["episode"]["l"]) == (5, steps)
    assert info["episode"]["r"] >= positive > 0
