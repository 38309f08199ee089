"""Exploration: rewards for what is new."""

from rlkd.explore.rnd import Rnd
from rlkd.explore.warm_up import warm_up

__all__ = ["Rnd", "warm_up"]
