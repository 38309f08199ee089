"""What a lineage's policies have of their parents, measured once each and kept beside their records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlkd import metrics, storage
from rlkd.data import JsonDict
from rlkd.evaluation import inheritance
from rlkd.lineage.making import Seen, folder_of
from rlkd.lineage.step import FIRST, Step
from rlkd.policy import Policy

FILE = "measures.json"
LEAST_STRETCHES = 4  # a quarter of the states each, where they are told apart by novelty


def measured(
    step: Step,
    record: JsonDict,
    steps: Sequence[Step],
    policies: Mapping[str, Policy],
    seen: Seen,
    stop: metrics.StopSignal,
) -> JsonDict:
    """What `inheritance` says of a finished step's policy, from its file if it was asked before.

    Its parent is whom it learnt from, or began with where it had no teacher; its siblings are the same generation's of
    the lines before. A policy that was chosen has been measured where it was made.

    Args:
        step: which one.
        record: of it.
        steps: all of the plan.
        policies: of all finished steps, by name.
        seen: evaluations so far, and what all steps share.
        stop: when set, `Stopped` is raised.
    """
    if step.how == "select":
        return kept(folder_of(seen.line.run, record["chosen"]))
    path, before = folder_of(seen.line.run, step.name) / FILE, (step.parents or (step.start,))[0]
    parent, child = policies[before], policies[step.name]
    alike = (step.number, step.arm, step.role)
    siblings = [
        policies[other.name]
        for other in steps
        if (other.number, other.arm, other.role) == alike and other.line != step.line and other.name in policies
    ]
    of = [each.spec.hash for each in (child, parent, policies[FIRST], *siblings)]
    if path.exists() and (told := storage.read_json(path)).get("beside") == of:
        known: JsonDict = told["measures"]
        return known
    theirs, own, firsts = (
        seen.baseline(name, policies[name], stop).teacher.states for name in (before, step.name, FIRST)
    )
    if min(len(theirs), len(own), len(firsts)) < LEAST_STRETCHES * seen.stretch:
        return {"skipped": {"all": "too few states were visited in the episodes that were played"}}
    found = inheritance(
        child,
        parent,
        policies[FIRST],
        theirs,
        own,
        first_states=firsts,
        siblings=siblings,
        stretch=seen.stretch,
        seed=step.seed,
    )
    storage.write_json(path, {"beside": of, "measures": found})
    return found


def kept(folder: Path) -> JsonDict:
    """What was measured of a step's policy; empty where nothing was."""
    path = folder / FILE
    found: JsonDict = storage.read_json(path)["measures"] if path.exists() else {}
    return found
