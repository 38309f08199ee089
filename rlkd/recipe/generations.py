"""How one generation of policies makes the next, as a frozen value."""

from dataclasses import dataclass
from typing import Literal

from rlkd.recipe.part import Part
from rlkd.recipe.read import require

Arm = Literal["smoothed", "permuted", "confidence", "longer", "ensemble"]
ARMS: tuple[Arm, ...] = ("smoothed", "permuted", "confidence", "longer", "ensemble")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generations:
    """How one generation makes the next."""

    operator: Part
    """Who learns from whom, beginning with which weights: a name of `rlkd.lineage.operators`, with its numbers."""
    distill: str | None = None
    """Name of the distillation recipe that every generation runs; none takes what `rlkd distill` would."""
    student: str = "same"
    """Network recipe of the students; `same` takes the teacher's."""
    generations: int = 3
    """How many students in a row."""
    train: str | None = None
    """Name of the PPO recipe, for operators in which somebody learns from rewards."""
    train_frames: int | None = None
    """Emulator frames of each of these trainings; unset: the recipe's."""
    arms: tuple[Arm, ...] = ()
    """What is bred beside, to tell apart why students are as good as they are; for operator `fresh`. In lines of their
    own, as long: `smoothed`, labels smoothed to the teacher's mean entropy; `permuted`, the probabilities of all but
    the best action in random order (DKPP); `confidence`, hard labels weighted by the teacher's confidence (CWTM; both
    arXiv:1805.04770). And one policy each: `longer`, a student of the first teacher with as many gradient steps as all
    generations together; `ensemble`, the mean of the generations' probabilities."""

    def __post_init__(self) -> None:
        require(1 <= self.generations < 100, f"generations must be at least 1 and below 100, got {self.generations}")
        frames = self.train_frames
        require(frames is None or frames > 0, f"train_frames must be above 0, got {frames}")
        require(frames is None or self.train is not None, "train_frames belongs to train")
        require(len(set(self.arms)) == len(self.arms), f"arms must be different ones, got {list(self.arms)}")
        require(not self.arms or self.operator.name == "fresh", "arms belong to operator = 'fresh'")
