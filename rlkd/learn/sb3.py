"""Stable-Baselines3's own PPO, A2C and DQN on our environments: what its users know, as a teacher and as a peer."""

import inspect
import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rlkd import metrics, storage
from rlkd.errors import RecipeError, StorageError
from rlkd.learn.checkpoint import FILE as CHECKPOINT
from rlkd.learn.checkpoint import SB3_RECORD
from rlkd.learn.training import POLICY
from rlkd.policy import Policy, from_sb3, load_policy
from rlkd.policy.compute import one_thread_per_role, pick_device
from rlkd.recipe import EVALUATION_SEEDS, Environment, Sb3, recipe_hash
from rlkd.recipe.read import suggest
from rlkd.vector import make

ALGORITHMS: dict[str, type[PPO] | type[A2C] | type[DQN]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN}
OURS = frozenset(("self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"))
"""Arguments of their constructors that the run decides, not the recipe."""
LOOK_EVERY = 64  # steps of all environments between two looks at the progress bar
MODEL = "model.zip"


def train_sb3(
    environment: Environment, agent: Sb3, *, run: Path, seed: int, device: str = "auto", origin: str = ""
) -> Policy:
    """Train with Stable-Baselines3 in a run folder and return the policy, saved there too.

    Pixels learn from the sign of the reward; `rollout/ep_rew_mean` is the raw score of whole games all the same.
    A finished run is not repeated: the same call returns its policy. An unfinished one cannot be resumed, because
    Stable-Baselines3 saves neither environments nor random streams.

    Args:
        environment: where.
        agent: which algorithm, how long, its own hyperparameters.
        run: folder for `generations/000/policy.safetensors`, `model.zip` (what `PPO.load` reads), `metrics.jsonl`
            and `tensorboard/`.
        seed: of weights, actions, minibatches and environments.
        device: `auto`, `cpu` or `cuda`.
        origin: the command, for the policy's record.

    Raises:
        Stopped: on SIGINT, SIGTERM or SIGUSR1, after saving model and policy.
        RecipeError: hyperparameters that the algorithm does not take.
        StorageError: the folder is in use, full, or holds another or an unfinished run.
    """
    one_thread_per_role()
    where = pick_device(device)
    identity = storage.sha256((recipe_hash(environment) + recipe_hash(agent) + str(seed)).encode())
    total = agent.frames // environment.frame_skip
    with storage.run_folder(run), metrics.stop_signal() as stop:
        storage.refuse_other_kinds(run, "train")
        if (run / SB3_RECORD).exists():
            return _finished(run, identity)
        if (run / POLICY).exists() or (run / CHECKPOINT).exists():
            raise StorageError(f"{run} holds a run of another learner; name another --run")
        vector = DummyVecEnv([partial(learning_game, environment) for _ in range(agent.num_envs)])
        recorder = metrics.Recorder(run)
        try:
            model = _model(agent, environment, vector, seed=seed % EVALUATION_SEEDS, device=str(where))
            model.set_logger(Logger(folder=None, output_formats=[_ToRecorder(recorder)]))
            with metrics.bar(f"{agent.algorithm} of Stable-Baselines3 on {environment.id}, agent steps", total) as bar:
                model.learn(total, callback=_Watch(bar, stop))
            recorder.write(model.num_timesteps, {"rollout/ep_rew_mean": _score(model)})
        finally:
            recorder.close()
            vector.close()
        stopped = stop.asked and model.num_timesteps < total
        policy = _save(model, run, environment, agent, origin=origin, stopped=stopped)
        record = {"identity": identity, "agent_steps": model.num_timesteps, "finished": not stopped}
        storage.write_json(run / SB3_RECORD, record)
        if stopped:
            stop.check(
                f"{run} holds model and policy after {model.num_timesteps} of {total} agent steps; Stable-Baselines3 "
                "cannot go on exactly where it stopped, so start again under another --run"
            )
    return policy


class LearningView(gymnasium.Wrapper[Any, Any, Any, Any]):
    """What a learner sees of an Atari game: the sign of the reward and, where the recipe says so, lives as episodes."""

    def __init__(self, env: gymnasium.Env[Any, Any], *, ends_with_life: bool) -> None:
        super().__init__(env)
        self.ends_with_life = ends_with_life
        self.lives = 0
        self.seen: Any = None
        """Last observation of a game that goes on after a lost life; None where a new game is due."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """First observation of a new game, or the next one of a game that has lives left."""
        if self.seen is not None and seed is None:
            observation, self.seen = self.seen, None
            return observation, {"lives": self.lives}
        observation, info = self.env.reset(seed=seed, options=options)
        self.lives, self.seen = info["lives"], None
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the game."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        lost = info["lives"] < self.lives and not terminated and not truncated
        self.lives = info["lives"]
        if lost and self.ends_with_life:
            terminated, self.seen = True, observation
        return observation, float(np.sign(float(reward))), terminated, truncated, info


class _ToRecorder(KVWriter):
    """Stable-Baselines3's own figures, under their own names, into our logs."""

    def __init__(self, recorder: metrics.Recorder) -> None:
        self.recorder = recorder

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        numbers = {key: float(value) for key, value in key_values.items() if isinstance(value, int | float | np.number)}
        self.recorder.write(step, numbers)

    def close(self) -> None:
        """The run closes the recorder."""


class _Watch(BaseCallback):
    """Moves the progress bar and ends the learning when a signal came."""

    def __init__(self, bar: metrics.Bar, stop: metrics.StopSignal) -> None:
        super().__init__()
        self.bar, self.stop = bar, stop

    def _on_step(self) -> bool:
        if self.n_calls % LOOK_EVERY == 0:
            self.bar.update(self.num_timesteps, f"score {_score(self.model):.1f}")
        return not self.stop.asked


def learning_game(environment: Environment) -> gymnasium.Env[Any, Any]:
    """One environment as Stable-Baselines3 learns from it; what it logs are raw scores of whole games."""
    if environment.at_frame_cap is not None:
        raise RecipeError(f"at_frame_cap = '{environment.at_frame_cap}' is for our own learners; take an rl/ recipe")
    game: gymnasium.Env[Any, Any] = Monitor(make(environment))
    if environment.emulator is None:
        return game
    return LearningView(game, ends_with_life=environment.ends_with_life)


def _model(agent: Sb3, environment: Environment, vector: DummyVecEnv, *, seed: int, device: str) -> BaseAlgorithm:
    algorithm: Callable[..., BaseAlgorithm] = ALGORITHMS[agent.algorithm]
    known = set(inspect.signature(algorithm).parameters) - OURS
    for key in agent.hyperparameters:
        if key not in known:
            raise RecipeError(f"{agent.algorithm} of Stable-Baselines3 takes no '{key}'{suggest(key, known)}")
    policy = agent.policy
    if policy == "auto":
        policy = "CnnPolicy" if environment.views else "MlpPolicy"
    try:
        return algorithm(policy, vector, seed=seed, device=device, **agent.hyperparameters)
    except (AssertionError, TypeError, ValueError) as error:
        raise RecipeError(f"Stable-Baselines3 refuses {agent.algorithm} with {policy}: {error}") from None


def _score(model: BaseAlgorithm) -> float:
    """Mean raw score of the last 100 finished games; NaN before the first."""
    scores = [episode["r"] for episode in model.ep_info_buffer or ()]
    return float(np.mean(scores)) if scores else float("nan")


def _save(
    model: BaseAlgorithm, run: Path, environment: Environment, agent: Sb3, *, origin: str, stopped: bool
) -> Policy:
    archive = io.BytesIO()
    model.save(archive)
    storage.write_bytes(run / MODEL, archive.getvalue())
    read = from_sb3(model, env=environment)
    early = f", stopped after {model.num_timesteps} agent steps" if stopped else ""
    spec = replace(
        read.spec,
        name=f"{environment.id}-sb3-{agent.algorithm}",
        origin=f"{origin}; {read.spec.origin}{early}" if origin else read.spec.origin + early,
    )
    policy = Policy(read.network, spec)
    policy.save(run / POLICY)
    return policy


def _finished(run: Path, identity: str) -> Policy:
    """The policy of a run that has been here before, if it is this one and came to its end."""
    record = storage.read_json(run / SB3_RECORD)
    if not isinstance(record, dict) or record.get("identity") != identity:
        raise StorageError(f"{run} holds a run with another recipe or seed; name another --run")
    if not record.get("finished"):
        raise StorageError(
            f"{run} holds a run that stopped early, and Stable-Baselines3 cannot go on exactly; name another --run"
        )
    return load_policy(run / POLICY)
