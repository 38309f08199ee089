"""One policy that a lineage is to make: of whom, how, and with which seed. Plain values, known before anything runs."""

from dataclasses import dataclass, field
from typing import Literal

from rlkd.recipe import Arm, Generations, Network, Part, recipe_hash

FIRST = "000"
"""The first teacher's name."""

How = Literal["distil", "train", "combine", "select", "slim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One policy, and what it is made of. Whom it names has to stand before it in the plan."""

    name: str
    """Of its folder below `generations/`: the generation, then what it is where it is not that generation's policy,
    the arm, the line."""
    number: int
    """Of the generation."""
    how: How
    """`distil`: a student of its parents. `train`: by rewards, with its parents as teachers, if any. `combine`: its
    parents as one policy. `select`: that of its parents which scores best on episodes of its own. `slim`: the part of
    its parent that Knowledge Evolution has kept."""
    parents: tuple[str, ...] = ()
    """Names of who teaches, is combined or chosen from."""
    start: str = ""
    """Name of whose weights it begins with; empty: new ones."""
    change: Part | None = None
    """What is done to these weights first: a name of `rlkd.lineage.making`, with its numbers. Unset: nothing."""
    network: Network | None = None
    """The student's; unset where nothing is distilled."""
    share: float = 1.0
    """Gradient steps, in those of the recipe."""
    same_data: bool = False
    """Whether states and answers are those of the line's first distillation."""
    arm: Arm | None = None
    """Which one it belongs to; unset: the main line."""
    line: int = 0
    """Lines of descent differ by their seeds alone."""
    seed: int
    """Of everything random in it."""
    role: str = ""
    """What it is where it is not its generation's policy; empty otherwise."""

    @property
    def key(self) -> str:
        """Hash of everything above: a finished step was made by this plan if it has the same."""
        return recipe_hash(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What the steps of one line and arm have in common, and how they are named and seeded."""

    rule: Generations
    """The recipe."""
    seed: int
    """Of the run."""
    student: Network
    """The students'."""
    between: tuple[Network, ...] = field(default=())
    """Networks from just below the first teacher's down to the students', one a generation, where the operator asks."""
    arm: Arm | None = None
    """Of the steps."""
    line: int = 0
    """Of the steps."""

    @property
    def line_seed(self) -> int:
        """Of what all generations of the line have in common."""
        return self.seed + 100_000 * self.line

    @property
    def numbers(self) -> range:
        """Of all generations behind the first teacher."""
        return range(1, self.rule.generations + 1)

    def name(self, number: int, role: str = "") -> str:
        """Of a step of this line and arm; the first teacher is in all of them."""
        if not number:
            return FIRST
        line = f"line{self.line}" if self.line else ""
        return "-".join(part for part in (f"{number:03d}", role, self.arm or "", line) if part)

    def step(
        self,
        number: int,
        how: How,
        parents: tuple[str, ...] = (),
        *,
        role: str = "",
        start: str = "",
        change: Part | None = None,
        network: Network | None = None,
        share: float = 1.0,
        same_data: bool = False,
    ) -> Step:
        """A step of this line and arm.

        Its seed is the generation's: arms, controls and candidates of a generation begin with the same weights and see
        the same states, so that nothing but what they are about differs. Who learns from rewards has one beside it.
        """
        return Step(
            name=self.name(number, role),
            number=number,
            how=how,
            parents=parents,
            start=start,
            change=change,
            network=(network or self.student) if how == "distil" else None,
            share=share,
            same_data=same_data,
            arm=self.arm,
            line=self.line,
            seed=self.line_seed + 1000 * number + (500 if how == "train" else 0),
            role=role,
        )
