"""What a CUDA device does for training on Breakout: tests of graphs, the emulators' limit, agent steps a second.

    make bench NAME=gpu

For a machine with a CUDA device and many cores; without one it says so and exits with 2. In under ten minutes, one
thing after the other, each bounded in seconds: the tests that need such a device; ale-py's C++ environment alone, on
all cores; our PPO with 128 and 512 environments, float32 and bfloat16, kernel by kernel and as CUDA graphs; a loop as
people write it (`loop`), with the same network and the same number of gradient steps on the same number of samples.
Every variant runs in a process of its own, once. A variant that fails or is not done in time gets a line that says so,
and the stacks of its threads on stderr.

The result beside it is of one pass that was cut to eight minutes, tests with `--durations=20 --timeout=60`. In it PPO
in bfloat16 as CUDA graphs ended with an illegal memory access, most likely because graphs of acting and of learning
shared one workspace of cuBLAS. Since then each is captured on a stream of its own, with a test; not run on a device.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.common import Record, end_with, machine, store
from benchmarks.gpu.parts import emulators, loop, ours

FOLDER = Path(__file__).parent
SET_UP = 90  # seconds of a variant besides the timed ones: emulators are made one after the other, 0.1 s each
BUDGET = 590  # seconds for everything
TESTS = 120  # of them, for the tests
VARIANTS = (
    "emulators/128",
    "ours/128/bfloat16/graphs",
    "ours/128/float32/graphs",
    "loop/128",
    "ours/128/bfloat16/eager",
    "ours/128/float32/eager",
    "ours/512/bfloat16/graphs",
    "emulators/512",
    "ours/512/float32/graphs",
    "ours/512/bfloat16/eager",
    "ours/512/float32/eager",
)
"""In order of interest: what comes last is dropped first where time runs out."""


def main() -> int:
    """Tests, then every variant; store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="wall seconds of a timed sample, at least")
    parser.add_argument("--variant", choices=VARIANTS, help="one timed run")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        return 2
    if chosen.variant:
        print(json.dumps(run(chosen.variant, chosen.seconds)))
        return 0
    started = time.monotonic()
    tests = tested()
    print(tests, file=sys.stderr)
    found: dict[str, Record | str] = {}
    for variant in VARIANTS:
        left = started + BUDGET - time.monotonic()
        found[variant] = in_its_own_process(variant, chosen.seconds, left) if left > chosen.seconds else "no time left"
        print(f"{variant}: {found[variant]}", file=sys.stderr, flush=True)
    device = torch.cuda.get_device_name()
    record = {"machine": machine() | {"device": device}, "tests": tests, "runs": found}
    store(FOLDER, record, [f"{device}. tests/test_cuda.py: {tests}.", "", *table(found)])
    return 0


def run(variant: str, seconds: float) -> Record:
    """One variant."""
    kind, count, *rest = variant.split("/")
    if kind == "emulators":
        return emulators(int(count), seconds)
    if kind == "loop":
        return loop(int(count), seconds, torch.device("cuda"))
    precision, how = rest
    assert precision in ("float32", "bfloat16")
    captures, device = how == "graphs", torch.device("cuda")
    return ours(int(count), precision, captures=captures, seconds=seconds, device=device)  # type: ignore[arg-type]  # checked


def tested() -> str:
    """The last line of what pytest says about the tests that need a device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    try:
        found = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=TESTS)
    except subprocess.TimeoutExpired:
        return f"not done in {TESTS} s"
    if found.returncode:
        print(found.stdout, file=sys.stderr)
    lines = found.stdout.strip().splitlines()
    return lines[-1] if lines else f"exit code {found.returncode}"


def in_its_own_process(variant: str, seconds: float, left: float) -> Record | str:
    """What `run` returns there, or why it did not; what hangs says where all its threads are."""
    command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.gpu", "--variant", variant]
    limit = min(left, SET_UP + 2 * seconds)
    with subprocess.Popen([*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True) as process:
        try:
            told, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            return f"not done in {limit:.0f} s"
    if process.returncode:
        return f"failed with exit code {process.returncode}"
    record: Record = json.loads(told.strip().splitlines()[-1])
    return record


def table(found: dict[str, Record | str]) -> list[str]:
    """Agent steps a second, as many times the loop's, as a share of the emulators' limit, and where CPU time went."""
    loops = found.get("loop/128")
    lines = [
        "| variant | agent steps/s | / loop | / emulators alone | cores | CPU seconds went to |",
        "|---|---|---|---|---|---|",
    ]
    for variant, record in found.items():
        if isinstance(record, str):
            lines.append(f"| {variant} | {record} | | | | |")
            continue
        rate = record["work"] / record["wall"]
        limit = found.get(f"emulators/{variant.split('/')[1]}")
        times, share = (
            f"{rate * other['wall'] / other['work']:.2f}" if isinstance(other, dict) else "" for other in (loops, limit)
        )
        told = ", ".join(f"{name} {part:.0%}" for name, part in record.get("shares", {}).items())
        cores = record["cpu"] / record["wall"]
        lines.append(f"| {variant} | {rate:,.0f} | {times} | {share} | {cores:.1f} | {told} |")
    return lines


if __name__ == "__main__":
    end_with(main)
