"""Tests of a bonus for learners with a memory: counted at the visit, asked for anew at each draw, never in a reward."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from rlkd import recipe as recipes
from rlkd.errors import NotFiniteError, RecipeError, StorageError
from rlkd.explore.models import Counts, RandomNetwork
from rlkd.learn import train
from rlkd.learn.checkpoint import FILE
from rlkd.learn.dqn import make_memory, train_dqn
from rlkd.learn.relabelled import Curiosity, make_curiosity
from rlkd.learn.scored import make_bonus, put_back, state_of
from rlkd.learn.values import value_spec
from rlkd.metrics import read_metrics
from rlkd.recipe import Bonus, Dqn
from rlkd.replay import Transitions
from rlkd.vector import as_recipe
from tests import reference_explore

N, DISCOUNT = 2, 0.9
CPU = torch.device("cpu")
SMALL = Bonus(features=8, predictor_widths=(10, 9), widths=(7,), warm_up_steps=4, terminal="final", keep_environments=N)
AGENT = Dqn(
    network="mlp_16",
    frames=640,
    num_envs=N,
    states=200,
    learning_starts=32,
    train_every=4,
    target_every=10,
    batch=8,
    learning_rate=1e-2,
    discount=DISCOUNT,
    n_step=3,
    bonus=SMALL,
    bonus_coefficient=0.5,
)
ENDS = {0: (4, 9, 13), 1: (2, 11)}
"""Of each environment, the appended states that are an episode's final ones: nothing is done there."""


def made(agent: Dqn = AGENT) -> tuple[Curiosity, Transitions]:
    environment = as_recipe("cartpole")
    spec = value_spec(environment, agent, origin="")
    curiosity = make_curiosity(make_bonus(spec, agent, seed=0, device=CPU), agent, attempt=1, device=CPU)
    assert curiosity is not None
    return curiosity, make_memory(spec, agent, CPU)


def picture(env: int, count: int) -> np.ndarray:
    """Of a state that comes once, but for the first one of each episode."""
    first = count == 0 or count - 1 in ENDS[env]
    return np.array([env, 0, 1, 2] if first else [env, count, count % 5, count**0.5], np.float32)


def played(memory: Transitions, begin: int, end: int) -> None:
    """Append the states of both environments from one count on."""
    envs = range(N)
    for count in range(begin, end):
        final = np.array([count in ENDS[env] for env in envs])
        first = np.array([count == 0 or count - 1 in ENDS[env] for env in envs])
        over = np.array([count + 1 in ENDS[env] for env in envs])
        seen = np.stack([picture(env, count) for env in envs])
        memory.append(np.arange(N), seen, first, np.full(N, count % 2), np.full(N, 0.25 * count), over, ~final)


def errors_of(model: RandomNetwork, values: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> list[float]:
    """What each is worth, unscaled, by the slow reference."""
    target, predictor = (
        {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
        for network in (model.target, model.predictor)
    )
    found = []
    for value in values:
        white = reference_explore.whitened(value, np.stack(seen), 5.0) if len(seen) else np.clip(value, -5, 5)
        asked = reference_explore.answer(target, white, [("0", 0.2), ("2", 1.0)])
        said = reference_explore.answer(predictor, white, [("0", 0.2), ("2", 0.0), ("4", 0.0), ("6", 1.0)])
        found.append(reference_explore.error(asked, said))
    return found


def test_each_step_is_looked_at_once_by_old_statistics_and_noted_beside_the_rewards() -> None:
    curiosity, memory = made()
    model = curiosity.bonus.model
    assert isinstance(model, RandomNetwork)
    seen: list[np.ndarray] = []
    before: list[float] = [0.0] * N
    sums: list[float] = []
    done = 0
    for begin, end in ((0, 1), (1, 7), (7, 12)):
        played(memory, begin, end)
        steps = range(done, end - 1)  # whose outcome is there
        valid = np.array([[count not in ENDS[env] for env in range(N)] for count in steps]).reshape(-1, N)
        wanted = np.array(
            [errors_of(model, [picture(env, count + 1) for env in range(N)], seen) for count in steps]
        ).reshape(-1, N)
        rewards = memory._reward.copy()
        figures = curiosity.visit(memory, end - begin, where="here")
        assert np.array_equal(memory._reward, rewards)
        if not steps:
            assert figures == {}
            continue
        noted = memory.bonus[memory.states.address(np.arange(N)[None], np.array(steps)[:, None])]
        assert noted == pytest.approx(wanted * valid, rel=1e-4)
        seen += [picture(env, count + 1) for count in steps for env in range(N) if count not in ENDS[env]]
        found = reference_explore.filtered(wanted, valid, before, 0.99)
        sums += [value for line in found for value in line]
        before = [line[-1] for line in found]
        mean, variance, count = reference_explore.moments(seen)
        assert curiosity.bonus.seen.mean.numpy() == pytest.approx(mean)
        assert curiosity.bonus.seen.var.numpy() == pytest.approx(variance)
        assert curiosity.bonus.seen.count.item() == pytest.approx(count)
        deviation = reference_explore.moments([np.array(value) for value in sums])[1] ** 0.5
        assert curiosity.bonus.scaling.sums.deviation().item() == pytest.approx(float(deviation), rel=1e-5)
        assert figures["bonus/raw"] == pytest.approx((wanted * valid).sum() / valid.sum(), rel=1e-4)
        done = end - 1
    assert done == 11


def test_a_return_holds_what_its_steps_are_worth_now_and_rewards_stay_as_they_were() -> None:
    curiosity, memory = made()
    played(memory, 0, 16)
    curiosity.visit(memory, 16, where="here")
    noted, rewards = memory.bonus.copy(), memory._reward.copy()
    with torch.no_grad():
        for weight in curiosity.bonus.learning.values():
            weight.mul_(0.7)  # it has learnt since
    batch = memory.draw(64, np.random.default_rng(0))
    relabelled, figures = curiosity.relabelled(memory, batch)
    model, scale = curiosity.bonus.model, curiosity.bonus.scaling.sums.deviation().item()
    assert isinstance(model, RandomNetwork)
    seen = [picture(env, count + 1) for count in range(15) for env in range(N) if count not in ENDS[env]]
    first = []
    for k, row in enumerate(batch.rows):
        env, count = divmod(int(row), memory.states.stride)
        total = 0.0
        for step in range(AGENT.n_step):
            (worth,) = errors_of(model, [picture(env, count + step + 1)], seen)
            total += DISCOUNT**step * worth / scale
            first += [worth / scale] if not step else []
            if count + step + 1 in ENDS[env]:
                break
        assert (relabelled.reward[k] - batch.reward[k]).item() == pytest.approx(0.5 * total, rel=1e-3)
    assert figures["bonus drawn"].item() == pytest.approx(np.mean(first), rel=1e-3)
    assert figures["bonus when visited"].item() == pytest.approx(noted[batch.rows].mean() / scale, rel=1e-5)
    assert figures["bonus drawn"] != figures["bonus when visited"]
    assert np.array_equal(memory.bonus, noted)
    assert np.array_equal(memory._reward, rewards)
    for name in ("observation", "action", "following", "discount", "probability"):
        assert torch.equal(getattr(relabelled, name), getattr(batch, name))


def test_a_visit_is_counted_when_it_happens_and_not_when_it_is_drawn() -> None:
    agent = replace(AGENT, bonus=Bonus(name="counts", terminal="final"), n_step=1)
    curiosity, memory = made(agent)
    played(memory, 0, 16)
    curiosity.visit(memory, 16, where="here")
    counts = curiosity.bonus.model
    assert isinstance(counts, Counts)
    visits = dict(counts.visits)
    steps = [(env, count) for env in range(N) for count in range(15) if count not in ENDS[env]]
    assert sum(visits.values()) == len(steps)
    batch = memory.draw(64, np.random.default_rng(0))
    for _ in range(2):
        curiosity.relabelled(memory, batch)
    assert counts.visits == visits


def test_the_predictor_learns_what_was_visited_and_once_only() -> None:
    curiosity, memory = made()
    assert curiosity.optimiser is not None
    played(memory, 0, 17)
    before = curiosity.visit(memory, 17, where="here")["bonus/raw"]
    (steps,) = {int(state["step"]) for state in curiosity.optimiser.state.values()}
    assert steps == 2 * 16 // AGENT.batch  # minibatches of one pass
    assert curiosity.visit(memory, 0, where="here") == {}
    found, played_at = curiosity._steps(memory, memory.arrivals(17))
    valid = played_at.flatten()
    for _ in range(60):
        curiosity._learn(curiosity.optimiser, found, valid)
    assert curiosity.bonus.bonus(found, valid)[valid].mean().item() < before / 5


def test_all_that_a_bonus_remembers_is_in_the_checkpoint_and_nothing_of_it_may_lack(tmp_path: Path) -> None:
    train_dqn(as_recipe("cartpole"), AGENT, run=tmp_path, seed=0)
    tensors = safetensors.torch.load((tmp_path / FILE).read_bytes())
    curiosity, _ = made()
    assert curiosity.optimiser is not None
    put_back(curiosity.bonus, tensors, run="here", optimiser=curiosity.optimiser)
    again = state_of(curiosity.bonus, curiosity.optimiser)
    bonus = {name for name in tensors if name.startswith("bonus")}
    assert again.keys() == bonus
    assert all(torch.equal(again[name], tensors[name]) for name in bonus)
    assert tensors["bonus_moments.optimiser.0.exp_avg"].any()
    for name in bonus:
        with pytest.raises(StorageError, match="does not fit this bonus"):
            put_back(
                made()[0].bonus,
                {key: tensor for key, tensor in tensors.items() if key != name},
                run="here",
                optimiser=made()[0].optimiser,
            )
    with pytest.raises(StorageError, match="holds a run with a bonus"):
        train_dqn(
            as_recipe("cartpole"), replace(AGENT, bonus=None, bonus_coefficient=None, frames=1280), run=tmp_path, seed=0
        )


def test_a_run_goes_on_with_what_its_bonus_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_dqn(as_recipe("cartpole"), AGENT, run=tmp_path, seed=0)
    count = safetensors.torch.load((tmp_path / FILE).read_bytes())["bonus.seen.count"]
    train_dqn(as_recipe("cartpole"), replace(AGENT, frames=1280), run=tmp_path, seed=0)
    assert safetensors.torch.load((tmp_path / FILE).read_bytes())["bonus.seen.count"] > count
    line = read_metrics(tmp_path)[-1]
    assert {"bonus/raw", "bonus/scaled", "bonus/deviation", "bonus/loss"} <= line.keys()
    assert line["train/bonus_drawn"] > 0
    assert line["train/bonus_when_visited"] > 0
    assert "going on at agent step" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rnd", "drnd", "dynamics", "counts"])
def test_every_bonus_serves_a_memory_of_pictures(name: Any, tmp_path: Path) -> None:
    learnt: dict[str, Any] = {"features": 8, "channels": (3, 4, 4), "predictor_widths": (9,), "warm_up_steps": 4}
    bonus = Bonus(name=name, terminal="final", **(learnt if name != "counts" else {}))
    agent = replace(AGENT, network="nature_62k", bonus=bonus, frames=4 * 320)
    policy = train_dqn(as_recipe("montezuma"), agent, run=tmp_path, seed=0)
    assert all(bool(weight.isfinite().all()) for weight in policy.network.parameters())
    assert read_metrics(tmp_path)[-1]["train/bonus_drawn"] > 0


def test_a_bonus_that_is_no_number_stops_the_run_with_its_name() -> None:
    curiosity, memory = made()
    played(memory, 0, 16)
    with torch.no_grad():
        next(iter(curiosity.bonus.learning.values())).fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="^bonus is not finite at agent step 7"):
        curiosity.visit(memory, 16, where="agent step 7")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bonus": Bonus()}, "takes terminal = 'final'"),
        ({"bonus": replace(SMALL, filter_over="environments")}, "filter_over = 'time'"),
        ({"bonus_coefficient": -0.1}, "bonus_coefficient must be at least 0"),
        ({"bonus_coefficient": None}, "belong together"),
    ],
)
def test_a_bonus_that_a_memory_cannot_serve_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(AGENT, **changes)


def test_the_shipped_recipe_plays_and_learns(tmp_path: Path) -> None:
    short = ("bonus.warm_up_steps=4", "learning_starts=64", "states=640", "num_envs=4")
    train("deep_sea_10", "explore/dqn_rnd_classic", run=tmp_path, frames=640, overrides=short)
    assert read_metrics(tmp_path)[-1]["train/bonus_drawn"] > 0


def rightmost(run: Path) -> float:
    return max(float(line["rollout/ep_rew_mean"]) for line in read_metrics(run))


@pytest.mark.slow
@pytest.mark.timeout(3600)  # six trainings
def test_deep_sea_is_solved_in_all_seeds_with_the_bonus_and_not_in_all_without(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {"with": [], "without": []}
    agent = recipes.load("explore/dqn_rnd_classic", Dqn)
    for seed in range(3):
        for name, each in (("with", agent), ("without", replace(agent, bonus=None, bonus_coefficient=None))):
            run = tmp_path / f"{name}{seed}"
            train_dqn(as_recipe("deep_sea_10"), replace(each, frames=30_000), run=run, seed=seed)
            found[name].append(rightmost(run))
    assert min(found["with"]) > 0.9 > 0.5 > min(found["without"])  # by luck one of three finds it without
