"""Distillation: a teacher, a replay of its answers, a loss -> students."""

from rlkd.distillation.command import distill
from rlkd.distillation.record import result_table
from rlkd.distillation.run import Baseline, Result, StudentResult, measure_baseline, run_distillation

__all__ = [
    "Baseline",
    "Result",
    "StudentResult",
    "distill",
    "measure_baseline",
    "result_table",
    "run_distillation",
]
