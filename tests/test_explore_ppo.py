"""Tests of a bonus inside PPO: what is rewarded when, by which statistics, and that nothing of it is lost."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from rlkd import recipe as recipes
from rlkd.errors import MismatchError, NotFiniteError, RecipeError, Stopped, StorageError
from rlkd.explore import Novelty, Steps, warm_up
from rlkd.explore.models import RandomNetwork
from rlkd.learn import train
from rlkd.learn.checkpoint import FILE
from rlkd.learn.learner import Learner
from rlkd.learn.ppo import policy_spec, train_ppo
from rlkd.learn.rollout import Rollout, Sampler
from rlkd.learn.samples import prepare
from rlkd.learn.scored import make_bonus, put_back, scored, state_of
from rlkd.learn.training import Training
from rlkd.metrics import read_metrics
from rlkd.policy.file import build_network
from rlkd.policy.tensors import put_back as restored
from rlkd.policy.tensors import tensors_of
from rlkd.recipe import Bonus, Ppo, Stream
from rlkd.vector import Stepper, as_recipe, make_vec
from tests import reference_explore

T, N = 5, 3
SMALL = Bonus(features=16, predictor_widths=(24, 20), widths=(12,), warm_up_steps=40)
AGENT = replace(
    recipes.load("rl/ppo_classic", Ppo),
    network="mlp_16",
    num_envs=N,
    rollout_steps=T,
    epochs=2,
    minibatch=8,
    frames=T * N * 12,
    streams=(Stream(coefficient=2.0, discount=0.9), Stream(name="new", reward="bonus", episodic=False, discount=0.8)),
    bonus=SMALL,
)
LENGTHS = (3, 4, 2, 6, 1, 5, 3)


class Walk(gymnasium.Env[np.ndarray, np.int64]):
    """Episodes of known lengths, whatever is done; all begin alike, and each place after that is seen once."""

    observation_space = gymnasium.spaces.Box(0, 100, (6,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, cut: bool = False, render_mode: str | None = None) -> None:
        self.cut, self.lengths = cut, itertools.cycle(LENGTHS)
        self.length = self.place = self.total = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.lengths, self.total = itertools.cycle(LENGTHS), 0
        self.length, self.place = next(self.lengths), 0
        return self.seen(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += 1
        self.total += 1
        over = self.place == self.length
        return self.seen(), 0.5 * self.place, over and not self.cut, over and self.cut, {}

    def seen(self) -> np.ndarray:
        return np.array([self.place, self.total * (self.place > 0), 1, 2, 3, self.place**2], np.float32) / 10


for _cut in (False, True):
    _walk: Any = Walk
    gymnasium.register(f"RlkdWalk{'Cut' if _cut else ''}-v0", _walk, kwargs={"cut": _cut}, disable_env_checker=True)


def lived(cut: bool) -> Iterator[tuple[np.ndarray, np.ndarray, float, bool]]:
    """Observation acted on, observation rewarded, reward, over: as a source gives them that resets within a step."""
    env = Walk(cut)
    env.reset(seed=0)
    seen, _ = env.reset()  # as who steps it does
    while True:
        following, reward, terminated, truncated, _ = env.step(np.int64(0))
        over = terminated or truncated
        if over:
            following, _ = env.reset()
        yield seen, following, reward, over
        seen = following


def rollouts(env: str, count: int) -> list[Rollout]:
    environment = as_recipe(env)
    acting = build_network(policy_spec(environment, AGENT, origin=""))
    acting.initialise(torch.Generator().manual_seed(0), for_rl=True)
    halves = [Stepper(make_vec(environment, size, seed)) for size, seed in ((2, 0), (1, 2))]
    sampler, draws = Sampler(halves, environment, AGENT, acting, "float32"), torch.Generator().manual_seed(0)
    found = [sampler.collect(draws) for _ in range(count)]
    sampler.close()
    return found


def made_bonus(env: str = "RlkdWalk-v0", agent: Ppo = AGENT) -> Novelty:
    bonus = make_bonus(policy_spec(as_recipe(env), agent, origin=""), agent, seed=0, device=torch.device("cpu"))
    assert bonus is not None
    return bonus


def arrivals(bonus: Novelty, rollout: Rollout) -> Tensor:
    """What each step led to, [T, N, ...]."""
    steps = bonus.steps(rollout.observation, rollout.action, rollout.first, rollout.ended)
    return steps.arrived.view(T, N, *steps.arrived.shape[1:])


@pytest.mark.parametrize("cut", [False, True])
def test_batches_are_those_of_a_source_that_resets_within_a_step(cut: bool) -> None:
    name = f"RlkdWalk{'Cut' if cut else ''}-v0"
    bonus, found = made_bonus(name), rollouts(name, 6)
    rows: list[list[tuple[Tensor, Tensor, float, bool]]] = [[] for _ in range(N)]
    for rollout in found:
        arrived = arrivals(bonus, rollout)
        for t, n in rollout.valid.nonzero().tolist():
            step = (rollout.observation[t, n], arrived[t, n], rollout.reward[t, n, 0].item(), bool(rollout.ended[t, n]))
            rows[n].append(step)
    assert any(
        (rollout.ended & rollout.valid)[-1].any() for rollout in found
    )  # also where the next episode had not begun
    for row in rows:
        for (seen, rewarded, reward, over), (want_seen, want_rewarded, want_reward, want_over) in zip(
            row, lived(cut), strict=False
        ):
            assert seen.tolist() == want_seen.tolist()
            assert rewarded.tolist() == want_rewarded.tolist()
            assert over == want_over
            assert reward == pytest.approx(want_reward)


def test_old_statistics_give_the_bonus_and_new_ones_teach_the_predictor() -> None:
    bonus, seen, sums, before = made_bonus(), np.zeros((0, 6)), list[float](), [0.0] * N
    assert isinstance(bonus.model, RandomNetwork)
    networks = bonus.model.target, bonus.model.predictor
    target, predictor = ({k: v.numpy() for k, v in net.state_dict().items()} for net in networks)
    layers = (("0", 0.2), ("2", 1.0)), (("0", 0.2), ("2", 0.0), ("4", 0.0), ("6", 1.0))

    def errors(observations: np.ndarray, statistics: np.ndarray) -> np.ndarray:
        whites = [reference_explore.whitened(each, statistics, 5.0) for each in observations]
        return np.array(
            [
                reference_explore.error(
                    *(
                        reference_explore.answer(net, white, of)
                        for net, of in zip((target, predictor), layers, strict=True)
                    )
                )
                for white in whites
            ]
        )

    for rollout in rollouts("RlkdWalk-v0", 3):
        valid = rollout.valid.numpy()
        arrived = arrivals(bonus, rollout).flatten(0, 1).numpy()
        got, steps, figures = scored(bonus, rollout, AGENT.streams, where="here")
        raw = errors(arrived, seen).reshape(T, N)
        assert figures["bonus/raw"] == pytest.approx(raw[valid].mean(), rel=1e-4)
        found = reference_explore.filtered(raw, valid, before, 0.99)
        before = [each[-1] if each else last for each, last in zip(found, before, strict=True)]
        sums += [value for each in found for value in each]
        _, variance, _ = reference_explore.moments(np.array(sums))
        want = np.where(valid, raw / np.sqrt(variance), 0)
        np.testing.assert_allclose(got.reward[..., 1].numpy(), want, rtol=1e-4)
        assert torch.equal(got.reward[..., 0], rollout.reward[..., 0])
        assert not rollout.reward[..., 1].any()
        seen = np.concatenate([seen, rollout.observation[:-1].numpy()[valid]])
        np.testing.assert_allclose(bonus.seen.mean.numpy(), reference_explore.moments(seen)[0], rtol=1e-9)
        # What the predictor learns from is whitened anew.
        assert steps is not None
        losses = bonus.losses(steps, torch.zeros(T * N))
        np.testing.assert_allclose(losses.detach().numpy(), errors(arrived, seen), rtol=1e-4)


def test_the_bonus_runs_on_over_ends_of_episodes_and_the_game_does_not() -> None:
    bonus, rollout = made_bonus(), rollouts("RlkdWalk-v0", 1)[0]
    rollout, _, _ = scored(bonus, rollout, AGENT.streams, where="here")
    network = build_network(policy_spec(as_recipe("RlkdWalk-v0"), AGENT, origin=""))
    network.initialise(torch.Generator().manual_seed(0), for_rl=True)
    one, other = (
        prepare(network, replace(rollout, terminated=terminated), AGENT, "float32").target
        for terminated in (rollout.terminated, ~rollout.terminated)
    )
    for k, stream in enumerate(AGENT.streams):
        assert torch.equal(one[:, k], other[:, k]) == (stream.reward == "bonus")


def test_the_policy_is_not_moved_by_the_predictors_loss_nor_the_predictor_by_the_policys() -> None:
    network = build_network(policy_spec(as_recipe("RlkdWalk-v0"), AGENT, origin=""))
    network.initialise(torch.Generator().manual_seed(0), for_rl=True)
    rollout = rollouts("RlkdWalk-v0", 1)[0]
    gradients = []
    for doubled in (False, True):
        bonus = made_bonus()
        learner = Learner(network, replace(AGENT, max_gradient_norm=None), "float32", bonus)
        told, steps, _ = scored(bonus, rollout, AGENT.streams, where="here")
        samples = replace(prepare(network, told, AGENT, "float32"), steps=steps)
        rows = torch.arange(T * N)
        kept = bonus.keep(samples.valid, torch.Generator().manual_seed(0))
        before = [p.detach().clone() for p in learner.parameters]
        learner._step(samples, rows, kept * torch.tensor([[2.0 if doubled else 1.0], [1.0]]))
        gradients.append([p.grad for p in learner.parameters if p.grad is not None])
        with torch.no_grad():
            for parameter, value in zip(learner.parameters, before, strict=True):
                parameter.copy_(value)
    of_policy = len(list(network.parameters()))
    for place, (once, twice) in enumerate(zip(*gradients, strict=True)):
        torch.testing.assert_close(twice, once if place < of_policy else 2 * once)
        assert once.any()


def test_a_run_with_a_bonus_goes_on_with_all_that_it_remembered_and_repeats_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(training: Training) -> None:
        if training.progress.rounds == 5:
            raise Stopped("here")

    with monkeypatch.context() as patched:
        patched.setattr(Training, "checkpoint_due", lambda self: self.progress.rounds == 5)
        patched.setattr(Training, "check_stop", stopped)
        with pytest.raises(Stopped):
            train_ppo(as_recipe("cartpole"), AGENT, run=tmp_path / "one", seed=0)
    saved = (tmp_path / "one" / FILE).read_bytes()
    tensors = safetensors.torch.load(saved)
    fresh = state_of(made_bonus("cartpole"))
    for name, tensor in fresh.items():
        assert torch.equal(tensors[name], tensor) == name.startswith("bonus.model.target"), name
    again = []
    for folder in ("one", "two"):
        run = tmp_path / folder
        run.mkdir(exist_ok=True)
        (run / FILE).write_bytes(saved)
        train_ppo(as_recipe("cartpole"), AGENT, run=run, seed=0)
        again.append(safetensors.torch.load((run / FILE).read_bytes()))
    assert again[0].keys() == again[1].keys()
    assert all(torch.equal(tensor, again[1][name]) for name, tensor in again[0].items())
    assert again[0]["bonus.seen.count"] > tensors["bonus.seen.count"]


def test_a_checkpoint_that_lacks_any_part_of_a_bonus_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    whole = state_of(made_bonus())
    put_back(made_bonus(), whole, run="here")
    for name in whole:
        with pytest.raises(StorageError, match="here: its checkpoint does not fit this bonus"):
            put_back(made_bonus(), {k: v for k, v in whole.items() if k != name}, run="here")
    with pytest.raises(StorageError, match="here holds a run without a bonus"):
        put_back(made_bonus(), {}, run="here")
    with pytest.raises(StorageError, match="here holds a run with a bonus"):
        put_back(None, whole, run="here")


def test_a_bonus_that_is_no_number_stops_the_run_with_its_name() -> None:
    bonus, rollout = made_bonus(), rollouts("RlkdWalk-v0", 1)[0]
    with torch.no_grad():
        next(iter(bonus.learning.values())).fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="^bonus is not finite at agent step 7"):
        scored(bonus, rollout, AGENT.streams, where="agent step 7")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bonus": None}, r"no \[bonus\], and 1 such streams"),
        ({"streams": (Stream(),)}, r"there is a \[bonus\], and 0 such streams"),
        ({"bonus": replace(SMALL, clip=1.0), "streams": ()}, "at least one"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be above 0, got 0.0"),
        ({"adam_epsilon": 0.0}, "adam_epsilon must be above 0"),
    ],
)
def test_a_bonus_and_its_stream_belong_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(AGENT, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"features": 0}, {"clip": 0.0}, {"warm_up_steps": -1}, {"filter_discount": 1.0}, {"keep_environments": 0},
     {"channels": ()}, {"name": "counts"}, {"targets": 3}, {"name": "drnd", "targets": 1},
     {"power": 1.0}, {"name": "drnd", "error": "half_sum"}],
)  # fmt: skip
def test_a_bonus_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        replace(SMALL, **changes)


SHORT = ("num_envs=4", "rollout_steps=8", "minibatch=16", "epochs=1")
CLASSIC = ("explore/ppo_rnd_classic", "explore/ppo_dynamics_classic", "explore/ppo_counts")


@pytest.mark.parametrize(
    "name", [entry.name for entry in recipes.shipped("agents") if entry.name.startswith("explore/ppo")]
)
def test_every_shipped_recipe_of_a_bonus_plays_and_learns(name: str, tmp_path: Path) -> None:
    overrides = SHORT if name == "explore/ppo_counts" else (*SHORT, "bonus.warm_up_steps=4", "bonus.features=16")
    if name not in CLASSIC:
        overrides = (*overrides, "bonus.channels=[4, 6, 6]", "bonus.predictor_widths=[16]")
    env = "deep_sea_10" if name in CLASSIC else "montezuma"
    policy = train(env, name, run=tmp_path, frames=32 * 3 * (1 if name in CLASSIC else 4), overrides=overrides)
    assert all(bool(weight.isfinite().all()) for weight in policy.network.parameters())
    (line,) = (line for line in read_metrics(tmp_path) if "bonus/raw" in line)
    assert line["bonus/raw"] > 0
    assert line["bonus/scaled"] > 0


def test_symbols_of_a_grid_are_learnt_from_as_numbers(tmp_path: Path) -> None:
    overrides = (*SHORT, "network='grid'", "bonus.warm_up_steps=4")
    policy = train("doorkey_5x5_fixed", "explore/ppo_rnd_classic", run=tmp_path, frames=64, overrides=overrides)
    assert (policy.spec.observation_shape, policy.spec.observation_dtype) == ((3, 7, 7), "float32")


@pytest.mark.parametrize("cap", [None, "terminates"])
def test_the_end_by_a_limit_is_an_end_where_the_recipe_says_so(cap: Any) -> None:
    environment = replace(as_recipe("cartpole"), frame_cap=7, at_frame_cap=cap)
    acting = build_network(policy_spec(environment, AGENT, origin=""))
    acting.initialise(torch.Generator().manual_seed(0), for_rl=True)
    sampler = Sampler(
        [Stepper(make_vec(environment, N, 0))], environment, replace(AGENT, rollout_steps=8), acting, "float32"
    )
    rollout = sampler.collect(torch.Generator().manual_seed(0))
    sampler.close()
    assert rollout.ended[6].all()
    assert rollout.terminated[6].all() == (cap == "terminates")


def test_a_resumed_bonus_on_pixels_takes_the_step_that_one_without_a_break_takes() -> None:
    environment = as_recipe("montezuma")
    agent = replace(AGENT, network="nature_62k", minibatch=5, bonus=replace(SMALL, channels=(4, 6, 6)))
    spec = policy_spec(environment, agent, origin="")
    generator = torch.Generator().manual_seed(0)
    seen = torch.randint(0, 256, (40, 1, 84, 84), dtype=torch.uint8, generator=generator)
    steps = Steps(None, torch.zeros(40, dtype=torch.int64), seen)

    def made() -> tuple[Learner, Novelty]:
        network, bonus = build_network(spec), made_bonus("montezuma", agent)
        network.initialise(torch.Generator().manual_seed(1), for_rl=True)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Learner(network, agent, "float32", bonus), bonus

    def step(learner: Learner, bonus: Novelty) -> list[Tensor]:
        loss = bonus.losses(steps, torch.zeros(40)).mean()
        loss = loss + learner.network(seen.expand(-1, 4, -1, -1)).value.square().mean()
        for parameter, gradient in zip(
            learner.parameters, torch.autograd.grad(loss, learner.parameters, materialize_grads=True), strict=True
        ):
            parameter.grad = gradient
        learner.optimiser.step()
        return [parameter.detach().clone() for parameter in learner.parameters]

    learner, bonus = made()
    for _ in range(3):
        step(learner, bonus)
    kept = tensors_of(learner.network, learner.optimiser) | state_of(bonus)
    tensors = {name: tensor.clone().contiguous() for name, tensor in kept.items()}
    other, again = made()
    restored(tensors, other.network, other.optimiser)
    put_back(again, tensors, run="here")
    for one, two in zip(step(learner, bonus), step(other, again), strict=True):
        assert torch.equal(one, two)


def test_scores_of_random_play_are_not_the_policys() -> None:
    bonus = made_bonus("cartpole", replace(AGENT, bonus=replace(SMALL, warm_up_steps=100)))
    steppers = [Stepper(make_vec("cartpole", N, 0))]
    assert list(warm_up(bonus, steppers, np.random.default_rng(0))) == [100]
    assert steppers[0].finished == []
    steppers[0].close()


@pytest.mark.parametrize("terminal", ["reset", "final"])
def test_the_whitening_sees_final_observations_where_they_are_rewarded(terminal: Any) -> None:
    bonus = made_bonus(agent=replace(AGENT, bonus=replace(SMALL, terminal=terminal)))
    (rollout,) = rollouts("RlkdWalk-v0", 1)
    before = bonus.seen.count.item()
    scored(bonus, rollout, AGENT.streams, where="here")
    finals = int((rollout.ended[:-1]).sum()) if terminal == "final" else 0
    assert finals > 0 or terminal == "reset"
    assert bonus.seen.count.item() - before == rollout.valid.sum().item() + finals


@pytest.mark.parametrize("core", ["none", "gru"])
def test_a_bonus_learns_the_same_from_a_minibatch_in_pieces(core: Any, tmp_path: Path) -> None:
    path = tmp_path / "network.toml"
    path.write_text(f'kind = "network"\nencoder = "mlp"\nhidden = [8]\ncore = "{core}"\ncore_width = 8\n')
    agent = replace(AGENT, network=str(path), max_gradient_norm=None)
    network = build_network(policy_spec(as_recipe("RlkdWalk-v0"), agent, origin=""))
    network.initialise(torch.Generator().manual_seed(0), for_rl=True)
    (rollout,) = rollouts("RlkdWalk-v0", 1)
    state = torch.zeros(N, network.state_width) if network.state_width else None
    found = []
    for parts in (1, 2, 7):
        bonus = made_bonus(agent=agent)
        learner = Learner(network, agent, "float32", bonus)
        learner.parts = parts
        told, steps, _ = scored(bonus, replace(rollout, state=state), agent.streams, where="here")
        samples = replace(prepare(network, told, agent, "float32"), steps=steps)
        rows = torch.arange(N)[:, None] + N * torch.arange(T) if core == "gru" else torch.arange(T * N)
        kept = bonus.keep(samples.valid[rows.flatten()], torch.Generator().manual_seed(3))
        before = [p.detach().clone() for p in learner.parameters]
        learner._step(samples, rows, kept)
        found.append([p.grad.clone() for p in learner.parameters if p.grad is not None])
        with torch.no_grad():
            for parameter, value in zip(learner.parameters, before, strict=True):
                parameter.copy_(value)
    for pieces in found[1:]:
        for one, two in zip(found[0], pieces, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_an_environment_that_scales_its_rewards_takes_no_bonus(tmp_path: Path) -> None:
    wrapper: Any = gymnasium.wrappers.NormalizeReward

    def make(render_mode: str | None = None) -> Any:
        return gymnasium.wrappers.RescaleObservation(wrapper(Walk()), np.float32(-1), np.float32(1))

    scaled: Any = make
    gymnasium.register("RlkdScaled-v0", scaled, max_episode_steps=20, disable_env_checker=True)
    with pytest.raises(MismatchError, match=r"RlkdScaled-v0 divides its rewards .*\(NormalizeReward\)"):
        train("RlkdScaled-v0", "explore/ppo_rnd_classic", run=tmp_path)
    train("RlkdScaled-v0", "rl/ppo_classic", run=tmp_path / "plain", frames=64)
