"""Generations: each student teaches the next. A run folder with one record a generation; nothing finished is repeated.

    generations/000/  the first teacher          policy.safetensors, record.json
    generations/001/  learned from 000           policy.safetensors, record.json, and the distillation run it came from
    ...

Where a generation explores first, the training run that its teacher came from stands beside the distillation run.

A generation counts as finished when its record is there; the record is written last, whole.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlkd import metrics, recipe, storage
from rlkd.data import Evaluation, JsonDict
from rlkd.distillation import Baseline, measure_baseline, run_distillation
from rlkd.distillation.checks import check_normalisable
from rlkd.distillation.command import default_recipe
from rlkd.errors import StorageError
from rlkd.evaluation import Played, environment_of, play, play_randomly, result_record, stretch_of
from rlkd.learn.ppo import check_start, policy_spec, train_ppo
from rlkd.lineage.line import Lineage, exploration, student_network
from rlkd.policy import Policy, as_policy, load_policy
from rlkd.recipe import Distill, Environment, Generations, Ppo, build, check_request, recipe_hash, to_table
from rlkd.stats import mean_interval, normalised_score
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
    exploring = exploration(rule, environment)
    line = Lineage(Path(run), environment, rule, distilling, exploring, network, seed, episodes, device)
    if exploring is not None:
        check_start(founder, policy_spec(environment, exploring, origin=""))
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
                started = time.monotonic()
                teacher = parent if line.exploring is None else _explored(line, number, parent, line.exploring)
                stop.check(f"what generation {number} explored is saved in {line.run}; the same command goes on")
                # Who was born in this call has been measured already; who explored, or is from an earlier call, not.
                if seen is not None and teacher is parent:
                    baseline = Baseline(seen, random)
                else:
                    baseline = _baseline(line, number, teacher, random, stop)
                record, seen = _breed(line, number, teacher, records, baseline, identity, started)
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


def _baseline(line: Lineage, number: int, parent: Policy, random: Evaluation, stop: metrics.StopSignal) -> Baseline:
    """What a generation is compared with, which a lineage that goes on need not measure again."""
    return measure_baseline(
        parent,
        line.environment,
        episodes=line.episodes,
        keep_states=line.distilling.held_out_states,
        stretch=stretch_of(parent.recurrent, line.network.core != "none"),
        random=random,
        stop=stop,
        keep_in=line.run / _folder(number) / "parent.played.safetensors",
    )


def _explored(line: Lineage, number: int, parent: Policy, exploring: Ppo) -> Policy:
    """Who comes of a generation that explores from its parent's weights on."""
    return train_ppo(
        line.environment,
        exploring,
        run=line.run / _folder(number) / "explore",
        seed=line.seed_of(number),
        device=line.device,
        start=parent,
        origin=f"rlkd evolve, generation {number} explores",
    )


def _breed(
    line: Lineage,
    number: int,
    parent: Policy,
    ancestors: Sequence[JsonDict],
    baseline: Baseline,
    identity: str,
    started: float,
) -> tuple[JsonDict, Played]:
    """Train, measure and record one generation; the record is written last. Also what it played, for the next one.

    `parent` is whom it learns from: the generation before, or who explored from there on; `started` is when that began,
    by `time.monotonic`.
    """
    folder, seed = line.run / _folder(number), line.seed_of(number)
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
        "parents": [*student.policy.spec.parents, *(parent.spec.parents if line.exploring else ())],
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
    if line.exploring is not None:
        taught = baseline.teacher.evaluation
        interval = mean_interval(taught.scores)
        record["explorer"] = {"mean": taught.mean, "ci95": [interval.low, interval.high], "hash": taught.hash}
        record["frames"] += line.exploring.frames
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
        "exploring": None if line.exploring is None else to_table(line.exploring),
        "environment": to_table(line.environment),
        "teacher": records[0],
        "random": {"mean": random.mean, "scores": list(random.scores)},
        "generations": list(records),
        "versions": storage.versions(),
    }
