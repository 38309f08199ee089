"""The policy file: one .safetensors file whose `rlkd` metadata is the JSON of a `PolicySpec`.

No code in it, checksummed: the content hash covers every weight and the whole record. It detects damage, not malice.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rlkd import storage
from rlkd.errors import PolicyFileError, RlkdError
from rlkd.policy.networks import PolicyNetwork
from rlkd.policy.spec import FORMAT_VERSION, PolicySpec
from rlkd.policy.tensors import digest
from rlkd.recipe import build, to_table

MAX_FILE_BYTES = 4 * 1024**3
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def write(path: Path, spec: PolicySpec, weights: Mapping[str, Tensor]) -> None:
    """Write weights in the record's precision, atomically; StorageError if the disk refuses."""
    record = {"format_version": FORMAT_VERSION, **to_table(spec)}
    stored = _stored(spec, weights)
    content = safetensors.torch.save(stored, metadata={"rlkd": json.dumps(record, sort_keys=True)})
    storage.write_bytes(path, content)


def read(path: Path) -> tuple[PolicySpec, dict[str, Tensor]]:
    """Record and float32 weights of a policy file, checked against its content hash.

    Raises:
        PolicyFileError: missing, truncated, altered, of another format or a newer version.
    """
    record, weights = _read_raw(path)
    version = record.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise PolicyFileError(
            f"{path}: format version {version!r}, this rlkd reads {FORMAT_VERSION}; another release may have written it"
        )
    try:
        spec = build(PolicySpec, record, where=str(path))
    except (RlkdError, TypeError, ValueError, RecursionError) as error:
        raise PolicyFileError(f"{path}: its record is damaged: {error}") from None
    if content_hash(spec, weights) != spec.hash:
        raise PolicyFileError(f"{path}: its content does not match its checksum; it was damaged or altered")
    # Copies, because what safetensors hands out may be the file itself, mapped into memory.
    return spec, {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()}


def build_network(spec: PolicySpec) -> PolicyNetwork:
    """A network of the record's shape, weights not yet set."""
    return PolicyNetwork(spec.network, spec.observation_shape, spec.kind, spec.actions)


def content_hash(spec: PolicySpec, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the record (without its hash) and the weights as they are stored, in order of their names."""
    record = to_table(dataclasses.replace(spec, hash=""))
    return digest(json.dumps(record, sort_keys=True), _stored(spec, weights))


def _stored(spec: PolicySpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    dtype = DTYPES[spec.precision]
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}


def _read_raw(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PolicyFileError(f"{path}: larger than {MAX_FILE_BYTES} bytes; not a policy")
        with safetensors.safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
    except FileNotFoundError:
        raise PolicyFileError(f"no policy at {path}; `rlkd list policies` shows the shipped ones") from None
    except OSError as error:
        raise PolicyFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise PolicyFileError(f"{path}: truncated, damaged or not a .safetensors file ({error})") from None
    if "rlkd" not in metadata:
        raise PolicyFileError(f"{path}: a .safetensors file, but without an rlkd record; not a policy of ours")
    try:
        record = json.loads(metadata["rlkd"])
    except (ValueError, RecursionError):
        raise PolicyFileError(f"{path}: its record is not JSON; the file is damaged") from None
    if not isinstance(record, dict):
        raise PolicyFileError(f"{path}: its record is not a JSON object; the file is damaged")
    return record, weights
