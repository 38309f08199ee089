"""Collecting: who acts, where, and what is made up beside it -> states and teacher answers in a replay."""

from rlkd.collect.acting import Seconds
from rlkd.collect.collector import Collector
from rlkd.collect.rounds import Round, keep_round, round_file, take_round
from rlkd.collect.searcher import Searcher
from rlkd.collect.synthetic import SYNTHETIC, made_by, munge, noise, uniform

__all__ = [
    "SYNTHETIC",
    "Collector",
    "Round",
    "Searcher",
    "Seconds",
    "keep_round",
    "made_by",
    "munge",
    "noise",
    "round_file",
    "take_round",
    "uniform",
]
