"""How long one decision takes: `predict` on one observation, on one thread of the CPU."""

import time

import numpy as np

from rlkd.policy import Acting

WARM_UP = 20


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
