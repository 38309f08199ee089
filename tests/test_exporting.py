"""Tests of `rlkd.exporting`, ONNX: same answers, same scores, without torch; what differs or is damaged is refused."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch

import rlkd
from rlkd.cli import main
from rlkd.errors import ExportError, MismatchError, PolicyFileError, RecipeError
from rlkd.exporting import Comparison, Parity
from rlkd.exporting.graph import onnx_bytes
from rlkd.exporting.parity import action_gap, compare_answers, refuse_difference, refuse_other_score, replay
from rlkd.policy import Acting, Kind, Normaliser, Policy
from rlkd.policy.onnx_file import DIGITS, SEAL, OnnxPolicy, seal
from rlkd.policy.rule import GREEDY, NEVER
from rlkd.recipe import Environment, Network
from tests import handmade
from tests.commands import Capture, printed, refused

FEW, SHORT = 160, 3  # observations and episodes: enough to see any difference that is not chance
PIXELS = handmade.TINY_PIXELS
POOLED = replace(PIXELS, paddings=(1, 0), pools=(2, 1), activation="elu", value="shared")


def place(name: str) -> Environment:
    return handmade.environment(name, frame_cap=60 if name != "pong" else 400, episodes=SHORT)


def whitened(policy: Policy, *, limit: float) -> Policy:
    """The policy behind a normaliser."""
    width = policy.spec.observation_shape[0]
    moments = {"mean": tuple(np.linspace(-3, 3, width)), "variance": tuple(np.linspace(1e-6, 4, width))}
    normaliser = Normaliser(mean=moments["mean"], variance=moments["variance"], limit=limit, epsilon=1e-2)
    return policy.under(replace(policy.spec, normaliser=normaliser))


def made(name: str, kind: Kind, network: Network, *, limit: float | None = None, half: bool = False) -> Policy:
    policy = handmade.policy(place(name), kind, network)
    if policy.network.log_std is not None:
        with torch.no_grad():
            policy.network.log_std.fill_(-0.7)
        policy = Policy(policy.network, policy.spec)
    policy = policy if limit is None else whitened(policy, limit=limit)
    return policy.half() if half else policy


GRU = replace(handmade.TINY, core="gru", core_width=8)
LSTM = replace(handmade.TINY, core="lstm", core_width=8, core_hidden=(8,), activation="relu")
CASES = [
    pytest.param(("cartpole", "categorical", handmade.TINY), {}, id="categorical"),
    pytest.param(("cartpole", "q", handmade.TINY), {"limit": 5.0}, id="q behind a normaliser"),
    pytest.param(("pendulum", "gaussian", handmade.TINY), {"limit": float("inf")}, id="gaussian, no limit"),
    pytest.param(("pendulum", "squashed_gaussian", replace(handmade.TINY, mean_limit=0.5)), {}, id="squashed"),
    pytest.param(("pong", "categorical", PIXELS), {}, id="pixels"),
    pytest.param(("pong", "q", POOLED), {"half": True}, id="float16 pixels, pools, paddings, elu"),
    pytest.param(("pong", "categorical", handmade.TINY_RESNET), {}, id="resnet"),
    pytest.param(("cartpole", "categorical", GRU), {"limit": 5.0}, id="gru"),
    pytest.param(("cartpole", "q", LSTM), {}, id="lstm"),
]


@pytest.mark.parametrize(("arguments", "options"), CASES)
def test_the_graph_answers_and_plays_as_the_policy(
    arguments: tuple[str, Kind, Network], options: dict[str, float], tmp_path: Path
) -> None:
    policy = made(*arguments, limit=options.get("limit"), half=bool(options.get("half")))
    exported = rlkd.export(policy, tmp_path / "p.onnx", episodes=SHORT, observations=FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["p.onnx"]
    parity = exported.parity
    assert parity is not None
    assert parity.comparison.observations == FEW
    assert parity.comparison.relative_difference is not None
    assert parity.comparison.relative_difference < 1e-5
    assert parity.score == pytest.approx(parity.exported_score, rel=0 if policy.spec.discrete else 1e-4)
    assert parity.same_episodes == parity.episodes == SHORT
    player = rlkd.load(tmp_path / "p.onnx")
    assert isinstance(player, OnnxPolicy)
    assert player.spec == replace(policy.spec, precision="float32", weight_bytes=4 * policy.spec.parameters)
    rng = np.random.default_rng(0)
    for rows in (1, 3, 8):  # an independent look, at numbers that no environment gives
        shape = (rows, *policy.spec.observation_shape)
        pixels = policy.spec.observation_dtype == "uint8"
        observation = rng.integers(0, 256, shape, np.uint8) if pixels else rng.normal(size=shape).astype(np.float32)
        state = rng.normal(size=(rows, policy.state_width)).astype(np.float32) if policy.recurrent else None
        ours, theirs = policy.answer(observation, state), player.answer(observation, state)
        assert ours.params.keys() == theirs.params.keys()
        for name, values in ours.params.items():
            scale = max(1.0, float(np.abs(values).max()))
            np.testing.assert_allclose(theirs.params[name], values, rtol=0, atol=1e-5 * scale)
        assert (theirs.state is None) == (ours.state is None)
        if ours.state is not None and theirs.state is not None:
            np.testing.assert_allclose(theirs.state, ours.state, rtol=0, atol=1e-5)


def test_a_small_spread_around_a_large_mean_keeps_its_digits(tmp_path: Path) -> None:
    policy = made("pendulum", "gaussian", handmade.LINEAR)
    normaliser = Normaliser(mean=(100.1,) * 3, variance=(1e-6,) * 3, limit=float("inf"), epsilon=0.0)
    policy = policy.under(replace(policy.spec, normaliser=normaliser))
    file = tmp_path / "p.onnx"
    file.write_bytes(onnx_bytes(policy, policy.spec.hash))
    observation = (100.1 + np.random.default_rng(0).normal(size=(32, 3)) * 1e-3).astype(np.float32)
    ours, theirs = (player.answer(observation).params["mean"] for player in (policy, OnnxPolicy(file)))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)


def test_a_state_is_carried_and_reset_on_both_sides(tmp_path: Path) -> None:
    policy = made("cartpole", "categorical", GRU)
    file = tmp_path / "p.onnx"
    file.write_bytes(onnx_bytes(policy, policy.spec.hash))
    player = OnnxPolicy(file)
    observation = np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match="needs its state"):
        player.answer(observation)
    _, state = player.predict(observation)
    _, again = player.predict(observation, state, np.array([True, False]))
    assert state is not None
    assert again is not None
    np.testing.assert_allclose(again[0], state[0], atol=1e-6)
    assert np.abs(again[1] - state[1]).max() > 1e-3


def nudged(content: bytes, policy: Policy) -> bytes:
    """The graph with the first bias of the last layer moved by 1e-3."""
    model = onnx.load_from_string(content[: -len(SEAL) - DIGITS])
    wanted = policy.network.head.bias.detach().numpy()
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.shape == wanted.shape and np.array_equal(values, wanted):
            moved = values.copy()
            moved[0] += 1e-3
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
            return seal(model.SerializeToString())
    raise AssertionError("no such weights in the graph")


def test_an_action_that_the_policy_lacks_hides_no_difference(tmp_path: Path) -> None:
    policy = made("mountaincar", "categorical", handmade.TINY)
    with torch.no_grad():
        policy.network.head.weight[1] = 0
        policy.network.head.bias[:] = torch.tensor([1.0, NEVER, 2.0])
    policy = Policy(policy.network, policy.spec)
    file = tmp_path / "p.onnx"
    file.write_bytes(nudged(onnx_bytes(policy, policy.spec.hash), policy))
    with pytest.raises(ExportError, match="its answers differ"):
        refuse_difference(compare_answers(policy, OnnxPolicy(file), place("mountaincar"), observations=FEW))


@pytest.mark.parametrize(("name", "network"), [("cartpole", handmade.TINY), ("pong", PIXELS)])
def test_a_weight_nudged_by_a_thousandth_is_refused(name: str, network: Network, tmp_path: Path) -> None:
    policy = made(name, "categorical", network)
    with torch.no_grad():
        policy.network.head.bias.add_(torch.arange(1, policy.spec.actions + 1))
    policy = Policy(policy.network, policy.spec)
    content = onnx_bytes(policy, policy.spec.hash)
    for bytes_, refused_ in ((content, False), (nudged(content, policy), True)):
        file = tmp_path / "p.onnx"
        file.write_bytes(bytes_)
        found = compare_answers(policy, OnnxPolicy(file), place(name), observations=FEW)
        if not refused_:
            refuse_difference(found)
            continue
        with pytest.raises(ExportError, match="its answers differ by 1.0e-03"):
            refuse_difference(found)


def test_a_graph_of_another_policy_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, other = (handmade.policy(place("cartpole"), "q", handmade.TINY, seed=seed) for seed in (0, 1))
    content = onnx_bytes(other, policy.spec.hash)
    monkeypatch.setattr("rlkd.exporting.graph.onnx_bytes", lambda policy, source_hash: content)
    with pytest.raises(ExportError, match="its answers differ"):
        rlkd.export(policy, tmp_path / "p.onnx", episodes=SHORT, observations=FEW)
    assert list(tmp_path.iterdir()) == []


def test_other_actions_nan_and_other_scores_are_refused() -> None:
    fine = Comparison(observations=10, largest_difference=0.0, relative_difference=0.0, clear_states=10, agreement=1.0)
    refuse_difference(fine)
    with pytest.raises(ExportError, match=r"another action in 10.00% of 10 states"):
        refuse_difference(replace(fine, agreement=0.9))
    with pytest.raises(ExportError, match="its answers differ by nan"):
        refuse_difference(replace(fine, relative_difference=float("nan"), largest_difference=float("nan")))
    with pytest.raises(ExportError, match="its actions differ"):
        refuse_difference(replace(fine, action_difference=float("nan")))
    refuse_difference(replace(fine, action_difference=1e-6))
    with pytest.raises(ExportError, match=r"its actions differ by 2.0e-05"):
        refuse_difference(replace(fine, action_difference=2e-5))
    parity = Parity(
        comparison=fine,
        environment="pong",
        rule="greedy",
        episodes=4,
        same_episodes=1,
        score=10.0,
        exported_score=7.1,
        standard_error=1.0,
    )
    refuse_other_score(parity)
    for score in (6.9, 13.1):
        with pytest.raises(ExportError, match="3 standard errors apart"):
            refuse_other_score(replace(parity, exported_score=score))


def test_states_whose_two_best_actions_tie_are_not_compared_by_their_action() -> None:
    policy = made("mountaincar", "categorical", handmade.TINY)
    with torch.no_grad():
        policy.network.head.weight[:] = policy.network.head.weight[:1].clone()
        policy.network.head.bias[:] = torch.tensor([1.0, 1.0, -5.0])
    found = compare_answers(policy, policy, place("mountaincar"), observations=FEW)
    assert (found.clear_states, found.agreement) == (0, 1)
    with torch.no_grad():
        policy.network.head.bias[1] += 1e-3
    assert compare_answers(policy, policy, place("mountaincar"), observations=FEW).clear_states == FEW


def test_continuous_actions_are_compared_in_units_of_half_their_range() -> None:
    policy = made("pendulum", "gaussian", handmade.TINY)  # its bounds are -2 and 2
    still, moved = np.zeros((2, 1), np.float32), np.array([[0.1], [-0.5]], np.float32)
    assert action_gap(policy, still, moved) == action_gap(policy, moved, still) == 0.25


def test_episodes_have_the_same_course_only_with_the_same_score() -> None:
    policy, other = (handmade.policy(place("pendulum"), "gaussian", handmade.TINY, seed=seed) for seed in (0, 1))
    fine = Comparison(observations=10)
    found = replay(policy, other, fine, place("pendulum"), rule=GREEDY, episodes=SHORT)  # all last 60 steps
    assert found.score != found.exported_score
    assert found.same_episodes == 0
    assert replay(policy, policy, fine, place("pendulum"), rule=GREEDY, episodes=SHORT).same_episodes == SHORT


@pytest.mark.parametrize(("to", "name"), [("onnx", "p.onnx"), ("sb3", "p.zip")])
def test_an_export_with_another_score_leaves_nothing_behind(
    to: Literal["onnx", "sb3"], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(*arguments: Any, **options: Any) -> Parity:
        return replace(replay(*arguments, **options), exported_score=-1000.0)

    for module in ("command", "sb3_zip"):
        monkeypatch.setattr(f"rlkd.exporting.{module}.replay", worse)
    with pytest.raises(ExportError, match=r"it scores -1000.00"):
        rlkd.export(made("cartpole", "q", handmade.TINY), tmp_path / name, to=to, episodes=SHORT, observations=FEW)
    assert list(tmp_path.iterdir()) == []


def test_nan_in_one_batch_is_not_forgotten(tmp_path: Path) -> None:
    class Broken(OnnxPolicy):
        def answer(self, observation: np.ndarray, state: np.ndarray | None = None) -> rlkd.policy.Answer:
            answer = super().answer(observation, state)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 2:
                answer.params["logits"][0, 0] = np.nan
            return answer

    policy = made("cartpole", "categorical", handmade.TINY)
    file = tmp_path / "p.onnx"
    file.write_bytes(onnx_bytes(policy, policy.spec.hash))
    found = compare_answers(policy, Broken(file), place("cartpole"), observations=FEW)
    with pytest.raises(ExportError, match="differ by nan"):
        refuse_difference(found)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    found = {}
    for name, network in (("cartpole", handmade.TINY), ("pong", PIXELS)):
        policy = made(name, "categorical", network)
        found[name] = folder / f"{name}.onnx"
        found[name].write_bytes(onnx_bytes(policy, policy.spec.hash))
    return found


def test_of_a_longer_stack_of_frames_the_graph_reads_the_newest(files: dict[str, Path]) -> None:
    policy = made("pong", "categorical", PIXELS)
    observation = np.random.default_rng(0).integers(0, 256, (2, 6, 84, 84), np.uint8)
    ours, theirs = (player.answer(observation).params["logits"] for player in (policy, OnnxPolicy(files["pong"])))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs, policy.answer(observation[:, 2:]).params["logits"], rtol=0, atol=1e-5)


WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "stable_baselines3", "onnx", "safetensors"):
            raise AssertionError(f"import of {name}")

sys.meta_path.insert(0, Blocker())
import rlkd
policy = rlkd.load(sys.argv[1])
env = rlkd.make(sys.argv[2])
observation, _ = env.reset(seed=0)
state = None
for _ in range(5):
    action, state = policy.predict(observation, state)
    observation, reward, terminated, truncated, _ = env.step(action)
print("played", policy.spec.environment.id, "torch" in sys.modules, "stable_baselines3" in sys.modules)
"""


@pytest.mark.parametrize(("name", "identity"), [("cartpole", "CartPole-v1"), ("pong", "pong")])
def test_an_exported_policy_plays_where_there_is_no_torch(
    name: str, identity: str, files: dict[str, Path], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(files[name]), name],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": ""},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"played {identity} False False"


def test_no_damaged_file_reaches_onnx_runtime(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[object] = []
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *arguments, **options: reached.append(arguments))
    content = files["cartpole"].read_bytes()
    draw = random.Random(0)
    places = [*range(3), *range(len(content) - 90, len(content)), *(draw.randrange(len(content)) for _ in range(300))]
    damaged = [content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :] for at in places]
    damaged += [content[: draw.randrange(len(content))] for _ in range(30)] + [content + b"\0", b"", content[1:]]
    assert len(damaged) > 300
    for each in damaged:
        file = tmp_path / "p.onnx"
        file.write_bytes(each)
        with pytest.raises(PolicyFileError):
            rlkd.load(file)
    assert reached == []


def test_the_file_is_onnx_and_tells_no_paths(files: dict[str, Path]) -> None:
    for file in files.values():
        onnx.checker.check_model(onnx.load(file), full_check=True)
        content = file.read_bytes()
        assert str(Path(__file__).parent.parent).encode() not in content
        assert b"stack_trace" not in content


def test_what_cannot_be_exported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = made("cartpole", "categorical", handmade.TINY)
    homeless = policy.under(replace(policy.spec, environment=None))
    with pytest.raises(MismatchError, match="name it with --env"):
        rlkd.export(homeless, tmp_path / "p.onnx")
    with pytest.raises(ExportError, match=r"--to onnx writes a \.onnx file"):
        rlkd.export(policy, tmp_path / "p.zip", to="onnx")
    with pytest.raises(RecipeError, match="episodes must be at least 2"):
        rlkd.export(policy, tmp_path / "p.onnx", episodes=1)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match="pip install onnx onnxscript onnxruntime"):
        rlkd.export(policy, tmp_path / "p.onnx", episodes=SHORT, observations=FEW)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_named_is_in_the_file_and_the_hash_stays(tmp_path: Path) -> None:
    policy = made("cartpole", "categorical", handmade.TINY)
    homeless = policy.under(replace(policy.spec, environment=None))
    exported = rlkd.export(homeless, tmp_path / "p.onnx", env=place("cartpole"), episodes=SHORT, observations=FEW)
    player: Acting = rlkd.load(tmp_path / "p.onnx")
    assert player.spec.environment == place("cartpole")
    assert player.spec.hash == homeless.spec.hash == exported.source_hash


def test_the_command_prints_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    made("cartpole", "categorical", handmade.TINY).save("policy.safetensors")
    found = printed(["export", "policy.safetensors", "-o", "p.onnx", "--episodes", "2"], capfd)
    assert found["parity"]["agreement"] == 1
    assert found["parity"]["episodes"] == 2
    assert found["file_bytes"] == Path("p.onnx").stat().st_size
    assert main(["export", "policy.safetensors", "--to", "onnx", "-o", "q.onnx", "--episodes", "2"]) == 0
    out = capfd.readouterr().out
    assert "same action in" in out
    assert "q.onnx" in out
    (result,) = printed(["eval", "p.onnx", "--episodes", "2"], capfd)["results"]
    assert result["mean"] == found["parity"]["score"]
    assert "not for Acrobot-v1" in refused(["export", "policy.safetensors", "-o", "r.onnx", "--env", "acrobot"], capfd)
    assert "no policy at missing" in refused(["export", "missing.safetensors", "-o", "p.onnx"], capfd)
