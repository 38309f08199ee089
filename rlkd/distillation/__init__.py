"""Distillation: terms (teacher, divergence, coefficient) over a replay -> students."""

from rlkd.distillation.command import distill
from rlkd.distillation.record import result_table
from rlkd.distillation.run import Baseline, Result, StudentResult, measure_baseline, run_distillation
from rlkd.distillation.terms import student_kind, total_loss

__all__ = [
    "Baseline",
    "Result",
    "StudentResult",
    "distill",
    "measure_baseline",
    "result_table",
    "run_distillation",
    "student_kind",
    "total_loss",
]
