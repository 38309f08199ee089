"""Tests that files are not believed: sizes they do not have, numbers that lie elsewhere, names made to overflow."""

import json
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
from tests import hostile, samples
from tests.samples import members, write_zip

BIG = 10**12
"""Elements that no file here has."""


# torch


def claiming(pickled: bytes, count: bytes) -> bytes:
    """The pickle of 7 numbers, with another count of them: of the storage, and of the tensor."""
    assert pickled.count(b"K\x07") == 2
    return pickled.replace(b"K\x07", count)


def seven(path: Path, *, legacy: bool) -> bytes:
    torch.save({"w": torch.ones(7)}, path, _use_new_zipfile_serialization=not legacy)
    return path.read_bytes()


@pytest.mark.parametrize(
    "count", [b"\x8a\x06" + BIG.to_bytes(6, "little"), b"J\xff\xff\xff\x7f"], ids=["10^12", "2^31"]
)
def test_torch_files_that_claim_more_numbers_than_bytes_are_refused(count: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(claiming(seven(path, legacy=True), count))
    with pytest.raises(UnsafeFileError, match="elements, but has"):
        read_arrays(path)
    seven(path, legacy=False)
    contents = members(path)
    (name,) = (each for each in contents if each.endswith("data.pkl"))
    write_zip(path, contents | {name: claiming(contents[name], count)})
    with pytest.raises(UnsafeFileError, match="elements, but has"):
        read_arrays(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_that_claim_a_few_numbers_more_are_damaged(legacy: bool, tmp_path: Path) -> None:
    path, count = tmp_path / "w.pt", b"K\x3f"
    content = seven(path, legacy=legacy)
    if legacy:
        path.write_bytes(claiming(content, count))
    else:
        contents = members(path)
        (name,) = (each for each in contents if each.endswith("data.pkl"))
        write_zip(path, contents | {name: claiming(contents[name], count)})
    with pytest.raises(PolicyFileError, match="damaged"):
        read_arrays(path)


def test_torch_tensors_of_made_up_strides_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).as_strided((200, 200), (0, 0))}, tmp_path / "w.pt")
    with pytest.raises(UnsafeFileError, match="claims tensors of 160000 bytes in all"):
        read_arrays(tmp_path / "w.pt")


def test_compressed_torch_zips_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    seven(path, legacy=False)
    write_zip(path, members(path) | {"bomb/data/1": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(UnsafeFileError, match="not laid out as torch writes it"):
        read_arrays(path)


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_bombs_inside_the_zips_of_stable_baselines3_are_refused_unread(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    hostile.write_sb3(path)
    write_zip(path, members(path) | {name: bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeFileError, match="unpacks from"):
        load_policy(path)


def test_torch_reads_the_members_that_were_checked(tmp_path: Path) -> None:
    """Two zips in one file, or two members alike but for their case: readers differ in which of the two they take."""
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    torch.save({"w": torch.ones(7)}, first)
    torch.save({"w": torch.zeros(7)}, second)
    both = tmp_path / "both.pt"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    assert not read_arrays(both)[0]["w"].any()  # as zipfile, which counts from the end
    contents = members(first)
    write_zip(both, contents | {"first/DATA.PKL": contents["first/data.pkl"]})
    with pytest.raises(UnsafeFileError, match="not laid out as torch writes it"):
        read_arrays(both)


# HDF5


def external(opened: Any) -> None:
    opened.create_dataset("w", (8,), "f4", external=[("/etc/passwd", 0, 32)])


def virtual(opened: Any) -> None:
    import h5py  # type: ignore[import-untyped]  # has neither stubs nor types of its own

    layout = h5py.VirtualLayout((8,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "w", (8,))
    opened.create_virtual_dataset("w", layout)


def plug_in(opened: Any) -> None:
    """A filter of a number for which HDF5 would load a library."""
    import h5py

    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((8,))
    layout.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    h5py.h5d.create(opened.id, b"w", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((8,)), layout)


def never_written(opened: Any) -> None:
    opened.create_dataset("w", (10**6, 10**4), "f4", chunks=(1000, 1000), compression="gzip")


def many_never_written(opened: Any) -> None:
    """Each claims less than the whole file has, all together far more."""
    for name in range(200):
        opened.create_dataset(f"w{name}", (10_000,), "f4")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (external, "refers outside the file"),
        (virtual, "refers outside the file"),
        (plug_in, "or to a plug-in"),
        (never_written, "claim more bytes than the file can hold"),
        (many_never_written, "claim more bytes than the file can hold"),
    ],
)
def test_hdf5_numbers_that_are_not_in_the_file_are_refused(
    write: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as opened:
        write(opened)
    with pytest.raises(UnsafeFileError, match=message):
        read_arrays(tmp_path / "w.h5")


def test_hdf5_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as opened:
        opened["secret"] = np.ones(3)
    with h5py.File(tmp_path / "w.h5", "w") as opened:
        opened["w"] = np.zeros(3, np.float32)
        opened["out"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")
        opened["soft"] = h5py.SoftLink("/nowhere")
        opened["round"] = h5py.SoftLink("/")
    assert set(read_arrays(tmp_path / "w.h5")[0]) == {"w"}


# ONNX


def onnx_with(change: Callable[[Any], None], path: Path) -> None:
    import onnx

    model = onnx.load_model_from_string(samples.onnx_model(samples.original()))
    change(model.graph.initializer[0])
    path.write_bytes(model.SerializeToString())


def elsewhere(tensor: Any) -> None:
    import onnx

    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def dims(*sizes: int) -> Callable[[Any], None]:
    def change(tensor: Any) -> None:
        del tensor.dims[:]
        tensor.dims.extend(sizes)

    return change


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (elsewhere, UnsafeFileError, "refers to another file"),
        (dims(BIG, 4), UnsafeFileError, "claims 4000000000000 numbers"),
        (dims(2**62, 2**62), UnsafeFileError, "claims"),
        (dims(8, 5), PolicyFileError, "damaged"),
        (dims(-8, -4), PolicyFileError, "damaged"),
        (dims(-1, 4), PolicyFileError, "damaged"),
    ],
)
def test_onnx_tensors_that_are_not_in_the_file_are_refused(
    change: Callable[[Any], None], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    onnx_with(change, tmp_path / "w.onnx")
    with pytest.raises(kind, match=message):
        read_arrays(tmp_path / "w.onnx")


def test_an_onnx_name_that_is_no_text_is_damage(tmp_path: Path) -> None:
    content = samples.onnx_model(samples.original())
    (tmp_path / "w.onnx").write_bytes(content.replace(b"2.bias", b"2.b\xff\xfes"))
    with pytest.raises(PolicyFileError, match="damaged"):
        load_policy(tmp_path / "w.onnx", agent=samples.recipe(), env="cartpole")


# JSON


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "neither weights nor JSON"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "neither weights nor JSON"),
        ("[" * 500 + "1" + "]" * 500, "more than 32 levels"),
        ("[" + "9" * 10_000 + "]", "neither weights nor JSON"),
        ("[" + "9" * 1000 + "]", "no arrays of floating-point numbers"),
        (json.dumps(["x" * 1_000_000, *[""] * 100_000]), "no arrays of floating-point numbers"),
        (json.dumps({"n" * 1_000_000: ["x"] * 100_000}), "a name of more than 250 letters"),
        ('{"w": ["1.5", 2]}', "no arrays of floating-point numbers"),
    ],
    ids=["lists", "objects", "levels", "digits", "large", "texts", "names", "numbers as text"],
)
def test_json_that_is_no_weights_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(PolicyFileError, match=message):
        read_arrays(tmp_path / "w.json")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "1e300"])
def test_json_numbers_that_are_not_finite_are_no_weights(number: str, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    samples.json_file(path)
    path.write_text(path.read_text().replace("[[", f"[[{number}, ", 1))
    with pytest.raises(PolicyFileError, match="holds NaN or infinity"):
        load_policy(path, agent=samples.recipe(samples.at_starts()), env="cartpole")


def test_safetensors_that_claim_more_than_they_have_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for shape, end in (([BIG], 4 * BIG), ([2], 8)):
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(PolicyFileError, match="damaged"):
            load_policy(path, agent=samples.recipe(), env="cartpole")
