"""What a training run needs to go on: weights, optimiser, counters; one safetensors file, written whole."""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rlkd import storage
from rlkd.errors import RlkdError, StorageError
from rlkd.policy import PolicyNetwork
from rlkd.recipe import build, to_table

FILE = "checkpoint.safetensors"
SB3_RECORD = "sb3.json"
"""What a run of Stable-Baselines3's learners has in its place."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is. The only mutable record: the training loop owns it."""

    identity: str
    """Hash of environment and network; a run folder belongs to one of each."""
    seed: int
    """Of the run."""
    steps: int = 0
    """Agent steps that were learnt from or skipped as resets, over all environments."""
    rollouts: int = 0
    """Rollouts learnt from."""
    seconds: float = 0.0
    """Wall time spent so far, over all attempts."""
    scores: tuple[float, ...] = ()
    """Raw scores of the last 100 finished episodes."""
    chunks: tuple[str, ...] = ()
    """`STEP RECIPE_HASH` for each recipe that the run was trained with, from which agent step on."""


def save_checkpoint(run: Path, network: PolicyNetwork, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the checkpoint of a run folder, whole or not at all."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    state = optimiser.state_dict()["state"]
    for index, values in state.items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in values.items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(plain, metadata={"progress": json.dumps(to_table(progress))})
    storage.write_bytes(run / FILE, content)


def load_checkpoint(
    run: Path, network: PolicyNetwork, optimiser: torch.optim.Optimizer, *, identity: str, seed: int
) -> Progress:
    """Fill network and optimiser from the run's checkpoint and return its progress; fresh if there is none.

    Raises:
        StorageError: damaged, or of a run with another learner, environment, network or seed.
    """
    path = run / FILE
    if (run / SB3_RECORD).exists():
        raise StorageError(f"{run} holds a run of another learner; name another --run")
    if not path.exists():
        return Progress(identity=identity, seed=seed)
    damaged = f"{path}: damaged; delete it to start this run afresh"
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            record = json.loads((opened.metadata() or {})["progress"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
        progress = build(Progress, record, where=str(path))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RlkdError):
        raise StorageError(damaged) from None
    # Before the weights: another network's may not fit, and nobody should be told to delete a healthy run.
    if (progress.identity, progress.seed) != (identity, seed):
        raise StorageError(
            f"{run} holds a run with another environment, network or seed ({progress.seed}); "
            "name another --run, or repeat its command to go on with it"
        )
    states: dict[int, dict[str, Tensor]] = {}
    try:
        network.load_state_dict(_below(tensors, "network."))
        for name, tensor in _below(tensors, "optimiser.").items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = tensor
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": states, "param_groups": groups})
    except (ValueError, RuntimeError):
        raise StorageError(damaged) from None
    return progress


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
