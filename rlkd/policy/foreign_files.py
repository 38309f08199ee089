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
from rlkd.policy import numpy_pickle
from rlkd.policy.content import read_content

MAX_BYTES = 1024**3
HDF5 = b"\x89HDF\r\n\x1a\n"
MAX_DEPTH = 32  # of dictionaries, lists and groups inside each other
MAX_NAME = 250  # letters of a path inside the file
MAX_LEAVES = 500_000  # values in them; one dictionary may stand in many places, and they in many others
HDF5_FILTERS = (1, 2, 3)  # deflate, shuffle and fletcher32; for others HDF5 would look for a library to load
Arrays = dict[str, np.ndarray]
"""Arrays by name, float32 or float64."""


def read_arrays(path: Path) -> tuple[Arrays, str]:
    """Float arrays of a file by their names in it, and the file's SHA-256.

    Raises:
        UnsafeFileError: it wants more decoded than numbers, or claims more of them than it has bytes.
        PolicyFileError: missing, damaged, or of a format that is not read.
    """
    where = str(path)
    content = read_content(path, limit=MAX_BYTES)
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
    # Before the pickle's mark: such a file begins with a length, which may be any number.
    if content[8:9] == b"{" and suffix == ".safetensors":
        return _safetensors(content, where)
    if suffix == ".onnx":
        return _onnx(content, where)
    if content.startswith(b"\x80"):
        return _numpy_pickle(content, where)
    if content[:64].lstrip()[:1] in (b"[", b"{"):
        return _json(content, where)
    raise PolicyFileError(f"{where}: none of torch, HDF5, JSON, numpy pickle, ONNX and safetensors; not read")


def _torch(content: bytes, where: str) -> Arrays:
    from torch import Tensor

    from rlkd.policy import torch_file

    leaves = _leaves(torch_file.read(content, where), where)
    return {
        name: (value.detach() if value.dtype.itemsize == 8 else value.detach().float()).resolve_neg().numpy()
        for name, value in leaves
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _numpy_pickle(content: bytes, where: str) -> Arrays:
    arrays: Arrays = {}
    left = 4 * len(content)  # bytes; the same array may stand in many places, each of which gets a copy
    for name, value in _leaves(numpy_pickle.read_tree(content, where), where):
        if not isinstance(value, numpy_pickle.Made):
            continue
        try:
            arrays[name] = numpy_pickle.as_array(value)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise PolicyFileError(f"{where}: '{name}' is no array of floats") from None
        left -= arrays[name].nbytes
        if left < 0:
            raise UnsafeFileError(f"{where}: arrays up to '{name}' claim more bytes than the file can hold; not read")
    return arrays


def _hdf5(content: bytes, where: str) -> Arrays:
    try:
        import h5py  # type: ignore[import-untyped]  # has neither stubs nor types of its own
    except ModuleNotFoundError:
        raise PolicyFileError(f"{where}: reading HDF5 takes h5py; pip install h5py") from None
    arrays: Arrays = {}
    # Bytes that compressed and plain datasets may claim in all.
    left = {True: min(100 * len(content), MAX_BYTES), False: len(content)}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
            return
        layout = item.id.get_create_plist()
        filters = {layout.get_filter(index)[0] for index in range(layout.get_nfilters())}
        # Such a dataset's numbers are elsewhere, or come out of a library that the file names.
        if item.external or item.is_virtual or not filters.issubset(HDF5_FILTERS):
            raise UnsafeFileError(f"{where}: dataset '{name}' refers outside the file or to a plug-in; not read")
        left[bool(filters)] -= item.nbytes
        if left[bool(filters)] < 0:
            raise UnsafeFileError(f"{where}: datasets up to '{name}' claim more bytes than the file can hold; not read")
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
                walk(item, _joined(path, key, where), depth + 1)

    walk(tree, "", 0)
    return arrays


def _is_array(value: Any) -> bool:
    """Whether nested lists of numbers have one shape."""
    item = value
    while isinstance(item, list) and item:
        item = item[0]
    try:  # told to be numbers: an array of texts takes the longest one's room for each
        return isinstance(item, int | float) and np.array(value, np.float64).size > 0
    except (ValueError, TypeError, OverflowError):
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
            if not isinstance(tensor.name, str) or min(tensor.dims, default=0) < 0:
                raise ValueError("a name that is no text, or a negative size")
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


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """All that stands inside nested dictionaries, lists and tuples, they too, by their keys joined with "/"."""
    waiting, count = [("", value, 0)], 0
    while waiting:
        path, value, depth = waiting.pop()
        yield path, value
        if not isinstance(value, Mapping | list | tuple):
            continue
        count += len(value)
        if depth == MAX_DEPTH:
            raise PolicyFileError(f"{where}: more than {MAX_DEPTH} levels inside each other; not weights")
        if count > MAX_LEAVES:
            raise PolicyFileError(f"{where}: more than {MAX_LEAVES} values in dictionaries and lists; not weights")
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(key, str | int):
                waiting.append((_joined(path, key, where), item, depth + 1))


def _joined(path: str, key: str | int, where: str) -> str:
    """The path of what is called `key` inside `path`."""
    joined = f"{path}/{key}" if path else str(key)
    if len(joined) > MAX_NAME:  # a long name over many values takes its length times their number
        raise PolicyFileError(f"{where}: a name of more than {MAX_NAME} letters in it; not weights")
    return joined
