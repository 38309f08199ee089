"""What a stopped distillation run needs to go on: all students' weights, optimisers and random streams, in one file.

The replay is not kept: a teacher-driven one is collected again from the same seeds, bit by bit.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from rlkd import storage
from rlkd.data import JsonDict
from rlkd.distillation.student import Student
from rlkd.errors import StorageError
from rlkd.policy.tensors import below, put_back, tensors_of
from rlkd.recipe import recipe_hash

FILE = "students.checkpoint.safetensors"


def claim(run: Path, students: Sequence[Student], *, identity: str) -> None:
    """Make a folder this run's before anything else is written there, or put the state in it into the students.

    Raises:
        StorageError: the folder holds another run, or a damaged one; nothing in it was touched.
    """
    storage.refuse_other_kinds(run, "distill")
    if (run / FILE).exists():
        load_students(run, students, identity=identity)
    else:
        save_students(run, students, identity=identity)


def save_students(run: Path, students: Sequence[Student], *, identity: str) -> None:
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
                "seconds": student.seconds,
                "goal": student.own.goal,
                "generator": student.generator.bit_generator.state,
            }
        )
    # Copies: students of several games share tensors, which the format refuses.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    record = json.dumps({"identity": identity, "students": records})
    storage.write_bytes(run / FILE, safetensors.torch.save(plain, metadata={"record": record}))


def load_students(run: Path, students: Sequence[Student], *, identity: str) -> None:
    """Put a stopped run's state into freshly made students; nothing happens where there is no checkpoint.

    Raises:
        StorageError: damaged, or of another run.
    """
    path = run / FILE
    if not path.exists():
        return
    try:
        with safetensors.safe_open(str(path), framework="pt") as opened:
            record = json.loads((opened.metadata() or {})["record"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
        held = [(entry["name"], entry["network"]) for entry in record["students"]]
        wanted = [(student.plan.label, recipe_hash(student.plan.network)) for student in students]
        if record["identity"] != identity or held != wanted:
            raise StorageError(
                f"{run} holds a run with another teacher, recipe, seed or students; name another --run, "
                "or repeat its command to go on with it"
            )
        for place, (student, entry) in enumerate(zip(students, record["students"], strict=True)):
            _restore(student, entry, below(tensors, f"{place}."))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        raise StorageError(f"{path}: damaged; delete it to start this run afresh") from None


def _restore(student: Student, entry: JsonDict, tensors: dict[str, Tensor]) -> None:
    put_back(tensors, student.network, student.optimiser)
    student.own.copies.load_state_dict(below(tensors, "own."))
    student.own.goal = int(entry["goal"])
    student.steps = int(entry["steps"])
    student.seconds = float(entry["seconds"])
    student.losses = list(entry["losses"])
    student.generator.bit_generator.state = entry["generator"]
