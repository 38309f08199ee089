"""What a stopped distillation run needs to go on: all students' weights, optimisers and random streams, in one file.

The replay is not in it: its rounds have files of their own (`rlkd.collect.rounds`). The checkpoint names, by checksum,
those that were played before it was written, and they have to be there as they were. From a later round no student in
it has learnt, and all who would act in it are in it: such a round may as well be collected anew.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from rlkd import metrics, storage
from rlkd.data import JsonDict
from rlkd.distillation.student import Student
from rlkd.errors import OtherRunError, StorageError
from rlkd.policy.compute import Precision, takes_bfloat16
from rlkd.policy.tensors import below, put_back, read_sealed, tensors_of, write_sealed
from rlkd.recipe import recipe_hash

FILE = "students.checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Found:
    """What a checkpoint says besides what it puts into the students."""

    rounds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By game, the checksum of each round that was played, in order; none where the states came from elsewhere."""
    under: Mapping[str, str] = field(default_factory=dict)
    """Circumstances in which the run went on to here."""


def circumstances(students: Sequence[Student], precision: Precision) -> dict[str, str]:
    """What bits depend on besides the run: versions, device, instructions of the processor, precision.

    Threads do not count: each role has one, and in how many parts a minibatch is learnt is the checkpoint's.
    """
    device = students[0].device
    halved = any(takes_bfloat16(device, precision, pixels=student.network.pixels) for student in students)
    return storage.versions() | {
        "device": device.type,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "precision": "bfloat16" if halved else "float32",
    }


def claim(run: Path, students: Sequence[Student], *, identity: str, precision: Precision) -> None:
    """Make a folder this run's before anything else is written there, or put the state in it into the students.

    One line is printed where the run was begun in other circumstances: it goes on, but not bit by bit as it would have
    done there.

    Raises:
        StorageError: the folder holds another run, or a damaged one; nothing in it was touched.
    """
    storage.refuse_other_kinds(run, "distill")
    under = circumstances(students, precision)
    if not (run / FILE).exists():
        save_students(run, students, identity=identity, found=Found(under=under))
        return
    if changed := storage.changes(load_students(run, students, identity=identity).under, under):
        metrics.say(f"{run} was begun under {changed}: it goes on, but bits may differ")


def save_students(run: Path, students: Sequence[Student], *, identity: str, found: Found) -> None:
    """Write the checkpoint of a run folder, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    records = []
    for place, student in enumerate(students):
        held = tensors_of(student.network, student.optimiser)
        held |= {f"own.{name}": tensor for name, tensor in student.own.copies.state_dict().items()}
        tensors |= {f"{place}.{name}": tensor for name, tensor in held.items()}
        records.append(
            {
                "name": student.plan.label,
                "network": recipe_hash(student.plan.network),
                "steps": student.steps,
                "losses": student.losses,
                "total": float(student.total),
                "summed": student.summed,
                "parts": student.parts,
                "seconds": student.seconds,
                "goal": student.own.goal,
                "generator": student.generator.bit_generator.state,
            }
        )
    # Copies: students of several games share tensors, which the format refuses.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    about = {"identity": identity, "rounds": dict(found.rounds), "under": dict(found.under)}
    write_sealed(run / FILE, json.dumps(about | {"students": records}), plain)


def load_students(run: Path, students: Sequence[Student], *, identity: str) -> Found:
    """Put a stopped run's state into freshly made students; nothing happens where there is no checkpoint.

    Returns:
        What else it says.

    Raises:
        StorageError: damaged, or of another run.
    """
    path = run / FILE
    if not path.exists():
        return Found()
    try:
        text, tensors, _ = read_sealed(path)
        record = json.loads(text)
        held = [(entry["name"], entry["network"]) for entry in record["students"]]
        wanted = [(student.plan.label, recipe_hash(student.plan.network)) for student in students]
        if record["identity"] != identity or held != wanted:
            raise OtherRunError(f"{run} holds a run with another teacher, recipe, seed or students")
        for place, (student, entry) in enumerate(zip(students, record["students"], strict=True)):
            _restore(student, entry, below(tensors, f"{place}."))
        return Found(record["rounds"], record["under"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        raise StorageError(f"{path}: damaged; delete it to start this run afresh") from None


def _restore(student: Student, entry: JsonDict, tensors: dict[str, Tensor]) -> None:
    put_back(tensors, student.network, student.optimiser)
    student.own.copies.load_state_dict(below(tensors, "own."))
    student.own.goal = int(entry["goal"])
    student.steps = int(entry["steps"])
    student.seconds = float(entry["seconds"])
    student.losses = list(entry["losses"])
    student.total.fill_(float(entry["total"]))
    student.summed, student.parts = int(entry["summed"]), int(entry["parts"])
    student.generator.bit_generator.state = entry["generator"]
