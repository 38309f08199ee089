"""CUDA graphs: fixed work on fixed tensors, launched as one."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
WARM_UP = 3  # runs before capturing: libraries choose their kernels and reserve memory in the first ones


class Captured(Generic[T]):
    """A function captured once and replayed without Python in between."""

    def __init__(
        self, function: Callable[[], T], *, changes: Sequence[Tensor] = (), generators: Sequence[torch.Generator] = ()
    ) -> None:
        """Run the function a few times, capture it, and undo what that changed.

        Args:
            function: reads and writes tensors that stay where they are, and never waits for the device. What it
                returns is overwritten by each replay.
            changes: tensors that it changes: they are put back after capturing.
            generators: CUDA generators that it draws from.
        """
        # A copy with a history would keep places in autograd's graph alive that belong to another stream than ours.
        before = [tensor.detach().clone() for tensor in changes]
        # Not the stream that torch would take for all: it keeps one workspace of cuBLAS for a thread and a stream, so
        # that graphs which are replayed side by side would write into the same one (pytorch/pytorch#193402).
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch does not annotate it
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        # Another thread goes on launching its own work meanwhile.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._result = function()
        with torch.no_grad():
            for tensor, value in zip(changes, before, strict=True):
                tensor.copy_(value)

    def __call__(self) -> T:
        """Replay; the result's tensors are always the same ones."""
        self._graph.replay()
        return self._result


def prime(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """Let an optimiser that has taken no step yet create its moments, as zeros; returns all tensors that it keeps."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    if not optimiser.state:
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
                for tensor in optimiser.state[parameter].values():
                    tensor.zero_()
    return [tensor for parameter in parameters for tensor in optimiser.state[parameter].values()]
