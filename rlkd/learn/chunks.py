"""Play for value learning, in chunks: T steps of all environments by one frozen copy of the policy."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlkd.data import Episode
from rlkd.learn.guard import check_finite
from rlkd.learn.uplink import Uplink
from rlkd.policy import Policy, PolicyNetwork, Rule, decide
from rlkd.policy.compute import Precision, autocast
from rlkd.recipe import Dqn, Environment
from rlkd.replay import Transitions
from rlkd.vector import Stepper, ends_for_learner


@dataclass(frozen=True, slots=True)
class Moves:
    """One step of one half of the environments, K of them, as `Transitions.append` takes it."""

    envs: np.ndarray
    """[K] int."""
    observation: Tensor
    """[K, ...] that was acted on, on the acting network's device."""
    first: np.ndarray
    """[K] bool."""
    action: np.ndarray
    """[K] int64."""
    reward: np.ndarray
    """[K] float32, to be learnt from."""
    terminated: np.ndarray
    """[K] bool."""
    valid: np.ndarray
    """[K] bool."""
    answers: Tensor | None
    """[K, P] of a teacher; None without one."""
    demonstrated: bool
    """Whether the teacher acted."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """T steps of N environments in playing order."""

    moves: list[Moves]
    """Two a step, one for each half."""
    steps: int
    """Agent steps, T * N, those that only reset counted too."""
    episodes: list[Episode]
    """Episodes that ended."""
    epsilon: float
    """Chance of a random action in the last step."""

    def into(self, memory: Transitions) -> None:
        """Keep all of it."""
        for move in self.moves:
            memory.append(
                *(move.envs, move.observation, move.first, move.action, move.reward, move.terminated, move.valid),
                answers=move.answers,
                demonstrated=move.demonstrated,
            )


@dataclass(slots=True)
class _Half:
    """One half of the environments, between two of its steps."""

    stepper: Stepper
    envs: np.ndarray
    observation: np.ndarray
    first: np.ndarray
    uplink: Uplink | None
    """To a device that is not the CPU."""
    seen: Tensor | None = None
    """`observation` on the network's device; set with `action`."""
    action: np.ndarray | None = None
    """Of a step that is in flight."""
    answers: Tensor | None = None
    """The teacher's to `seen`."""
    demonstrated: bool = False
    """Whether the teacher acts in the step that is in flight."""
    state: Tensor | None = None
    """What the teacher remembers."""


class ChunkSampler:
    """Steps environments with a frozen policy. Lives in its own thread; shares nothing with the learner.

    While one half's emulators run, the network answers for the other half.
    """

    def __init__(
        self,
        steppers: Sequence[Stepper],
        environment: Environment,
        agent: Dqn,
        network: PolicyNetwork,
        *,
        steps: int,
        total: int,
        generator: np.random.Generator,
        precision: Precision,
        teacher: Policy | None = None,
    ) -> None:
        """Reset the environments.

        Args:
            steppers: of all environments, in order; every one resets in a step of its own.
            environment: where.
            agent: how.
            network: acts; its weights may change between two chunks.
            steps: agent steps that the run has behind it.
            total: agent steps of the whole run.
            generator: of exploration.
            precision: of the network's answers.
            teacher: answers every state, and acts in the first `teacher_steps`.
        """
        self.teacher = teacher
        if not all(stepper.next_step for stepper in steppers):
            raise ValueError("value learning needs environments that reset in a step of their own")
        self.agent, self.network, self.generator, self.precision = agent, network, generator, precision
        self.device = network.head.weight.device
        self.environment = environment
        self.steps, self.total = steps, total
        self.halves, start = [], 0
        for stepper in steppers:
            envs, observation = np.arange(start, start + stepper.num_envs), stepper.reset()
            view, here = environment.views.get("pixels"), self.device.type == "cpu"
            uplink = None if here else Uplink(view, observation, self.device)
            half = _Half(stepper, envs, observation, np.ones(stepper.num_envs, bool), uplink)
            half.state = None if teacher is None else teacher.initial_state(stepper.num_envs)
            self.halves.append(half)
            start += stepper.num_envs
        self.seconds = 0.0
        """Wall seconds spent in `collect`."""
        self.waited = 0.0
        """Of these, spent waiting for emulators."""

    def collect(self, length: int) -> Chunk:
        """The next `length` steps of every environment.

        Raises:
            NotFiniteError: an environment gave an observation or a reward that is no number.
        """
        started = time.perf_counter()
        moves: list[Moves] = []
        before = self.steps
        for _ in range(length):
            for half in self.halves:
                if half.action is not None:
                    moves.append(self._receive(half))
                self._act(half)
        moves += [self._receive(half) for half in self.halves]
        episodes = []
        for half in self.halves:
            episodes += half.stepper.finished
            half.stepper.finished = []
        self.seconds += time.perf_counter() - started
        return Chunk(moves, self.steps - before, episodes, self.epsilon)

    @property
    def epsilon(self) -> float:
        """Chance of a random action now."""
        agent = self.agent
        done = min(1.0, self.steps / max(1.0, agent.epsilon_fraction * self.total))
        return agent.epsilon_start + done * (agent.epsilon_end - agent.epsilon_start)

    def _act(self, half: _Half) -> None:
        """Decide, and start the step."""
        if half.observation.dtype != np.uint8:
            check_finite({"observation": half.observation}, where=f"agent step {self.steps:,}")
        if half.uplink is None:
            half.seen = torch.from_numpy(half.observation)
        else:
            half.uplink.bring(half.observation, half.first)
            half.seen = half.uplink.seen.clone()  # the memory takes it from there: it went up once
        with torch.inference_mode(), autocast(self.device, self.precision, pixels=self.network.pixels):
            output = self.network(half.seen)
        rule = Rule(name="epsilon_greedy", epsilon=self.epsilon)
        draws = self.generator.random((len(half.envs), 2))
        half.action = decide(output.kind, output.numpy(), rule, draws)
        if self.teacher is not None:
            with torch.inference_mode():
                told = self.teacher(half.seen, half.state, half.first)
            half.state, half.answers = told.state, told.flat.float()
            half.demonstrated = self.steps < (self.agent.teacher_steps or 0)
            if half.demonstrated:
                half.action = decide(told.kind, told.numpy(), self.teacher.spec.rule, draws)
        half.stepper.send(half.action)
        self.steps += len(half.envs)

    def _receive(self, half: _Half) -> Moves:
        """Wait for the step that `_act` started."""
        started = time.perf_counter()
        step = half.stepper.receive()
        self.waited += time.perf_counter() - started
        check_finite({"reward": step.reward}, where=f"agent step {self.steps:,}")
        if half.action is None or half.seen is None:
            raise ValueError("no step is in flight")
        reward = np.sign(step.reward) if self.agent.sign else step.reward
        terminated = ends_for_learner(self.environment, step)
        moves = Moves(
            half.envs,
            half.seen,
            half.first,
            half.action,
            reward.astype(np.float32),
            terminated,
            step.valid,
            half.answers,
            half.demonstrated,
        )
        half.observation, half.first, half.action = step.observation, step.first, None
        return moves
