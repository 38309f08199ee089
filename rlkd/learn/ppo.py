"""PPO: makes a policy from scratch. While rollout k is learnt from, a second thread samples k + 1.

The rollout that is learnt from was sampled with the weights of one update before: a lag of exactly one,
always, so a run is repeatable; V-trace corrects for it. Everything to resume is in one file, written whole;
environments restart at resets on a resume, because the emulators of the vectorised environment cannot be saved.

Source: Schulman et al. 2017, arXiv:1707.06347, with the implementation details of Huang et al. 2022
(orthogonal weights, advantages normalised in each minibatch, Adam's epsilon 1e-5, linear learning rate, no
value clipping).
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rlkd import recipe
from rlkd.learn.checkpoint import Progress, restore, save_checkpoint, tensors_of
from rlkd.learn.rollout import Rollout, Sampler
from rlkd.learn.training import Training, start_chunk, training_run
from rlkd.learn.update import SMALLEST_PART, prepare, update
from rlkd.policy import Policy, PolicyNetwork, PolicySpec, Rule
from rlkd.policy.compute import Precision, idle_cores, one_thread_per_role, pick_device
from rlkd.policy.file import build_network
from rlkd.recipe import EVALUATION_SEEDS, Environment, Network, Ppo, recipe_hash
from rlkd.vector import Stepper, action_bounds, action_meanings, make_vec, spaces

FIRST_LOOK = 512  # states by which a fresh network is standardised


def train_ppo(
    environment: Environment,
    agent: Ppo,
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
        run: folder with `checkpoint.safetensors`, `best.safetensors`, `metrics.jsonl`, `tensorboard/`,
            `generations/000/`.
        seed: of weights, actions, minibatches and environments.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto` takes bfloat16 for pixels where the processor has it.
        keep_early: keep the policies at 1, 2, 5, 10, 25, 50, 75 and 100 % of the run, in `early/`.
        origin: the command, for the policy's record.

    Raises:
        Stopped: on SIGINT or SIGTERM, after a checkpoint.
        NotFiniteError: NaN or infinity in observations, rewards, losses, gradients or weights.
        StorageError: the folder is in use, full, or holds another run.
    """
    one_thread_per_role()
    where = pick_device(device)
    spec = policy_spec(environment, agent, origin=origin)
    learner, acting = build_network(spec), build_network(spec)
    learner.initialise(torch.Generator().manual_seed(seed), for_rl=True)
    for network in (learner, acting):
        network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
    optimiser = torch.optim.Adam(learner.parameters(), lr=agent.learning_rate, eps=1e-5, foreach=True)
    with (
        training_run(
            run,
            spec,
            learner="ppo",
            seed=seed,
            frames=agent.frames,
            checkpoint_seconds=agent.checkpoint_seconds,
            keep_early=keep_early,
        ) as (training, tensors),
        ThreadPoolExecutor(1) as pool,
    ):
        progress = training.progress
        restore(run, tensors, learner, optimiser)
        start_chunk(progress, recipe_hash(replace(agent, checkpoint_seconds=1.0)))
        if training.over():
            return training.finish(learner)
        attempt = seed + 7919 * progress.rounds  # a resumed run must not replay its first streams
        order, draws = (torch.Generator().manual_seed(attempt + offset) for offset in (1, 2))
        sampler = Sampler(make_halves(environment, agent.num_envs, attempt), environment, agent, acting, precision)
        try:
            publish(learner, sampler, progress)
            rollout = sampler.collect(draws)
            if learner.pixels and not tensors:
                learner.standardise(first_look(rollout, order).to(where))
                publish(learner, sampler, progress)
            while not training.over():
                started, before = time.monotonic(), (sampler.seconds, sampler.waited)
                pending = pool.submit(sampler.collect, draws)
                figures = learn(learner, optimiser, agent, rollout, order, precision, training)
                learnt = time.monotonic()
                following = pending.result()
                seconds = time.monotonic() - started
                training.waited.learner += time.monotonic() - learnt
                training.waited.sampler += seconds - (sampler.seconds - before[0])
                training.waited.emulators += sampler.waited - before[1]
                training.count(rollout.log_prob.numel(), rollout.episodes, seconds)
                publish(learner, sampler, progress)
                training.record(figures)
                training.keep(learner, rollout.log_prob.numel())
                if training.checkpoint_due():
                    save_checkpoint(run, tensors_of(learner, optimiser), progress)
                    training.check_stop()
                rollout = following
        finally:
            pool.shutdown()  # the sampler still steps the environments if the learner failed
            sampler.close()
        return training.finish(learner)


def learn(
    learner: PolicyNetwork,
    optimiser: torch.optim.Optimizer,
    agent: Ppo,
    rollout: Rollout,
    order: torch.Generator,
    precision: Precision,
    training: Training,
) -> dict[str, float]:
    """Targets and all gradient steps of one rollout; figures by TensorBoard tag."""
    samples = prepare(learner, rollout, agent, precision)
    rate = agent.learning_rate + training.done * (agent.final_learning_rate - agent.learning_rate)
    side_by_side = learner.pixels and learner.head.weight.device.type == "cpu"
    figures = update(
        learner,
        optimiser,
        agent,
        samples,
        order,
        precision=precision,
        rate=rate,
        parts=min(idle_cores(1), max(1, agent.minibatch // SMALLEST_PART)) if side_by_side else 1,
        where=f"agent step {training.progress.steps:,}",
    )
    lag = training.progress.rounds - rollout.version.float().mean().item()
    return figures | {"train/lag": lag}


def publish(learner: PolicyNetwork, sampler: Sampler, progress: Progress) -> None:
    """Let the sampler act with the learner's weights from the next rollout on."""
    sampler.network.load_state_dict(learner.state_dict())
    sampler.version = progress.rounds


def first_look(rollout: Rollout, generator: torch.Generator) -> torch.Tensor:
    """[B, ...]: some observations of a rollout."""
    seen = rollout.observation.flatten(0, 1)
    return seen[torch.randint(len(seen), (FIRST_LOOK,), generator=generator)]


def make_halves(environment: Environment, num_envs: int, seed: int) -> list[Stepper]:
    """One or two steppers that hold all environments between them."""
    # Row i plays from `start + i`: runs with neighbouring seeds must not share all but one of their games.
    start = int(np.random.default_rng([seed, 3]).integers(EVALUATION_SEEDS - num_envs))
    larger = -(-num_envs // 2)
    sizes = [(start, larger), (start + larger, num_envs - larger)]
    return [Stepper(make_vec(environment, size, first)) for first, size in sizes if size]


def policy_spec(environment: Environment, agent: Ppo, *, origin: str) -> PolicySpec:
    """The record of a policy that PPO makes for an environment."""
    shape, discrete, actions = spaces(environment)
    network = recipe.load(agent.network, Network)
    low, high = action_bounds(environment)
    streams = len(agent.streams)
    return PolicySpec(
        name=f"{environment.id}-ppo",
        kind="categorical" if discrete else "gaussian",
        network=replace(
            network,
            value="shared" if network.encoder == "conv" or network.core != "none" else "separate",
            value_heads=None if streams == 1 else streams,
        ),
        observation_shape=shape,
        observation_dtype="uint8" if len(shape) == 3 else "float32",
        actions=actions,
        action_low=low,
        action_high=high,
        action_meanings=action_meanings(environment),
        environment=environment,
        rule=Rule(name="sampled"),
        origin=origin,
    )
