"""rlkd: reinforcement-learning distillation.

    policy = rlkd.load("policy:pong")
    action, state = policy.predict(observation)

Everything heavy is imported when it is first used: `import rlkd` loads no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Torch's spinning threads starve emulator threads on small machines. Has to be set before torch is imported; a value
# that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from rlkd.distillation import distill
    from rlkd.evaluation import evaluate
    from rlkd.exporting import export
    from rlkd.learn import train
    from rlkd.lineage import evolve
    from rlkd.policy import from_sb3, load
    from rlkd.study import compare
    from rlkd.vector import make, make_vec

__version__ = "0.1.0"
__all__ = ["compare", "distill", "evaluate", "evolve", "export", "from_sb3", "load", "make", "make_vec", "train"]

_HOMES = {
    "compare": "rlkd.study",
    "distill": "rlkd.distillation",
    "evaluate": "rlkd.evaluation",
    "evolve": "rlkd.lineage",
    "export": "rlkd.exporting",
    "from_sb3": "rlkd.policy",
    "load": "rlkd.policy",
    "make": "rlkd.vector",
    "make_vec": "rlkd.vector",
    "train": "rlkd.learn",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlkd' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
