"""A model card in Markdown with the Hugging Face hub's front matter: what is known or was measured, nothing else."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkd import storage
from rlkd.data import JsonDict
from rlkd.errors import RlkdError
from rlkd.evaluation import play, play_randomly, result_record
from rlkd.exporting.latency import latencies
from rlkd.policy import Policy
from rlkd.recipe import Environment

FOLDERS_UP = 4
"""How far above a policy's file its run folder may be: `run/generations/001/distill/students/file`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a run folder knows of a policy."""

    run: JsonDict | None
    """The run's record; None where no run knows the policy."""
    entry: JsonDict | None
    """The policy's own entry in it; None where it is not evaluated there."""
    teacher: JsonDict | None
    """Its teacher's entry; None where it has none or nobody knows it."""
    command: str = ""
    """The command that made it; empty where it was there before the run."""


def write_card(
    policy: Policy, file: Path | None, environment: Environment, out: Path, *, episodes: int
) -> tuple[str, ...]:
    """Write the card; returns a note on where its figures come from.

    Args:
        policy: whom it describes.
        file: its file; a `run.json` in a folder above that knows the policy's hash gives score, teacher and command.
        environment: where it plays.
        out: the card.
        episodes: how many are played now, where no run has measured the score.

    Raises:
        RlkdError: the card cannot be written.
    """
    facts = find_facts(policy, file)
    entry = facts.entry
    if entry is None:
        random = play_randomly(environment, episodes=episodes)
        entry = result_record(play(policy, environment, episodes=episodes).evaluation, random=random, path=file)
    speeds = latencies(policy)
    storage.write_bytes(out, card(policy, file, environment, facts, entry, speeds).encode())
    if facts.run is None:
        return ("no run folder knows this policy: its score was measured now, and no teacher is known",)
    if facts.entry is None:
        return (f"made in {facts.run.get('run')}, which does not evaluate: its score was measured now",)
    return (f"its score and what it is compared with are those of {facts.run.get('run')}",)


def find_facts(policy: Policy, file: Path | None) -> Facts:
    """What the run folder that a policy's file lies in knows of it, matched by content hash."""
    for folder in [] if file is None else list(file.resolve().parents)[:FOLDERS_UP]:
        path = folder / "run.json"
        if not path.is_file():
            continue
        try:
            record = storage.read_json(path)
        except RlkdError:
            continue
        if not isinstance(record, dict):
            continue
        for game in record.get("tasks", [{}]):  # of several games, each as if it were the run's only one
            if (facts := _facts(record | game, policy.spec.hash)) is not None:
                return facts
    return Facts(run=None, entry=None, teacher=None)


def _facts(record: JsonDict, content_hash: str) -> Facts | None:
    command = str(record.get("command", ""))
    if record.get("hash") == content_hash:  # of `rlkd train`, which does not evaluate
        return Facts(run=record, entry=None, teacher=None, command=command)
    teacher = record.get("teacher")
    for name in ("students", "controls", "generations"):
        for entry in record.get(name, ()):
            if entry.get("hash") == content_hash:
                if entry.get("number") == 0:  # a lineage's first teacher
                    return Facts(run=record, entry=entry, teacher=None)
                return Facts(run=record, entry=entry, teacher=teacher, command=command)
    if isinstance(teacher, dict) and teacher.get("hash") == content_hash:
        return Facts(run=record, entry=teacher, teacher=None)
    return None


def card(
    policy: Policy,
    file: Path | None,
    environment: Environment,
    facts: Facts,
    entry: JsonDict,
    speeds: dict[str, float],
) -> str:
    """The card's text.

    Args:
        policy: whom it describes.
        file: its file, for its size.
        environment: where it plays.
        facts: what its run knows.
        entry: its scores.
        speeds: median seconds of one decision, by what computes it.
    """
    spec = policy.spec
    low, high = entry["ci95"]
    score = f"{entry['mean']:.2f} [{low:.2f}, {high:.2f}]"
    name = str(entry.get("name") or (spec.name if file is None else file.stem))
    rows = [
        ("environment", f"{environment.id}, protocol {entry['protocol']}"),
        ("score, mean [95 %]", f"{score} over {entry['episodes']} episodes"),
        ("score of random play", f"{entry['random_mean']:.2f}"),
        ("decision rule", entry["rule"]),
        ("parameters", f"{spec.parameters:,}"),
        ("bytes of weights", f"{spec.weight_bytes:,} ({spec.precision})"),
    ]
    if file is not None:
        rows.append(("bytes of the file", f"{file.stat().st_size:,}"))
    rows.append(("floating-point operations of a decision", f"{spec.flops:,}"))
    rows += [(f"time of a decision, {what}", f"{1e6 * value:,.0f} microseconds") for what, value in speeds.items()]
    rows.append(("content hash", f"`{spec.hash}`"))
    lines = [*_front_matter(name, environment, entry), f"# {name}", "", _sentence(policy, environment), ""]
    lines += _table(("what", "value"), rows)
    if speeds:
        lines += ["", "Times are medians at batch size 1 on one thread of the machine that wrote this card."]
    return "\n".join([*lines, *_teacher(facts, entry), *_origin(policy, facts), *_use(file, name), ""])


def _front_matter(name: str, environment: Environment, entry: JsonDict) -> list[str]:
    """YAML as the cards of Stable-Baselines3's policies have it; strings are quoted as JSON, which YAML contains."""
    value = f"{entry['mean']:.2f} +/- {entry['std']:.2f}"
    return [
        "---",
        "library_name: rlkd",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in (environment.id, "reinforcement-learning", "policy-distillation", "rlkd")),
        "model-index:",
        f"- name: {json.dumps(name)}",
        "  results:",
        "  - task:",
        "      type: reinforcement-learning",
        "      name: reinforcement-learning",
        "    dataset:",
        f"      name: {json.dumps(environment.id)}",
        f"      type: {json.dumps(environment.id)}",
        "    metrics:",
        "    - type: mean_reward",
        f"      value: {json.dumps(value)}",
        "      name: mean_reward",
        "      verified: false",
        "---",
        "",
    ]


def _sentence(policy: Policy, environment: Environment) -> str:
    spec = policy.spec
    core = "" if spec.network.core == "none" else f" with a recurrent core ({spec.network.core})"
    shape = " x ".join(str(size) for size in spec.observation_shape)
    what = "actions" if spec.discrete else "action dimensions"
    return (
        f"A policy for {environment.id}{core}: observations of {shape} numbers, {spec.actions} {what}, "
        f"outputs of kind `{spec.kind}`. Scores are raw scores of whole episodes."
    )


def _teacher(facts: Facts, entry: JsonDict) -> list[str]:
    teacher = facts.teacher
    if teacher is None:
        return ["", "## Teacher", "", "No teacher is known."] if facts.run is None else []
    low, high = teacher["ci95"]
    rows = [
        ("teacher", str(teacher["policy"])),
        ("its score, mean [95 %]", f"{teacher['mean']:.2f} [{low:.2f}, {high:.2f}]"),
        ("its parameters", f"{teacher['parameters']:,}"),
        ("its content hash", f"`{teacher['hash']}`"),
    ]
    if "normalised" in entry:
        tn_low, tn_high = entry["normalised_ci95"]
        rows.insert(0, ("TN [95 %]", f"{entry['normalised']:.3f} [{tn_low:.3f}, {tn_high:.3f}]"))
    if "agreement" in entry:
        rows.append(("agreement with what it learned from", f"{entry['agreement']:.2%}"))
    explained = "TN is (score - random play) / (teacher - random play), all three measured in one run."
    return ["", "## Teacher", "", *_table(("what", "value"), rows), "", explained]


def _origin(policy: Policy, facts: Facts) -> list[str]:
    lines = []
    if policy.spec.origin:
        lines.append(f"On record: {policy.spec.origin}.")
    known = _names(facts.run or {})
    for parent in policy.spec.parents:
        name = known.get(parent)
        lines.append(f"Learned from `{parent}`{f' ({name})' if name else ''}.")
    if facts.command:
        lines += ["", "```shell", facts.command, "```"]
    return ["", "## Origin", "", *lines] if lines else []


def _names(record: JsonDict) -> dict[str, str]:
    """Names of the policies in a run by their hashes."""
    entries: list[Any] = [*record.get("students", ()), *record.get("generations", ())]
    named = {entry["hash"]: str(entry.get("name") or entry["policy"]) for entry in entries}
    teacher = record.get("teacher")
    return {teacher["hash"]: str(teacher["policy"])} | named if teacher else named


def _use(file: Path | None, name: str) -> list[str]:
    path = f"{name}.safetensors" if file is None else file.name
    code = ["import rlkd", f"policy = rlkd.load({json.dumps(path)})", "action, state = policy.predict(observation)"]
    return ["", "## Use", "", "```python", *code, "```"]


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {a} | {b} |" for a, b in (header, ("---", "---"), *((a, b.replace("|", "\\|")) for a, b in rows))]
