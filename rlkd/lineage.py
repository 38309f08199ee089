"""Generations: each student teaches the next. A run folder with one record a generation; nothing finished is repeated.

    generations/000/  the first teacher          policy.safetensors, record.json
    generations/001/  learned from 000           policy.safetensors, record.json, and the distillation run it came from
    ...

A generation counts as finished when its record is there; the record is written last, whole.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from rlkd import metrics, recipe, storage
from rlkd.data import Evaluation, JsonDict
from rlkd.distillation import Baseline, measure_baseline, run_distillation
from rlkd.distillation.command import default_recipe
from rlkd.distillation.run import check_normalisable
from rlkd.errors import StorageError
from rlkd.evaluation import Played, environment_of, play, play_randomly, result_record, stretch_of
from rlkd.evaluation.record import WIDE, terminal_table
from rlkd.policy import Policy, as_policy, load_policy
from rlkd.recipe import Distill, Environment, Generations, Network, build, check_request, recipe_hash, to_table
from rlkd.stats import normalised_score
from rlkd.vector import as_recipe


def evolve(
    teacher: Policy | str | Path,
    agent: str = "born_again",
    *,
    run: str | Path,
    generations: int | None = None,
    env: Environment | str | None = None,
    seed: int = 0,
    episodes: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    command: str = "",
) -> JsonDict:
    """Breed generations of students, each with new seeds and new initial weights, and record every one.

    Args:
        teacher: generation 0, a policy or its file.
        agent: generations recipe.
        run: folder; one that was stopped or killed goes on after its last finished generation.
        generations: how many; None takes the recipe's. A finished lineage can be asked for more.
        env: where; None takes the teacher's own.
        seed: generation k trains with `seed + 1000 * k`.
        episodes: per evaluation; None takes the protocol's.
        device: `auto`, `cpu` or `cuda`.
        overrides: `key=value` for the generations recipe.
        command: for the record.

    Returns:
        The content of `run.json`.

    Raises:
        StorageError: the folder holds another lineage, or a finished generation was altered.
        MismatchError: the first teacher plays as random play does: nothing to normalise by.
        Stopped: on SIGINT or SIGTERM, after saving.
    """
    check_request(seed, episodes)
    rule = recipe.load(agent, Generations, overrides=overrides)
    if generations is not None:
        rule = replace(rule, generations=generations)
    founder = as_policy(teacher, env=None if env is None else as_recipe(env))
    environment = environment_of(founder, None)
    # Controls are a matter for `rlkd distill`: a lineage compares its generations with each other.
    distilling = replace(recipe.load(rule.distill or default_recipe(founder), Distill), controls=())
    network = student_network(rule, founder)
    line = Lineage(Path(run), environment, rule, distilling, network, seed, episodes, device)
    identity = line.identity(founder)
    with storage.run_folder(line.run), metrics.stop_signal() as stop:
        storage.refuse_other_kinds(line.run, "evolve")
        random = _random_play(line, identity, stop)
        records = [_finished(line.run, 0, identity) or _found(line, founder, random, identity, stop)]
        parent, seen = founder, None
        for number in range(1, rule.generations + 1):
            stop.check(f"generations before {number} are saved in {line.run}; the same command goes on")
            record = _finished(line.run, number, identity)
            if record is None:
                # A parent that was born in this call has been measured already; one from an earlier call has not.
                baseline = _baseline(line, parent, random, stop) if seen is None else Baseline(seen, random)
                record, seen = _breed(line, number, parent, records, baseline, identity)
            elif parent.spec.hash in record["parents"]:
                seen = None
            else:
                folder = line.run / _folder(number)
                raise StorageError(f"{folder} learned from another generation {number - 1} than this; delete it")
            records.append(record)
            parent = load_policy(line.run / str(record["path"]))
            content = _summary(line, records, random, command)
            storage.write_json(line.run / "run.json", content)
    return content


@dataclass(frozen=True, slots=True)
class Lineage:
    """What all generations of a run share."""

    run: Path
    """The run's folder."""
    environment: Environment
    """Where every generation plays."""
    generations: Generations
    """How one makes the next."""
    distilling: Distill
    """The distillation that every generation runs."""
    network: Network
    """The students' network."""
    seed: int
    """Of the run."""
    episodes: int | None
    """Per evaluation; None takes the protocol's."""
    device: str
    """`auto`, `cpu` or `cuda`."""

    def identity(self, teacher: Policy) -> str:
        """What a run folder must share with a lineage that goes on in it."""
        # How many generations is left out: a finished lineage may be asked for more of them.
        rule = replace(self.generations, generations=1)
        parts = [recipe_hash(part) for part in (rule, self.distilling, self.environment, self.network)]
        return storage.sha256(" ".join([*parts, teacher.spec.hash, str(self.seed), str(self.episodes)]).encode())


def student_network(generations: Generations, teacher: Policy) -> Network:
    """The students' network: a recipe's, or the teacher's own without its critic."""
    if generations.student == "same":
        return replace(teacher.spec.network, value="none")
    return recipe.load(generations.student, Network)


def _folder(number: int) -> Path:
    return Path("generations") / f"{number:03d}"


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


def _finished(run: Path, number: int, identity: str) -> JsonDict | None:
    """The record of a finished generation, its policy checked against the recorded hash; None if not finished."""
    path = run / _folder(number) / "record.json"
    if not path.exists():
        return None
    record: JsonDict = storage.read_json(path)
    if record.get("identity") != identity:
        raise StorageError(f"{path} belongs to another lineage; name another --run")
    found = load_policy(run / str(record["path"])).spec.hash
    if found != record["hash"]:
        raise StorageError(f"{run / str(record['path'])} was replaced: its hash is {found[:12]}, not as recorded")
    return record


def _found(line: Lineage, teacher: Policy, random: Evaluation, identity: str, stop: metrics.StopSignal) -> JsonDict:
    """Generation 0: the teacher, measured under the lineage's protocol."""
    started = time.monotonic()
    path = _folder(0) / "policy.safetensors"
    teacher.save(line.run / path)
    played = play(teacher, line.environment, episodes=line.episodes, title="generation 0", stop=stop)
    check_normalisable(played.evaluation, random)
    record = result_record(played.evaluation, random=random, path=line.run / path) | {
        "number": 0,
        "path": str(path),
        "parents": list(teacher.spec.parents),
        "seed": None,
        "recipe_hash": None,
        "normalised": 1.0,
        "normalised_ci95": [1.0, 1.0],
        "identity": identity,
        "seconds": round(time.monotonic() - started, 2),
    }
    storage.write_json(line.run / _folder(0) / "record.json", record)
    return record


def _baseline(line: Lineage, parent: Policy, random: Evaluation, stop: metrics.StopSignal) -> Baseline:
    return measure_baseline(
        parent,
        line.environment,
        episodes=line.episodes,
        keep_states=line.distilling.held_out_states,
        stretch=stretch_of(parent.recurrent, line.network.core != "none"),
        random=random,
        stop=stop,
    )


def _breed(
    line: Lineage, number: int, parent: Policy, ancestors: Sequence[JsonDict], baseline: Baseline, identity: str
) -> tuple[JsonDict, Played]:
    """Train, measure and record one generation; the record is written last. Also what it played, for the next one."""
    started = time.monotonic()
    folder, seed = line.run / _folder(number), line.seed + 1000 * number
    result = run_distillation(
        parent,
        {f"generation-{number}": line.network},
        line.distilling,
        run=folder / "distill",
        seed=seed,
        environment=line.environment,
        episodes=line.episodes,
        device=line.device,
        baseline=baseline,
    )
    student = result.students[0]
    path = _folder(number) / "policy.safetensors"
    student.policy.save(line.run / path)
    normalised = normalised_score([student.evaluation.scores], ancestors[0]["scores"], baseline.random.scores)
    record = result_record(student.evaluation, random=baseline.random, path=line.run / path) | {
        "number": number,
        "path": str(path),
        "parents": list(student.policy.spec.parents),
        "seed": seed,
        "recipe_hash": recipe_hash(line.distilling),
        "normalised": normalised.point,
        "normalised_ci95": [normalised.low, normalised.high],
        "agreement": student.agreement,
        "kl_teacher_states": student.kl_teacher_states,
        "kl_student_states": student.kl_student_states,
        "gradient_steps": student.gradient_steps,
        "frames": result.steps * line.environment.frame_skip,
        "identity": identity,
        "seconds": round(time.monotonic() - started, 2),
    }
    storage.write_json(folder / "record.json", record)
    return record, student.played


def _summary(line: Lineage, records: Sequence[JsonDict], random: Evaluation, command: str) -> JsonDict:
    return {
        "kind": "evolve",
        "status": "done" if len(records) > line.generations.generations else "running",
        "run": str(line.run),
        "command": command,
        "seed": line.seed,
        "operator": line.generations.operator,
        "recipe": to_table(line.distilling),
        "recipe_hash": recipe_hash(line.distilling),
        "environment": to_table(line.environment),
        "teacher": records[0],
        "random": {"mean": random.mean, "scores": list(random.scores)},
        "generations": list(records),
        "versions": storage.versions(),
    }


def lineage_table(record: JsonDict, *, width: int = WIDE) -> Table:
    """A lineage for the terminal, `width` characters wide: one row a generation, and whom it learned from."""
    table = terminal_table(f"{record['environment']['id']}, {record['operator']}, {record['status']}")
    headers = ["generation", "parent", "score [95 %]", "TN to the first [95 %]", "agrees", "parameters", "hash"]
    if width < WIDE:
        headers = ["generation", "score [95 %]", "TN [95 %]", "agrees", "parameters", "hash"]
    for header in headers:
        table.add_column(header, justify="right")
    for entry in record["generations"]:
        (low, high), (tn_low, tn_high) = entry["ci95"], entry["normalised_ci95"]
        normalised = f"{entry['normalised']:.3f} [{tn_low:.2f}, {tn_high:.2f}]"
        cells = {
            "generation": str(entry["number"]),
            "parent": entry["parents"][0][:8] if entry["parents"] else "",
            "score [95 %]": f"{entry['mean']:.1f} [{low:.1f}, {high:.1f}]",
            "TN to the first [95 %]": normalised,
            "TN [95 %]": normalised,
            "agrees": f"{entry['agreement']:.1%}" if "agreement" in entry else "",
            "parameters": f"{entry['parameters']:,}",
            "hash": entry["hash"][:8],
        }
        table.add_row(*(cells[header] for header in headers))
    return table
