"""Terms of a loss: who answers, what is done to the answer, how far a student is from it, which states count."""

from rlkd.terms.binding import TEMPERATURE, settle
from rlkd.terms.divergences import DIVERGENCES
from rlkd.terms.objective import Objective, hard_labels, reported_temperatures
from rlkd.terms.parts import FIELDS, Divergence, Parts, Sample, Target, Teacher, Weight, source_hash
from rlkd.terms.targets import TARGETS
from rlkd.terms.teachers import TEACHERS
from rlkd.terms.weights import WEIGHTS

__all__ = [
    "DIVERGENCES",
    "FIELDS",
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
    "source_hash",
]
