"""Row 11: a signal stops a run at its next boundary, with all saved; a second one ends it at once."""

import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.commands import SMALL, TEACHER, ended, lines_of, started, until
from benchmarks.reliability.crashes import emptied
from benchmarks.reliability.outcome import Outcome, Trials, added
from rlkd.metrics import STOPS

RUN = "stopped"
STOPPED = 3
"""Exit code of a command that was stopped by a signal."""
PROMPT = 5.0
"""Seconds at most between a signal and the end."""
AT_ONCE = 2.0
"""Seconds at most between a second signal and the end."""
JITTER = 0.2
"""Seconds at most between a line of metrics and the signal."""
TRAIN = ("train", "cartpole", "--run", RUN, "--set", "network='mlp_16'", "--set", "num_envs=4", "--set", "minibatch=64")
COMMANDS = {
    "train": (*TRAIN, "--frames", "7680", "--set", "rollout_steps=32"),
    "distill": ("distill", TEACHER, "--agent", SMALL, "--run", RUN, "--episodes", "4"),
}
LINES = {"train": 12, "distill": 6}
"""Lines of metrics of each command that nobody stops."""
LONG = (*TRAIN, "--frames", "4000000", "--set", "rollout_steps=1000000")
"""Reaches no boundary for many minutes."""
DEAF = """
from contextlib import contextmanager
from rlkd import metrics
@contextmanager
def deaf():
    yield metrics.StopSignal()
metrics.stop_signal = deaf
"""
"""Runs before a command and leaves signals to Python and the system."""


@dataclass(slots=True)
class Stops:
    """What became of one run that was stopped again and again."""

    signals: int = 0
    """How often."""
    wrong: int = 0
    """Signals after which it ended late, otherwise than promised, or an acknowledged line was lost."""
    slowest: float = 0.0
    """Seconds from a signal to the end."""


def signals_heard(work: Path, *, signals: int, controls: int, seconds: int, draws: random.Random) -> Outcome:
    """Stop `rlkd train` and `rlkd distill` so often each; and end a command with two signals, `seconds` times."""
    found: dict[str, list[Stops]] = {verb: [] for verb in COMMANDS}
    deaf: dict[str, list[Stops]] = {verb: [] for verb in COMMANDS}
    for verb in COMMANDS:
        while (still := signals - sum(each.signals for each in found[verb])) > 0:
            found[verb].append(stopped(work, verb, still, draws))
        while sum(each.signals for each in deaf[verb]) < controls:
            deaf[verb].append(stopped(work, verb, 1, draws, first=DEAF))
    parts = [counted(f"stops of {verb}", runs) for verb, runs in found.items()]
    slowest = max((each.slowest for runs in found.values() for each in runs), default=0.0)
    twice = Trials("two signals", seconds, sum(not ends_at_once(work, STOPS[k % len(STOPS)]) for k in range(seconds)))
    return Outcome(
        row="11",
        promise=(
            "SIGINT, SIGTERM or SIGUSR1: saved within 5 s, exit code 3, no acknowledged line lost, the same command "
            "goes on; a second one ends it at once"
        ),
        trials=added("signals", [*parts, twice]),
        controls=tuple(counted(f"default handlers, lines of {verb} lost", runs) for verb, runs in deaf.items()),
        note=f"{'; '.join(map(str, (*parts, twice)))}; the slowest stop took {slowest:.1f} s",
    )


def counted(what: str, runs: Sequence[Stops]) -> Trials:
    """Signals of several runs."""
    return Trials(what, sum(each.signals for each in runs), sum(each.wrong for each in runs))


def stopped(work: Path, verb: str, most: int, draws: random.Random, *, first: str = "") -> Stops:
    """Start a run, stop it at a random line of its metrics, start it again, until it is finished.

    Where something runs `first` that changes what signals do, lost lines alone count as wrong.
    """
    run, found = emptied(work / RUN), Stops()
    promised: list[set[str]] = []
    metrics = run / "metrics.jsonl"
    while True:
        process = started(COMMANDS[verb], work, first=first)
        wanted = len(lines_of(metrics)) + draws.randint(1, 3)
        if found.signals == most or wanted >= LINES[verb]:
            code, said = ended(process)
            if code:
                raise RuntimeError(f"`rlkd {verb}`, stopped {found.signals} times, ended with {code}: {said}")
            break
        if not until(lambda wanted=wanted: len(lines_of(metrics)) >= wanted, process):  # type: ignore[misc]
            raise RuntimeError(f"`rlkd {verb}` ended early: {ended(process)}")
        promised.append(set(lines_of(metrics)))
        time.sleep(JITTER * draws.random())
        process.send_signal(draws.choice(STOPS))
        sent = time.monotonic()
        code, said = ended(process)
        found.signals += 1
        found.slowest = max(found.slowest, time.monotonic() - sent)
        as_promised = code == STOPPED and "the same command goes on" in said and time.monotonic() - sent <= PROMPT
        found.wrong += not first and not as_promised
    there = set(lines_of(metrics))
    found.wrong += sum(not lines <= there for lines in promised)
    return found


def ends_at_once(work: Path, number: signal.Signals) -> bool:
    """Whether the second of two signals ends a command that does not come to a boundary."""
    run = emptied(work / RUN)
    process = started(LONG, work)
    until((run / "metrics.jsonl").exists, process)
    process.send_signal(number)
    time.sleep(0.5)
    still = process.poll() is None
    process.send_signal(number)
    sent = time.monotonic()
    code, _ = ended(process)
    shutil.rmtree(run)
    return still and code == -number and time.monotonic() - sent <= AT_ONCE
