"""PPO: makes a policy from scratch. While rollout k is learnt from, a second thread samples k + 1.

The rollout that is learnt from was sampled with the weights of one update before: a lag of exactly one,
always, so a run is repeatable. Everything to resume is in one file, written whole; environments restart at
resets on a resume, because the emulators of the vectorised environment cannot be saved.

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
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd import metrics, recipe, storage
from rlkd.learn.checkpoint import Progress, load_checkpoint, save_checkpoint
from rlkd.learn.rollout import Rollout, Sampler
from rlkd.losses import categorical_entropy, gaussian_entropy, gaussian_log_prob, ppo_surrogate
from rlkd.policy import Output, Policy, PolicyNetwork, PolicySpec, Rule
from rlkd.policy.compute import Precision, autocast, one_thread_per_role, pick_device
from rlkd.policy.file import build_network
from rlkd.recipe import EVALUATION_SEEDS, Environment, Network, Ppo, recipe_hash
from rlkd.vector import Stepper, action_bounds, action_meanings, make_vec, spaces

RECORD_EVERY = 5  # rollouts between two lines of metrics


def train_ppo(
    environment: Environment,
    agent: Ppo,
    *,
    run: Path,
    seed: int,
    device: str = "auto",
    precision: Precision = "auto",
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
        origin: the command, for the policy's record.

    Raises:
        Stopped: on SIGINT or SIGTERM, after a checkpoint.
        StorageError: the folder is in use, full, or holds another run.
    """
    one_thread_per_role()
    where = pick_device(device)
    spec = policy_spec(environment, agent, origin=origin)
    identity = storage.sha256((recipe_hash(environment) + recipe_hash(spec.network)).encode())
    learner, acting = build_network(spec), build_network(spec)
    learner.initialise(torch.Generator().manual_seed(seed), for_rl=True)
    for network in (learner, acting):
        network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
    optimiser = torch.optim.Adam(learner.parameters(), lr=agent.learning_rate, eps=1e-5, foreach=True)
    with storage.run_folder(run), metrics.stop_signal() as stop, ThreadPoolExecutor(1) as pool:
        storage.refuse_other_kinds(run, "train")
        progress = load_checkpoint(run, learner, optimiser, identity=identity, seed=seed)
        start_chunk(progress, agent)
        attempt = seed + 7919 * progress.rollouts  # a resumed run must not replay its first streams
        order, draws = (torch.Generator().manual_seed(attempt + offset) for offset in (1, 2))
        # Row i plays from `start + i`: runs with neighbouring seeds must not share all but one of their games.
        start = int(np.random.default_rng([attempt, 3]).integers(EVALUATION_SEEDS - agent.num_envs))
        stepper = Stepper(make_vec(environment, agent.num_envs, start))
        recorder = metrics.Recorder(run, resume_step=progress.steps + 1)
        total = agent.frames // environment.frame_skip
        try:
            acting.load_state_dict(learner.state_dict())
            sampler = Sampler(stepper, environment, agent, acting, precision)
            with metrics.bar(f"ppo on {environment.id}, agent steps", total) as bar:
                rollout = sampler.collect(draws)
                saved = time.monotonic()
                while progress.steps < total:
                    started = time.monotonic()
                    pending = pool.submit(sampler.collect, draws)
                    done = progress.steps / total
                    figures = update(learner, optimiser, agent, rollout, order, precision, done)
                    learnt = time.monotonic()
                    following = pending.result()
                    acting.load_state_dict(learner.state_dict())
                    account(progress, rollout, time.monotonic() - started)
                    if progress.rollouts % RECORD_EVERY == 0 or progress.steps >= total:
                        waited = (time.monotonic() - learnt) / (time.monotonic() - started)
                        figures |= {"time/learner_waited_share": waited}
                        figures |= summary(progress, environment.frame_skip)
                        recorder.write(progress.steps, figures)
                    bar.update(progress.steps, f"score {np.mean(progress.scores or [np.nan]):.1f}")
                    if stop.asked or time.monotonic() - saved > agent.checkpoint_seconds:
                        save_checkpoint(run, learner, optimiser, progress)
                        saved = time.monotonic()
                        where_to = f"run {run} is saved at agent step {progress.steps}"
                        stop.check(f"{where_to}; the same command goes on")
                    rollout = following
            save_checkpoint(run, learner, optimiser, progress)
        finally:
            pool.shutdown()  # the sampler still steps the environments if the learner failed
            stepper.close()
            recorder.close()
        policy = Policy(learner, spec)
        policy.save(run / "generations" / "000" / "policy.safetensors")
    return policy


def update(
    network: PolicyNetwork,
    optimiser: torch.optim.Optimizer,
    agent: Ppo,
    rollout: Rollout,
    order: torch.Generator,
    precision: Precision,
    done: float,
) -> dict[str, float]:
    """All gradient steps on one rollout; `done` in [0, 1] is the share of the run that lies behind.

    Returns:
        Figures of the last minibatch, by TensorBoard tag.
    """
    device = network.head.weight.device
    rate = agent.learning_rate + done * (agent.final_learning_rate - agent.learning_rate)
    for group in optimiser.param_groups:
        group["lr"] = rate
    losses: dict[str, Tensor] = {}
    for _ in range(agent.epochs):
        shuffled = rollout.rows[torch.randperm(len(rollout.rows), generator=order)]
        for rows in torch.split(shuffled, agent.minibatch):
            if len(rows) < max(2, min(agent.minibatch, len(shuffled)) // 2):
                continue  # a small rest has noisy advantages after normalising, one row has none
            observation = torch.from_numpy(rollout.observation[rows.numpy()]).to(device)
            with autocast(device, precision, pixels=network.pixels):
                output = network(observation)
            losses = minibatch_losses(output, rollout, rows, agent)
            loss = (
                losses["policy"]
                + agent.value_coefficient * losses["value"]
                - agent.entropy_coefficient * losses["entropy"]
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            nn.utils.clip_grad_norm_(network.parameters(), agent.max_gradient_norm, foreach=True)
            optimiser.step()
    return {f"train/{name}": value.item() for name, value in losses.items()} | {"train/learning_rate": rate}


def minibatch_losses(output: Output, rollout: Rollout, rows: Tensor, agent: Ppo) -> dict[str, Tensor]:
    """Scalar policy loss, value loss, entropy (nats) and approximate KL (nats) of one minibatch."""
    device = output.flat.device
    action, old, advantage, returns = (
        part[rows].to(device) for part in (rollout.action, rollout.log_prob, rollout.advantage, rollout.returns)
    )
    params = {name: tensor.float() for name, tensor in output.params.items()}
    if output.kind == "categorical":
        log_prob = F.log_softmax(params["logits"], dim=-1).gather(1, action[:, None]).squeeze(-1)
        entropy = categorical_entropy(params["logits"])
    else:
        log_prob = gaussian_log_prob(params["mean"], params["log_std"], action)
        entropy = gaussian_entropy(params["log_std"])
    if output.value is None:
        raise ValueError("PPO needs a network with a critic")
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    log_ratio = (log_prob - old).detach()
    return {
        "policy": ppo_surrogate(log_prob, old, advantage, clip=agent.clip).mean(),
        "value": 0.5 * (output.value.float() - returns).square().mean(),
        "entropy": entropy.mean(),
        "approx_kl": (log_ratio.exp() - 1 - log_ratio).mean(),
    }


def policy_spec(environment: Environment, agent: Ppo, *, origin: str) -> PolicySpec:
    """The record of a policy that PPO makes for an environment."""
    shape, discrete, actions = spaces(environment)
    network = recipe.load(agent.network, Network)
    low, high = action_bounds(environment)
    return PolicySpec(
        name=f"{environment.id}-ppo",
        kind="categorical" if discrete else "gaussian",
        network=replace(network, value="shared" if network.encoder == "conv" else "separate"),
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


def start_chunk(progress: Progress, agent: Ppo) -> None:
    """Note with which recipe the run goes on from here. Rates and coefficients may change between chunks, in sight."""
    settled = recipe_hash(replace(agent, checkpoint_seconds=1.0))
    if progress.chunks and not progress.chunks[-1].endswith(settled):
        metrics.say(f"going on at agent step {progress.steps} with another agent recipe than before")
    if not progress.chunks or not progress.chunks[-1].endswith(settled):
        progress.chunks = (*progress.chunks, f"{progress.steps} {settled}")


def account(progress: Progress, rollout: Rollout, seconds: float) -> None:
    """Count a rollout that has been learnt from."""
    progress.rollouts += 1
    progress.steps += len(rollout.log_prob)
    progress.seconds += seconds
    progress.scores = (*progress.scores, *(episode.score for episode in rollout.episodes))[-100:]


def summary(progress: Progress, frame_skip: int) -> dict[str, float]:
    """Score, speed and frames so far, by TensorBoard tag."""
    return {
        "rollout/ep_rew_mean": float(np.mean(progress.scores)) if progress.scores else float("nan"),
        "time/agent_steps_per_second": progress.steps / progress.seconds,
        "time/frames": progress.steps * frame_skip,
        "time/hours": progress.seconds / 3600,
    }
