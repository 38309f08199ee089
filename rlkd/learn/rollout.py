"""Rollouts for policy-gradient learning: T steps of N environments by one frozen copy of the policy."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlkd.data import Episode
from rlkd.losses import gaussian_log_prob, generalised_advantages
from rlkd.policy import Output, PolicyNetwork
from rlkd.policy.compute import Precision, autocast
from rlkd.recipe import Environment, Ppo
from rlkd.vector import Stepper


@dataclass(frozen=True, slots=True)
class Rollout:
    """T steps of N environments, flattened to B = T * N rows in time order, on the CPU."""

    observation: np.ndarray
    """[B, ...] uint8 or float32."""
    action: Tensor
    """[B] int64, or [B, D] float32 before clipping to the bounds."""
    log_prob: Tensor
    """[B], of the action under the policy that acted."""
    advantage: Tensor
    """[B]."""
    returns: Tensor
    """[B], the critic's target."""
    rows: Tensor
    """[V] int64: indices of the rows that were really played."""
    episodes: list[Episode]
    """Episodes that ended."""
    seconds: float
    """CPU seconds of the sampling thread, emulator threads not counted."""


class Sampler:
    """Steps environments with a frozen policy. Lives in its own thread; shares nothing with the learner."""

    def __init__(
        self,
        stepper: Stepper,
        environment: Environment,
        agent: Ppo,
        network: PolicyNetwork,
        precision: Precision,
    ) -> None:
        self.stepper, self.agent, self.network, self.precision = stepper, agent, network, precision
        self.ends_with_life = environment.emulator is not None and environment.emulator.lives == "life"
        self.observation = stepper.reset()
        self.bounds = None if network.log_std is None else _bounds(stepper)

    def collect(self, generator: torch.Generator) -> Rollout:
        """The next T steps. All randomness of the actions comes from `generator`."""
        started = time.thread_time()
        agent, steps, rows = self.agent, self.agent.rollout_steps, self.stepper.num_envs
        seen = np.empty((steps + 1, rows, *self.observation.shape[1:]), self.observation.dtype)
        actions, log_probs = [], torch.empty(steps, rows)
        value, reward = torch.empty(steps + 1, rows), torch.empty(steps, rows)
        terminated = torch.empty(steps, rows, dtype=torch.bool)
        valid = torch.empty(steps, rows, dtype=torch.bool)
        for t in range(steps):
            seen[t] = self.observation
            output = self._answer()
            action, log_probs[t] = draw(output, generator)
            actions.append(action)
            value[t] = _value(output)
            step = self.stepper.step(self._playable(action))
            gain = np.sign(step.reward) if agent.clip_reward else step.reward
            reward[t] = torch.from_numpy(gain.astype(np.float32))
            ends = step.terminated | step.life_lost if self.ends_with_life else step.terminated
            terminated[t], valid[t] = torch.from_numpy(ends), torch.from_numpy(step.valid)
            self.observation = step.observation
        seen[steps] = self.observation
        value[steps] = _value(self._answer())
        advantage = generalised_advantages(
            reward, value, terminated, valid, discount=agent.discount, gae_lambda=agent.gae_lambda
        )
        episodes, self.stepper.finished = self.stepper.finished, []
        return Rollout(
            observation=seen[:steps].reshape(steps * rows, *seen.shape[2:]),
            action=torch.stack(actions).flatten(0, 1),
            log_prob=log_probs.flatten(),
            advantage=advantage.flatten(),
            returns=(advantage + value[:steps]).flatten(),
            rows=torch.nonzero(valid.flatten()).squeeze(-1),
            episodes=episodes,
            seconds=time.thread_time() - started,
        )

    def _answer(self) -> Output:
        device = self.network.head.weight.device
        observation = torch.from_numpy(self.observation).to(device)
        with torch.inference_mode(), autocast(device, self.precision, pixels=self.network.pixels):
            output: Output = self.network(observation)
        return output

    def _playable(self, action: Tensor) -> np.ndarray:
        if self.bounds is None:
            return action.numpy()
        playable: np.ndarray = np.clip(action.numpy(), *self.bounds)
        return playable


@torch.no_grad()  # a view of log_std asks for gradients, even one made in inference mode
def draw(output: Output, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sampled actions and their log-probabilities, on the CPU: [B] int64 or [B, D] float32, and [B]."""
    if output.kind == "categorical":
        log_p = torch.log_softmax(output.params["logits"].float().cpu(), dim=-1)
        action = torch.multinomial(log_p.exp(), 1, generator=generator)
        return action.squeeze(-1), log_p.gather(1, action).squeeze(-1)
    mean, log_std = (output.params[name].float().cpu() for name in ("mean", "log_std"))
    action = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
    return action, gaussian_log_prob(mean, log_std, action)


def _value(output: Output) -> Tensor:
    if output.value is None:
        raise ValueError("policy-gradient learning needs a network with a critic")
    return output.value.float().cpu()


def _bounds(stepper: Stepper) -> tuple[np.ndarray, np.ndarray]:
    space = stepper.env.single_action_space
    return space.low, space.high  # type: ignore[attr-defined]  # a Box, or there would be no log_std
