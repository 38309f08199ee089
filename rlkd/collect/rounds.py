"""A round of collecting as a file: what it brought, and what was decided in it.

A run that goes on takes the states from there, and learns at once. Emulators, which the next round needs, play it again
meanwhile: an environment's state is its seed and the actions since, and ale-py's C++ environment could not save it.
Nobody is asked, because students have learnt since and would say something else.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from rlkd import storage
from rlkd.data import JsonDict, Step
from rlkd.errors import OtherRunError, StorageError
from rlkd.policy.tensors import below, read_sealed, write_sealed

LEVEL = 1  # of compression: a frame of Pong comes to some 100 bytes at 500 MB a second


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of collecting brought, and what was decided in it."""

    actions: tuple[np.ndarray, ...]
    """Of each half of the environments, [T, n] uint8 or int64, or [T, n, D]: what was sent in each of its steps."""
    brought: Mapping[str, Tensor]
    """What it added to the replay, as `Replay.since` gives it."""
    steps: int
    """Agent steps in it."""
    generator: Mapping[str, Any]
    """The state of the collector's random stream at its end."""
    seen: str
    """SHA-256 over what the environments did: rewards, ends and beginnings, and the last observations."""
    memories: Mapping[str, Tensor] = field(default_factory=dict)
    """[n, S] each: what recurrent teachers and students remember at the end, `teacher.HALF.PLACE`, `student. ...`."""
    lost: tuple[tuple[int, int, int, int], ...] = ()
    """Half, step, row and seed of each episode that began because a worker process had died or frozen."""
    versions: Mapping[str, str] = field(default_factory=storage.versions)
    """Of the packages by which it was played."""

    def without_states(self) -> "Round":
        """What is needed to play it again."""
        return replace(self, brought={})


class Trace:
    """A checksum over what environments do in a round."""

    def __init__(self) -> None:
        self._found = hashlib.sha256()

    def add(self, step: Step) -> None:
        """Let what came of a step enter, its observations left out: they are many."""
        for each in (step.reward, step.ended, step.first):
            self._found.update(np.ascontiguousarray(each).data)

    def end(self, observations: Iterable[np.ndarray]) -> str:
        """The checksum, with the last observations in it."""
        for each in observations:
            self._found.update(np.ascontiguousarray(each).data)
        return self._found.hexdigest()


class Tape:
    """What is decided in a round, as it is decided."""

    def __init__(self, halves: int) -> None:
        self.actions: list[list[np.ndarray]] = [[] for _ in range(halves)]
        """Of each half, [n] or [n, D] for each step."""
        self.lost: list[tuple[int, int, int, int]] = []
        """As in `Round`."""

    def add(self, half: int, action: np.ndarray) -> None:
        """Take note of a step that is about to be played."""
        few = action.dtype.kind == "i" and int(action.max(initial=0)) < 256
        self.actions[half].append(action.astype(np.uint8) if few else action)

    def lose(self, half: int, rows: Mapping[int, int]) -> None:
        """Take note of rows that were lost in the last step of a half, and of their seeds."""
        self.lost += [(half, len(self.actions[half]) - 1, row, seed) for row, seed in rows.items()]

    def stacked(self) -> tuple[np.ndarray, ...]:
        """All actions of each half."""
        return tuple(np.stack(steps) if steps else np.empty(0, np.uint8) for steps in self.actions)


class Again:
    """A round that was played before, step by step."""

    def __init__(self, known: Round) -> None:
        self.known = known
        self.steps = [0 for _ in known.actions]

    @property
    def over(self) -> bool:
        """Whether all steps of all halves were given out."""
        return self.steps == [len(actions) for actions in self.known.actions]

    def step(self, half: int) -> np.ndarray | None:
        """What is done in the next step of a half; None after its last."""
        place, actions = self.steps[half], self.known.actions[half]
        if place == len(actions):
            return None
        self.steps[half] += 1
        action: np.ndarray = actions[place]
        return action.astype(np.int64) if action.dtype == np.uint8 else action

    def lost(self, half: int) -> dict[int, int]:
        """Rows of a half that are lost in the step that was given out last, and the seeds of what begins there."""
        step = self.steps[half] - 1
        return {row: seed for place, at, row, seed in self.known.lost if (place, at) == (half, step)}

    def check(self, seen: str, where: str) -> None:
        """Raise OtherRunError unless what came of the steps is what came of them before; `where` they were played."""
        if seen != self.known.seen:
            names = ", ".join(f"{name} {version}" for name, version in sorted(self.known.versions.items()))
            raise OtherRunError(
                f"what was played in {where} cannot be played again: it gives other states or rewards than it did "
                f"(under {names})",
                "go on under what it was played with, or name another --run",
            )


def round_file(folder: Path, number: int) -> Path:
    """Where a round is kept; numbers are from 0."""
    return folder / f"round-{number:03d}.safetensors"


def keep_round(path: Path, played: Round, about: JsonDict) -> str:
    """Write a round, whole or not at all.

    Args:
        path: of the file.
        played: the round.
        about: which run and which of its rounds it is, a JSON object.

    Returns:
        The checksum of its content.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    frames = played.brought["frames"].contiguous()
    packed = frames
    if frames.dtype == torch.uint8:  # numbers would hardly become fewer
        packed = torch.frombuffer(bytearray(zlib.compress(frames.numpy().data, LEVEL)), dtype=torch.uint8)
    tensors = {f"actions.{half}": torch.from_numpy(actions) for half, actions in enumerate(played.actions)}
    tensors |= {f"memory.{name}": each for name, each in played.memories.items()}
    tensors |= {f"brought.{name}": each for name, each in played.brought.items() if name != "frames"}
    tensors |= {"frames": packed}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    record = json.dumps(
        {
            "about": about,
            "frames": list(frames.shape),
            "steps": played.steps,
            "generator": played.generator,
            "seen": played.seen,
            "lost": played.lost,
            "versions": dict(played.versions),
        },
        sort_keys=True,
    )
    return write_sealed(path, record, tensors)


def take_round(path: Path, about: JsonDict) -> tuple[Round, str]:
    """A round that was kept, and the checksum of its content.

    Raises:
        StorageError: gone, damaged, or of another run or round.
    """
    try:
        text, tensors, found = read_sealed(path)
        record = json.loads(text)
        if record["about"] != about:
            raise ValueError("of another run")
        halves = range(sum(name.startswith("actions.") for name in tensors))
        frames = tensors["frames"]
        if frames.dtype == torch.uint8:
            frames = torch.frombuffer(bytearray(zlib.decompress(frames.numpy().data)), dtype=torch.uint8)
        played = Round(
            tuple(tensors[f"actions.{half}"].numpy() for half in halves),
            below(tensors, "brought.") | {"frames": frames.reshape(record["frames"])},
            record["steps"],
            record["generator"],
            record["seen"],
            below(tensors, "memory."),
            tuple((half, step, row, seed) for half, step, row, seed in record["lost"]),
            record["versions"],
        )
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError, zlib.error):
        raise StorageError(f"{path}: damaged, of another version, or of another run") from None
    return played, found
