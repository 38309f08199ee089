"""Several games, one student: a shared encoder, and for each game a head, a teacher and a replay.

Multi-task policy distillation of Rusu et al. 2016, arXiv:1511.06295. Each game's student is a policy of its own whose
encoder is the same object as the others'. A gradient step on one game's minibatch moves the encoder and that game's
head, and no other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlkd import storage
from rlkd.distillation.checks import check_keepable, check_parts, check_tasks
from rlkd.distillation.games import run_games
from rlkd.distillation.learning import Setting
from rlkd.distillation.result import Result
from rlkd.distillation.student import Plan
from rlkd.evaluation import environment_of, stretch_of
from rlkd.policy import Policy, as_policy
from rlkd.policy.compute import Precision
from rlkd.recipe import Distill, Environment, Network, recipe_hash
from rlkd.terms import Parts, source_hash


def run_tasks(
    teachers: Sequence[Policy],
    students: Mapping[str, Network],
    recipe: Distill,
    *,
    run: Path,
    seed: int,
    episodes: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    own_parts: Parts | None = None,
    replay_folder: Path | None = None,
) -> list[Result]:
    """Distil the teachers of several games into students that play them all, and measure them on each.

    Args:
        teachers: one of each game, which they say; all games give observations of one shape and type.
        students: networks by name, at least one; controls copy the first.
        recipe: with `[tasks]`. The budget is that of one student over all games; `source` counts for each.
        run, seed, episodes, device, precision, own_parts, replay_folder: as for `run_distillation`.

    Returns:
        A result for each game, in the order of the teachers.

    Raises:
        RlkdError: as `run_distillation`.
    """
    tasks = recipe.tasks
    assert tasks is not None
    environments = [environment_of(teacher, None) for teacher in teachers]
    check_tasks(teachers, environments, students, recipe)
    check_keepable(recipe, replay_folder)
    source = source_hash(own_parts or {})
    settings = []
    for place, (teacher, environment) in enumerate(zip(teachers, environments, strict=True)):
        states = recipe.source.states if tasks.states is None else tasks.states[place]
        one = replace(recipe, tasks=None, source=replace(recipe.source, states=states))
        settings.append(
            Setting(
                as_policy(teacher, env=environment),
                environment,
                check_parts(teacher, students, one, environment, own_parts),
                seed,
                precision,
                np.empty(0),
                run,
                stretch_of(teacher.recurrent),
                own_source=source,
                game=names_of(environments)[place],
            )
        )
    identity = " ".join([recipe_hash(tasks), *(setting.identity for setting in settings)])
    return run_games(
        settings,
        [Plan(name, network) for name, network in students.items()],
        identity=storage.sha256(identity.encode()),
        episodes=episodes,
        device=device,
        own_parts=own_parts,
        replay_folder=replay_folder,
        sampling=tasks.sampling,
    )


def names_of(environments: Sequence[Environment]) -> list[str]:
    """What files call games: their ids, with a number behind those that more than one has."""
    ids = [re.sub(r"[^\w.-]", "-", environment.id) for environment in environments]
    return [f"{name}-{ids[: place + 1].count(name)}" if ids.count(name) > 1 else name for place, name in enumerate(ids)]
