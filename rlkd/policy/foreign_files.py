"""Arrays of weights out of other projects' files, by name. Nothing in a file is executed.

The format is told from the first bytes: torch (zip, or legacy under any suffix), HDF5, JSON, a numpy pickle,
safetensors; ONNX, which has no mark of its own, by its suffix. Names are paths inside the file, joined with "/".
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlkd.errors import PolicyFileError, UnsafeFileError
from rlkd.policy.numpy_pickle import read_arrays as read_numpy_pickle

MAX_BYTES = 1024**3
HDF5 = b"\x89HDF\r\n\x1a\n"
MAX_DEPTH = 32  # of dictionaries, lists and groups inside each other
Arrays = dict[str, np.ndarray]
"""Arrays by name, float32 or float64."""


def read_arrays(path: Path) -> tuple[Arrays, str]:
    """Float arrays of a file by their names in it, and the file's SHA-256.

    Raises:
        UnsafeFileError: it wants more decoded than numbers, or claims more of them than it has bytes.
        PolicyFileError: missing, damaged, or of a format that is not read.
    """
    where = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PolicyFileError(f"{where}: larger than {MAX_BYTES} bytes; not a policy")
        content = path.read_bytes()
    except FileNotFoundError:
        raise PolicyFileError(f"no file at {where}") from None
    except OSError as error:
        raise PolicyFileError(f"{where}: cannot be read: {error.strerror or error}") from None
    arrays = _decode(content, path.suffix, where)
    if not arrays:
        raise PolicyFileError(f"{where}: no arrays of floating-point numbers in it")
    return arrays, hashlib.sha256(content).hexdigest()


def _decode(content: bytes, suffix: str, where: str) -> Arrays:
    from rlkd.policy.torch_file import LEGACY  # loads torch, which every reader's caller has by now

    if content.startswith((LEGACY, b"PK\x03\x04")):
        return _torch(content, where)
    if content.startswith(HDF5):
        return _hdf5(content, where)
    if content.startswith(b"\x80"):
        return read_numpy_pickle(content, where)
    if suffix == ".onnx":
        return _onnx(content, where)
    if content[8:9] == b"{" and suffix == ".safetensors":
        return _safetensors(content, where)
    if content[:64].lstrip()[:1] in (b"[", b"{"):
        return _json(content, where)
    raise PolicyFileError(f"{where}: none of torch, HDF5, JSON, numpy pickle, ONNX and safetensors; not read")


def _torch(content: bytes, where: str) -> Arrays:
    from torch import Tensor

    from rlkd.policy import torch_file

    leaves = _leaves(torch_file.read(content, where), where)
    return {
        name: value.detach().float().numpy() if value.dtype.itemsize < 8 else value.detach().numpy()
        for name, value in leaves
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _hdf5(content: bytes, where: str) -> Arrays:
    try:
        import h5py  # type: ignore[import-untyped]  # has neither stubs nor types of its own
    except ModuleNotFoundError:
        raise PolicyFileError(f"{where}: reading HDF5 takes h5py; pip install h5py") from None
    arrays: Arrays = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
            return
        # Such a dataset's numbers are elsewhere, or come out of a library that the file names.
        if item.external or item.is_virtual or item.compression not in (None, "gzip"):
            raise UnsafeFileError(f"{where}: dataset '{name}' refers outside the file or to a plug-in; not read")
        if item.nbytes > (1 if item.compression is None else 100) * len(content):
            raise UnsafeFileError(f"{where}: dataset '{name}' claims {item.nbytes} bytes; not read")
        arrays[name] = np.asarray(item[()], np.float64 if item.dtype.itemsize == 8 else np.float32)

    try:
        with h5py.File(io.BytesIO(content), "r") as opened:
            opened.visititems(visit)  # follows no link out of the file
    except UnsafeFileError:
        raise
    except Exception as error:  # h5py answers damage with seven kinds of exception, measured on mutated files
        raise PolicyFileError(f"{where}: damaged: HDF5 cannot read it ({type(error).__name__})") from error
    return arrays


def _json(content: bytes, where: str) -> Arrays:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        raise PolicyFileError(f"{where}: neither weights nor JSON; the file is damaged") from None
    arrays: Arrays = {}

    def walk(value: Any, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise PolicyFileError(f"{where}: more than {MAX_DEPTH} levels of JSON; not weights")
        if isinstance(value, list) and value and _is_array(value):
            arrays[path] = np.array(value, np.float64)
        elif isinstance(value, list | dict):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(item, f"{path}/{key}" if path else str(key), depth + 1)

    walk(tree, "", 0)
    return arrays


def _is_array(value: Any) -> bool:
    """Whether nested lists of numbers have one shape."""
    try:
        return np.array(value).dtype.kind in "if"
    except (ValueError, OverflowError):
        return False


def _onnx(content: bytes, where: str) -> Arrays:
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise PolicyFileError(f"{where}: reading ONNX takes onnx; pip install onnx") from None
    arrays: Arrays = {}
    try:
        for tensor in onnx.load_model_from_string(content).graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise UnsafeFileError(f"{where}: '{tensor.name}' refers to another file; not read")
            if math.prod(tensor.dims) > len(content):
                raise UnsafeFileError(f"{where}: '{tensor.name}' claims {math.prod(tensor.dims)} numbers; not read")
            if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
                arrays[tensor.name] = np.array(numpy_helper.to_array(tensor))
    except UnsafeFileError:
        raise
    except Exception as error:  # protobuf's and onnx's errors have no common base
        raise PolicyFileError(f"{where}: damaged: ONNX cannot read it ({type(error).__name__})") from error
    return arrays


def _safetensors(content: bytes, where: str) -> Arrays:
    import safetensors.numpy

    try:
        found = safetensors.numpy.load(content)
    except Exception as error:  # SafetensorError, and KeyError for types that numpy does not know
        raise PolicyFileError(f"{where}: damaged, or of types that are not read ({type(error).__name__})") from error
    return {name: array for name, array in found.items() if array.dtype.kind == "f"}


def _leaves(value: Any, where: str, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Values inside nested dictionaries, lists and tuples, by their keys joined with "/"."""
    if depth > MAX_DEPTH:
        raise PolicyFileError(f"{where}: more than {MAX_DEPTH} levels inside each other; not weights")
    if isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(item, where, f"{path}/{key}" if path else str(key), depth + 1)
    else:
        yield path, value
