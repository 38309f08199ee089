"""How long one decision takes: `predict` on one observation, on one thread of the CPU."""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from rlkd.errors import ExportError
from rlkd.policy import Acting, Policy
from rlkd.policy.compute import one_thread_per_role
from rlkd.policy.onnx_file import OnnxPolicy

WARM_UP, CALLS = 20, 200


def latencies(policy: Policy) -> dict[str, float]:
    """Median seconds of one decision by what computes it: torch, and ONNX Runtime where it is installed."""
    from rlkd.exporting.graph import onnx_bytes

    one_thread_per_role()
    players: dict[str, Acting] = {"torch": policy}
    try:
        content = onnx_bytes(policy, policy.spec.hash)
    except ExportError:  # not installed: a card without that line
        content = b""
    if content:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "policy.onnx"
            file.write_bytes(content)
            players["ONNX Runtime"] = OnnxPolicy(file)
    return {name: median(decision_seconds(player, CALLS)) for name, player in players.items()}


def decision_seconds(player: Acting, calls: int) -> list[float]:
    """Seconds of each of some decisions on one and the same observation, after a few that do not count."""
    observation = noise_observation(player)
    state: np.ndarray | None = None
    seconds = []
    for call in range(WARM_UP + calls):
        started = time.perf_counter()
        _, state = player.predict(observation, state)
        if call >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    return seconds


def noise_observation(player: Acting) -> np.ndarray:
    """[*shape]: noise of the observation's type; how long a decision takes does not depend on what is seen."""
    generator, shape = np.random.default_rng(0), player.spec.observation_shape
    if player.spec.observation_dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.normal(size=shape).astype(np.float32)
