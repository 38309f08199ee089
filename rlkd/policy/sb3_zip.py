"""A Stable-Baselines3 zip as plain text and tensors, by restricted decoding: nothing in it is unpickled.

`data` is read as JSON; the pickles that it carries in base64 stay base64. `policy.pth` goes through
`torch.load(weights_only=True)` after a look at the names that its pickle mentions.
"""

import hashlib
import io
import json
import pickletools
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlkd.errors import PolicyFileError, UnsafeFileError

MAX_ZIP_BYTES = 1024**3
MAX_WEIGHT_BYTES = 512 * 1024**2
MAX_DATA_BYTES = 64 * 1024**2
MAX_MEMBERS = 4096
MAX_RATIO = 100  # of a member's size to its compressed size; Stable-Baselines3 does not compress at all
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OSError,
)
"""How zipfile and pickletools answer bytes that are not theirs."""
STORAGES = {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool")}
TENSOR_NAMES = STORAGES | {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
"""All that the pickle of a dictionary of tensors mentions."""
MAKES_OBJECTS = frozenset(("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"))
"""Instructions that torch never writes for tensors."""


LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 begin: the pickle of a magic number."""
LEGACY_PICKLES = 5  # magic number, protocol, byte order, tensors, names of the storages that follow as bytes
HEADER = frozenset((0x1950A86A20F9469CFC6C,))
MEMO = frozenset(("PROTO", "FRAME", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"))
"""Instructions whose numbers are not data."""


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
    try:
        if path.stat().st_size > MAX_ZIP_BYTES:
            raise PolicyFileError(f"{path}: larger than {MAX_ZIP_BYTES} bytes; not a policy")
        content = path.read_bytes()
    except FileNotFoundError:
        raise PolicyFileError(f"no policy at {path}") from None
    except OSError as error:
        raise PolicyFileError(f"{path}: cannot be read: {error.strerror or error}") from None
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
    try:
        if content.startswith(LEGACY):
            stream = io.BytesIO(content)
            for _ in range(LEGACY_PICKLES):
                _check_names(stream, where, largest=len(content))
        else:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                infos = archive.infolist()
                pickles = [info for info in infos if info.filename.endswith(".pkl")]
                stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
                if not stored or sum(info.file_size for info in infos) > len(content) or len(pickles) != 1:
                    raise UnsafeFileError(f"{where} is not laid out as torch writes it; not read")
                _check_names(io.BytesIO(archive.read(pickles[0])), where, largest=len(content))
    except DAMAGED_ZIP:
        raise PolicyFileError(f"{where} is damaged") from None
    try:
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch answers damage with ten kinds of exception, measured on mutated files, and may add others.
        raise PolicyFileError(f"{where} is damaged: torch cannot read it ({type(error).__name__})") from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout is torch.strided
        for name, tensor in weights.items()
    ):
        raise PolicyFileError(f"{where} is not a dictionary of tensors")
    # A features extractor stands there under up to three names; only made-up strides claim more than that.
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if claimed > 4 * len(content):
        raise UnsafeFileError(f"{where} claims tensors of {claimed} bytes in all, but has {len(content)}; not read")
    return weights


def _check_names(stream: io.BytesIO, where: str, *, largest: int) -> None:
    """Read one pickle; UnsafeFileError if it mentions anything that a dictionary of tensors does not need.

    Numbers in it are shapes, strides and counts of elements: above `largest`, they are made up.
    """
    for opcode, argument, _ in pickletools.genops(stream):
        if isinstance(argument, int) and opcode.name not in MEMO and argument not in HEADER and argument > largest:
            raise UnsafeFileError(f"{where} claims {argument} elements, but has {largest} bytes; not read")
        if opcode.name == "GLOBAL" and argument not in TENSOR_NAMES:
            raise UnsafeFileError(f"{where} refers to '{argument}', which weights do not need; not read")
        if opcode.name in MAKES_OBJECTS:
            raise UnsafeFileError(f"{where} uses the pickle instruction {opcode.name}, which weights do not need")
