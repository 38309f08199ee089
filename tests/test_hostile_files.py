"""Tests that no file makes its reader run code, reach out, crash or hang: damaged by chance, then made on purpose."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlkd.errors import PolicyFileError, UnsafeFileError
from rlkd.policy import load_policy
from rlkd.policy.foreign_files import read_arrays
from rlkd.policy.numpy_pickle import read_vecnormalize
from tests import hostile, samples

ROOT = Path(__file__).parent.parent


def watched(program: list[str], folder: Path) -> str:
    """What a process of its own prints; it fails where the process crashes or complains."""
    done = subprocess.run(
        [sys.executable, *program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, f"it crashed behind {done.stdout}: {done.stderr}"
    assert done.stderr == ""
    return done.stdout


def check_damaged(line: str, count: int) -> None:
    """No fault, and no changed policy where there is a checksum."""
    found = json.loads(line)
    print(line)
    assert found["escaped"] == []
    assert found["seen"] == []
    assert found["slowest_seconds"] < 5
    assert found["grown_megabytes"] < 200
    assert found["refused"] + found["same"] + found["changed"] == count
    assert found["refused"] > count // 3
    if found["format"] in hostile.OURS:
        assert found["changed"] == 0
    if found["format"] == "sealed ONNX":
        assert found["refused"] == count


def test_thirty_damaged_files_of_each_format_do_no_harm(tmp_path: Path) -> None:
    lines = watched(["-m", "tests.hostile", "30", *hostile.FORMATS], tmp_path).splitlines()
    assert [json.loads(line)["format"] for line in lines] == list(hostile.FORMATS)
    for line in lines:
        check_damaged(line, 30)


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile.FORMATS)
def test_a_thousand_damaged_files_do_no_harm(name: str, tmp_path: Path) -> None:
    check_damaged(watched(["-m", "tests.hostile", "1000", name], tmp_path), 1000)


HARMS = {
    "os.system('true')": "os.system",
    "open('x', 'w').close()": "open",
    "os.mkdir('y')": "os.mkdir",
    "eval('1')": "exec",
    "import colorsys": "import",
    "import pickle; pickle.loads(b'cos\\nsystem\\n.')": "pickle.find_class",
    "import subprocess; subprocess.run(['true'])": "subprocess.Popen",
    "import socket; socket.socket()": "socket.__new__",
}
"""Lines of Python, and the event that each raises."""


def test_the_watch_hears_each_harm(tmp_path: Path) -> None:
    program = "import os\nfrom tests.hostile import Watch\nwatch = Watch()\n"
    for line in HARMS:
        program += f"watch.on = True\n{line}\nwatch.on = False\nprint(sorted(watch.seen))\nwatch.seen.clear()\n"
    heard = watched(["-c", program], tmp_path).splitlines()
    for line, event in zip(heard, HARMS.values(), strict=True):
        assert f"{event} " in line


# Pickles that want something run


def inside_torch_zip(path: Path, payload: bytes) -> None:
    stream = io.BytesIO()
    torch.save({"w": torch.ones(3)}, stream)
    with zipfile.ZipFile(stream) as archive, zipfile.ZipFile(path, "w") as poisoned:
        for info in archive.infolist():
            poisoned.writestr(info, payload if info.filename.endswith("data.pkl") else archive.read(info))


def inside_torch_legacy(path: Path, payload: bytes) -> None:
    samples.torch_legacy(path)
    content, heads = path.read_bytes(), 3  # magic number, protocol, byte order; then come the tensors
    stream = io.BytesIO(content)
    for _ in range(heads):
        pickle.load(stream)  # noqa: S301  # made here
    path.write_bytes(content[: stream.tell()] + payload + b"\x80\x02].")


def inside_sb3_zip(path: Path, payload: bytes) -> None:
    hostile.write_sb3(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    inside_torch_zip(path, payload)
    members["policy.pth"] = path.read_bytes()
    with zipfile.ZipFile(path, "w") as poisoned:
        for name, content in members.items():
            poisoned.writestr(name, content)


def alone(path: Path, payload: bytes) -> None:
    path.write_bytes(payload)


def imported(path: Path) -> object:
    return read_arrays(path)


CARRIERS: dict[str, tuple[str, Callable[[Path, bytes], None], Callable[[Path], object]]] = {
    "torch zip": ("w.pt", inside_torch_zip, imported),
    "torch legacy": ("w.pt", inside_torch_legacy, imported),
    "numpy pickle": ("w.pkl", alone, imported),
    "VecNormalize": ("v.pkl", alone, read_vecnormalize),
    "SB3 zip": ("p.zip", inside_sb3_zip, load_policy),
}


def text(value: str) -> bytes:
    """A text in a pickle of protocol 2."""
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


PAYLOADS: dict[str, Callable[[bytes], bytes]] = {
    "GLOBAL and REDUCE": lambda command: b"\x80\x02cos\nsystem\n" + command + b"\x85R.",
    "REDUCE in a dictionary": lambda command: b"\x80\x02}" + text("w") + b"cposix\nsystem\n" + command + b"\x85Rs.",
    "INST": lambda command: b"\x80\x02(" + command + b"ios\nsystem\n.",
    "OBJ": lambda command: b"\x80\x02(cos\nsystem\n" + command + b"o.",
    "NEWOBJ": lambda command: b"\x80\x02cos\nsystem\n" + command + b"\x85\x81.",
    "STACK_GLOBAL": lambda command: b"\x80\x04\x8c\x02os\x8c\x06system\x93" + command + b"\x85R.",
    "eval": lambda command: b"\x80\x02c__builtin__\neval\n" + command + b"\x85R.",
    "torch.load": lambda command: b"\x80\x02ctorch\nload\n" + command + b"\x85R.",
    "extension": lambda command: b"\x80\x02\x82\x01" + command + b"\x85R.",
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_that_wants_something_run_is_refused_unrun(carrier: str, payload: str, tmp_path: Path) -> None:
    file, write, read = CARRIERS[carrier]
    path, marker = tmp_path / file, tmp_path / "marker"
    write(path, PAYLOADS[payload](text(f"touch {marker}")))
    with pytest.raises(UnsafeFileError):
        read(path)
    assert list(tmp_path.iterdir()) == [path]


# Files that refer to themselves until nothing ends


def references(of: bytes, levels: int = 60) -> bytes:
    """Pickled instructions of a value that holds `of` 2^levels times, by references; no head, no end."""
    found = of + b"q\x00"
    for level in range(levels):
        found += b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])  # a pair of the value and a reference to it
    return found


@pytest.mark.parametrize("carrier", ["torch zip", "torch legacy", "numpy pickle"])
@pytest.mark.parametrize("place", ["value", "key"])
@pytest.mark.parametrize("of", [b")", b"K\x01"], ids=["nothing", "numbers"])
def test_references_to_references_take_no_time(carrier: str, place: str, of: bytes, tmp_path: Path) -> None:
    file, write, read = CARRIERS[carrier]
    nested = references(of)
    write(tmp_path / file, b"\x80\x02}" + (text("w") + nested if place == "value" else nested + b"K\x01") + b"s.")
    with pytest.raises(PolicyFileError):
        read(tmp_path / file)


@pytest.mark.parametrize("carrier", ["torch zip", "torch legacy", "numpy pickle"])
def test_dictionaries_in_many_places_take_no_time(carrier: str, tmp_path: Path) -> None:
    tree: dict[str, Any] = {}
    for _ in range(30):
        tree = {"a": tree, "b": tree}
    file, write, read = CARRIERS[carrier]
    write(tmp_path / file, pickle.dumps(tree, 2))
    with pytest.raises(PolicyFileError, match="more than 500000 values"):
        read(tmp_path / file)


def test_an_array_in_many_places_takes_no_memory(tmp_path: Path) -> None:
    array = np.zeros(100_000)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({str(key): array for key in range(10_000)}, 2))  # 8 GB, as copies
    with pytest.raises(UnsafeFileError, match="claim more bytes than the file can hold"):
        read_arrays(tmp_path / "w.pkl")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"count": np.arange(3)}, 2))
    with pytest.raises(PolicyFileError, match="'count' is no array of floats"):
        read_arrays(tmp_path / "w.pkl")


def test_a_dictionary_that_holds_itself_is_no_tree(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"w": np.zeros(3)}
    tree["tree"] = tree
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(tree, 2))
    with pytest.raises(PolicyFileError, match="more than 32 levels inside each other"):
        read_arrays(tmp_path / "w.pkl")
