"""Generations: policies that learn from each other, recorded. A run folder with one record a policy; nothing finished
is repeated.

    generations/000/           the first teacher     policy.safetensors, record.json
    generations/001/           learned from 000      policy.safetensors, record.json, and the runs it came from
    generations/001-line1/     the same from another seed
    ...

A step counts as finished when its record is there; the record is written last, whole.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from rlkd import metrics, recipe, storage
from rlkd.data import Evaluation, JsonDict
from rlkd.distillation.checks import check_normalisable
from rlkd.distillation.command import default_recipe
from rlkd.errors import StorageError
from rlkd.evaluation import decision_seconds, environment_of, play_randomly, result_record
from rlkd.lineage.line import Lineage, lineage_of
from rlkd.lineage.making import Made, Seen, folder_of, make
from rlkd.lineage.measured import FILE as MEASURES
from rlkd.lineage.measured import measured
from rlkd.lineage.step import FIRST, Step
from rlkd.lineage.verdicts import verdicts
from rlkd.policy import Policy, as_policy, load_policy
from rlkd.recipe import ARMS, Distill, Environment, Generations, build, check_request, recipe_hash, to_table
from rlkd.stats import normalised_score
from rlkd.vector import as_recipe

DECISIONS = 100
"""Single decisions that are timed of each policy, on one thread."""


def evolve(
    teacher: Policy | str | Path,
    agent: str = "born_again",
    *,
    run: str | Path,
    generations: int | None = None,
    lines: int = 1,
    arms: bool = False,
    env: Environment | str | None = None,
    seed: int = 0,
    episodes: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    command: str = "",
) -> JsonDict:
    """Breed generations of students, each with new seeds, and record every one.

    Args:
        teacher: generation 0, a policy or its file.
        agent: generations recipe.
        run: folder; one that was stopped or killed goes on after its last finished step.
        generations: how many; None takes the recipe's. A finished lineage can be asked for more.
        lines: of descent from the first teacher, which differ by their seeds alone; a finished lineage can be asked for
            more.
        arms: breed all arms beside, which tell apart why students are as good as they are; else those of the recipe.
        env: where; None takes the teacher's own.
        seed: generation k of line i trains with `seed + 1000 * k + 100_000 * i`.
        episodes: per evaluation; None takes the protocol's.
        device: `auto`, `cpu` or `cuda`.
        overrides: `key=value` for the generations recipe.
        command: for the record.

    Returns:
        The content of `run.json`.

    Raises:
        RecipeError: an unknown operator, or recipes that do not belong together.
        StorageError: the folder holds another lineage, or a finished step was altered.
        MismatchError: the first teacher plays as random play does: nothing to normalise by.
        Stopped: on SIGINT or SIGTERM, after saving.
    """
    check_request(seed, episodes)
    if lines < 1:
        raise ValueError(f"lines must be at least 1, got {lines}")
    rule = recipe.load(agent, Generations, overrides=overrides)
    if generations is not None:
        rule = replace(rule, generations=generations)
    if arms:
        rule = replace(rule, arms=ARMS)
    founder = as_policy(teacher, env=None if env is None else as_recipe(env))
    environment = environment_of(founder, None)
    # Controls are a matter for `rlkd distill`: a lineage compares its generations with each other.
    distilling = replace(recipe.load(rule.distill or default_recipe(founder), Distill), controls=())
    line = lineage_of(
        rule, founder, environment, distilling, run=Path(run), seed=seed, episodes=episodes, device=device
    )
    steps = line.steps(founder, lines)
    identity = line.identity(founder)
    with storage.run_folder(line.run), metrics.stop_signal() as stop:
        storage.refuse_other_kinds(line.run, "evolve")
        seen = Seen(line, _random_play(line, identity, stop))
        records = [_finished(line.run, FIRST, identity) or _found(founder, seen, identity, stop)]
        _tell_versions(line.run, records[0])
        policies, beside = {FIRST: founder}, _beside(line.run, steps, identity)
        for step in steps:
            stop.check(f"all before {step.name} is saved in {line.run}; the same command goes on")
            record = _finished(line.run, step.name, identity)
            if record is None:
                started = time.monotonic()
                made = make(step, policies, seen, stop)
                record = _recorded(step, made, records[0], policies, seen, identity, started)
            else:
                _check_parents(line.run, step, record, policies)
            policies[step.name] = load_policy(line.run / str(record["path"]))
            told = measured(step, steps, policies, seen, stop)
            records.append(record | {"measures": told})
            content = _summary(line, records, beside, len(records) > len(steps), seen.random, command)
            content["verdicts"] = verdicts(content)
            storage.write_json(line.run / "run.json", content)
    return content


def _random_play(line: Lineage, identity: str, stop: metrics.StopSignal) -> Evaluation:
    """Random play's scores, measured once for the whole lineage."""
    path = line.run / "random.json"
    if path.exists():
        record = storage.read_json(path)
        if record.pop("identity", None) != identity:
            raise StorageError(
                f"{line.run} holds a lineage with another teacher, recipe or seed; name another --run, "
                "or repeat its command to go on with it"
            )
        return build(Evaluation, record, where=str(path))
    random = play_randomly(line.environment, episodes=line.episodes, stop=stop)
    storage.write_json(path, to_table(random) | {"identity": identity})
    return random


def _finished(run: Path, name: str, identity: str) -> JsonDict | None:
    """The record of a finished step, its policy checked against the recorded hash; None if not finished."""
    path = folder_of(run, name) / "record.json"
    if not path.exists():
        return None
    record: JsonDict = storage.read_json(path)
    if record.get("identity") != identity:
        raise StorageError(f"{path} belongs to another lineage; name another --run")
    if not (run / str(record["path"])).exists():
        folder = folder_of(run, name)
        raise StorageError(f"{run / str(record['path'])} is missing, and {name} was finished; delete {folder}")
    found = load_policy(run / str(record["path"])).spec.hash
    if found != record["hash"]:
        raise StorageError(f"{run / str(record['path'])} was replaced: its hash is {found[:12]}, not as recorded")
    return record


def _beside(run: Path, steps: Sequence[Step], identity: str) -> list[JsonDict]:
    """What earlier calls have finished in the same lineage and this one does not ask for: more generations, or arms."""
    asked = {FIRST, *(step.name for step in steps)}
    found = []
    for path in sorted(run.glob("generations/*/record.json")):
        record = None if path.parent.name in asked else _finished(run, path.parent.name, identity)
        if record is not None:
            measures = path.with_name(MEASURES)
            found.append(record | {"measures": storage.read_json(measures) if measures.exists() else {}})
    return sorted(found, key=lambda record: (int(record["line"]), str(record["arm"] or ""), int(record["number"])))


def _tell_versions(run: Path, record: JsonDict) -> None:
    """One line where a lineage was begun under other versions: what comes now may differ in its bits from then."""
    then, now = record["versions"], storage.versions()
    changed = [f"{name} {then.get(name)}, now {version}" for name, version in now.items() if then.get(name) != version]
    if changed:
        metrics.say(f"{run} was begun under {'; '.join(changed)}: it goes on, and each record says under which")


def _check_parents(run: Path, step: Step, record: JsonDict, policies: dict[str, Policy]) -> None:
    """Raise StorageError where a finished step was made of others than stand in the folder now."""
    for name, told in zip(_of_whom(step), record["parents"], strict=False):
        if policies[name].spec.hash != told:
            folder = folder_of(run, step.name)
            raise StorageError(f"{folder} was made of another {name} than this; delete {folder} to make it anew")


def _of_whom(step: Step) -> tuple[str, ...]:
    """Names of the policies a step is made of: teachers, members or candidates, then whose weights it begins with."""
    return (*step.parents, *([step.start] if step.start and step.start not in step.parents else []))


def _found(founder: Policy, seen: Seen, identity: str, stop: metrics.StopSignal) -> JsonDict:
    """Generation 0: the teacher, measured under the lineage's protocol."""
    started, line = time.monotonic(), seen.line
    path = folder_of(line.run, FIRST) / "policy.safetensors"
    founder.save(path)
    played = seen.baseline(FIRST, founder, stop).teacher
    check_normalisable(played.evaluation, seen.random)
    record = result_record(played.evaluation, random=seen.random, path=path) | {
        "name": FIRST,
        "number": 0,
        "how": "found",
        "role": "",
        "arm": None,
        "line": 0,
        "path": str(path.relative_to(line.run)),
        "parents": list(founder.spec.parents),
        "parent_names": [],
        "seed": None,
        "recipe_hash": None,
        "structure": to_table(founder.spec.network),
        "flops": founder.spec.flops,
        "decision_seconds": median(decision_seconds(founder, DECISIONS)),
        "normalised": 1.0,
        "normalised_ci95": [1.0, 1.0],
        "identity": identity,
        "versions": storage.versions(),
        "seconds": round(time.monotonic() - started, 2),
    }
    storage.write_json(folder_of(line.run, FIRST) / "record.json", record)
    return record


def _recorded(
    step: Step,
    made: Made,
    first: JsonDict,
    policies: dict[str, Policy],
    seen: Seen,
    identity: str,
    started: float,
) -> JsonDict:
    """Save and record what a step came to; the record is written last."""
    line, random = seen.line, seen.random
    folder, policy, evaluation = folder_of(line.run, step.name), made.policy, made.played.evaluation
    path = folder / "policy.safetensors"
    policy.save(path)
    if step.how != "select":  # who was chosen is kept where it was made
        seen.keep(step.name, policy, made.played)
    normalised = normalised_score([evaluation.scores], first["scores"], random.scores)
    names = _of_whom(step)
    record = result_record(evaluation, random=random, path=path) | {
        "name": step.name,
        "number": step.number,
        "how": step.how,
        "role": step.role,
        "arm": step.arm,
        "line": step.line,
        "path": str(path.relative_to(line.run)),
        "parents": [policies[name].spec.hash for name in names],
        "parent_names": list(names),
        "seed": step.seed,
        "structure": to_table(policy.spec.network),
        "flops": policy.spec.flops,
        "decision_seconds": median(decision_seconds(policy, DECISIONS)),
        "normalised": normalised.point,
        "normalised_ci95": [normalised.low, normalised.high],
        "identity": identity,
        "versions": storage.versions(),
        **made.told,
        "seconds": round(time.monotonic() - started, 2),
    }
    storage.write_json(folder / "record.json", record)
    return record


def _summary(
    line: Lineage,
    records: Sequence[JsonDict],
    beside: Sequence[JsonDict],
    done: bool,
    random: Evaluation,
    command: str,
) -> JsonDict:
    everyone = [*records, *beside]
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
        "teacher": records[0],
        "random": {"mean": random.mean, "scores": list(random.scores)},
        "generations": sorted(main, key=lambda each: int(each["number"])),
        "steps": everyone,
        "versions": storage.versions(),
    }
