"""Row 5: who goes on with a run under other versions than it was begun with is told so, or refused."""

import re
import shutil
import signal
from pathlib import Path

from benchmarks.reliability.commands import LINE, TEACHER, ended, files_below, lines_of, started, until
from benchmarks.reliability.crashes import emptied
from benchmarks.reliability.outcome import Outcome, Trials, added
from benchmarks.reliability.stops import COMMANDS, RUN

OTHER = "0.0.1"
"""A version that there never was."""
PATCH = """
from importlib import metadata
real = metadata.version
metadata.version = lambda name: {other!r} if name == {package!r} else real(name)
"""
"""Runs before a command, which then finds another version of a package installed."""
VERBS = {
    **COMMANDS,
    "evolve": ("evolve", TEACHER, "--agent", LINE, "--run", RUN, "--episodes", "4"),
}


def versions_told(work: Path, *, packages: tuple[str, ...]) -> Outcome:
    """Stop a run of each verb, and go on with copies of it under another version of each package, and under none."""
    parts, same = [], []
    for verb in VERBS:
        stop(work, verb)
        shutil.copytree(work / RUN, emptied(work / "kept"), dirs_exist_ok=True)
        silent = [not told(work, verb, package, PATCH.format(other=OTHER, package=package)) for package in packages]
        parts.append(Trials(verb, len(silent), silent.count(True)))
        same.append(not told(work, verb, packages[0], ""))
    return Outcome(
        row="5",
        promise=f"going on under another version of {' or '.join(packages)}: refused, or a line that names it",
        trials=added("resumes", parts),
        controls=(Trials("the same versions, nothing is said", len(same), same.count(True)),),
        note=f"nothing was said by {'; '.join(map(str, parts))}; other threads, another Python were not tried",
    )


def stop(work: Path, verb: str) -> None:
    """A run that was stopped after its first line of metrics."""
    run = emptied(work / RUN)
    process = started(VERBS[verb], work)
    if not until(lambda: any(lines_of(path) for path in files_below(run) if path.name == "metrics.jsonl"), process):
        raise RuntimeError(f"`rlkd {verb}` ended early: {ended(process)}")
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    if code != 3:
        raise RuntimeError(f"`rlkd {verb}` was not stopped but ended with {code}: {said}")


def told(work: Path, verb: str, package: str, first: str) -> bool:
    """Whether a command that goes on with a copy of the stopped run says a word about a package or its version."""
    shutil.copytree(work / "kept", emptied(work / RUN), dirs_exist_ok=True)
    code, said = ended(started(VERBS[verb], work, first=first))
    if code not in (0, 2):
        raise RuntimeError(f"`rlkd {verb}` did not go on but ended with {code}: {said}")
    return names(said, package)


def names(said: str, package: str) -> bool:
    """Whether a text has a word about a package, or about the version that there never was."""
    return re.search(rf"\b{package}\b|{re.escape(OTHER)}", said) is not None
