"""What papers claim of techniques, checked on Pong, Breakout and small worlds: technique x claim x measured x verdict.

    make bench NAME=techniques

Limits and estimates of cost stand in thresholds.toml, committed before the first run; the table names the commit. All
arms of a seed learn from the same states, kept in the run folder, which grows to some 6 GB. What is finished there or
stored in result.json is not repeated (delete that file to begin anew), and rows that are not run yet say so, so that
the table can be stored at any time. Some rows need RLKD_TEACHERS or a policy that has to ship. `--row NAME`, several
times if need be, runs some of the rows, `--row none` just prints; `--tiny` sees whether all of it runs.
"""

import argparse
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Record, end_with, machine, store, stored, thresholds_commit
from benchmarks.techniques.bench import KEPT, Bench, Numbers
from benchmarks.techniques.rows import ROWS, Row
from benchmarks.techniques.verdicts import Limits
from rlkd.recipe import shipped
from rlkd.stats import seed_interval
from rlkd.storage import read_json, write_json

FOLDER = Path(__file__).parent
TOO_DEAR = 120.0
"""Core-minutes above which a row need not be run."""


def main() -> int:
    """Run what was asked for and is not there yet, and store the table."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="training seeds; small worlds have numbers of their own")
    parser.add_argument("--run", type=Path, default=Path("runs/techniques"), help="folder for what is not stored")
    parser.add_argument("--row", action="append", choices=[*names, "none"], help="of these rows alone")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, seed 100, nothing is stored")
    chosen = parser.parse_args()
    limits = tomllib.loads((FOLDER / "thresholds.toml").read_text())
    bench = Bench(chosen.run / "tiny" if chosen.tiny else chosen.run, limits["budget"], tiny=chosen.tiny)
    if not chosen.tiny:
        unpack(stored(FOLDER), bench)
    for row in ROWS:
        if row.name in (chosen.row or names) and row.measure is not None and not missing(row):
            for seed in [100] if chosen.tiny else range(row.seeds or chosen.seeds):
                print(f"{row.name}, seed {seed}", file=sys.stderr, flush=True)
                measured(row, bench, seed)
    lines, record = table(bench, limits, [100] if chosen.tiny else range(chosen.seeds))
    if chosen.tiny:
        print("\n".join(lines))
    else:
        store(FOLDER, record, lines)
    return 0


def unpack(record: Record, bench: Bench) -> None:
    """Put what was measured in other run folders into this one, where it is not there yet."""
    rows = record.get("rows", {})
    found = {
        piece(row, bench, told["seed"]): told for row in ROWS if row.name in rows for told in rows[row.name]["seeds"]
    }
    found |= {bench.file(arm, told["seed"]): told for arm, runs in record.get("arms", {}).items() for told in runs}
    for path, told in found.items():
        if not path.exists():
            write_json(path, told)


def missing(row: Row) -> bool:
    """Whether what the row needs is not at hand."""
    if row.needs.startswith("policy:"):
        return row.needs not in {f"policy:{entry.name}" for entry in shipped("policies")}
    return bool(row.needs) and not (Path(os.environ.get("RLKD_TEACHERS", "/nowhere")) / row.needs).is_file()


def measured(row: Row, bench: Bench, seed: int) -> Numbers:
    """What a seed of a row brought; kept in the run folder."""
    assert row.measure is not None
    path = piece(row, bench, seed)
    if not path.exists():
        cpu, wall = time.process_time(), time.perf_counter()
        numbers = row.measure(bench, seed)
        spent = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
        write_json(path, {"numbers": numbers, **spent})
    found: Numbers = read_json(path)["numbers"]
    return found


def piece(row: Row, bench: Bench, seed: int) -> Path:
    """The file of a row's seed."""
    return bench.run / "rows" / row.name / f"seed{seed}.json"


def table(bench: Bench, limits: dict[str, Limits], seeds: Sequence[int]) -> tuple[list[str], Record]:
    """Lines of both tables, and the record: of all rows, whether they were run or not."""
    count, every = len(seeds), list(seeds)
    lines = [
        (
            f"Thresholds of commit {thresholds_commit(FOLDER)}. Means over seeds with Student's 95 % intervals; "
            "differences are paired by seed. TN is the teacher-normalised score."
        ),
        "",
        "| technique | paper | claim | measured | seeds | verdict |",
        "|---|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine(), "thresholds": limits, "rows": {}, "arms": {}}
    for row in ROWS:
        wanted = every if row.seeds is None or bench.tiny else list(range(row.seeds))
        paths = {seed: piece(row, bench, seed) for seed in wanted}
        records = [read_json(path) | {"seed": seed} for seed, path in paths.items() if path.exists()]
        shown, verdict = outcome(row, [each["numbers"] for each in records], limits[row.name], len(wanted))
        claim = row.claim.format(**limits[row.name])
        lines.append(
            f"| {row.technique} | {row.paper} | {claim} | {shown} | {len(records)} of {len(wanted)} | {verdict} |"
        )
        record["rows"][row.name] = {"claim": claim, "verdict": verdict, "measured": shown, "seeds": records}
    lines += ["", *arms_table(bench, every, record)]
    record["seeds"] = count
    return lines, record


def outcome(row: Row, records: Sequence[Numbers], limits: Limits, wanted: int) -> tuple[str, str]:
    """What is shown of a row, and its verdict."""
    if row.measure is None or row.judge is None:
        needed = limits["core_minutes"]
        if needed <= TOO_DEAR:
            raise ValueError(f"row '{row.name}' is cheap enough to be run: {needed:g} core-minutes")
        return "", f"not run (needs {needed / 60:.1f} core-hours)"
    if not records:
        return "", f"not run yet{f' (needs {row.needs})' if missing(row) else ''}"
    finding = row.judge(records, limits)
    if len(records) < wanted:
        return finding.measured, "not run yet to its end"
    return finding.measured, "holds" if finding.holds else "does not hold here"


def arms_table(bench: Bench, seeds: Sequence[int], record: Record) -> list[str]:
    """Scores and likeness of all students and controls of the rows' arms, over the seeds that have been run."""
    lines = [
        "| arm | student | seeds | TN | failed episodes | agreement | KL teacher's states | KL own states |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(arm for row in ROWS for arm in row.arms):
        told = {seed: bench.told(name, seed) for seed in seeds}
        runs = [run | {"seed": seed} for seed, run in told.items() if run is not None]
        for who in runs[0]["numbers"] if runs else ():
            over = {key: seed_interval([run["numbers"][who][key] for run in runs]) for key in KEPT}
            lines.append(
                f"| {name} | {who.replace('_', ' ')} | {len(runs)} | {over['normalised']} "
                f"| {over['failed_share'].point:.0%} | {over['agreement']} | {over['kl_teacher_states']} "
                f"| {over['kl_student_states']} |"
            )
        record["arms"][name] = runs
    return lines


if __name__ == "__main__":
    end_with(main)
