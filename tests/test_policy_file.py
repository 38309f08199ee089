"""Tests of `rlkd.policy.file`: what is written reads back, and nothing damaged is taken for a policy."""

import dataclasses
import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from rlkd.errors import MismatchError, PolicyFileError, StorageError
from rlkd.policy import Normaliser, Policy, PolicySpec, Rule, file, load_policy
from rlkd.policy.file import build_network
from rlkd.policy.tensors import read_sealed, write_sealed
from rlkd.recipe import Network
from rlkd.vector import as_recipe

FULL = PolicySpec(
    name="walker",
    kind="gaussian",
    network=Network(encoder="mlp", hidden=(6,), activation="tanh", core="gru", core_width=5, value="separate"),
    observation_shape=(3,),
    observation_dtype="float32",
    actions=1,
    rule=Rule(name="epsilon_greedy", epsilon=0.125),
    action_low=(-2.0,),
    action_high=(2.0,),
    environment=as_recipe("pendulum"),
    normaliser=Normaliser(mean=(0.1, 1 / 3, -2.0), variance=(1.0, 0.3, 1e-9), limit=5.0, epsilon=1e-6),
    origin="rlkd train pendulum",
    parents=("ab" * 32, "cd" * 32),
)
"""A record with something in every field."""
PLAIN = PolicySpec(
    name="plain",
    kind="categorical",
    network=Network(encoder="mlp", hidden=(6,)),
    observation_shape=(3,),
    observation_dtype="float32",
    actions=2,
    rule=Rule(name="greedy"),
    action_meanings=("LEFT", "RIGHT"),
)


def make_policy(spec: PolicySpec = PLAIN, seed: int = 0) -> Policy:
    network = build_network(spec)
    network.initialise(torch.Generator().manual_seed(seed), for_rl=False)
    return Policy(network, spec)


def same(one: Policy, other: Policy) -> bool:
    """Whether two policies have one record and the same bits for weights."""
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return (
        one.spec == other.spec
        and ours.keys() == theirs.keys()
        and all(ours[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in ours)
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "policy.safetensors"
    make_policy().save(path)
    return path


@pytest.mark.parametrize("spec", [FULL, PLAIN], ids=lambda spec: spec.name)
def test_a_policy_reads_back_with_every_field(spec: PolicySpec, tmp_path: Path) -> None:
    policy, path = make_policy(spec), tmp_path / "deep" / "folder" / "policy.safetensors"
    policy.save(path)
    read = load_policy(path)
    assert same(read, policy)
    assert read.spec.hash == policy.spec.hash
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    observation = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    np.testing.assert_array_equal(read.predict(observation)[0], policy.predict(observation)[0])


def test_saving_twice_gives_the_same_bytes(saved: Path) -> None:
    again = saved.with_name("again.safetensors")
    load_policy(saved).save(again)
    assert again.read_bytes() == saved.read_bytes()


def test_a_loaded_policy_does_not_hang_on_its_file(saved: Path) -> None:
    policy = load_policy(saved)
    before = policy.network.head.weight.tolist()
    saved.write_bytes(bytes(saved.stat().st_size))  # in place, as no careful program does
    assert policy.network.head.weight.tolist() == before


def test_half_precision_is_stored_so_and_acts_in_float32(tmp_path: Path) -> None:
    policy = make_policy(dataclasses.replace(PLAIN, network=Network(encoder="mlp", hidden=(512,))))
    half = policy.half()
    policy.save(tmp_path / "full.safetensors")
    half.save(tmp_path / "half.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    saving = sum((tmp_path / f"{name}.safetensors").stat().st_size * sign for name, sign in (("full", 1), ("half", -1)))
    assert saving == pytest.approx(2 * policy.spec.parameters, abs=64)
    read = load_policy(tmp_path / "half.safetensors")
    assert same(read, half)
    assert read.spec.precision == "float16"
    assert read.spec.weight_bytes == 2 * policy.spec.parameters
    assert {tensor.dtype for tensor in read.network.state_dict().values()} == {torch.float32}
    assert policy.spec.precision == "float32"
    observation = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    with torch.no_grad():
        difference = (read(observation).flat - policy(observation).flat).abs().max()
    assert 0 < difference < 0.01


def test_a_truncated_file_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in (*range(0, len(content), 50), len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(PolicyFileError, match=r"policy\.safetensors"):
            load_policy(saved)
    saved.write_bytes(content + b"\0")
    with pytest.raises(PolicyFileError):
        load_policy(saved)


@pytest.mark.parametrize("spec", [FULL, PLAIN], ids=lambda spec: spec.name)
@pytest.mark.parametrize("change", ["one bit", "one byte", "two bytes swapped"])
def test_no_altered_file_is_taken_for_the_policy(change: str, spec: PolicySpec, tmp_path: Path) -> None:
    policy, path = make_policy(spec), tmp_path / "policy.safetensors"
    policy.save(path)
    content, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        altered = bytearray(content)
        place, other = draw.randrange(len(content)), draw.randrange(len(content))
        if change == "one bit":
            altered[place] ^= 1 << draw.randrange(8)
        elif change == "one byte":
            altered[place] = draw.randrange(256)
        else:
            altered[place], altered[other] = altered[other], altered[place]
        path.write_bytes(altered)
        try:
            read = load_policy(path)
        except PolicyFileError:
            refused += 1
            continue
        assert same(read, policy)  # a byte may become itself
    assert refused > 250


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], weights: dict[str, Any] | None = None) -> None:
    """Change the record (and tensors) of a file that stays a well-formed .safetensors file."""
    with safetensors.safe_open(str(path), framework="pt") as opened:
        record = json.loads(opened.metadata()["rlkd"])
    stored = {**safetensors.torch.load_file(path), **(weights or {})}
    change(record)
    path.write_bytes(safetensors.torch.save(stored, metadata={"rlkd": json.dumps(record)}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "other", "does not match its checksum"),
        ("rule", {"name": "sampled", "epsilon": 0.0}, "does not match its checksum"),
        ("action_meanings", ["RIGHT", "LEFT"], "does not match its checksum"),
        ("actions", 3, "does not match its checksum"),
        ("hash", "0" * 64, "does not match its checksum"),
        ("format_version", 2, "format version 2, this rlkd reads 1"),
        ("format_version", None, "format version None"),
        ("kind", "categoric", "record is damaged.*categoric"),
        ("colour", "red", "record is damaged.*colour"),
        ("actions", "2", "record is damaged"),
    ],
)
def test_a_record_that_was_edited_is_refused(saved: Path, key: str, value: Any, message: str) -> None:
    rewrite(saved, lambda record: record.update({key: value}))
    with pytest.raises(PolicyFileError, match=message):
        load_policy(saved)


def test_weights_that_were_exchanged_are_refused(saved: Path) -> None:
    rewrite(saved, lambda record: None, {"head.bias": torch.tensor([1.0, 0.0])})
    with pytest.raises(PolicyFileError, match="does not match its checksum"):
        load_policy(saved)


def forge(path: Path, spec: PolicySpec, weights: dict[str, torch.Tensor]) -> None:
    """A file whose checksum is right, whatever it says."""
    file.write(path, dataclasses.replace(spec, hash=file.content_hash(spec, weights)), weights)


def test_a_forged_record_cannot_make_a_network_that_its_weights_do_not_fill(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    huge = dataclasses.replace(PLAIN, network=Network(encoder="mlp", hidden=(2**30, 2**30)))  # 4 exabytes
    forge(path, huge, make_policy().network.state_dict())
    with pytest.raises(PolicyFileError, match="weights do not fit its network"):
        load_policy(path)
    forge(path, dataclasses.replace(PLAIN, observation_shape=(3, 3, 3)), make_policy().network.state_dict())
    with pytest.raises(PolicyFileError):
        load_policy(path)


def test_files_that_are_no_policies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="no policy at .*nowhere"):
        load_policy(tmp_path / "nowhere.safetensors")
    (tmp_path / "policy.pth").write_bytes(b"weights")
    with pytest.raises(PolicyFileError, match=r"reads \.safetensors, \.onnx and Stable-Baselines3 \.zip files"):
        load_policy(tmp_path / "policy.pth")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(PolicyFileError):
        load_policy(tmp_path / "folder.safetensors")
    safetensors.torch.save_file({"head.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(PolicyFileError, match="without an rlkd record"):
        load_policy(tmp_path / "other.safetensors")
    with pytest.raises(PolicyFileError, match="no shipped policy 'pongg'"):
        load_policy("policy:pongg")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '"policy"', "{", "\ud800"])
def test_a_record_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    metadata = {"rlkd": text.encode("utf-8", "replace").decode()}
    path.write_bytes(safetensors.torch.save({"head.weight": torch.zeros(2, 2)}, metadata=metadata))
    with pytest.raises(PolicyFileError, match="record is not"):
        load_policy(path)


@pytest.mark.parametrize("call", ["fsync", "write", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_stump(call: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif call == "replace":
        monkeypatch.setattr(Path, "replace", full)
    else:
        opened = Path.open

        def open_full(path: Path, *arguments: Any, **named: Any) -> Any:
            stream = opened(path, *arguments, **named)
            stream.write(b"half of i")  # a full disk takes some bytes before it refuses
            stream.flush()
            stream.close()
            full()

        monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(StorageError, match=r"policy\.safetensors: the disk is full, \d+ bytes are needed"):
        make_policy(seed=1).save(saved)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]
    assert same(load_policy(saved), make_policy())


def test_a_policy_is_loaded_for_its_own_environment_only(tmp_path: Path) -> None:
    cartpole = dataclasses.replace(PLAIN, observation_shape=(4,), environment=as_recipe("cartpole"))
    path = tmp_path / "policy.safetensors"
    make_policy(cartpole).save(path)
    assert load_policy(path, env="cartpole").spec.environment == as_recipe("cartpole")
    with pytest.raises(MismatchError, match="made for CartPole-v1, not for Acrobot-v1"):
        load_policy(path, env="acrobot")


def test_an_environment_is_attached_where_none_was_and_the_parts_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    make_policy(dataclasses.replace(PLAIN, observation_shape=(4,))).save(path)
    assert load_policy(path).spec.environment is None
    attached = load_policy(path, env="cartpole")
    assert attached.spec.environment == as_recipe("cartpole")
    assert attached.spec.hash != load_policy(path).spec.hash
    with pytest.raises(MismatchError, match=r"observations of shape \[4\], Acrobot-v1 gives \[6\]"):
        load_policy(path, env="acrobot")
    make_policy(dataclasses.replace(PLAIN, observation_shape=(4,), action_meanings=("RIGHT", "LEFT"))).save(path)
    with pytest.raises(MismatchError, match=r"numbers its actions \['RIGHT', 'LEFT'\]"):
        load_policy(path, env="cartpole")


def test_another_action_set_is_another_game(tmp_path: Path) -> None:
    pong = as_recipe("pong")
    assert pong.emulator is not None
    full = dataclasses.replace(pong, emulator=dataclasses.replace(pong.emulator, action_set="full"))
    network = Network(encoder="conv", channels=(2, 2, 2), hidden=(4,))
    spec = dataclasses.replace(
        PLAIN, network=network, observation_shape=(4, 84, 84), observation_dtype="uint8", actions=6, action_meanings=()
    )
    path = tmp_path / "policy.safetensors"
    make_policy(spec).save(path)
    assert len(load_policy(path, env=pong).spec.action_meanings) == 6
    with pytest.raises(MismatchError, match="has 6 discrete actions, pong takes 18 discrete actions"):
        load_policy(path, env=full)
    with pytest.raises(MismatchError, match="has 6 discrete actions, breakout takes 4"):
        load_policy(path, env="breakout")


def test_a_sealed_file_gives_back_what_was_written_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sealed.safetensors"
    found = write_sealed(path, "a record", {"one": torch.arange(4.0), "two": torch.ones(2, 3, dtype=torch.uint8)})
    record, tensors, checksum = read_sealed(path)
    assert (record, checksum, list(tensors)) == ("a record", found, ["one", "two"])
    assert torch.equal(tensors["one"], torch.arange(4.0))
    content = path.read_bytes()
    changed = bytearray(content)
    changed[-3] ^= 1  # within a tensor: the format itself has no checksum
    for altered in (bytes(changed), content.replace(b"a record", b"A record")):
        path.write_bytes(altered)
        with pytest.raises(ValueError, match="the checksum differs"):
            read_sealed(path)
