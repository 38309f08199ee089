"""How students learn from teachers, as frozen values. Meanings stand under fields."""

from dataclasses import dataclass
from typing import Literal

from rlkd.recipe.bonus import Bonus
from rlkd.recipe.part import Part
from rlkd.recipe.read import require
from rlkd.recipe.tasks import Tasks
from rlkd.recipe.term import Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Several continuations of a game are played from copies of the emulator's state, luck included; one is kept.

    What was done there, `label_h2`, is then a better label than any single step's: what the teacher finds most likely
    over many steps, or what scored most (label H5).
    """

    name: Literal["sampled", "beam"]
    """`sampled`: the teacher plays each of them by its rule. `beam`: those that are most likely for the teacher, told
    by the sum of log-probabilities, as in Kim and Rush 2016 (arXiv:1606.07947); of width 1, greedy play."""
    width: int
    """How many are played side by side."""
    length: int
    """Agent steps after which one is chosen, and the game goes on from its end."""
    choose: Literal["likelihood", "return"]
    """The most likely one, or that with the highest sum of rewards; the first of equal ones."""

    def __post_init__(self) -> None:
        require(self.width >= 1 and self.length >= 1, "search needs width and length of at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which states the student learns from."""

    states: int
    """Distinct states kept in the replay."""
    rounds: int = 8
    """Collection rounds: while round k+1 is collected, students learn from rounds up to k."""
    num_envs: int = 32
    """Environments stepped together, in two fixed halves."""
    epsilon: float = 0.05
    """Chance of a uniformly random action, so that states off the acting policy's path are seen too."""
    teacher_fraction: tuple[float, float] = (1.0, 1.0)
    """Chance that the teacher, not a student, picks the action: first round, last round, linear in between.
    The teacher answers every state in any case and all rounds are kept (DAgger, arXiv:1011.0686)."""
    synthetic: Part | None = None
    """How further states are made up from visited ones, by the dictionary SYNTHETIC of `rlkd.collect`; for vectors.
    Unset: none are."""
    copies: int = 0
    """Made-up states for each visited one."""
    search: Search | None = None
    """Look ahead with copies of the emulator, and keep the best of several continuations. Unset: plain play."""

    def __post_init__(self) -> None:
        require(self.states >= self.num_envs, "states must be at least num_envs")
        require(self.rounds >= 1 and self.num_envs >= 2, "rounds must be at least 1, num_envs at least 2")
        require(self.num_envs % 2 == 0, f"num_envs must be even (two fixed halves), got {self.num_envs}")
        require(0 <= self.epsilon <= 1, f"epsilon must be in [0, 1], got {self.epsilon}")
        require(
            all(0 <= fraction <= 1 for fraction in self.teacher_fraction),
            f"teacher_fraction must be in [0, 1], got {list(self.teacher_fraction)}",
        )
        made_up = self.synthetic is not None
        require(made_up == (self.copies > 0), f"synthetic and copies above 0 belong together, got {self.copies} copies")
        alone = self.epsilon == 0 and self.teacher_fraction == (1.0, 1.0) and not made_up
        require(
            self.search is None or alone,
            "[source.search] needs the teacher alone: epsilon = 0, teacher_fraction = [1.0, 1.0], no synthetic",
        )
        require(self.teacher_fraction[0] == 1 or self.rounds > 1, "a falling teacher_fraction needs rounds > 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distill:
    """Everything one distillation run needs besides teacher, environment and students."""

    source: Source
    """Which states."""
    terms: tuple[Term, ...]
    """The loss, summed."""
    gradient_steps: int
    """Gradient steps of each student, over all rounds and games."""
    students: tuple[str, ...]
    """Network recipes of the students, where the caller names none, with or without scales (`nature@width=0.5`); the
    controls copy the first."""
    batch_size: int = 256
    """Samples per gradient step."""
    learning_rate: float = 1e-3
    """Adam step size at the start; falls linearly to zero."""
    controls: tuple[Literal["hard_labels", "shuffled_teacher"], ...] = ("hard_labels", "shuffled_teacher")
    """Extra students with the first student's network at the same budget."""
    held_out_states: int = 4096
    """States per player on which agreement and KL are reported; never trained on."""
    moving_average: float = 0.995
    """Share of the old weights that stays at each gradient step in the moving average of a student's own, for the
    teacher of that name."""
    discount: float = 0.99
    """Of rewards that followed on a state, a step, for parts that read `advantage`."""
    novelty: Bonus | None = None
    """How new a state is to the replay, for the weight `familiarity`: `rnd`'s networks and clip; of the other values
    none is read."""
    tasks: Tasks | None = None
    """Several games, one student. Unset: one game."""

    def __post_init__(self) -> None:
        require(len(self.terms) > 0, "at least one [[terms]] is needed")
        for name in ("gradient_steps", "batch_size", "learning_rate", "held_out_states"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")
        require(0 <= self.discount <= 1, f"discount must be in [0, 1], got {self.discount}")
        require(0 <= self.moving_average < 1, f"moving_average must be in [0, 1), got {self.moving_average}")
        asked = any(term.weight is not None and term.weight.name == "familiarity" for term in self.terms)
        require(not asked or self.novelty is not None, "weight = 'familiarity' needs [novelty]")
        weighed = any(term.weight is not None for term in self.terms)
        require(weighed or self.novelty is None, "[novelty] is for a term's weight, and no term has one")
        require(self.novelty is None or self.novelty.name == "rnd", "[novelty] takes name = 'rnd'")
