"""What `torch.save` wrote, by restricted decoding: tensors, numbers, texts, and dictionaries, lists and tuples of them.

`torch.load(weights_only=True)`, after a look at the names and sizes that the pickle inside mentions.
"""

import io
import pickletools
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlkd.errors import PolicyFileError, UnsafeFileError

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
HEADER = frozenset((0x1950A86A20F9469CFC6C, 1001))  # magic number and protocol version, the first two of these
MEMO = frozenset(("PROTO", "FRAME", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"))
"""Instructions whose numbers are not data."""
TEXT = frozenset(("BINUNICODE", "SHORT_BINUNICODE"))
Instruction = tuple[pickletools.OpcodeInfo, Any, int | None]
MAX_LEAVES = 10_000_000
AFTER_A_VALUE = TEXT | {"BINGET", "LONG_BINGET", "SETITEM", "SETITEMS"}


def read(content: bytes, where: str) -> Any:
    """The object in a file of torch, of any release.

    Args:
        content: the whole file.
        where: what errors call it.

    Raises:
        UnsafeFileError: it mentions more than tensors and plain values, or claims more numbers than it has bytes.
        PolicyFileError: damaged.
    """
    try:
        if content.startswith(LEGACY):
            stream = io.BytesIO(content)
            for _ in range(LEGACY_PICKLES):
                _check_pickle(stream, where, largest=len(content))
        else:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                infos = archive.infolist()
                pickles = [info for info in infos if info.filename.lower().endswith(".pkl")]
                stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
                if not stored or sum(info.file_size for info in infos) > len(content) or len(pickles) != 1:
                    raise UnsafeFileError(f"{where} is not laid out as torch writes it; not read")
                _check_pickle(io.BytesIO(archive.read(pickles[0])), where, largest=len(content))
                content = _packed_again(archive)
    except (*DAMAGED_ZIP, IndexError, KeyError):
        raise PolicyFileError(f"{where} is damaged") from None
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch answers damage with ten kinds of exception, measured on mutated files, and may add others.
        raise PolicyFileError(f"{where} is damaged: torch cannot read it ({type(error).__name__})") from error
    tensors = list(_tensors(found))
    if any(tensor.layout is not torch.strided for tensor in tensors):
        raise PolicyFileError(f"{where} holds sparse tensors, which no policy of ours has")
    # A features extractor stands there under up to three names; only made-up strides claim more than that.
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if claimed > 4 * len(content):
        raise UnsafeFileError(f"{where} claims tensors of {claimed} bytes in all, but has {len(content)}; not read")
    return found


def refuse_nan(tensor: Tensor, name: str, where: str) -> None:
    """PolicyFileError where a file's tensor, called `name` there, holds NaN or infinity."""
    if not bool(torch.isfinite(tensor).all()):
        raise PolicyFileError(f"{where}: tensor '{name}' holds NaN or infinity; such a policy cannot act")


def _packed_again(archive: zipfile.ZipFile) -> bytes:
    """The same members in a fresh zip: torch finds members by rules of its own, and then reads what was checked."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as fresh:
        for info in archive.infolist():
            fresh.writestr(info.filename, archive.read(info))
    return packed.getvalue()


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors inside; looks into each dictionary, list and tuple once, in however many places it stands."""
    seen, left = set(), [value]
    while left:
        item = left.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            left += item.values() if isinstance(item, dict) else item


def _check_pickle(stream: io.BytesIO, where: str, *, largest: int) -> None:
    """Read one pickle; UnsafeFileError if it mentions anything that tensors and plain values do not need.

    Numbers in it are shapes, strides and counts of elements: above `largest`, they are made up. Counters of a
    training run may be larger: they are known by standing between two keys of a dictionary.
    """
    before, doubtful = "", 0
    instructions = list(pickletools.genops(stream))
    if _leaves(instructions) > MAX_LEAVES:
        raise UnsafeFileError(f"{where} holds few values in so many places that reading it would not end; not read")
    for opcode, argument, _ in instructions:
        if opcode.name == "GLOBAL" and argument not in TENSOR_NAMES:
            raise UnsafeFileError(f"{where} refers to '{argument}', which weights do not need; not read")
        if opcode.name in MAKES_OBJECTS:
            raise UnsafeFileError(f"{where} uses the pickle instruction {opcode.name}, which weights do not need")
        if opcode.name in MEMO and not opcode.name.endswith("GET"):
            continue
        if doubtful and opcode.name not in AFTER_A_VALUE:
            raise UnsafeFileError(f"{where} claims {doubtful} elements, but has {largest} bytes; not read")
        doubtful = 0
        if isinstance(argument, int) and opcode.name not in MEMO and argument not in HEADER and argument > largest:
            if before not in TEXT:
                raise UnsafeFileError(f"{where} claims {argument} elements, but has {largest} bytes; not read")
            doubtful = argument
        before = opcode.name


def _leaves(instructions: list[Instruction]) -> int:
    """How many values the object of a pickle has, those in several places counted in each.

    What is in a list or dictionary is not known yet when references to it are prepared, so they count as empty
    there; tuples, which alone can be keys, are counted in full.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for opcode, argument, _ in instructions:
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif opcode.name == "STOP":
            return stack[-1]
        else:
            takes = opcode.stack_before
            below = takes.index(pickletools.markobject) if pickletools.markobject in takes else len(takes)
            start = (marks.pop() if below < len(takes) else len(stack)) - below
            if start < 0:
                raise IndexError("the stack is empty")
            size = 1 + sum(stack[start:])
            stack[start:] = [size] * len(opcode.stack_after)
    raise EOFError("no end")
