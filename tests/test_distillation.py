"""Tests of `rlkd.distillation`, whole runs: what a student inherits, what it learns, and that runs repeat."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlkd import recipe as recipes
from rlkd.collect import Collector
from rlkd.distillation import Result, measure_baseline, run_distillation
from rlkd.distillation.command import distill
from rlkd.distillation.student import Plan, Student
from rlkd.errors import MemoryBudgetError, MismatchError, RecipeError
from rlkd.metrics import read_metrics
from rlkd.policy import Normaliser, Policy, load_policy
from rlkd.recipe import Distill, Network, Source
from tests.handmade import LINEAR, TINY, TINY_PIXELS, cartpole_teacher, environment, policy, student_file
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole", episodes=20)
PENDULUM = environment("pendulum", frame_cap=60, episodes=10)
PROMISED = ("run", "teacher", "students", "controls")
PROMISED_OF_STUDENTS = (
    *("name", "path", "seed", "parameters", "parameter_ratio", "weight_bytes", "normalised", "normalised_ci95"),
    *("agreement", "kl_teacher_states", "kl_student_states", "frames", "gradient_steps"),
)


def run(
    folder: Path, recipe: Distill, *, teacher: Policy | None = None, students: Mapping[str, Network] | None = None
) -> Result:
    return run_distillation(
        teacher or cartpole_teacher(rule="sampled", recipe=CARTPOLE),
        students or {"tiny": TINY},
        recipe,
        run=folder,
        seed=0,
        episodes=5,
    )


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.network.state_dict().items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_student_changes_teacher_does_not(tmp_path: Path) -> None:
    teacher = cartpole_teacher(rule="sampled", recipe=CARTPOLE)
    before, hash_before = weights(teacher), teacher.spec.hash
    recipe = small()
    newborn = Student(Plan("tiny", TINY), recipe, teacher.spec, seed=0, device=torch.device("cpu")).snapshot()
    result = run(tmp_path, recipe, teacher=teacher)
    assert same(weights(teacher), before)
    assert Policy(teacher.network, teacher.spec).spec.hash == hash_before
    student = result.students[0].policy
    assert student.spec.hash != newborn.spec.hash
    assert not any(torch.equal(weights(student)[name], tensor) for name, tensor in weights(newborn).items())
    assert load_policy(result.students[0].path).spec == student.spec
    assert load_policy(tmp_path / "teacher.safetensors").spec.hash == hash_before
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


def test_a_student_inherits_what_makes_the_teacher_play(tmp_path: Path) -> None:
    made = cartpole_teacher("q", rule="sampled", recipe=CARTPOLE)
    normaliser = Normaliser(mean=(0.1, 0.2, 0.3, 0.4), variance=(1.0, 2.0, 3.0, 4.0))
    teacher = Policy(made.network, replace(made.spec, normaliser=normaliser, parents=("grandparent",)))
    student = run(tmp_path, small(), teacher=teacher).students[0].policy.spec
    kept = ("rule", "action_meanings", "normaliser", "environment", "observation_shape", "observation_dtype", "actions")
    for name in kept:
        assert getattr(student, name) == getattr(teacher.spec, name), name
    assert student.parents == (teacher.spec.hash,)
    assert (student.name, student.kind, student.network) == ("tiny", "categorical", TINY)
    assert student.parameters == 114


def test_students_of_a_teacher_that_does_not_say_are_told_where_they_play(tmp_path: Path) -> None:
    made = cartpole_teacher(rule="sampled")
    nowhere = Policy(made.network, replace(made.spec, environment=None, action_meanings=()))
    result = run_distillation(nowhere, {"tiny": TINY}, small(), run=tmp_path, seed=0, environment=CARTPOLE, episodes=5)
    assert result.students[0].policy.spec.environment == CARTPOLE
    assert result.students[0].policy.spec.action_meanings == ("LEFT", "RIGHT")


def test_a_normalised_teachers_student_learns_and_acts_on_normalised_observations(tmp_path: Path) -> None:
    """Whitening multiplies what the network sees by a thousand: a student without it would see next to nothing."""
    made = cartpole_teacher(rule="sampled", recipe=CARTPOLE)
    with torch.no_grad():
        made.network.head.weight *= 1e-3
    normaliser = Normaliser(mean=(0.0,) * 4, variance=(1e-6,) * 4, limit=1e6)
    teacher = Policy(made.network, replace(made.spec, normaliser=normaliser))
    result = run(tmp_path, small(gradient_steps=400), teacher=teacher, students={"linear": LINEAR})
    assert result.students[0].agreement > 0.9


def test_hard_labels_of_a_continuous_teacher_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"""take --set 'controls=\["shuffled_teacher"\]'"""):
        run(tmp_path, small(controls=("hard_labels",)), teacher=policy(PENDULUM, "gaussian", TINY))
    assert not list(tmp_path.iterdir())


def test_a_114_parameter_student_plays_cartpole_and_a_shuffled_teachers_does_not(tmp_path: Path) -> None:
    recipe = small(
        source=Source(states=6000, rounds=4, num_envs=8, epsilon=0.1),
        gradient_steps=1200,
        batch_size=128,
        controls=("hard_labels", "shuffled_teacher"),
    )
    teacher = tmp_path / "teacher.safetensors"
    cartpole_teacher(rule="sampled", recipe=CARTPOLE).save(teacher)
    agent, student = tmp_path / "agent.toml", student_file(tmp_path, "tiny", TINY)
    agent.write_text(recipes.dump(recipe))
    record = distill(teacher, [student], run=tmp_path / "run", agent=str(agent), command="by hand")
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == record
    assert set(PROMISED) <= record.keys()
    for entry in record["students"]:
        assert set(PROMISED_OF_STUDENTS) <= entry.keys()
    for entry in record["controls"]:
        assert {"name", "normalised", "normalised_ci95"} <= entry.keys()
    tiny, (hard, shuffled) = record["students"][0], record["controls"]
    assert (tiny["name"], tiny["parameters"], tiny["gradient_steps"]) == ("tiny", 114, 1200)
    assert tiny["parameter_ratio"] == 114 / record["teacher"]["parameters"]
    assert tiny["normalised"] >= 0.9
    assert tiny["normalised_ci95"][0] <= tiny["normalised"] <= tiny["normalised_ci95"][1]
    assert shuffled["normalised"] <= 0.3
    assert [hard["name"], shuffled["name"]] == ["hard_labels", "shuffled_teacher"]
    assert hard["kl_teacher_states"] > 10 * tiny["kl_teacher_states"]  # what soft targets are for
    assert record["states"] == 6000
    assert record["frames"] == record["steps"] >= 6000
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [120, 360, 720, 1200]
    assert lines[0]["tiny/kl"] > lines[-1]["tiny/kl"]


def test_a_continuous_teacher_is_distilled(tmp_path: Path) -> None:
    teacher = policy(PENDULUM, "gaussian", TINY, rule="sampled", sharpness=3)
    baseline = measure_baseline(teacher, PENDULUM, episodes=3, keep_states=60)
    recipe = small(gradient_steps=300, controls=("shuffled_teacher",))
    result = run_distillation(teacher, {"tiny": TINY}, recipe, run=tmp_path, seed=0, episodes=3, baseline=baseline)
    assert result.students[0].agreement > 0.8 > result.controls[0].agreement
    assert result.students[0].kl_teacher_states < 0.3 * result.controls[0].kl_teacher_states


def test_several_students_share_one_replay_and_the_teacher_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, rounds, collecting = 0, 0, False
    collect = Collector.collect

    def counted(*arguments: Any) -> Any:
        nonlocal rounds, collecting
        rounds, collecting = rounds + 1, True
        played = collect(*arguments)
        collecting = False
        return played

    monkeypatch.setattr(Collector, "collect", counted)
    questions = []
    for count in (1, 3):
        teacher = cartpole_teacher(rule="sampled", recipe=CARTPOLE)
        baseline = measure_baseline(teacher, CARTPOLE, episodes=5, keep_states=20)
        asked = rounds = 0

        def hook(_: Any, given: tuple[torch.Tensor, ...]) -> None:
            nonlocal asked
            asked += len(given[0]) if collecting else 0

        teacher.network.register_forward_pre_hook(hook)
        recipe = small(gradient_steps=4, source=Source(states=800, rounds=1, num_envs=8))
        students = {f"student-{k}": TINY for k in range(count)}
        result = run_distillation(
            teacher, students, recipe, run=tmp_path / str(count), seed=0, episodes=5, baseline=baseline
        )
        assert (rounds, result.states, len(result.students)) == (1, 800, count)
        questions.append(asked)
    assert questions[0] == questions[1] >= 800


def test_the_same_seed_gives_the_same_students_though_threads_race(tmp_path: Path) -> None:
    recipe = small(controls=("hard_labels", "shuffled_teacher"), gradient_steps=200)
    students = {"one": TINY, "two": LINEAR, "three": TINY}
    first, second = (run(tmp_path / name, recipe, students=students) for name in ("a", "b"))
    hashes = [[entry.policy.spec.hash for entry in (*each.students, *each.controls)] for each in (first, second)]
    assert hashes[0] == hashes[1]
    one, _, three = (weights(entry.policy) for entry in first.students)
    assert not any(torch.equal(one[name], three[name]) for name in one)  # of one shape, each with weights of its own
    assert [entry.evaluation.scores for entry in first.students] == [
        entry.evaluation.scores for entry in second.students
    ]
    teacher = cartpole_teacher(rule="sampled", recipe=CARTPOLE)
    other = run_distillation(teacher, students, recipe, run=tmp_path / "c", seed=1, episodes=5)
    assert not set(hashes[0]) & {entry.policy.spec.hash for entry in other.students}


def test_dagger_lets_students_act_and_keeps_all_rounds(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    cartpole_teacher(rule="sampled", recipe=CARTPOLE).save(teacher)
    overrides = ("source.states=1600", "source.num_envs=8", "gradient_steps=300", "learning_rate=1e-2", "controls=[]")
    student = student_file(tmp_path, "tiny", TINY)
    record = distill(teacher, [student], run=tmp_path / "run", agent="dagger", overrides=overrides, episodes=10)
    assert record["recipe"]["source"]["teacher_fraction"] == [1, 0]
    assert record["states"] == 1600
    assert record["students"][0]["normalised"] > 0.5


def test_pixels_are_distilled(tmp_path: Path) -> None:
    pong = environment("pong", frame_cap=120)
    teacher = policy(pong, "categorical", TINY_PIXELS, rule="sampled", sharpness=30)
    baseline = measure_baseline(teacher, pong, episodes=2, keep_states=16)
    recipe = small(source=Source(states=200, rounds=2, num_envs=4), gradient_steps=150, batch_size=32)
    result = run_distillation(
        teacher, {"tiny": TINY_PIXELS}, recipe, run=tmp_path, seed=0, episodes=2, baseline=baseline
    )
    lines = read_metrics(tmp_path)
    assert lines[-1]["tiny/kl"] < 0.75 * lines[0]["tiny/kl"]
    assert result.students[0].policy.spec.environment == pong


@pytest.mark.parametrize(("name", "agent"), [("cartpole", "classic"), ("pong", "policy_distillation")])
def test_the_recipe_follows_the_kind_of_observation_unless_one_is_named(
    name: str, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Distill] = []

    class EnoughError(Exception):
        pass

    def no_run(teacher: Policy, students: Mapping[str, Network], recipe: Distill, **_: Any) -> None:
        used.append(recipe)
        raise EnoughError

    monkeypatch.setattr("rlkd.distillation.command.run_distillation", no_run)
    for chosen in (None, "hinton"):
        with pytest.raises(EnoughError):
            distill(
                policy(environment(name), "categorical", TINY_PIXELS if name == "pong" else TINY),
                run=tmp_path,
                agent=chosen,
            )
    assert used == [recipes.load(agent, Distill), recipes.load("hinton", Distill)]


def test_a_teacher_that_plays_like_random_play_is_refused_before_anything_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlkd.distillation.games.learn_rounds", pytest.fail)
    mountain = environment("mountaincar", frame_cap=20)
    with pytest.raises(MismatchError, match="both score -20 over 3 episodes: there is nothing to normalise by"):
        run_distillation(policy(mountain, "q", TINY), {"tiny": TINY}, small(), run=tmp_path, seed=0, episodes=3)


def test_a_baseline_of_another_teacher_is_refused(tmp_path: Path) -> None:
    baseline = measure_baseline(cartpole_teacher("q", recipe=CARTPOLE), CARTPOLE, episodes=2, keep_states=4)
    teacher = cartpole_teacher(recipe=CARTPOLE)
    with pytest.raises(MismatchError, match="measured with another teacher"):
        run_distillation(teacher, {"tiny": TINY}, small(), run=tmp_path, seed=0, baseline=baseline)


def test_a_replay_that_does_not_fit_is_refused_before_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(MemoryBudgetError, match=r"lower source\.states"):
        run(tmp_path / "run", small(source=Source(states=10**13, num_envs=8)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("students", "seed", "message"),
    [(("{0}/a/tiny.toml", "{0}/b/tiny.toml"), 0, "students need different names"), ((), -1, "seed must be at least 0")],
)
def test_arguments_that_cannot_be_are_refused(
    students: tuple[str, ...], seed: int, message: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        student_file(tmp_path / name, "tiny", TINY)
    named = [each.format(tmp_path) for each in students]
    with pytest.raises(RecipeError, match=message):
        distill(cartpole_teacher(recipe=CARTPOLE), named, run=tmp_path / "run", seed=seed)
    assert not (tmp_path / "run").exists()


def test_a_student_begins_with_the_weights_it_is_given_and_keeps_those_that_are_frozen(tmp_path: Path) -> None:
    teacher = cartpole_teacher(rule="sampled", recipe=CARTPOLE)
    start = policy(CARTPOLE, "categorical", TINY, seed=5)
    held = {name: tensor.clone() for name, tensor in start.network.state_dict().items()}
    still = small(gradient_steps=1, learning_rate=1e-7)  # so little that only other first weights are seen
    made = run_distillation(
        teacher, {"one": TINY, "new": TINY}, still, run=tmp_path / "a", seed=0, episodes=2, starts={"one": start}
    )
    one, new = (entry.policy for entry in made.students)
    assert all(torch.allclose(one.network.state_dict()[name], tensor, atol=1e-5) for name, tensor in held.items())
    assert not torch.allclose(new.network.head.weight, held["head.weight"], atol=1e-3)
    assert one.spec.parents == (teacher.spec.hash, start.spec.hash)
    learns = small(gradient_steps=40)
    made = run_distillation(
        teacher, {"one": TINY}, learns, run=tmp_path / "b", seed=0, episodes=2, starts={"one": start}, frozen="encoder."
    )
    (entry,) = made.students
    for name, tensor in held.items():
        assert torch.equal(entry.policy.network.state_dict()[name], tensor) == name.startswith("encoder."), name
    other = policy(CARTPOLE, "categorical", LINEAR)
    with pytest.raises(MismatchError, match="student 'one' cannot begin with the weights of"):
        run_distillation(teacher, {"one": TINY}, learns, run=tmp_path / "c", seed=0, starts={"one": other})
