"""DQN and what came after it: makes a policy from remembered play. While chunk k is learnt from, k + 1 is sampled.

A chunk is played with the weights of one round of learning before: a lag of exactly one, always, so a run is
repeatable. The learner alone owns the memory: a chunk goes into it when it is whole. Each chunk earns the gradient
steps that the recipe promises for its agent steps; none is dropped.

Everything to resume is in one file, but the memory: a resumed run plays `learning_starts` steps, with the policy that
it has, before it learns on. Environments restart at resets.

Source: Mnih et al. 2015; double, duelling, prioritised, several steps: Hessel et al. 2017, arXiv:1710.02298;
quantiles: Dabney et al. 2017, arXiv:1710.10044.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rlkd import metrics, storage
from rlkd.learn.checkpoint import load_checkpoint, note_recipe
from rlkd.learn.chunks import ChunkSampler
from rlkd.learn.q_learning import learn, make_learner, resume, save
from rlkd.learn.training import Training
from rlkd.learn.values import value_spec
from rlkd.policy import Policy
from rlkd.policy.compute import Precision, one_thread_per_role, pick_device
from rlkd.policy.file import build_network
from rlkd.recipe import EVALUATION_SEEDS, Dqn, Environment, recipe_hash
from rlkd.replay import Transitions
from rlkd.vector import Stepper, make_vec

CHUNK_GRADIENT_STEPS = 64  # that a chunk earns, about: threads meet once a chunk


def train_dqn(
    environment: Environment,
    agent: Dqn,
    *,
    run: Path,
    seed: int,
    device: str = "auto",
    precision: Precision = "auto",
    keep_early: bool = False,
    origin: str = "",
) -> Policy:
    """Train in a run folder, or go on with one that exists, and return the policy, saved there too.

    Args:
        environment: where.
        agent: how.
        run: folder with `checkpoint.safetensors`, `metrics.jsonl`, `tensorboard/`, `generations/000/`.
        seed: of weights, actions, minibatches and environments.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto` takes bfloat16 for pixels where the processor has it.
        keep_early: policies at fixed shares of the run are kept.
        origin: the command, for the policy's record.

    Raises:
        Stopped: on SIGINT or SIGTERM, after a checkpoint.
        NotFiniteError: something is no number; the last checkpoint is whole.
        MemoryBudgetError: the memory does not fit.
        StorageError: the folder is in use, full, or holds another run.
    """
    one_thread_per_role()
    where = pick_device(device)
    spec = value_spec(environment, agent, origin=origin)
    shape = f"dqn {agent.duelling} {agent.quantiles}"
    identity = storage.sha256((recipe_hash(environment) + recipe_hash(spec.network) + shape).encode())
    learner = make_learner(spec, agent, seed=seed, device=where)
    acting = build_network(spec).to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with storage.run_folder(run), metrics.stop_signal() as stop, ThreadPoolExecutor(1) as pool:
        storage.refuse_other_kinds(run, "train")
        progress, kept = load_checkpoint(run, identity=identity, seed=seed)
        view = environment.views.get("pixels")
        memory = Transitions(
            agent.num_envs,
            agent.states,
            spec.observation_shape,
            view,
            n_step=agent.n_step,
            discount=agent.discount,
            alpha=agent.alpha if agent.prioritised else None,
        )
        if kept:
            resume(run, kept, learner, memory)
        if note_recipe(progress, replace(agent, checkpoint_seconds=1.0)):
            metrics.say(f"going on at agent step {progress.steps} with another agent recipe than before")
        attempt = seed + 7919 * progress.rounds  # a resumed run must not replay its first streams
        draws, exploration = (np.random.default_rng([attempt, stream]) for stream in (1, 2))
        steppers = two_halves(environment, agent.num_envs, attempt)
        recorder = metrics.Recorder(run, resume_step=progress.steps + 1)
        total = agent.frames // environment.frame_skip
        try:
            learner.online.fold()
            acting.load_state_dict(learner.online.policy.state_dict())
            sampler = ChunkSampler(
                steppers,
                environment,
                agent,
                acting,
                steps=progress.steps,
                total=total,
                generator=exploration,
                precision=precision,
            )
            with metrics.bar(f"dqn on {environment.id}, agent steps", total) as bar:
                training = Training(
                    run=run,
                    spec=spec,
                    progress=progress,
                    total=total,
                    frame_skip=environment.frame_skip,
                    checkpoint_seconds=agent.checkpoint_seconds,
                    keep_early=keep_early,
                    recorder=recorder,
                    bar=bar,
                    stop=stop,
                )
                if kept and not training.over:
                    metrics.say(
                        f"going on at agent step {progress.steps}: the memory is not in a checkpoint and is filled "
                        f"anew with {agent.learning_starts} agent steps before learning goes on"
                    )
                length = max(1, round(CHUNK_GRADIENT_STEPS * agent.train_every / agent.num_envs))
                chunk = None if training.over else sampler.collect(length)
                played = 0
                while chunk is not None and not training.over:
                    started = time.monotonic()
                    pending = pool.submit(sampler.collect, length)
                    chunk.into(memory)
                    earned = steps_earned(agent, played, played + chunk.steps)
                    played += chunk.steps
                    figures = learn(learner, agent, memory, earned, draws, precision, done=training.done)
                    learnt = time.monotonic()
                    following = pending.result()
                    training.waited.learner += time.monotonic() - learnt
                    training.waited.sampler += following.waited
                    learner.online.fold()
                    acting.load_state_dict(learner.online.policy.state_dict())
                    training.count(chunk.steps, chunk.episodes, time.monotonic() - started)
                    training.record(figures | {"train/epsilon": chunk.epsilon})
                    training.keep(acting, chunk.steps)
                    if training.checkpoint_due():
                        save(run, learner, memory, progress)
                        training.check_stop()
                    chunk = following
                policy = training.finish(learner.online.policy)
        finally:
            pool.shutdown()  # the sampler still steps the environments if the learner failed
            for stepper in steppers:
                stepper.close()
            recorder.close()
    return policy


def two_halves(environment: Environment, num_envs: int, attempt: int) -> list[Stepper]:
    """All environments in two fixed halves, each row with a seed of its own that depends on `attempt`."""
    half = num_envs // 2
    # Row i plays from `start + i`: runs with neighbouring seeds must not share all but one of their games.
    start = int(np.random.default_rng([attempt, 3]).integers(EVALUATION_SEEDS - num_envs))
    return [Stepper(make_vec(environment, half, start + k * half)) for k in range(2)]


def steps_earned(agent: Dqn, before: int, after: int) -> int:
    """Gradient steps that are due when an attempt's agent steps grow from `before` to `after`."""
    due = (max(0, steps - agent.learning_starts) // agent.train_every for steps in (after, before))
    return next(due) - next(due)
