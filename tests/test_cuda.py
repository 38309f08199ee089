"""Tests that need a CUDA device: what is captured as a graph does what the same lines do one by one."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlkd import recipe as recipes
from rlkd.learn.chunks import ChunkSampler
from rlkd.learn.dqn import make_memory, train_dqn
from rlkd.learn.graphs import Captured
from rlkd.learn.learner import Learner
from rlkd.learn.ppo import policy_spec, train_ppo
from rlkd.learn.q_learning import make_learner, update
from rlkd.learn.rollout import Rollout, Sampler
from rlkd.learn.samples import answer_all, log_prob_and_entropy, prepare
from rlkd.learn.scored import make_bonus, scored
from rlkd.learn.values import value_spec
from rlkd.policy import Output, PolicyNetwork
from rlkd.policy.file import build_network
from rlkd.recipe import Bonus, Dqn, Ppo, Stream
from rlkd.replay import Batch
from rlkd.vector import as_recipe, make_halves

pytestmark = pytest.mark.cuda

PONG = dataclasses.replace(
    recipes.load("rl/ppo", Ppo), network="nature_62k", num_envs=4, rollout_steps=16, minibatch=16, frames=2048
)
MEMORY = 'kind = "network"\nencoder = "conv"\nchannels = [8, 16]\nkernels = [8, 4]\nstrides = [4, 2]\nhidden = [32]\n'
CORES = {"none": MEMORY, "gru": MEMORY + 'core = "gru"\ncore_width = 16\n'}


def made(agent: Ppo, device: str) -> PolicyNetwork:
    network = build_network(policy_spec(as_recipe("pong"), agent, origin=""))
    network.initialise(torch.Generator().manual_seed(0), for_rl=False)
    return network.to(device)


def collected(agent: Ppo, device: str, *, captures: bool) -> tuple[PolicyNetwork, list[Rollout]]:
    """Two rollouts in a row."""
    network, environment = made(agent, device), as_recipe("pong")
    sampler = Sampler(
        make_halves(environment, agent.num_envs, np.random.default_rng(0)), environment, agent, network, "float32"
    )
    sampler.captures = captures
    draws = torch.Generator(device).manual_seed(0)
    rollouts = [sampler.collect(draws) for _ in range(2)]
    sampler.close()
    return network, rollouts


@pytest.mark.parametrize("core", CORES)
def test_a_captured_decision_is_that_of_the_network_for_what_was_seen(core: str, tmp_path: Path) -> None:
    network_recipe = tmp_path / "network.toml"
    network_recipe.write_text(CORES[core])
    agent = dataclasses.replace(PONG, network=str(network_recipe))
    _, rollouts = collected(agent, "cuda", captures=True)
    on_cpu = made(agent, "cpu")
    for rollout in rollouts:
        moved = {field.name: _to_cpu(getattr(rollout, field.name)) for field in dataclasses.fields(rollout)}
        here = Rollout(**moved)
        output = answer_all(on_cpu, here, "float32")
        assert output.value is not None
        torch.testing.assert_close(here.value.flatten(0, 1), output.value, rtol=1e-3, atol=1e-3)
        acted = Output(output.kind, {name: tensor[: here.log_prob.numel()] for name, tensor in output.params.items()})
        log_prob, _ = log_prob_and_entropy(acted, here.action.flatten())
        torch.testing.assert_close(here.log_prob.flatten(), log_prob, rtol=1e-3, atol=1e-3)
    assert len(torch.unique(rollouts[1].action)) > 1
    assert not torch.equal(rollouts[0].action, rollouts[1].action)  # each replay draws anew


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def alike(eager: list[Tensor], captured: list[Tensor], before: list[Tensor]) -> bool:
    """Whether two ways to learn changed weights alike: Adam blows up other rounding where gradients are small."""
    one, other = (
        torch.cat([(a - b).flatten() for a, b in zip(each, before, strict=True)]) for each in (eager, captured)
    )
    assert one.norm() > 0
    return bool(torch.cosine_similarity(one, other, dim=0) > 0.99)


def test_captured_gradient_steps_are_those_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    _, rollouts = collected(PONG, "cuda", captures=False)
    weights = []
    for captures in (False, True):
        network = made(PONG, "cuda")
        learner = Learner(network, PONG, "float32")
        learner.captures = captures
        order = torch.Generator().manual_seed(0)
        for rollout in rollouts:
            samples = prepare(network, rollout, PONG, "float32")
            learner.learn(samples, order, rate=1e-3, where="here")
        weights.append(list(network.state_dict().values()))
    assert alike(weights[0], weights[1], list(made(PONG, "cuda").state_dict().values()))


def test_graphs_that_run_side_by_side_write_into_no_common_memory() -> None:
    pairs, worst = [], torch.zeros(2, device="cuda")
    for k in range(2):  # long sums for few results: parts of them are added up in cuBLAS's workspace
        draws = torch.Generator("cuda").manual_seed(k)
        left, right = (torch.randn(64, 32768, device="cuda", dtype=torch.bfloat16, generator=draws) for _ in "lr")
        pairs.append((left, right, left @ right.T))

    def difference(k: int) -> None:
        left, right, expected = pairs[k]
        worst[k] = torch.maximum(worst[k], (left @ right.T - expected).abs().max())

    graphs = [Captured(partial(difference, k), changes=[worst]) for k in range(2)]
    streams = [torch.cuda.Stream() for _ in graphs]  # type: ignore[no-untyped-call]  # torch does not annotate it
    for _ in range(500):
        for captured, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                captured()
    torch.cuda.synchronize()
    assert pairs[0][2].abs().max() > 100  # what other sums would differ by
    assert worst.max() <= 4, worst  # bfloat16 rounds numbers of this size to 4


def test_a_run_on_the_gpu_is_saved_and_goes_on(tmp_path: Path) -> None:
    train_ppo(as_recipe("pong"), PONG, run=tmp_path, seed=0, device="cuda")
    longer = dataclasses.replace(PONG, frames=4096)
    policy = train_ppo(as_recipe("pong"), longer, run=tmp_path, seed=0, device="cuda")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in policy.network.state_dict().values())


@pytest.mark.parametrize("name", ["pong", "cartpole"])
def test_a_memory_on_the_device_holds_what_one_on_the_cpu_does(name: str) -> None:
    environment = as_recipe(name)
    agent = Dqn(network="nature_62k", frames=10**6, num_envs=4, states=400, learning_starts=100, train_every=4,
        target_every=10, batch=32, learning_rate=1e-3, n_step=2)  # fmt: skip
    if not environment.views:
        agent = dataclasses.replace(agent, network="mlp_16")
    batches = []
    for device in map(torch.device, ("cpu", "cuda")):
        spec = value_spec(environment, agent, origin="")
        memory, generator = make_memory(spec, agent, device), np.random.default_rng(0)
        steppers = make_halves(environment, agent.num_envs, np.random.default_rng(0))
        acting = build_network(spec)
        acting.initialise(torch.Generator().manual_seed(0), for_rl=True)
        acting.to(device)
        sampler = ChunkSampler(
            steppers, environment, dataclasses.replace(agent, epsilon_end=1.0), acting,
            steps=0, total=10**6, generator=np.random.default_rng(1), precision="float32",
        )  # fmt: skip
        for _ in range(3):
            sampler.collect(50).into(memory)
        for stepper in steppers:
            stepper.close()
        batches.append([memory.draw(32, generator) for _ in range(8)])
    for here, there in zip(*batches, strict=True):
        assert there.observation.is_cuda
        for field in dataclasses.fields(here):
            one, other = getattr(here, field.name), getattr(there, field.name)
            if isinstance(one, Tensor) and one.is_floating_point():  # a device fuses products and sums
                torch.testing.assert_close(_to_cpu(other), one, rtol=1e-6, atol=1e-7)
            else:
                assert np.array_equal(np.asarray(one), np.asarray(_to_cpu(other)))


def test_dqn_trains_on_the_device_and_its_policy_plays(tmp_path: Path) -> None:
    agent = dataclasses.replace(
        recipes.load("rl/qrdqn", Dqn), network="nature_62k", num_envs=8, states=2000, learning_starts=400, frames=8000
    )
    policy = train_dqn(as_recipe("pong"), agent, run=tmp_path / "run", seed=0, device="cuda")
    assert policy(np.zeros((1, 4, 84, 84), np.uint8)).flat.isfinite().all()


@pytest.mark.parametrize("quantiles", [0, 8])
def test_captured_value_learning_is_that_of_the_same_lines_one_by_one(quantiles: int) -> None:
    environment, generator = as_recipe("pong"), torch.Generator().manual_seed(0)
    agent = dataclasses.replace(recipes.load("rl/dqn", Dqn), network="nature_62k", quantiles=quantiles, batch=16)
    seen = torch.randint(0, 256, (8, 16, 4, 84, 84), dtype=torch.uint8, generator=generator).cuda()
    action, reward = torch.randint(0, 6, (8, 16), generator=generator).cuda(), torch.randn(8, 16).cuda()
    discount, chance = torch.rand(8, 16).cuda(), torch.rand(8, 16).cuda()
    learnt = []
    for captures in (False, True):
        spec = value_spec(environment, agent, origin="")
        learner = make_learner(spec, agent, seed=0, device=torch.device("cuda"))
        learner.captures, said = captures, []
        for k in range(4):
            batch = Batch(seen[k], action[k], reward[k], seen[k + 4], discount[k], chance[k], np.arange(16))
            errors, figures = update(learner, agent, batch, "float32", beta=0.4 + 0.1 * k)
            said += [errors.clone(), *figures.values()]
        learnt.append([*said, *learner.online.state_dict().values()])
    for eager, captured in zip(*learnt, strict=True):
        torch.testing.assert_close(captured, eager, rtol=1e-4, atol=1e-5)


NEW = dataclasses.replace(
    PONG,
    streams=(Stream(sign=True), Stream(name="new", reward="bonus", episodic=False)),
    bonus=Bonus(features=16, channels=(4, 6, 6), predictor_widths=(16,), warm_up_steps=20),
)


@pytest.mark.parametrize("name", ["rnd", "drnd", "dynamics"])
def test_captured_gradient_steps_with_a_bonus_are_those_taken_one_by_one(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    assert NEW.bonus is not None
    agent = dataclasses.replace(NEW, bonus=dataclasses.replace(NEW.bonus, name=name))
    _, rollouts = collected(agent, "cuda", captures=False)
    learnt = []
    for captures in (False, True):
        network = made(agent, "cuda")
        bonus = make_bonus(policy_spec(as_recipe("pong"), agent, origin=""), agent, seed=0, device=torch.device("cuda"))
        learner = Learner(network, agent, "float32", bonus)
        before = [parameter.detach().clone() for parameter in learner.parameters]
        learner.captures = captures
        assert bonus is not None
        order, keeps = torch.Generator().manual_seed(0), torch.Generator("cuda").manual_seed(1)
        for rollout in rollouts:
            told, steps, _ = scored(bonus, rollout, agent.streams, where="here")
            samples = dataclasses.replace(prepare(network, told, agent, "float32"), steps=steps)
            learner.learn(samples, order, rate=1e-3, where="here", keeps=keeps)
        learnt.append([parameter.detach().clone() for parameter in learner.parameters])
    assert alike(learnt[0], learnt[1], before)


def test_a_run_with_a_bonus_on_the_gpu_is_saved_and_goes_on(tmp_path: Path) -> None:
    train_ppo(as_recipe("pong"), NEW, run=tmp_path, seed=0, device="cuda")
    longer = dataclasses.replace(NEW, frames=4096)
    policy = train_ppo(as_recipe("pong"), longer, run=tmp_path, seed=0, device="cuda")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in policy.network.state_dict().values())


@pytest.mark.parametrize("name", ["rnd", "drnd", "dynamics", "counts"])
def test_a_value_learner_with_a_bonus_on_the_gpu_is_saved_and_goes_on(name: Any, tmp_path: Path) -> None:
    learnt: dict[str, Any] = {"features": 16, "channels": (4, 6, 6), "predictor_widths": (16,), "warm_up_steps": 20}
    agent = Dqn(network="nature_62k", frames=2560, num_envs=4, states=400, learning_starts=100, train_every=4,
        target_every=10, batch=32, learning_rate=1e-3, n_step=2,
        bonus=Bonus(name=name, terminal="final", **(learnt if name != "counts" else {})),
        bonus_coefficient=0.5)  # fmt: skip
    for frames in (2560, 5120):
        longer = dataclasses.replace(agent, frames=frames)
        policy = train_dqn(as_recipe("pong"), longer, run=tmp_path, seed=0, device="cuda")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in policy.network.state_dict().values())
