"""Tests of familiarity as a weight in distillation: what it measures, what it does to a loss, what belongs to it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlkd import recipe as recipes
from rlkd.distillation import run_distillation
from rlkd.distillation.familiarity import Familiarity
from rlkd.errors import MismatchError, RecipeError
from rlkd.policy import Output
from rlkd.recipe import Bonus, Distill, Network, Part, Term
from rlkd.replay import Replay
from rlkd.terms import Parts, Weight
from tests.handmade import TINY, cartpole_teacher, loss_of
from tests.handmade import small_distillation as small

SMALL = Bonus(features=16, predictor_widths=(24, 24), widths=(16,))
WEIGHED = Term(divergence=Part("forward_kl"), weight=Part("familiarity"))


@pytest.mark.parametrize(("rate", "least", "most"), [(1e-2, 0.0, 0.3), (1e-9, 0.7, 1.4)])
def test_states_that_are_rare_in_the_replay_are_less_familiar_once_it_was_learnt(
    rate: float, least: float, most: float
) -> None:
    generator = np.random.default_rng(0)
    replay = Replay(2, 8000, (4,), 2, None)
    # Corners of a square: whitening sees no difference between the common ones and the rare one.
    corners = np.array([[1, 1, 1, 1], [-1, -1, -1, -1], [1, 1, -1, -1]], np.float64)
    recipe = small(terms=(WEIGHED,), novelty=SMALL, learning_rate=rate)
    weigher = Familiarity(recipe, (4,), replay, seed=0)
    kinds = []
    for _ in range(4):  # rounds
        for _ in range(1000):
            kinds.append(generator.choice(3, p=[0.495, 0.495, 0.01], size=2))
            seen = corners[kinds[-1]] + 0.01 * generator.normal(size=(2, 4))
            replay.append(np.arange(2), seen.astype(np.float32), np.zeros(2, bool), torch.zeros(2, 2))
        familiarity = weigher.see(replay.rows())
        rows = replay.rows()
        assert familiarity[rows].mean() == pytest.approx(1.0, rel=1e-5)
        assert (familiarity[np.setdiff1d(np.arange(len(familiarity)), rows)] == 0).all()
    by_row = np.stack(kinds, axis=1).ravel()  # addresses go environment by environment
    common, rare = familiarity[rows][by_row < 2], familiarity[rows][by_row == 2]
    assert least <= rare.mean() / common.mean() <= most


def test_a_familiarity_is_one_over_one_plus_the_novelty_over_the_mean_of_that() -> None:
    replay = Replay(2, 40, (4,), 2, None)
    generator = np.random.default_rng(1)
    for _ in range(10):
        seen = generator.normal(size=(2, 4)).astype(np.float32)
        replay.append(np.arange(2), seen, np.zeros(2, bool), torch.zeros(2, 2))
    weigher = Familiarity(small(terms=(WEIGHED,), novelty=SMALL), (4,), replay, seed=0)
    found, rows = weigher.see(replay.rows()), replay.rows()
    error = weigher.novelty.again(weigher._steps(rows)).double().numpy()
    wanted = [1 / (1 + each / error.mean()) for each in error]
    assert found[rows] == pytest.approx(np.array(wanted) / np.mean(wanted), rel=1e-5)


def test_familiarity_weighs_the_terms_that_ask_for_it_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    answers, logits = torch.randn(6, 3, generator=generator), torch.randn(6, 3, generator=generator)
    familiarity = torch.tensor([0.1, 1.0, 2.0, 0.5, 1.5, 1.0])
    student = Output("categorical", {"logits": logits})
    plain = Term(divergence=Part("mse"), coefficient=0.3)
    one, both, other = (
        loss_of(terms, "categorical", answers, student, familiarity=familiarity)
        for terms in ((Term(divergence=Part("forward_kl")),), (WEIGHED, plain), (plain,))
    )
    for k in range(6):
        assert float(both[k]) == pytest.approx(float(familiarity[k]) * float(one[k]) + float(other[k]), rel=1e-5)


def test_a_run_that_weighs_by_familiarity_learns_and_differs_from_one_that_does_not(tmp_path: Path) -> None:
    teacher, network = cartpole_teacher(), recipes.load("mlp_16", Network)
    hashes = []
    for name, changes in (
        ("plain", {"terms": (Term(divergence=Part("forward_kl")),)}),
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
    [((WEIGHED,), None), ((Term(divergence=Part("forward_kl")),), SMALL), ((WEIGHED,), Bonus(name="counts"))],
)
def test_a_weight_and_its_measure_belong_together(terms: tuple[Term, ...], novelty: Bonus | None) -> None:
    with pytest.raises(RecipeError, match="novelty"):
        small(terms=terms, novelty=novelty)


def test_a_measure_that_no_weight_reads_is_refused_and_one_of_ones_own_may_read_it(tmp_path: Path) -> None:
    def run(terms: tuple[Term, ...], name: str) -> None:
        own: Parts = {"rarity": Weight(rarity, ("familiarity",))} if name == "own" else {}
        recipe = small(terms=terms, novelty=SMALL)
        run_distillation(
            cartpole_teacher(), {"small": TINY}, recipe, run=tmp_path / name, seed=0, episodes=2, own_parts=own
        )

    with pytest.raises(MismatchError, match="a weight that reads 'familiarity' belong together"):
        run((Term(divergence=Part("forward_kl"), weight=Part("confidence")),), "none")
    run((Term(divergence=Part("forward_kl"), weight=Part("rarity")),), "own")


def rarity(familiarity: torch.Tensor) -> torch.Tensor:
    """What is rare counts more."""
    return 1 / (0.1 + familiarity)


def test_the_shipped_recipe_differs_from_its_original_by_the_weight_alone() -> None:
    ours, original = (recipes.load(f"policy_distillation{name}", Distill) for name in ("_novelty", ""))
    (term,) = ours.terms
    assert ours.novelty is not None
    assert replace(ours, novelty=None, terms=(replace(term, weight=None),)) == original
