"""What the rows with real commands share: small recipes, processes, and the events by which a kill is timed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from rlkd import recipe, storage
from rlkd.learn.ppo import policy_spec
from rlkd.policy import Policy
from rlkd.policy.file import build_network
from rlkd.recipe import Distill, Generations, Network, Part, Ppo, Source, Term
from rlkd.vector import as_recipe

ROOT = Path(__file__).parent.parent.parent
TEACHER, LINE, MIXED_LINE = "teacher.safetensors", "line.toml", "mixed_line.toml"
SMALL, MIXED = "small.toml", "mixed.toml"
MEMORY = Path("/dev/shm")
PATIENCE = 300.0
"""Seconds to wait for anything before it is an error of the benchmark."""
EVERY_ROUND = """
from rlkd.distillation import learning
assert learning.CHECKPOINT_SECONDS > 0
learning.CHECKPOINT_SECONDS = 0.0
"""
"""Runs before a command, so that a distillation of seconds has checkpoints in its middle as one of hours has."""


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for runs; in memory where that is, so that fsync is quick: what a killed process leaves is the same."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


def put_recipes(folder: Path, *, rounds: int = 6, gradient_steps: int = 240, generations: int = 3) -> None:
    """Distillations of seconds, and generations of them, on states of the teacher and on mixed ones."""
    whose = {(SMALL, LINE): (1.0, 1.0), (MIXED, MIXED_LINE): (1.0, 0.2)}
    for (name, line), fraction in whose.items():
        how = Distill(
            source=Source(states=160 * rounds, rounds=rounds, num_envs=8, epsilon=0.1, teacher_fraction=fraction),
            terms=(Term(divergence=Part("forward_kl")),),
            gradient_steps=gradient_steps,
            batch_size=64,
            learning_rate=1e-2,
            students=("mlp_16",),
            controls=(),
            held_out_states=64,
        )
        rule = Generations(operator=Part("fresh"), distill=name, student="mlp_16", generations=generations)
        storage.write_bytes(folder / name, recipe.dump(how).encode())
        storage.write_bytes(folder / line, recipe.dump(rule).encode())


def put_teacher(folder: Path) -> None:
    """CartPole in games of 100 steps, and who pushes the cart to the side to which the pole leans and falls."""
    place = replace(as_recipe("cartpole"), frame_cap=100)
    made = policy_spec(place, recipe.load("rl/ppo_classic", Ppo), origin="by hand")
    spec = replace(made, network=Network(encoder="mlp", hidden=()))
    network = build_network(spec)
    push = torch.tensor([0.1, 0.5, 4.0, 4.0])
    with torch.no_grad():
        network.head.weight[:] = torch.stack([-push, push])
        network.head.bias.zero_()
    Policy(network, spec).save(folder / TEACHER)


def started(arguments: Sequence[str], folder: Path, *, first: str = "") -> subprocess.Popen[str]:
    """`rlkd ARGUMENTS` in a process of its own, in some folder; `first` is Python that runs before."""
    return python(f"{first}\nfrom rlkd.cli import main\nsys.exit(main(sys.argv[1:]))", folder, *arguments)


def python(program: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A piece of Python, one thread a role, in a process of its own that hears Ctrl-C."""
    listens = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    return subprocess.Popen(
        [sys.executable, "-c", listens + program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for its end: exit code, and what it said on stderr."""
    try:
        _, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        killed(process)
        raise RuntimeError(f"{process.args!r} did not end in {PATIENCE:.0f} s") from None
    return process.returncode, said


def finished(arguments: Sequence[str], folder: Path, *, first: str = "") -> None:
    """Run a command to its end; RuntimeError where it fails."""
    code, said = ended(started(arguments, folder, first=first))
    if code:
        raise RuntimeError(f"rlkd {' '.join(arguments)} ended with {code}: {said}")


def killed(process: subprocess.Popen[str]) -> bool:
    """Kill it with SIGKILL; whether it was still there to be killed."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Wait for something; whether it came before the process ended."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None:
            return condition()
        if time.monotonic() > end:
            killed(process)
            raise RuntimeError(f"{process.args!r} did not come so far in {PATIENCE:.0f} s")
        time.sleep(0.002)
    return True


def events(run: Path) -> set[str]:
    """What a run has acknowledged so far: lines of metrics, records and policies, each version of a checkpoint."""
    found = set()
    for path in files_below(run):
        name = str(path.relative_to(run))
        if path.name == "metrics.jsonl":
            found |= {f"{name} {line}" for line in lines_of(path)}
        elif path.name in ("record.json", "run.json") or path.suffix == ".safetensors":
            try:
                found.add(f"{name} {path.stat().st_mtime_ns}")
            except FileNotFoundError:  # the name of a file that is being written
                continue
    return found


def files_below(run: Path) -> Iterator[Path]:
    """All files of a run; folders that are removed meanwhile are left out, where `rglob` would raise."""
    for folder, _, names in os.walk(run):
        yield from (Path(folder, name) for name in names)


def lines_of(path: Path) -> list[str]:
    """Its whole lines; a line without an end is none yet."""
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]
    except FileNotFoundError:
        return []
