"""Every policy file of other people that is at hand: is it read, and does it play as well as it did for its author?

    make bench NAME=importers

Needs RLKD_TEACHERS, a folder with the files and their MANIFEST.md, whose tables say what each scored over 20 episodes.
Each file that is read plays 50 episodes; the difference is given in standard errors of both together.
"""

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rlkd
from benchmarks.common import Record, machine, store
from rlkd.errors import RlkdError
from rlkd.evaluation import play
from rlkd.vector import environment_named_in

FOLDER = Path(__file__).parent
EPISODES, THEIR_EPISODES = 50, 20
WITHIN = 3.0  # standard errors
ROW = re.compile(r"^\| (\S+/\S+) \| `[0-9a-f]{64}` \|.*\| ([^|]+) \|$", re.MULTILINE)
SCORE = re.compile(r"(-?\d+(?:\.\d+)?)±(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a manifest says of a file."""

    file: str
    """Path below the folder of teachers."""
    mean: float
    """Mean score."""
    deviation: float
    """Standard deviation over episodes."""


def main() -> int:
    """Read and play every file, and store the table."""
    root = os.environ.get("RLKD_TEACHERS")
    if root is None or not (Path(root) / "MANIFEST.md").is_file():
        print("set RLKD_TEACHERS to a folder with teachers and their MANIFEST.md", file=sys.stderr)
        return 2
    rows = [examine(Path(root), claim) for claim in claims((Path(root) / "MANIFEST.md").read_text())]
    read = [row for row in rows if row["read"]]
    alike = [row for row in read if abs(row["standard_errors"]) <= WITHIN]
    lines = [
        (
            f"{len(rows)} files, {len(read)} read, {len(alike)} of them within {WITHIN:g} standard errors of the "
            f"manifest; {EPISODES} episodes each, the manifest's scores are of {THEIR_EPISODES}."
        ),
        "",
        "| file | read | environment | score | manifest | difference, standard errors | seconds |",
        "|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
    ]
    store(FOLDER, {"machine": machine(), "files": rows}, lines)
    return 0


def claims(manifest: str) -> list[Claim]:
    """Files and scores of a manifest's tables, the first score of each row."""
    found = ((name, SCORE.search(text)) for name, text in ROW.findall(manifest))
    return [Claim(name, float(score[1]), float(score[2])) for name, score in found if score is not None]


def examine(root: Path, claim: Claim) -> Record:
    """Read one file, play it, compare."""
    started = time.monotonic()
    row: Record = {"file": claim.file, "read": False, "manifest": [claim.mean, claim.deviation]}
    try:
        path = root / claim.file
        policy = rlkd.load(path, env=environment_named_in(path.stem))
        if policy.spec.environment is None:
            raise RlkdError("read, but its name holds no environment to play")
        scores = np.array(play(policy, policy.spec.environment, episodes=EPISODES).evaluation.scores)
    except RlkdError as error:
        return row | {"reason": str(error).removeprefix(f"{root / claim.file}: ")}
    error_ = np.sqrt(scores.var(ddof=1) / len(scores) + claim.deviation**2 / THEIR_EPISODES)
    difference = float(scores.mean() - claim.mean)
    return row | {
        "read": True,
        "environment": policy.spec.environment.id,
        "score": [float(scores.mean()), float(scores.std(ddof=1))],
        "standard_errors": difference / float(error_) if error_ else 0.0 if difference == 0 else float("inf"),
        "seconds": time.monotonic() - started,
    }


def _line(row: Record) -> str:
    mean, deviation = row["manifest"]
    if not row["read"]:
        return f"| {row['file']} | no: {row['reason']} | | | {mean:.1f} ± {deviation:.1f} | | |"
    score, spread = row["score"]
    return (
        f"| {row['file']} | yes | {row['environment']} | {score:.1f} ± {spread:.1f} | {mean:.1f} ± {deviation:.1f} "
        f"| {row['standard_errors']:+.1f} | {row['seconds']:.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
