"""Tests of `rlkd.distillation.tasks`: several games, one student; what they share, what they do not, what is reported.

Two CartPoles stand for two games of one shape, Ms. Pac-Man and Space Invaders for two sets of actions.
"""

import io
import json
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import rlkd
from rlkd import recipe as recipes
from rlkd.cli import main
from rlkd.distillation import Result, run_distillation, run_tasks, tasks_table
from rlkd.distillation.checkpoint import FILE
from rlkd.distillation.command import distill
from rlkd.distillation.lesson import Seen
from rlkd.distillation.steps import learn, shares_of, steps_of, turn
from rlkd.distillation.student import Plan, Student
from rlkd.distillation.tasks import names_of
from rlkd.distillation.tasks_record import tasks_record
from rlkd.errors import MismatchError, RecipeError, Stopped, StorageError
from rlkd.policy import Policy, load_policy
from rlkd.recipe import Distill, Network, Part, Tasks, Term
from rlkd.report import write_report
from rlkd.stats import normalised_over_games, normalised_score
from tests.handmade import (
    LINEAR,
    TINY,
    TINY_PIXELS,
    always,
    cartpole_teacher,
    environment,
    filled,
    policy,
    small_distillation,
    student_file,
)
from tests.small_run import Page

ANY_START = environment("cartpole", frame_cap=200, episodes=5)
ONE_START = replace(ANY_START, layout_seed=7)
NAMES = ("CartPole-v1-1", "CartPole-v1-2")
PIXELS = tuple(environment(name, frame_cap=240) for name in ("ms_pacman", "space_invaders"))


def teachers(kind: Any = "categorical") -> list[Policy]:
    """One of each game."""
    one = cartpole_teacher(rule="sampled", recipe=ANY_START)
    return [one, cartpole_teacher(kind, rule="sampled", recipe=ONE_START)]


def small(**changes: Any) -> Distill:
    return small_distillation(**({"tasks": Tasks()} | changes))


def run(folder: Path, recipe: Distill | None = None, **named: Any) -> list[Result]:
    given: dict[str, Any] = {"teachers": teachers(), "students": {"tiny": TINY}, "seed": 0, "episodes": 3}
    return run_tasks(recipe=recipe or small(), run=folder, **(given | named))


def weights(policy: Policy, *, shared: bool) -> dict[str, torch.Tensor]:
    found = policy.network.state_dict()
    return {name: tensor for name, tensor in found.items() if name.startswith("encoder.") == shared}


def heads(actions: Sequence[int] = (2, 2), **changes: Any) -> tuple[list[Student], list[Seen]]:
    """A network's student of each game, all of CartPole's shape, and what was seen of each."""
    recipe = small(tasks=None, gradient_steps=100, **changes)
    made, seen = [], []
    for number, count in enumerate(actions):
        teacher = policy(ANY_START, "categorical", TINY, seed=5 + number)
        if count != 2:
            network = type(teacher.network)(TINY, (4,), "categorical", count)
            network.initialise(torch.Generator().manual_seed(number), for_rl=False)
            teacher = Policy(network, replace(teacher.spec, actions=count, action_meanings=()))
        plan = Plan("tiny", TINY, game=str(number))
        made.append(Student(plan, recipe, teacher.spec, seed=number, device=torch.device("cpu")))
        replay = filled(teacher)
        seen.append(Seen(replay, replay.rows()))
    for student in made[1:]:
        student.join(made[0])
    return made, seen


# What is shared.


def test_games_share_an_encoder_and_each_has_a_head_of_its_own(tmp_path: Path) -> None:
    results = run(tmp_path, small(controls=("hard_labels",)))
    assert [result.game for result in results] == list(NAMES)
    for group in ("students", "controls"):
        files = [load_policy(getattr(result, group)[0].path) for result in results]
        one, other = (weights(each, shared=True) for each in files)
        assert one.keys() == other.keys()
        assert len(one) == 2
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name
        one, other = (weights(each, shared=False) for each in files)
        assert not any(torch.equal(tensor, other[name]) for name, tensor in one.items())
    first, second = (load_policy(tmp_path / "students" / f"tiny_{name}.safetensors") for name in NAMES)
    assert (first.spec.environment, second.spec.environment) == (ANY_START, ONE_START)
    assert (first.spec.parents, second.spec.parents) == tuple((each.spec.hash,) for each in teachers())
    assert [each.spec.hash for each in (first, second)] == [result.students[0].policy.spec.hash for result in results]
    assert (tmp_path / f"teacher_{NAMES[1]}.safetensors").exists()


def test_a_step_on_one_game_moves_its_head_and_the_encoder_and_no_other_head() -> None:
    students, seen = heads((2, 2, 2))
    learn(students, seen, 30, "float32")
    for _ in range(30):
        before = [[weight.detach().clone() for weight in student.network.head.parameters()] for student in students]
        shared = students[0].network.encoder.get_parameter("0.weight").detach().clone()
        steps = [student.steps for student in students]
        learn(students, seen, steps_of(students) + 1, "float32")
        moved = [
            not all(torch.equal(*pair) for pair in zip(old, student.network.head.parameters(), strict=True))
            for old, student in zip(before, students, strict=True)
        ]
        assert moved == [student.steps > old for student, old in zip(students, steps, strict=True)]
        assert sum(moved) == 1
        assert not torch.equal(students[0].network.encoder.get_parameter("0.weight"), shared)
    assert min(student.steps for student in students) > 10


def test_the_steps_are_those_of_one_adam_over_all_weights() -> None:
    """The reference: torch's own, unfused, over the union; a head without gradient is passed over."""
    students, seen = heads()
    learn(students, seen, 1, "float32")  # fresh weights have been looked at now
    (again, _), rate = heads(), students[0].recipe.learning_rate
    for mine, theirs in zip(students, again, strict=True):
        theirs.network.load_state_dict(mine.network.state_dict())
        theirs.generator.bit_generator.state = mine.generator.bit_generator.state
    union = list(torch.nn.ModuleList([each.network for each in again]).parameters())
    reference = torch.optim.Adam(union, lr=rate)
    for weight, known in zip(again[0].network.parameters(), students[0].network.parameters(), strict=True):
        reference.state[weight] = {name: value.clone() for name, value in students[0].optimiser.state[known].items()}
    for step in range(1, 20):
        place = turn(step, np.array([0.5, 0.5]))
        student, each = again[place], seen[place]
        lesson = student.begin(each, 20, fresh=False)
        picks = lesson.starts[student.generator.integers(len(lesson.starts), size=student.samples)]
        batch = student._minibatch(each, picks, lesson.shuffled)
        output = student.network(batch.observation)
        loss = (student.objective.losses(batch.targets, batch.weights, output, step / 100) * batch.share).sum()
        reference.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        reference.param_groups[0]["lr"] = rate * (1 - step / 100)
        reference.step()
    learn(students, seen, 20, "float32")
    for mine, theirs in zip(students, again, strict=True):
        for one, other in zip(mine.network.parameters(), theirs.network.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_games_with_different_actions_are_learnt_by_one_student_and_played_like_any_policy(tmp_path: Path) -> None:
    students, seen = heads((2, 3), learning_rate=2e-2, batch_size=128)
    learn(students, seen, 100, "float32")
    for student, each in zip(students, seen, strict=True):
        observation, answers = each.replay.read(each.rows)
        output = student.network(observation).params["logits"]
        assert output.shape == answers.shape
        assert student.losses[0] > 0
        file = tmp_path / f"{student.plan.label}.safetensors"
        student.snapshot().save(file)
        alone = load_policy(file)
        assert torch.equal(alone(observation).params["logits"], output)
    assert [student.network.head.out_features for student in students] == [2, 3]


def test_the_moving_average_of_every_game_follows_each_step() -> None:
    average = Term(divergence=Part("cross_entropy"), teacher=Part("moving_average"), coefficient=0.3)
    students, seen = heads(terms=(Term(divergence=Part("forward_kl")), average), moving_average=0.9)
    learn(students, seen, 1, "float32")
    copies = [list(student.own.copies["moving_average"].parameters()) for student in students]
    wanted = [[weight.detach().double() for weight in each] for each in copies]
    for goal in range(2, 12):
        learn(students, seen, goal, "float32")
        for held, student in zip(wanted, students, strict=True):
            held[:] = [
                0.9 * old + 0.1 * new.detach().double()
                for old, new in zip(held, student.network.parameters(), strict=True)
            ]
    for held, copy in zip(wanted, copies, strict=True):
        for one, other in zip(held, copy, strict=True):
            torch.testing.assert_close(other.double(), one, rtol=1e-5, atol=1e-6)


# From which game.


@pytest.mark.parametrize("sampling", ["even", "size"])
def test_games_get_their_shares_of_the_steps(sampling: Any) -> None:
    states = [60_000, 20_000, 500]
    powers = [math.exp((0.75 if sampling == "size" else 0.0) * math.log(count)) for count in states]
    wanted = [power / math.fsum(powers) for power in powers]
    shares = shares_of(states, sampling)
    assert shares.tolist() == pytest.approx(wanted, rel=1e-12)
    turns = [turn(step, shares) for step in range(20_000)]
    for start in (0, 3000, 17_000):
        counts = np.bincount(turns[start : start + 3000], minlength=3)
        assert np.abs(counts - 3000 * np.array(wanted)).max() < 5
    assert turn(0, shares) == 0  # whose moments are those of the encoder too
    assert max(turn(step, np.full(3, 1 / 3)) for step in range(1000)) == 2


def test_states_count_per_game_and_sampling_by_size_follows_them(tmp_path: Path) -> None:
    recipe = small(tasks=Tasks(sampling="size", states=(800, 160)), gradient_steps=400)
    results = run(tmp_path, recipe)
    assert [result.states for result in results] == [800, 160]
    taken = [result.students[0].gradient_steps for result in results]
    share = 800**0.75 / (800**0.75 + 160**0.75)
    assert sum(taken) == 400
    assert taken[0] == pytest.approx(400 * share, abs=5)
    with pytest.raises(RecipeError, match=r"tasks.states has 1 numbers of states for 2 games"):
        run(tmp_path, small(tasks=Tasks(states=(800,))))
    with pytest.raises(RecipeError, match="tasks.states must be above 0"):
        Tasks(states=(800, 0))


def test_the_first_look_is_at_states_of_all_games() -> None:
    students, seen = heads(learning_rate=1e-9)
    seen[1].replay._frames += 100.0
    learn(students, seen, 1, "float32")
    states = torch.cat([each.replay.read(each.rows)[0] for each in seen])
    first = students[0].network.encoder.get_submodule("0")(states)
    assert first.mean(0).abs().max() < 0.3  # of standardised units; 100 away without the second game's states


# Runs.


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = Term(divergence=Part("cross_entropy"), teacher=Part("moving_average"), coefficient=0.3)
    kl = Term(divergence=Part("forward_kl"))
    recipe = small(terms=(kl, earlier), controls=("shuffled_teacher",))
    whole, step = run(tmp_path / "whole", recipe), Student.step

    def interrupted(student: Student, *given: Any) -> torch.Tensor:
        if student.plan.label == f"tiny_{NAMES[1]}" and student.steps == 19:  # in the middle of a round
            os.kill(os.getpid(), signal.SIGTERM)
        return step(student, *given)

    monkeypatch.setattr(Student, "step", interrupted)
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", recipe)
    monkeypatch.undo()
    assert (tmp_path / "stopped" / FILE).exists()
    again = run(tmp_path / "stopped", recipe)
    for one, other in zip(whole, again, strict=True):
        for mine, theirs in zip((*one.students, *one.controls), (*other.students, *other.controls), strict=True):
            assert mine.policy.spec.hash == theirs.policy.spec.hash
            assert mine.gradient_steps == theirs.gradient_steps
    assert sum(result.students[0].gradient_steps for result in again) == 80
    for name in ("whole", "stopped"):
        tags = {tag for line in rlkd.metrics.read_metrics(tmp_path / name) for tag in line}
        assert {f"tiny_{NAMES[0]}/kl", f"shuffled_teacher_{NAMES[1]}/agreement"} <= tags


def test_another_teacher_game_or_sampling_is_another_run(tmp_path: Path) -> None:
    run(tmp_path)
    one, other = teachers()
    others: list[dict[str, Any]] = [
        {"teachers": [one, always(1, other)]},
        {"teachers": [one, cartpole_teacher(rule="sampled", recipe=replace(ONE_START, layout_seed=8))]},
        {"teachers": [other, one]},
        {"recipe": small(tasks=Tasks(sampling="size"))},
    ]
    for changed in others:
        with pytest.raises(StorageError, match="holds a run with another teacher"):
            run(tmp_path, **changed)
    run(tmp_path)


def test_states_are_kept_for_each_game_and_shared_with_runs_of_one(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    first = run(tmp_path / "a", replay_folder=kept)
    assert len(list(kept.iterdir())) == 2
    run_distillation(
        teachers()[0], {"tiny": TINY}, small(tasks=None), run=tmp_path / "b", seed=0, episodes=3, replay_folder=kept
    )
    assert len(list(kept.iterdir())) == 2
    again = run(tmp_path / "c", replay_folder=kept)
    for one, other in zip(first, again, strict=True):
        assert one.students[0].policy.spec.hash == other.students[0].policy.spec.hash


def test_teachers_of_different_kinds_each_have_their_own_temperature(tmp_path: Path) -> None:
    results = run(tmp_path, small(gradient_steps=400), teachers=teachers("q"), students={"linear": LINEAR})
    record = tasks_record(results, small(), seed=0, command="")
    assert [game["teacher_temperature"] for game in record["tasks"]] == [1.0, 0.01]
    assert min(game["students"][0]["agreement"] for game in record["tasks"]) > 0.8


# What is refused.


def test_games_and_recipes_that_do_not_fit_are_refused_by_name_before_anything_runs(tmp_path: Path) -> None:
    folder, acrobot = tmp_path / "run", environment("acrobot")
    one, other = teachers()
    stranger = policy(acrobot, "categorical", TINY)
    cases: list[tuple[str, dict[str, Any]]] = [
        (
            r"of one shape, CartPole-v1 gives \[4\] float32, Acrobot-v1 gives \[6\] float32",
            {"teachers": [one, stranger]},
        ),
        ("cartpole-again play the same CartPole-v1", {"teachers": [one, other, renamed(one, "cartpole-again")]}),
        ("student 'gru' is recurrent", {"students": {"gru": replace(TINY, core="gru", core_width=8)}}),
    ]
    for message, named in cases:
        with pytest.raises(MismatchError, match=message):
            run(folder, **named)
    with pytest.raises(MismatchError, match=r"\[tasks\] is for teachers of several games, and one was named"):
        run_distillation(one, {"tiny": TINY}, small(), run=folder, seed=0)
    with pytest.raises(MismatchError, match=r"CartPole-v1.*Acrobot-v1.*as policy_distillation_multitask"):
        run_distillation(one, {"tiny": TINY}, small(tasks=None), run=folder, seed=0, more_teachers=[stranger])
    assert not folder.exists()
    recipes.load("policy_distillation_multitask", Distill)


def renamed(teacher: Policy, name: str) -> Policy:
    return Policy(teacher.network, replace(teacher.spec, name=name))


def test_games_are_called_by_their_ids_and_numbered_where_they_have_one() -> None:
    odd = replace(ANY_START, id="ALE/Some Game-v5")
    assert names_of([ANY_START, PIXELS[0], ONE_START, odd]) == [
        "CartPole-v1-1",
        "ms_pacman",
        "CartPole-v1-2",
        "ALE-Some-Game-v5",
    ]


# What is said.


def test_the_mean_over_games_is_geometric_and_one_game_not_learnt_makes_it_nothing() -> None:
    teacher, random = [10.0, 10.0, 10.0], [0.0, 0.0, 0.0]
    games = [([[8.0, 8.0]], teacher, random), ([[2.0, 2.0]], teacher, random), ([[10.0, 10.0]], teacher, random)]
    found = normalised_over_games(games)
    by_hand = math.exp(math.fsum(math.log(value) for value in (0.8, 0.2, 1.0)) / 3)
    assert found.point == pytest.approx(by_hand, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((found.point, found.point))
    assert normalised_over_games([*games, ([[-3.0, -3.0]], teacher, random)]).point == 0
    scores: tuple[Any, ...] = ([[3.0, 9.0, 6.0, 8.0]], [10.0, 12.0, 8.0], [0.0, 2.0, 1.0])
    assert normalised_over_games([scores]) == normalised_score(*scores)  # no score below 0 in any resample
    low, high = (normalised_over_games([scores, scores], seed=seed) for seed in (0, 1))
    assert low.low < low.point < low.high
    assert low.point == high.point


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the command line: two games, two students, both controls."""
    folder = tmp_path_factory.mktemp("tasks")
    for teacher, name in zip(teachers(), ("any", "one"), strict=True):
        teacher.save(folder / f"{name}.safetensors")
    recipe = small(controls=("hard_labels", "shuffled_teacher"))
    (folder / "both.toml").write_text(recipes.dump(recipe))
    named = [str(folder / f"{name}.safetensors") for name in ("any", "one")]
    students = [
        part
        for name, network in (("tiny", TINY), ("linear", LINEAR))
        for part in ("--student", student_file(folder, name, network))
    ]
    command = ["distill", *named, *students, "--agent", str(folder / "both.toml"), "--episodes", "4"]
    assert main([*command, "--run", str(folder / "run")]) == 0
    return folder / "run"


def content(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def test_the_record_holds_each_game_as_a_run_of_one_does_and_what_they_come_to_together(finished: Path) -> None:
    record = content(finished)
    assert recipes.build(Distill, record["recipe"], where="here").tasks == Tasks()
    assert [game["name"] for game in record["tasks"]] == list(NAMES)
    for game, teacher in zip(record["tasks"], teachers(), strict=True):
        assert game["teacher"]["hash"] == teacher.spec.hash
        assert load_policy(game["teacher"]["path"]).spec.hash == teacher.spec.hash
        assert {"environment", "random", "states", "steps", "frames", "teacher_temperature"} <= game.keys()
        for entry in (*game["students"], *game["controls"]):
            assert load_policy(entry["path"]).spec.hash == entry["hash"]
            assert entry["path"].endswith(f"{entry['name']}_{game['name']}.safetensors")
            assert {"normalised", "agreement", "kl_student_states", "failed_share", "parameter_ratio"} <= entry.keys()
    by_game = list(zip(*(game["students"] + game["controls"] for game in record["tasks"]), strict=True))
    wholes = record["students"] + record["controls"]
    assert [whole["name"] for whole in wholes] == ["tiny", "linear", "hard_labels", "shuffled_teacher"]
    for whole, entries in zip(wholes, by_game, strict=True):
        clipped = [max(0.0, entry["normalised"]) for entry in entries]
        assert whole["normalised"] == pytest.approx(math.sqrt(clipped[0] * clipped[1]))
        assert whole["normalised_ci95"][0] <= whole["normalised"] <= whole["normalised_ci95"][1]
        assert whole["gradient_steps"] == 80 == sum(entry["gradient_steps"] for entry in entries)
        assert whole["lowest"]["normalised"] == min(entry["normalised"] for entry in entries)
        assert whole["paths"] == {name: entry["path"] for name, entry in zip(NAMES, entries, strict=True)}
    assert wholes[0]["parameters"] == (4 + 1) * 16 + 2 * (16 + 1) * 2
    assert wholes[1]["parameters"] == 2 * (4 + 1) * 2
    assert wholes[0]["weight_bytes"] == 4 * wholes[0]["parameters"]
    assert wholes[1]["parameter_ratio"] == 1  # as large as both linear teachers
    assert record["states"] == 2 * 800


@pytest.mark.parametrize("width", [80, 160])
def test_the_tables_show_all_games_and_each(finished: Path, width: int) -> None:
    record = content(finished)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tasks_table(record, width=width))
    text = console.export_text()
    assert f"2 games: {', '.join(NAMES)}" in text
    assert "geometric mean" in text
    assert "…" not in text
    for whole in record["students"]:
        low, high = whole["normalised_ci95"]
        assert f"{whole['normalised']:.3f} [{low:.2f}, {high:.2f}]" in text
        assert f"{whole['parameters']:,}" in text
    for game in record["tasks"]:
        for entry in (*game["students"], *game["controls"]):
            assert f"{entry['normalised']:.3f}" in text
    assert text.count("random play") >= 2


def test_the_page_shows_all_games_and_each(finished: Path, tmp_path: Path) -> None:
    record = content(finished)
    page = Page(write_report(finished, tmp_path / "page.html").read_text(encoding="utf-8"))
    for words in (
        "All games",
        *NAMES,
        *(f"Learning: {name}" for name in NAMES),
        "Side by side",
        "[tasks]",
        "rest on 4 episodes",
    ):
        assert words in page.text, words
    rows = [row for row in page.rows if row[0] == "tiny"]
    assert len(rows) == 3  # over all games, and in each
    whole = record["students"][0]
    assert f"{whole['normalised']:.2f} [" in rows[0][1]
    assert rows[0][3] == f"{whole['parameters']:,}"
    games = [game["students"][0]["normalised"] for game in record["tasks"]]
    assert [float(cell.replace("\u2212", "-")) for cell in rows[0][5:]] == pytest.approx(games, abs=0.006)
    for row, game in zip(rows[1:], record["tasks"], strict=True):
        assert f"{game['students'][0]['normalised']:.2f} [".replace("-", "\u2212") in row[1]
    labels = [attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg"]
    assert labels.count("agreement") == 2
    assert "Not shown" not in page.text
    for entry in (*(game["teacher"] for game in record["tasks"]), record["tasks"][1]["controls"][0]):
        assert entry["hash"] in page.text


@pytest.mark.parametrize(
    ("spoilt", "named"),
    [
        ({"tasks": 3}, "tasks"),
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"name": "x"}]}, "teacher"),
        ({"students": [{"name": "x"}]}, "missing key"),
    ],
)
def test_a_damaged_record_is_named(finished: Path, tmp_path: Path, spoilt: dict[str, Any], named: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps(content(finished) | spoilt))
    with pytest.raises(StorageError, match=named):
        write_report(tmp_path)


def test_a_card_knows_the_game_and_its_teacher(finished: Path, tmp_path: Path) -> None:
    entry, teacher = (content(finished)["tasks"][1][name] for name in ("students", "teacher"))
    rlkd.export(entry[0]["path"], to="card", out=tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert teacher["hash"] in text
    assert f"{entry[0]['normalised']:.3f}" in text


# Recipes.


@pytest.mark.parametrize("name", ["policy_distillation_multitask", "bam_multitask"])
def test_each_recipe_runs_from_teachers_to_students(name: str, tmp_path: Path) -> None:
    files = []
    for place, where in enumerate(PIXELS):
        files.append(tmp_path / f"{where.id}.safetensors")
        policy(where, "categorical", TINY_PIXELS, rule="sampled", sharpness=30, seed=place).save(files[-1])
    overrides = [
        *("source.states=128", "source.rounds=2", "source.num_envs=4", "gradient_steps=12", "batch_size=16"),
        *("held_out_states=32", "controls=[]", "tasks.states=[128,64]"),
    ]
    student = tmp_path / "tiny.toml"
    student.write_text(recipes.dump(TINY_PIXELS))
    record = distill(files, [str(student)], run=tmp_path / "run", agent=name, overrides=overrides, episodes=2)
    assert [game["name"] for game in record["tasks"]] == ["ms_pacman", "space_invaders"]
    found = [load_policy(path) for path in record["students"][0]["paths"].values()]
    assert [each.spec.actions for each in found] == [9, 6]
    assert [each.spec.environment for each in found] == list(PIXELS)
    assert np.isfinite([game["students"][0]["kl_teacher_states"] for game in record["tasks"]]).all()
    steps = [game["students"][0]["gradient_steps"] for game in record["tasks"]]
    assert steps == ([6, 6] if name.startswith("policy") else [8, 4])


def test_bam_ends_with_labels_alone() -> None:
    first, second = recipes.load("bam_multitask", Distill).terms
    for progress in (0.0, 0.3, 1.0):
        shares = [recipes.value_at(term.coefficient, progress) for term in (first, second)]
        assert shares == pytest.approx([1 - progress, progress])
    assert second.teacher == Part("label_h1")


def test_a_network_is_a_network(tmp_path: Path) -> None:
    """Students with branches before their heads share what is before those."""
    network = Network(encoder="mlp", hidden=(8,), activation="tanh", branches="residual")
    results = run(tmp_path, students={"branched": network})
    record = tasks_record(results, small(), seed=0, command="")
    assert record["students"][0]["parameters"] == 5 * 8 + 2 * (9 * 8 + 9 * 2)
