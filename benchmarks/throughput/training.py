"""Training on Breakout with Nature's network, from the inside of each learner's own loop, after set-up and warm-up.

PPO: 8 environments, 128 steps, 4 epochs, minibatches of 256, the same rates and weights everywhere. rlkd's is
`train_ppo` itself, with its V-trace pass, run folder and curves, stopped from within; Stable-Baselines3's is
`PPO.learn` on `make_atari_env` and VecFrameStack; CleanRL's is its script, read by its own lines, if there is one. A
lost life ends an episode in all of them.

DQN: 8 environments, one gradient step on 32 transitions for 4 agent steps, returns over one step and no double
Q-learning, a memory of 20,000 states that is full before timing starts: rlkd plays until then, to Stable-Baselines3's
memory one transition is added again and again.
"""

import os
import subprocess
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast
from unittest import mock

import numpy as np

from benchmarks.throughput.measure import Sample, Shares, Window, tree_cpu_seconds
from benchmarks.throughput.stepping import plain_breakout, sb3_breakout

ENVS, ROLLOUT, EPOCHS, MINIBATCH, RATE, CLIP = 8, 128, 4, 256, 2.5e-4, 0.1
STATES, BATCH, TRAIN_EVERY, DQN_RATE, TARGET_EVERY = 20_000, 32, 4, 1e-4, 2_500
WARM_UP = 512  # agent steps of DQN between the end of filling and the first mark
FOR_EVER = 10**9  # frames
AT_MOST = 300  # wall seconds for CleanRL, start included

Cells = dict[str, Sample]
Parts = dict[str, float]


class _EnoughError(Exception):
    """The window is wide enough."""


def run_ppo(variant: str, seed: int, seconds: float) -> tuple[Cells, Parts]:
    """Agent steps learnt from; and, of rlkd's, where its CPU seconds went."""
    return _rlkd_ppo(variant, seed, seconds) if variant.startswith("rlkd") else (_sb3_ppo(variant, seed, seconds), {})


def run_dqn(variant: str, seed: int, seconds: float) -> tuple[Cells, Parts]:
    """The same of DQN."""
    return _rlkd_dqn(variant, seed, seconds) if variant.startswith("rlkd") else (_sb3_dqn(variant, seed, seconds), {})


def _rlkd_ppo(variant: str, seed: int, seconds: float) -> tuple[Cells, Parts]:
    import torch

    from rlkd.learn import learner, ppo
    from rlkd.learn.rollout import Sampler
    from rlkd.recipe import Ppo, Stream

    agent = Ppo(
        network="nature",
        frames=FOR_EVER,
        num_envs=ENVS,
        rollout_steps=ROLLOUT,
        epochs=EPOCHS,
        minibatch=MINIBATCH,
        learning_rate=RATE,
        final_learning_rate=RATE,
        streams=(Stream(sign=True),),
        clip=CLIP,
    )
    parts = {
        (Sampler, "collect"): "sampling besides inference",
        (Sampler, "_answer"): "acting inference",
        (ppo, "prepare"): "V-trace pass",
        (learner, "gradients_of"): "forward and backward",
        (torch.optim.Adam, "step"): "optimiser",
        (torch.nn.utils, "clip_grad_norm_"): "optimiser",
    }
    train = partial(ppo.train_ppo, plain_breakout(lives=True), agent, seed=seed, device="cpu")
    return windowed(train, variant, seconds, after=0, parts=parts)


def _rlkd_dqn(variant: str, seed: int, seconds: float) -> tuple[Cells, Parts]:
    import torch

    from rlkd.learn import dqn, q_learning
    from rlkd.learn.chunks import Chunk, ChunkSampler
    from rlkd.recipe import Dqn
    from rlkd.replay import Transitions

    agent = Dqn(
        network="nature",
        frames=FOR_EVER,
        num_envs=ENVS,
        states=STATES,
        learning_starts=STATES,
        train_every=TRAIN_EVERY,
        target_every=TARGET_EVERY,
        batch=BATCH,
        learning_rate=DQN_RATE,
        max_gradient_norm=10.0,
        sign=True,
        double=False,
        epsilon_fraction=0.0,
    )
    parts = {
        (ChunkSampler, "collect"): "sampling besides acting",
        (ChunkSampler, "_act"): "acting inference",
        (Chunk, "into"): "writing the memory",
        (Transitions, "draw"): "reading the memory",
        (q_learning, "targets"): "target values",
        (q_learning, "gradients_of"): "forward and backward",
        (torch.optim.Adam, "step"): "optimiser",
        (torch.nn.utils, "clip_grad_norm_"): "optimiser",
    }
    train = partial(dqn.train_dqn, plain_breakout(lives=True), agent, seed=seed, device="cpu")
    return windowed(train, variant, seconds, after=STATES + WARM_UP, parts=parts)


def windowed(
    train: Any, variant: str, seconds: float, *, after: int, parts: dict[tuple[Any, str], str]
) -> tuple[Cells, Parts]:
    """Run a whole training command in a folder that goes away; count from the first round behind `after` steps."""
    from rlkd.learn.training import Training

    window, shares, count = Window(seconds), Shares(), Training.count
    begun = False
    found: Parts = {}

    def counting(training: Training, *arguments: Any) -> None:
        nonlocal begun, found
        count(training, *arguments)
        steps = training.progress.steps
        if steps <= after:
            return
        if not begun:
            begun = True
            shares.start()
        if window.mark(steps):
            found = shares.shares()
            raise _EnoughError

    precision = cast(Literal["float32", "bfloat16"], variant.split()[1])
    with (
        TemporaryDirectory() as folder,
        shares.over(parts),
        mock.patch.object(Training, "count", counting),
        suppress(_EnoughError),
    ):
        train(run=Path(folder) / "run", precision=precision)
    return {"8": window.sample()}, found


def _sb3_ppo(variant: str, seed: int, seconds: float) -> Cells:
    _let_torch_choose(one_thread=variant.endswith("one thread"))
    from stable_baselines3 import PPO

    env = sb3_breakout(ENVS, seed)
    model = PPO(
        "CnnPolicy",
        env,
        learning_rate=RATE,
        n_steps=ROLLOUT,
        batch_size=MINIBATCH,
        n_epochs=EPOCHS,
        clip_range=CLIP,
        ent_coef=0.01,
        vf_coef=0.5,
        max_grad_norm=0.5,
        seed=seed,
        device="cpu",
    )
    return _sb3_window(model, seconds, every=ENVS * ROLLOUT, after=ENVS * ROLLOUT)


def _sb3_dqn(variant: str, seed: int, seconds: float) -> Cells:
    _let_torch_choose(one_thread=variant.endswith("one thread"))
    from stable_baselines3 import DQN

    env = sb3_breakout(ENVS, seed)
    model = DQN(
        "CnnPolicy",
        env,
        learning_rate=DQN_RATE,
        buffer_size=STATES,
        learning_starts=0,
        batch_size=BATCH,
        train_freq=1,  # steps of all environments
        gradient_steps=ENVS // TRAIN_EVERY,
        target_update_interval=TARGET_EVERY * TRAIN_EVERY,
        exploration_initial_eps=0.01,
        exploration_final_eps=0.01,
        seed=seed,
        device="cpu",
    )
    assert model.env is not None
    assert model.replay_buffer is not None
    observation = cast(np.ndarray, model.env.reset())
    nothing: Any = np.zeros(ENVS)
    for _ in range(model.replay_buffer.buffer_size):
        model.replay_buffer.add(observation, observation, np.zeros((ENVS, 1)), nothing, nothing, [{}] * ENVS)
    return _sb3_window(model, seconds, every=ENVS, after=WARM_UP)


def _sb3_window(model: Any, seconds: float, *, every: int, after: int) -> Cells:
    """Steps of a model of Stable-Baselines3, counted at the first step of a round of `every` agent steps."""
    from stable_baselines3.common.callbacks import BaseCallback

    window = Window(seconds)

    class Mark(BaseCallback):
        def _on_step(self) -> bool:
            before = self.num_timesteps - ENVS
            return not (before >= after and before % every == 0 and window.mark(before))

    model.learn(FOR_EVER, callback=Mark())
    return {"8": window.sample()}


def _let_torch_choose(*, one_thread: bool) -> None:
    """Before torch is imported: what rlkd would have set is no setting of a peer's."""
    os.environ.pop("OMP_WAIT_POLICY", None)
    if one_thread:
        import torch

        torch.set_num_threads(1)


def run_cleanrl(script: Path, python: Path, seed: int, seconds: float) -> Cells:
    """CleanRL's `ppo_atari_envpool.py` as it is, timed from one line "SPS: ..." to another, one an update."""
    command = [str(python.absolute()), "-u", str(script.absolute()), "--seed", str(seed), "--env-id", "Breakout-v5"]
    options = ["--num-envs", ENVS, "--num-steps", ROLLOUT, "--num-minibatches", ENVS * ROLLOUT // MINIBATCH]
    options += ["--update-epochs", EPOCHS, "--learning-rate", RATE, "--clip-coef", CLIP]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    marks: list[tuple[float, float]] = []
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            cwd=folder,  # its runs/ goes away with it
            env=environment | {"CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            text=True,
        )
        timer = threading.Timer(AT_MOST, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("SPS:"):
                    marks.append((time.perf_counter(), tree_cpu_seconds(process.pid)))
                    if len(marks) > 1 and marks[-1][0] - marks[0][0] >= seconds:
                        break
        finally:
            timer.cancel()
            process.kill()
            process.wait()
    if len(marks) < 2:
        raise SystemExit(f"{script} printed {len(marks)} lines 'SPS: ...', and two are needed")
    (wall, cpu), (later, more) = marks[0], marks[-1]
    return {"8": Sample((len(marks) - 1) * ENVS * ROLLOUT, later - wall, more - cpu)}
