"""A policy in an ONNX file: its graph played by ONNX Runtime, its record in the metadata. No torch here.

The file ends with a seal: the SHA-256 of all bytes before it, as one more metadata entry of the ONNX model, so that
other readers of ONNX take the file as it is. It detects damage, not malice.
"""

import hashlib
import json
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np

from rlkd.errors import PolicyFileError, RlkdError
from rlkd.policy.acting import Acting, Answer
from rlkd.policy.content import read_content
from rlkd.policy.rule import PARAMS
from rlkd.policy.spec import FORMAT_VERSION, PolicySpec
from rlkd.recipe import build

MAX_FILE_BYTES = 2 * 1024**3  # what one protobuf message can hold
KEY = b"rlkd_sha256"
SEAL = b"\x72\x4f\x0a\x0b" + KEY + b"\x12\x40"
"""How the last 81 bytes begin: an entry of `ModelProto.metadata_props` with this key; 64 hex digits follow."""
DIGITS = 64
OBSERVATION, STATE, NEXT_STATE = "observation", "state", "next_state"
"""Names of the graph's inputs, and of the output that a recurrent policy has besides its parameters."""


class OnnxPolicy(Acting):
    """A policy whose answers ONNX Runtime computes, on one thread of the CPU."""

    def __init__(self, path: Path) -> None:
        """Read an ONNX file that `rlkd export` wrote.

        Raises:
            PolicyFileError: missing, damaged, not exported by rlkd, or onnxruntime is not installed.
        """
        super().__init__()
        where = str(path)
        content = read_sealed(path)
        try:
            import onnxruntime  # type: ignore[import-untyped]  # has neither stubs nor types of its own
        except ModuleNotFoundError:
            raise PolicyFileError(f"{where}: playing ONNX files takes onnxruntime; pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # emulators and callers have the other cores
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.spec = _record(self._session.get_modelmeta().custom_metadata_map["rlkd"], where)
        except RlkdError:
            raise
        except Exception as error:  # the runtime has a dozen exceptions of its own, without a common base
            raise PolicyFileError(f"{where}: ONNX Runtime cannot read it ({type(error).__name__})") from error
        self._outputs = [*PARAMS[self.spec.kind], *([NEXT_STATE] if self.recurrent else [])]
        inputs = {each.name for each in self._session.get_inputs()}
        outputs = {each.name for each in self._session.get_outputs()}
        if inputs != {OBSERVATION, *([STATE] if self.recurrent else [])} or not set(self._outputs) <= outputs:
            raise PolicyFileError(f"{where}: its graph does not have the inputs and outputs of its record")

    def under(self, spec: PolicySpec) -> Self:
        """The same graph under another record."""
        other = copy(self)
        other.spec = spec
        return other

    def answer(self, observation: np.ndarray, state: np.ndarray | None = None) -> Answer:
        """Parameters for observations [B, *shape], raw, and recurrent states [B, S]."""
        if self.recurrent and state is None:
            raise ValueError("a recurrent policy needs its state; start with policy.start(batch)")
        observation = np.ascontiguousarray(self.seen(observation), self.spec.observation_dtype)
        feed = {OBSERVATION: observation} | ({} if state is None else {STATE: np.asarray(state, np.float32)})
        values = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        following = values.pop(NEXT_STATE, None)
        return Answer(values, following)


def is_sealed(path: Path) -> bool:
    """Whether a file ends as those do that we write, or is not there at all."""
    if not path.is_file():
        return True
    with path.open("rb") as opened:
        opened.seek(max(0, path.stat().st_size - len(SEAL) - DIGITS))
        return opened.read().startswith(SEAL)


def read_sealed(path: Path) -> bytes:
    """Content of an ONNX file, checked against its seal; PolicyFileError where that fails."""
    content = read_content(path, limit=MAX_FILE_BYTES)
    body, ending = content[: -len(SEAL) - DIGITS], content[-len(SEAL) - DIGITS :]
    if not ending.startswith(SEAL):
        raise PolicyFileError(
            f"{path}: not an ONNX file that rlkd exported; weights of others are read with an import recipe (--agent)"
        )
    if ending[len(SEAL) :] != hashlib.sha256(body).hexdigest().encode():
        raise PolicyFileError(f"{path}: its content does not match its checksum; it was damaged or altered")
    return content


def seal(content: bytes) -> bytes:
    """An ONNX model's bytes with the seal behind them."""
    return content + SEAL + hashlib.sha256(content).hexdigest().encode()


def _record(text: str, where: str) -> PolicySpec:
    record = json.loads(text)
    version = record.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise PolicyFileError(f"{where}: format version {version!r}, this rlkd reads {FORMAT_VERSION}")
    return build(PolicySpec, record, where=where)
