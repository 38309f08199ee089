"""A Stable-Baselines3 zip as plain text and tensors, by restricted decoding: nothing in it is unpickled.

`data` is read as JSON; the pickles that it carries in base64 stay base64. `policy.pth` is read
by `torch_file`.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlkd.errors import PolicyFileError, UnsafeFileError
from rlkd.policy import torch_file
from rlkd.policy.content import read_content
from rlkd.policy.torch_file import DAMAGED_ZIP

MAX_ZIP_BYTES = 1024**3
MAX_WEIGHT_BYTES = 512 * 1024**2
MAX_DATA_BYTES = 64 * 1024**2
MAX_MEMBERS = 4096
MAX_RATIO = 100  # of a member's size to its compressed size; Stable-Baselines3 does not compress at all


@dataclass(frozen=True, slots=True)
class Contents:
    """What a zip says about its policy."""

    data: dict[str, Any]
    """The constructor's values: plain JSON, blobs still encoded."""
    weights: dict[str, Tensor]
    """The policy's state dict, on the CPU."""
    version: str
    """Of the Stable-Baselines3 that wrote it; "" where it does not say."""
    sha256: str
    """Of the whole file."""


def read_contents(path: Path) -> Contents:
    """Plain values and tensors of a Stable-Baselines3 zip.

    Raises:
        UnsafeFileError: members outside the archive, decompression bombs, or more than tensors in a pickle.
        PolicyFileError: missing, damaged, encrypted, too large, or without `data` or `policy.pth`.
    """
    content = read_content(path, limit=MAX_ZIP_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _members(archive, str(path))
            data = _read(archive, members, "data", MAX_DATA_BYTES, str(path))
            weights = _read(archive, members, "policy.pth", MAX_WEIGHT_BYTES, str(path))
            version = b""
            if "_stable_baselines3_version" in members:
                version = _read(archive, members, "_stable_baselines3_version", 64, str(path))
    except DAMAGED_ZIP:
        raise PolicyFileError(f"{path}: truncated, damaged or not a zip file") from None
    words = "".join(char for char in version.decode("ascii", "replace").strip() if char.isprintable())
    return Contents(_json(data, path), _tensors(weights, path), words, hashlib.sha256(content).hexdigest())


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise UnsafeFileError(f"{where}: {len(infos)} members; Stable-Baselines3 writes fewer than ten")
    for info in infos:
        parts = info.filename.replace("\\", "/").split("/")
        if parts[0] == "" or ".." in parts or ":" in parts[0]:
            raise UnsafeFileError(f"{where}: member '{info.filename}' points outside the archive")
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise PolicyFileError(f"{where}: two members of one name; it is damaged or made up")
    return members


def _read(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, limit: int, where: str) -> bytes:
    if name not in members:
        raise PolicyFileError(f"{where}: no member '{name}'; not a policy saved by Stable-Baselines3 (1.0 or later)")
    info = members[name]
    if info.flag_bits & 1:
        raise PolicyFileError(f"{where}: member '{name}' is encrypted; save it without a password")
    if info.file_size > limit or info.file_size > MAX_RATIO * max(info.compress_size, 64):
        raise UnsafeFileError(
            f"{where}: member '{name}' unpacks from {info.compress_size} to {info.file_size} bytes; not read"
        )
    with archive.open(info) as member:
        return member.read(info.file_size)  # never more than it declares, whatever the compressed stream says


def _json(content: bytes, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise PolicyFileError(f"{path}: its 'data' is not JSON; the file is damaged") from None
    if not isinstance(data, dict):
        raise PolicyFileError(f"{path}: its 'data' is not a JSON object; the file is damaged")
    return data


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    where = f"{path}: policy.pth"
    weights = torch_file.read(content, where)
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise PolicyFileError(f"{where} is not a dictionary of tensors")
    return weights
