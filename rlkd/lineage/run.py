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

from rlkd import metrics, recipe, storage
from rlkd.data import Evaluation, JsonDict
from rlkd.distillation.command import default_recipe
from rlkd.errors import OtherRunError, StorageError
from rlkd.evaluation import environment_of, play_randomly, stretch_of
from rlkd.lineage.line import Lineage, lineage_of
from rlkd.lineage.making import Seen, folder_of, make
from rlkd.lineage.measured import measured
from rlkd.lineage.records import (
    beside,
    check_parents,
    finished,
    not_asked_for,
    record_founder,
    recorded,
    summary,
    tell_circumstances,
    tell_left_out,
    tell_versions,
)
from rlkd.lineage.step import FIRST, Step
from rlkd.lineage.verdicts import verdicts
from rlkd.policy import Policy, as_policy, load_policy
from rlkd.recipe import ARMS, Distill, Environment, Generations, build, check_request, to_table
from rlkd.vector import as_recipe


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
        Stopped: on SIGINT, SIGTERM or SIGUSR1, after saving.
    """
    if lines < 1:
        raise ValueError(f"lines must be at least 1, got {lines}")
    founder, line = prepared(
        teacher,
        agent,
        run=run,
        generations=generations,
        arms=arms,
        env=env,
        seed=seed,
        episodes=episodes,
        device=device,
        overrides=overrides,
    )
    steps = line.steps(founder, lines)
    identity = line.identity(founder)
    with storage.run_folder(line.run), metrics.stop_signal() as stop:
        storage.refuse_other_kinds(line.run, "evolve")
        stretch = stretch_of(founder.recurrent, line.network.core != "none")
        seen = Seen(line, _random_play(line, identity, stop), stretch)
        records = [finished(line.run, FIRST, identity) or record_founder(founder, seen, identity, stop)]
        tell_versions(line.run, records[0])
        policies, waiting = {FIRST: founder}, not_asked_for(line.run, steps, identity)
        for step in steps:
            stop.check(f"all before {step.name} is saved in {line.run}; the same command goes on")
            record = finished(line.run, step.name, identity)
            if record is not None and record["plan"] != step.key:
                raise StorageError(
                    f"{folder_of(line.run, step.name)} was made by another plan than this: operator "
                    f"'{line.rule.operator.name}' plans otherwise for {line.rule.generations} generations; name "
                    "another --run"
                )
            if record is None:
                started = time.monotonic()
                metrics.say(_announcement(step, steps, records))
                try:
                    made = make(step, policies, seen, stop)
                except OtherRunError as error:  # of a stopped attempt, which nothing was made of yet
                    folder = folder_of(line.run, step.name)
                    raise StorageError(
                        f"{error.what}: {step.name} was begun otherwise and never finished; delete {folder} to make "
                        "it anew"
                    ) from None
                record = recorded(step, made, records, policies, seen, identity, started)
                tell_circumstances(records, record)
            else:
                check_parents(line.run, step, record, policies)
            policies[step.name] = load_policy(line.run / str(record["path"]))
            told = measured(step, record, steps, policies, seen, stop)
            records.append(record | {"measures": told})
            everyone = [*records, *beside(waiting, records)]
            content = summary(line, everyone, seen.random, command, done=len(records) > len(steps))
            content["verdicts"] = verdicts(content)
            storage.write_json(line.run / "run.json", content)
        tell_left_out(line.run, waiting, everyone)
    return content


def prepared(
    teacher: Policy | str | Path,
    agent: str,
    *,
    run: str | Path,
    generations: int | None,
    arms: bool,
    env: Environment | str | None,
    seed: int,
    episodes: int | None,
    device: str,
    overrides: Sequence[str],
) -> tuple[Policy, Lineage]:
    """The first teacher, and what `evolve` would breed from it; arguments and errors are those of `evolve`."""
    check_request(seed, episodes)
    rule = recipe.load(agent, Generations, overrides=overrides)
    if generations is not None:
        rule = replace(rule, generations=generations)
    founder = as_policy(teacher, env=None if env is None else as_recipe(env))
    if arms:
        rule = replace(rule, arms=tuple(arm for arm in ARMS if arm != "permuted" or founder.spec.actions > 2))
    environment = environment_of(founder, None)
    # Controls are a matter for `rlkd distill`: a lineage compares its generations with each other.
    distilling = replace(recipe.load(rule.distill or default_recipe(founder), Distill), controls=())
    line = lineage_of(
        rule, founder, environment, distilling, run=Path(run), seed=seed, episodes=episodes, device=device
    )
    return founder, line


DONE_BY = {
    "distil": "learns from {}",
    "train": "learns from rewards",
    "combine": "the mean of {}",
    "select": "the best of {}",
    "slim": "what {} keeps",
}


def _announcement(step: Step, steps: Sequence[Step], records: Sequence[JsonDict]) -> str:
    """Which step of how many comes now, and how long the rest may take, as long as those before took on average."""
    told = f"{step.name}, step {len(records)} of {len(steps)}: {DONE_BY[step.how].format(', '.join(step.parents))}"
    taken = [float(record["seconds"]) for record in records[1:]]
    if not taken:
        return told
    left = sum(taken) / len(taken) * (len(steps) + 1 - len(records))
    return f"{told}; about {left / 60:.0f} min left for all"


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
    storage.write_record(path, to_table(random) | {"identity": identity})
    return random
