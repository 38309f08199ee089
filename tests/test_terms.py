"""Tests of what distillation terms are put together from: targets, weights, schedules, parts of one's own."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from torch import Tensor

import rlkd
from rlkd import losses
from rlkd import recipe as recipes
from rlkd.collect import Collector
from rlkd.distillation import run_distillation
from rlkd.distillation.lesson import Seen
from rlkd.distillation.student import Plan, Student
from rlkd.errors import MismatchError, RecipeError, RlkdError, StorageError
from rlkd.policy import Output
from rlkd.recipe import Distill, Part, Source, Term, value_at
from rlkd.replay import Replay
from rlkd.terms import Divergence, Objective, Parts, Target, Weight, hard_labels, source_hash
from rlkd.terms.targets import calibrate, harden, keep_confidence, permute, similar, smooth, temper, top_k
from rlkd.terms.teachers import best, done
from rlkd.terms.weights import confidence, inverse_entropy
from tests import reference
from tests.handmade import TINY, cartpole_teacher, environment, learn_alone, loss_of, policy, shipped_techniques
from tests.handmade import small_distillation as small

SCORES = st.lists(st.floats(-5, 5), min_size=2, max_size=6)


def row(values: Sequence[float]) -> Tensor:
    return torch.tensor([list(values)], dtype=torch.float64)


def spread(scores: Sequence[float]) -> list[float]:
    """softmax, by the slow reference."""
    return [math.exp(value) for value in reference.log_softmax(scores)]


@given(SCORES, st.sampled_from([0.01, 0.5, 4.0]))
def test_a_temperature_divides_the_scores(scores: list[float], temperature: float) -> None:
    want = spread([score / temperature for score in scores])
    assert temper(row(scores), temperature=temperature)[0].tolist() == pytest.approx(want, abs=1e-12)


def test_a_calibrated_answer_is_that_of_the_fitted_temperature() -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(calibrate(scores, torch.tensor(0.7)), temper(scores, temperature=0.7))


def test_a_calibrated_teacher_says_better_what_it_does_chance_included() -> None:
    """A greedy Q-valued teacher, random in four steps of ten; its temperature is fitted anew for each round."""
    cartpole = environment("cartpole", frame_cap=60)
    teacher = cartpole_teacher("q", recipe=cartpole)
    source = Source(states=2000, rounds=1, num_envs=8, epsilon=0.4)
    replay = Replay(8, 2000, (4,), 2, None, keeps_actions=True)
    collector = Collector(cartpole, teacher, source, seed=0)
    try:
        collector.collect(replay, 0, ())
    finally:
        collector.close()
    recipe = small(terms=(Term(target=(Part("calibrate"),), divergence=Part("forward_kl")),))
    student = Student(Plan("tiny", TINY), recipe, teacher.spec, seed=0, device=torch.device("cpu"))
    rows = replay.rows()
    learn_alone(student, replay, rows, 1, "float32")
    assert student.fitted is not None
    scores, done = replay.read(rows)[1].double(), replay.actions(rows)
    assert done is not None

    def surprise(temperature: float) -> float:
        return -float((scores / temperature).log_softmax(-1).gather(1, done[:, None]).mean())

    fitted = student.fitted.item()
    assert surprise(fitted) < surprise(0.01) - 0.1
    assert all(surprise(fitted) <= surprise(fitted * factor) for factor in (0.8, 1.25))
    batch = student._minibatch(Seen(replay, rows), np.arange(5), np.arange(len(rows)))
    torch.testing.assert_close(batch.targets[0].double(), (scores[:5] / fitted).softmax(-1), rtol=1e-4, atol=1e-6)
    learn_alone(student, replay, rows[:200], 2, "float32")
    assert student.fitted.item() != fitted


def test_calibration_is_refused_where_students_act(tmp_path: Path) -> None:
    recipe = small(
        terms=(Term(target=(Part("calibrate"),), divergence=Part("forward_kl")),),
        source=replace(small().source, teacher_fraction=(1.0, 0.0)),
    )
    with pytest.raises(MismatchError, match="target 'calibrate' is fitted to what the teacher did"):
        run_distillation(cartpole_teacher(), {"tiny": TINY}, recipe, run=tmp_path / "run", seed=0)


@given(SCORES, st.integers(1, 6))
def test_the_best_k_stay_and_the_rest_is_spread_evenly(scores: list[float], k: int) -> None:
    assume(k <= len(scores) and len({round(score, 6) for score in scores}) == len(scores))
    p = spread(scores)
    kept = sorted(range(len(p)), key=lambda a: -p[a])[:k]
    rest = (1 - math.fsum(p[a] for a in kept)) / max(len(p) - k, 1)
    want = [p[a] if a in kept else rest for a in range(len(p))]
    assert top_k(row(p), k=k)[0].tolist() == pytest.approx(want, abs=1e-12)


@given(SCORES)
def test_all_k_are_the_whole_answer_and_one_is_smoothing_by_how_unsure_the_teacher_is(scores: list[float]) -> None:
    assume(len({round(score, 6) for score in scores}) == len(scores))
    p, actions = row(spread(scores)), len(scores)
    assert torch.equal(top_k(p, k=actions), p)
    epsilon = (1 - p.max().item()) * actions / (actions - 1)
    torch.testing.assert_close(top_k(p, k=1), smooth(harden(p), epsilon=min(epsilon, 1.0)))
    assert torch.equal(keep_confidence(p), top_k(p, k=1))


def test_a_smoothed_label_is_the_behaviour_of_a_player_who_is_random_now_and_then() -> None:
    draws = torch.Generator().manual_seed(0)
    scores, own = (torch.randn(7, 5, generator=draws) for _ in range(2))
    behaviour = torch.full((7, 5), 0.1 / 5).scatter_add(1, scores.argmax(1, keepdim=True), torch.full((7, 1), 0.9))
    smoothed = Term(
        teacher=Part("label_h1"),
        target=(Part("smooth", {"epsilon": 0.1}),),
        divergence=Part("forward_kl"),
    )
    found = loss_of((smoothed,), "categorical", scores, Output("categorical", {"logits": own}))
    torch.testing.assert_close(found, losses.forward_kl(behaviour, own.log_softmax(-1)))


@given(SCORES, st.integers(0, 2**31))
def test_a_permuted_answer_keeps_its_best_action_and_deals_out_the_others(scores: list[float], seed: int) -> None:
    assume(len({round(score, 3) for score in scores}) == len(scores))
    p = row(spread(scores)).repeat(200, 1)
    noise = torch.rand(200, len(scores), generator=torch.Generator().manual_seed(seed))
    dealt = permute(p, noise)
    assert torch.equal(dealt.argmax(1), p.argmax(1))
    assert torch.equal(dealt.amax(1), p.amax(1))
    assert torch.equal(dealt.sort(1).values, p.sort(1).values)  # and so the same entropy
    others = [a for a in range(len(scores)) if a != int(p[0].argmax())]
    if len(scores) == 4:  # each of the others comes to stand at each of their places, about equally often
        for place in others:
            shares = [(dealt[:, place] == p[0, a]).double().mean().item() for a in others]
            assert min(shares) > 0.15


def test_a_similarity_prior_is_told_by_the_last_weights_alone() -> None:
    head = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)  # 0 and 1 point the same way
    p = torch.tensor([[0.7, 0.1, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
    found = similar(p, head, temperature=0.5, share=0.4)
    alike, other = math.exp(1 / 0.5), math.exp(0.0)
    first = [alike / (2 * alike + other), alike / (2 * alike + other), other / (2 * alike + other)]
    assert found[0].tolist() == pytest.approx([0.6 + 0.4 * first[0], 0.4 * first[1], 0.4 * first[2]])
    last = [other / (alike + 2 * other), other / (alike + 2 * other), alike / (alike + 2 * other)]
    assert found[1].tolist() == pytest.approx([0.4 * last[0], 0.4 * last[1], 0.6 + 0.4 * last[2]])
    assert torch.equal(found[0], similar(torch.tensor([[0.4, 0.3, 0.3]]).double(), head, temperature=0.5, share=0.4)[0])


def test_a_label_is_what_the_teacher_prefers_or_what_was_done() -> None:
    scores, action = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 0.0]]), torch.tensor([2, 0])
    assert best(scores).argmax(1).tolist() == [1, 0]
    assert done(scores, action).argmax(1).tolist() == [2, 0]
    assert done(scores, action).sum(1).tolist() == [1, 1]


def test_confidence_weighs_by_the_teachers_best_probability_and_is_one_on_average() -> None:
    """Born-again networks, section 3.2: w_i = max p(s_i) / sum_j max p(s_j)."""
    p = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    highest = [max(values) for values in p.tolist()]
    found = confidence(p)
    assert (found / len(p)).tolist() == pytest.approx([value / math.fsum(highest) for value in highest])
    assert float((found / len(p)).sum()) == pytest.approx(1)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.sampled_from([0.01, 1.0, 10.0]))
def test_states_where_the_choice_matters_weigh_more(scores: list[float], temperature: float) -> None:
    entropy = reference.entropy([score / temperature for score in scores])
    want = min(max(1 / entropy, 0.01), 2.0) if entropy > 0 else 2.0
    assert inverse_entropy(row(scores), temperature=temperature).item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "progress", "want"),
    [
        (0.5, 0.7, 0.5),
        (((0.0, 1.0), (1.0, 0.0)), 0.25, 0.75),
        (((0.2, 1.0), (0.6, 3.0)), 0.1, 1.0),
        (((0.2, 1.0), (0.6, 3.0)), 0.3, 1.5),
        (((0.2, 1.0), (0.6, 3.0)), 0.9, 3.0),
        (((0.0, 2.0), (0.5, 2.0), (0.5, 0.0)), 0.499, 2.0),
        (((0.0, 2.0), (0.5, 2.0), (0.5, 0.0)), 0.5, 0.0),
        (((0.3, 4.0),), 0.9, 4.0),
    ],
)
def test_a_schedule_runs_along_straight_lines_and_steps(schedule: Any, progress: float, want: float) -> None:
    assert value_at(schedule, progress) == pytest.approx(want)


@pytest.mark.parametrize("points", [(), ((0.5, 1.0), (0.4, 1.0)), ((-0.1, 1.0),), ((0.5, 1.0), (1.1, 0.0))])
def test_points_out_of_order_or_out_of_range_are_refused(points: Any) -> None:
    with pytest.raises(RecipeError, match="coefficient takes points"):
        Term(divergence=Part("mse"), coefficient=points)


# Recipes.


TECHNIQUES = shipped_techniques(Distill)
OF_ONE_GAME = [name for name in TECHNIQUES if recipes.load(name, Distill).tasks is None]


@pytest.mark.parametrize("name", OF_ONE_GAME)
def test_every_shipped_recipe_runs_from_teacher_to_student(name: str, tmp_path: Path) -> None:
    recipe = recipes.load(name, Distill)
    source = replace(recipe.source, states=320, rounds=2, num_envs=8)
    recipe = replace(recipe, source=source, gradient_steps=4, controls=(), held_out_states=64)
    where = environment("lunarlander" if source.search is None else "cartpole", frame_cap=60)  # the first has no copies
    teacher, other = (policy(where, "categorical", TINY, seed=k) for k in (0, 1))
    more = [other] if "multi_teacher" in name else []
    result = run_distillation(teacher, {"tiny": TINY}, recipe, run=tmp_path, seed=0, episodes=1, more_teachers=more)
    assert result.students[0].gradient_steps == 4
    assert np.isfinite(result.students[0].kl_teacher_states)


def test_no_two_shipped_recipes_differ_by_a_number_alone() -> None:
    def without_numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_numbers(item) for key, item in value.items()}
        if isinstance(value, list):
            return [without_numbers(item) for item in value]
        return "a number" if isinstance(value, int | float) else value

    shapes: dict[str, str] = {}
    assert len(TECHNIQUES) > 10
    for name in TECHNIQUES:
        if name in ("distill/classic", "distill/demo"):
            continue  # settings of policy_distillation and dagger for other sizes of teacher, techniques of no paper
        table = recipes.to_table(recipes.load(name, Distill))
        fractions = table["source"]["teacher_fraction"]
        shape = json.dumps(without_numbers(table), sort_keys=True) + f" acts {fractions[0] == 1} {fractions[1] == 1}"
        assert shape not in shapes, f"{name} is {shapes[shape]} with other numbers"
        shapes[shape] = name


# A user's own.


def tsallis(target: Tensor, student: Tensor, *, order: float = 2.0) -> Tensor:
    """Tsallis divergence."""
    ratio = (target.clamp_min(1e-8).log() - student) * (order - 1)
    return ((target * ratio.exp()).sum(-1) - 1) / (order - 1)


def halved(probabilities: Tensor) -> Tensor:
    """Half of it uniform."""
    return 0.5 * probabilities + 0.5 / probabilities.shape[-1]


def sure(probabilities: Tensor, *, least: float) -> Tensor:
    """States where the teacher is sure."""
    return (probabilities.amax(-1) >= least).to(probabilities.dtype)


OWN: Parts = {"tsallis": Divergence(tsallis), "halved": Target(halved), "sure": Weight(sure, ("probabilities",))}
KL = Term(divergence=Part("forward_kl"))
OWN_TERM = Term(
    divergence=Part("tsallis", {"order": 1.5}), target=(Part("halved"),), weight=Part("sure", {"least": 0.55})
)


def test_parts_of_ones_own_are_looked_up_and_settled_like_the_shipped_ones() -> None:
    answers, own = torch.tensor([[2.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.3, -0.4], [1.0, 0.0]])
    objective = Objective((OWN_TERM,), "categorical", 2, OWN)
    p = halved(answers.softmax(-1))
    want = tsallis(p, own.log_softmax(-1), order=1.5) * torch.tensor([1.0, 0.0])
    sample = objective.sample(answers)
    found = objective.losses(
        objective.targets(sample), objective.weights(sample), Output("categorical", {"logits": own}), 0.0
    )
    torch.testing.assert_close(found, want)
    (bound,) = Objective((replace(OWN_TERM, divergence=Part("tsallis")),), "categorical", 2, OWN).terms
    assert bound.term.divergence == Part("tsallis", {"order": 2.0})
    with pytest.raises(RecipeError, match="weight 'sure': missing key 'least'"):
        Objective((replace(OWN_TERM, weight=Part("sure")),), "categorical", 2, OWN)


def test_a_run_with_a_part_of_ones_own_goes_on_only_with_the_same_source(tmp_path: Path) -> None:
    teacher, students = cartpole_teacher(), {"tiny": TINY}
    recipe = small(terms=(OWN_TERM,))
    result = run_distillation(teacher, students, recipe, run=tmp_path, seed=0, episodes=2, own_parts=OWN)
    assert result.recipe.terms[0].divergence == Part("tsallis", {"order": 1.5})
    assert np.isfinite(result.students[0].kl_teacher_states)
    run_distillation(teacher, students, recipe, run=tmp_path, seed=0, episodes=2, own_parts=OWN)
    other = {**OWN, "halved": Target(smooth_a_little)}
    with pytest.raises(StorageError, match="another teacher, recipe"):
        run_distillation(teacher, students, recipe, run=tmp_path, seed=0, episodes=2, own_parts=other)


def smooth_a_little(probabilities: Tensor) -> Tensor:
    """Not `halved`."""
    return 0.6 * probabilities + 0.4 / probabilities.shape[-1]


def test_the_source_of_ones_own_parts_is_hashed_and_one_without_source_is_refused() -> None:
    assert source_hash({}) == ""
    assert source_hash(OWN) == source_hash({name: OWN[name] for name in reversed(list(OWN))})
    assert source_hash(OWN) != source_hash({**OWN, "halved": Target(smooth_a_little)})
    assert source_hash(OWN) != source_hash({**OWN, "halved": Target(halved, one_hot=False)})
    with pytest.raises(RecipeError, match="part 'builtin' has no source text; write its function into a file"):
        source_hash({"builtin": Target(math.sin)})  # type: ignore[arg-type]  # as an interpreter's own functions are


def enclosing(power: Any) -> Any:
    def made(probabilities: Tensor) -> Tensor:
        found: Tensor = probabilities**power
        return found

    return made


def test_what_a_function_took_along_from_where_it_was_made_is_hashed_or_refused() -> None:
    two, four, again = (source_hash({"made": Target(enclosing(power))}) for power in (2.0, 4.0, 2.0))
    assert two != four
    assert two == again
    with pytest.raises(RecipeError, match="holds more than numbers and texts"):
        source_hash({"made": Target(enclosing(torch.ones(2)))})


def without_annotation(target: Tensor, student: Tensor, *, power=2.0) -> Tensor:  # type: ignore[no-untyped-def]
    """As a user might write it."""
    found: Tensor = ((target - student.exp()) ** power).sum(-1)
    return found


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"tsallis": Divergence(without_annotation)}, "its keyword 'power' has no annotation"),
        (
            {"tsallis": Divergence(tsallis), "sure": Weight(sure, ("probability",))},
            "needs probability, which is no",
        ),
    ],
)
def test_mistakes_in_ones_own_parts_are_told_before_anything_runs(own: Parts, message: str) -> None:
    term = Term(divergence=Part("tsallis"), weight=Part("sure", {"least": 0.5}) if "sure" in own else None)
    with pytest.raises(RecipeError) as refusal:
        Objective((term,), "categorical", 3, own)
    assert message in str(refusal.value)


def test_a_part_that_no_term_names_and_a_loss_without_a_teacher_are_refused(tmp_path: Path) -> None:
    def refused(own: Parts | None, *terms: Term) -> str:
        recipe, run = small(terms=terms), tmp_path / "run"
        with pytest.raises(RlkdError) as refusal:
            run_distillation(cartpole_teacher(), {"tiny": TINY}, recipe, run=run, seed=0, own_parts=own)
        assert not run.exists()
        return str(refusal.value)

    assert "part 'tsallis' was passed in, and no term" in refused({"tsallis": Divergence(tsallis)}, KL)
    assert "no term asks the teacher" in refused(None, Term(teacher=Part("last_round"), divergence=Part("forward_kl")))


def test_the_hard_label_control_of_a_recipe_that_asks_about_few_states_learns_those_alone() -> None:
    recipe = recipes.load("pseudo_label", Distill)
    (term,) = hard_labels(recipe.terms)
    assert term.weight == Part("asked", {"share": 0.05})
    (plain,) = hard_labels((KL,))
    assert plain.weight is None


def averaged(target: Tensor, student: Tensor) -> Tensor:
    """One number where two are asked for: it would hide a reduction."""
    return (target - student.exp()).square().mean()


def cut(probabilities: Tensor) -> Tensor:
    """An action too few."""
    return probabilities[:, 1:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"divergence": Part("averaged")}, "divergence 'averaged' must give one value a sample, [2], gave []"),
        ({"weight": Part("averaged")}, "weight 'averaged' must give one value a sample, [2], gave []"),
        ({"target": (Part("cut"),), "divergence": Part("forward_kl")}, "target 'cut' must give [2, 3], gave [2, 2]"),
    ],
)
def test_a_part_of_another_shape_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    named = Weight(averaged, ("scores", "scores")) if "weight" in changes else Divergence(averaged)
    own: Parts = {"averaged": named, "cut": Target(cut)}
    with pytest.raises(RecipeError) as refusal:
        Objective((replace(Term(divergence=Part("mse")), **changes),), "categorical", 3, own)
    assert message in str(refusal.value)


def test_what_was_done_reaches_the_loss(tmp_path: Path) -> None:
    """A student of label H2 learns how its teacher acts, noise and all; of label H1 what it likes best."""
    teacher = policy(environment("cartpole"), "categorical", TINY, rule="sampled", sharpness=0.0)
    entropy = {}
    for name in ("H1", "H2"):
        term = Term(teacher=Part(f"label_{name.lower()}"), divergence=Part("cross_entropy"))
        recipe = small(terms=(term,), gradient_steps=300)
        result = run_distillation(teacher, {"tiny": TINY}, recipe, run=tmp_path / name, seed=0, episodes=2)
        states = result.students[0].played.states
        with torch.inference_mode():
            entropy[name] = float(losses.categorical_entropy(result.students[0].policy(states).params["logits"]).mean())
    assert entropy["H2"] > 0.6  # of at most 0.693: both actions are taken equally often
    assert entropy["H1"] < 0.3


def test_parts_reach_distill_by_its_argument(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    recipe = small(terms=(OWN_TERM,))
    file.write_text(recipes.dump(recipe))
    record = rlkd.distill(cartpole_teacher(), ["mlp_16"], run=tmp_path / "run", agent=str(file), episodes=2, parts=OWN)
    assert record["recipe"]["terms"][0]["divergence"] == {"name": "tsallis", "order": 1.5}
