"""Teachers that see a game otherwise than their students do: privileged numbers, a console's memory.

Both views are of the same tick: the game is played twice at once, with the same seeds and actions (`Collector`). What
teacher and student are compared on is collected in the same way, because nobody can ask the teacher about a picture.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from rlkd.collect import Collector
from rlkd.distillation.learning import Setting
from rlkd.errors import MismatchError
from rlkd.policy import PARAMS, Policy, PolicySpec
from rlkd.recipe import Distill, Environment, Source
from rlkd.replay import Replay
from rlkd.vector import spaces

ENVIRONMENTS = 16  # that are played for what is compared


def check_views(recipe: Distill, environment: Environment, teacher_environment: Environment) -> None:
    """Raise MismatchError where two environments cannot be one game seen in two ways, or the recipe wants more."""
    names = f"{environment.id} and {teacher_environment.id}"
    for name in ("source", "id", "frame_cap", "options", "layout_seed", "at_frame_cap"):
        mine, theirs = getattr(environment, name), getattr(teacher_environment, name)
        if mine != theirs:
            raise MismatchError(f"teacher and students need one game; of {names}, {name} is {theirs!r} and {mine!r}")
    rules = [each.emulator and replace(each.emulator, room_address=None) for each in (environment, teacher_environment)]
    if rules[0] != rules[1]:
        raise MismatchError(f"teacher and students need one game; [emulator] of {names} differs")
    if environment.protocol.name != teacher_environment.protocol.name:
        raise MismatchError(
            f"scores compare under one protocol only; {names} have '{environment.protocol.name}' and "
            f"'{teacher_environment.protocol.name}'"
        )
    if recipe.source.search is not None or recipe.source.synthetic is not None:
        raise MismatchError("neither a search nor made-up states go with a teacher that sees another view")


def pupil_of(setting: Setting) -> PolicySpec:
    """The record from which students take rule, actions and parent: the teacher's, with what they see themselves."""
    teacher, environment = setting.teacher.spec, setting.environment
    if setting.teacher_environment is None:
        return teacher
    return replace(
        teacher,
        environment=environment,
        observation_dtype="uint8" if environment.views else "float32",
        normaliser=None,
    )


def compared(setting: Setting, players: Sequence[Policy], *, seed: int) -> tuple[np.ndarray, Tensor]:
    """States as students see them, [S, ...], stretches of consecutive ones, and the teacher's answers, [S, P].

    Args:
        setting: of the run.
        players: students who act; none: the teacher does.
        seed: of games and actions, not the one of learning.
    """
    fraction = 0.0 if players else 1.0
    count, stretch = setting.recipe.held_out_states, setting.stretch
    # Four times as many, so that games are seen further than their beginnings; and some stretches run from one game
    # into the next and are left out.
    states = max(4 * count, 2 * ENVIRONMENTS * stretch)
    source = Source(
        states=-(-states // (ENVIRONMENTS * stretch)) * ENVIRONMENTS * stretch,
        rounds=1 if fraction == 1 else 2,
        num_envs=ENVIRONMENTS,
        epsilon=0.0,
        teacher_fraction=(fraction, fraction),
    )
    spec = setting.teacher.spec
    shape = spaces(setting.environment)[0]
    outputs = spec.actions * len(PARAMS[spec.kind])
    replay = Replay(ENVIRONMENTS, source.states, shape, outputs, setting.environment.views.get("pixels"))
    collector = Collector(
        setting.environment,
        setting.teacher,
        source,
        seed=seed,
        precision="float32",
        teacher_environment=setting.teacher_environment,
    )
    try:
        for number in range(source.rounds):
            collector.collect(replay, number, players)
    finally:
        collector.close()
    stretches = np.concatenate(
        [rows[: len(rows) // stretch * stretch].reshape(-1, stretch) for rows in np.split(replay.rows(), ENVIRONMENTS)]
    )
    whole = stretches[~replay.begins(stretches)[:, 1:].any(axis=1)]
    # Of a player whose games are all shorter there are no whole ones: what it remembers then runs over their ends.
    taken = whole if len(whole) else stretches
    spread = np.linspace(0, len(taken) - 1, max(1, min(count // stretch, len(taken)))).astype(np.int64)
    observation, told = replay.read(taken[spread].ravel())
    return observation.numpy(), told
