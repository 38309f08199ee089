"""Tests of a teacher beside PPO: its loss, its weight over time, its answers, what does not fit, what is resumed."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlkd import losses
from rlkd import recipe as recipes
from rlkd.cli import main
from rlkd.errors import MismatchError, RecipeError, StorageError
from rlkd.evaluation import play
from rlkd.learn import train
from rlkd.learn.learner import Learner, gradients_of, piece_losses
from rlkd.learn.ppo import policy_spec, train_ppo
from rlkd.learn.rollout import Rollout, Sampler
from rlkd.learn.samples import minibatches, pieces_of, prepare
from rlkd.learn.teaching import Teaching
from rlkd.policy import Policy
from rlkd.policy.file import build_network
from rlkd.recipe import Part, Ppo, Stream, Term
from rlkd.storage import read_json
from rlkd.terms.weights import ppo_ratio
from rlkd.vector import make_halves
from tests import reference
from tests.handmade import TINY, cartpole_teacher, environment, policy, shipped_techniques

CARTPOLE = environment("cartpole", frame_cap=60)
TEACHER = cartpole_teacher(recipe=CARTPOLE)
KL = Term(divergence=Part("forward_kl"), coefficient=0.5)
VALUING = policy(CARTPOLE, "categorical", replace(TINY, value="shared"))
OVER = (replace(KL, coefficient=((0.0, 1.0), (0.4, 0.0))),)
AGENT = replace(
    recipes.load("rl/ppo_classic", Ppo), num_envs=4, rollout_steps=32, epochs=2, minibatch=32, terms=(KL,), frames=512
)


def sampled(agent: Ppo, count: int = 1, recipe: Any = CARTPOLE) -> tuple[Any, list[Rollout]]:
    """A learner with fresh weights, and rollouts that were sampled with the same."""
    learner, acting = (build_network(policy_spec(recipe, agent, origin="")) for _ in range(2))
    learner.initialise(torch.Generator().manual_seed(0), for_rl=False)
    acting.load_state_dict(learner.state_dict())
    halves = make_halves(recipe, agent.num_envs, np.random.default_rng([0, 3]))
    sampler = Sampler(halves, recipe, agent, acting, "float32")
    draws = torch.Generator().manual_seed(0)
    rollouts = [sampler.collect(draws) for _ in range(count)]
    sampler.close()
    return learner, rollouts


def teaching_of(agent: Ppo, teacher: Policy = TEACHER) -> Teaching:
    return Teaching(teacher, policy_spec(CARTPOLE, agent, origin=""), agent)


def gradient(agent: Ppo, progress: float) -> Tensor:
    """Of the first minibatch, all weights side by side."""
    learner, (rollout,) = sampled(agent)
    teaching = teaching_of(agent) if agent.terms else None
    samples = prepare(learner, rollout, agent, "float32")
    if teaching is not None:
        samples = replace(samples, answers=teaching.answers(rollout))
    rows = next(minibatches(samples, agent, torch.Generator().manual_seed(0)))
    made = Learner(learner, agent, "float32", None, teaching)
    made.progress = progress
    (piece,) = pieces_of(samples, agent, rows, None, 1)
    return torch.cat([each.flatten() for each in gradients_of(made, piece)[1]])


def test_the_terms_are_averaged_over_what_was_really_played() -> None:
    learner, (rollout,) = sampled(AGENT)
    teaching = teaching_of(AGENT)
    samples = replace(prepare(learner, rollout, AGENT, "float32"), answers=teaching.answers(rollout))
    assert not samples.valid.all()
    (piece,) = pieces_of(samples, AGENT, torch.arange(128), None, 1)
    found = piece_losses(learner, AGENT, "float32", piece, None, teaching, 0.0)
    with torch.no_grad():
        theirs = TEACHER(samples.observation.numpy()).params["logits"].double().tolist()
        mine = learner(samples.observation).params["logits"].double().tolist()
    slow = [
        reference.tempered_kl(their, own, 1.0, 1.0)
        for their, own, valid in zip(theirs, mine, samples.valid.tolist(), strict=True)
        if valid
    ]
    assert found.distillation.item() == pytest.approx(0.5 * math.fsum(slow) / len(slow), rel=1e-5)
    plain = piece_losses(learner, AGENT, "float32", piece)
    assert plain.distillation.item() == 0
    assert found.policy.item() == plain.policy.item()
    rest = AGENT.value_coefficient * found.value - AGENT.entropy_coefficient * found.entropy + found.distillation
    assert found.total(AGENT, 0.0).item() == pytest.approx((found.policy + rest).item())
    falling = replace(AGENT, policy_coefficient=((0.0, 0.0), (1.0, 1.0)))
    large = found._replace(policy=torch.tensor(8.0))  # at a ratio of 1 it is 0 itself
    assert large.total(falling, 0.25).item() == pytest.approx((2 + rest).item())


def test_annealing_ends_with_rewards_alone_and_begins_with_the_teacher_alone() -> None:
    """BAM (arXiv:1907.04829): at the end the gradient does not know the teacher."""
    bam = recipes.load("bam", Ppo)
    agent = replace(AGENT, terms=bam.terms, policy_coefficient=bam.policy_coefficient)
    alone = replace(AGENT, terms=None, policy_coefficient=None)
    torch.testing.assert_close(gradient(agent, 1.0), gradient(alone, 1.0))
    first = replace(AGENT, terms=(replace(KL, coefficient=1.0),), policy_coefficient=0.0)
    torch.testing.assert_close(gradient(agent, 0.0), gradient(first, 0.7))
    half = (gradient(agent, 0.0) + gradient(agent, 1.0)) / 2
    torch.testing.assert_close(gradient(agent, 0.5), half, rtol=1e-4, atol=1e-6)


def test_a_learner_learns_by_how_much_of_the_run_lies_behind() -> None:
    bam = recipes.load("bam", Ppo)
    agent = replace(AGENT, terms=bam.terms, policy_coefficient=bam.policy_coefficient)
    learnt = {}
    for name, each, progress in (
        ("end", agent, 1.0),
        ("begin", agent, 0.0),
        ("alone", replace(AGENT, terms=None), 1.0),
    ):
        learner, (rollout,) = sampled(each)
        teaching = teaching_of(each) if each.terms else None
        samples = prepare(learner, rollout, each, "float32")
        if teaching is not None:
            samples = replace(samples, answers=teaching.answers(rollout))
        made = Learner(learner, each, "float32", None, teaching)
        made.learn(samples, torch.Generator().manual_seed(0), rate=1e-3, where="here", progress=progress)
        learnt[name] = torch.cat([weight.detach().flatten() for weight in learner.parameters()])
    torch.testing.assert_close(learnt["end"], learnt["alone"])
    assert not torch.allclose(learnt["begin"], learnt["alone"])


def test_before_rewards_count_the_critic_learns_and_the_policy_listens_to_its_teacher_alone() -> None:
    improve = recipes.load("distil_then_improve", Ppo)
    agent = replace(AGENT, terms=improve.terms, policy_coefficient=improve.policy_coefficient, entropy_coefficient=0.0)
    for_teacher = replace(agent, terms=(replace(KL, coefficient=1.0),), policy_coefficient=0.0)
    torch.testing.assert_close(gradient(agent, 0.29), gradient(for_teacher, 0.0))
    torch.testing.assert_close(gradient(agent, 0.3), gradient(replace(agent, terms=None, policy_coefficient=None), 0.3))


def test_the_ratio_counts_more_where_who_learns_does_more_of_what_was_done() -> None:
    assert ppo_ratio(torch.tensor([0.1, 0.79, 0.9, 3.0]), clip=0.2).tolist() == pytest.approx([0.8, 0.8, 0.9, 3.0])
    ppd = replace(AGENT, terms=(replace(KL, weight=Part("ppo_ratio", {"clip": 0.1})),))
    learner, (rollout,) = sampled(ppd)
    teaching = teaching_of(ppd)
    samples = replace(prepare(learner, rollout, ppd, "float32"), answers=teaching.answers(rollout))
    moved = replace(samples, log_prob=samples.log_prob - math.log(1.5))  # every ratio is 1.5
    rows = torch.arange(128)
    one, more = (
        piece_losses(learner, ppd, "float32", pieces_of(each, ppd, rows, None, 1)[0], None, teaching)
        for each in (samples, moved)
    )
    assert more.distillation.item() == pytest.approx(1.5 * one.distillation.item(), rel=1e-4)


def test_a_teacher_that_remembers_is_asked_step_by_step_and_over_the_borders_of_rollouts() -> None:
    recurrent = policy(CARTPOLE, "categorical", replace(TINY, core="gru", core_width=8), seed=3)
    _, rollouts = sampled(AGENT, 2)
    teaching = teaching_of(AGENT, recurrent)
    found = torch.cat([teaching.answers(rollout) for rollout in rollouts]).view(64, 4, 2)
    state = recurrent.initial_state(4)
    seen = torch.cat([rollout.observation[:-1] for rollout in rollouts])
    first = torch.cat([rollout.first[:-1] for rollout in rollouts])
    assert first[1:].any()
    assert not first[32].all()
    for t in range(64):
        with torch.no_grad():
            output = recurrent(seen[t].numpy(), state, first[t].numpy())
        state = output.state
        torch.testing.assert_close(found[t], output.flat)


def test_likeness_is_a_reward_where_a_stream_wants_it() -> None:
    streams = (Stream(), Stream(name="teacher", reward="teacher"))
    agent = replace(AGENT, streams=streams)
    learner, (rollout,) = sampled(agent)
    teaching = teaching_of(agent)
    answers = teaching.answers(rollout)
    found = teaching.rewarded(rollout, answers, learner, agent, "float32", 0.0)
    assert torch.equal(found.reward[..., 0], rollout.reward[..., 0])
    with torch.no_grad():
        mine = learner(rollout.observation[:-1].flatten(0, 1)).params["logits"].double().tolist()
    for k, (valid, given) in enumerate(
        zip(rollout.valid.flatten().tolist(), found.reward[..., 1].flatten().tolist(), strict=True)
    ):
        slow = reference.tempered_kl(answers[k].double().tolist(), mine[k], 1.0, 1.0)
        assert given == pytest.approx(-0.5 * slow if valid else 0, rel=1e-4, abs=1e-6)
    assert teaching.rewarded(rollout, answers, learner, AGENT, "float32", 0.0) is rollout
    by_ratio = replace(agent, terms=(replace(KL, weight=Part("ppo_ratio", {"clip": 0.1})),))
    same = teaching_of(by_ratio).rewarded(rollout, answers, learner, by_ratio, "float32", 0.0)
    assert torch.equal(same.reward, found.reward)  # who acted is who learns: the ratio is 1


def test_who_is_taught_plays_like_its_teacher_after_steps_that_teach_ppo_alone_little(tmp_path: Path) -> None:
    whole = environment("cartpole", episodes=5)
    teacher = cartpole_teacher(recipe=whole)
    scores = {}
    for name, terms in (("taught", (replace(KL, coefficient=1.0),)), ("alone", None)):
        agent = replace(AGENT, num_envs=8, rollout_steps=64, epochs=4, minibatch=64, frames=4_000, terms=terms)
        made = train_ppo(whole, agent, run=tmp_path / name, seed=0, teacher=teacher if terms else None)
        scores[name] = play(made, whole, episodes=5).evaluation.mean
    assert scores["taught"] > 300 > 1.5 * scores["alone"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"terms": (replace(KL, teacher=Part("label_h2")),)},
            "teacher 'label_h2' reads 'action', which there is not",
        ),
        ({"terms": (replace(KL, teacher=Part("last_round")),)}, "teacher 'last_round' reads 'last_round', which there"),
        ({"terms": (replace(KL, weight=Part("asked", {"share": 0.5})),)}, "weight 'asked' reads 'lot', which there is"),
    ],
)
def test_parts_that_read_what_there_is_not_beside_ppo_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        teaching_of(replace(AGENT, **changes))


def test_a_part_of_ppo_is_refused_where_nobody_acts_anew(tmp_path: Path) -> None:
    from rlkd.distillation import run_distillation
    from tests.handmade import small_distillation

    recipe = small_distillation(terms=(replace(KL, weight=Part("ppo_ratio")),))
    with pytest.raises(MismatchError, match="weight 'ppo_ratio' reads 'ratio', which there is not in a replay"):
        run_distillation(TEACHER, {"tiny": TINY}, recipe, run=tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()


def test_teachers_and_recipes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    squares = replace(AGENT, terms=(Term(divergence=Part("mse")),))
    with pytest.raises(MismatchError, match="the terms make a 'q' policy of a 'q' teacher, PPO a 'categorical'"):
        teaching_of(squares, policy(CARTPOLE, "q", TINY))
    with pytest.raises(MismatchError, match="has 3 actions"):
        teaching_of(AGENT, policy(environment("acrobot"), "categorical", TINY))
    with pytest.raises(MismatchError, match="needs a teacher, and there is none"):
        train_ppo(CARTPOLE, AGENT, run=tmp_path / "one", seed=0)
    with pytest.raises(MismatchError, match="learns from no teacher, and one was named"):
        train_ppo(CARTPOLE, replace(AGENT, terms=None), run=tmp_path / "two", seed=0, teacher=TEACHER)
    with pytest.raises(RecipeError, match="'sb3/dqn' learns from no teacher"):
        train(CARTPOLE, "sb3/dqn", run=tmp_path / "three", teacher=TEACHER)
    with pytest.raises(RecipeError, match="policy_coefficient belongs to recipes with"):
        replace(AGENT, terms=None, policy_coefficient=0.5)
    with pytest.raises(RecipeError, match="reward = 'teacher' needs"):
        replace(AGENT, terms=None, streams=(Stream(reward="teacher"),))
    assert list(tmp_path.iterdir()) == []


def test_the_command_trains_with_a_teacher_and_goes_on_only_with_the_same(tmp_path: Path) -> None:
    file, other = tmp_path / "teacher.safetensors", tmp_path / "other.safetensors"
    TEACHER.save(file)
    policy(CARTPOLE, "categorical", TINY).save(other)
    command = ["train", "cartpole", "--agent", "kickstarting", "--run", str(tmp_path / "run"), "--frames", "2048"]
    command += ["--set", "network=mlp_16", "--set", "num_envs=8"]
    assert main([*command, "--teacher", str(file)]) == 0
    assert main([*command, "--teacher", str(file)]) == 0  # it is done, and says so again
    assert main([*command, "--teacher", str(other)]) == 2
    assert main(command) == 2


@pytest.mark.parametrize("name", shipped_techniques(Ppo))
def test_every_shipped_recipe_beside_ppo_takes_its_steps(name: str, tmp_path: Path) -> None:
    overrides = ("network=mlp_16", "num_envs=4", "rollout_steps=32", "minibatch=32")
    teacher = VALUING if name == "distill/iter" else TEACHER
    made = train(CARTPOLE, name, run=tmp_path, frames=256, overrides=overrides, teacher=teacher)
    assert made.spec.parents == (teacher.spec.hash,)


def test_values_of_a_teachers_critic_are_half_the_squared_difference_apart_and_fade_with_their_weight() -> None:
    """ITER's loss, arXiv:2006.05826, equation 6."""
    agent = replace(AGENT, teacher_value_coefficient=((0.0, 1.0), (1.0, 0.0)))
    learner, (rollout,) = sampled(agent)
    teaching = teaching_of(agent, VALUING)
    answers = teaching.answers(rollout)
    seen = rollout.observation[:-1].flatten(0, 1)
    with torch.no_grad():
        mine, theirs = learner(seen), VALUING(seen.numpy())
        known = {"ratio": torch.ones(len(seen))}
        found = {done: teaching.losses(answers, mine, known, done).double() for done in (0.0, 0.25, 1.0)}
    assert mine.value is not None
    assert theirs.value is not None
    apart = 0.5 * (mine.value.double() - theirs.value.double()).square().sum(1)
    for done in (0.0, 0.25):
        torch.testing.assert_close(found[done] - found[1.0], (1 - done) * apart, rtol=1e-5, atol=1e-6)
    assert apart.min() > 0
    assert not teaching.over(0.5)
    assert teaching_of(replace(agent, teacher_value_coefficient=((0.0, 1.0), (0.4, 0.0)), terms=OVER), VALUING).over(
        0.5
    )
    assert not teaching_of(replace(agent, terms=OVER), VALUING).over(0.5)


def test_a_teacher_without_a_critic_has_no_values_to_learn() -> None:
    agent = replace(AGENT, teacher_value_coefficient=1.0)
    with pytest.raises(MismatchError, match=r"needs a teacher with a critic of 1 value\(s\), and .* has none"):
        teaching_of(agent)
    with pytest.raises(RecipeError, match=r"teacher_value_coefficient belongs to recipes with \[\[terms\]\]"):
        replace(AGENT, terms=None, teacher_value_coefficient=1.0)


def test_the_callers_teacher_stays_as_it_is_and_one_that_counts_no_more_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = replace(AGENT, terms=(replace(KL, coefficient=((0.5, 1.0), (0.5, 0.0))),), frames=1024)
    asked: list[Teaching] = []
    answers = Teaching.answers

    def counted(self: Teaching, rollout: Rollout) -> Tensor:
        asked.append(self)
        return answers(self, rollout)

    monkeypatch.setattr(Teaching, "answers", counted)
    train_ppo(CARTPOLE, agent, run=tmp_path, seed=0, teacher=TEACHER)
    assert len(asked) == 4  # of eight rollouts
    assert asked[0].teacher.network is not TEACHER.network


def test_a_gate_beside_ppo_follows_scores_that_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = []
    rewarded = Teaching.rewarded

    def noted(self: Teaching, *given: Any) -> Rollout:
        gates.append(self.gate)
        return rewarded(self, *given)

    monkeypatch.setattr(Teaching, "rewarded", noted)
    agent = replace(AGENT, terms=(replace(KL, gate=True),), frames=1024)
    train_ppo(CARTPOLE, agent, run=tmp_path, seed=0, teacher=TEACHER)
    assert read_json(tmp_path / "baseline.json")["teacher"] == 60
    assert gates[0] == 1
    assert min(gates) < 1


def test_who_begins_with_a_policy_is_not_who_learns_from_it(tmp_path: Path) -> None:
    small = replace(AGENT, network="mlp_16", terms=None)
    first = train_ppo(CARTPOLE, small, run=tmp_path / "first", seed=0)
    train_ppo(CARTPOLE, small, run=tmp_path / "second", seed=0, start=first)
    with pytest.raises(StorageError):
        train_ppo(CARTPOLE, replace(small, terms=(KL,)), run=tmp_path / "second", seed=0, teacher=first)


def test_a_weight_over_the_whole_minibatch_is_refused_where_there_are_pieces_of_it() -> None:
    with pytest.raises(MismatchError, match="weight 'confidence' reads 'probabilities', which there is not beside PPO"):
        teaching_of(replace(AGENT, terms=(replace(KL, weight=Part("confidence")),)))


def test_another_teacher_is_another_run(tmp_path: Path) -> None:
    train_ppo(CARTPOLE, AGENT, run=tmp_path, seed=0, teacher=TEACHER)
    with pytest.raises(StorageError):
        train_ppo(CARTPOLE, AGENT, run=tmp_path, seed=0, teacher=policy(CARTPOLE, "categorical", TINY))


def test_with_likeness_as_reward_the_update_is_the_gradient_of_all_that_is_unlike_and_without_it_is_not() -> None:
    """Czarnecki et al. 2019 (arXiv:1902.02186), on all eight ways through a world of three steps, in float64.

    The update is that of the terms on the student's own states, and PPO's with our advantages at a ratio of 1.
    """
    draws = torch.Generator().manual_seed(0)
    leads_to = torch.tensor([[1, 2], [3, 0], [2, 3], [0, 1]])  # from state and action to state
    teacher, logits = (torch.randn(4, 2, generator=draws, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    T, ways = 3, torch.tensor(list(itertools.product((0, 1), repeat=3))).T  # [T, N] actions
    seen = torch.zeros(T + 1, 8, dtype=torch.long)
    for t in range(T):
        seen[t + 1] = leads_to[seen[t], ways[t]]
    log_q = logits.log_softmax(-1)
    unlike = losses.forward_kl(teacher.softmax(-1), log_q)  # [4], of each state
    chosen = log_q[seen[:-1], ways]  # [T, N]
    chance = chosen.sum(0).exp()
    (whole,) = torch.autograd.grad((chance * unlike[seen[:-1]].sum(0)).sum(), logits, retain_graph=True)

    along = (chance.detach() * unlike[seen[:-1]].sum(0)).sum()  # as if where one comes did not depend on what one does
    nothing = torch.zeros(T, 8, dtype=torch.bool)
    advantage, _ = losses.generalised_advantages(
        -unlike[seen[:-1]].detach(),
        torch.zeros(T + 1, 8, dtype=torch.float64),
        nothing.index_fill(0, torch.tensor([T - 1]), True),
        ~nothing,
        discount=1.0,
        gae_lambda=1.0,
    )
    surrogate = losses.ppo_surrogate(chosen, chosen.detach(), advantage, clip=0.2)
    credited = along + (chance.detach() * surrogate).sum()
    (without,) = torch.autograd.grad(along, logits, retain_graph=True)
    (with_it,) = torch.autograd.grad(credited, logits)
    torch.testing.assert_close(with_it, whole, rtol=1e-10, atol=1e-12)
    assert (without - whole).norm() > 0.05 * whole.norm()
