"""`rlkd export`: a trained policy goes out, and proof that what is outside is the same."""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from rlkd import storage
from rlkd.data import JsonDict
from rlkd.errors import ExportError
from rlkd.evaluation import environment_of
from rlkd.evaluation.record import WIDE, terminal_table
from rlkd.exporting.parity import (
    EPISODES,
    OBSERVATIONS,
    Parity,
    check_episodes,
    compare_answers,
    refuse_difference,
    refuse_other_score,
    replay,
)
from rlkd.policy import Policy, as_policy
from rlkd.policy.onnx_file import OnnxPolicy
from rlkd.recipe import Environment, shipped
from rlkd.vector import as_recipe

Target = Literal["onnx", "sb3", "card"]
SUFFIXES: dict[Target, str] = {"onnx": ".onnx", "sb3": ".zip", "card": ".md"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, and how it compares."""

    target: Target
    """Its format."""
    path: str
    """The file."""
    file_bytes: int
    """Its size."""
    source_hash: str
    """Content hash of the policy that it was made of."""
    parity: Parity | None
    """How alike both are; None for a card, which does not play."""
    notes: tuple[str, ...] = ()
    """What its user has to know, one sentence each."""

    def as_json(self) -> JsonDict:
        """All of it in one object."""
        parity = None if self.parity is None else self.parity.as_json()
        return dataclasses.asdict(self) | {"parity": parity, "notes": list(self.notes)}


def export(
    policy: Policy | str | Path,
    out: str | Path,
    *,
    to: Target = "onnx",
    env: str | Environment | None = None,
    episodes: int = EPISODES,
    observations: int = OBSERVATIONS,
) -> Exported:
    """Write a policy in another format, after both were compared; what differs is not written.

    Args:
        policy: a policy or its file.
        out: the file: .onnx; .zip for Stable-Baselines3, statistics of observations go into the folder named like it;
            .md for a model card.
        to: the format.
        env: where it plays, for policies that do not say.
        episodes: how many both replay; of a card, how many are played where no run folder knows the score.
        observations: how many both answer.

    Raises:
        ExportError: the format cannot express the policy, or what came out does not match it.
        MismatchError: policy and environment do not fit, or nobody said where it plays.
        RlkdError: the policy cannot be read, or the file not written.
    """
    out = Path(out)
    if out.suffix != SUFFIXES[to]:
        raise ExportError(f"{out}: --to {to} writes a {SUFFIXES[to]} file")
    check_episodes(episodes)
    plain = as_policy(policy)  # as its file has it: run folders know it by this hash
    loaded = plain if env is None else as_policy(policy, env=as_recipe(env))
    environment = environment_of(loaded, None)
    if to == "card":
        from rlkd.exporting.card import write_card

        notes = write_card(plain, _file_of(policy), environment, out, episodes=episodes)
        return _exported(to, out, plain.spec.hash, None, notes)
    if to == "onnx":
        parity = _export_onnx(loaded, plain.spec.hash, environment, out, episodes, observations)
        return _exported(to, out, plain.spec.hash, parity, ())
    from rlkd.exporting.sb3_zip import export_sb3

    parity, notes = export_sb3(loaded, environment, out, episodes=episodes, observations=observations)
    return _exported(to, out, plain.spec.hash, parity, notes)


def _export_onnx(
    policy: Policy, source_hash: str, environment: Environment, out: Path, episodes: int, observations: int
) -> Parity:
    from rlkd.exporting.graph import onnx_bytes

    content = onnx_bytes(policy, source_hash)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "policy.onnx"
        made.write_bytes(content)
        exported = OnnxPolicy(made)
    comparison = compare_answers(policy, exported, environment, observations=observations)
    refuse_difference(comparison)
    parity = replay(policy, exported, comparison, environment, rule=policy.spec.rule, episodes=episodes)
    refuse_other_score(parity)
    storage.write_bytes(out, content)
    return parity


def _exported(target: Target, out: Path, source_hash: str, parity: Parity | None, notes: tuple[str, ...]) -> Exported:
    return Exported(
        target=target,
        path=str(out),
        file_bytes=out.stat().st_size,
        source_hash=source_hash,
        parity=parity,
        notes=notes,
    )


def _file_of(policy: Policy | str | Path) -> Path | None:
    """The policy's file, where it came from one."""
    if isinstance(policy, Policy):
        return None
    files = {f"policy:{entry.name}": entry.path for entry in shipped("policies")}
    return files.get(str(policy), Path(policy))


def parity_table(exported: Exported, *, width: int = WIDE) -> Table:
    """The parity report for the terminal; it is narrow in any terminal."""
    del width
    parity = exported.parity
    assert parity is not None
    found = parity.comparison
    table = terminal_table(f"parity on {parity.environment}, {parity.rule}")
    table.add_column("what")
    table.add_column("found", justify="right")
    table.add_row("observations compared", f"{found.observations:,}")
    if found.largest_difference is not None and found.relative_difference is not None:
        share = f"{found.relative_difference:.1e} of the largest"
        table.add_row("largest difference of an answer", f"{found.largest_difference:.1e}, {share}")
    if found.agreement is not None:
        table.add_row(f"same action in {found.clear_states:,} clear states", f"{found.agreement:.2%}")
    if found.action_difference is not None:
        table.add_row("largest difference of an action", f"{found.action_difference:.1e} of half the range")
    table.add_section()
    table.add_row(f"score of the policy, {parity.episodes} episodes", f"{parity.score:.2f}")
    table.add_row("score of the export, the same episodes", f"{parity.exported_score:.2f}")
    table.add_row("episodes with the same course", f"{parity.same_episodes} of {parity.episodes}")
    return table
