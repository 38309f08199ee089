"""DQN and what came after it: makes a policy from remembered play. While chunk k is learnt from, a second thread
samples k + 1, where that pays.

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

from rlkd import metrics
from rlkd.learn.chunks import ChunkSampler
from rlkd.learn.q_learning import Learner, learn, make_learner, resume, save
from rlkd.learn.relabelled import make_curiosity
from rlkd.learn.scored import first_look, make_bonus
from rlkd.learn.teaching import Teaching, taught_by
from rlkd.learn.training import starter, training_run
from rlkd.learn.values import value_spec
from rlkd.policy import Policy, PolicyNetwork, PolicySpec
from rlkd.policy.compute import Precision, one_thread_per_role, pick_device
from rlkd.policy.file import build_network
from rlkd.recipe import Dqn, Environment
from rlkd.replay import Transitions
from rlkd.vector import make_halves

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
    teacher: Policy | None = None,
    origin: str = "",
) -> Policy:
    """Train in a run folder, or go on with one that exists, and return the policy, saved there too.

    Args:
        environment: where.
        agent: how.
        run: folder with `checkpoint.safetensors`, `best.safetensors`, `metrics.jsonl`, `tensorboard/`,
            `generations/000/`.
        seed: of weights, actions, minibatches and environments.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto` takes bfloat16 for pixels where the processor has it.
        keep_early: keep the policies at 1, 2, 5, 10, 25, 50, 75 and 100 % of the run, in `early/`.
        teacher: who answers every state, for recipes with terms, and acts at first where they say so.
        origin: the command, for the policy's record.

    Raises:
        MismatchError: `teacher` and recipe do not fit.
        Stopped: on SIGINT, SIGTERM or SIGUSR1, after a checkpoint.
        NotFiniteError: NaN or infinity in observations, rewards, losses, gradients or weights.
        MemoryBudgetError: the memory does not fit.
        StorageError: the folder is in use, full, or holds another run.
    """
    one_thread_per_role()
    where = pick_device(device)
    spec = value_spec(environment, agent, origin=origin)
    teaching = taught_by(teacher, spec, agent, where)
    if teaching is not None:
        spec = replace(spec, parents=(teaching.teacher.spec.hash,))
    learner = make_learner(spec, agent, seed=seed, device=where, precision=precision, teaching=teaching)
    acting = build_network(spec).to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    acting.cast_encoder(precision)
    bonus = make_bonus(spec, agent, seed=seed, device=where)
    with (
        training_run(
            run,
            spec,
            agent,
            head=" ".join([f"{agent.duelling} {agent.quantiles}", *spec.parents]),
            seed=seed,
            keep_early=keep_early,
        ) as (training, tensors),
        ThreadPoolExecutor(1) as pool,
    ):
        progress = training.progress
        memory = make_memory(spec, agent, where, teaching)
        attempt = seed + 7919 * progress.rounds  # a resumed run must not replay its first streams
        curiosity = make_curiosity(bonus, agent, attempt=attempt + 4, device=where)
        if tensors:
            resume(run, tensors, learner, memory, curiosity)
        publish(learner, acting)
        if training.over():
            return training.finish(learner.online.policy)
        if tensors:
            metrics.say(
                f"going on at agent step {progress.steps}: the memory is not in a checkpoint and is filled anew with "
                f"{agent.learning_starts} agent steps before learning goes on"
            )
        draws, exploration = (np.random.default_rng([attempt, stream]) for stream in (1, 2))
        steppers = make_halves(environment, agent.num_envs, np.random.default_rng([attempt, 3]))
        start = starter(steppers, where, pool)
        try:
            if bonus is not None and not tensors:
                first_look(bonus, steppers, training)
            sampler = ChunkSampler(
                steppers,
                environment,
                agent,
                acting,
                steps=progress.steps,
                total=training.total,
                generator=exploration,
                precision=precision,
                teacher=None if teaching is None else teaching.teacher,
            )
            length = max(1, round(CHUNK_GRADIENT_STEPS * agent.train_every / agent.num_envs))
            chunk, played = sampler.collect(length), 0
            while not training.over():
                started, before = time.monotonic(), (sampler.seconds, sampler.waited)
                pending, begun = start(sampler.collect, length), time.monotonic()
                chunk.into(memory)
                told = {}
                if teaching is not None:
                    teaching.follow(run, environment, progress.scores, training.stop)
                    told = {"train/gate": teaching.gate}
                if curiosity is not None:
                    told |= curiosity.visit(memory, length, where=f"agent step {progress.steps:,}")
                earned = steps_earned(agent, played, played + chunk.steps)
                played += chunk.steps
                figures = told | learn(
                    learner, agent, memory, earned, draws, precision, done=training.done, curiosity=curiosity
                )
                learnt = time.monotonic()
                following = pending.result()
                taken, emulators = sampler.seconds - before[0], sampler.waited - before[1]
                seconds = training.waited.note(started, begun, learnt, taken, emulators)
                publish(learner, acting)
                training.count(chunk.steps, chunk.episodes, seconds)
                training.record(figures | {"train/epsilon": chunk.epsilon})
                training.keep(learner.online.policy, chunk.steps)
                if training.checkpoint_due():
                    save(run, learner, memory, progress, curiosity)
                    training.check_stop()
                chunk = following
        finally:
            pool.shutdown()  # the sampler still steps the environments if the learner failed
            for stepper in steppers:
                stepper.close()
        return training.finish(learner.online.policy)


def make_memory(spec: PolicySpec, agent: Dqn, device: torch.device, teaching: Teaching | None = None) -> Transitions:
    """An empty memory on a device for what the policy sees; MemoryBudgetError where it does not fit."""
    environment = spec.environment
    assert environment is not None
    return Transitions(
        agent.num_envs,
        agent.states,
        spec.observation_shape,
        environment.views.get("pixels"),
        n_step=agent.n_step,
        discount=agent.discount,
        alpha=agent.alpha if agent.prioritised else None,
        device=device,
        outputs=0 if teaching is None else spec.actions,
    )


def publish(learner: Learner, acting: PolicyNetwork) -> None:
    """Let the sampler act with the learner's weights from the next chunk on."""
    learner.online.fold()
    acting.load_state_dict(learner.online.policy.state_dict())


def steps_earned(agent: Dqn, before: int, after: int) -> int:
    """Gradient steps that are due when an attempt's agent steps grow from `before` to `after`."""
    due = (max(0, steps - agent.learning_starts) // agent.train_every for steps in (after, before))
    return next(due) - next(due)
