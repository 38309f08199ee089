"""Distillation: a teacher, a replay of its answers, a loss -> students."""

from rlkd.distillation.baseline import keep_baseline, measure_baseline
from rlkd.distillation.command import distill
from rlkd.distillation.record import result_table
from rlkd.distillation.result import Baseline, Result, StudentResult
from rlkd.distillation.run import run_distillation
from rlkd.distillation.tasks import run_tasks
from rlkd.distillation.tasks_record import tasks_table

__all__ = [
    "Baseline",
    "Result",
    "StudentResult",
    "distill",
    "keep_baseline",
    "measure_baseline",
    "result_table",
    "run_distillation",
    "run_tasks",
    "tasks_table",
]
