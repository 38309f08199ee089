"""Made-up states beside those that were visited, each in an environment's range of its own."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlkd.collect.synthetic import made_by
from rlkd.policy import Policy, decide
from rlkd.recipe import Source
from rlkd.replay import Replay


def make_up_beside(
    replay: Replay,
    before: np.ndarray,
    source: Source,
    teachers: Sequence[Policy],
    generator: np.random.Generator,
) -> None:
    """Make states up from those that were visited since, and put them beside.

    Args:
        replay: whose first ranges hold what was visited.
        before: [N], states of each environment when the round began.
        source: which states, and how many of them.
        teachers: all answer; what the first would do is kept.
        generator: of states and actions.
    """
    assert source.synthetic is not None
    envs = np.arange(source.num_envs)
    counts = replay.filled[envs]
    ranges = [replay.address(np.full(n, env), np.arange(n)) for env, n in zip(envs, counts, strict=True)]
    every = replay.read(np.concatenate(ranges))[0].numpy()
    fresh = np.concatenate([rows[start:] for rows, start in zip(ranges, before, strict=True)])
    owner = np.repeat(envs, counts - before)
    place = np.concatenate([np.arange(n) for n in counts - before])
    seen = replay.read(fresh)[0].numpy()
    copies = np.split(made_by(source.synthetic)(np.tile(seen, (source.copies, 1)), every, generator), source.copies)
    asked = [_asked(made, teachers, generator) for made in copies]
    for number, (made, (said, action)) in enumerate(zip(copies, asked, strict=True), 1):
        for step in range(int((counts - before).max())):
            now = place == step
            beside = owner[now] + number * len(envs)
            replay.append(beside, made[now], np.ones(now.sum(), bool), said[torch.from_numpy(now)], action[now])


def _asked(made: np.ndarray, teachers: Sequence[Policy], generator: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """What teachers say to made-up states, [M, P], and what the first of them would do there, [M]."""
    with torch.inference_mode():
        outputs = [teacher(made) for teacher in teachers]
    answers = [output.flat.float().cpu() for output in outputs]
    spec = teachers[0].spec
    draws = generator.random((len(made), 2 + 2 * spec.actions))
    action = decide(outputs[0].kind, outputs[0].numpy(), spec.rule, draws)
    return torch.cat(answers, dim=1), action
