"""Records of a lineage: what is written of each policy, what is found of earlier calls, and what they come to."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rlkd import metrics, storage
from rlkd.data import Evaluation, JsonDict
from rlkd.distillation.checkpoint import FILE as CHECKPOINT
from rlkd.distillation.checks import check_normalisable
from rlkd.errors import StorageError
from rlkd.evaluation import decision_seconds, result_record
from rlkd.lineage.line import Lineage
from rlkd.lineage.making import Made, Seen, folder_of
from rlkd.lineage.measured import kept
from rlkd.lineage.step import FIRST, Step
from rlkd.policy import Policy, load_policy
from rlkd.recipe import recipe_hash, to_table
from rlkd.stats import normalised_score

DECISIONS = 100
"""Single decisions that are timed of each policy, on one thread."""
OF_THE_CHOSEN = (
    *("recipe_hash", "data_hash", "agreement", "kl_teacher_states", "kl_student_states", "gradient_steps", "frames"),
    *("phases", "under"),
)


def finished(run: Path, name: str, identity: str) -> JsonDict | None:
    """The record of a finished step, its policy checked against the recorded hash; None if not finished."""
    path = folder_of(run, name) / "record.json"
    if not path.exists():
        return None
    try:
        record: JsonDict = storage.read_json(path)
    except StorageError as error:
        raise StorageError(f"{error}; delete {folder_of(run, name)} to make it anew") from None
    if record.get("identity") != identity:
        raise StorageError(f"{path} belongs to another lineage; name another --run")
    if not (run / str(record["path"])).exists():
        folder = folder_of(run, name)
        raise StorageError(f"{run / str(record['path'])} is missing, and {name} was finished; delete {folder}")
    found = load_policy(run / str(record["path"])).spec.hash
    if found != record["hash"]:
        raise StorageError(f"{run / str(record['path'])} was replaced: its hash is {found[:12]}, not as recorded")
    _tidy(folder_of(run, name))
    return record


def _tidy(folder: Path) -> None:
    """Delete what only an unfinished step goes on from, 10 MB and more; the checkpoint first, it counts on rounds."""
    (folder / "distill" / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(folder / "distill" / "replay", ignore_errors=True)


def not_asked_for(run: Path, steps: Sequence[Step], identity: str) -> list[JsonDict]:
    """What earlier calls have finished in the same lineage and this one does not ask for: more generations, or arms."""
    asked = {FIRST, *(step.name for step in steps)}
    names = [path.parent.name for path in sorted(run.glob("generations/*/record.json"))]
    found = [record for name in names if name not in asked and (record := finished(run, name, identity)) is not None]
    return [record | {"measures": kept(folder_of(run, record["name"]))} for record in found]


def beside(waiting: Sequence[JsonDict], records: Sequence[JsonDict]) -> list[JsonDict]:
    """Of what was not asked for all whose parents are there, parents before children. Who is of other parents than
    stand in the folder now is left out."""
    known = {record["name"]: record["hash"] for record in records}
    found: list[JsonDict] = []
    while ready := [each for each in waiting if _is_of(each, known)]:
        waiting = [each for each in waiting if each not in ready]
        found += ready
        known |= {record["name"]: record["hash"] for record in ready}
    return found


def _is_of(record: JsonDict, known: Mapping[str, str]) -> bool:
    """Whether all its parents are there, by name and hash."""
    return all(known.get(name) == told for name, told in zip(record["parent_names"], record["parents"], strict=False))


def tell_versions(run: Path, record: JsonDict) -> None:
    """One line where a lineage was begun under other versions: what comes now may differ in its bits from then."""
    if changed := storage.changes(record["versions"], storage.versions()):
        metrics.say(f"{run} was begun under {changed}: it goes on, and each record says under which")


def tell_circumstances(before: Sequence[JsonDict], record: JsonDict) -> None:
    """One line where a student was made elsewhere than the one before it: with another processor, device, precision."""
    last = next((each for each in reversed(before) if "under" in each), None)
    if last is not None and "under" in record and (changed := storage.changes(last["under"], record["under"])):
        metrics.say(f"{last['name']} was made under {changed} of {record['name']}: bits may differ from one machine's")


def tell_left_out(run: Path, waiting: Sequence[JsonDict], everyone: Sequence[JsonDict]) -> None:
    """One line where earlier calls made policies of others than stand in the folder now."""
    shown = {record["name"] for record in everyone}
    if left := [record["name"] for record in waiting if record["name"] not in shown]:
        names = ", ".join(left)
        metrics.say(f"left out, being of others than stand in {run} now: {names}; `rlkd verify {run}` says of whom")


def check_parents(run: Path, step: Step, record: JsonDict, policies: dict[str, Policy]) -> None:
    """Raise StorageError where a finished step was made of others than stand in the folder now."""
    for name, told in zip(of_whom(step), record["parents"], strict=False):
        if policies[name].spec.hash != told:
            folder = folder_of(run, step.name)
            raise StorageError(f"{folder} was made of another {name} than this; delete {folder} to make it anew")


def of_whom(step: Step) -> tuple[str, ...]:
    """Names of the policies a step is made of: teachers, members or candidates, then whose weights it begins with."""
    return (*step.parents, *([step.start] if step.start and step.start not in step.parents else []))


def _about(policy: Policy, evaluation: Evaluation, seen: Seen, path: Path) -> JsonDict:
    """What every record says of a policy in a file."""
    return result_record(evaluation, random=seen.random, path=path) | {
        "path": str(path.relative_to(seen.line.run)),
        "structure": to_table(policy.spec.network),
        "flops": policy.spec.flops,
        "decision_seconds": median(decision_seconds(policy, DECISIONS)),
        "versions": storage.versions(),
    }


def record_founder(founder: Policy, seen: Seen, identity: str, stop: metrics.StopSignal) -> JsonDict:
    """Generation 0: the teacher, measured under the lineage's protocol."""
    started, line = time.monotonic(), seen.line
    path = folder_of(line.run, FIRST) / "policy.safetensors"
    founder.save(path)
    played = seen.baseline(FIRST, founder, stop).teacher
    check_normalisable(played.evaluation, seen.random)
    record = _about(founder, played.evaluation, seen, path) | {
        "name": FIRST,
        "number": 0,
        "how": "found",
        "role": "",
        "arm": None,
        "line": 0,
        "parents": list(founder.spec.parents),
        "parent_names": [],
        "seed": None,
        "recipe_hash": None,
        "normalised": 1.0,
        "normalised_ci95": [1.0, 1.0],
        "identity": identity,
        "seconds": round(time.monotonic() - started, 2),
    }
    storage.write_record(folder_of(line.run, FIRST) / "record.json", record)
    return record


def recorded(
    step: Step,
    made: Made,
    records: Sequence[JsonDict],
    policies: dict[str, Policy],
    seen: Seen,
    identity: str,
    started: float,
) -> JsonDict:
    """Save and record what a step came to; the record is written last."""
    line, random, first = seen.line, seen.random, records[0]
    told = made.told
    if step.how == "select":  # what is known of who was chosen, and who that learnt from
        chosen = next(each for each in records if each["name"] == told["chosen"])
        told = {key: chosen[key] for key in OF_THE_CHOSEN if key in chosen} | told
    folder, policy, evaluation = folder_of(line.run, step.name), made.policy, made.played.evaluation
    path = folder / "policy.safetensors"
    policy.save(path)
    if step.how == "distil":  # the others have been played by `seen`
        seen.keep(step.name, policy, made.played)
    normalised = normalised_score([evaluation.scores], first["scores"], random.scores)
    names = of_whom(step)
    record = _about(policy, evaluation, seen, path) | {
        "name": step.name,
        "number": step.number,
        "how": step.how,
        "role": step.role,
        "arm": step.arm,
        "line": step.line,
        "parents": [policies[name].spec.hash for name in names],
        "parent_names": list(names),
        "seed": step.seed,
        "normalised": normalised.point,
        "normalised_ci95": [normalised.low, normalised.high],
        "identity": identity,
        "plan": step.key,
        **told,
        "seconds": round(time.monotonic() - started, 2),  # of the attempt that finished it
    }
    storage.write_record(folder / "record.json", record)
    _tidy(folder)
    return record


def summary(line: Lineage, everyone: Sequence[JsonDict], random: Evaluation, command: str, *, done: bool) -> JsonDict:
    """What `run.json` holds: `everyone`'s records, the first teacher's first."""
    main = [each for each in everyone if not each["role"] and each["arm"] is None and not each["line"]]
    return {
        "kind": "evolve",
        "status": "done" if done else "running",
        "run": str(line.run),
        "command": command,
        "seed": line.seed,
        "lines": 1 + max(int(each["line"]) for each in everyone),
        "operator": line.rule.operator.name,
        "rule": to_table(line.rule),
        "recipe": to_table(line.distilling),
        "recipe_hash": recipe_hash(line.distilling),
        "training": None if line.training is None else to_table(line.training),
        "environment": to_table(line.environment),
        "teacher": everyone[0],
        "random": {"mean": random.mean, "scores": list(random.scores)},
        "generations": sorted(main, key=lambda each: int(each["number"])),
        "steps": list(everyone),
        "versions": storage.versions(),
    }
