"""The verbs of the command line. Each is one class: parse, call one library function, print the result."""

import json
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from rlkd.errors import RlkdError

Set = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE")]


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
    """Name of a shipped recipe, or path of a .toml file."""
    set: Set = ()
    """Override a value, for example --set emulator.sticky_probability=0. May be given several times."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print it as TOML."""
        from rlkd import recipe

        path = recipe.resolve_anywhere(self.name)
        value = recipe.load_any(path, overrides=self.set)
        text = recipe.dump(value).rstrip()
        record = {"name": self.name, "path": str(path), "hash": recipe.recipe_hash(value)}
        print(json.dumps(record | {"recipe": tomllib.loads(text)}) if self.json else text)


@dataclass(frozen=True, slots=True)
class Train:
    """Make a policy by reinforcement learning; a run folder that exists is resumed."""

    env: Positional[str]
    """Environment: recipe name, path of a .toml, or a raw gymnasium id."""
    agent: str | None = None
    """Agent recipe: rl/ppo, rl/ppo_classic, sb3/ppo, sb3/a2c, sb3/dqn. Default: ours, by the environment's kind."""
    frames: int | None = None
    """Emulator frames in all (agent steps x frame skip). Default: the recipe's."""
    run_folder: Annotated[str | None, arg(name="run")] = None
    """Run folder. Default: runs/ENV-AGENT-seedN."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    set: Set = ()
    """Override a value of the agent recipe."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Train, and say where the policy is."""
        from rlkd.learn import train

        folder = self.run_folder or f"runs/{_slug(self.env)}-{_slug(self.agent or 'ppo')}-seed{self.seed}"
        policy = train(
            self.env,
            self.agent,
            run=folder,
            seed=self.seed,
            frames=self.frames,
            device=self.device,
            overrides=self.set,
            command=_command(),
        )
        path = f"{folder}/generations/000/policy.safetensors"
        text = f"policy   {path}\nscore it with: rlkd eval {path}\ncurves: rlkd report {folder}"
        print(json.dumps({"run": folder, "path": path, "hash": policy.spec.hash}) if self.json else text)


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
    episodes: int = 50
    """Episodes of the check."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Read, check, write, and say what it is."""
        from rlkd.evaluation import import_policy

        record = import_policy(
            self.file, self.output, agent=self.agent, env=self.env, episodes=self.episodes if self.check else None
        )
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
class Distill:
    """Distil a teacher into smaller students, and measure what was lost."""

    teacher: Positional[str]
    """An rlkd .safetensors file, policy:NAME, or a Stable-Baselines3 .zip."""
    env: str | None = None
    """Environment, for teachers that do not say."""
    agent: str | None = None
    """Distillation recipe. Default: policy_distillation for pixels, classic for vectors."""
    student: UseAppendAction[tuple[str, ...]] = ()
    """A student's network recipe; may be given several times. Default: the recipe's."""
    run_folder: Annotated[str, arg(name="run")] = "runs/distill"
    """Run folder; a stopped run in it goes on."""
    episodes: int | None = None
    """Per evaluation. Default: the protocol's."""
    seed: int = 0
    """Of collection, weights and minibatches."""
    device: str = "auto"
    """auto, cpu or cuda."""
    set: Set = ()
    """Override a value of the distillation recipe."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Distil, and print who scores what."""
        from rlkd.distillation import distill

        record = distill(
            self.teacher,
            self.student,
            run=self.run_folder,
            agent=self.agent,
            env=self.env,
            seed=self.seed,
            episodes=self.episodes,
            device=self.device,
            overrides=self.set,
            command=_command(),
        )
        if self.json:
            print(json.dumps(record))
            return
        from rlkd.distillation import result_table

        _print(result_table, record)
        for entry in record["students"]:
            print(f"{entry['name']:14} {entry['path']}")
        print(f"pictures: rlkd report {self.run_folder}")


@dataclass(frozen=True, slots=True)
class Evolve:
    """Successive policy generations: each student teaches the next. Finished generations are not repeated."""

    teacher: Positional[str]
    """Generation 0: an rlkd .safetensors file, policy:NAME, or a Stable-Baselines3 .zip."""
    env: str | None = None
    """Environment, for teachers that do not say."""
    agent: str = "born_again"
    """Generations recipe."""
    generations: int | None = None
    """How many. Default: the recipe's."""
    run_folder: Annotated[str, arg(name="run")] = "runs/evolve"
    """Run folder."""
    episodes: int | None = None
    """Per evaluation. Default: the protocol's."""
    seed: int = 0
    """Of the run; every generation gets new ones from it."""
    device: str = "auto"
    """auto, cpu or cuda."""
    set: Set = ()
    """Override a value of the generations recipe."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Breed generations, and print one line each."""
        from rlkd.lineage import evolve

        record = evolve(
            self.teacher,
            self.agent,
            run=self.run_folder,
            generations=self.generations,
            env=self.env,
            seed=self.seed,
            episodes=self.episodes,
            device=self.device,
            overrides=self.set,
            command=_command(),
        )
        if self.json:
            print(json.dumps(record))
            return
        from rlkd.lineage import lineage_table

        _print(lineage_table, record)
        print(f"pictures: rlkd report {self.run_folder}")


@dataclass(frozen=True, slots=True)
class Eval:
    """Scores with intervals under the environment's protocol: raw score, whole games."""

    policies: Positional[tuple[str, ...]]
    """Policies: rlkd .safetensors files, policy:NAME, or Stable-Baselines3 .zip files."""
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
        _print(results_table, records)


@dataclass(frozen=True, slots=True)
class Export:
    """Write a policy in another format; both are compared first, and what differs is not written."""

    policy: Positional[str]
    """An rlkd .safetensors file, policy:NAME, or a Stable-Baselines3 .zip."""
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
            _print(parity_table, exported)
        print("\n".join([f"{exported.path}  {exported.file_bytes:,} bytes", *exported.notes]))


@dataclass(frozen=True, slots=True)
class Report:
    """One self-contained HTML file for each run folder."""

    runs: Positional[tuple[str, ...]]
    """Run folders of train, distill or evolve."""

    def run(self) -> None:
        """Write them, and say where they are."""
        from rlkd.report import write_report

        if not self.runs:
            raise RlkdError("nothing to report on; name a run folder")
        for run in self.runs:
            print(write_report(Path(run)))


def _print(table: Callable[..., object], content: object) -> None:
    from rich.console import Console

    width = shutil.get_terminal_size((160, 24)).columns  # files and pipes have no width: nothing is cut off there
    Console(width=width).print(table(content, width=width))


def _slug(name: str) -> str:
    return name.removesuffix(".toml").replace("/", "-")


def _command() -> str:
    return shlex.join(["rlkd", *sys.argv[1:]])
