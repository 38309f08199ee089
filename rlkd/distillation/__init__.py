"""Distillation: terms (teacher, divergence, coefficient) over a replay -> students."""

from rlkd.distillation.binding import settle
from rlkd.distillation.command import distill
from rlkd.distillation.divergences import DIVERGENCES
from rlkd.distillation.parts import Divergence, Parts, Target, Teacher, Weight
from rlkd.distillation.record import result_table
from rlkd.distillation.run import Baseline, Result, StudentResult, measure_baseline, run_distillation
from rlkd.distillation.targets import TARGETS
from rlkd.distillation.teachers import TEACHERS
from rlkd.distillation.terms import Objective
from rlkd.distillation.weights import WEIGHTS

__all__ = [
    "DIVERGENCES",
    "TARGETS",
    "TEACHERS",
    "WEIGHTS",
    "Baseline",
    "Divergence",
    "Objective",
    "Parts",
    "Result",
    "StudentResult",
    "Target",
    "Teacher",
    "Weight",
    "distill",
    "measure_baseline",
    "result_table",
    "run_distillation",
    "settle",
]
