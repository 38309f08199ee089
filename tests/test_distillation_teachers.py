"""Tests of distillation from several teachers: what they come to together, who plays, what is refused, what is kept."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rlkd.cli import main
from rlkd.collect import Collector
from rlkd.distillation import run_distillation
from rlkd.distillation.lesson import Seen
from rlkd.distillation.student import Plan, Student
from rlkd.errors import MismatchError, StorageError
from rlkd.policy import Policy, load
from rlkd.recipe import Part, Source, Term
from rlkd.replay import Replay
from rlkd.terms import Objective
from rlkd.terms.teachers import average, average_scores, best_by_value, one_at_random
from tests.handmade import TINY, always, cartpole_teacher, environment, policy
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole", frame_cap=60)
AVERAGE = Term(teacher=Part("average"), divergence=Part("forward_kl"))


def probabilities(scores: Sequence[float]) -> list[float]:
    weights = [math.exp(score) for score in scores]
    return [weight / math.fsum(weights) for weight in weights]


SCORES = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 0.5, 3.0]], [[1.0, 1.0, 0.0], [-2.0, 4.0, 0.0]]], dtype=torch.float64)


def test_the_mean_of_probabilities_is_what_a_player_does_who_asks_one_at_random() -> None:
    found = average(SCORES.softmax(-1))
    for state in range(2):
        each = [probabilities(scores) for scores in SCORES[state].tolist()]
        assert found[state].tolist() == pytest.approx([math.fsum(pair) / 2 for pair in zip(*each, strict=True)])
    weighed = average(SCORES.softmax(-1), shares=(3.0, 1.0))
    each = [probabilities(scores) for scores in SCORES[0].tolist()]
    assert weighed[0].tolist() == pytest.approx([0.75 * a + 0.25 * b for a, b in zip(*each, strict=True)])


def test_the_mean_of_scores_is_another_and_sharper_teacher() -> None:
    scores = torch.randn(200, 5, 6, generator=torch.Generator().manual_seed(0))
    entropy = [
        Tensor.mean(-torch.special.xlog1py(p, p - 1).sum(-1))
        for p in (average(scores.softmax(-1)), average_scores(scores).softmax(-1))
    ]
    assert entropy[1] < entropy[0]
    assert average_scores(SCORES)[0].tolist() == pytest.approx([1.0, 0.25, 1.0])


@pytest.mark.parametrize("shares", [(1.0,), (1.0, 1.0, 1.0), (-1.0, 2.0), (0.0, 0.0)])
def test_shares_that_do_not_fit_the_teachers_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares must be 2 numbers"):
        average(SCORES.softmax(-1), shares=shares)


def test_one_teacher_at_random_pulls_on_average_as_the_mean_of_probabilities_does() -> None:
    """Exactly: both teachers drawn for every state, once each."""
    own = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)

    def gradient(teacher: Tensor) -> Tensor:
        loss = -(teacher.detach() * own.log_softmax(-1)).sum()
        (found,) = torch.autograd.grad(loss, own)
        return found

    drawn = [one_at_random(SCORES, torch.full((2,), luck)) for luck in (0.1, 0.9)]
    assert torch.equal(drawn[0], SCORES[:, 0])
    assert torch.equal(drawn[1], SCORES[:, 1])
    expected = torch.stack([gradient(each.softmax(-1)) for each in drawn]).mean(0)
    torch.testing.assert_close(expected, gradient(average(SCORES.softmax(-1))))
    far = (expected - gradient(average_scores(SCORES).softmax(-1))).norm() / expected.norm()
    assert far > 0.1
    assert one_at_random(SCORES, torch.ones(2)).isfinite().all()  # a draw that rounding took to 1


def test_which_teacher_is_drawn_says_nothing_about_how_its_answer_is_permuted() -> None:
    terms = (Term(teacher=Part("one_at_random"), target=(Part("permute"),), divergence=Part("forward_kl")),)
    other = cartpole_teacher(recipe=CARTPOLE)
    plan, recipe = Plan("tiny", TINY), small(terms=terms)
    student = Student(plan, recipe, other.spec, seed=0, device=torch.device("cpu"), more_teachers=[other.spec])
    replay = Replay(1, 3000, (4,), 4, None)
    for _ in range(3000):
        replay.append(np.zeros(1, int), np.zeros((1, 4), np.float32), np.zeros(1, bool), torch.zeros(1, 4))
    rows = replay.rows()
    known = student._known(Seen(replay, rows), rows, rows)
    luck, noise = known["luck"], known["noise"]
    assert luck is not None
    assert noise is not None
    assert abs(np.corrcoef(luck.numpy(), noise[:, 0].numpy())[0, 1]) < 0.1


def test_the_teacher_who_expects_most_answers() -> None:
    q = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[5.0, 0.0], [4.0, 4.5]]])
    assert best_by_value(q).tolist() == [[3.0, 0.0], [5.0, 0.0]]
    with pytest.raises(MismatchError, match="'best_by_value' needs answers of kind 'q', not 'categorical'"):
        Objective((Term(teacher=Part("best_by_value"), divergence=Part("mse")),), "categorical", 2, teachers=2)


def test_every_teacher_answers_every_state_and_plays_its_own_environments() -> None:
    teacher = cartpole_teacher(recipe=CARTPOLE)
    left, right = always(0, teacher), always(1, teacher)
    replay = Replay(4, 400, (4,), 4, None, keeps_actions=True)
    collector = Collector(
        CARTPOLE, left, Source(states=400, num_envs=4, epsilon=0.0, rounds=1), seed=0, more_teachers=[right]
    )
    try:
        collector.collect(replay, 0, ())
    finally:
        collector.close()
    rows = replay.rows()
    observation, answers = replay.read(rows)
    with torch.inference_mode():
        want = torch.cat([each(observation.numpy()).flat for each in (left, right)], dim=1)
    torch.testing.assert_close(answers, want)
    done = replay.actions(rows)
    assert done is not None
    assert done.reshape(4, -1).float().mean(1).tolist() == [0.0, 1.0, 0.0, 1.0]


def test_a_run_with_several_teachers_says_what_each_scores_and_names_all_as_parents(tmp_path: Path) -> None:
    good, bad = cartpole_teacher(recipe=CARTPOLE, rule="sampled"), always(0, cartpole_teacher(recipe=CARTPOLE))
    files = [tmp_path / "good.safetensors", tmp_path / "bad.safetensors"]
    for player, file in zip((good, bad), files, strict=True):
        player.save(file)
    command = [
        "distill",
        *map(str, files),
        "--agent",
        "multi_teacher_average",
        "--student",
        "mlp_16",
        "--episodes",
        "2",
    ]
    command += ["--run", str(tmp_path / "run"), "--set", "source.states=800", "--set", "source.num_envs=8"]
    assert main([*command, "--set", "gradient_steps=16"]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["teacher"]["mean"] > record["more_teachers"][0]["mean"]
    assert record["teacher"]["hash"] == good.spec.hash
    assert record["more_teachers"][0]["hash"] == bad.spec.hash
    assert load(record["students"][0]["path"]).spec.parents == (good.spec.hash, bad.spec.hash)
    assert (tmp_path / "run" / "teacher_2.safetensors").exists()


def refused(tmp_path: Path, teachers: Sequence[Policy], terms: tuple[Term, ...]) -> str:
    first, *more = teachers
    recipe, run = small(terms=terms), tmp_path / "run"
    with pytest.raises(MismatchError) as refusal:
        run_distillation(first, {"tiny": TINY}, recipe, run=run, seed=0, more_teachers=more)
    assert not run.exists()
    return str(refusal.value)


def test_teachers_and_recipes_that_do_not_fit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    one = cartpole_teacher(recipe=CARTPOLE)
    assert "asks several teachers, and one was given" in refused(tmp_path, [one], (AVERAGE,))
    plain = (Term(divergence=Part("forward_kl")),)
    assert "2 teachers were given, and the recipe asks the first alone" in refused(tmp_path, [one, one], plain)
    q_valued = policy(CARTPOLE, "q", TINY)
    said = refused(tmp_path, [one, q_valued], (AVERAGE,))
    assert "several teachers need one kind of answer" in said
    assert "categorical, 2" in said
    assert "q, 2" in said


def test_another_second_teacher_is_another_run(tmp_path: Path) -> None:
    one = cartpole_teacher(recipe=CARTPOLE, rule="sampled")
    second, third = always(0, one), always(1, one)
    recipe = small(terms=(AVERAGE,))
    first = run_distillation(one, {"tiny": TINY}, recipe, run=tmp_path, seed=0, episodes=2, more_teachers=[second])
    assert np.isfinite(first.students[0].kl_teacher_states)
    with pytest.raises(StorageError, match="another teacher"):
        run_distillation(one, {"tiny": TINY}, recipe, run=tmp_path, seed=0, episodes=2, more_teachers=[third])
