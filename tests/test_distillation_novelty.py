"""Tests of novelty as a weight in distillation: what it measures, what it does to a loss, and that it is optional."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlkd import recipe as recipes
from rlkd.distillation import run_distillation, total_loss
from rlkd.distillation.novelty import ReplayNovelty
from rlkd.errors import RecipeError
from rlkd.policy import Output
from rlkd.recipe import Bonus, Distill, Network, Term
from rlkd.replay import Replay
from tests.handmade import cartpole_teacher
from tests.handmade import small_distillation as small

SMALL = Bonus(features=16, predictor_widths=(24, 24), widths=(16,))
WEIGHED = Term(divergence="forward_kl", novelty_power=1.0)


def test_states_unlike_the_replay_are_new_and_the_mean_is_one() -> None:
    generator = np.random.default_rng(0)
    replay = Replay(2, 4000, (4,), 2, None)
    common, rare = generator.normal(size=4), generator.normal(size=4) + 6
    unlike = ReplayNovelty(small(terms=(WEIGHED,), novelty=SMALL), (4,), replay, seed=0)
    envs, kinds = np.arange(2), []
    for _ in range(4):  # rounds
        for _ in range(500):
            is_rare = generator.random(2) < 0.02
            kinds.append(is_rare)
            seen = np.where(is_rare[:, None], rare, common) + 0.1 * generator.normal(size=(2, 4))
            replay.append(envs, seen.astype(np.float32), np.zeros(2, bool), torch.zeros(2, 2))
        novelty = unlike.see()
        rows = replay.rows()
        assert novelty[rows].mean() == pytest.approx(1.0, rel=1e-5)
        assert (novelty[np.setdiff1d(np.arange(len(novelty)), rows)] == 0).all()
    by_row = np.stack(kinds, axis=1).ravel()  # addresses go environment by environment
    assert novelty[rows][by_row].mean() > 5 * novelty[rows][~by_row].mean()


def test_a_weight_is_two_over_one_plus_the_novelty_to_its_power_in_its_own_term_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    answers, logits = torch.randn(6, 3, generator=generator), torch.randn(6, 3, generator=generator)
    novelty = torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0, 1.0])
    student = Output("categorical", {"logits": logits})
    plain = Term(divergence="cross_entropy", coefficient=0.3)
    one, both = (
        total_loss(terms, "categorical", answers, student, novelty)
        for terms in ((Term(divergence="forward_kl"),), (Term(divergence="forward_kl", novelty_power=2.0), plain))
    )
    other = total_loss((plain,), "categorical", answers, student, novelty)
    for k in range(6):
        wanted = (2 / (1 + float(novelty[k]))) ** 2 * float(one[k]) + float(other[k])
        assert float(both[k]) == pytest.approx(wanted, rel=1e-5)


def test_a_run_that_weighs_by_novelty_learns_and_differs_from_one_that_does_not(tmp_path: Path) -> None:
    teacher, network = cartpole_teacher(), recipes.load("mlp_16", Network)
    hashes = []
    for name, changes in (
        ("plain", {"terms": (Term(divergence="forward_kl"),)}),
        ("weighed", {"terms": (WEIGHED,), "novelty": SMALL}),
        ("again", {"terms": (WEIGHED,), "novelty": SMALL}),
    ):
        recipe = small(**changes)
        result = run_distillation(teacher, {"small": network}, recipe, run=tmp_path / name, seed=0, episodes=2)
        assert np.isfinite(result.students[0].kl_teacher_states)
        hashes.append(result.students[0].policy.spec.hash)
    assert hashes[0] != hashes[1] == hashes[2]


@pytest.mark.parametrize(
    ("terms", "novelty"),
    [((WEIGHED,), None), ((Term(divergence="forward_kl"),), SMALL), ((WEIGHED,), Bonus(name="counts"))],
)
def test_a_weight_and_its_measure_belong_together(terms: tuple[Term, ...], novelty: Bonus | None) -> None:
    with pytest.raises(RecipeError, match="novelty"):
        small(terms=terms, novelty=novelty)


def test_the_shipped_recipe_differs_from_its_original_by_the_weight_alone() -> None:
    ours, original = (recipes.load(f"policy_distillation{name}", Distill) for name in ("_novelty", ""))
    assert ours.novelty is not None
    assert ours.source == original.source
    assert (ours.gradient_steps, ours.learning_rate) == (original.gradient_steps, original.learning_rate)
