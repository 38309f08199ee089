"""Tests of a teacher beside value learners: who acts first, what is kept, the terms on drawn states, the gate."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlkd import recipe as recipes
from rlkd.errors import MismatchError, RecipeError, StorageError
from rlkd.evaluation import play
from rlkd.learn import train
from rlkd.learn.chunks import ChunkSampler
from rlkd.learn.dqn import make_memory, train_dqn
from rlkd.learn.q_learning import gradients_of, learn, make_learner, targets
from rlkd.learn.teaching import Teaching, taught_by
from rlkd.learn.values import value_spec
from rlkd.losses import huber
from rlkd.metrics import read_metrics
from rlkd.policy.file import build_network
from rlkd.recipe import Dqn, Part, Term
from rlkd.storage import read_json, write_json
from rlkd.vector import make_halves
from tests import reference
from tests.handmade import TINY, always, cartpole_teacher, environment, policy, shipped_techniques

CARTPOLE = environment("cartpole", frame_cap=60)
TEACHER = cartpole_teacher(recipe=CARTPOLE)
KL = Term(divergence=Part("forward_kl"), coefficient=0.5)
MARGIN = Term(teacher=Part("label_h2"), divergence=Part("margin"), weight=Part("demonstrated"))
AGENT = replace(
    recipes.load("rl/dqn_classic", Dqn),
    network="mlp_16",
    num_envs=4,
    states=2000,
    learning_starts=64,
    batch=16,
    terms=(KL,),
    frames=2_000,
)


def filled(agent: Dqn, steps: int = 50) -> tuple[Any, Any, Teaching]:
    """A learner with fresh weights, and a memory of its play, answered by the teacher."""
    spec = value_spec(CARTPOLE, agent, origin="")
    device = torch.device("cpu")
    teaching = taught_by(TEACHER, spec, agent, device)
    assert teaching is not None
    learner = make_learner(spec, agent, seed=0, device=device, teaching=teaching)
    memory = make_memory(spec, agent, device, teaching)
    steppers = make_halves(CARTPOLE, agent.num_envs, np.random.default_rng(0))
    sampler = ChunkSampler(
        steppers,
        CARTPOLE,
        agent,
        build_network(spec),
        steps=0,
        total=1000,
        generator=np.random.default_rng(1),
        precision="float32",
        teacher=teaching.teacher,
    )
    sampler.collect(steps).into(memory)
    for stepper in steppers:
        stepper.close()
    return learner, memory, teaching


def test_the_teacher_answers_every_state_and_acts_first() -> None:
    _, memory, _ = filled(replace(AGENT, teacher_steps=80))
    rows = memory.drawable()
    batch = memory.read(rows, np.ones(len(rows)))
    with torch.inference_mode():
        torch.testing.assert_close(batch.answers, TEACHER(batch.observation.numpy()).flat)
    shown = batch.demonstrated.bool()
    assert 60 < shown.sum() <= 80
    best = batch.answers.argmax(1)
    assert torch.equal(batch.action[shown], best[shown])
    assert (batch.action[~shown] != best[~shown]).float().mean() > 0.2  # those are the learner's, random at first


def test_terms_are_added_to_the_temporal_differences_of_drawn_states() -> None:
    agent = replace(
        AGENT, terms=(replace(KL, student_temperature=0.5), replace(MARGIN, coefficient=2.0)), teacher_steps=80
    )
    learner, memory, _ = filled(agent)
    batch = memory.draw(16, np.random.default_rng(0))
    share = torch.full((16,), 1 / 16)
    answers, _ = gradients_of(learner, agent, "float32", batch, share)
    wanted = targets(learner, agent, batch, "float32")
    with torch.no_grad():
        q = learner.online(batch.observation).mean(2)
    for k in range(16):
        difference = float(huber(wanted[k, 0] - q[k, batch.action[k]]))
        theirs, mine, action = batch.answers[k].double().tolist(), q[k].double().tolist(), int(batch.action[k])
        unlike = 0.5 * reference.tempered_kl(theirs, mine, 1.0, 0.5)
        best = [float(each == action) for each in range(2)]
        margin = 2.0 * reference.margin(best, mine, 0.8) if batch.demonstrated[k] else 0.0
        assert answers.loss[k].item() == pytest.approx(difference + unlike + margin, rel=1e-4)
    alone, _ = gradients_of(replace_teaching(learner), agent, "float32", batch, share)
    torch.testing.assert_close(answers.errors, alone.errors)  # priorities follow temporal differences alone
    assert not torch.allclose(answers.loss, alone.loss)


def test_a_value_learner_learns_by_how_much_of_the_run_lies_behind() -> None:
    agent = replace(AGENT, terms=(replace(KL, coefficient=((0.0, 0.0), (1.0, 1.0))),))
    loss = {}
    memory = filled(agent)[1]
    for done in (0.0, 0.5, 1.0):
        learner = filled(agent)[0]  # with the same fresh weights
        draws = np.random.default_rng(0)
        loss[done] = learn(learner, agent, memory, 1, draws, "float32", done=done)["train/loss"]
    assert loss[0.5] == pytest.approx((loss[0.0] + loss[1.0]) / 2, rel=1e-4)
    assert loss[1.0] > loss[0.0] + 1e-3


def replace_teaching(learner: Any) -> Any:
    learner.teaching = None
    return learner


@pytest.mark.parametrize(
    ("scores", "teacher", "random", "gate"),
    [
        ([-21.0], 18.0, -21.0, 1.0),
        ([-1.5], 18.0, -21.0, 0.5),
        ([20.0], 18.0, -21.0, 0.0),
        ([-15.0], -10.0, -20.0, 0.5),  # the ratio of returns would be 1.5, and its gate shut
        ([-25.0], 18.0, -21.0, 1.0),
        ([], 18.0, -21.0, 1.0),
        ([5.0], 3.0, 3.0, 1.0),  # nothing to normalise by
    ],
)
def test_the_gate_is_right_for_negative_scores(
    scores: list[float], teacher: float, random: float, gate: float, tmp_path: Path
) -> None:
    agent = replace(AGENT, terms=(replace(KL, gate=True),))
    teaching = Teaching(TEACHER, value_spec(CARTPOLE, agent, origin=""), agent)
    write_json(tmp_path / "baseline.json", {"teacher": teacher, "random": random})
    teaching.follow(tmp_path, CARTPOLE, scores, SimpleNamespace())  # type: ignore[arg-type]  # nothing is played
    assert teaching.gate == pytest.approx(gate)


def test_a_gate_multiplies_the_terms_that_have_one_alone() -> None:
    agent = replace(AGENT, terms=(replace(KL, gate=True), replace(KL, coefficient=0.25)))
    learner, memory, teaching = filled(agent)
    batch = memory.draw(16, np.random.default_rng(0))
    share = torch.full((16,), 1 / 16)
    loss = {}
    for gate in (0.0, 0.4, 1.0):
        teaching.gate = gate
        loss[gate] = gradients_of(learner, agent, "float32", batch, share)[0].loss
    torch.testing.assert_close(loss[0.4], 0.6 * loss[0.0] + 0.4 * loss[1.0])
    plain = gradients_of(replace_teaching(learner), agent, "float32", batch, share)[0].loss
    torch.testing.assert_close(loss[1.0] - plain, 3 * (loss[0.0] - plain), rtol=1e-4, atol=1e-6)


def test_a_run_measures_teacher_and_random_play_once_and_goes_on_with_the_same_teacher(tmp_path: Path) -> None:
    agent = replace(AGENT, terms=(replace(KL, gate=True),), teacher_steps=500)
    made = train_dqn(CARTPOLE, agent, run=tmp_path, seed=0, teacher=TEACHER)
    assert made.spec.parents == (TEACHER.spec.hash,)
    baseline = read_json(tmp_path / "baseline.json")
    assert baseline["teacher"] == 60
    assert 10 < baseline["random"] < 40
    gates = [line["train/gate"] for line in read_metrics(tmp_path) if "train/gate" in line]
    assert all(0 <= gate <= 1 for gate in gates)
    assert min(gates) < 1
    with pytest.raises(StorageError):
        train_dqn(CARTPOLE, agent, run=tmp_path, seed=0, teacher=always(0, TEACHER))


def test_who_is_taught_plays_like_its_teacher_after_steps_that_teach_a_value_learner_little(tmp_path: Path) -> None:
    whole = environment("cartpole", episodes=5)
    teacher = cartpole_teacher(recipe=whole)
    kl = Term(divergence=Part("forward_kl"), student_temperature=0.1, coefficient=3.0)
    scores = {}
    for name, terms in (("taught", (kl,)), ("alone", None)):
        agent = replace(
            AGENT,
            terms=terms,
            teacher_steps=1_500 if terms else None,
            frames=3_000,
            train_every=1,
            batch=64,
            states=8_000,
        )
        made = train_dqn(whole, agent, run=tmp_path / name, seed=0, teacher=teacher if terms else None)
        scores[name] = play(made, whole, episodes=5).evaluation.mean
    assert scores["taught"] > 300 > 1.5 * scores["alone"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    spec, device = value_spec(CARTPOLE, AGENT, origin=""), torch.device("cpu")
    squares = replace(AGENT, terms=(Term(divergence=Part("mse")),))
    with pytest.raises(MismatchError, match="'mse' compares Q-values, and a 'categorical' teacher has none"):
        taught_by(TEACHER, spec, squares, device)
    assert taught_by(policy(CARTPOLE, "q", TINY), spec, squares, device) is not None
    ratio = replace(AGENT, terms=(replace(KL, weight=Part("ppo_ratio")),))
    with pytest.raises(MismatchError, match="'ppo_ratio' reads 'ratio', which there is not beside value learners"):
        taught_by(TEACHER, spec, ratio, device)
    with pytest.raises(MismatchError, match="needs a teacher, and there is none"):
        train_dqn(CARTPOLE, AGENT, run=tmp_path / "one", seed=0)
    with pytest.raises(RecipeError, match="teacher_steps belongs to recipes with"):
        replace(AGENT, terms=None, teacher_steps=5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", shipped_techniques(Dqn))
def test_every_shipped_recipe_beside_a_value_learner_takes_its_steps(name: str, tmp_path: Path) -> None:
    overrides = ("network=mlp_16", "num_envs=4", "states=2000", "learning_starts=64", "teacher_steps=200")
    made = train(CARTPOLE, name, run=tmp_path, frames=600, overrides=overrides, teacher=TEACHER)
    assert made.spec.parents == (TEACHER.spec.hash,)
