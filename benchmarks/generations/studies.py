"""What is bred: a recipe of generations each, from a first teacher, over lines that differ by their seeds."""

from dataclasses import dataclass
from pathlib import Path

from rlkd.lineage import evolve
from rlkd.lineage.line import Lineage
from rlkd.lineage.run import prepared
from rlkd.policy import Policy
from rlkd.report import write_report


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One lineage."""

    name: str
    """Of its run folder, behind `evolve_`."""
    title: str
    """Of its table."""
    teacher: str
    """The first one."""
    agent: str = "born_again"
    """Generations recipe."""
    overrides: tuple[str, ...] = ()
    """Of it."""
    generations: int
    """How many."""
    arms: bool = False
    """Whether all arms are bred beside the main line."""
    main_generations: int | None = None
    """How many the main line has in the end, where it is longer than its arms."""
    lines: int = 3
    """Of descent."""


# Paths are from the project's root: an absolute one would be another recipe in every clone.
QUICK = ('distill="benchmarks/generations/quick.toml"',)
QUICK_MSE = ('distill="benchmarks/generations/quick_mse.toml"',)
STUDIES = (
    Study(
        name="pong",
        title="Born-again students, Pong, from a teacher stopped early",
        teacher="policy:pong_early",
        overrides=QUICK,
        generations=3,
        arms=True,
        main_generations=5,
    ),
    Study(
        name="breakout",
        title="Born-again students, Breakout, from a teacher stopped early",
        teacher="policy:breakout",
        overrides=QUICK,
        generations=3,
    ),
    Study(
        name="teacher_assistant",
        title="A teacher assistant, Pong",
        teacher="policy:pong",
        agent="teacher_assistant",
        overrides=QUICK,
        generations=2,
    ),
    Study(
        name="residual_assistant",
        title="A residual assistant, Pong",
        teacher="policy:pong",
        agent="residual_assistant",
        overrides=QUICK_MSE,
        generations=1,
    ),
    Study(
        name="knowledge_evolution",
        title="Knowledge Evolution, Pong, students of 62,000 parameters",
        teacher="policy:pong",
        agent="knowledge_evolution",
        overrides=(*QUICK, 'student="nature_62k"'),
        generations=3,
        lines=5,
    ),
)
EPISODES = 16
"""Everybody plays: of the protocol's 100 the games of Pong would cost five times as much as learning."""


def planned(study: Study) -> tuple[Policy, Lineage]:
    """The first teacher, and what is bred from it before the main line goes on."""
    return prepared(
        study.teacher,
        study.agent,
        run=study.name,
        generations=study.generations,
        arms=study.arms,
        env=None,
        seed=0,
        episodes=EPISODES,
        device="auto",
        overrides=study.overrides,
    )


def identity(study: Study) -> str:
    """What all records of the study's lineage bear: of its recipes, first teacher and episodes."""
    founder, line = planned(study)
    return line.identity(founder)


def breed(study: Study, run: Path) -> None:
    """All lines and arms of a study, the main line first, and its report; nothing finished is repeated."""
    steps = [(study.generations, False)]
    if study.arms:
        steps.append((study.generations, True))
    if study.main_generations is not None:
        steps.append((study.main_generations, False))
    for generations, arms in steps:
        evolve(
            study.teacher,
            study.agent,
            run=run,
            lines=study.lines,
            generations=generations,
            arms=arms,
            episodes=EPISODES,
            overrides=study.overrides,
        )
    write_report(run)
