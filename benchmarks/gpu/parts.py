"""What `benchmarks.gpu` times: emulators alone, our PPO, and a loop as people write it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import Record
from benchmarks.throughput.measure import Shares, Window, timed
from benchmarks.throughput.stepping import plain_breakout
from rlkd.learn import learner as learning
from rlkd.learn import ppo
from rlkd.learn.checkpoint import Progress
from rlkd.learn.learner import Learner
from rlkd.learn.rollout import Sampler
from rlkd.learn.samples import prepare
from rlkd.policy.compute import Precision, one_thread_per_role
from rlkd.policy.file import build_network
from rlkd.recipe import Ppo, Stream
from rlkd.vector import make_halves, make_vec

ROLLOUT, EPOCHS, MINIBATCHES, RATE, CLIP = 64, 3, 8, 2.5e-4, 0.1
WARM_UP = 2  # rounds: graphs are captured in the first, libraries choose kernels


def recipe(num_envs: int) -> Ppo:
    """The same number of gradient steps a rollout for any number of environments."""
    return Ppo(
        network="nature",
        frames=10**9,
        num_envs=num_envs,
        rollout_steps=ROLLOUT,
        epochs=EPOCHS,
        minibatch=num_envs * ROLLOUT // MINIBATCHES,
        learning_rate=RATE,
        final_learning_rate=RATE,
        streams=(Stream(sign=True),),
        clip=CLIP,
    )


def emulators(num_envs: int, seconds: float) -> Record:
    """Random actions on ale-py's C++ environment, all cores, one batch sent and received."""
    env: Any = make_vec(plain_breakout(), num_envs, 0)
    generator = np.random.default_rng(0)

    def work() -> int:
        env.send(generator.integers(4, size=num_envs))
        env.recv()
        return num_envs

    return timed(work, seconds).record()


def ours(num_envs: int, precision: Precision, *, captures: bool, seconds: float, device: torch.device) -> Record:
    """`train_ppo`'s round, without its folder and curves: a rollout is sampled while the last is learnt from."""
    one_thread_per_role()
    agent, environment = recipe(num_envs), plain_breakout(lives=True)
    spec = ppo.policy_spec(environment, agent, origin="")
    network, acting = build_network(spec), build_network(spec)
    network.initialise(torch.Generator().manual_seed(0), for_rl=True)
    for each in (network, acting):
        each.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
    acting.cast_encoder(precision)
    learner = Learner(network, agent, precision)
    sampler = Sampler(
        make_halves(environment, num_envs, np.random.default_rng(0)), environment, agent, acting, precision
    )
    learner.captures = sampler.captures = captures
    order, draws = torch.Generator().manual_seed(1), torch.Generator(device).manual_seed(2)
    window, shares = Window(seconds), Shares()
    parts = {
        (Sampler, "_receive"): "emulators waited for and their results kept",
        (Sampler, "_answer"): "acting inference, launched one by one",
        (Sampler, "collect"): "sampling besides",
        (learning, "pieces_of"): "minibatches gathered",
        (learning, "gradients_of"): "forward and backward, launched one by one",
        (Learner, "learn"): "learning besides",
    }

    def round_of(rollout: Any) -> Any:
        ppo.publish(network, sampler, Progress(identity="", seed=0))
        pending = pool.submit(sampler.collect, draws)
        samples = shares.wrapped(prepare, "V-trace pass")(network, rollout, agent, precision)
        learner.learn(samples, order, rate=RATE, where="the benchmark")
        return pending.result()

    with shares.over(parts), ThreadPoolExecutor(1) as pool:
        rollout = sampler.collect(draws)
        for _ in range(WARM_UP):
            rollout = round_of(rollout)
        shares.start()
        steps = 0
        while not window.mark(steps):
            rollout = round_of(rollout)
            steps += num_envs * ROLLOUT
        found = shares.shares()
    found["emulators and torch's own threads"] = found.pop("emulators")
    sampler.close()
    return window.sample().record() | {"shares": found}


def loop(num_envs: int, seconds: float, device: torch.device) -> Record:
    """One thread that acts, waits, learns, waits: arrays of whole stacks go up in each step, every loss comes down.

    After CleanRL's scripts: single-file PPO, eager, float32, the device waited for once a step and once a minibatch.
    """
    agent = recipe(num_envs)
    env: Any = make_vec(plain_breakout(), num_envs, 0)
    network = _Nature(4).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE, eps=1e-5)
    window, steps = Window(seconds), -WARM_UP * num_envs * ROLLOUT
    observation, _ = env.reset()
    done = np.zeros(num_envs, bool)
    while steps < 0 or not window.mark(steps):
        kept: dict[str, list[torch.Tensor]] = {}
        for _ in range(ROLLOUT):
            seen = torch.tensor(observation, device=device).float()
            with torch.no_grad():
                policy, value = network(seen)
                action = policy.sample()
            row = {"seen": seen, "action": action, "log_prob": policy.log_prob(action), "value": value}
            row["begins"] = torch.tensor(done, device=device).float()
            observation, reward, terminated, truncated, _ = env.step(action.cpu().numpy())
            done = terminated | truncated
            row["reward"] = torch.tensor(np.sign(reward), device=device).float()
            for name, tensor in row.items():
                kept.setdefault(name, []).append(tensor)
        with torch.no_grad():
            last = network(torch.tensor(observation, device=device).float())[1]
        _learn_eagerly(network, optimiser, agent, kept, last, torch.tensor(done, device=device).float())
        steps += num_envs * ROLLOUT
    env.close()
    return window.sample().record()


def _learn_eagerly(
    network: Callable[..., Any],
    optimiser: torch.optim.Optimizer,
    agent: Ppo,
    kept: dict[str, list[torch.Tensor]],
    last: torch.Tensor,
    ended: torch.Tensor,
) -> None:
    """Generalised advantages and all gradient steps."""
    advantage: list[torch.Tensor] = []
    running = torch.zeros_like(last)
    following, alive = last, 1 - ended
    for t in reversed(range(ROLLOUT)):
        delta = kept["reward"][t] + 0.99 * following * alive - kept["value"][t]
        running = delta + 0.99 * 0.95 * alive * running
        advantage.insert(0, running)
        following, alive = kept["value"][t], 1 - kept["begins"][t]
    flat = {name: torch.cat(rows) for name, rows in kept.items()}
    gain = torch.cat(advantage)
    target = gain + flat["value"]
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(gain), device=gain.device), agent.minibatch):
            policy, value = network(flat["seen"][rows])
            ratio = (policy.log_prob(flat["action"][rows]) - flat["log_prob"][rows]).exp()
            normal = (gain[rows] - gain[rows].mean()) / (gain[rows].std() + 1e-8)
            surrogate = torch.min(ratio * normal, ratio.clamp(1 - CLIP, 1 + CLIP) * normal).mean()
            loss = 0.25 * (value - target[rows]).square().mean() - surrogate - 0.01 * policy.entropy().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 0.5)
            optimiser.step()
            loss.item()


class _Nature(nn.Module):
    """Mnih et al. 2015, actor and critic."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()),
        )
        self.actor, self.critic = nn.Linear(512, actions), nn.Linear(512, 1)

    def forward(self, seen: torch.Tensor) -> tuple[torch.distributions.Categorical, torch.Tensor]:
        """Policy and value [B] for stacks [B, 4, 84, 84] in 0 to 255."""
        features = self.body(seen / 255)
        return torch.distributions.Categorical(logits=self.actor(features)), self.critic(features).squeeze(-1)
