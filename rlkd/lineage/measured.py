"""What a lineage's policies have of their parents, measured once each and kept beside their records."""

from collections.abc import Mapping, Sequence

from rlkd import metrics, storage
from rlkd.data import JsonDict
from rlkd.evaluation import inheritance
from rlkd.lineage.making import Seen, folder_of
from rlkd.lineage.step import FIRST, Step
from rlkd.policy import Policy

FILE = "measures.json"


def measured(
    step: Step, steps: Sequence[Step], policies: Mapping[str, Policy], seen: Seen, stop: metrics.StopSignal
) -> JsonDict:
    """What `inheritance` says of a finished step's policy, from its file if it was asked before.

    Its parent is whom it learnt from, or began with where it had no teacher; its siblings are the same generation's of
    the lines before. A policy that was chosen has been measured where it was made.

    Args:
        step: which one.
        steps: all of the plan.
        policies: of all finished steps, by name.
        seen: evaluations so far, and what all steps share.
        stop: when set, `Stopped` is raised.
    """
    path = folder_of(seen.line.run, step.name) / FILE
    if path.exists():
        found: JsonDict = storage.read_json(path)
        return found
    if step.how == "select":
        return {}
    before = (step.parents or (step.start,))[0]
    parent, child = policies[before], policies[step.name]
    theirs, own = (seen.baseline(name, policies[name], stop).teacher for name in (before, step.name))
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
