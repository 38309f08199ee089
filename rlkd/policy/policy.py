"""The policy: observation to distribution, observation to action, and its file."""

import dataclasses
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rlkd.errors import MismatchError, PolicyFileError
from rlkd.policy import file
from rlkd.policy.acting import Acting, Answer
from rlkd.policy.compute import rows_at_once
from rlkd.policy.networks import PolicyNetwork, acting_flops, acting_parameters
from rlkd.policy.output import Output, joined
from rlkd.policy.spec import PolicySpec


class Policy(Acting):
    """A network with everything needed to play: call it for distributions, `predict` for actions."""

    def __init__(self, network: PolicyNetwork, spec: PolicySpec, *, device: str = "cpu") -> None:
        """Take a network and its record; sizes and hash in the record are filled in.

        Args:
            network: its weights are used, not copied.
            spec: what it is.
            device: where the network runs.
        """
        super().__init__()
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

    def __call__(
        self,
        observation: np.ndarray | Tensor,
        state: Tensor | None = None,
        episode_start: np.ndarray | None = None,
    ) -> Output:
        """The answer to a batch of observations.

        Args:
            observation: [B, *spec.observation_shape], raw: scaling and whitening happen inside. Of a longer stack of
                frames the newest are read.
            state: [B, S] of a recurrent policy, from the last answer; `initial_state` gives the first.
            episode_start: [B] bool, rows whose state is to be zeroed first.

        Raises:
            ValueError: wrong shape, or a recurrent policy called without a state.
        """
        observation = self.seen(observation)
        if tuple(observation.shape[1:]) != self.spec.observation_shape:
            want = ["batch", *self.spec.observation_shape]
            raise ValueError(f"observation must be {want}, got {list(observation.shape)}")
        if self.recurrent and state is None:
            raise ValueError("a recurrent policy needs its state; start with policy.initial_state(batch)")
        if state is not None and episode_start is not None:
            keep = torch.as_tensor(~np.asarray(episode_start, bool), dtype=state.dtype, device=state.device)
            state = state * keep[:, None]
        if self.spec.normaliser is not None:
            there = observation.cpu() if isinstance(observation, Tensor) else observation
            observation = self.spec.normaliser(np.asarray(there))
        tensor = torch.as_tensor(observation, device=self.device)
        if self.spec.observation_dtype == "float32":
            tensor = tensor.float()
        size = rows_at_once(self.device, pixels=self.network.pixels)
        if state is None and not torch.is_grad_enabled() and len(tensor) > size:
            return joined([self.network(part) for part in torch.split(tensor, size)])
        output: Output = self.network(tensor, state)
        return output

    def initial_state(self, batch: int) -> Tensor | None:
        """[batch, S] zeros; None for feed-forward policies."""
        return torch.zeros(batch, self.state_width, device=self.device) if self.recurrent else None

    def answer(self, observation: np.ndarray, state: np.ndarray | None = None) -> Answer:
        """Parameters for observations [B, *shape], raw, and recurrent states [B, S], as arrays."""
        tensor = None if state is None else torch.as_tensor(state, dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            output = self(observation, tensor)
        return Answer(output.numpy(), None if output.state is None else output.state.float().cpu().numpy())

    def under(self, spec: PolicySpec) -> Self:
        """The same network under another record."""
        return type(self)(self.network, spec, device=str(self.device))

    def save(self, path: str | Path) -> None:
        """Write one .safetensors file: whole or not there, weights in `spec.precision`, no code in it."""
        file.write(Path(path), self.spec, self.network.state_dict())

    def half(self) -> "Policy":
        """The same policy with weights rounded to float16 and stored so; it still acts in float32."""
        network = file.build_network(self.spec)
        rounded = {name: tensor.half().float() for name, tensor in self.network.state_dict().items()}
        network.load_state_dict(rounded)
        return Policy(network, dataclasses.replace(self.spec, precision="float16"), device=str(self.device))


def snapshot(network: PolicyNetwork, spec: PolicySpec) -> Policy:
    """The policy with a copy of a network's weights, on the CPU: what is learnt afterwards does not change it."""
    copy = file.build_network(spec)
    copy.load_state_dict({name: tensor.cpu() for name, tensor in network.state_dict().items()})
    return Policy(copy, spec)


def read_policy(path: Path, *, device: str) -> Policy:
    """The policy in one of our .safetensors files; PolicyFileError where it is missing, damaged or altered."""
    spec, weights = file.read(path)
    try:
        with torch.device("meta"):  # a forged record must not make us allocate what its weights do not fill
            network = file.build_network(spec)
        network.load_state_dict(weights, assign=True)
    except (MismatchError, RuntimeError, TypeError):
        raise PolicyFileError(f"{path}: its weights do not fit its network; the file is damaged") from None
    return Policy(network, spec, device=device)
