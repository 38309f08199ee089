"""Every policy file of other people that is at hand: is it read, and does it play as well as it did for its author?

    make bench NAME=importers

Needs RLKD_TEACHERS, a folder with the files and their MANIFEST.md, whose tables say what each scored. Each file that is
read plays 50 episodes; the difference is given in standard errors of both measurements together.
"""

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rlkd
from benchmarks.common import Record, end_with, machine, store
from rlkd import recipe as recipes
from rlkd.errors import RlkdError
from rlkd.evaluation import check
from rlkd.evaluation.check import LIMIT
from rlkd.policy.foreign import known_score, recipe_for
from rlkd.recipe import Import, Score
from rlkd.vector import environment_named_in

FOLDER = Path(__file__).parent
EPISODES, THEIR_EPISODES, THEIR_SEED = 50, 20, 0
ROW = re.compile(r"^\| (\S+/\S+) \| `([0-9a-f]{64})` \|(.*)\| ([^|]+) \|$", re.MULTILINE)
SCORE = re.compile(r"(-?\d+(?:\.\d+)?)±(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a manifest says of a file."""

    score: Score
    """File, hash, mean, deviation."""
    about: str
    """The columns between hash and score; the environment is in one of them."""


def main() -> int:
    """Read and play every file, and store the table."""
    root = os.environ.get("RLKD_TEACHERS")
    if root is None or not (Path(root) / "MANIFEST.md").is_file():
        print("set RLKD_TEACHERS to a folder with teachers and their MANIFEST.md", file=sys.stderr)
        return 2
    rows = [examine(Path(root), claim) for claim in claims((Path(root) / "MANIFEST.md").read_text())]
    read = [row for row in rows if row["read"]]
    alike = [row for row in read if abs(row["standard_errors"]) <= LIMIT]
    lines = [
        (
            f"{len(rows)} files, {len(read)} read, {len(alike)} of them within {LIMIT:g} standard errors of what is "
            f"known; {EPISODES} episodes each from environment seed {THEIR_SEED} on, so that the first "
            f"{THEIR_EPISODES} are those that the manifest's scores are of. Files read by an import recipe play by its "
            "rule, and are compared with the score that it states; zips play greedily."
        ),
        "",
        "| file | read by | environment | rule | score | known for | difference, standard errors | seconds |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
    ]
    store(FOLDER, {"machine": machine(), "files": rows}, lines)
    return 0


def claims(manifest: str) -> list[Claim]:
    """Files and scores of a manifest's tables, the first score of each row."""
    found = [(file, sha256, about, SCORE.search(text)) for file, sha256, about, text in ROW.findall(manifest)]
    return [
        Claim(
            Score(
                file=file,
                sha256=sha256,
                mean=float(score[1]),
                std=float(score[2]),
                episodes=THEIR_EPISODES,
                first_seed=THEIR_SEED,
            ),
            about,
        )
        for file, sha256, about, score in found
        if score is not None
    ]


def examine(root: Path, claim: Claim) -> Record:
    """Read one file, play it, compare."""
    started = time.monotonic()
    path, score = root / claim.score.file, claim.score
    row: Record = {"file": score.file, "read": False, "known": [score.mean, score.std]}
    try:
        name = recipe_for(path)
        if name is None:
            # A zip names its environment by its own name at best; what the manifest ran comes next.
            guess = environment_named_in(path.stem) or environment_named_in(claim.about)
            policy = rlkd.load(path, env=guess)
        else:
            policy = rlkd.load(path, agent=name)
            score = known_score(policy.spec, recipes.load(name, Import)) or score
        if policy.spec.environment is None:
            raise RlkdError("read, but neither its name nor the manifest names an environment to play")
        done = check(policy, score, episodes=EPISODES)
    except RlkdError as error:
        return row | {"reason": str(error).removeprefix(f"{path}: ")}
    return row | {
        "read": True,
        "by": name or "zip",
        "environment": policy.spec.environment.id,
        "rule": str(policy.spec.rule),
        "known": [score.mean, score.std],
        "score": [float(np.mean(done.ours)), float(np.std(done.ours, ddof=1))],
        "standard_errors": done.standard_errors,
        "seconds": time.monotonic() - started,
    }


def _line(row: Record) -> str:
    mean, deviation = row["known"]
    if not row["read"]:
        return f"| {row['file']} | no: {row['reason']} | | | | {mean:.1f} ± {deviation:.1f} | | |"
    score, spread = row["score"]
    return (
        f"| {row['file']} | {row['by']} | {row['environment']} | {row['rule']} | {score:.1f} ± {spread:.1f} "
        f"| {mean:.1f} ± {deviation:.1f} | {row['standard_errors']:+.1f} | {row['seconds']:.0f} |"
    )


if __name__ == "__main__":
    end_with(main)
