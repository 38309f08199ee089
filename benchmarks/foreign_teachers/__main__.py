"""Other people's policies compressed: Breakout from muupan/async-rl, Pong from greydanus/baby-a3c.

    make bench NAME=foreign_teachers

Needs RLKD_TEACHERS. Every teacher plays by its author's rule (sampled) in its author's view.
Breakout: a feed-forward A3C network of 677,172 acting parameters into students of 16.5 and 8.9 %.
Pong: a recurrent A3C network of 842,150 acting parameters that sees one frame at a time, into a student without memory
that sees four frames, and into a recurrent one of 23 %.
All by student-driven collection (recipe `dagger`). Values for Breakout were chosen after looks at seed 100 and, for the
number of states, at seed 0. Whole games are needed, for what is left of the wall late in a game is seen only there,
and many of them: KL on held-out states was twice that of training with 300,000 states. The teacher's temperature is
below 1, because a student that hedges where it is unsure and then samples plays worse than it knows.
"""

import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import rlkd
from benchmarks.common import Record, end_with, entries, machine, options, over_seeds, read_run, store, verdict
from rlkd import recipe as recipes
from rlkd.distillation import Baseline, measure_baseline
from rlkd.evaluation import environment_of, stretch_of
from rlkd.policy import Policy, load_policy
from rlkd.recipe import Distill, Network

FOLDER = Path(__file__).parent
HELD_OUT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One teacher and its students."""

    name: str
    """Of the arm."""
    file: str
    """The teacher's, below RLKD_TEACHERS."""
    env: str | None = None
    """Environment with more frames than the teacher reads; None takes its own."""
    students: tuple[str, ...]
    """Network recipes."""
    overrides: tuple[str, ...]
    """Of the recipe `dagger`."""
    seeds: int
    """Training seeds."""
    episodes: int
    """Each student plays; the teacher plays 100."""


ARMS = (
    Arm(
        name="breakout",
        file="muupan_async-rl/80000000_finish.h5",
        students=("nature_113k", "nature_60k"),
        overrides=(
            "gradient_steps=20000",
            "controls=[]",
            "source.states=800000",
            "source.rounds=16",
            "source.epsilon=0.01",
            "source.teacher_fraction=[1.0, 0.2]",
            'terms.0.target=[{name="temper", temperature=0.25}]',
        ),
        seeds=5,
        episodes=30,
    ),
    Arm(
        name="pong_stacked",
        file="greydanus_baby-a3c/pong-v4/model.40.tar",
        env="foreign/pong_baby_a3c_stacked",
        students=("nature_113k",),
        overrides=("gradient_steps=4000", "controls=[]"),
        seeds=3,
        episodes=30,
    ),
    Arm(
        name="pong",
        file="greydanus_baby-a3c/pong-v4/model.40.tar",
        students=("gru_196k",),
        overrides=("gradient_steps=6000", "controls=[]", "source.num_envs=16"),
        seeds=3,
        episodes=30,
    ),
)


def main() -> int:
    """Run what is not there yet, and store the tables."""
    chosen = options(__doc__ or "")
    root = os.environ.get("RLKD_TEACHERS")
    if root is None or not all((Path(root) / arm.file).is_file() for arm in ARMS):
        print("set RLKD_TEACHERS to a folder that holds " + ", ".join({arm.file for arm in ARMS}), file=sys.stderr)
        return 2
    limits = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    lines = [
        (
            "| teacher | its score | student | parameters | of teacher | score by seed | TN [95 %] | verdict | failed "
            "| KL teacher's states | KL own states |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine(), "thresholds": limits}
    for arm in ARMS:
        teacher = load_policy(Path(root) / arm.file, env=arm.env)
        runs = _runs(arm, teacher, chosen.run / arm.name, min(arm.seeds, chosen.seeds))
        rows, record[arm.name] = _rows(arm, runs, limits[arm.name])
        lines += rows
    store(FOLDER, record, lines)
    return 0


def _runs(arm: Arm, teacher: Policy, folder: Path, seeds: int) -> list[Record]:
    """Finished runs of an arm, one a seed; random play and the teacher are measured once for all of them."""
    recipe = recipes.load("dagger", Distill, overrides=arm.overrides)
    remembers = any(recipes.load(name, Network).core != "none" for name in arm.students)
    baseline: Baseline | None = None
    runs = []
    for seed in range(seeds):
        done = read_run(folder / f"seed{seed}", teacher.spec.hash, recipe)
        if done is None and baseline is None:
            stretch = stretch_of(teacher.recurrent, remembers)
            baseline = measure_baseline(
                teacher, environment_of(teacher, None), episodes=None, keep_states=HELD_OUT, stretch=stretch
            )
        runs.append(
            done
            or rlkd.distill(
                teacher,
                arm.students,
                run=folder / f"seed{seed}",
                agent="dagger",
                seed=seed,
                episodes=arm.episodes,
                overrides=arm.overrides,
                baseline=baseline,
            )
        )
    return runs


def _rows(arm: Arm, runs: list[Record], limits: dict[str, float]) -> tuple[list[str], Record]:
    teacher = runs[0]["teacher"]
    low, high = teacher["ci95"]
    shown = f"{arm.file} ({teacher['parameters']:,}) | {teacher['mean']:.2f} [{low:.2f}, {high:.2f}]"
    record: Record = {"teacher": {key: teacher[key] for key in ("mean", "ci95", "hash", "rule", "parameters")}}
    lines = []
    for name in arm.students:
        estimate, failed = over_seeds(runs, name)
        found = entries(runs, name)
        teacher_states, own_states = (
            sum(entry[key] for entry in found) / len(found) for key in ("kl_teacher_states", "kl_student_states")
        )
        scores = ", ".join(f"{entry['mean']:.1f}" for entry in found)
        lines.append(
            f"| {shown} | {name} | {found[0]['parameters']:,} | {found[0]['parameter_ratio']:.1%} | {scores} "
            f"| {estimate} | {verdict(estimate, at_least=limits[f'{name}_at_least'])} | {failed:.1%} "
            f"| {teacher_states:.3f} | {own_states:.3f} |"
        )
        record[name] = {
            "normalised": [estimate.point, estimate.low, estimate.high],
            "failed": failed,
            "scores": [entry["mean"] for entry in found],
            "kl_teacher_states": teacher_states,
            "kl_student_states": own_states,
        }
    return lines, record


if __name__ == "__main__":
    end_with(main)
