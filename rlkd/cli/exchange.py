"""Verbs by which policies come in and go out: `import`, `export`."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from rlkd.cli.shared import print_table
from rlkd.errors import RlkdError


@dataclass(frozen=True, slots=True)
class Import:
    """Another project's policy becomes one of ours: a .safetensors file with its environment, rule and normaliser.

    Of weights that no import recipe knows, names and shapes are listed: agents/imports/README.md says how a recipe is
    written.
    """

    file: Positional[str]
    """A Stable-Baselines3 .zip, or weights of another origin: torch, HDF5, JSON, numpy pickle, ONNX, safetensors."""
    output: Annotated[str | None, arg(name="output", aliases=["-o"])] = None
    """The policy's new file. Default: with --check none."""
    agent: str | None = None
    """Import recipe. Default: the shipped one that knows the file by its content."""
    env: str | None = None
    """Environment, where neither file nor recipe says."""
    check: bool = False
    """Play it, and compare with the score that the import recipe states."""
    episodes: int | None = None
    """Episodes of the check. Default: 50."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Read, check, write, and say what it is."""
        from rlkd.evaluation import import_policy
        from rlkd.evaluation.check import EPISODES

        if self.episodes is not None and not self.check:
            raise RlkdError("--episodes are those of the check; add --check")
        episodes = (EPISODES if self.episodes is None else self.episodes) if self.check else None
        record = import_policy(self.file, self.output, agent=self.agent, env=self.env, episodes=episodes)
        if self.json:
            print(json.dumps(record))
            return
        arrays = record.pop("arrays", {})
        for key, value in record.items():
            if key not in ("scores", "standard_errors"):
                print(f"{key:12} {value}")
        for key, value in arrays.items():
            print(f"{key} {value}")


@dataclass(frozen=True, slots=True)
class Export:
    """Write a policy in another format; both are compared first, and what differs is not written."""

    policy: Positional[str]
    """An rlkd .safetensors file, policy:NAME, a Stable-Baselines3 .zip, or a file that an import recipe knows."""
    output: Annotated[str, arg(aliases=("-o",))]
    """File to write: .onnx, .zip for sb3, .md for a card."""
    to: Literal["onnx", "sb3", "card"] = "onnx"
    """ONNX; a zip for Stable-Baselines3; a model card in Markdown."""
    env: str | None = None
    """Environment, for policies that do not say."""
    episodes: int = 20
    """Episodes that both replay."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Write it, and print how alike both are."""
        from rlkd.exporting import export, parity_table

        exported = export(self.policy, self.output, to=self.to, env=self.env, episodes=self.episodes)
        if self.json:
            print(json.dumps(exported.as_json()))
            return
        if exported.parity is not None:
            print_table(parity_table, exported)
        print("\n".join([f"{exported.path}  {exported.file_bytes:,} bytes", *exported.notes]))
