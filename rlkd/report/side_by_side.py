"""The section that shows two policies on the same episode. What cannot be shown is said in a sentence."""

from pathlib import Path
from typing import Any

from rlkd.errors import PolicyFileError, RlkdError
from rlkd.evaluation import environment_of
from rlkd.policy import Policy, load_policy
from rlkd.recipe import Environment, build
from rlkd.report import words
from rlkd.report.duel import Duel, busiest, play
from rlkd.report.page import paragraph, section
from rlkd.report.record import Entry
from rlkd.report.sheet import STEPS_PER_SECOND, player, sheet

SHOWN = 10 * STEPS_PER_SECOND  # agent steps of the stretch
MOST_STEPS = 900  # agent steps played to find it: one minute of an Atari game
MOST_SECONDS = 12.0  # wall time for playing; the sheet takes a few more


def side_by_side(
    files: tuple[Path, Path],
    entries: tuple[Entry, Entry],
    environments: tuple[dict[str, Any], dict[str, Any]],
    *,
    names: tuple[str, str],
    roles: tuple[str, str],
) -> str:
    """Two policies play one episode; the stretch where they disagree most is shown.

    Args:
        files: the policies.
        entries: their lines in run.json.
        environments: where, as the first sees it and as the second does: tables as run.json keeps them.
        names: their names, where they have any besides their roles.
        roles: what they are to each other, for example "the teacher" and "the student".
    """
    title = f"Side by side: {names[0] or roles[0]} and {names[1] or roles[1]}"
    try:
        views = [build(Environment, table, where="run.json [environment]") for table in environments]
        teacher, student = (_load(*each) for each in zip(files, entries, views, strict=True))
        duel = play(
            teacher,
            student,
            (views[0], views[1]),
            seed=views[0].protocol.first_seed,
            steps=MOST_STEPS,
            seconds=MOST_SECONDS,
        )
    except RlkdError as error:
        return section(title, paragraph(f"Not shown: {error}."))
    length = min(SHOWN, duel.length)
    start = busiest(duel, length)
    return section(title, paragraph(_found(duel, start, length, roles)), _pictures(duel, start, length, names, roles))


def _load(path: Path, entry: Entry, environment: Environment) -> Policy:
    policy = load_policy(path)
    if entry.hash and policy.spec.hash != entry.hash:
        raise PolicyFileError(f"{path.name} is not the policy that was measured: it was replaced after the run")
    environment_of(policy, environment)
    return policy


def _found(duel: Duel, start: int, length: int, roles: tuple[str, str]) -> str:
    played = f"Both play the first episode of the evaluation (seed {duel.seed}), each by its own rule"
    parts = [f"{played}, and on every step of both games both are asked which action they prefer."]
    counts = [
        f"{words.share(game.differing / len(game.moments), 1)} of {len(game.moments):,} steps of {role}’s game"
        for game, role in zip((duel.teacher, duel.student), roles, strict=True)
    ]
    parts.append(f"They prefer different actions on {counts[0]} and on {counts[1]}.")
    if length < duel.length and any(duel.differ(step) for step in range(duel.length)):
        parts.append(
            f"Shown are the {length} steps, from {start + 1} on, in which they disagree most: more than on average."
        )
    return " ".join(parts)


def _pictures(duel: Duel, start: int, length: int, names: tuple[str, str], roles: tuple[str, str]) -> str:
    if not duel.pictures:
        words_here = "No pictures: a package that draws is not installed (pip install 'gymnasium[classic-control]')."
        return paragraph(words_here, "quiet")
    pictures = [
        game.moments[min(step, len(game.moments) - 1)].picture
        for game in (duel.teacher, duel.student)
        for step in range(start, start + length)
    ]
    caption = (
        "A red border marks a step on which the two prefer different actions; the red ticks are the same over time, "
        f"{roles[0]}’s game above and {roles[1]}’s below. "
        "Percentages are the probability that each gives to its own choice."
    )
    return player(duel, sheet(pictures), start, length, names=names, roles=roles) + paragraph(caption, "quiet")
