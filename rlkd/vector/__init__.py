"""Environment recipes to environments: single, vectorised, and stepped under one convention for resets."""

from rlkd.vector.copying import check_copies, forked
from rlkd.vector.making import (
    Backend,
    action_bounds,
    action_meanings,
    as_recipe,
    environment_named_in,
    make,
    make_halves,
    make_vec,
    normalises_rewards,
    spaces,
)
from rlkd.vector.replaying import replay_fault
from rlkd.vector.stepper import Stepper, ends_for_learner
from rlkd.vector.workers import WorkerVectorEnv

__all__ = [
    "Backend",
    "Stepper",
    "WorkerVectorEnv",
    "action_bounds",
    "action_meanings",
    "as_recipe",
    "check_copies",
    "ends_for_learner",
    "environment_named_in",
    "forked",
    "make",
    "make_halves",
    "make_vec",
    "normalises_rewards",
    "replay_fault",
    "spaces",
]
