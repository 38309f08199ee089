"""Tests of what learns from rollouts: an update is Stable-Baselines3's, memory crosses rollouts, streams add up."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

import rlkd
from rlkd import recipe as recipes
from rlkd.errors import NotFiniteError
from rlkd.learn import learner as learning
from rlkd.learn.learner import Learner, Losses, piece_losses
from rlkd.learn.ppo import policy_spec
from rlkd.learn.rollout import Rollout, Sampler
from rlkd.learn.samples import Piece, answer_all, minibatches, normalised, pieces_of, prepare
from rlkd.losses import generalised_advantages
from rlkd.policy import PolicyNetwork
from rlkd.policy.compute import add_up
from rlkd.policy.file import build_network
from rlkd.recipe import Environment, Ppo, Stream
from rlkd.vector import as_recipe, make_halves

SHORT = dataclasses.replace(
    recipes.load("rl/ppo_classic", Ppo), num_envs=4, rollout_steps=32, epochs=2, minibatch=32, max_gradient_norm=0.5
)
CUT = dataclasses.replace(as_recipe("cartpole"), frame_cap=20)
MEMORY = 'kind = "network"\nencoder = "mlp"\nhidden = [16]\ncore = "{}"\ncore_width = 8\n'


def made(agent: Ppo, environment: Environment, seed: int = 0) -> tuple[PolicyNetwork, Sampler]:
    """A learner with fresh weights, and a sampler that acts with the same."""
    learner, acting = (build_network(policy_spec(environment, agent, origin="")) for _ in range(2))
    learner.initialise(torch.Generator().manual_seed(seed), for_rl=False)  # not uniform, so that actions differ
    acting.load_state_dict(learner.state_dict())
    return learner, Sampler(
        make_halves(environment, agent.num_envs, np.random.default_rng([seed, 3])),
        environment,
        agent,
        acting,
        "float32",
    )


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_one_update_is_that_of_stable_baselines3(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    T, N, epochs, size, rate = 32, 4, 3, 32, 3e-3
    model = PPO(
        "MlpPolicy",
        make_vec_env(env, n_envs=N, seed=0),
        n_steps=T,
        batch_size=size,
        n_epochs=epochs,
        learning_rate=rate,
        ent_coef=0.01,
        gamma=0.97,
        gae_lambda=0.9,
        seed=0,
    )
    orders: list[np.ndarray] = []
    permutation = np.random.permutation

    def noted(number: int) -> np.ndarray:
        orders.append(permutation(number))
        return orders[-1]

    teacher: Any = rlkd.from_sb3(model)
    _, callback = model._setup_learn(T * N)
    callback.on_training_start({}, {})
    buffer: Any = model.rollout_buffer
    model.collect_rollouts(model.get_env(), callback, buffer, T)  # type: ignore[arg-type]  # set by the constructor
    seen: Any = model._last_obs
    last, dones = torch.from_numpy(seen), torch.as_tensor(model._last_episode_starts)
    actions, starts = torch.from_numpy(buffer.actions), torch.from_numpy(buffer.episode_starts)
    last_value = model.policy.predict_values(last).detach()
    rollout = Rollout(
        observation=torch.cat([torch.from_numpy(buffer.observations), last[None]]).float(),
        first=torch.zeros(T + 1, N, dtype=torch.bool),
        state=None,
        action=actions.squeeze(-1).long() if env == "CartPole-v1" else actions,
        log_prob=torch.from_numpy(buffer.log_probs),
        value=torch.cat([torch.from_numpy(buffer.values), last_value.view(1, N)])[..., None],
        reward=torch.from_numpy(buffer.rewards)[..., None],
        terminated=torch.cat([starts[1:], dones[None]]).bool(),
        ended=torch.cat([starts[1:], dones[None]]).bool(),
        valid=torch.ones(T, N, dtype=torch.bool),
        version=torch.zeros(T, N, dtype=torch.int64),
        episodes=[],
    )
    advantages, returns = buffer.advantages.copy(), buffer.returns.copy()
    monkeypatch.setattr(np.random, "permutation", noted)
    model.train()
    agent = dataclasses.replace(
        SHORT,
        streams=(Stream(discount=0.97, gae_lambda=0.9),),
        value_coefficient=1.0,  # half the squared error, which Stable-Baselines3 takes whole at 0.5
        entropy_coefficient=0.01,
        epochs=epochs,
        clip=0.2,
        vtrace=True,
    )
    network = teacher.network
    samples = prepare(network, rollout, agent, "float32")
    np.testing.assert_allclose(samples.advantage.view(T, N), advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(samples.target.view(T, N), returns, rtol=1e-4, atol=1e-5)

    def theirs(*_: object) -> Iterator[Tensor]:
        """Their rows run environment by environment, ours step by step."""
        for order in orders:
            rows = torch.from_numpy(order % T * N + order // T)
            yield from torch.split(rows, size)

    monkeypatch.setattr(learning, "minibatches", theirs)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Learner(network, agent, "float32").learn(samples, torch.Generator(), rate=rate, where="here")
    learnt: Any = rlkd.from_sb3(model).network.state_dict()
    assert len(orders) == epochs
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, learnt[name], rtol=1e-5, atol=1e-5)
        assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("core", ["none", "gru", "lstm"])
def test_the_learner_answers_a_rollout_as_who_acted_did_also_over_its_borders(core: str, tmp_path: Path) -> None:
    agent = SHORT if core == "none" else dataclasses.replace(SHORT, network=written(tmp_path, MEMORY.format(core)))
    learner, sampler = made(agent, CUT)
    draws = torch.Generator().manual_seed(0)
    rollouts = [sampler.collect(draws) for _ in range(2)]
    sampler.close()
    for rollout in rollouts:
        output = answer_all(learner, rollout, "float32")
        assert output.value is not None
        torch.testing.assert_close(output.value.view(rollout.value.shape), rollout.value, rtol=1e-5, atol=1e-6)
        again = dataclasses.replace(rollout, value=torch.full_like(rollout.value, torch.nan))
        samples = prepare(learner, again, agent, "float32")
        torch.testing.assert_close(samples.target.view(32, 4), target_of(rollout), rtol=1e-4, atol=1e-5)
        for rows in minibatches(samples, agent, torch.Generator().manual_seed(0)):
            (piece,) = pieces_of(samples, agent, rows, None, 1)
            losses = piece_losses(learner, agent, "float32", piece)
            assert losses.approx_kl.item() == pytest.approx(0, abs=1e-6)
            assert losses.policy.item() == pytest.approx(-(piece.advantage * piece.weight).sum().item(), abs=1e-5)
    assert any(rollout.first[1:].any() for rollout in rollouts)
    assert not rollouts[1].first[0].all()  # some episode runs on from the first rollout into the second
    if core != "none":
        assert rollouts[1].state is not None
        assert rollouts[1].state.abs().sum() > 0
        forgetful = dataclasses.replace(rollouts[1], state=torch.zeros_like(rollouts[1].state))
        forgotten = answer_all(learner, forgetful, "float32").value
        assert forgotten is not None
        assert not torch.allclose(forgotten.view(rollouts[1].value.shape), rollouts[1].value, atol=1e-4)


def target_of(rollout: Rollout) -> Tensor:
    (stream,) = SHORT.streams
    return generalised_advantages(
        rollout.reward[..., 0],
        rollout.value[..., 0],
        rollout.terminated,
        rollout.valid,
        discount=stream.discount,
        gae_lambda=stream.gae_lambda,
    )[1]


def written(folder: Path, text: str) -> str:
    path = folder / "network.toml"
    path.write_text(text)
    return str(path)


def test_minibatches_of_who_remembers_are_whole_sequences_and_each_is_seen_once_an_epoch(tmp_path: Path) -> None:
    agent = dataclasses.replace(SHORT, network=written(tmp_path, MEMORY.format("gru")), minibatch=64, epochs=3)
    learner, sampler = made(agent, CUT)
    samples = prepare(learner, sampler.collect(torch.Generator().manual_seed(0)), agent, "float32")
    sampler.close()
    found = list(minibatches(samples, agent, torch.Generator().manual_seed(0)))
    assert [rows.shape for rows in found] == [(2, 32)] * 6
    for rows in found:
        assert torch.equal(rows - rows[:, :1], 4 * torch.arange(32).expand(2, 32))
    for epoch in range(3):
        assert sorted(torch.cat(found[2 * epoch : 2 * epoch + 2]).flatten().tolist()) == list(range(128))


@pytest.mark.parametrize(("minibatch", "seen"), [(32, 128), (48, 128), (60, 120), (1000, 128)])
def test_minibatches_hold_each_row_once_an_epoch_but_for_a_small_rest(minibatch: int, seen: int) -> None:
    agent = dataclasses.replace(SHORT, minibatch=minibatch, epochs=1)
    learner, sampler = made(agent, CUT)
    samples = prepare(learner, sampler.collect(torch.Generator().manual_seed(0)), agent, "float32")
    sampler.close()
    rows = torch.cat(list(minibatches(samples, agent, torch.Generator().manual_seed(0)))).tolist()
    assert len(set(rows)) == len(rows) == seen
    assert set(rows) <= set(range(128))


def test_rows_that_were_not_played_weigh_nothing() -> None:
    learner, sampler = made(SHORT, CUT)
    samples = prepare(learner, sampler.collect(torch.Generator().manual_seed(0)), SHORT, "float32")
    sampler.close()
    assert 64 < samples.valid.sum() < 128
    other = dataclasses.replace(
        samples,
        **{  # type: ignore[arg-type]  # tensors all
            name: torch.where(samples.valid.view(-1, *(1 for _ in value.shape[1:])), value, 50)
            for name, value in (
                ("target", samples.target),
                ("log_prob", samples.log_prob),
                ("observation", samples.observation),
            )
        },
    )
    gradients = []
    for each in (samples, other):
        (piece,) = pieces_of(each, SHORT, torch.arange(128), None, 1)
        assert piece.weight.sum().item() == pytest.approx(1)
        gradients.append(learning.gradients_of(Learner(learner, SHORT, "float32"), piece)[1])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_advantages_of_streams_add_up_by_their_coefficients_and_each_has_its_own_value() -> None:
    game = Stream(discount=0.9, coefficient=2.0)
    endless = Stream(name="endless", sign=True, discount=0.99, episodic=False, coefficient=0.5)
    both = dataclasses.replace(SHORT, streams=(game, endless))
    learner, sampler = made(both, CUT)
    rollout = sampler.collect(torch.Generator().manual_seed(0))
    sampler.close()
    assert learner.critic is not None
    assert learner.critic.out_features == 2
    samples = prepare(learner, rollout, both, "float32")
    advantage = torch.zeros(32, 4)
    for k, stream in enumerate(both.streams):
        by_stream, target = generalised_advantages(
            rollout.reward[..., k],
            rollout.value[..., k],
            rollout.terminated,
            rollout.valid,
            discount=stream.discount,
            gae_lambda=stream.gae_lambda,
            episodic=stream.episodic,
        )
        advantage += stream.coefficient * by_stream
        torch.testing.assert_close(samples.target[:, k].view(32, 4), target, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(samples.advantage.view(32, 4), advantage, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(rollout.value[..., 0], rollout.value[..., 1])


def test_a_minibatch_in_pieces_takes_the_same_step_as_a_whole_one() -> None:
    weights = []
    for parts in (1, 3):
        learner, sampler = made(SHORT, CUT)
        samples = prepare(learner, sampler.collect(torch.Generator().manual_seed(0)), SHORT, "float32")
        sampler.close()
        learns = Learner(learner, SHORT, "float32")
        learns.parts = parts
        learns.learn(samples, torch.Generator().manual_seed(0), rate=1e-3, where="here")
        weights.append(learner.state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-6)


def test_advantages_are_normalised_over_valid_rows_alone() -> None:
    advantage = torch.tensor([1.0, 2.0, 3.0, 1e6])
    valid = torch.tensor([True, True, True, False])
    assert normalised(advantage, valid)[:3].tolist() == pytest.approx([-1, 0, 1])


def test_the_first_number_that_is_not_finite_stops_the_update_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, sampler = made(SHORT, CUT)
    samples = prepare(learner, sampler.collect(torch.Generator().manual_seed(0)), SHORT, "float32")
    sampler.close()

    def updated() -> None:
        Learner(learner, SHORT, "float32").learn(samples, torch.Generator(), rate=1e-3, where="agent step 7")

    gradients = learning.gradients_of

    def spoilt(learner: Learner, piece: Piece) -> tuple[Losses, Sequence[Tensor]]:
        losses, found = gradients(learner, piece)
        return losses, [torch.full_like(found[0], torch.inf), *found[1:]]

    with monkeypatch.context() as patched:
        patched.setattr(learning, "gradients_of", spoilt)
        name = next(name for name, _ in learner.named_parameters())
        with pytest.raises(NotFiniteError, match=f"gradient of {name} is not finite at agent step 7"):
            updated()
    with torch.no_grad():
        learner.head.bias[0] = torch.nan
    with pytest.raises(NotFiniteError, match="^loss is not finite at agent step 7: 1 of 1 numbers"):
        updated()


def test_gradients_take_the_layout_of_their_weights_as_fused_optimisers_need() -> None:
    torch.manual_seed(0)
    gradient, start = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    after = []
    for fused in (False, True):
        weight = start.clone(memory_format=torch.channels_last).requires_grad_()
        add_up([weight], [[gradient], [2 * gradient]])
        assert torch.equal(weight.grad, 3 * gradient)  # type: ignore[arg-type]  # it was set
        torch.optim.Adam([weight], lr=0.1, fused=fused).step()
        after.append(weight.detach())
    torch.testing.assert_close(*after)
    assert not torch.equal(after[0], start)
