"""Distillation: terms (teacher, divergence, coefficient) over a replay -> students."""

from rlkd.distill.run import Result, StudentResult, distill
from rlkd.distill.terms import student_kind, total_loss

__all__ = ["Result", "StudentResult", "distill", "student_kind", "total_loss"]
