"""What a training run needs to go on: tensors and counters in one checksummed safetensors file, written whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rlkd import storage
from rlkd.errors import OtherRunError, RlkdError, StorageError
from rlkd.policy.tensors import digest, put_back
from rlkd.recipe import build, to_table

FILE = "checkpoint.safetensors"
SB3_RECORD = "sb3.json"
"""What a run of Stable-Baselines3's learners has in its place."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is. The only mutable record: the training loop owns it."""

    identity: str
    """Hash of environment, network and learner; a run folder belongs to one of each."""
    seed: int
    """Of the run."""
    steps: int = 0
    """Agent steps that were learnt from or skipped as resets, over all environments."""
    rounds: int = 0
    """Rollouts, or rounds of a value learner, learnt from: the version of the weights."""
    seconds: float = 0.0
    """Wall time spent so far, over all attempts."""
    scores: tuple[float, ...] = ()
    """Raw scores of the last 100 finished episodes."""
    rooms: tuple[int, ...] = ()
    """Rooms seen in any finished episode, in order of their numbers."""
    best: float | None = None
    """Highest mean of `scores` so far."""
    under: dict[str, str] = field(default_factory=dict)
    """Versions of what the last checkpoint depends on."""
    chunks: tuple[str, ...] = ()
    """`STEP RECIPE_HASH` for each recipe that the run was trained with, from which agent step on."""


def save_checkpoint(run: Path, tensors: Mapping[str, Tensor], progress: Progress) -> None:
    """Write the checkpoint of a run folder, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    record = json.dumps(to_table(progress))
    metadata = {"progress": record, "sha256": digest(record, plain)}
    storage.write_bytes(run / FILE, safetensors.torch.save(plain, metadata=metadata))


def load_checkpoint(run: Path, *, identity: str, seed: int) -> tuple[Progress, dict[str, Tensor]]:
    """Progress and tensors of a run folder; fresh progress and no tensors where it has no checkpoint.

    Raises:
        StorageError: damaged, or of a run with another learner, environment, network or seed.
    """
    path = run / FILE
    if (run / SB3_RECORD).exists():
        raise OtherRunError(f"{run} holds a run of another learner")
    if not path.exists():
        return Progress(identity=identity, seed=seed), {}
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata() or {}
            record = metadata["progress"]
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
        if metadata["sha256"] != digest(record, tensors):
            raise ValueError("checksum")
        progress = build(Progress, json.loads(record), where=str(path))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RlkdError):
        raise _damaged(run) from None
    if (progress.identity, progress.seed) != (identity, seed):
        raise OtherRunError(f"{run} holds a run with another environment, network, start or seed ({progress.seed})")
    return progress, tensors


def restore(run: Path, tensors: Mapping[str, Tensor], network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put back what `tensors_of` took; nothing is done where there are no tensors. StorageError if they do not fit."""
    if not tensors:
        return
    try:
        put_back(tensors, network, optimiser)
    except (ValueError, RuntimeError):
        raise _damaged(run) from None


def _damaged(run: Path) -> StorageError:
    return StorageError(f"{run / FILE}: damaged; delete it to start this run afresh")
