"""Reading 256 random transitions of 4 x 84 x 84 from 32,768 states that are kept as pictures of 7.1 kB.

What comes back, in new memory each time:

* `rlkd transitions`: observation and next observation, uint8 tensors [256, 4, 84, 84], with action, reward, discount.
* `rlkd distillation`: observation alone, and the teacher's answer.
* `sb3`: `ReplayBuffer.sample`: observation and next observation as tensors, action, reward, done. Keeps whole stacks.
* `cpprb`: observation and next observation as arrays [256, 84, 84, 4], action, reward, done; kept as single pictures
  (`stack_compress`, `next_of`).
* `memcpy`: the limit: the bytes of 256 observations (cell 1), and of observations with their next ones (cell 2), from
  one random place of 212 MB to memory that is at hand.

The cell is the number of observations that come with a transition. Memories are filled with pictures of noise in
episodes of 500 steps.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.throughput.measure import Sample, timed

STATES, BATCH, ENVS, EPISODE, ACTIONS = 32_768, 256, 8, 500, 4
FRAME = 84 * 84


def run(variant: str, seed: int, seconds: float) -> dict[str, Sample]:
    """Transitions read by one variant."""
    generator = np.random.default_rng(seed)
    if variant == "memcpy":
        block = generator.integers(0, 256, STATES * FRAME // 8, dtype=np.uint8).repeat(8)
        return {str(count): timed(_memcpy(block, count, generator), seconds) for count in (1, 2)}
    make = {
        "rlkd transitions": _transitions,
        "rlkd distillation": _distillation,
        "sb3": _sb3,
        "cpprb": _cpprb,
    }[variant]
    read = make(generator)

    def work() -> int:
        read()
        return BATCH

    return {"1" if variant == "rlkd distillation" else "2": timed(work, seconds)}


def has_cpprb() -> bool:
    """Whether it can be imported."""
    try:
        import cpprb  # type: ignore[import-not-found,unused-ignore]  # no dependency of ours  # noqa: F401
    except ImportError:
        return False
    return True


def _memcpy(block: np.ndarray, count: int, generator: np.random.Generator) -> Callable[[], int]:
    out = np.empty(count * BATCH * 4 * FRAME, np.uint8)

    def work() -> int:
        start = int(generator.integers(len(block) - len(out)))
        np.copyto(out, block[start : start + len(out)])
        return BATCH

    return work


def _play(num_envs: int, generator: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stacks [N, 4, 84, 84] that were acted on, oldest first, and whether each begins an episode [N]; without end."""
    pictures = generator.integers(0, 256, (1000, 84, 84), dtype=np.uint8)
    stacks = np.zeros((num_envs, 4, 84, 84), np.uint8)
    ages = np.arange(num_envs) * (EPISODE // num_envs)
    first = np.ones(num_envs, bool)
    while True:
        stacks[first] = 0
        stacks[:, :-1] = stacks[:, 1:]
        stacks[:, -1] = pictures[generator.integers(len(pictures), size=num_envs)]
        yield stacks.copy(), first
        ages = (ages + 1) % EPISODE
        first = ages == 0


def _transitions(generator: np.random.Generator) -> Callable[[], Any]:
    from rlkd.replay import Transitions
    from rlkd.vector import as_recipe

    view = as_recipe("breakout").views["pixels"]
    memory = Transitions(ENVS, STATES, (4, 84, 84), view, n_step=1, discount=0.99, alpha=None)
    play, envs, ones = _play(ENVS, generator), np.arange(ENVS), np.ones(ENVS, bool)
    for _ in range(STATES // ENVS):
        stacks, first = next(play)
        memory.append(envs, stacks, first, generator.integers(ACTIONS, size=ENVS), np.zeros(ENVS), ~ones, ones)
    return lambda: memory.draw(BATCH, generator)


def _distillation(generator: np.random.Generator) -> Callable[[], Any]:
    import torch

    from rlkd.replay import Replay
    from rlkd.vector import as_recipe

    replay = Replay(ENVS, STATES, (4, 84, 84), ACTIONS, as_recipe("breakout").views["pixels"])
    play, envs = _play(ENVS, generator), np.arange(ENVS)
    for _ in range(STATES // ENVS):
        replay.append(envs, *next(play), torch.zeros(ENVS, ACTIONS))
    rows = replay.rows()
    return lambda: replay.read(generator.choice(rows, BATCH))


def _sb3(generator: np.random.Generator) -> Callable[[], Any]:
    from gymnasium import spaces
    from stable_baselines3.common.buffers import ReplayBuffer

    seen = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = ReplayBuffer(STATES, seen, spaces.Discrete(ACTIONS), device="cpu", n_envs=ENVS)
    play, zeros = _play(ENVS, generator), np.zeros(ENVS)
    stacks, _ = next(play)
    for _ in range(STATES // ENVS):
        following, first = next(play)
        buffer.add(stacks, following, np.zeros((ENVS, 1)), zeros, first.astype(float), [{}] * ENVS)
        stacks = following
    return lambda: buffer.sample(BATCH)


def _cpprb(generator: np.random.Generator) -> Callable[[], Any]:
    from cpprb import ReplayBuffer  # type: ignore[import-not-found,unused-ignore]  # no dependency of ours

    kinds = {"obs": {"shape": (84, 84, 4), "dtype": np.uint8}, "act": {"dtype": np.int64}, "rew": {}, "done": {}}
    buffer = ReplayBuffer(STATES, kinds, next_of="obs", stack_compress="obs")
    play = _play(1, generator)
    stack, _ = next(play)
    for _ in range(STATES):
        following, first = next(play)
        seen = [np.moveaxis(each[0], 0, -1) for each in (stack, following)]
        buffer.add(obs=seen[0], next_obs=seen[1], act=0, rew=0.0, done=float(first[0]))
        if first[0]:
            buffer.on_episode_end()
        stack = following
    return lambda: buffer.sample(BATCH)
