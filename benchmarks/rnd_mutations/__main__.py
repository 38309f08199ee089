"""Whether the tests of random network distillation see what ports of it get wrong.

    make bench NAME=rnd_mutations

Each deviation is made in a copy of the code, one at a time, by replacing a line; then the tests of the bonus run until
the first one fails. A deviation that no test sees is a hole in the tests. Deviations are those that public ports of
Burda et al. 2018 (arXiv:1810.12894) have, as far as they are in code and not in a recipe's values, and a few near them.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import Record, end_with, machine, store

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
TESTS = ("tests/test_explore.py", "tests/test_explore_ppo.py")
COPIED = ("rlkd", "tests", "agents", "envs", "pyproject.toml")
NOVELTY, MODELS, SCALING = "rlkd/explore/novelty.py", "rlkd/explore/models.py", "rlkd/explore/scaling.py"
MOMENTS, SCORED, SAMPLES = "rlkd/explore/moments.py", "rlkd/learn/scored.py", "rlkd/learn/samples.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One deviation: in a file, a text that stands there once, and what takes its place."""

    what: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "forward filter over environments",
        SCALING,
        "if self.over_time else (bonus.double().T",
        "if False else (bonus.double().T",
    ),
    Mutation(
        "scale counts environments, not steps",
        SCALING,
        "self.sums.update(found[valid])",
        "self.sums.combine(found.mean(), found.var(correction=0), found.shape[1])",
    ),
    Mutation(
        "filter starts anew in each rollout",
        SCALING,
        "        sums = []\n",
        "        sums = []\n        self.filter.zero_()\n",
    ),
    Mutation(
        "steps that only reset are filtered too",
        SCALING,
        "torch.where(counts, ",
        "torch.where(torch.ones_like(counts), ",
    ),
    Mutation(
        "mean subtracted from the bonus", SCALING, "(bonus.double() / self", "((bonus.double() - self.sums.mean) / self"
    ),
    Mutation(
        "scaled before the rollout is seen",
        SCALING,
        "        sums = []\n",
        "        return (bonus.double() / self.sums.deviation()).where(valid, 0).float()\n        sums = []\n",
    ),
    Mutation("bonus of the observation that was acted on", NOVELTY, "arrived = seen[1:]\n", "arrived = seen[:-1]\n"),
    Mutation(
        "bonus of the final observation of an episode",
        NOVELTY,
        'if self.recipe.terminal == "reset":\n            behind',
        "if False:\n            behind",
    ),
    Mutation("bonus of the oldest frame", NOVELTY, "observation[..., -1:, :, :] if", "observation[..., :1, :, :] if"),
    Mutation("no clip", NOVELTY, ".clamp(-self.recipe.clip, self.recipe.clip)", ""),
    Mutation("clip at 1", NOVELTY, "clamp(-self.recipe.clip, self.recipe.clip)", "clamp(-1, 1)"),
    Mutation(
        "pixels divided by 255 first", NOVELTY, "((looked_at.float() - mean)", "((looked_at.float() / 255 - mean)"
    ),
    Mutation(
        "an epsilon under the root", NOVELTY, "self.seen.deviation().float()", "(self.seen.var + 1e-8).sqrt().float()"
    ),
    Mutation("all samples are kept", NOVELTY, "(draw < share)", "(draw < 2)"),
    Mutation(
        "share of kept samples from a fixed number", NOVELTY, "self.recipe.keep_environments / len(self.start)", "0.25"
    ),
    Mutation("kept samples averaged over all", NOVELTY, "kept / kept.sum().clamp(min=1)", "kept / len(kept)"),
    Mutation("sample variance", MOMENTS, "rows.var(0, correction=0)", "rows.var(0, correction=1)"),
    Mutation(
        "count in float32", MOMENTS, "torch.tensor(PRIOR_COUNT, dtype=torch.float64)", "torch.tensor(PRIOR_COUNT)"
    ),
    Mutation("no prior", MOMENTS, "PRIOR_COUNT = 1e-4", "PRIOR_COUNT = 1e-12"),
    Mutation("slope of the rectifiers", MODELS, "stride), nn.LeakyReLU(recipe.slope)", "stride), nn.LeakyReLU(0.01)"),
    Mutation("half a sum instead of a mean", MODELS, 'if self.recipe.error == "mean" else', "if False else"),
    Mutation(
        "equal networks",
        MODELS,
        "self.predictor = network(recipe, shape, more=recipe.predictor_widths)\n        self.target.requires",
        "self.predictor = network(recipe, shape, more=())\n        self.target.requires",
    ),
    Mutation("the random network learns", MODELS, "self.target.requires_grad_(requires_grad=False)", "pass"),
    Mutation(
        "learns from the observation before",
        MODELS,
        "steps.arrived if steps.before is None else steps.before)\n",
        "steps.arrived.roll(1, 0))\n",
    ),
    Mutation(
        "networks not orthogonal",
        NOVELTY,
        "nn.init.orthogonal_(layer.weight, math.sqrt(2), generator=generator)",
        "nn.init.normal_(layer.weight, 0, 0.05, generator=generator)",
    ),
    Mutation(
        "new statistics for the bonus",
        SCORED,
        "    raw = bonus.bonus(",
        "    bonus.seen.update(bonus.look(rollout.observation[:-1])[valid])\n    raw = bonus.bonus(",
    ),
    Mutation(
        "whitening sees only what is rewarded",
        SCORED,
        "bonus.look(rollout.observation[:-1])[bonus.looked(valid, rollout.ended)]",
        "steps.arrived[valid.flatten()]",
    ),
    Mutation(
        "steps that only reset are whitened by",
        SCORED,
        "bonus.look(rollout.observation[:-1])[bonus.looked(valid, rollout.ended)]",
        "bonus.look(rollout.observation[:-1]).flatten(0, 1)",
    ),
    Mutation(
        "bonus added to the game's reward",
        SCORED,
        "else rollout.reward[..., k]",
        "else rollout.reward[..., k] + scaled",
    ),
    Mutation(
        "state without the filter",
        SCORED,
        "for name, tensor in bonus.state_dict().items()",
        "for name, tensor in bonus.state_dict().items() if 'filter' not in name",
    ),
    Mutation("intrinsic return ends with episodes", SAMPLES, "episodic=stream.episodic", "episodic=True"),
)


def main() -> int:
    """Make each deviation, run the tests, and store who was seen by what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="deviations whose name holds this text")
    chosen = parser.parse_args()
    for mutation in MUTATIONS:
        found = (ROOT / mutation.file).read_text().count(mutation.old)
        if found != 1:
            raise SystemExit(f"{mutation.what}: {mutation.file} holds {mutation.old!r} {found} times, not once")
    record: Record = {"machine": machine(), "mutations": {}}
    lines = ["| deviation | file | first test that fails |", "|---|---|---|"]
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        unchanged = first_failure(copy)
        if unchanged is not None:
            raise SystemExit(f"the tests fail as they are: {unchanged}")
        for mutation in MUTATIONS:
            if chosen.only not in mutation.what:
                continue
            seen = tried(copy, mutation)
            record["mutations"][mutation.what] = seen
            lines.append(f"| {mutation.what} | {mutation.file} | {seen or '**none**'} |")
            print(lines[-1], file=sys.stderr, flush=True)
    missed = [what for what, seen in record["mutations"].items() if seen is None]
    lines += ["", f"{len(record['mutations']) - len(missed)} of {len(record['mutations'])} deviations are seen."]
    if chosen.only:
        print("\n".join(lines))
    else:
        store(FOLDER, record, lines)
    return 1 if missed else 0


def tried(copy: Path, mutation: Mutation) -> str | None:
    """The first test that fails with a deviation; the copy is as before afterwards."""
    path = copy / mutation.file
    text = path.read_text()
    try:
        path.write_text(text.replace(mutation.old, mutation.new))
        return first_failure(copy)
    finally:
        path.write_text(text)


def first_failure(copy: Path) -> str | None:
    """Name of the first test that fails; None where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n0", *TESTS]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return None
    if found.returncode != 1:  # an import that fails is no test that sees something
        raise SystemExit(f"pytest ended with {found.returncode}:\n{found.stdout[-2000:]}")
    failed = re.search(r"^(?:FAILED|ERROR) \S+?(?:::(\S+))?(?: |$)", found.stdout, re.MULTILINE)
    return failed[1] if failed and failed[1] else "a test file"


if __name__ == "__main__":
    end_with(main)
