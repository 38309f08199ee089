"""Four files that rlkd saves, each in two versions; and ways of saving them that must fail."""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from rlkd import recipe, storage
from rlkd.distillation import checkpoint as students_file
from rlkd.distillation.student import Plan, Student
from rlkd.learn import checkpoint as learner_file
from rlkd.learn.ppo import policy_spec
from rlkd.policy import Policy, PolicyNetwork, load_policy
from rlkd.policy.file import build_network
from rlkd.policy.policy import snapshot
from rlkd.policy.tensors import digest, tensors_of
from rlkd.recipe import Distill, Network, Ppo, to_table
from rlkd.vector import as_recipe

WIDTH = "mlp_64@width=0.5"
"""Network of all: a few sectors, so that a write can break off in the middle."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A file in a run folder."""

    what: str
    """What it holds."""
    name: str
    """Below the run folder."""
    save: Callable[[Path, int], object]
    """Writes a version of it, 0 or 1, into a run folder."""
    load: Callable[[Path], str]
    """Reads it as rlkd does, and says which content it has; RlkdError where it is refused."""

    def content(self, run: Path) -> str | None:
        """Which content it has in a run folder; None where it is missing. RlkdError where it is damaged."""
        return self.load(run) if (run / self.name).exists() else None


def save_policy(run: Path, version: int) -> None:
    """A policy file."""
    _policy(version).save(run / "policy.safetensors")


def load_saved_policy(run: Path) -> str:
    """Its content hash."""
    return load_policy(run / "policy.safetensors").spec.hash


def save_learner(run: Path, version: int) -> None:
    """A checkpoint of PPO."""
    progress = learner_file.Progress(identity="CartPole", seed=0, steps=1024 * (version + 1))
    learner_file.save_checkpoint(run, _weights(version), progress)


def load_learner(run: Path) -> str:
    """A hash of counters, weights and moments."""
    progress, tensors = learner_file.load_checkpoint(run, identity="CartPole", seed=0)
    return digest(json.dumps(to_table(progress)), tensors)


def save_student(run: Path, version: int) -> None:
    """A checkpoint of a distillation run with one student."""
    students_file.save_students(run, [_trained(version)], identity="CartPole", found=students_file.Found())


def load_student(run: Path) -> str:
    """A hash of counter, weights and moments."""
    student = _student(2)  # a new one each time: what it took from a file may be the file itself, mapped into memory
    students_file.load_students(run, [student], identity="CartPole")
    return digest(str(student.steps), tensors_of(student.network, student.optimiser))


def save_record(run: Path, version: int) -> None:
    """A `run.json` of a few sectors."""
    storage.write_json(run / "run.json", {"kind": "train", "scores": [version + k / 7 for k in range(100)]})


def load_record(run: Path) -> str:
    """A hash of its JSON."""
    return storage.sha256(json.dumps(storage.read_json(run / "run.json")).encode())


FILES = (
    Saved("policy", "policy.safetensors", save_policy, load_saved_policy),
    Saved("checkpoint of PPO", learner_file.FILE, save_learner, load_learner),
    Saved("checkpoint of students", students_file.FILE, save_student, load_student),
    Saved("run.json", "run.json", save_record, load_record),
)


def overwritten(path: Path, content: bytes) -> None:
    """Control: `storage.write_bytes` as most programs save, under the final name from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def renamed_first(path: Path, content: bytes) -> None:
    """Control: `storage.write_bytes` with its steps in the wrong order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.00000000.tmp")
    with temporary.open("xb") as file:
        temporary.replace(path)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def without_sync(*, of_files: bool) -> Iterator[None]:
    """Control: the code as it is, but fsync of files, or that of folders, does nothing."""
    real = os.fsync

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_files:
            real(descriptor)

    with mock.patch.object(os, "fsync", sync):
        yield


WAYS: Mapping[str, Callable[[], AbstractContextManager[object]]] = {
    "as it is": nullcontext,
    "plain overwrite": lambda: mock.patch.object(storage, "write_bytes", overwritten),
    "rename before write": lambda: mock.patch.object(storage, "write_bytes", renamed_first),
    "no fsync of files": lambda: without_sync(of_files=True),
    "no fsync of folders": lambda: without_sync(of_files=False),
}


@cache
def _policy(version: int) -> Policy:
    agent = recipe.load("rl/ppo_classic", Ppo, overrides=(f"network='{WIDTH}'",))
    spec = policy_spec(as_recipe("cartpole"), agent, origin="")
    network = build_network(spec)
    network.initialise(torch.Generator().manual_seed(version), for_rl=True)
    return snapshot(network, spec)


@cache
def _weights(version: int) -> dict[str, Tensor]:
    network = deepcopy(_policy(version).network)
    optimiser = torch.optim.Adam(network.parameters())
    _step(network, optimiser)
    return tensors_of(network, optimiser)


def _student(seed: int) -> Student:
    how = recipe.load("classic", Distill)
    plan = Plan("small", recipe.load(WIDTH, Network))
    return Student(plan, how, _policy(0).spec, seed=seed, device=torch.device("cpu"))


@cache
def _trained(version: int) -> Student:
    student = _student(version)
    _step(student.network, student.optimiser)
    student.steps = version
    return student


def _step(network: PolicyNetwork, optimiser: torch.optim.Optimizer) -> None:
    """One step, so that there are moments to be saved."""
    network(torch.ones(2, 4)).flat.square().sum().backward()
    optimiser.step()
    for weight in network.parameters():
        weight.grad = None
