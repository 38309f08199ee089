"""Distillation: terms (teacher, divergence, coefficient) over a replay -> students."""

from rlkd.distillation.command import distill
from rlkd.distillation.record import result_table
from rlkd.distillation.run import Result, StudentResult, run_distillation
from rlkd.distillation.terms import student_kind, total_loss

__all__ = [
    "Result",
    "StudentResult",
    "distill",
    "result_table",
    "run_distillation",
    "student_kind",
    "total_loss",
]
