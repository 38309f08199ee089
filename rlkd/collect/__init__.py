"""Collecting: who acts, where, and what is made up beside it -> states and teacher answers in a replay."""

from rlkd.collect.collector import Collector, Seconds
from rlkd.collect.searcher import Searcher
from rlkd.collect.synthetic import SYNTHETIC, made_by, munge, noise, uniform

__all__ = ["SYNTHETIC", "Collector", "Searcher", "Seconds", "made_by", "munge", "noise", "uniform"]
