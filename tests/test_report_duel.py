"""Tests of `rlkd.report`, two policies side by side: the game shown is the one scored, marks are disagreements."""

import base64
import re
import shutil
from pathlib import Path

import cv2
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv

from rlkd.policy import Policy, load_policy
from rlkd.report import write_report
from rlkd.report.duel import Duel, Game, Moment, busiest, play
from rlkd.report.sheet import player, sheet
from rlkd.vector import make
from tests import handmade
from tests.small_run import Page, make_run, record


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("tensorboard")))


def test_the_game_that_is_shown_is_the_game_that_was_scored(finished: Path) -> None:
    content = record(finished)
    teacher, student = (
        load_policy(finished / "teacher.safetensors"),
        load_policy(finished / "students" / "tiny.safetensors"),
    )
    where = teacher.spec.environment
    assert where is not None
    duel = play(teacher, student, (where, where), seed=where.protocol.first_seed + 1, steps=1000, seconds=60)
    assert duel.teacher.score == content["teacher"]["scores"][1]
    assert duel.student.score == content["students"][0]["scores"][1]
    assert (len(duel.teacher.moments), len(duel.student.moments)) == (
        content["teacher"]["steps"][1],
        content["students"][0]["steps"][1],
    )
    assert duel.teacher.over
    assert duel.student.over


def undecided(policy: Policy) -> Policy:
    """An untrained policy prefers one action always; this one's logits are 0 on average over some Pong states."""
    env = make("pong")
    seen = [env.reset(seed=0)[0], *(env.step(np.int64(step // 5 % 6))[0] for step in range(100))]
    with torch.no_grad():
        policy.network.head.bias.sub_(policy(np.stack(seen)).params["logits"].mean(0))
    return policy


def test_atari_disagreements_are_those_of_the_two_networks() -> None:
    steps, seed = 40, 7
    where = handmade.environment("pong")
    policies = [undecided(handmade.policy(where, "categorical", handmade.TINY_PIXELS, seed=k)) for k in (0, 1)]
    duel = play(policies[0], policies[1], (where, where), seed=seed, steps=steps, seconds=60)
    meanings = policies[0].spec.action_meanings
    for side, game in enumerate((duel.teacher, duel.student)):
        env = make(where)
        observation, _ = env.reset(seed=seed)
        for moment in game.moments:
            wanted = [int(p(observation[None]).params["logits"].argmax()) for p in policies]
            assert [moment.teacher.split()[0], moment.student.split()[0]] == [meanings[k] for k in wanted]
            assert moment.differ == (wanted[0] != wanted[1])
            assert moment.played == meanings[wanted[side]]  # these two play greedily
            observation, *_ = env.step(np.int64(wanted[side]))
        assert len(game.moments) == steps
    marks = [[moment.differ for moment in game.moments] for game in (duel.teacher, duel.student)]
    assert {True, False} <= {mark for side in marks for mark in side}

    first, length = 5, 30
    screens = [
        moment.picture for game in (duel.teacher, duel.student) for moment in game.moments[first : first + length]
    ]
    pictures = sheet(screens)
    found = Page(player(duel, pictures, first, length, names=("one", "other"), roles=("the teacher", "the student")))
    ticks_at = [(at["y"], int(at["x"])) for _, at in found.elements if at.get("class") == "differs"]
    for side, y in enumerate(("1", "13")):
        wanted_at = [k for k in range(length) if marks[side][first + k]]
        assert [x for row, x in ticks_at if row == y] == wanted_at
    borders = ["differ" in at["class"] for _, at in found.elements if at.get("class", "").startswith("screen")][:2]
    assert borders == [marks[0][first], marks[1][first]]


def test_a_sheet_holds_every_picture_at_its_position() -> None:
    generator = np.random.default_rng(0)
    tiles = [np.kron(generator.integers(0, 256, (5, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(7)]
    pictures = sheet([cv2.imencode(".png", tile)[1].tobytes() for tile in tiles])
    kind, _, coded = pictures.uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    image = cv2.imdecode(np.frombuffer(base64.b64decode(coded), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    for place, tile in enumerate(tiles):
        x, y = (float(part.rstrip("%")) / 100 for part in pictures.position(place).split())
        left, top = round(x * (image.shape[1] - 32)), round(y * (image.shape[0] - 40))
        cut = np.asarray(image)[top : top + 40, left : left + 32]
        assert np.abs(cut.astype(float) - tile).mean() < 8


def test_action_names_from_files_stay_text() -> None:
    name = "</script><img src=x onerror=alert(1)>"
    picture = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    game = Game([Moment(picture, name, name, name, True, 0.0)], 1.0, True)
    content = player(Duel(0, game, game), sheet([picture] * 2), 0, 1, names=(name, name), roles=(name, name))
    found = Page(content)
    assert found.count("img") == 0
    assert found.count("script") == 1
    assert name in found.words


def test_the_stretch_with_most_disagreements_is_shown() -> None:
    where = handmade.environment("cartpole", frame_cap=60)
    teacher, student = handmade.cartpole_teacher(recipe=where), handmade.cartpole_teacher(recipe=where)
    duel = play(teacher, student, (where, where), seed=3, steps=60, seconds=60)
    assert not any(duel.differ(step) for step in range(60))  # two copies of one policy never disagree
    assert busiest(duel, 10) == 0
    for step in (31, 33, 36, 50):
        moment = duel.student.moments[step]
        duel.student.moments[step] = type(moment)(moment.picture, "", "", "", True, 0.0)
    assert busiest(duel, 10) == 27


def test_continuous_actions_differ_by_a_tenth_of_their_range() -> None:
    where = handmade.environment("pendulum", frame_cap=5)
    policies = [handmade.policy(where, "gaussian", handmade.LINEAR, seed=k) for k in (0, 0, 1)]
    same = play(policies[0], policies[1], (where, where), seed=0, steps=5, seconds=60)
    other = play(policies[0], policies[2], (where, where), seed=0, steps=5, seconds=60)
    assert same.teacher.differing == 0
    for moment in (*other.teacher.moments, *other.student.moments):
        assert moment.differ == (abs(float(moment.teacher) - float(moment.student)) > 0.1 * 4)  # torque in [-2, 2]


def test_without_the_drawing_package_the_counts_remain(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(self: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr(CartPoleEnv, "render", render)
    found = Page(write_report(run).read_text(encoding="utf-8"))
    assert "No pictures" in found.text
    assert re.search(r"They prefer different actions on [\d.]+ % of \d+ steps of the teacher’s game", found.text)
    assert found.count("button") == 0


@pytest.mark.parametrize("how", ["replaced", "damaged", "missing"])
def test_a_policy_that_is_not_the_measured_one_is_not_shown(run: Path, how: str) -> None:
    files = run / "students" / "tiny.safetensors", run / "students" / "tinier.safetensors"
    for path in files:
        if how == "missing":
            path.unlink()
        elif how == "damaged":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            shutil.copy(run / "students" / "hard_labels.safetensors", path)
    found = Page(write_report(run).read_text(encoding="utf-8"))
    assert "Not shown: " in found.text
    assert found.count("button") == 0


def test_who_sees_a_game_otherwise_plays_and_is_asked_in_its_own_view() -> None:
    full, positions = (
        handmade.environment("cartpole", frame_cap=40),
        handmade.environment("cartpole_positions", frame_cap=40),
    )
    teacher = handmade.cartpole_teacher(recipe=full)
    student = handmade.policy(positions, "categorical", handmade.TINY, seed=3)
    duel = play(teacher, student, (full, positions), seed=5, steps=40, seconds=60)
    env = make(full)
    observation, _ = env.reset(seed=5)
    for moment in duel.teacher.moments:
        wanted = (teacher.predict(observation)[0], student.predict(observation[[0, 2]])[0])
        told = [("LEFT", "RIGHT")[int(action)] for action in wanted]
        assert (moment.teacher.split()[0], moment.student.split()[0]) == tuple(told)
        assert moment.differ == (wanted[0] != wanted[1])
        observation, *_ = env.step(wanted[0])
    assert len(duel.teacher.moments) == 40
