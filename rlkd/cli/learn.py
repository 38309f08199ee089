"""Verbs that make policies: `train`, `distill`, `evolve`; and `compare`, which trains many."""

import json
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from rlkd.cli.shared import Set, command, print_table, slug


@dataclass(frozen=True, slots=True)
class Train:
    """Make a policy by reinforcement learning; a run folder that exists is resumed."""

    env: Positional[str]
    """Environment: recipe name, path of a .toml, or a raw gymnasium id."""
    agent: str | None = None
    """Agent recipe of rl/, explore/ or sb3/, as `rlkd list` shows them, or one of distill/ of kind ppo or dqn.
    Default: our PPO, by the environment's kind."""
    frames: int | None = None
    """Emulator frames in all (agent steps x frame skip). Default: the recipe's."""
    run_folder: Annotated[str | None, arg(name="run")] = None
    """Run folder. Default: runs/ENV-AGENT-seedN."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    keep_early: bool = False
    """Keep the policies at 1, 2, 5, 10, 25, 50, 75 and 100 % of the run as well."""
    start: str | None = None
    """A policy with the recipe's network, whose weights our PPO begins with, a critic's where it answers as many
    values. Default: new weights."""
    teacher: str | None = None
    """A policy from which our learners learn beside the rewards, for recipes with terms: kickstarting, qdagger."""
    set: Set = ()
    """Override a value of the agent recipe."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Train, and say where the policy is."""
        from rlkd.learn import train

        folder = self.run_folder or f"runs/{slug(self.env)}-{slug(self.agent or 'ppo')}-seed{self.seed}"
        policy = train(
            self.env,
            self.agent,
            run=folder,
            seed=self.seed,
            frames=self.frames,
            device=self.device,
            keep_early=self.keep_early,
            start=self.start,
            teacher=self.teacher,
            overrides=self.set,
            command=command(),
        )
        path = f"{folder}/generations/000/policy.safetensors"
        text = f"policy   {path}\nscore it with: rlkd eval {path}\ncurves: rlkd report {folder}"
        print(json.dumps({"run": folder, "path": path, "hash": policy.spec.hash}) if self.json else text)


@dataclass(frozen=True, slots=True)
class Distill:
    """Distil a teacher into smaller students, and measure what was lost."""

    teachers: Positional[tuple[str, ...]]
    """rlkd .safetensors files, policy:NAME, Stable-Baselines3 .zip files, or files that an import recipe knows.
    Several for recipes that ask several; scores are normalised by the first one's. One of each game for recipes of
    several games."""
    env: str | None = None
    """Environment, for teachers that do not say."""
    agent: str | None = None
    """Distillation recipe. Default: policy_distillation for pixels, classic for vectors."""
    student_env: str | None = None
    """The same game as students see it, if otherwise than the teacher does. Default: as the teacher."""
    student: UseAppendAction[tuple[str, ...]] = ()
    """A student's network recipe, nature@width=0.5,depth=2 for one at half its width and twice its depth; may be given
    several times. Default: the recipe's."""
    run_folder: Annotated[str, arg(name="run")] = "runs/distill"
    """Run folder; a stopped run in it goes on."""
    replay: str | None = None
    """Folder where states and answers are kept: a further run on the same teachers, environment, source and seed takes
    them from there, and neither plays nor asks again. Default: nothing is kept."""
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
            self.teachers,
            self.student,
            run=self.run_folder,
            agent=self.agent,
            env=self.env,
            seed=self.seed,
            episodes=self.episodes,
            device=self.device,
            overrides=self.set,
            command=command(),
            replay=self.replay,
            student_env=self.student_env,
        )
        if self.json:
            print(json.dumps(record))
            return
        from rlkd.distillation import result_table, tasks_table

        print_table(tasks_table if "tasks" in record else result_table, record)
        for game in record.get("tasks", [record]):
            for entry in game["students"]:
                print(f"{entry['policy']:14} {entry['path']}")
        print(f"pictures: rlkd report {self.run_folder}")


@dataclass(frozen=True, slots=True)
class Evolve:
    """Successive policy generations: each student teaches the next. Finished generations are not repeated."""

    teacher: Positional[str]
    """Generation 0: an rlkd .safetensors file, policy:NAME, a Stable-Baselines3 .zip, or a file that an import recipe
    knows."""
    env: str | None = None
    """Environment, for teachers that do not say."""
    agent: str = "born_again"
    """Generations recipe."""
    generations: int | None = None
    """How many. Default: the recipe's."""
    lines: int = 1
    """Lines of descent from the first teacher, which differ by their seeds alone."""
    arms: bool = False
    """Breed beside what tells apart why students are as good as they are: smoothed labels, permuted answers, weights by
    confidence, one student that learns longer, all of a line together."""
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
            lines=self.lines,
            arms=self.arms,
            env=self.env,
            seed=self.seed,
            episodes=self.episodes,
            device=self.device,
            overrides=self.set,
            command=command(),
        )
        if self.json:
            print(json.dumps(record))
            return
        from rlkd.lineage import lineage_table

        print_table(lineage_table, record)
        print(f"pictures: rlkd report {self.run_folder}")


@dataclass(frozen=True, slots=True)
class Compare:
    """Train agents on environments from several seeds, and say what differs. Finished runs are not repeated."""

    env: UseAppendAction[tuple[str, ...]] = ()
    """An environment; may be given several times."""
    agent: UseAppendAction[tuple[str, ...]] = ()
    """An agent recipe; may be given several times. The others are compared with the first."""
    seeds: int = 5
    """Training seeds of each agent on each environment."""
    frames: int | None = None
    """Emulator frames of each training. Default: the recipes', which must agree."""
    run_folder: Annotated[str, arg(name="run")] = "runs/compare"
    """Run folder."""
    episodes: int | None = None
    """Of each policy's evaluation. Default: the protocol's."""
    device: str = "auto"
    """auto, cpu or cuda."""
    workers: int | None = None
    """Runs side by side. Default: one a core, or one for two cores where emulators take cores of their own."""
    set: Set = ()
    """Override a value of every agent's recipe."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Compare, and print the verdicts."""
        from rlkd.study import compare

        record = compare(
            self.env,
            self.agent,
            seeds=self.seeds,
            run=self.run_folder,
            frames=self.frames,
            episodes=self.episodes,
            device=self.device,
            workers=self.workers,
            overrides=self.set,
            command=command(),
        )
        if self.json:
            print(json.dumps(record))
            return
        from rlkd.study import comparison_table

        print_table(comparison_table, record)
        print(f"pictures: rlkd report {self.run_folder}")
