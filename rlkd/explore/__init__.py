"""Exploration: rewards for what is new."""

from rlkd.explore.models import Steps
from rlkd.explore.novelty import Novelty
from rlkd.explore.warm_up import warm_up

__all__ = ["Novelty", "Steps", "warm_up"]
