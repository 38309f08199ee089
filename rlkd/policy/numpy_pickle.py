"""Numbers out of a numpy pickle without unpickling it: Stable-Baselines3's `VecNormalize`, dictionaries of arrays.

An interpreter of the few opcodes that such files use. It knows no callables: what a file calls becomes an
inert `Made` record, a name outside the fixed list ends the reading, and arrays are rebuilt here from raw bytes.
"""

import math
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlkd.errors import PolicyFileError, UnsafeFileError
from rlkd.policy.spec import Normaliser

MAX_BYTES = 16 * 1024**2
NAMES = frozenset(
    f"{module} {name}"
    for modules, names in (
        (("stable_baselines3.common.vec_env.vec_normalize",), ("VecNormalize",)),
        (("stable_baselines3.common.running_mean_std",), ("RunningMeanStd",)),
        (("gym.spaces.box", "gymnasium.spaces.box"), ("Box",)),
        (("gym.spaces.discrete", "gymnasium.spaces.discrete"), ("Discrete",)),
        (("numpy",), ("dtype", "ndarray")),
        (("numpy.core.multiarray", "numpy._core.multiarray"), ("_reconstruct", "scalar")),
        (("numpy.core.numeric", "numpy._core.numeric"), ("_frombuffer",)),
        (
            ("numpy.random._pickle",),
            ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
        ),
        (("numpy.random._pcg64",), ("PCG64",)),
        (("numpy.random.bit_generator",), ("SeedSequence", "__pyx_unpickle_SeedSequence")),
        (("_codecs",), ("encode",)),
    )
    for module in modules
    for name in names
)
"""All that a file may mention; none of it is imported or called."""

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
INTEGERS = ("BININT", "BININT1", "BININT2", "LONG1")
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING")  # the last two of Python 2
VALUES = frozenset((*INTEGERS, *TEXTS, "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BYTEARRAY8"))
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(slots=True)
class Made:
    """What the file wanted called: a name without arguments is the callable itself."""

    name: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None


def read_vecnormalize(path: Path) -> Normaliser | None:
    """Observation statistics of a `VecNormalize` file; None where it left observations alone.

    Raises:
        UnsafeFileError: it mentions a name or uses an opcode outside the fixed lists.
        PolicyFileError: missing, damaged, or statistics of something else than one vector.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    except OSError as error:
        raise PolicyFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not content:
        raise PolicyFileError(f"{path}: empty or larger than {MAX_BYTES} bytes; not VecNormalize statistics")
    root = read_tree(content, str(path))
    try:
        state = _state_of(root, "VecNormalize")
        if not state["norm_obs"]:
            return None
        moments = _state_of(state["obs_rms"], "RunningMeanStd")
        mean, variance = (as_array(moments[key]) for key in ("mean", "var"))
        limit, epsilon = float(state["clip_obs"]), float(state["epsilon"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise PolicyFileError(f"{path}: not the statistics of one vector that VecNormalize stores") from None
    fit = mean.ndim == 1 and mean.shape == variance.shape and math.isfinite(epsilon) and limit > 0
    if not fit or not np.isfinite(mean).all() or not (np.isfinite(variance) & (variance + epsilon > 0)).all():
        raise PolicyFileError(f"{path}: its means and variances are not two finite vectors of one length")
    return Normaliser(mean=tuple(mean.tolist()), variance=tuple(variance.tolist()), limit=limit, epsilon=epsilon)


def read_tree(content: bytes, where: str) -> Any:
    """What a pickle holds: plain values, tuples, lists, dictionaries and `Made` records, some in many places.

    Args:
        content: the whole file.
        where: what errors call it.

    Raises:
        UnsafeFileError: it mentions a name or uses an opcode outside the fixed lists.
        PolicyFileError: damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    try:
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name in VALUES:
                stack.append(argument)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name in TUPLES:
                size = TUPLES[name]
                stack[len(stack) - size :] = [tuple(stack[len(stack) - size :])]
            elif name == "STOP":
                return stack[-1]
            elif name == "MARK":
                marks.append(len(stack))
            elif name == "TUPLE":
                stack.append(tuple(since_mark()))
            elif name == "EMPTY_DICT":
                stack.append({})
            elif name == "EMPTY_LIST":
                stack.append([])
            elif name in ("SETITEM", "SETITEMS"):
                items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                for key, value in zip(items[::2], items[1::2], strict=True):
                    stack[-1][_text(key)] = value
            elif name in ("APPEND", "APPENDS"):
                items = since_mark() if name == "APPENDS" else [stack.pop()]
                stack[-1].extend(items)
            elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if argument is None else int(argument)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[int(argument or 0)])
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                text = argument if name == "GLOBAL" else f"{_text(stack.pop(-2))} {_text(stack.pop())}"
                if text not in NAMES:
                    raise UnsafeFileError(f"{where}: refers to '{text}', which statistics do not need")
                stack.append(Made(text))
            elif name in ("REDUCE", "NEWOBJ"):
                arguments, called = stack.pop(), stack.pop()
                stack.append(Made(called.name, tuple(arguments)))
            elif name == "BUILD":
                state = stack.pop()
                stack[-1].state = state
            elif name not in ("PROTO", "FRAME"):
                raise UnsafeFileError(f"{where}: uses the pickle instruction {name}, which is not read")
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
        raise PolicyFileError(f"{where}: damaged, its instructions do not fit together") from None
    raise PolicyFileError(f"{where}: damaged, it has no end")


def _text(value: Any) -> str:
    """A string as it is. Nothing else: hashing or printing tuples nested by reference can take for ever."""
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _state_of(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Made) or not value.name.endswith(f" {name}") or not isinstance(value.state, dict):
        raise TypeError(name)
    return value.state


def as_array(value: Any) -> np.ndarray:
    """A float64 array from its record: `_reconstruct` with a state, or `_frombuffer` (pickle protocol 5).

    Raises:
        AttributeError, IndexError, KeyError, TypeError, ValueError: it is no record of an array of floats.
    """
    if not isinstance(value, Made):
        raise TypeError("array")
    if value.name.endswith(" _frombuffer"):
        raw, dtype, shape, order = value.arguments or ()
    else:
        _, shape, dtype, by_columns, raw = value.state
        order = "F" if by_columns else "C"
    if isinstance(raw, Made) and raw.name == "_codecs encode":  # bytes, as Python 3 writes them for Python 2
        raw = _text((raw.arguments or ("",))[0])
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    kind = (dtype.arguments or (None,))[0]
    if kind not in ("f4", "f8") or dtype.state[1] != "<" or order not in ("C", "F"):
        raise TypeError("dtype")
    return np.frombuffer(raw, f"<{kind}").reshape(shape, order=order).astype(np.float64)
