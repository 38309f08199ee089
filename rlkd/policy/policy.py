"""The policy: observation to distribution, observation to action, and its file."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlkd.errors import MismatchError
from rlkd.policy import file
from rlkd.policy.networks import PolicyNetwork, acting_flops, acting_parameters
from rlkd.policy.output import EPSILON_GREEDY, GREEDY, SAMPLED, Output, Rule, decide
from rlkd.policy.spec import PolicySpec


class Policy:
    """A network with everything needed to play.

    Call it for distributions, `predict` for actions. It has Stable-Baselines3's `predict` signature, so
    `stable_baselines3.common.evaluation.evaluate_policy` takes it as it is.
    """

    def __init__(self, network: PolicyNetwork, spec: PolicySpec, *, device: str = "cpu") -> None:
        """Take a network and its record; sizes and hash in the record are filled in.

        Args:
            network: its weights are used, not copied.
            spec: what it is.
            device: where the network runs.
        """
        self.network = network.to(device).eval()
        self.device = torch.device(device)
        parameters = acting_parameters(network)
        spec = dataclasses.replace(
            spec,
            parameters=parameters,
            weight_bytes=parameters * (2 if spec.precision == "float16" else 4),
            flops=acting_flops(network, spec.observation_shape),
            hash="",
        )
        self.spec = dataclasses.replace(spec, hash=file.content_hash(spec, network.state_dict()))
        self._generator = np.random.default_rng(0)

    def __call__(
        self,
        observation: np.ndarray | Tensor,
        state: Tensor | None = None,
        episode_start: np.ndarray | None = None,
    ) -> Output:
        """The answer to a batch of observations.

        Args:
            observation: [B, *spec.observation_shape], raw: scaling and whitening happen inside.
            state: [B, S] of a recurrent policy, from the last answer; `initial_state` gives the first.
            episode_start: [B] bool, rows whose state is to be zeroed first.

        Raises:
            ValueError: wrong shape, or a recurrent policy called without a state.
        """
        if tuple(observation.shape[1:]) != self.spec.observation_shape:
            want = ["batch", *self.spec.observation_shape]
            raise ValueError(f"observation must be {want}, got {list(observation.shape)}")
        if self.recurrent and state is None:
            raise ValueError("a recurrent policy needs its state; start with policy.initial_state(batch)")
        if state is not None and episode_start is not None:
            keep = torch.as_tensor(~np.asarray(episode_start, bool), dtype=state.dtype, device=state.device)
            state = state * keep[:, None]
        if self.spec.normaliser is not None:
            observation = self.spec.normaliser(np.asarray(observation))
        tensor = torch.as_tensor(observation, device=self.device)
        if self.spec.observation_dtype == "float32":
            tensor = tensor.float()
        output: Output = self.network(tensor, state)
        return output

    @property
    def recurrent(self) -> bool:
        """Whether it carries a state from step to step."""
        return self.spec.network.core != "none"

    def initial_state(self, batch: int) -> Tensor | None:
        """[batch, S] zeros; None for feed-forward policies."""
        if not self.recurrent:
            return None
        parts = 2 if self.spec.network.core == "lstm" else 1  # hidden and cell state
        return torch.zeros(batch, parts * self.spec.network.core_width, device=self.device)

    def seed(self, seed: int) -> None:
        """Restart the random stream of `predict`."""
        self._generator = np.random.default_rng(seed)

    def predict(
        self,
        observation: np.ndarray,
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Actions for one observation or a batch, as in Stable-Baselines3.

        Args:
            observation: [*shape] or [B, *shape]; pixels may also have their channels last.
            state: recurrent state from the last call; None starts afresh.
            episode_start: [B] bool, rows where a new episode begins.
            deterministic: True greedy, False sampled (Q-values: 5 % uniform actions), None the policy's own rule.

        Returns:
            Action (int64, or float32 [D] within the bounds), with a batch axis if the observation had one, and state.
        """
        observation = np.asarray(observation)
        observation, batched = self._batch(observation)
        rule = self.spec.rule if deterministic is None else (GREEDY if deterministic else self._exploring)
        if state is not None or not self.recurrent:
            tensor = None if state is None else torch.as_tensor(state, device=self.device)
        else:
            tensor = self.initial_state(len(observation))
        uniforms = self._generator.random((len(observation), max(2, 2 * self.spec.actions)))
        with torch.inference_mode():
            output = self(observation, tensor, episode_start)
        action = self.to_environment(decide(to_cpu(output), rule, uniforms))
        following = None if output.state is None else output.state.cpu().numpy()
        return (action if batched else action[0]), following

    def to_environment(self, action: np.ndarray) -> np.ndarray:
        """The action as the environment takes it: continuous ones scaled (if squashed) and clipped to the bounds."""
        if self.spec.discrete:
            return action
        low, high = (np.array(bound, np.float32) for bound in (self.spec.action_low, self.spec.action_high))
        if self.spec.kind == "squashed_gaussian":
            action = low + 0.5 * (action + 1) * (high - low)
        clipped: np.ndarray = np.clip(action, low, high)
        return clipped

    def save(self, path: str | Path) -> None:
        """Write one .safetensors file: whole or not there, weights in `spec.precision`, no code in it."""
        file.write(Path(path), self.spec, self.network.state_dict())

    def half(self) -> "Policy":
        """The same policy with weights rounded to float16 and stored so; it still acts in float32."""
        network = file.build_network(self.spec)
        rounded = {name: tensor.half().float() for name, tensor in self.network.state_dict().items()}
        network.load_state_dict(rounded)
        return Policy(network, dataclasses.replace(self.spec, precision="float16"), device=str(self.device))

    @property
    def _exploring(self) -> Rule:
        if self.spec.rule.name == "epsilon_greedy":
            return self.spec.rule
        return EPSILON_GREEDY if self.spec.kind == "q" else SAMPLED

    def _batch(self, observation: np.ndarray) -> tuple[np.ndarray, bool]:
        shape = self.spec.observation_shape
        channels_last = (*shape[1:], shape[0]) if len(shape) == 3 else shape
        for wanted in (shape, channels_last):
            if observation.shape == wanted:
                observation, batched = observation[None], False
            elif observation.shape[1:] == wanted:
                batched = True
            else:
                continue
            return (observation if wanted == shape else np.moveaxis(observation, -1, 1)), batched
        raise MismatchError(f"this policy reads observations of shape {list(shape)}, got {list(observation.shape)}")


def to_cpu(output: Output) -> Output:
    """The same answer with its parameters on the CPU, without gradients."""
    return dataclasses.replace(output, params={name: tensor.detach().cpu() for name, tensor in output.params.items()})
