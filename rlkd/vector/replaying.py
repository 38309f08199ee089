"""An environment's fault again: its episode alone, in this process, under a debugger if wanted."""

import json
import zipfile
from pathlib import Path

import numpy as np

from rlkd.errors import StorageError
from rlkd.recipe import Environment
from rlkd.recipe.read import build
from rlkd.vector.making import make


def replay_fault(path: str | Path) -> int:
    """Play what led to a fault in a worker process; a fault that depends on seed and actions shows itself again.

    An exception comes with its real traceback; what ended or froze the worker ends or freezes this process.

    Args:
        path: the file that the `WorkerError` named.

    Returns:
        Steps played, where no fault came.

    Raises:
        StorageError: the file cannot be read.
    """
    recipe, seed, resets, actions = _read(Path(path))
    env = make(recipe)
    try:
        env.reset(seed=seed)
        over, by_hand = False, list(resets)
        for n, action in enumerate(actions):
            while by_hand and by_hand[0] == n:
                env.reset()
                over = False
                del by_hand[0]
            if over:
                env.reset()
                over = False
            else:
                _, _, terminated, truncated, _ = env.step(action)
                over = terminated or truncated
        for _ in by_hand:
            env.reset()
    finally:
        env.close()
    from rlkd import metrics  # see `workers`

    metrics.say(f"{path}: all {len(actions)} steps went through; the fault depends on more than seed and actions")
    return len(actions)


def _read(path: Path) -> tuple[Environment, int | None, list[int], np.ndarray]:
    """Recipe, seed, resets by hand and actions, [T] int64 or [T, D]."""
    try:
        with np.load(path) as file:
            about, actions = json.loads(str(file["about"])), file["actions"]
        recipe = build(Environment, about["environment"], where=str(path))
        seed, resets = about["seed"], about["resets"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StorageError(f"{path}: not a file of a fault: {error}") from None
    return recipe, seed, resets, actions.astype(np.int64) if actions.dtype.kind in "iu" else actions
