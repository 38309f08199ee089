"""One summand of a loss that learns from a teacher, as a frozen value. Meanings stand under fields."""

from dataclasses import dataclass

from rlkd.recipe.part import Part
from rlkd.recipe.read import require
from rlkd.recipe.schedule import Points, check_schedule

FROZEN = Part("teacher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of the loss: coefficient x weight(state) x scale x divergence(target(teacher), student).

    Names of parts are looked up in `rlkd.terms`, in the dictionaries TEACHERS, TARGETS, DIVERGENCES and WEIGHTS;
    their numbers are keyword arguments of the functions there.
    """

    divergence: Part
    """How far the student's answer is from the target."""
    teacher: Part = FROZEN
    """Who answers. `"label_h1"`: the teacher's greedy action and nothing else."""
    target: tuple[Part, ...] = ()
    """What is done to the answer, in order. Where nothing makes probabilities of scores and the divergence wants them,
    it is softmax(scores / temperature), with 0.01 for Q-values (arXiv:1511.06295) and 1 for logits."""
    student_temperature: float = 1.0
    """Softmax temperature of the student."""
    scale: float = 1.0
    """Multiplies the divergence; Hinton et al. (arXiv:1503.02531) use temperature squared."""
    weight: Part | None = None
    """Which states count how much; unset: all alike."""
    coefficient: float | Points = 1.0
    """Weight of this term; or points [share of the run, weight], with straight lines between them."""
    gate: bool | None = None
    """Beside reinforcement learning: multiply the coefficient by clip(1 - TN, 0, 1). TN is the score of recent play in
    training, normalised by the teacher's and by random play's: QDagger's (Agarwal et al. 2022, arXiv:2206.01626) ratio
    of returns is wrong where scores are negative. Unset: no."""

    def __post_init__(self) -> None:
        require(self.student_temperature > 0, f"student_temperature must be above 0, got {self.student_temperature}")
        check_schedule(self.coefficient, "coefficient")
