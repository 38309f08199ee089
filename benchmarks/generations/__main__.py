"""What `rlkd evolve` comes to on Atari: arm by arm and generation by generation, its verdicts, and papers' claims.

    make bench NAME=generations                             # breeds what is not there yet; 6 core-hours
    python -m benchmarks.generations --study pong           # one of them
    python -m benchmarks.generations --study none           # breeds nothing, stores what is there by now

A study that result.json has to its end is not bred again; delete that file to begin anew.

Pong: born-again students of `policy:pong_early`, whose training was stopped while its curve rose; three lines of
descent that differ by their seeds, three generations with all arms and five of the main line. Breakout: the main line
from `policy:breakout`, likewise stopped early. A teacher assistant, a residual assistant and Knowledge Evolution have
smaller students of `policy:pong`. Everybody learns and plays as briefly as quick.toml and studies.py say. Runs are
resumable, a call goes on where the last one stopped. Limits of claims stand in thresholds.toml.
"""

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.common import Record, end_with, machine, store, stored, thresholds_commit
from benchmarks.generations.claims import CLAIMS, NOT_RUN, Limits, left_beside_the_assistant, own_luck
from benchmarks.generations.studies import STUDIES, Study, breed, identity
from rlkd.lineage.lines import groups
from rlkd.stats import failed_share
from rlkd.storage import read_json

FOLDER = Path(__file__).parent
KEPT = (
    *("name", "number", "arm", "role", "line", "parent_names", "seed", "mean", "ci95", "normalised", "normalised_ci95"),
    *("agreement", "kl_teacher_states", "kl_student_states", "gradient_steps", "parameters", "weight_bytes", "flops"),
    *("decision_seconds", "seconds", "phases", "hash", "data_hash", "recipe_hash", "scores", "measures"),
    "under",
)
"""Of each record; the rest is the same for all."""
TOLD = ("status", "operator", "rule", "recipe", "teacher", "random", "steps", "verdicts", "versions")
"""Of each lineage: all that claims and tables read, so that studies need not be bred in one run folder."""


def main() -> int:
    """Breed, and store the table of claims and that of each study that has something to show."""
    names = [study.name for study in STUDIES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", action="append", choices=[*names, "none"], help="of these studies alone")
    parser.add_argument("--run", type=Path, default=Path("runs"), help="folder of the run folders evolve_STUDY")
    chosen = parser.parse_args()
    limits = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    record: Record = {"machine": machine(), "thresholds": limits, "claims": {}}
    before, known = stored(FOLDER), {}
    lines: list[str] = []
    for study in STUDIES:
        asked, run = study.name in (chosen.study or names), chosen.run / f"evolve_{study.name}"
        found = result_of(study, before.get(study.name), run, asked=asked)
        if found is not None:
            known[study.name] = found
            lines += ["", f"## {study.title}", "", *table(found)]
    lines = [*claims(known, limits, record), *lines]
    store(FOLDER, record | known, lines)
    return 0


def result_of(study: Study, before: Record | None, run: Path, *, asked: bool) -> Record | None:
    """What there is of a study's lineage: stored to its end, else in the run folder, else stored so far.

    Args:
        study: which one.
        before: what is stored under its name, be it of other recipes.
        run: its run folder.
        asked: whether to breed what is not stored to its end.
    """
    if before is not None and before["teacher"]["identity"] != identity(study):
        before = None
    if before is not None and complete(study, before):
        return before
    if asked:
        breed(study, run)
    if not (run / "run.json").exists():
        return before
    bred = read_json(run / "run.json")
    left = {"left": left_beside_the_assistant(bred, run)} if study.name == "residual_assistant" else {}
    return kept(bred) | left


def kept(found: Record) -> Record:
    """What is stored of a lineage."""
    steps = [{key: step[key] for key in KEPT if key in step} for step in found["steps"]]
    return {key: found[key] for key in TOLD} | {"steps": steps}


def claims(known: Mapping[str, Record], limits: Mapping[str, Limits], record: Record) -> list[str]:
    """Lines of the table of what papers claim, from what is known of each study; also into the record."""
    lines = [
        (
            f"Thresholds of commit {thresholds_commit(FOLDER)}. Means over lines of descent with Student's 95 % "
            "intervals; differences are paired by line. TN is the score normalised by the first teacher's."
        ),
        "",
        "| technique | paper | claim | measured | verdict |",
        "|---|---|---|---|---|",
    ]
    studies = {study.name: study for study in STUDIES}
    for claim in CLAIMS:
        bred, limit = known.get(claim.study), limits[claim.name]
        found = None if bred is None else claim.check(bred, limit)
        if bred is None or found is None:
            verdict = "not run yet"
        elif not complete(studies[claim.study], bred):
            verdict = "no verdict: not run to its end"
        else:
            verdict = "holds" if found.holds else "does not hold here"
        measured, text = "" if found is None else found.measured, claim.text.format(**limit)
        lines.append(f"| {studies[claim.study].title} | {claim.paper} | {text} | {measured} | {verdict} |")
        record["claims"][claim.name] = {"claim": text, "measured": measured, "verdict": verdict}
    for technique, paper, text, hours in NOT_RUN:
        lines.append(f"| {technique} | {paper} | {text} |  | not run (needs {hours:g} core-hours) |")
    return lines


def complete(study: Study, found: Record) -> bool:
    """Whether all lines have all generations, and the arms that are wanted."""
    last = max(study.generations, study.main_generations or 0)
    at_last = [row for row in found["steps"] if (row["number"], row["arm"], row["role"]) == (last, None, "")]
    ensembles = [row for row in found["steps"] if row["role"] == "ensemble"]
    enough = len(at_last) == study.lines and (not study.arms or len(ensembles) == study.lines)
    return bool(found["status"] == "done") and enough


def table(found: Record) -> list[str]:
    """What was bred, arms and generations as rows, then what each question's answer is."""
    first, learning, source = found["teacher"], found["recipe"], found["recipe"]["source"]
    low, high = first["ci95"]
    score = f"{first['mean']:.1f} [{low:.1f}, {high:.1f}] over {first['episodes']} episodes"
    lines = [
        (
            f"First teacher: `{first['policy']}`, {score}, random play {found['random']['mean']:.1f}. Operator "
            f"`{found['operator']}`; each student learns by `{found['rule'].get('distill')}`, "
            f"{learning['gradient_steps']:,} steps of {learning['batch_size']} on {source['states']:,} states."
        ),
        "",
        (
            "Means over lines with Student's 95 % intervals; of one line over episodes. How little the first teacher's "
            f"own mean is known, to {own_luck(found):.3f} TN, is common to all rows and not in their intervals. "
            "Agreement and KL are to who each has learnt from."
        ),
        "",
        "| arm | generation | lines | parameters | score | TN to the first | failed | agrees | KL, its states | own |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for group in groups(found["steps"]):
        size = f"{group.records[0]['parameters']:,}"
        score, normalised = f"{group.score.point:.1f}", str(group.normalised)
        failed = np.mean(
            [failed_share(row["scores"], first["scores"], found["random"]["scores"]) for row in group.records]
        )
        cells = [group.name, str(group.number), str(len(group.records)), size, score, normalised, f"{failed:.0%}"]
        for key in ("agreement", "kl_teacher_states", "kl_student_states"):
            value = group.mean_of(key)
            cells.append("" if value is None else f"{value:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| question | answer |", "|---|---|"]
    return [*lines, *(f"| {row['question']} | {row['sentence']} |" for row in found["verdicts"])]


if __name__ == "__main__":
    end_with(main)
