"""Terms of a loss: who answers, what is done to the answer, how far a student is from it, which states count."""

from rlkd.terms.binding import TEMPERATURE, settle
from rlkd.terms.divergences import DIVERGENCES
from rlkd.terms.objective import HARD_LABELS, Objective, hard_labels, reported_temperatures
from rlkd.terms.parts import Divergence, Parts, Sample, Target, Teacher, Weight, settled, source_hash
from rlkd.terms.targets import TARGETS
from rlkd.terms.teachers import TEACHERS
from rlkd.terms.weights import WEIGHTS

__all__ = [
    "DIVERGENCES",
    "HARD_LABELS",
    "TARGETS",
    "TEACHERS",
    "TEMPERATURE",
    "WEIGHTS",
    "Divergence",
    "Objective",
    "Parts",
    "Sample",
    "Target",
    "Teacher",
    "Weight",
    "hard_labels",
    "reported_temperatures",
    "settle",
    "settled",
    "source_hash",
]
