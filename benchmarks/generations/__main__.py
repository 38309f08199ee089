"""What `rlkd evolve` comes to on Pong and Breakout: arm by arm and generation by generation, and its verdicts.

    make bench NAME=generations                            # breeds what is not there yet; about ten core-hours
    python -m benchmarks.generations --game pong --only-store   # what is there by now

Pong: born-again students of `policy:pong_dqn`, whose training was stopped while its curve rose. Three lines of descent
that differ by their seeds, three generations with all arms and five of the main line. Breakout: the main line from
`policy:breakout`, likewise stopped early. Everybody plays 48 of the protocol's episodes: with 100 a game of Pong would
cost as much as its learning. Runs are resumable, a call goes on where the last one stopped.
"""

import argparse
from pathlib import Path

from benchmarks.common import Record, end_with, machine, store
from rlkd.lineage import evolve
from rlkd.lineage.lines import groups
from rlkd.storage import read_json

FOLDER = Path(__file__).parent
TEACHERS = {"pong": "policy:pong_dqn", "breakout": "policy:breakout"}
LINES, GENERATIONS, MAIN_GENERATIONS = 3, 3, 5
EPISODES = 48
KEPT = (
    *("name", "number", "arm", "role", "line", "parent_names", "seed", "mean", "ci95", "normalised", "normalised_ci95"),
    *("agreement", "kl_teacher_states", "kl_student_states", "gradient_steps", "parameters", "weight_bytes", "flops"),
    *("decision_seconds", "seconds", "phases", "hash", "data_hash", "recipe_hash", "scores", "measures"),
)
"""Of each record; the rest is the same for all."""


def main() -> int:
    """Breed, and store the table of each game that has something to show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", action="append", choices=tuple(TEACHERS), help="of these games alone")
    parser.add_argument("--run", type=Path, default=Path("runs"), help="folder of the run folders evolve_GAME")
    parser.add_argument("--only-store", action="store_true", help="breed nothing")
    chosen = parser.parse_args()
    record: Record = {"machine": machine()}
    lines: list[str] = []
    for game in TEACHERS:
        run = chosen.run / f"evolve_{game}"
        if not chosen.only_store and game in (chosen.game or TEACHERS):
            breed(game, run)
        if (run / "run.json").exists():
            found = read_json(run / "run.json")
            lines += ["", f"## {game}", "", *table(found)] if lines else [f"## {game}", "", *table(found)]
            record[game] = {
                "verdicts": found["verdicts"],
                "versions": found["versions"],
                "random": found["random"]["mean"],
                "steps": [{key: step[key] for key in KEPT if key in step} for step in found["steps"]],
            }
    if not lines:
        raise SystemExit(f"no run in {chosen.run} has come to a first generation yet")
    store(FOLDER, record, lines)
    return 0


def breed(game: str, run: Path) -> None:
    """All lines and arms of a game; nothing finished is repeated."""
    teacher = TEACHERS[game]
    evolve(teacher, run=run, lines=LINES, generations=GENERATIONS, episodes=EPISODES)
    if game == "pong":
        evolve(teacher, run=run, lines=LINES, generations=GENERATIONS, arms=True, episodes=EPISODES)
        evolve(teacher, run=run, lines=LINES, generations=MAIN_GENERATIONS, episodes=EPISODES)


def table(found: Record) -> list[str]:
    """Arms and generations as rows, then what each question's answer is."""
    first = found["teacher"]
    low, high = first["ci95"]
    score = f"{first['mean']:.1f} [{low:.1f}, {high:.1f}] over {first['episodes']} episodes"
    lines = [
        f"First teacher: {score}, random play {found['random']['mean']:.1f}.",
        "Means over lines with Student's 95 % intervals; of one line over episodes.",
        "",
        "| arm | generation | lines | score | TN to the first | agrees | KL, teacher's states | KL, own states |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in groups(found["steps"]):
        normalised = group.normalised
        told = f"{normalised.point:.3f} [{normalised.low:.3f}, {normalised.high:.3f}]"
        cells = [group.name, str(group.number), str(len(group.records)), f"{group.score.point:.1f}", told]
        for key in ("agreement", "kl_teacher_states", "kl_student_states"):
            value = group.mean_of(key)
            cells.append("" if value is None else f"{value:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| question | answer |", "|---|---|"]
    return [*lines, *(f"| {row['question']} | {row['sentence']} |" for row in found["verdicts"])]


if __name__ == "__main__":
    end_with(main)
