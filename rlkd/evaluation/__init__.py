"""Evaluation: policy + protocol -> scores of whole games; agreement and KL between policies on visited states."""

from rlkd.evaluation.agreement import agreement, answers, mean_kl
from rlkd.evaluation.play import Played, environment_of, evaluate, play, play_randomly
from rlkd.evaluation.record import evaluate_files, result_record, results_table

__all__ = [
    "Played",
    "agreement",
    "answers",
    "environment_of",
    "evaluate",
    "evaluate_files",
    "mean_kl",
    "play",
    "play_randomly",
    "result_record",
    "results_table",
]
