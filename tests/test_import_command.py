"""`rlkd import`: what is in a file, a policy out of it, the check against a known score; and the documented example."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from rlkd.cli import main
from rlkd.evaluation import evaluate, play, standard_errors
from rlkd.evaluation.check import Check, check
from rlkd.policy import load, load_policy
from rlkd.recipe import Score, data_root
from tests.handmade import TINY, cartpole_teacher, environment, policy

GUIDE = (data_root() / "agents" / "imports" / "README.md").read_text()


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A state dict as the guide's script would have saved it; it balances the pole by a rule that fits its layers."""
    names = {"actor.0": (4, 64), "actor.2": (64, 64), "actor.4": (64, 2), "critic.0": (4, 64)}
    state = {f"{name}.{part}": torch.zeros(1) for name in names for part in ("weight", "bias")}
    for name, (wide, out) in names.items():
        layer = nn.Linear(wide, out)
        state |= {f"{name}.weight": layer.weight.detach() * 0, f"{name}.bias": layer.bias.detach() * 0}
    state["actor.0.weight"][0] = torch.tensor([0.01, 0.05, 0.4, 0.4])  # in the straight part of the tanh
    state["actor.2.weight"][0, 0] = 1.0
    state["actor.4.weight"][:, 0] = torch.tensor([-50.0, 50.0])
    path = tmp_path / "agent.pt"
    torch.save(state, path)
    return path


def recipe(path: Path, *, mean: float = 500, std: float = 10) -> Path:
    """The guide's recipe and scores, as one file."""
    first, scores = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    scores = re.sub(r'sha256 = "..."', f'sha256 = "{sha256}"', scores)
    scores = re.sub(r"mean = .*", f"mean = {mean}", scores)
    scores = re.sub(r"std = .*", f"std = {std}", scores)
    written = path.with_name("my_recipe.toml")
    written.write_text(f"{first}\n{scores}")
    return written


def test_what_is_in_an_unknown_file_is_listed(agent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(agent)]) == 0
    out = capsys.readouterr().out
    assert "actor.0.weight [64, 4]" in out
    assert hashlib.sha256(agent.read_bytes()).hexdigest() in out
    assert main(["import", str(agent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arrays"]["actor.4.weight"] == [2, 64]


def test_the_documented_example_works_as_written(agent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = agent.with_name("my.safetensors")
    assert main(["import", str(agent), "--agent", str(recipe(agent)), "--check", "-o", str(output)]) == 0
    out = capsys.readouterr().out
    assert "passed" in out
    made = load_policy(output)
    assert made.spec.rule.name == "sampled"
    assert made.spec.action_meanings == ("LEFT", "RIGHT")
    assert evaluate(output, episodes=5).mean > 400
    assert load(agent, agent=str(recipe(agent))).spec.hash == made.spec.hash


def test_another_score_than_the_known_one_fails_and_nothing_is_written(
    agent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = agent.with_name("my.safetensors")
    wrong = recipe(agent, mean=300)
    assert main(["import", str(agent), "--agent", str(wrong), "--check", "--episodes", "5", "-o", str(output)]) == 2
    assert "FAILED" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check"], "no shipped import recipe knows it"),
        (["-o", "x.safetensors"], "no shipped import recipe knows it"),
        (["--agent", "hinton", "-o", "x.safetensors"], "wanted 'import'"),
        (["--agent", "nikhilbarhate_cartpole", "--check"], "states its score"),
        (["--agent", "nikhilbarhate_cartpole"], "name the file to write"),
        (["--agent", "nikhilbarhate_cartpole", "--check", "--episodes", "1"], "episodes must be at least 2"),
        (["--agent", "nikhilbarhate_cartpole", "--episodes", "5", "-o", "x.safetensors"], "add --check"),
        (["--agent", "nikhilbarhate_cartpole", "--check", "--env", "cartpole"], "leave --env out"),
        (["--agent", "nikhilbarhate_cartpole", "-o", "x.zip"], "policies are .safetensors files"),
        (
            ["--agent", "nikhilbarhate_lunarlander", "-o", "x.safetensors"],
            "actor.0.weight' is [64, 4], wanted is [64, 8]",
        ),
    ],
)
def test_mistakes_are_said_in_a_line(
    agent: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["import", str(agent), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in agent.parent.iterdir()) == ["agent.pt"]


def test_our_own_files_need_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cartpole_teacher().save(tmp_path / "one.safetensors")
    assert main(["import", str(tmp_path / "one.safetensors"), "-o", str(tmp_path / "two.safetensors")]) == 0
    assert load_policy(tmp_path / "two.safetensors").spec == load_policy(tmp_path / "one.safetensors").spec


def test_the_difference_is_counted_in_standard_errors_of_both_measurements() -> None:
    ours = [9.0, 11.0] * 50  # mean 10, sample deviation 1.005
    error = (100 / 99 / 100 + 3.0**2 / 20) ** 0.5
    assert standard_errors(ours, 12.0, 3.0, 20) == pytest.approx(-2.0 / error)
    assert standard_errors([5.0, 5.0], 5.0, 0.0, 20) == 0
    assert standard_errors([5.0, 5.0], 6.0, 0.0, 20) == float("-inf")


def test_another_environment_than_the_recipes_is_refused(agent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(agent.with_name("x.safetensors"))
    assert main(["import", str(agent), "--agent", "nikhilbarhate_cartpole", "--env", "acrobot", "-o", output]) == 2
    assert "was made for CartPole-v1, not for Acrobot-v1" in capsys.readouterr().err


def test_foreign_safetensors_and_onnx_are_taken_for_what_they_are(
    agent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(agent, weights_only=True)
    for length in range(8):  # one of these headers has a length whose lowest byte is that of a pickle's mark
        path = agent.with_name(f"{length}.safetensors")
        safetensors.torch.save_file(state, path, metadata={"pad": "x" * 8 * 4 * length})
        assert main(["import", str(path)]) == 0
        assert "actor.0.weight [64, 4]" in capsys.readouterr().out
        assert load_policy(path, agent=str(recipe(agent))).spec.parameters == 4610
    for length in range(32):
        path = agent.with_name("more.safetensors")
        safetensors.torch.save_file(state, path, metadata={"pad": "x" * 8 * length})
        assert load_policy(path, agent=str(recipe(agent))).spec.parameters == 4610
    onnx = agent.with_name("foreign.onnx")
    onnx.write_bytes(b"something that nobody sealed")
    assert main(["import", str(onnx), "-o", str(agent.with_name("q.safetensors"))]) == 2
    assert "no shipped import recipe knows it" in capsys.readouterr().err
    assert main(["eval", str(onnx)]) == 2
    assert "not an ONNX file that rlkd exported" in capsys.readouterr().err


def test_a_check_passes_up_to_three_standard_errors_on_either_side() -> None:
    ours = (9.0, 11.0) * 50
    error = (100 / 99 / 100 + 3.0**2 / 20) ** 0.5
    for away, passed in ((-3.1, False), (-2.9, True), (2.9, True), (3.1, False)):
        theirs = Score(file="w.pt", sha256="ab" * 32, mean=10 - away * error, std=3.0, episodes=20)
        assert Check(ours, theirs).standard_errors == pytest.approx(away)
        assert Check(ours, theirs).passed == passed


def test_a_check_plays_the_episodes_that_others_played() -> None:
    random = policy(environment("cartpole"), "categorical", TINY, rule="sampled")
    theirs = Score(file="w.pt", sha256="ab" * 32, mean=20.0, std=5.0, episodes=20, first_seed=7)
    assert check(random, theirs, episodes=6).ours == play(random, episodes=6, first_seed=7).evaluation.scores
    assert check(random, theirs, episodes=6).ours != play(random, episodes=6).evaluation.scores


def test_the_record_of_a_check_is_one_object(agent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(agent.with_name("my.safetensors"))
    arguments = ["import", str(agent), "--agent", str(recipe(agent)), "--check", "--episodes", "3", "--json"]
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["scores"]) == 3
    assert record["standard_errors"] == pytest.approx(standard_errors(record["scores"], 500, 10, 20))
    assert "path" not in record
    assert main([*arguments, "-o", output]) == 0
    assert json.loads(capsys.readouterr().out) == record | {"path": output}
    assert load_policy(output).spec.hash == record["hash"]


def test_a_file_that_a_shipped_recipe_knows_needs_none_named_and_another_may_be(
    agent: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe(agent).read_text()
    shipped = agent.parent / "agents" / "imports" / "known.toml"
    shipped.parent.mkdir(parents=True)
    shipped.write_text(text)
    (agent.parent / "envs").symlink_to(data_root() / "envs")
    monkeypatch.setattr("rlkd.recipe.find.data_root", lambda: agent.parent)
    output = str(agent.with_name("my.safetensors"))
    assert main(["import", str(agent), "-o", output, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "imports/known"
    assert load_policy(output).spec.hash == load_policy(agent).spec.hash
    other = agent.with_name("greedy.toml")
    other.write_text(text.replace('rule = "sampled"', 'rule = "greedy"'))
    assert main(["import", str(agent), "--agent", str(other), "-o", output]) == 0
    assert load_policy(output).spec.rule.name == "greedy"
    agent.write_bytes(agent.read_bytes() + b" ")
    assert main(["import", str(agent), "-o", output]) == 2
    assert "no shipped import recipe knows it" in capsys.readouterr().err
