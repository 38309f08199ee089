"""The shipped Pong policy into smaller ones, over seeds; soft targets against hard labels at three sizes of data.

    make bench NAME=pong_compression

Main arm: `nature_113k` and `nature_62k` from one replay of 60,000 states, recipe `dagger` (the students visit
the states more and more, the teacher answers), 40 episodes each, with the shuffled-teacher control. Recipe and budget
were changed once after a look at seed 0 of an earlier teacher (teacher-driven states gave TN 0.26 and 0.93 there).
Five seeds of `nature_113k` then missed, TN 0.918 [0.894, 0.941]: 5 to 12 of the 16 first-layer filters were dead in
each. Since then students standardise their first weights and their rate falls to zero; rate and budget were chosen on
seed 100. The thresholds were never changed.
Data arm: `nature_62k` on 3,000, 10,000 and 30,000 distinct teacher states, recipe `policy_distillation`, soft targets
beside hard labels at the same budget.
"""

import tomllib
from pathlib import Path

import numpy as np

import rlkd
from benchmarks.common import Record, end_with, entries, machine, options, over_seeds, read_run, store, verdict
from rlkd import recipe as recipes
from rlkd.distillation import Baseline, measure_baseline
from rlkd.evaluation import environment_of
from rlkd.policy import load_policy
from rlkd.recipe import Distill
from rlkd.stats import Estimate, mean_interval

FOLDER = Path(__file__).parent
TEACHER = "policy:pong"
STATES = (3_000, 10_000, 30_000)
MAIN_EPISODES, DATA_EPISODES = 40, 10
DATA_STEPS = 1500
MAIN = ("controls=['shuffled_teacher']", "gradient_steps=4000")


def main() -> int:
    """Run what is not there yet, and store the tables."""
    chosen = options(__doc__ or "")
    limits = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    teacher = load_policy(TEACHER)
    environment = environment_of(teacher, None)
    # One measurement of teacher and random play serves all runs: the episodes are the protocol's in each of them.
    baseline = measure_baseline(teacher, environment, episodes=None, keep_states=4096)
    seeds = range(chosen.seeds)
    students = ["nature_62k", "nature_113k"]
    mains = [
        _one(chosen.run / "main" / f"seed{seed}", "dagger", students, MAIN, seed, MAIN_EPISODES, baseline)
        for seed in seeds
    ]
    arms = {states: [_few_states(chosen.run, states, seed, baseline) for seed in seeds] for states in STATES}
    lines, record = _main_table(mains, limits)
    more, record["states"] = _data_table(arms)
    store(FOLDER, record | {"machine": machine(), "thresholds": limits, "seeds": chosen.seeds}, lines + more)
    return 0


def _few_states(run: Path, states: int, seed: int, baseline: Baseline) -> Record:
    overrides = (f"source.states={states}", "controls=['hard_labels']", f"gradient_steps={DATA_STEPS}")
    folder = run / f"states{states}" / f"seed{seed}"
    return _one(folder, "policy_distillation", ["nature_62k"], overrides, seed, DATA_EPISODES, baseline)


def _one(
    folder: Path,
    agent: str,
    students: list[str],
    overrides: tuple[str, ...],
    seed: int,
    episodes: int,
    baseline: Baseline,
) -> Record:
    recipe = recipes.load(agent, Distill, overrides=overrides)
    return read_run(folder, baseline.teacher.evaluation.hash, recipe) or rlkd.distill(
        TEACHER,
        students,
        run=folder,
        agent=agent,
        seed=seed,
        episodes=episodes,
        overrides=overrides,
        baseline=baseline,
    )


def _main_table(runs: list[Record], limits: dict[str, float]) -> tuple[list[str], Record]:
    teacher = runs[0]["teacher"]
    low, high = teacher["ci95"]
    lines = [
        (
            f"Teacher `{TEACHER}`: {teacher['mean']:.2f} [{low:.2f}, {high:.2f}] over {teacher['episodes']} episodes, "
            f"rule {teacher['rule']}, {teacher['parameters']:,} acting parameters, hash {teacher['hash'][:12]}. "
            f"Random play {runs[0]['random']['mean']:.2f}. Students: {MAIN_EPISODES} episodes a seed."
        ),
        "",
        (
            "| student | parameters | of teacher | score by seed | TN [95 %] | verdict | failed | agrees | "
            "KL teacher's states | KL own states |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    record: Record = {"teacher": {key: teacher[key] for key in ("mean", "ci95", "hash", "rule", "parameters")}}
    for name, wanted in (
        ("nature_113k", {"at_least": limits["nature_113k_at_least"]}),
        ("nature_62k", {"at_least": limits["nature_62k_at_least"]}),
        ("shuffled_teacher", {"at_most": limits["shuffled_teacher_at_most"]}),
    ):
        estimate, failed = over_seeds(runs, name)
        found = entries(runs, name)
        mean = {
            key: sum(entry[key] for entry in found) / len(found)
            for key in ("agreement", "kl_teacher_states", "kl_student_states")
        }
        scores = ", ".join(f"{entry['mean']:.1f}" for entry in found)
        lines.append(
            f"| {name} | {found[0]['parameters']:,} | 1/{1 / found[0]['parameter_ratio']:.1f} | {scores} | {estimate} "
            f"| {verdict(estimate, **wanted)} | {failed:.1%} | {mean['agreement']:.1%} "
            f"| {mean['kl_teacher_states']:.3f} | {mean['kl_student_states']:.3f} |"
        )
        record[name] = {"normalised": _triple(estimate), "failed": failed, **mean}
    return lines, record


def _data_table(arms: dict[int, list[Record]]) -> tuple[list[str], Record]:
    lines = [
        "",
        f"Soft targets against hard labels, `nature_62k`, {DATA_STEPS} steps, {DATA_EPISODES} episodes a seed:",
        "",
        "| states | TN soft | TN hard | soft minus hard by seed | mean [95 %] | agree soft, hard | KL soft, hard |",
        "|---|---|---|---|---|---|---|",
    ]
    record: Record = {}
    for states, runs in arms.items():
        soft, hard = (over_seeds(runs, name)[0] for name in ("nature_62k", "hard_labels"))
        pairs = zip(entries(runs, "nature_62k"), entries(runs, "hard_labels"), strict=True)
        differences = [a["normalised"] - b["normalised"] for a, b in pairs]
        paired = mean_interval(differences)
        verdict_ = "soft wins" if paired.low > 0 else "hard wins" if paired.high < 0 else "no difference"
        shown = ", ".join(f"{difference:+.2f}" for difference in differences)
        mean = {
            key: [float(np.mean([each[key] for each in entries(runs, name)])) for name in ("nature_62k", "hard_labels")]
            for key in ("agreement", "kl_teacher_states")
        }
        agree, kl = mean["agreement"], mean["kl_teacher_states"]
        lines.append(
            f"| {states:,} | {soft} | {hard} | {shown} | {paired}: {verdict_} "
            f"| {agree[0]:.1%}, {agree[1]:.1%} | {kl[0]:.2f}, {kl[1]:.2f} |"
        )
        record[str(states)] = {"soft": _triple(soft), "hard": _triple(hard), "differences": differences, **mean}
    return lines, record


def _triple(estimate: Estimate) -> list[float]:
    return [estimate.point, estimate.low, estimate.high]


if __name__ == "__main__":
    end_with(main)
