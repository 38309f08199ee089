"""What students are compared with: a teacher's and random play, measured once and kept in a file.

A run that was stopped takes both from there: the protocol's games last longer than all its rounds played again.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import safetensors
import torch

from rlkd import metrics, storage
from rlkd.data import Evaluation, JsonDict
from rlkd.distillation.result import Baseline
from rlkd.errors import RecipeError
from rlkd.evaluation import Played, play, play_randomly
from rlkd.policy import Policy
from rlkd.policy.tensors import read_sealed, write_sealed
from rlkd.recipe import Environment, build, recipe_hash, to_table

FASTEST = 1  # of zlib's levels: what matters is that 4,096 stacks of pictures are not kept as 115 MB


def measure_baseline(
    teacher: Policy,
    environment: Environment,
    *,
    episodes: int | None,
    keep_states: int,
    stretch: int = 1,
    random: Evaluation | None = None,
    stop: metrics.StopSignal | None = None,
    keep_in: Path | None = None,
) -> Baseline:
    """Play teacher and random actions on the protocol's episodes; `keep_states` of the teacher's are kept, `stretch` of
    them in a row each.

    Args:
        teacher: who plays by its own rule.
        environment: where.
        episodes: how many; None takes the protocol's.
        keep_states: how many of its states are given back.
        stretch: how many of them follow each other.
        random: scores of random play, where they are known.
        stop: when set, playing ends.
        keep_in: a file: what it holds is not played again, if all that it depends on is the same; else it is written.

    Raises:
        Stopped: `stop` was set.
        StorageError: the file cannot be written.
    """
    about = _about(teacher, environment, episodes, keep_states, stretch)
    found = None if keep_in is None or not keep_in.exists() else _taken(keep_in, about)
    if found is not None:
        return found if random is None else Baseline(found.teacher, random)
    played = play(
        teacher, environment, episodes=episodes, keep_states=keep_states, stretch=stretch, title="teacher", stop=stop
    )
    measured = Baseline(played, random or play_randomly(environment, episodes=episodes, stop=stop))
    if keep_in is not None:
        _keep(keep_in, measured, about)
    return measured


def keep_baseline(
    path: Path, measured: Baseline, teacher: Policy, environment: Environment, *, episodes: int | None, keep_states: int
) -> None:
    """Write what somebody else has measured, for `measure_baseline` to find."""
    _keep(path, measured, _about(teacher, environment, episodes, keep_states, measured.teacher.stretch))


def _about(teacher: Policy, environment: Environment, episodes: int | None, keep_states: int, stretch: int) -> JsonDict:
    """What a file belongs to."""
    return {
        "teacher": teacher.spec.hash,
        "environment": recipe_hash(environment),
        "episodes": episodes or environment.protocol.episodes,
        "states": [keep_states, stretch],
        "versions": storage.versions() | {"device": teacher.device.type},
    }


def _keep(path: Path, measured: Baseline, about: JsonDict) -> None:
    played = measured.teacher
    record = json.dumps(
        {
            "about": about,
            "teacher": to_table(played.evaluation),
            "random": to_table(measured.random),
            "shape": played.states.shape,
            "dtype": str(played.states.dtype),
            "stretch": played.stretch,
        },
        sort_keys=True,
    )
    packed = zlib.compress(np.ascontiguousarray(played.states).data, FASTEST)
    tensors = {"states": torch.from_numpy(np.frombuffer(packed, np.uint8).copy())}
    write_sealed(path, record, tensors)


def _taken(path: Path, about: JsonDict) -> Baseline | None:
    """What was kept; None where it is of something else, or damaged: one line says that."""
    try:
        text, tensors, _ = read_sealed(path)
        record = json.loads(text)
        if record["about"] != about:
            return None
        dtype, shape = np.dtype(record["dtype"]), tuple(record["shape"])
        size = int(np.prod(shape)) * dtype.itemsize
        states = zlib.decompressobj().decompress(tensors["states"].numpy().tobytes(), max(size, 1))
        played = Played(
            build(Evaluation, record["teacher"], where=str(path)),
            np.frombuffer(states, dtype).reshape(shape).copy(),
            int(record["stretch"]),
        )
        return Baseline(played, build(Evaluation, record["random"], where=str(path)))
    except (
        OSError,
        safetensors.SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        RecipeError,
        zlib.error,
    ):
        metrics.say(f"{path}: damaged; what it held is measured again")
        return None
