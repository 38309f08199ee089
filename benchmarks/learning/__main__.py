"""Learning on classic control: our PPO and DQN against Stable-Baselines3's, at the same steps and hyperparameters.

    make bench NAME=learning

Ten seeds each. Every seed of every learner trains in a process of its own, then plays 30 episodes greedily on seeds
that nobody trained on; both sides' policies are played by the same evaluation. Margins are in thresholds.toml, fixed
before the first run. What is the same: network, environments, rollout length, epochs, minibatch, step sizes and their
fall, discount, lambda, clip, entropy and value weights, gradient clipping (PPO); memory, batch, replay ratio,
exploration, target copies (DQN). CPU seconds are those of the process, start-up left out; each takes one core, as many
at a time as there are.
"""

import argparse
import json
import os
import shutil
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from benchmarks.common import Record, end_with, in_its_own_process, machine, store
from rlkd import recipe as recipes
from rlkd.evaluation import play, play_randomly
from rlkd.learn.dqn import train_dqn
from rlkd.learn.ppo import train_ppo
from rlkd.policy import Policy, from_sb3
from rlkd.policy.rule import GREEDY
from rlkd.recipe import Dqn, Environment, Network, Ppo
from rlkd.stats import mean_difference, mean_interval
from rlkd.storage import write_json
from rlkd.vector import as_recipe

FOLDER = Path(__file__).parent
EPISODES = 30


@dataclass(frozen=True, slots=True)
class Arm:
    """One learner on one environment; both sides learn by the same values."""

    env: str
    """Recipe of the environment."""
    agent: str
    """Our recipe."""
    overrides: tuple[str, ...]
    """Of its values."""


LANDER = ("streams.0.discount=0.999", "streams.0.gae_lambda=0.98", "rollout_steps=256", "epochs=4")
ARMS = {
    "ppo cartpole": Arm("cartpole", "rl/ppo_classic", ("frames=100000",)),
    "ppo acrobot": Arm("acrobot", "rl/ppo_classic", ("frames=200000",)),
    "ppo lunarlander": Arm("lunarlander", "rl/ppo_classic", ("frames=500000", *LANDER)),
    "dqn cartpole": Arm("cartpole", "rl/dqn_classic", ("double=false", "frames=100000")),
    "dqn acrobot": Arm("acrobot", "rl/dqn_classic", ("double=false", "frames=100000")),
    "dqn lunarlander": Arm("lunarlander", "rl/dqn_classic", ("double=false", "frames=200000")),
}
SIDES = ("rlkd", "Stable-Baselines3")


def main() -> int:
    """Train what is not there yet, and store the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="training seeds")
    parser.add_argument("--run", type=Path, default=Path("runs/learning"), help="folder for what is not stored")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings side by side")
    parser.add_argument("--one", nargs=3, metavar=("ARM", "SIDE", "SEED"), help="one training, for the above")
    chosen = parser.parse_args()
    if chosen.one:
        arm, side, seed = chosen.one
        print(json.dumps(one(arm, side, int(seed), chosen.run)))
        return 0
    jobs = [(name, side, seed) for seed in range(chosen.seeds) for name in ARMS for side in SIDES]
    with ThreadPoolExecutor(chosen.processes) as pool:
        list(pool.map(lambda job: trained(job[0], job[1], job[2], chosen.run), jobs))
    margins = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    lines = [
        f"Mean score of {chosen.seeds} seeds, {EPISODES} greedy episodes each, and 95 % intervals. CPU: its over ours.",
        "",
        "| learner | agent steps | random | rlkd | Stable-Baselines3 | difference | margin | verdict | CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine(), "margins": margins, "episodes": EPISODES}
    for name, arm in ARMS.items():
        found = {side: [trained(name, side, seed, chosen.run) for seed in range(chosen.seeds)] for side in SIDES}
        line, record[name] = compared(name, arm, found, margins[arm.env])
        lines.append(line)
        print(line, file=sys.stderr, flush=True)
    store(FOLDER, record, lines)
    return 0


def trained(name: str, side: str, seed: int, run: Path) -> Record:
    """The result of one training, from its file where it is there."""
    path = run / f"{name} {side} {seed}.json"
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        write_json(path, in_its_own_process("learning", ["--run", str(run), "--one", name, side, str(seed)]))
        print(f"{path.stem}: done", file=sys.stderr, flush=True)
    record: Record = json.loads(path.read_text())
    return record


def one(name: str, side: str, seed: int, run: Path) -> Record:
    """Train, play, and say what came of it."""
    arm = ARMS[name]
    environment = as_recipe(arm.env)
    recipe: Ppo | Dqn = (
        recipes.load(arm.agent, Ppo, overrides=arm.overrides)
        if name.startswith("ppo")
        else recipes.load(arm.agent, Dqn, overrides=arm.overrides)
    )
    started, cpu = time.perf_counter(), time.process_time()
    if side == "rlkd":
        policy = ours(environment, recipe, seed, run / f"{name} {seed}")
    else:
        policy = theirs(environment, recipe, seed)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    evaluation = play(policy, environment, episodes=EPISODES, rule=GREEDY).evaluation
    return {"scores": evaluation.scores, "seconds": seconds, "cpu_seconds": cpu_seconds}


def ours(environment: Environment, recipe: Ppo | Dqn, seed: int, run: Path) -> Policy:
    """The last policy of a run of ours, from its beginning on: seconds of half a run would be half of them."""
    shutil.rmtree(run, ignore_errors=True)
    if isinstance(recipe, Ppo):
        return train_ppo(environment, recipe, run=run, seed=seed)
    return train_dqn(environment, recipe, run=run, seed=seed)


def theirs(environment: Environment, recipe: Ppo | Dqn, seed: int) -> Policy:
    """What Stable-Baselines3 makes of the same values."""
    torch.set_num_threads(1)
    network = recipes.load(recipe.network, Network)
    layers: dict[str, Any] = {
        "net_arch": list(network.hidden),
        "activation_fn": nn.Tanh if network.activation == "tanh" else nn.ReLU,
    }
    vector = make_vec_env(environment.id, n_envs=recipe.num_envs, seed=1000 * seed)
    model: PPO | DQN
    if isinstance(recipe, Ppo):
        (stream,) = recipe.streams
        first, last = recipe.learning_rate, recipe.final_learning_rate
        model = PPO(
            "MlpPolicy",
            vector,
            n_steps=recipe.rollout_steps,
            batch_size=recipe.minibatch,
            n_epochs=recipe.epochs,
            learning_rate=partial(falling, first, last),
            gamma=stream.discount,
            gae_lambda=stream.gae_lambda,
            clip_range=recipe.clip,
            ent_coef=recipe.entropy_coefficient,
            vf_coef=recipe.value_coefficient / 2,  # of the whole squared error; ours is of its half
            max_grad_norm=recipe.max_gradient_norm or float("inf"),
            policy_kwargs=layers,
            seed=seed,
            device="cpu",
        )
    else:
        model = DQN(
            "MlpPolicy",
            vector,
            buffer_size=recipe.states,
            learning_starts=recipe.learning_starts,
            batch_size=recipe.batch,
            train_freq=1,  # steps of all environments together
            gradient_steps=max(1, recipe.num_envs // recipe.train_every),
            target_update_interval=recipe.target_every * recipe.train_every // recipe.num_envs * recipe.num_envs,
            learning_rate=recipe.learning_rate,
            gamma=recipe.discount,
            n_steps=recipe.n_step,
            exploration_initial_eps=recipe.epsilon_start,
            exploration_final_eps=recipe.epsilon_end,
            exploration_fraction=recipe.epsilon_fraction,
            max_grad_norm=recipe.max_gradient_norm or float("inf"),
            policy_kwargs=layers,
            seed=seed,
            device="cpu",
        )
    model.learn(recipe.frames)
    return from_sb3(model)


def falling(first: float, last: float, left: float) -> float:
    """The step size when a share `left` of the run is to come."""
    return last + left * (first - last)


def compared(name: str, arm: Arm, found: dict[str, list[Record]], margin: float) -> tuple[str, Record]:
    """A line of the table, and what it says."""
    scores = {side: [run["scores"] for run in runs] for side, runs in found.items()}
    difference = mean_difference(scores["rlkd"], scores["Stable-Baselines3"])
    verdict = "met" if difference.low >= -margin else "MISSED"
    # Means of seeds, resampled as such.
    means = {side: mean_interval([float(np.mean(each)) for each in runs]) for side, runs in scores.items()}
    cpu = {side: float(np.mean([run["cpu_seconds"] for run in runs])) for side, runs in found.items()}
    random = play_randomly(as_recipe(arm.env), episodes=EPISODES).mean
    steps = dict(value.split("=") for value in arm.overrides)["frames"]
    shown = " | ".join(f"{each.point:.1f} [{each.low:.1f}, {each.high:.1f}]" for each in (*means.values(), difference))
    line = (
        f"| {name} | {int(steps):,} | {random:.1f} | {shown} | {margin:g} | {verdict} "
        f"| {cpu['Stable-Baselines3'] / cpu['rlkd']:.1f} |"
    )
    record: Record = {side: {"scores": scores[side], "cpu_seconds": cpu[side]} for side in SIDES}
    record["difference"] = [difference.point, difference.low, difference.high]
    return line, record


if __name__ == "__main__":
    end_with(main)
