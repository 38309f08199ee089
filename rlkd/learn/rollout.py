"""Rollouts for policy-gradient learning: T steps of N environments by one frozen copy of the policy.

The environments stand in two fixed halves: while the network answers one, the emulators of the other work. Nothing
depends on which is faster.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlkd.data import Episode
from rlkd.learn.guard import check_finite
from rlkd.losses import gaussian_log_prob
from rlkd.policy import Output, PolicyNetwork
from rlkd.policy.compute import Precision, autocast
from rlkd.recipe import Environment, Ppo, Stream
from rlkd.vector import Stepper


@dataclass(frozen=True, slots=True)
class Rollout:
    """T steps of N environments as they were played, and the observations after the last."""

    observation: Tensor
    """[T + 1, N, ...] uint8 or float32; the last one was not acted on."""
    first: Tensor
    """[T + 1, N] bool, the observation begins an episode."""
    state: Tensor | None
    """[N, S], what a recurrent policy remembered before `observation[0]`; None of feed-forward ones."""
    action: Tensor
    """[T, N] int64, or [T, N, D] float32 before clipping to the bounds."""
    log_prob: Tensor
    """[T, N], of the action under the policy that acted."""
    value: Tensor
    """[T + 1, N, K], by the critic of the policy that acted, one a reward stream."""
    reward: Tensor
    """[T, N, K], what each stream learns from; 0 where not valid."""
    terminated: Tensor
    """[T, N] bool, nothing follows to bootstrap from."""
    valid: Tensor
    """[T, N] bool, rows that were really played and may be learnt from."""
    version: Tensor
    """[T, N] int64: how many rollouts the weights that acted had learnt from."""
    episodes: list[Episode]
    """Episodes that ended, in raw scores."""


class _Half:
    """One half of the environments: what it sees now."""

    def __init__(self, stepper: Stepper, start: int, state_width: int) -> None:
        self.stepper = stepper
        self.rows = slice(start, start + stepper.num_envs)
        self.observation = stepper.reset()
        self.first = np.ones(stepper.num_envs, bool)
        self.state = torch.zeros(stepper.num_envs, state_width) if state_width else None


class Sampler:
    """Steps environments with a frozen policy. Lives in its own thread; shares nothing with the learner."""

    def __init__(
        self,
        steppers: Sequence[Stepper],
        environment: Environment,
        agent: Ppo,
        network: PolicyNetwork,
        precision: Precision,
    ) -> None:
        """Reset the environments.

        Args:
            steppers: one or two halves; they reset in a step of their own.
            environment: whose they are.
            agent: how long rollouts are and what is rewarded.
            network: who acts; its weights are replaced between rollouts.
            precision: of its answers.
        """
        self.agent, self.network, self.precision = agent, network, precision
        self.ends_with_life = environment.emulator is not None and environment.emulator.lives == "life"
        self.halves: list[_Half] = []
        self.num_envs = 0
        for stepper in steppers:
            self.halves.append(_Half(stepper, self.num_envs, network.state_width))
            self.num_envs += stepper.num_envs
        self.actions = network.actions
        self.bounds = None if network.log_std is None else _bounds(steppers[0])
        self.version = 0
        """How many rollouts the network's weights have learnt from."""
        self.seconds = 0.0
        """Wall seconds spent in `collect`."""
        self.waited = 0.0
        """Of these, spent waiting for emulators."""

    def collect(self, generator: torch.Generator) -> Rollout:
        """The next T steps. All randomness of the actions comes from `generator`.

        Raises:
            NotFiniteError: an observation or a reward is NaN or infinite.
        """
        started = time.perf_counter()
        rollout = self._empty()
        for t in range(self.agent.rollout_steps + 1):
            for half in self.halves:
                if t:
                    self._receive(half, rollout, t - 1)
                self._decide(half, rollout, t, generator)
        for half in self.halves:
            rollout.episodes.extend(half.stepper.finished)
            half.stepper.finished.clear()
        self.seconds += time.perf_counter() - started
        return rollout

    def close(self) -> None:
        """Release the environments."""
        for half in self.halves:
            half.stepper.close()

    def _empty(self) -> Rollout:
        T, N, K = self.agent.rollout_steps, self.num_envs, len(self.agent.streams)
        seen = self.halves[0].observation
        states = [half.state for half in self.halves if half.state is not None]
        return Rollout(
            observation=torch.from_numpy(np.empty((T + 1, N, *seen.shape[1:]), seen.dtype)),
            first=torch.zeros(T + 1, N, dtype=torch.bool),
            state=torch.cat(states) if states else None,
            action=torch.zeros(T, N, dtype=torch.int64) if self.bounds is None else torch.zeros(T, N, self.actions),
            log_prob=torch.zeros(T, N),
            value=torch.zeros(T + 1, N, K),
            reward=torch.zeros(T, N, K),
            terminated=torch.zeros(T, N, dtype=torch.bool),
            valid=torch.zeros(T, N, dtype=torch.bool),
            version=torch.full((T, N), self.version),
            episodes=[],
        )

    def _decide(self, half: _Half, rollout: Rollout, t: int, generator: torch.Generator) -> None:
        """Answer what a half sees and, but for the last observation, act on it."""
        rows, device = half.rows, self.network.head.weight.device
        observation, first = torch.from_numpy(half.observation), torch.from_numpy(half.first)
        rollout.observation[t, rows], rollout.first[t, rows] = observation, first
        state = None if half.state is None else (half.state * ~first[:, None]).to(device)
        with torch.inference_mode(), autocast(device, self.precision, pixels=self.network.pixels):
            output: Output = self.network(observation.to(device), state)
        if output.value is None:
            raise ValueError("policy-gradient learning needs a network with a critic")
        rollout.value[t, rows] = output.value.float().cpu()
        if t == self.agent.rollout_steps:
            return  # the next rollout begins with this observation and answers it with newer weights
        half.state = None if output.state is None else output.state.float().cpu()
        rollout.action[t, rows], rollout.log_prob[t, rows] = draw(output, generator)
        action = rollout.action[t, rows].numpy()
        half.stepper.send(action if self.bounds is None else np.clip(action, *self.bounds))

    def _receive(self, half: _Half, rollout: Rollout, t: int) -> None:
        """Wait for the step that was taken at time t, and keep what it brought."""
        started = time.perf_counter()
        step = half.stepper.receive()
        self.waited += time.perf_counter() - started
        rows = half.rows
        check_finite({"reward": step.reward, "observation": step.observation}, where=f"step {t} of a rollout")
        rollout.reward[t, rows] = stream_rewards(step.reward, self.agent.streams)
        ends = step.terminated | step.life_lost if self.ends_with_life else step.terminated
        rollout.terminated[t, rows] = torch.from_numpy(ends)
        rollout.valid[t, rows] = torch.from_numpy(step.valid)
        for row in np.flatnonzero(step.broken) + rows.start:
            begun = torch.nonzero(rollout.first[: t + 1, row]).flatten()
            rollout.valid[int(begun[-1]) if len(begun) else 0 : t + 1, row] = False
        half.observation, half.first = step.observation, step.first


def stream_rewards(reward: np.ndarray, streams: Sequence[Stream]) -> Tensor:
    """[n, K] float32: what each stream learns from raw rewards [n]."""
    columns = [np.sign(reward) if stream.sign else reward for stream in streams]
    return torch.from_numpy(np.stack(columns, axis=-1).astype(np.float32))


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


def _bounds(stepper: Stepper) -> tuple[np.ndarray, np.ndarray]:
    space = stepper.env.single_action_space
    return space.low, space.high  # type: ignore[attr-defined]  # a Box, or there would be no log_std
