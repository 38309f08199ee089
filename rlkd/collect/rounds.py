"""A round of collecting as a small file: what was decided in it, so that it can be played again with nobody asked.

An environment's state is its seed and the actions since, so no frames are kept: emulators that take the same actions
give them again. ale-py's C++ environment could not save its state anyway. What networks said and drew is kept, because
students have learnt since and would say something else.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from rlkd import storage
from rlkd.data import JsonDict
from rlkd.errors import OtherRunError, StorageError
from rlkd.policy.tensors import below, read_sealed, write_sealed


@dataclass(frozen=True, slots=True)
class Round:
    """What was decided in one round of collecting, and what came of it in short."""

    actions: tuple[np.ndarray, ...]
    """Of each half of the environments, [T, n] uint8 or int64, or [T, n, D]: what was sent in each of its steps."""
    answers: Tensor
    """[K, P]: all teachers' to each state that was kept, step by step."""
    generators: tuple[Mapping[str, Any], Mapping[str, Any]]
    """The state of the collector's random stream after the last action, and at the end of the round."""
    seen: str
    """SHA-256 over what came of the actions: observations, beginnings and rewards."""
    memories: Mapping[str, Tensor] = field(default_factory=dict)
    """[n, S] each: what recurrent teachers and students remember at the end, `teacher.HALF.PLACE`, `student. ...`."""
    made: tuple[Tensor, np.ndarray] | None = None
    """[C, M, P], [C, M] or [C, M, D]: answers and actions of C copies of M made-up states."""
    lost: tuple[tuple[int, int, int, int], ...] = ()
    """Half, step, row and seed of each episode that began because a worker process had died or frozen."""
    versions: Mapping[str, str] = field(default_factory=storage.versions)
    """Of the packages by which it was played."""


class Tape:
    """A round while it is decided."""

    def __init__(self, halves: int) -> None:
        self.actions: list[list[np.ndarray]] = [[] for _ in range(halves)]
        """Of each half, [n] or [n, D] for each step."""
        self.answers: list[Tensor] = []
        """[k, P] for each step of either half."""
        self.lost: list[tuple[int, int, int, int]] = []
        """As in `Round`."""

    def add(self, half: int, action: np.ndarray, said: Tensor) -> None:
        """Take note of a step that is about to be played."""
        few = action.dtype.kind == "i" and int(action.max(initial=0)) < 256
        self.actions[half].append(action.astype(np.uint8) if few else action)
        self.answers.append(said)

    def lose(self, half: int, rows: Mapping[int, int]) -> None:
        """Take note of rows that were lost in the last step of a half, and of their seeds."""
        self.lost += [(half, len(self.actions[half]) - 1, row, seed) for row, seed in rows.items()]

    def round(
        self,
        generators: tuple[Mapping[str, Any], Mapping[str, Any]],
        seen: str,
        memories: Mapping[str, Tensor],
        made: tuple[Tensor, np.ndarray] | None,
    ) -> Round:
        """The round, now that it is over."""
        actions = tuple(np.stack(steps) if steps else np.empty(0, np.uint8) for steps in self.actions)
        answers = torch.cat(self.answers) if self.answers else torch.empty(0, 0)
        return Round(actions, answers, generators, seen, memories, made, tuple(self.lost))


class Again:
    """A round that was played before, step by step."""

    def __init__(self, known: Round, where: str) -> None:
        """`where` is what errors call the round."""
        self.known, self.where = known, where
        self.steps = [0 for _ in known.actions]
        self.told = 0
        """Answers that were given out."""

    def step(self, half: int, kept: int) -> tuple[np.ndarray, Tensor]:
        """What is done in the next step of a half, and what teachers said to its `kept` states, [kept, P].

        Raises:
            StorageError: there was no such step.
        """
        place, said = self.steps[half], self.known.answers[self.told : self.told + kept]
        if place >= len(self.known.actions[half]) or len(said) < kept:
            raise self._differs()
        self.steps[half] += 1
        self.told += kept
        action = self.known.actions[half][place]
        return action.astype(np.int64) if action.dtype == np.uint8 else action, said

    def lost(self, half: int) -> dict[int, int]:
        """Rows of a half that are lost in the step that was given out last, and the seeds of what begins there."""
        step = self.steps[half] - 1
        return {row: seed for place, at, row, seed in self.known.lost if (place, at) == (half, step)}

    def check(self, seen: str) -> None:
        """Raise StorageError unless all steps were given out and what came of them is what came of them before."""
        ends = [len(actions) for actions in self.known.actions]
        if self.steps != ends or self.told != len(self.known.answers) or seen != self.known.seen:
            raise self._differs()

    def _differs(self) -> StorageError:
        names = ", ".join(f"{name} {version}" for name, version in sorted(self.known.versions.items()))
        return OtherRunError(
            f"{self.where} cannot be played again: its environment gives other states or rewards than it did (under "
            f"{names})",
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
    tensors = {f"actions.{half}": torch.from_numpy(actions) for half, actions in enumerate(played.actions)}
    tensors |= {"answers": played.answers} | {f"memory.{name}": each for name, each in played.memories.items()}
    if played.made is not None:
        tensors |= {"made.answers": played.made[0], "made.actions": torch.from_numpy(played.made[1])}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    record = json.dumps(
        {
            "about": about,
            "generators": played.generators,
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
        made = None
        if "made.answers" in tensors:
            made = tensors["made.answers"], tensors["made.actions"].numpy()
        first, last = record["generators"]
        played = Round(
            tuple(tensors[f"actions.{half}"].numpy() for half in halves),
            tensors["answers"],
            (first, last),
            record["seen"],
            below(tensors, "memory."),
            made,
            tuple((half, step, row, seed) for half, step, row, seed in record["lost"]),
            record["versions"],
        )
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        raise StorageError(f"{path}: damaged, or of another run") from None
    return played, found
