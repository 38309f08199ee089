"""Tests of `rlkd.learn.rollout`: its advantages are those of complete episodes, its scores those of whole games."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch

from rlkd import recipe as recipes
from rlkd.data import Step
from rlkd.learn.ppo import policy_spec
from rlkd.learn.rollout import Rollout, Sampler
from rlkd.learn.samples import Samples, prepare
from rlkd.policy.file import build_network
from rlkd.recipe import Environment, Ppo, Stream
from rlkd.vector import Stepper, as_recipe, make_vec
from tests import reference
from tests.reference import Played

SHORT = dataclasses.replace(recipes.load("rl/ppo_classic", Ppo), num_envs=4, rollout_steps=32)


class Watched(Stepper):
    """Keeps what it hands out."""

    def __init__(self, environment: Environment, rows: int, seed: int) -> None:
        super().__init__(make_vec(environment, rows, seed))
        self.seen: list[Step] = []

    def receive(self) -> Step:
        self.seen.append(super().receive())
        return self.seen[-1]


def sampled(environment: Environment, agent: Ppo) -> tuple[Rollout, Samples, list[Step]]:
    """One rollout of an untrained network by two uneven halves, what is learnt from it, all that the sampler saw."""
    network = build_network(policy_spec(environment, agent, origin=""))
    network.initialise(torch.Generator().manual_seed(0), for_rl=True)
    halves = [Watched(environment, 1, seed=0), Watched(environment, agent.num_envs - 1, seed=1)]
    sampler = Sampler(halves, environment, agent, network, "float32")
    rollout = sampler.collect(torch.Generator().manual_seed(0))
    sampler.close()
    both = zip(*(half.seen for half in halves), strict=True)
    names = [field.name for field in dataclasses.fields(Step)]
    steps = [
        Step(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}) for parts in both
    ]
    return rollout, prepare(network, rollout, agent, "float32"), steps


def lives_matter(name: str, lives: Literal["game", "life"], frame_cap: int) -> Environment:
    shipped = as_recipe(name)
    assert shipped.emulator is not None
    emulator = dataclasses.replace(shipped.emulator, lives=lives)
    return dataclasses.replace(shipped, emulator=emulator, frame_cap=frame_cap)


PIXELS = dataclasses.replace(
    SHORT, network="nature_62k", num_envs=2, rollout_steps=200, streams=(Stream(discount=0.9),)
)
ROLLOUTS = {
    "terminated and truncated": (dataclasses.replace(as_recipe("cartpole"), frame_cap=20), SHORT, False),
    "a lost life ends": (lives_matter("breakout", "life", 600), PIXELS, True),
    "a lost life does not end": (lives_matter("breakout", "game", 600), PIXELS, False),
    "signs of rewards": (
        lives_matter("ms_pacman", "game", 400),
        dataclasses.replace(PIXELS, streams=(Stream(discount=0.9, sign=True),)),
        False,
    ),
}


@pytest.mark.parametrize(("environment", "agent", "life_ends"), ROLLOUTS.values(), ids=ROLLOUTS.keys())
def test_a_rollouts_advantages_are_those_of_its_episodes_and_its_scores_those_of_whole_games(
    environment: Environment, agent: Ppo, life_ends: bool
) -> None:
    rollout, samples, steps = sampled(environment, agent)
    T, N = agent.rollout_steps, agent.num_envs
    (stream,) = agent.streams
    advantage = samples.advantage.view(T, N).double().numpy()
    value = rollout.value[..., 0].double().numpy()
    assert rollout.valid.tolist() == [step.valid.tolist() for step in steps]
    torch.testing.assert_close(samples.target.view(T, N), rollout.value[:-1, :, 0] + samples.advantage.view(T, N))
    checked, scores = 0, []
    for n in range(N):
        episode: list[Played] = []
        score = 0.0
        for t, step in enumerate(steps):
            if not step.valid[n]:
                assert advantage[t, n] == 0
                continue
            score += step.reward[n]
            reward = np.sign(step.reward[n]) if stream.sign else step.reward[n]
            ends = bool(step.terminated[n] or (life_ends and step.life_lost[n]))
            played = Played(t, reward, value[t, n], value[t + 1, n], ends, bool(step.truncated[n]))
            episode.append(played)
            if step.ended[n]:
                scores.append(score)
                score = 0.0
            if ends or step.truncated[n]:
                wanted = reference.episode_advantages(episode, stream.discount, stream.gae_lambda)
                assert [advantage[t, n] for t in wanted] == pytest.approx(list(wanted.values()), abs=1e-4)
                checked += len(wanted)
                episode = []
    assert checked >= 80
    assert sorted(episode.score for episode in rollout.episodes) == sorted(scores)
    assert len(scores) >= 2
    if stream.sign:
        assert max(scores) > 10


def test_the_same_play_gives_other_advantages_but_the_same_scores_when_lives_end_episodes() -> None:
    ending, not_ending = (sampled(*ROLLOUTS[name][:2]) for name in ("a lost life ends", "a lost life does not end"))
    assert torch.equal(ending[0].action, not_ending[0].action)
    assert any(step.life_lost.any() for step in ending[2])
    assert not torch.allclose(ending[1].advantage, not_ending[1].advantage)
    assert ending[0].episodes == not_ending[0].episodes


def test_a_broken_episode_is_left_out_from_its_beginning_and_nothing_else() -> None:
    class Broken(Watched):
        """Says at its 20th step that its row 1 broke."""

        def receive(self) -> Step:
            step = super().receive()
            if len(self.seen) != 20:
                return step
            row = np.arange(self.num_envs) == 1
            names = {"broken": row, "first": step.first | row, "valid": step.valid & ~row}
            return dataclasses.replace(step, **names)

    environment = dataclasses.replace(as_recipe("cartpole"), frame_cap=8)
    network = build_network(policy_spec(environment, SHORT, origin=""))
    sampler = Sampler([Broken(environment, 4, seed=0)], environment, SHORT, network, "float32")
    rollout = sampler.collect(torch.Generator().manual_seed(0))
    sampler.close()
    whole = np.ones((32, 4), bool)
    whole[8::9] = False  # every episode is cut after 8 steps, and a ninth one resets
    begun = int(np.flatnonzero(rollout.first[:20, 1])[-1])
    assert begun == 18
    whole[begun:20, 1] = False
    assert rollout.valid.tolist() == whole.tolist()
