"""PPO: makes a policy from scratch. While rollout k is learnt from, a second thread samples k + 1, where that pays.

The rollout that is learnt from was then sampled with the weights of one update before: a lag of exactly one,
always, so a run is repeatable; V-trace corrects for it. Where a second thread does not pay, it is sampled with the
newest weights: on LunarLander a lag cost most of the score. Everything to resume is in one file, written whole;
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
from rlkd.errors import MismatchError
from rlkd.learn.checkpoint import Progress, restore, save_checkpoint
from rlkd.learn.learner import Learner
from rlkd.learn.rollout import Sampler
from rlkd.learn.samples import prepare
from rlkd.learn.scored import first_look, make_bonus, put_back, scored, state_of
from rlkd.learn.teaching import taught_by
from rlkd.learn.training import side_by_side, training_run
from rlkd.policy import Policy, PolicyNetwork, PolicySpec, Rule
from rlkd.policy.compute import Precision, one_thread_per_role, pick_device
from rlkd.policy.file import build_network
from rlkd.policy.tensors import tensors_of
from rlkd.recipe import Environment, Network, Ppo
from rlkd.vector import action_bounds, action_meanings, make_halves, spaces


def train_ppo(
    environment: Environment,
    agent: Ppo,
    *,
    run: Path,
    seed: int,
    device: str = "auto",
    precision: Precision = "auto",
    keep_early: bool = False,
    start: Policy | None = None,
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
        start: whose weights it begins with, a critic's where it answers as many values; None draws new ones.
        teacher: who answers every state, for recipes with terms.
        origin: the command, for the policy's record.

    Raises:
        Stopped: on SIGINT, SIGTERM or SIGUSR1, after a checkpoint.
        NotFiniteError: NaN or infinity in observations, rewards, losses, gradients or weights.
        StorageError: the folder is in use, full, or holds another run.
        MismatchError: `start` is another kind of policy, or `teacher` and recipe do not fit.
    """
    one_thread_per_role()
    where = pick_device(device)
    spec = policy_spec(environment, agent, origin=origin)
    network, acting = build_network(spec), build_network(spec)
    network.initialise(torch.Generator().manual_seed(seed), for_rl=True)
    if start is not None:
        spec = replace(spec, parents=(start.spec.hash,))
        begin_from(start, network, spec)
    teaching = taught_by(teacher, spec, agent, where)
    head = " ".join(spec.parents)
    if teaching is not None:
        head += f" teacher {teaching.teacher.spec.hash}"
        spec = replace(spec, parents=(*spec.parents, teaching.teacher.spec.hash))
    for each in (network, acting):
        each.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
    acting.cast_encoder(precision)
    bonus = make_bonus(spec, agent, seed=seed, device=where)
    learner = Learner(network, agent, precision, bonus, teaching)
    with (
        training_run(run, spec, agent, head=head, seed=seed, keep_early=keep_early) as (
            training,
            tensors,
        ),
        ThreadPoolExecutor(1) as pool,
    ):
        progress = training.progress
        restore(run, tensors, network, learner.optimiser)
        if tensors:
            put_back(bonus, tensors, run=str(run))
        if training.over():
            return training.finish(network)
        attempt = seed + 7919 * progress.rounds  # a resumed run must not replay its first streams
        order = torch.Generator().manual_seed(attempt + 1)
        draws = torch.Generator(where).manual_seed(attempt + 2)
        keeps = torch.Generator(where).manual_seed(attempt + 4)
        halves = make_halves(environment, agent.num_envs, np.random.default_rng([attempt, 3]))
        try:
            if bonus is not None and not tensors:
                first_look(bonus, halves, training)
            sampler, ahead = Sampler(halves, environment, agent, acting, precision), side_by_side(halves, where)
            publish(network, sampler, progress)
            following = sampler.collect(draws) if ahead else None
            while not training.over():
                started, before = time.monotonic(), (sampler.seconds, sampler.waited)
                rollout = sampler.collect(draws) if following is None else following
                pending = pool.submit(sampler.collect, draws) if ahead else None
                begun = time.monotonic()
                at = f"agent step {progress.steps:,}"
                steps, told = None, dict[str, float]()
                if bonus is not None:
                    rollout, steps, told = scored(bonus, rollout, agent.streams, where=at)
                answers = None
                if teaching is not None and not teaching.over(training.done):
                    teaching.follow(run, environment, progress.scores, training.stop)
                    answers = teaching.answers(rollout)
                    rollout = teaching.rewarded(rollout, answers, network, agent, precision, training.done)
                samples = replace(prepare(network, rollout, agent, precision), steps=steps, answers=answers)
                if len(agent.streams) > 1:
                    parts = zip(agent.streams, samples.shares.tolist(), strict=True)
                    told |= {f"advantage/{stream.name}": share for stream, share in parts}
                rate = agent.learning_rate + training.done * (agent.final_learning_rate - agent.learning_rate)
                figures = told | learner.learn(samples, order, rate=rate, where=at, keeps=keeps, progress=training.done)
                figures["train/lag"] = progress.rounds - rollout.version.float().mean().item()
                learnt = time.monotonic()
                following = None if pending is None else pending.result()
                taken, emulators = sampler.seconds - before[0], sampler.waited - before[1]
                seconds = training.waited.note(started, begun, learnt, taken, emulators)
                training.count(rollout.log_prob.numel(), rollout.episodes, seconds)
                publish(network, sampler, progress)
                training.record(figures)
                training.keep(network, rollout.log_prob.numel())
                if training.checkpoint_due():
                    save_checkpoint(run, tensors_of(network, learner.optimiser) | state_of(bonus), progress)
                    training.check_stop()
        finally:
            pool.shutdown()  # the sampler still steps the environments if the learner failed
            for half in halves:
                half.close()
        return training.finish(network)


def begin_from(start: Policy, network: PolicyNetwork, spec: PolicySpec) -> None:
    """Give a network the weights of a policy; of its critic only where that answers as many values.

    Raises:
        MismatchError: as `check_start`.
    """
    check_start(start, spec)
    own = network.state_dict()
    weights = {name: tensor for name, tensor in start.network.state_dict().items() if name in own}
    fitting = {name: tensor for name, tensor in weights.items() if tensor.shape == own[name].shape}
    network.load_state_dict(own | fitting)


def check_start(start: Policy, spec: PolicySpec) -> None:
    """Raise MismatchError unless training by a record can begin with a policy's weights: the same kind of network."""
    own, given = ((each.network.acting, each.kind, each.observation_shape, each.actions) for each in (spec, start.spec))
    if own != given or start.spec.normaliser is not None:
        raise MismatchError(
            f"training cannot begin with the weights of {start.spec.name}: it has to be a '{spec.kind}' policy with "
            "the recipe's network, observations and actions, and without a normaliser"
        )


def publish(network: PolicyNetwork, sampler: Sampler, progress: Progress) -> None:
    """Let the sampler act with the learner's weights from the next rollout on."""
    sampler.network.load_state_dict(network.state_dict())
    if sampler.device.type == "cuda":
        torch.cuda.current_stream().synchronize()  # the sampler works in another stream
    sampler.version = progress.rounds


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
            value="shared" if network.pixels or network.core != "none" else "separate",
            value_heads=None if streams == 1 else streams,
        ),
        observation_shape=shape,
        observation_dtype="uint8" if len(shape) == 3 and environment.observation != "symbols" else "float32",
        actions=actions,
        action_low=low,
        action_high=high,
        action_meanings=action_meanings(environment),
        environment=environment,
        rule=Rule(name="sampled"),
        origin=origin,
    )
