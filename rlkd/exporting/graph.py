"""A policy as an ONNX model: raw observation in, parameters of its answer out, scaling and whitening inside."""

import copy
import json
import logging
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlkd.errors import ExportError
from rlkd.policy import PARAMS, Kind, Normaliser, Policy, PolicyNetwork
from rlkd.policy.onnx_file import NEXT_STATE, OBSERVATION, STATE, seal
from rlkd.policy.spec import FORMAT_VERSION, PolicySpec
from rlkd.recipe import to_table

INSTALL = "writing ONNX takes onnx, onnxscript and onnxruntime: pip install onnx onnxscript onnxruntime"


class Answering(nn.Module):
    """Raw observations [B, *shape] (and states [B, S]) to the parameters by the names of the kind (and next states)."""

    def __init__(self, network: PolicyNetwork, normaliser: Normaliser | None) -> None:
        super().__init__()
        self.network = network
        self.kind: Kind = network.kind
        self.limit = math.inf if normaliser is None else normaliser.limit
        # Not `mean`: an output of the graph has that name.
        self.observed_mean: Tensor | None
        self.observed_deviation: Tensor | None
        if normaliser is None:
            self.observed_mean = self.observed_deviation = None
        else:
            # float64, as `Normaliser` computes: in float32 a small spread around a large mean would lose its digits.
            deviation = np.sqrt(np.array(normaliser.variance) + normaliser.epsilon)
            self.register_buffer("observed_mean", torch.tensor(normaliser.mean, dtype=torch.float64))
            self.register_buffer("observed_deviation", torch.from_numpy(deviation))

    def forward(self, observation: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        """The tensors that the graph's outputs are."""
        if self.observed_mean is not None and self.observed_deviation is not None:
            white = (observation.double() - self.observed_mean) / self.observed_deviation
            if math.isfinite(self.limit):
                white = white.clamp(-self.limit, self.limit)
            observation = white.float()
        output = self.network(observation, state)
        params = tuple(output.params[name] for name in PARAMS[self.kind])
        return params if output.state is None else (*params, output.state)


def onnx_bytes(policy: Policy, source_hash: str) -> bytes:
    """The sealed ONNX file of a policy, as `OnnxPolicy` reads it; weights in float32, none outside the file.

    Args:
        policy: what is exported.
        source_hash: content hash of the policy's file, which the record in the new file names.

    Raises:
        ExportError: onnx, onnxscript or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime  # type: ignore[import-untyped]  # noqa: F401  # has no types; needed by what follows
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ModuleNotFoundError:
        raise ExportError(INSTALL) from None
    model = _model(policy)
    size = 4 * policy.spec.parameters
    spec = replace(policy.spec, precision="float32", weight_bytes=size, hash=source_hash)
    model.metadata_props.append(onnx.StringStringEntryProto(key="rlkd", value=_record(spec)))
    return seal(model.SerializeToString(deterministic=True))


def _model(policy: Policy) -> Any:
    spec = policy.spec
    module = Answering(copy.deepcopy(policy.network).cpu(), spec.normaliser).eval()
    # Two rows: of one, torch takes the number of rows for a constant.
    observation = torch.zeros(2, *spec.observation_shape, dtype=getattr(torch, spec.observation_dtype))
    inputs: tuple[Tensor, ...] = (observation,)
    if policy.recurrent:
        inputs += (torch.zeros(2, policy.state_width),)
    rows = torch.export.Dim("batch")
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    with warnings.catch_warnings():
        # torch's own use of a class that torch has deprecated.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        # Observations and states have one axis of rows; its second mention needs no name.
        warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)
        registry.setLevel(logging.ERROR)  # it says four times that torchvision is not installed; nobody needs it
        try:
            program = torch.onnx.export(
                module,
                inputs,
                input_names=[OBSERVATION, STATE][: len(inputs)],
                output_names=[*PARAMS[spec.kind], *([NEXT_STATE] if policy.recurrent else [])],
                dynamic_shapes=tuple({0: rows} for _ in inputs),
                dynamo=True,
                verbose=False,
            )
        finally:
            registry.setLevel(level)
    assert program is not None
    model = program.model_proto
    graph = model.graph
    # Where in whose files each node came from: paths of the machine that exported.
    for entry in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    return model


def _record(spec: PolicySpec) -> str:
    return json.dumps({"format_version": FORMAT_VERSION, **to_table(spec)}, sort_keys=True)
