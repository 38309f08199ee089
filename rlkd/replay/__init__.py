"""The replay memory: frames once, what belongs to them beside them, in bounded memory."""

from rlkd.replay.frames import Replay, replay_bytes
from rlkd.replay.kept import Kept, keep, path_of, take
from rlkd.replay.memory import available_memory, check_memory
from rlkd.replay.priorities import Priorities, SumTree
from rlkd.replay.transitions import Batch, Transitions

__all__ = [
    "Batch",
    "Kept",
    "Priorities",
    "Replay",
    "SumTree",
    "Transitions",
    "available_memory",
    "check_memory",
    "keep",
    "path_of",
    "replay_bytes",
    "take",
]
