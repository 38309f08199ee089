"""Verbs that show, measure and check: `list`, `show`, `eval`, `report`, `verify`."""

import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from rlkd.cli.shared import Set, print_table
from rlkd.errors import RlkdError


@dataclass(frozen=True, slots=True)
class List:
    """What ships: recipes of agents and environments, and trained policies."""

    what: Positional[Literal["all", "agents", "envs", "policies"]] = "all"
    """Which of them."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print a line each."""
        from rlkd.recipe import shipped

        found: dict[str, list[dict[str, str]]] = {}
        for folder in ("agents", "envs", "policies") if self.what == "all" else (self.what,):
            prefix = "policy:" if folder == "policies" else ""
            found[folder] = [{"name": prefix + entry.name, "about": entry.about} for entry in shipped(folder)]
        lines = [f"{entry['name']:34} {entry['about']}".rstrip() for entries in found.values() for entry in entries]
        print(json.dumps(found) if self.json else "\n".join(lines))


@dataclass(frozen=True, slots=True)
class Show:
    """Print a recipe with every default filled in."""

    name: Positional[str]
    """Name of a shipped recipe, or path of a .toml file; a network's with scales, for example nature@width=0.5."""
    set: Set = ()
    """Override a value, for example --set emulator.sticky_probability=0. May be given several times."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print it as TOML."""
        from rlkd import recipe

        name, scale = recipe.split_scale(self.name)
        path = recipe.resolve_anywhere(name)
        value = recipe.load_any(path, overrides=self.set, scale=scale)
        if isinstance(value, recipe.Distill | recipe.Ppo | recipe.Dqn) and value.terms:
            from rlkd.terms import settle  # whose functions know the numbers of a term's parts

            value = replace(value, terms=tuple(settle(term) for term in value.terms))
        text = recipe.dump(value).rstrip()
        record = {"name": self.name, "path": str(path), "hash": recipe.recipe_hash(value)}
        print(json.dumps(record | {"recipe": tomllib.loads(text)}) if self.json else text)


@dataclass(frozen=True, slots=True)
class Eval:
    """Scores with intervals under the environment's protocol: raw score, whole games."""

    policies: Positional[tuple[str, ...]]
    """Policies: rlkd .safetensors and .onnx files, policy:NAME, Stable-Baselines3 .zip files, or files that an import
    recipe knows."""
    env: str | None = None
    """Environment. Default: each policy's own."""
    episodes: int | None = None
    """Episodes each. Default: the protocol's."""
    rule: str | None = None
    """greedy, sampled, or "epsilon_greedy 0.05". Default: each policy's own."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Play, and print one line a policy."""
        from rlkd.evaluation import evaluate_files, results_table

        records = evaluate_files(self.policies, env=self.env, episodes=self.episodes, rule=self.rule)
        if self.json:
            print(json.dumps({"results": records}))
            return
        print_table(results_table, records)


@dataclass(frozen=True, slots=True)
class Verify:
    """Checksums of a policy's file, or of all policies, checkpoints and rounds in a run folder, and whether a lineage
    is one. Nothing in a file is run."""

    paths: Positional[tuple[str, ...]]
    """Policies' .safetensors files, policy:NAME, or run folders."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Check, and say what is wrong."""
        from rlkd.lineage import verify

        if not self.paths:
            raise RlkdError("nothing to verify; name a policy's file or a run folder")
        found = [verify(path) for path in self.paths]
        problems = [problem for each in found for problem in each["problems"]]
        if self.json:
            print(json.dumps({"results": found}))
        else:
            for each in found:
                verdict = "damaged" if each["problems"] else "as it was written"
                print(f"{each['path']}: {each['kind']}, {each['files']} files, {verdict}")
                for policy in each["policies"] if each["kind"] == "policy" else ():
                    parents = ", ".join(parent[:12] for parent in policy["parents"]) or "none"
                    print(f"hash     {policy['hash'][:12]}\nparents  {parents}")
        if problems:
            raise RlkdError("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Report:
    """One self-contained HTML file for each run folder."""

    runs: Positional[tuple[str, ...]]
    """Run folders of train, distill, evolve or compare."""

    def run(self) -> None:
        """Write them, and say where they are."""
        from rlkd.report import write_report

        if not self.runs:
            raise RlkdError("nothing to report on; name a run folder")
        for run in self.runs:
            print(write_report(Path(run)))
