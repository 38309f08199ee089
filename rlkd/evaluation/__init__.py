"""Evaluation: policy + protocol -> scores of whole games; agreement and KL between policies on visited states."""

from rlkd.evaluation.agreement import agreement, answers, mean_kl, stretch_of
from rlkd.evaluation.check import Check, check, import_policy, standard_errors
from rlkd.evaluation.inheritance import inheritance
from rlkd.evaluation.latency import decision_seconds, noise_observation
from rlkd.evaluation.play import Played, environment_of, evaluate, play, play_randomly
from rlkd.evaluation.reading import READING
from rlkd.evaluation.record import evaluate_files, result_record, results_table

__all__ = [
    "READING",
    "Check",
    "Played",
    "agreement",
    "answers",
    "check",
    "decision_seconds",
    "environment_of",
    "evaluate",
    "evaluate_files",
    "import_policy",
    "inheritance",
    "mean_kl",
    "noise_observation",
    "play",
    "play_randomly",
    "result_record",
    "results_table",
    "standard_errors",
    "stretch_of",
]
