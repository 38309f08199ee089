"""Rollouts for policy-gradient learning: T steps of N environments by one frozen copy of the policy.

The environments stand in two fixed halves: while the network answers one, the emulators of the other work. Nothing
depends on which is faster.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlkd.data import Episode
from rlkd.learn.graphs import Captured
from rlkd.learn.guard import check_finite
from rlkd.learn.uplink import Uplink
from rlkd.losses import gaussian_log_prob
from rlkd.policy import Output, PolicyNetwork
from rlkd.policy.compute import Precision, autocast
from rlkd.recipe import Environment, Ppo, Stream, View
from rlkd.vector import Stepper, ends_for_learner


@dataclass(frozen=True, slots=True)
class Rollout:
    """T steps of N environments as they were played, and the observations after the last; on the network's device."""

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
    ended: Tensor
    """[T, N] bool, the episode is over, in the game itself or by a limit."""
    valid: Tensor
    """[T, N] bool, rows that were really played and may be learnt from."""
    version: Tensor
    """[T, N] int64: how many rollouts the weights that acted had learnt from."""
    episodes: list[Episode]
    """Episodes that ended, in raw scores."""


class Decision(NamedTuple):
    """What a network decided for n environments, on its device."""

    action: Tensor
    """[n] int64, or [n, D] float32 before clipping to the bounds."""
    log_prob: Tensor
    """[n]."""
    value: Tensor
    """[n, K]."""


class _Half:
    """One half of the environments: what it sees and remembers now."""

    def __init__(self, stepper: Stepper, start: int, view: View | None, network: PolicyNetwork) -> None:
        self.stepper = stepper
        self.rows = slice(start, start + stepper.num_envs)
        device = network.head.weight.device
        # On a CPU, stacks as they come are at hand already: nothing goes up.
        self.uplink = Uplink(view if device.type == "cuda" else None, stepper.reset(), device)
        self.first = np.ones(stepper.num_envs, bool)
        width = network.state_width
        self.state = torch.zeros(stepper.num_envs, width, device=device) if width else None
        self.captured: Captured[Decision] | None = None


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
            network: who acts; its weights are replaced between rollouts. Rollouts are kept on its device.
            precision: of its answers.
        """
        if not all(stepper.next_step for stepper in steppers):
            raise ValueError("rollouts need environments that reset in a step of their own")
        self.agent, self.network, self.precision = agent, network, precision
        self.device = network.head.weight.device
        self.environment = environment
        self.halves: list[_Half] = []
        self.num_envs = 0
        for stepper in steppers:
            self.halves.append(_Half(stepper, self.num_envs, environment.views.get("pixels"), network))
            self.num_envs += stepper.num_envs
        self.bounds = None if network.log_std is None else _bounds(steppers[0])
        self.captures = self.device.type == "cuda"
        """Whether decisions are replayed as a CUDA graph."""
        self.stream = torch.cuda.Stream(self.device) if self.captures else None  # type: ignore[no-untyped-call]
        self.version = 0
        """How many rollouts the network's weights have learnt from."""
        self.seconds = 0.0
        """Wall seconds spent in `collect`."""
        self.waited = 0.0
        """Of these, spent waiting for emulators."""

    def collect(self, generator: torch.Generator) -> Rollout:
        """The next T steps. All randomness of the actions comes from `generator`, which is on the network's device.

        Raises:
            NotFiniteError: an observation or a reward is NaN or infinite.
        """
        # A stream of its own, so that the learner's kernels and these run side by side.
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            return self._collect(generator)

    def _collect(self, generator: torch.Generator) -> Rollout:
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
        names = ("first", "reward", "terminated", "ended", "valid")
        rollout = replace(rollout, **{name: getattr(rollout, name).to(self.device) for name in names})
        if self.stream is not None:
            self.stream.synchronize()  # the learner's stream reads what this one wrote
        self.seconds += time.perf_counter() - started
        return rollout

    def close(self) -> None:
        """Release the environments."""
        for half in self.halves:
            half.stepper.close()

    def _empty(self) -> Rollout:
        T, N, K = self.agent.rollout_steps, self.num_envs, len(self.agent.streams)
        seen, device = self.halves[0].uplink.seen, self.device
        states = [half.state for half in self.halves if half.state is not None]
        shape, dtype = ((), torch.int64) if self.bounds is None else ((self.network.actions,), torch.float32)
        return Rollout(
            observation=torch.empty((T + 1, N, *seen.shape[1:]), dtype=seen.dtype, device=device),
            first=torch.zeros(T + 1, N, dtype=torch.bool),
            state=torch.cat(states) if states else None,
            action=torch.empty((T, N, *shape), dtype=dtype, device=device),
            log_prob=torch.empty(T, N, device=device),
            value=torch.empty(T + 1, N, K, device=device),
            reward=torch.empty(T, N, K),
            terminated=torch.empty(T, N, dtype=torch.bool),
            ended=torch.empty(T, N, dtype=torch.bool),
            valid=torch.empty(T, N, dtype=torch.bool),
            version=torch.full((T, N), self.version),
            episodes=[],
        )

    def _decide(self, half: _Half, rollout: Rollout, t: int, generator: torch.Generator) -> None:
        """Answer what a half sees and, but for the last observation, act on it."""
        rows = half.rows
        rollout.observation[t, rows] = half.uplink.seen
        rollout.first[t, rows] = torch.from_numpy(half.first)
        if half.state is not None:
            half.state *= ~torch.from_numpy(half.first).to(self.device)[:, None]
        last = t == self.agent.rollout_steps
        # The next rollout begins with the last observation, and answers it again with newer weights.
        remembered = half.state.clone() if half.state is not None and last else None
        if self.captures and half.captured is None:
            changes = [] if half.state is None else [half.state]
            function = partial(self._answer, half, generator)
            half.captured = Captured(function, changes=changes, generators=[generator])
        decision = half.captured() if half.captured is not None else self._answer(half, generator)
        rollout.value[t, rows] = decision.value
        if last:
            if half.state is not None and remembered is not None:
                half.state.copy_(remembered)
            return
        rollout.action[t, rows], rollout.log_prob[t, rows] = decision.action, decision.log_prob
        action = decision.action.cpu().numpy()
        half.stepper.send(action if self.bounds is None else np.clip(action, *self.bounds))

    @torch.inference_mode()
    def _answer(self, half: _Half, generator: torch.Generator) -> Decision:
        """Decide for a half, and remember. Reads and writes tensors that stay where they are."""
        with autocast(self.device, self.precision, pixels=self.network.pixels):
            output: Output = self.network(half.uplink.seen, half.state)
        if output.value is None:
            raise ValueError("policy-gradient learning needs a network with a critic")
        if half.state is not None and output.state is not None:
            half.state.copy_(output.state)
        return Decision(*draw(output, generator), output.value.float())

    def _receive(self, half: _Half, rollout: Rollout, t: int) -> None:
        """Wait for the step that was taken at time t, and keep what it brought."""
        started = time.perf_counter()
        step = half.stepper.receive()
        self.waited += time.perf_counter() - started
        rows = half.rows
        check_finite({"reward": step.reward, "observation": step.observation}, where=f"step {t} of a rollout")
        rollout.reward[t, rows] = stream_rewards(step.reward, self.agent.streams)
        ends = ends_for_learner(self.environment, step)
        rollout.terminated[t, rows] = torch.from_numpy(ends)
        rollout.ended[t, rows] = torch.from_numpy(step.ended)
        rollout.valid[t, rows] = torch.from_numpy(step.valid)
        for row in np.flatnonzero(step.broken) + rows.start:
            begun = torch.nonzero(rollout.first[: t + 1, row]).flatten()
            rollout.valid[int(begun[-1]) if len(begun) else 0 : t + 1, row] = False
        half.uplink.bring(step.observation, step.first)
        half.first = step.first


def stream_rewards(reward: np.ndarray, streams: Sequence[Stream]) -> Tensor:
    """[n, K] float32: what each stream learns from raw rewards [n]; nothing yet of a bonus."""
    game = [np.sign(reward) if stream.sign else reward for stream in streams]
    columns = [column * (stream.reward == "game") for column, stream in zip(game, streams, strict=True)]
    return torch.from_numpy(np.stack(columns, axis=-1).astype(np.float32))


def draw(output: Output, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sampled actions and their log-probabilities: [B] int64 or [B, D] float32, and [B]."""
    params = {name: tensor.detach().float() for name, tensor in output.params.items()}
    if output.kind == "categorical":
        log_p = torch.log_softmax(params["logits"], dim=-1)
        action = torch.multinomial(log_p.exp(), 1, generator=generator)
        return action.squeeze(-1), log_p.gather(1, action).squeeze(-1)
    mean, log_std = params["mean"], params["log_std"]
    action = mean + log_std.exp() * torch.randn(mean.shape, generator=generator, device=mean.device)
    return action, gaussian_log_prob(mean, log_std, action)


def _bounds(stepper: Stepper) -> tuple[np.ndarray, np.ndarray]:
    space = stepper.env.single_action_space
    return space.low, space.high  # type: ignore[attr-defined]  # a Box, or there would be no log_std
