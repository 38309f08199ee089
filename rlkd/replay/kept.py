"""A filled replay as a file: who has asked a teacher once need not ask again.

The file says what the answers depend on (teachers, environment, source, seed); its name is the hash of that. How many
states of each environment every round brought is kept too, so that learning from the file takes the same minibatches as
learning while it is collected.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from rlkd import storage
from rlkd.errors import StorageError
from rlkd.policy.tensors import add_to, digest
from rlkd.replay.frames import Replay


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file of states holds besides them."""

    rounds: np.ndarray
    """[R, N] int64: states of each environment that were there at the end of each round."""
    steps: int
    """Agent steps that were played for them."""


def path_of(folder: Path, about: dict[str, object]) -> Path:
    """The file of what depends on `about`, a JSON object, whether there or not."""
    text = json.dumps(about, sort_keys=True)
    return folder / f"{storage.sha256(text.encode())[:32]}.replay.safetensors"


def keep(path: Path, replay: Replay, kept: Kept, about: dict[str, object]) -> None:
    """Write a filled replay, whole or not at all.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    tensors = replay.tensors() | {"rounds": torch.from_numpy(kept.rounds)}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    record = json.dumps({"about": about, "steps": kept.steps}, sort_keys=True)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    for stump in path.parent.glob(f".{path.name}.*.tmp"):  # of a run that was killed while it wrote
        stump.unlink(missing_ok=True)
    with storage.whole(path, size) as temporary:
        metadata = {"record": record, "digest": digest(record, tensors)}
        try:
            safetensors.torch.save_file(tensors, str(temporary), metadata=metadata)
        except safetensors.SafetensorError as error:  # it wraps what the system said
            raise StorageError(f"{path}: cannot be written: {error}") from None


def take(path: Path, replay: Replay) -> Kept:
    """Fill an empty replay of the same shape from a file.

    Raises:
        StorageError: damaged, or of a replay of another shape.
    """
    if not path.is_file() or not os.access(path, os.R_OK):
        raise StorageError(f"{path}: cannot be read")
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata() or {}
            record, names = json.loads(metadata["record"]), sorted(opened.keys())
            # One tensor after the other, so that the replay and one of them are all that is held.
            found = hashlib.sha256(metadata["record"].encode())
            replay.check_names(set(names) - {"rounds"})
            for name in names:
                tensor = opened.get_tensor(name)
                add_to(found, name, tensor)
                if name == "rounds":
                    rounds = tensor.numpy().copy()
                else:
                    replay.fill(name, tensor)
        if found.hexdigest() != metadata["digest"]:
            raise ValueError("the checksum differs")
        replay.fill_counts(rounds[-1])
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError, IndexError):
        raise StorageError(f"{path}: damaged; delete it, and the states are collected anew") from None
    return Kept(rounds, int(record["steps"]))
