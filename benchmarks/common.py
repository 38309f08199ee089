"""What the benchmarks share: options, a line about the machine, stored results, students over several seeds."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from rlkd.errors import RlkdError, Stopped
from rlkd.recipe import Distill, recipe_hash
from rlkd.stats import Estimate, failed_share, normalised_score
from rlkd.storage import read_json, write_bytes, write_json

Record = dict[str, Any]


def options(description: str, *, seeds: int = 5) -> argparse.Namespace:
    """`--seeds N` and `--run DIR`; finished seeds in the folder are not repeated."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=seeds, help="training seeds")
    name = Path(sys.argv[0]).parent.name
    parser.add_argument("--run", type=Path, default=Path("runs") / name, help="folder for what is not stored")
    return parser.parse_args()


def end_with(main: Callable[[], int]) -> NoReturn:
    """Run a benchmark and end the process: what its caller can fix, or a signal, is one line, as of `rlkd`."""
    try:
        sys.exit(main())
    except RlkdError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except subprocess.CalledProcessError as error:  # a benchmark's process of its own, which has said why
        sys.exit(error.returncode if error.returncode > 0 else 1)
    except KeyboardInterrupt:
        print("benchmark: interrupted; with the same command it goes on where something was kept", file=sys.stderr)
        sys.exit(Stopped.exit_code)


def in_its_own_process(name: str, arguments: Sequence[str]) -> Record:
    """What a benchmark prints as its last line, in a process of its own.

    No setting of the caller's shell for threads reaches it: everyone there decides on its own.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_"))}
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    record: Record = json.loads(found.stdout.strip().splitlines()[-1])
    return record


def machine() -> Record:
    """Processor, cores, versions."""
    import torch

    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def store(folder: Path, record: Record, lines: Sequence[str]) -> None:
    """Print the lines, and keep them as `result.md` and the record as `result.json` in the benchmark's folder."""
    text = "\n".join(lines) + "\n"
    print(text, end="")
    write_json(folder / "result.json", record)
    write_bytes(folder / "result.md", text.encode())


def stored(folder: Path) -> Record:
    """What `store` has kept in a benchmark's folder; empty where there is nothing yet."""
    path = folder / "result.json"
    return read_json(path) if path.exists() else {}


def thresholds_commit(folder: Path) -> str:
    """The commit that last touched a benchmark's thresholds.toml; with a remark where the file was changed since."""
    file = str(folder / "thresholds.toml")
    commit, changed = (
        subprocess.run(["git", *words, file], check=False, capture_output=True, text=True, cwd=folder).stdout.strip()
        for words in (("log", "-1", "--format=%h", "--"), ("status", "--porcelain", "--"))
    )
    return f"{commit or 'none'}{', changed since' if changed else ''}"


def thinned(curve: Sequence[Record], count: int) -> Sequence[Record]:
    """About so many lines at equal distances, the last one among them."""
    every = max(1, len(curve) // count)
    return curve[len(curve) - 1 :: -every][::-1]


def over_seeds(runs: Sequence[Record], name: str) -> tuple[Estimate, float]:
    """Normalised score of a student or control over seeds, and its share of failed episodes.

    Teacher and random play are measured on the same episodes in every run, so the first run's count.
    """
    teacher, random = runs[0]["teacher"]["scores"], runs[0]["random"]["scores"]
    scores = [entry["scores"] for run in runs for entry in run["students"] + run["controls"] if entry["name"] == name]
    failed = float(np.mean([failed_share(each, teacher, random) for each in scores]))
    return normalised_score(scores, teacher, random), failed


def entries(runs: Sequence[Record], name: str) -> list[Record]:
    """The entries of one student or control, one a seed."""
    return [entry for run in runs for entry in run["students"] + run["controls"] if entry["name"] == name]


def verdict(estimate: Estimate, *, at_least: float | None = None, at_most: float | None = None) -> str:
    """Whether the point estimate meets a threshold."""
    if at_least is not None:
        return f"{'met' if estimate.point >= at_least else 'MISSED'}: wanted >= {at_least:g}"
    return f"{'met' if at_most is not None and estimate.point <= at_most else 'MISSED'}: wanted <= {at_most:g}"


def read_run(folder: Path, teacher: str, recipe: Distill) -> Record | None:
    """The finished run in a folder, or None; one with another teacher, named by its hash, or recipe is refused."""
    path = folder / "run.json"
    if not path.exists():
        return None
    record: Record = json.loads(path.read_text())
    if (record["teacher"]["hash"], record["recipe_hash"]) != (teacher, recipe_hash(recipe)):
        raise SystemExit(f"{folder} holds a run with another teacher or recipe; delete it or name another --run")
    return record


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
