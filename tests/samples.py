"""One small network in the file formats of other projects, made without rlkd: what importers are tested on.

The network reads CartPole's 4 numbers: 4 -> 8, tanh, -> 2 logits.
"""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlkd.recipe import Import, Network
from rlkd.recipe import Tensor as Entry

SMALL = Network(encoder="mlp", hidden=(8,), activation="tanh")
OURS = ("encoder.0.weight", "encoder.0.bias", "head.weight", "head.bias")
TORCH = ("0.weight", "0.bias", "2.weight", "2.bias")


def original(inputs: int = 4, outputs: int = 2) -> nn.Sequential:
    """The network itself, of weights that make its answers differ."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)
    return module


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """Its weights by torch's names, float32."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def recipe(names: Mapping[str, str | Entry] | None = None, **changes: Any) -> Import:
    """How the network's file is read; by torch's names unless others are given."""
    tensors: dict[str, str | Entry] = dict(names or zip(OURS, TORCH, strict=True))
    values: dict[str, Any] = {"output": "categorical", "network": SMALL, "rule": "greedy", "tensors": tensors}
    return Import(**(values | changes))


def under(prefix: str, *, input_first: bool = False) -> dict[str, str | Entry]:
    """Names with something before them; of kernels that lie [input, output]."""
    found: dict[str, str | Entry] = {}
    for ours, theirs in zip(OURS, TORCH, strict=True):
        turned = input_first and ours.endswith("weight")
        found[ours] = Entry(name=prefix + theirs, layout="input_first") if turned else prefix + theirs
    return found


def torch_zip(path: Path) -> None:
    torch.save(original().state_dict(), path)


def torch_legacy(path: Path) -> None:
    torch.save(original().state_dict(), path, _use_new_zipfile_serialization=False)


def checkpoint(path: Path, *, frames: int = 10**12, legacy: bool = False) -> None:
    """A training run's state: weights, Adam's moments, and a count of frames larger than the file."""
    module = original()
    adam = torch.optim.Adam(module.parameters(), betas=(0.9, 0.99))
    module(torch.ones(1, 4)).sum().backward()
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    adam.step()
    state = {"num_frames": frames, "update": 7, "model": {"policy": weights}, "optimizer": adam.state_dict()}
    state |= {"vocab": {"word": 1}, "best": -3.5, "scores": [1.0, 2.0], "note": "x", "none": None, "flag": True}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


def hdf5(path: Path) -> None:
    """Groups as Chainer's serialiser nests them; compressed, beside a count."""
    import h5py  # type: ignore[import-untyped]  # has neither stubs nor types of its own

    with h5py.File(path, "w") as opened:
        for name, array in arrays(original()).items():
            layer, _, kind = name.partition(".")
            opened.create_dataset(f"net/{layer}/{kind}", data=array, compression="gzip")
        opened["t"] = 80_000_000


HDF5_NAMES: dict[str, str | Entry] = {
    ours: f"net/{theirs.replace('.', '/')}" for ours, theirs in zip(OURS, TORCH, strict=True)
}


def flat(module: nn.Module) -> list[float]:
    """All weights in one vector, kernels [input, output]: as evolution strategies keep them."""
    return [float(number) for array in arrays(module).values() for number in array.T.ravel()]


def json_file(path: Path) -> None:
    path.write_text(json.dumps([flat(original()), 301.5]))


def at_starts(inputs: int = 4, outputs: int = 2) -> dict[str, str | Entry]:
    """Names of tensors inside that vector."""
    sizes = (inputs * 8, 8, 8 * outputs, outputs)
    starts = [sum(sizes[:index]) for index in range(4)]
    layouts = ("input_first", "torch", "input_first", "torch")
    made = (Entry(name="0", layout=layout, start=start) for layout, start in zip(layouts, starts, strict=True))  # type: ignore[arg-type]  # mypy widens the texts
    return dict(zip(OURS, made, strict=True))


MOMENTS = {"mean": np.array([0.1, -0.2, 0.01, 0.3]), "square": np.array([0.5, 0.4, 0.2, 0.09])}
"""Of observations; the last variance is 0."""


def nested(module: nn.Module) -> dict[str, Any]:
    """Arrays in dictionaries, float64, kernels [input, output], beside means and means of squares."""
    weights = {name: array.T.astype(np.float64) for name, array in arrays(module).items()}
    return {"policy": weights, "norm": {"mean": MOMENTS["mean"][None], "square": MOMENTS["square"][None]}}


def numpy_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(nested(original()), 2))


def python_2_pickle(value: Any) -> bytes:
    """Dictionaries of float64 arrays as cPickle of Python 2 wrote them by protocol 2."""
    return b"\x80\x02" + _python_2(value) + b"."


def _python_2(value: Any) -> bytes:
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, dict):
        items = b"".join(_python_2(key) + _python_2(item) for key, item in value.items())
        return b"}(" + items + b"u"
    raw, shape = np.ascontiguousarray(value).tobytes(), b"".join(b"M" + struct.pack("<H", n) for n in value.shape)
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return made + b"(K\x01(" + shape + b"t" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"


def onnx_model(module: nn.Module, *, raw: bool = True, record: str = "") -> bytes:
    """Observation -> Gemm, Tanh, Gemm -> logits, with the weights as initialisers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = []
    for name, array in arrays(module).items():
        numbers = array.astype(np.float32).ravel().tolist()
        plain = helper.make_tensor(name, TensorProto.FLOAT, array.shape, numbers)
        weights.append(numpy_helper.from_array(array, name) if raw else plain)
    count = helper.make_tensor("count", TensorProto.INT64, (1,), [80_000_000])
    inputs, outputs = module.state_dict()["0.weight"].shape[1], module.state_dict()["2.bias"].shape[0]
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["observation", "0.weight", "0.bias"], ["hidden"], transB=1),
            helper.make_node("Tanh", ["hidden"], ["bent"]),
            helper.make_node("Gemm", ["bent", "2.weight", "2.bias"], ["logits"], transB=1),
        ],
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", outputs])],
        [*weights, count],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if record:
        helper.set_model_props(model, {"rlkd": record})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def onnx_file(path: Path) -> None:
    path.write_bytes(onnx_model(original()))


def safetensors_file(path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(original().state_dict(), path)


FORMATS: dict[str, tuple[str, Callable[[Path], None], Import]] = {
    "torch zip": ("w.pt", torch_zip, recipe()),
    "torch legacy": ("w.tar", torch_legacy, recipe()),
    "torch checkpoint": ("w.pt", checkpoint, recipe(under("model/policy/"))),
    "HDF5": ("w.h5", hdf5, recipe(HDF5_NAMES)),
    "JSON": ("w.json", json_file, recipe(at_starts())),
    "numpy pickle": ("w.pkl", numpy_pickle, recipe(under("policy/", input_first=True))),
    "ONNX": ("w.onnx", onnx_file, recipe()),
    "safetensors": ("w.safetensors", safetensors_file, recipe()),
}
"""Of each format: a file's name, what writes it, and the recipe that reads it back."""


def answers(module: nn.Module, observation: np.ndarray) -> np.ndarray:
    """What torch itself computes, float32."""
    with torch.inference_mode():
        found: Tensor = module(torch.as_tensor(observation))
    return found.numpy()


def members(path: Path) -> dict[str, bytes]:
    """What is in a zip, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path: Path, contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """A zip of these members."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
