"""Evaluation: policy + protocol -> scores of whole games; agreement and KL between policies on visited states."""

from rlkd.evaluate.agreement import agreement, answers, mean_kl
from rlkd.evaluate.play import Played, environment_of, evaluate, evaluate_random

__all__ = ["Played", "agreement", "answers", "environment_of", "evaluate", "evaluate_random", "mean_kl"]
