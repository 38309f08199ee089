"""What a distillation run comes to: whom students are compared with, and each student after its run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlkd.data import Evaluation
from rlkd.distillation.student import Plan
from rlkd.evaluation import Played
from rlkd.policy import Policy
from rlkd.recipe import Distill


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentResult:
    """One student after its run."""

    plan: Plan
    """What it was to be."""
    policy: Policy
    """What it became."""
    path: Path
    """Its file."""
    played: Played
    """Its scores, and states that it visited."""
    agreement: float
    """Share of held-out teacher states on which teacher and student prefer the same action."""
    kl_teacher_states: float
    """Mean KL(teacher || student) on states that the teacher visits, nats; held out from training."""
    kl_student_states: float
    """The same on states that the student itself visits."""
    gradient_steps: int
    """Steps it took."""

    @property
    def evaluation(self) -> Evaluation:
        """Its scores."""
        return self.played.evaluation


@dataclass(frozen=True, slots=True)
class Baseline:
    """What students are compared with."""

    teacher: Played
    """The teacher's scores, and states that it visited: agreement and KL are measured there, nothing is learnt."""
    random: Evaluation
    """Scores of uniformly random play."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished distillation run."""

    run: Path
    """Its folder."""
    recipe: Distill
    """With all numbers of its parts."""
    game: str
    """What files call it, where the run has several; empty where it has one."""
    teacher: Policy
    """The teacher, with its environment."""
    teacher_evaluation: Evaluation
    """The teacher's scores."""
    more_evaluations: tuple[Evaluation, ...]
    """Those of the teachers beside it."""
    random_evaluation: Evaluation
    """Scores of uniformly random play."""
    students: tuple[StudentResult, ...]
    """In the order asked for."""
    controls: tuple[StudentResult, ...]
    """In the order of the recipe."""
    states: int
    """Distinct states in the replay."""
    steps: int
    """Agent steps that were played to collect them."""
    data_hash: str
    """SHA-256 over states, beginnings of episodes and rewards of the replay."""
    seconds: Mapping[str, float]
    """Wall seconds by phase, and busy seconds of the roles that overlap."""
    under: Mapping[str, str]
    """What its bits depend on besides the run: versions, device, processor, precision, parts of a minibatch."""
