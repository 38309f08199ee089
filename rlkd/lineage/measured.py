"""What a lineage's policies have of their parents, measured once each and kept beside their records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlkd import metrics, storage
from rlkd.data import JsonDict
from rlkd.evaluation import inheritance
from rlkd.lineage.line import Lineage
from rlkd.lineage.making import Seen
from rlkd.lineage.step import FIRST, Step
from rlkd.policy import Policy

FILE = "measures.json"


def measured(
    step: Step,
    line: Lineage,
    steps: Sequence[Step],
    policies: Mapping[str, Policy],
    seen: Seen,
    folder: Path,
    stop: metrics.StopSignal,
) -> JsonDict:
    """What `inheritance` says of a finished step's policy, from its file if it was asked before.

    Its parent is whom it learnt from, or began with where it had no teacher; its siblings are the same generation's of
    the lines before. A policy that was chosen has been measured where it was made.

    Args:
        step: which one.
        line: what all steps share.
        steps: all of the plan.
        policies: of all finished steps, by name.
        seen: evaluations so far: who is in there is not played again.
        folder: of the step.
        stop: when set, `Stopped` is raised.
    """
    path = folder / FILE
    if path.exists():
        found: JsonDict = storage.read_json(path)
        return found
    if step.how == "select":
        return {}
    parent, child = policies[(step.parents or (step.start,))[0]], policies[step.name]
    theirs, own = (seen.baseline(line, each, stop).teacher for each in (parent, child))
    if theirs.stretch != own.stretch:
        return {"skipped": {"all": "parent and child remember differently: their states are not of one kind"}}
    alike = (step.number, step.arm, step.role)
    siblings = [
        policies[other.name]
        for other in steps
        if (other.number, other.arm, other.role) == alike and other.line != step.line and other.name in policies
    ]
    found = inheritance(
        child,
        parent,
        policies[FIRST],
        theirs.states,
        own.states,
        siblings=siblings,
        stretch=own.stretch,
        seed=step.seed,
    )
    storage.write_json(path, found)
    return found
