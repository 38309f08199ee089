"""Answers of one network: Nature's, with the same weights, to 1, 32 and 256 stacks of 4 x 84 x 84 at once.

`rlkd` is `policy(observation)`, an array in and logits out, one thread. `sb3 forward` is `policy.get_distribution` of
the model that these weights come from, on a tensor of the same array; `sb3 predict` is `model.predict`, which also
picks the actions and hands them out as an array. None takes gradients. torch has the threads that its user leaves it:
one in rlkd, all cores in the peer but where it says `one thread`.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.throughput.measure import Sample, timed
from benchmarks.throughput.stepping import sb3_breakout

BATCHES = (1, 32, 256)


def run(variant: str, seed: int, seconds: float) -> dict[str, Sample]:
    """States answered by one variant; the cell is the batch."""
    if variant.startswith("sb3"):
        os.environ.pop("OMP_WAIT_POLICY", None)
    states = np.random.default_rng(seed).integers(0, 256, (max(BATCHES), 4, 84, 84), dtype=np.uint8)
    answer = _answers(variant, seed)

    def work(batch: int) -> Callable[[], int]:
        def several() -> int:
            for _ in range(max(1, 32 // batch)):
                answer(states[:batch])
            return max(batch, 32)

        return several

    return {str(batch): timed(work(batch), seconds) for batch in BATCHES}


def _answers(variant: str, seed: int) -> Callable[[np.ndarray], Any]:
    if variant.startswith("rlkd"):
        import rlkd  # noqa: F401  # before torch: it sets how OpenMP's threads wait
    import torch
    from stable_baselines3 import PPO

    from rlkd.policy import from_sb3
    from rlkd.policy.compute import autocast, one_thread_per_role

    model = PPO("CnnPolicy", sb3_breakout(1, seed), seed=seed, device="cpu", n_steps=64, batch_size=64)
    if variant.endswith("one thread"):
        torch.set_num_threads(1)
    if variant.startswith("sb3 predict"):
        return model.predict
    if variant.startswith("sb3 forward"):
        model.policy.set_training_mode(False)

        def forward(states: np.ndarray) -> Any:
            with torch.inference_mode():
                found: Any = model.policy.get_distribution(torch.as_tensor(states)).distribution
                return found.logits

        return forward
    one_thread_per_role()
    policy = from_sb3(model)
    precision = variant.split()[1]
    assert precision in ("float32", "bfloat16")

    def ours(states: np.ndarray) -> Any:
        with torch.inference_mode(), autocast(policy.device, precision, pixels=True):  # type: ignore[arg-type]  # checked
            return policy(states).params["logits"]

    return ours
