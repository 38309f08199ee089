"""Tests of `rlkd.learn.dqn`: values known by hand, another library's updates, and nothing lost when a run stops."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest
import safetensors
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from rlkd import recipe as recipes
from rlkd.data import Step
from rlkd.errors import NotFiniteError, RecipeError, StorageError
from rlkd.learn import train
from rlkd.learn.checkpoint import FILE
from rlkd.learn.chunks import ChunkSampler
from rlkd.learn.dqn import steps_earned, train_dqn
from rlkd.learn.q_learning import Learner, make_learner, targets, update
from rlkd.learn.values import ValueNetwork, value_spec
from rlkd.metrics import read_metrics
from rlkd.policy import load_policy
from rlkd.policy.file import build_network
from rlkd.recipe import Dqn
from rlkd.replay import Batch, Transitions
from rlkd.vector import Stepper, as_recipe, make_vec

CLASSIC = recipes.load("rl/dqn_classic", Dqn)
SHORT = replace(
    CLASSIC, network="mlp_64", frames=1024, num_envs=4, states=600, learning_starts=100, train_every=8, batch=16
)
POLICY = Path("generations") / "000" / "policy.safetensors"
CPU = torch.device("cpu")
DISCOUNT = 0.8


class Chain(gymnasium.Env[np.ndarray, np.int64]):
    """Four places in a row, walls around them but for the right end: whoever leaves there has 1 point and is done."""

    observation_space = gymnasium.spaces.Box(0, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.place = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return self.seen(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = max(0, self.place + (1 if action == 1 else -1))
        out = self.place == 4
        return self.seen(), float(out), out, False, {}

    def seen(self) -> np.ndarray:
        picture: np.ndarray = np.eye(5, 4, dtype=np.float32)[self.place]
        return picture


class Ticks(gymnasium.Env[np.ndarray, np.int64]):
    """A quarter of a point a step, always the same picture; over after five steps, by itself or by a limit."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, *, ends: bool = False, breaks_after: int = 10**9, render_mode: str | None = None) -> None:
        self.ends, self.left = ends, breaks_after
        self.ticks = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.ticks = 0
        return np.ones(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.ticks += 1
        self.left -= 1
        reward = 0.25 if self.left else float("nan")
        return np.ones(1, np.float32), reward, self.ends and self.ticks == 5, False, {}


GAMES: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "RlkdChain-v0": (Chain, 12, {}),
    "RlkdTicksCut-v0": (Ticks, 5, {}),
    "RlkdTicksOver-v0": (Ticks, 1000, {"ends": True}),
    "RlkdTicksBroken-v0": (Ticks, 5, {"breaks_after": 300}),
}
for _name, (_game, _limit, _options) in GAMES.items():
    gymnasium.register(_name, _game, max_episode_steps=_limit, kwargs=_options, disable_env_checker=True)

KNOWN = Dqn(
    network="mlp_64",
    frames=2600,
    num_envs=4,
    states=2600,
    learning_starts=200,
    train_every=2,
    target_every=20,
    batch=32,
    learning_rate=3e-3,
    discount=DISCOUNT,
    double=False,
    epsilon_end=1.0,
)
VALUE = [DISCOUNT**3, DISCOUNT**2, DISCOUNT, 1.0]
BEST = np.array([[DISCOUNT * VALUE[max(place - 1, 0)], VALUE[place]] for place in range(4)])
"""Of the chain: going left costs a step back, going right gets there in the fewest steps."""


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({}, id="plain"),
        pytest.param({"double": True}, id="double"),
        pytest.param({"duelling": True}, id="duelling"),
        pytest.param({"prioritised": True}, id="prioritised"),
        pytest.param({"quantiles": 8, "frames": 4600}, id="quantiles"),
    ],
)
def test_the_values_of_a_chain_are_those_known_by_hand(switches: dict[str, Any], tmp_path: Path) -> None:
    policy = train_dqn(as_recipe("RlkdChain-v0"), replace(KNOWN, **switches), run=tmp_path, seed=0)
    q = policy(np.eye(4, dtype=np.float32)).params["q"]
    assert q.detach().numpy() == pytest.approx(BEST, abs=0.06)


def test_everything_at_once_finds_the_way_out_of_the_chain(tmp_path: Path) -> None:
    # Returns over three steps are those of who acts: near greedy play, and only their order is known.
    agent = replace(
        KNOWN, double=True, duelling=True, prioritised=True, quantiles=8, n_step=3, epsilon_end=0.1, frames=3200
    )
    policy = train_dqn(as_recipe("RlkdChain-v0"), agent, run=tmp_path, seed=0)
    q = policy(np.eye(4, dtype=np.float32)).params["q"]
    assert q.argmax(1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    ("game", "want"),
    [
        pytest.param("RlkdTicksCut-v0", 0.25 / (1 - DISCOUNT), id="a cut episode goes on in its value"),
        pytest.param("RlkdTicksOver-v0", None, id="a terminated one does not"),
    ],
)
def test_truncation_bootstraps_and_termination_does_not(
    game: str, want: float | None, n_step: int, tmp_path: Path
) -> None:
    if want is None:  # drawn at any of five ticks alike: v = mean over ticks of (rewards left, at most n, then v)
        left = [min(n_step, 5 - tick) for tick in range(5)]
        sums = [0.25 * sum(DISCOUNT**k for k in range(count)) for count in left]
        goes_on = sum(5 - tick > n_step for tick in range(5))
        want = sum(sums) / 5 / (1 - goes_on / 5 * DISCOUNT**n_step)
    agent = replace(KNOWN, n_step=n_step, frames=1800, target_every=10)
    policy = train_dqn(as_recipe(game), agent, run=tmp_path, seed=0)
    q = policy(np.ones((1, 1), np.float32)).params["q"].detach()
    # No error is above 1, so that the Huber loss is least at the mean. The other way round it would be 0.5 away.
    assert q.numpy() == pytest.approx(np.full((1, 2), want), abs=0.1)


def weights_of(ours: ValueNetwork, theirs: nn.Module, quantiles: int) -> None:
    """Copy Stable-Baselines3's layers into ours; their quantiles stand before actions, ours behind."""
    linear = [layer for layer in theirs.modules() if isinstance(layer, nn.Linear)]
    own = [layer for layer in ours.policy.encoder if isinstance(layer, nn.Linear)]
    for mine, other in zip([*own, ours.advantage], linear, strict=True):
        weight, bias = other.weight.data, other.bias.data
        if quantiles and mine is ours.advantage:
            weight = weight.view(quantiles, -1, weight.shape[1]).transpose(0, 1).flatten(0, 1)
            bias = bias.view(quantiles, -1).T.flatten()
        mine.weight.data.copy_(weight)
        mine.bias.data.copy_(bias)


@pytest.mark.parametrize("quantiles", [0, 7], ids=["DQN", "QR-DQN"])
@pytest.mark.parametrize("limit", [10.0, 0.5])
def test_updates_are_those_of_stable_baselines3(quantiles: int, limit: float, tmp_path: Path) -> None:
    algorithm: Any = pytest.importorskip("sb3_contrib").QRDQN if quantiles else DQN
    path = tmp_path / "relu.toml"
    path.write_text('kind = "network"\nencoder = "mlp"\nhidden = [32, 24]\n')
    settings: dict[str, Any] = {"net_arch": [32, 24], "activation_fn": nn.ReLU}
    settings |= {"n_quantiles": quantiles} if quantiles else {}
    settings |= {"optimizer_class": torch.optim.Adam, "optimizer_kwargs": {"eps": 1e-7}}
    model = algorithm(
        "MlpPolicy",
        gymnasium.make("CartPole-v1"),
        learning_rate=1e-3,
        gamma=0.97,
        max_grad_norm=limit,
        policy_kwargs=settings,
        seed=1,
        device="cpu",
    )
    model.set_logger(Logger(None, []))
    theirs, their_target = (
        (model.quantile_net, model.quantile_net_target) if quantiles else (model.q_net, model.q_net_target)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in their_target.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.3)
    agent = replace(
        CLASSIC,
        network=str(path),
        double=False,
        quantiles=quantiles,
        learning_rate=1e-3,
        adam_epsilon=1e-7,
        max_gradient_norm=limit,
    )
    learner = make_learner(value_spec(as_recipe("cartpole"), agent, origin=""), agent, seed=5, device=CPU)
    weights_of(learner.online, theirs, quantiles)
    weights_of(learner.target, their_target, quantiles)
    samples, batches = [], []
    for _ in range(4):
        observation, following = (torch.randn(32, 4, generator=generator) for _ in range(2))
        action = torch.randint(2, (32, 1), generator=generator)
        reward = 3 * torch.randn(32, 1, generator=generator)
        over = (torch.rand(32, 1, generator=generator) < 0.3).float()
        samples.append(ReplayBufferSamples(observation, action, following, over, reward))
        discount = 0.97 * (1 - over[:, 0])
        chance = torch.full((32,), 0.01)
        batches.append(Batch(observation, action[:, 0], reward[:, 0], following, discount, chance, np.arange(32)))
    given = iter(samples)
    model.replay_buffer.sample = lambda *_, **__: next(given)
    model.train(gradient_steps=4, batch_size=32)
    for batch in batches:
        update(learner, agent, batch, "float32", beta=0.4)
    want = ValueNetwork(value_spec(as_recipe("cartpole"), agent, origin=""), agent)
    weights_of(want, theirs, quantiles)
    for name, weight in want.named_parameters():
        if "policy.head" not in name:
            torch.testing.assert_close(dict(learner.online.named_parameters())[name], weight, rtol=0, atol=1e-5)


def small_learner(**switches: Any) -> tuple[Learner, Dqn]:
    agent = replace(CLASSIC, network="mlp_64", **switches)
    learner = make_learner(value_spec(as_recipe("acrobot"), agent, origin=""), agent, seed=0, device=CPU)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in (learner.online, learner.target):
            for weight in network.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.2)
    return learner, agent


def small_batch(rows: int) -> Batch:
    generator = torch.Generator().manual_seed(2)
    observation, following = (torch.randn(rows, 6, generator=generator) for _ in range(2))
    action = torch.randint(3, (rows,), generator=generator)
    reward = torch.randn(rows, generator=generator)
    discount = torch.linspace(0, 0.97, rows)
    return Batch(observation, action, reward, following, discount, torch.linspace(0.1, 1, rows), np.arange(rows))


@pytest.mark.parametrize("quantiles", [0, 5])
def test_double_lets_the_learner_pick_and_the_target_network_value(quantiles: int) -> None:
    batch = small_batch(64)
    found = {}
    for double in (False, True):
        learner, agent = small_learner(double=double, quantiles=quantiles)
        found[double] = targets(learner, agent, batch, "float32")
        online, target = learner.online(batch.following).detach(), learner.target(batch.following).detach()
        for k in range(64):
            chooser = online if double else target
            means = [float(quantiles.mean()) for quantiles in chooser[k]]
            want = batch.reward[k] + batch.discount[k] * target[k, means.index(max(means))]
            torch.testing.assert_close(found[double][k], want)
    assert (found[False] != found[True]).any()


def test_rare_draws_weigh_less_by_the_importance_weights_and_errors_are_unweighted() -> None:
    batch = small_batch(8)
    learner, agent = small_learner(prioritised=True)
    wanted, answer = targets(learner, agent, batch, "float32"), learner.online(batch.observation).detach()
    error = (wanted - answer[torch.arange(8), batch.action])[:, 0]
    weight = (batch.probability * 8) ** -0.7
    bias = learner.online.advantage.bias
    errors, _ = update(learner, replace(agent, max_gradient_norm=None), batch, "float32", beta=0.7)
    assert errors == pytest.approx(error.abs().numpy(), abs=1e-5)
    pull = [-(weight / weight.max() * error.clamp(-1, 1))[batch.action == a].sum().item() / 8 for a in range(3)]
    assert bias.grad is not None
    assert bias.grad.tolist() == pytest.approx(pull, abs=1e-5)


@pytest.mark.parametrize("switches", [{}, {"double": False}, {"quantiles": 5}, {"prioritised": True}])
def test_a_batch_in_parts_takes_the_same_step_as_a_whole_one(switches: dict[str, Any]) -> None:
    agent = replace(recipes.load("rl/dqn", Dqn), network="nature_62k", batch=33, **switches)
    generator = torch.Generator().manual_seed(1)
    seen = torch.randint(0, 256, (2, 33, 4, 84, 84), dtype=torch.uint8, generator=generator)
    action, chance = torch.randint(6, (33,), generator=generator), torch.rand(33, generator=generator)
    batch = Batch(seen[0], action, torch.randn(33, generator=generator), seen[1], chance, chance, np.arange(33))
    found = []
    for parts, passes in ((1, {33}), (2, {16, 17})):
        learner = make_learner(value_spec(as_recipe("pong"), agent, origin=""), agent, seed=0, device=CPU)
        learner.parts, sizes = parts, set[int]()
        learner.online.register_forward_pre_hook(lambda _, arguments, sizes=sizes: sizes.add(len(arguments[0])))
        with ThreadPoolExecutor(parts) as pool:
            errors, figures = update(learner, agent, batch, "float32", beta=0.5, each=pool.map)
        assert sizes == passes
        gradients = [weight.grad for weight in learner.online.parameters() if weight.requires_grad]
        found.append([errors, *figures.values(), *gradients])
    for whole, in_parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, in_parts, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("duelling", [False, True])
@pytest.mark.parametrize("quantiles", [0, 1, 5])
def test_the_plain_policy_answers_the_means_of_the_learning_head(duelling: bool, quantiles: int) -> None:
    learner, _ = small_learner(duelling=duelling, quantiles=quantiles)
    observation = small_batch(200).observation
    before = learner.online.policy(observation).params["q"]
    learner.online.fold()
    plain, learning = learner.online.policy(observation).params["q"], learner.online(observation).mean(dim=2)
    torch.testing.assert_close(plain, learning, rtol=0, atol=1e-5)
    assert not torch.allclose(before, plain, atol=1e-2)
    assert learning.std() > 0.1


def test_a_duelling_head_has_two_streams_of_the_recipes_width() -> None:
    learner, agent = small_learner(duelling=True)
    spec = value_spec(as_recipe("acrobot"), agent, origin="")
    assert spec.network.hidden == (64, 128)
    assert learner.online.value is not None
    observation = small_batch(5).observation
    answer = learner.online(observation)
    with torch.no_grad():
        learner.online.value.bias.add_(3.0)
    torch.testing.assert_close(learner.online(observation), answer + 3.0)
    with torch.no_grad():
        learner.online.advantage.bias.add_(9.0)  # of all actions alike: no advantage
    torch.testing.assert_close(learner.online(observation), answer + 3.0)


def lives_matter(lives: Literal["game", "life"]) -> Any:
    shipped = as_recipe("breakout")
    assert shipped.emulator is not None
    return replace(shipped, emulator=replace(shipped.emulator, lives=lives), frame_cap=600)


@pytest.mark.parametrize(
    ("environment", "sign"),
    [
        pytest.param(as_recipe("RlkdChain-v0"), False, id="terminated and truncated"),
        pytest.param(lives_matter("life"), False, id="a lost life ends"),
        pytest.param(lives_matter("game"), False, id="a lost life does not end"),
        pytest.param(replace(as_recipe("ms_pacman"), frame_cap=400), True, id="signs of rewards"),
    ],
)
def test_a_chunk_holds_what_the_environments_did_and_nothing_is_dropped(environment: Any, sign: bool) -> None:
    seen: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, Step]] = []

    class Watched(Stepper):
        half = 0
        now: Any = None

        def reset(self, seeds: np.ndarray | None = None) -> np.ndarray:
            observation = super().reset(seeds)
            self.now = (observation.copy(), np.ones(self.num_envs, bool))
            return observation

        def send(self, actions: np.ndarray) -> None:
            self.sent = actions.copy()
            super().send(actions)

        def receive(self) -> Step:
            step = super().receive()
            seen.append((self.half, *self.now, self.sent, step))
            self.now = (step.observation.copy(), step.first)
            return step

    pixels = bool(environment.views)
    agent = replace(SHORT, network="nature_62k" if pixels else "mlp_64", sign=sign, epsilon_fraction=1.0)
    spec = value_spec(environment, agent, origin="")
    network = build_network(spec)
    network.initialise(torch.Generator().manual_seed(0), for_rl=True)
    steppers = [Watched(make_vec(environment, 2, seed=2 * k)) for k in range(2)]
    steppers[1].half = 1
    sampler = ChunkSampler(
        steppers,
        environment,
        agent,
        network,
        steps=0,
        total=1600,
        generator=np.random.default_rng(0),
        precision="float32",
    )
    chunks = [sampler.collect(200), sampler.collect(200)]
    for stepper in steppers:
        stepper.close()
    moves = [move for chunk in chunks for move in chunk.moves]
    assert sum(chunk.steps for chunk in chunks) == 1600
    assert chunks[1].epsilon == pytest.approx(agent.epsilon_end)
    assert len(moves) == len(seen) == 800
    for move, (half, observation, first, action, step) in zip(moves, seen, strict=True):
        assert move.envs.tolist() == [2 * half, 2 * half + 1]
        assert np.array_equal(move.observation, observation)
        assert np.array_equal(move.first, first)
        assert np.array_equal(move.action, action)
        assert np.array_equal(move.reward, np.sign(step.reward) if sign else step.reward)
        ends_with_life = pixels and environment.emulator.lives == "life"
        assert np.array_equal(move.terminated, step.terminated | (step.life_lost & ends_with_life))
        assert np.array_equal(move.valid, step.valid)
    assert sum(not move.valid.all() for move in moves) > 5
    if environment.id == "breakout":
        assert sum(step.life_lost.any() for *_, step in seen) > 5
    if sign:
        assert max(episode.score for chunk in chunks for episode in chunk.episodes) > 10


def test_each_chunk_earns_what_the_recipe_promises() -> None:
    agent = replace(SHORT, learning_starts=100, train_every=7)
    assert [steps_earned(agent, step, step + 64) for step in (0, 64, 128)] == [0, 4, 9]
    assert sum(steps_earned(agent, step, step + 64) for step in range(0, 6400, 64)) == (6400 - 100) // 7


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    agent = replace(SHORT, prioritised=True, duelling=True)
    one, again, other = (
        train_dqn(as_recipe("cartpole"), agent, run=tmp_path / name, seed=seed)
        for name, seed in (("one", 3), ("again", 3), ("other", 4))
    )
    assert one.spec.hash == again.spec.hash != other.spec.hash
    weights = one.network.state_dict()
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    saved = load_policy(tmp_path / "one" / POLICY)
    assert saved.spec == one.spec
    assert (saved.spec.kind, str(saved.spec.rule)) == ("q", "epsilon_greedy 0.01")
    assert saved.spec.action_meanings == ("LEFT", "RIGHT")
    last = read_metrics(tmp_path / "one")[-1]
    assert last["train/gradient_steps"] == (last["step"] - agent.learning_starts) // agent.train_every


def test_a_finished_run_started_again_changes_nothing(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        policy = train_dqn(as_recipe("cartpole"), SHORT, run=tmp_path, seed=0)
        found.append((policy.spec.hash, (tmp_path / FILE).read_bytes(), read_metrics(tmp_path)))
    assert found[0] == found[1]


ENDLESS = """
import dataclasses, sys
from pathlib import Path
from rlkd.errors import Stopped
from rlkd.learn.dqn import train_dqn
from rlkd.vector import as_recipe
from tests.test_learn_dqn import SHORT
agent = dataclasses.replace(SHORT, frames=10**9, checkpoint_seconds=0.2, prioritised=True)
try:
    train_dqn(as_recipe("cartpole"), agent, run=Path(sys.argv[1]), seed=0)
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


def progress_of(run: Path) -> dict[str, Any]:
    with safetensors.safe_open(str(run / FILE), framework="pt") as opened:
        progress: dict[str, Any] = json.loads(opened.metadata()["progress"])
        steps = int(opened.get_tensor("counter.gradient_steps"))
        names = set(opened.keys())
    assert {"network.target.advantage.weight", "optimiser.0.exp_avg", "counter.largest_priority"} <= names
    return progress | {"gradient_steps": steps}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_says_that_its_memory_is_filled_anew(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], cwd=Path(__file__).parent.parent) as process:
        while len(read_metrics(tmp_path)) < 3 or not (tmp_path / FILE).exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        process.wait()
    assert process.returncode == (3 if number == signal.SIGTERM else -signal.SIGKILL)
    before = progress_of(tmp_path)
    agent = replace(SHORT, frames=before["steps"] + 2048, prioritised=True)
    train_dqn(as_recipe("cartpole"), agent, run=tmp_path, seed=0)
    said = capsys.readouterr().err
    assert f"going on at agent step {before['steps']}: the memory is not in a checkpoint and is filled anew" in said
    after = progress_of(tmp_path)
    earned = (after["steps"] - before["steps"] - agent.learning_starts) // agent.train_every
    assert after["gradient_steps"] == before["gradient_steps"] + earned
    curve = [line["step"] for line in read_metrics(tmp_path)]
    assert curve == sorted(set(curve))
    assert curve[-1] == after["steps"]


@pytest.mark.parametrize(("changes", "seed"), [({"quantiles": 5}, 0), ({"duelling": True}, 0), ({}, 1)])
def test_a_run_of_another_shape_or_seed_is_not_gone_on_with(changes: dict[str, Any], seed: int, tmp_path: Path) -> None:
    short = replace(SHORT, frames=512)
    train_dqn(as_recipe("cartpole"), short, run=tmp_path, seed=0)
    with pytest.raises(StorageError, match="holds a run with another environment, network, start or seed"):
        train_dqn(as_recipe("cartpole"), replace(short, **changes), run=tmp_path, seed=seed)


def test_a_reward_that_is_no_number_stops_the_run_by_name_and_the_checkpoint_before_it_stays(tmp_path: Path) -> None:
    agent = replace(KNOWN, learning_starts=64, train_every=4, checkpoint_seconds=0.0)
    with pytest.raises(NotFiniteError, match=r"reward is not finite at agent step [\d,]+: 2 of 2 numbers"):
        train_dqn(as_recipe("RlkdTicksBroken-v0"), agent, run=tmp_path, seed=0)
    assert not (tmp_path / POLICY).exists()
    with safetensors.safe_open(str(tmp_path / FILE), framework="pt") as opened:
        assert all(torch.isfinite(opened.get_tensor(name)).all() for name in set(opened.keys()))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda batch: batch.reward[3:4].fill_(torch.inf), "loss is not finite at gradient step 1: 1 of 8"),
        pytest.param(lambda batch: batch.observation[3, :2].fill_(torch.nan), "loss is not finite"),
    ],
)
def test_a_loss_that_is_no_number_stops_before_a_weight_changes(spoil: Callable[[Batch], object], message: str) -> None:
    batch = small_batch(8)
    learner, agent = small_learner()
    before = [weight.clone() for weight in learner.online.parameters()]
    spoil(batch)
    with pytest.raises(NotFiniteError, match=message):
        update(learner, agent, batch, "float32", beta=0.4)
    assert all(torch.equal(one, other) for one, other in zip(before, learner.online.parameters(), strict=True))


@pytest.mark.parametrize("name", ["rl/dqn", "rl/qrdqn"])
def test_the_shipped_pixel_recipes_play_and_learn(name: str, tmp_path: Path) -> None:
    overrides = ("num_envs=8", "states=2_000", "learning_starts=100", "batch=8", "train_every=64")
    policy = train("pong", name, run=tmp_path, frames=4 * 1000, overrides=overrides)
    assert policy.spec.kind == "q"
    assert policy.spec.environment == as_recipe("pong")
    answer = load_policy(tmp_path / POLICY)(np.zeros((1, 4, 84, 84), np.uint8))
    assert answer.params["q"].shape == (1, 6)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["agent"]["name"] == name
    assert read_metrics(tmp_path)[-1]["train/gradient_steps"] >= 7


@pytest.mark.slow
@pytest.mark.parametrize(("env", "wanted"), [("cartpole", 400.0), ("acrobot", -120.0), ("lunarlander", 100.0)])
def test_dqn_learns_classic_control(env: str, wanted: float, tmp_path: Path) -> None:
    train_dqn(as_recipe(env), CLASSIC, run=tmp_path, seed=0)
    assert read_metrics(tmp_path)[-1]["rollout/ep_rew_mean"] >= wanted


@pytest.mark.parametrize(
    ("env", "network", "switches", "message"),
    [
        ("pendulum", "mlp_64", {}, "need discrete actions"),
        ("cartpole", "LINEAR", {"duelling": True}, "duelling needs a hidden layer"),
        ("cartpole", "CORE", {}, "remembers"),
    ],
)
def test_what_value_learning_cannot_do_is_refused(
    env: str, network: str, switches: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "LINEAR").with_suffix(".toml").write_text('kind = "network"\nencoder = "mlp"\nhidden = []\n')
    (tmp_path / "CORE").with_suffix(".toml").write_text('kind = "network"\nencoder = "mlp"\ncore = "gru"\n')
    path = network if network == "mlp_64" else str(tmp_path / f"{network}.toml")
    with pytest.raises(RecipeError, match=message):
        train_dqn(as_recipe(env), replace(SHORT, network=path, **switches), run=tmp_path / "run", seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 3}, "num_envs must be even"),
        ({"batch": 0}, "batch must be above 0"),
        ({"epsilon_end": 1.5}, r"epsilon_end must be in \[0, 1\], got 1.5"),
        ({"learning_starts": 4}, "learning_starts must be between num_envs x .* = 16 and states = 600, got 4"),
        ({"learning_starts": 601}, "learning_starts must be between"),
        ({"quantiles": -1}, "quantiles must be at least 0"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be above 0"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(SHORT, **changes)


def test_priorities_reach_the_memory_and_the_target_is_copied_when_due(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    noted: list[int] = []
    real = Transitions.update

    def watched(self: Transitions, rows: np.ndarray, errors: Tensor) -> None:
        noted.append(len(rows))
        assert (errors >= 0).all()
        real(self, rows, errors)

    monkeypatch.setattr(Transitions, "update", watched)
    copies: list[int] = []
    load = ValueNetwork.load_state_dict

    def counted(self: ValueNetwork, state: Any, *arguments: Any) -> Any:
        copies.append(len(noted))
        return load(self, state, *arguments)

    monkeypatch.setattr(ValueNetwork, "load_state_dict", counted)
    train_dqn(as_recipe("cartpole"), replace(SHORT, target_every=30, prioritised=True), run=tmp_path, seed=0)
    assert noted == [SHORT.batch] * ((1024 - 100) // 8)
    assert copies == [0, 30, 60, 90]
