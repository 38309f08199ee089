"""Tests of `rlkd.lineage`: generations with new weights, a chain of parents, and nothing finished is repeated."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from rlkd import distillation, lineage, recipe, storage
from rlkd.data import JsonDict
from rlkd.distillation.lesson import Lesson
from rlkd.distillation.student import Student
from rlkd.errors import MismatchError, PolicyFileError, RecipeError, RlkdError, Stopped, StorageError
from rlkd.evaluation import play_randomly
from rlkd.learn import train
from rlkd.learn.ppo import begin_from, policy_spec
from rlkd.lineage import evolve, lineage_table, verify
from rlkd.policy import Policy, load_policy
from rlkd.policy.file import build_network
from rlkd.recipe import Environment, Ppo
from tests.handmade import TINY, cartpole_teacher, environment, policy, started, student_file, wait_for
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole", frame_cap=200, episodes=8)
RECORDED = (
    *("number", "path", "parents", "recipe_hash", "seed", "mean", "std", "ci95", "scores", "seeds", "parameters"),
    *("weight_bytes", "file_bytes", "hash", "normalised", "normalised_ci95"),
)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A generations recipe: two students of 114 parameters in a row."""
    folder = tmp_path_factory.mktemp("agent")
    distill = folder / "distill.toml"
    distill.write_text(recipe.dump(small(gradient_steps=300, batch_size=128)))
    student = student_file(folder, "tiny", TINY)
    path = folder / "two.toml"
    path.write_text(
        f'kind = "generations"\noperator = "fresh"\ndistill = "{distill}"\nstudent = "{student}"\ngenerations = 2\n'
    )
    return str(path)


def teacher(**changes: Any) -> Policy:
    return cartpole_teacher(rule="sampled", recipe=replace(CARTPOLE, **changes))


@pytest.fixture(scope="module")
def whole(agent: str, tmp_path_factory: pytest.TempPathFactory) -> JsonDict:
    """The record of two generations that nobody disturbed."""
    return evolve(teacher(), agent, run=tmp_path_factory.mktemp("whole"), command="by hand")


def finished(run: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of everything that generations left behind when they were finished."""
    found = {}
    for record in sorted(run.glob("generations/*/record.json")):
        for path in (record, record.with_name("policy.safetensors")):
            found[str(path.relative_to(run))] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def hashes(record: JsonDict) -> list[str]:
    return [entry["hash"] for entry in record["generations"]]


def test_each_generation_learns_from_the_one_before(whole: JsonDict) -> None:
    run = Path(whole["run"])
    assert json.loads((run / "run.json").read_text()) == whole
    assert (whole["kind"], whole["status"], whole["operator"]) == ("evolve", "done", "fresh")
    first, *students = whole["generations"]
    assert [entry["number"] for entry in whole["generations"]] == [0, 1, 2]
    assert first["hash"] == teacher().spec.hash
    for parent, entry in zip([first, *students], students, strict=False):
        assert set(RECORDED) <= entry.keys()
        assert entry["parents"] == [parent["hash"]]
        told = storage.read_json((run / entry["path"]).with_name("record.json"))
        measures = json.loads((run / entry["path"]).with_name("measures.json").read_text())["measures"]
        assert told | {"measures": measures} == entry
        assert measures["parent"]["agreement_teacher_states"] == entry["agreement"]
        found = load_policy(run / entry["path"])
        assert (found.spec.hash, list(found.spec.parents)) == (entry["hash"], entry["parents"])
        assert (found.spec.parameters, entry["parameters"]) == (114, 114)
        assert found.spec.environment == CARTPOLE
    assert set(RECORDED) <= first.keys()
    assert len({entry["hash"] for entry in whole["generations"]}) == 3
    assert first["seeds"] == students[0]["seeds"] == list(range(1_000_000, 1_000_008))  # the protocol's episodes
    assert students[0]["normalised"] > 0.8
    low, high = students[0]["normalised_ci95"]
    assert low <= students[0]["normalised"] <= high


def test_each_generation_begins_with_new_weights_from_new_seeds(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    born: list[torch.Tensor] = []

    class Watched(Student):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            born.append(torch.cat([p.detach().flatten().clone() for p in self.network.parameters() if p.ndim > 1]))

    monkeypatch.setattr(distillation.games, "Student", Watched)
    wide = ['student="mlp_16@width=8"']
    record = evolve(teacher(), agent, run=tmp_path, generations=3, episodes=2, overrides=wide)
    assert len(born) == 3
    assert born[0].numel() > 10_000  # of fewer weights chance alone comes near
    for k, one in enumerate(born):
        for other in born[k + 1 :]:
            assert abs(float(torch.nn.functional.cosine_similarity(one, other, dim=0))) < 0.05
    assert len({entry["seed"] for entry in record["generations"]}) == 4


def test_random_play_is_measured_once(agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Environment] = []

    def counted(where: Environment, **named: Any) -> Any:
        played.append(where)
        return play_randomly(where, **named)

    for module in (lineage.run, distillation.baseline):
        monkeypatch.setattr(module, "play_randomly", counted)
    evolve(teacher(), agent, run=tmp_path, episodes=2)
    assert played == [CARTPOLE]


def test_killed_and_started_again_it_repeats_no_finished_generation(
    agent: str, whole: JsonDict, tmp_path: Path
) -> None:
    teacher().save(tmp_path / "teacher.safetensors")
    run = tmp_path / "run"
    process = started(
        ["evolve", "teacher.safetensors", "--agent", agent, "--run", "run", "--generations", "20"], tmp_path
    )
    wait_for((run / "generations" / "001" / "record.json").exists, process)
    process.kill()
    process.communicate()
    before = finished(run)
    count = len(before) // 2  # two files each: the first teacher, one student, perhaps more by now
    record = evolve(tmp_path / "teacher.safetensors", agent, run=run, generations=count)
    after = finished(run)
    assert {name: after[name] for name in before} == before
    assert (len(after), len(record["generations"])) == (2 * count + 2, count + 1)
    assert hashes(record)[:3] == hashes(whole)
    assert not list(run.rglob("*.tmp"))


def test_stopped_in_the_middle_of_a_generation_it_goes_on(
    agent: str, whole: JsonDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Student.begin

    def interrupted(student: Student, *given: Any, **named: Any) -> Lesson:
        if student.steps and student.plan.name == "002":
            os.kill(os.getpid(), signal.SIGTERM)
        return begin(student, *given, **named)

    monkeypatch.setattr(Student, "begin", interrupted)
    with pytest.raises(Stopped, match="the same command goes on"):
        evolve(teacher(), agent, run=tmp_path)
    monkeypatch.undo()
    before = finished(tmp_path)
    assert len(before) == 4
    summary = json.loads((tmp_path / "run.json").read_text())
    assert (summary["status"], len(summary["generations"])) == ("running", 2)
    assert hashes(evolve(teacher(), agent, run=tmp_path)) == hashes(whole)
    assert {name: finished(tmp_path)[name] for name in before} == before


@pytest.mark.parametrize("when", ["random.json", "generations/000/policy.safetensors"])
def test_a_signal_while_the_first_teacher_is_measured_stops_it(
    when: str, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent when a file is about to be written: what comes next is minutes of play that nobody wants to wait for."""
    write = storage.write_bytes

    def interrupted(path: Path, content: bytes) -> None:
        if path == tmp_path / when:
            os.kill(os.getpid(), signal.SIGINT)
        write(path, content)

    monkeypatch.setattr(storage, "write_bytes", interrupted)
    with pytest.raises(Stopped, match="the same command goes on"):
        evolve(teacher(), agent, run=tmp_path)
    assert not finished(tmp_path)


def test_a_finished_lineage_can_be_asked_for_more(agent: str, tmp_path: Path) -> None:
    short = evolve(teacher(), agent, run=tmp_path, generations=1, episodes=3)
    before = finished(tmp_path)
    longer = evolve(teacher(), agent, run=tmp_path, generations=2, episodes=3)
    assert hashes(longer)[:2] == hashes(short)
    assert [(len(each["generations"]), each["status"]) for each in (short, longer)] == [(2, "done"), (3, "done")]
    assert {name: finished(tmp_path)[name] for name in before} == before
    again = finished(tmp_path)
    assert evolve(teacher(), agent, run=tmp_path, generations=2, episodes=3)["generations"] == longer["generations"]
    assert finished(tmp_path) == again


def test_generations_of_the_teachers_own_size_need_no_name(agent: str, tmp_path: Path) -> None:
    record = evolve(teacher(), agent, run=tmp_path, generations=1, episodes=2, overrides=("student=same",))
    assert [entry["parameters"] for entry in record["generations"]] == [10, 10]


@pytest.fixture
def bred(agent: str, tmp_path: Path) -> Path:
    """The folder of one finished generation."""
    evolve(teacher(), agent, run=tmp_path, generations=1, episodes=3)
    return tmp_path


def test_a_finished_generation_that_was_altered_is_refused(agent: str, bred: Path) -> None:
    path = bred / "generations" / "001" / "policy.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(PolicyFileError, match="does not match its checksum"):
        evolve(teacher(), agent, run=bred, generations=2, episodes=3)
    policy(CARTPOLE, "categorical", TINY).save(path)  # whole, but not the one that was recorded
    with pytest.raises(StorageError, match=r"001/policy\.safetensors was replaced: its hash is [0-9a-f]{12}"):
        evolve(teacher(), agent, run=bred, generations=2, episodes=3)
    assert not (bred / "generations" / "002").exists()


def test_each_step_is_announced_with_how_many_there_are_and_how_long_they_may_take(
    agent: str, bred: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    evolve(teacher(), agent, run=bred, generations=3, episodes=3)
    told = [line for line in capsys.readouterr().err.splitlines() if " of 3: " in line]
    assert [line.partition(";")[0] for line in told] == [
        "002, step 2 of 3: learns from 001",
        "003, step 3 of 3: learns from 002",
    ]
    assert all(re.fullmatch(r" about \d+ min left for all", line.partition(";")[2]) for line in told)


def test_what_only_a_stopped_step_needs_is_not_kept(bred: Path) -> None:
    left = {path.name for path in (bred / "generations" / "001" / "distill").iterdir()}
    assert "students" in left
    assert not left & {"replay", "students.checkpoint.safetensors"}


def test_a_record_that_was_altered_is_refused(agent: str, bred: Path) -> None:
    record = bred / "generations" / "001" / "record.json"
    text = record.read_text()
    for key in ("mean", "seed", "identity"):
        value = json.dumps(json.loads(text)[key])
        other = value.replace(value.strip('"')[0], "7", 1) if value.strip('"')[0] != "7" else value.replace("7", "8", 1)
        assert text.count(f'"{key}": {value}') >= 1
        record.write_text(text.replace(f'"{key}": {value}', f'"{key}": {other}'))
        with pytest.raises(StorageError, match=r"001/record\.json: its content does not match its checksum"):
            evolve(teacher(), agent, run=bred, generations=1, episodes=3)
    record.write_text(text)
    evolve(teacher(), agent, run=bred, generations=1, episodes=3)


def test_a_finished_generation_without_its_policy_is_refused(agent: str, bred: Path) -> None:
    (bred / "generations" / "001" / "policy.safetensors").unlink()
    with pytest.raises(StorageError, match=r"policy\.safetensors is missing, and 001 was finished; delete"):
        evolve(teacher(), agent, run=bred, generations=1, episodes=3)


def test_a_lineage_that_was_begun_under_other_versions_says_so_and_goes_on(
    agent: str, bred: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evolve(teacher(), agent, run=bred, generations=1, episodes=3)
    assert "begun under" not in capsys.readouterr().err
    now = storage.versions()
    monkeypatch.setattr(storage, "versions", lambda: now | {"torch": "99.0"})
    record = evolve(teacher(), agent, run=bred, generations=1, episodes=3)
    assert f"was begun under torch {now['torch']}, now 99.0: it goes on" in capsys.readouterr().err
    assert record["generations"][1]["versions"] == now


def test_each_student_says_what_its_bits_depend_on_and_a_change_is_told(
    agent: str, bred: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = evolve(teacher(), agent, run=bred, generations=1, episodes=3)
    under = record["generations"][1]["under"]
    assert under == storage.versions() | {key: under[key] for key in ("device", "processor", "precision", "parts")}
    assert under["processor"] == torch.backends.cpu.get_cpu_capability()
    capsys.readouterr()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    record = evolve(teacher(), agent, run=bred, generations=2, episodes=3)
    told = f"001 was made under processor {under['processor']}, now another of 002: bits may differ from one machine's"
    assert told in capsys.readouterr().err
    assert record["generations"][2]["under"]["processor"] == "another"


def test_who_is_of_others_than_stand_there_is_left_out_with_a_line(
    agent: str, bred: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evolve(teacher(), agent, run=bred, generations=2, episodes=3)
    path = bred / "generations" / "002" / "record.json"
    storage.write_record(path, storage.read_json(path) | {"parents": ["0" * 64]})
    capsys.readouterr()
    record = evolve(teacher(), agent, run=bred, generations=1, episodes=3)
    assert [entry["name"] for entry in record["steps"]] == ["000", "001"]
    told = f"left out, being of others than stand in {bred} now: 002; `rlkd verify {bred}` says of whom"
    assert told in capsys.readouterr().err
    assert any("002" in problem for problem in verify(bred)["problems"])


def test_a_generation_whose_parent_is_another_now_is_refused(agent: str, bred: Path) -> None:
    evolve(teacher(), agent, run=bred, generations=2, episodes=3)
    record = bred / "generations" / "002" / "record.json"
    storage.write_record(record, storage.read_json(record) | {"parents": ["0" * 64]})
    with pytest.raises(StorageError, match="002 was made of another 001 than this; delete"):
        evolve(teacher(), agent, run=bred, generations=3, episodes=3)


def test_what_a_stopped_step_left_of_something_else_is_refused_with_what_to_do(
    agent: str, bred: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise Stopped("before the step was recorded")

    left, other = bred / "generations" / "002", tmp_path_factory.mktemp("other")
    with monkeypatch.context() as patch:
        patch.setattr("rlkd.lineage.run.recorded", interrupted)
        with pytest.raises(Stopped):
            evolve(teacher(), agent, run=other, generations=1, episodes=3)
    shutil.copytree(other / "generations" / "001" / "distill", left / "distill")
    with pytest.raises(StorageError, match=rf"002 was begun otherwise and never finished; delete {left} to make it"):
        evolve(teacher(), agent, run=bred, generations=2, episodes=3)
    shutil.rmtree(left)
    assert evolve(teacher(), agent, run=bred, generations=2, episodes=3)["status"] == "done"


OTHERS: dict[str, dict[str, Any]] = {
    "teacher": {"teacher": cartpole_teacher("q", rule="sampled", recipe=CARTPOLE)},
    "environment": {"teacher": teacher(frame_cap=150)},
    "seed": {"seed": 5},
    "students": {"overrides": ("student=same",)},
    "distillation": {"overrides": ("distill=classic",)},
    "episodes": {"episodes": 4},
}


def test_another_lineage_in_the_same_folder_is_refused_and_touches_nothing(agent: str, bred: Path) -> None:
    before = {path: path.read_bytes() for path in bred.rglob("*") if path.is_file() and path.name != ".lock"}
    for what, other in OTHERS.items():
        given: dict[str, Any] = {"teacher": teacher(), "episodes": 3} | other
        with pytest.raises(StorageError, match="holds a lineage with another teacher, recipe or seed"):
            evolve(given.pop("teacher"), agent, run=bred, generations=2, **given)
        after = {path: path.read_bytes() for path in bred.rglob("*") if path.is_file() and path.name != ".lock"}
        assert after == before, what


def test_a_folder_of_another_verb_is_refused(agent: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_text("theirs")
    with pytest.raises(StorageError, match="holds a run of `rlkd train`"):
        evolve(teacher(), agent, run=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.safetensors", ".lock"}


def test_a_teacher_that_plays_like_random_play_founds_nothing(agent: str, tmp_path: Path) -> None:
    mountain = environment("mountaincar", frame_cap=10, episodes=2)
    with pytest.raises(MismatchError, match="both score -10 over 2 episodes"):
        evolve(policy(mountain, "q", TINY), agent, run=tmp_path)
    assert not finished(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generations": 0}, "generations must be at least 1 and below 100, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"agent": "classic"}, "is a recipe of kind 'distill', wanted 'generations'"),
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str, agent: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"agent": agent, "run": tmp_path} | changes
    with pytest.raises(RlkdError, match=message) as refused:
        evolve(teacher(), **given)
    assert isinstance(refused.value, RecipeError)


def test_the_table_names_each_generation_and_its_parent(whole: JsonDict) -> None:
    text = StringIO()
    Console(file=text, width=160).print(lineage_table(whole))
    rows = text.getvalue().splitlines()
    for entry in whole["generations"]:
        (row,) = (line for line in rows if line.rstrip(" │").endswith(entry["hash"][:8]))
        assert f"{entry['parameters']:,}" in row
        if entry["parents"]:
            assert entry["parents"][0][:8] in row


@pytest.fixture(scope="module")
def founder(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return train(
        CARTPOLE,
        "rl/ppo_classic",
        run=tmp_path_factory.mktemp("founder"),
        frames=4096,
        overrides=("network='mlp_16'", "num_envs=4"),
    )


def test_training_begins_with_a_policys_weights_and_a_value_learner_does_not(founder: Policy, tmp_path: Path) -> None:
    small_run = ("network='mlp_16'", "num_envs=4")
    policy = train(CARTPOLE, "rl/ppo_classic", run=tmp_path, frames=256, overrides=small_run, start=founder)
    assert policy.spec.parents == (founder.spec.hash,)
    with pytest.raises(StorageError, match="holds a run with another environment, network, start or seed"):
        train(CARTPOLE, "rl/ppo_classic", run=tmp_path, frames=512, overrides=small_run)
    with pytest.raises(RecipeError, match="a start is for our PPO"):
        train(CARTPOLE, "rl/dqn_classic", run=tmp_path / "dqn", start=founder)


def test_a_critic_goes_along_where_it_answers_as_many_values(founder: Policy) -> None:
    plain = replace(recipe.load("rl/ppo_classic", Ppo), network="mlp_16")
    explores = replace(recipe.load("explore/ppo_rnd_classic", Ppo), network="mlp_16")
    held = founder.network.state_dict()
    for agent, goes in ((plain, True), (explores, False)):
        spec = policy_spec(CARTPOLE, agent, origin="")
        network = build_network(spec)
        begin_from(founder, network, spec)
        own = network.state_dict()
        assert torch.equal(own["head.weight"], held["head.weight"])
        assert (own["critic.weight"].shape == held["critic.weight"].shape) == goes
        assert not goes or torch.equal(own["critic.weight"], held["critic.weight"])
