"""A policy as a zip that Stable-Baselines3 loads, compared with the policy after it was loaded from there."""

import tempfile
from pathlib import Path

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from rlkd import storage
from rlkd.errors import ExportError
from rlkd.exporting.parity import (
    Comparison,
    Parity,
    action_gap,
    refuse_difference,
    refuse_other_score,
    replay,
    walk,
)
from rlkd.exporting.sb3_model import ALGORITHMS, Sb3Player, is_stock, make_model, statistics_of
from rlkd.policy import Policy
from rlkd.policy.rule import GREEDY
from rlkd.recipe import Environment

STATISTICS = "vecnormalize.pkl"


def export_sb3(
    policy: Policy, environment: Environment, out: Path, *, episodes: int, observations: int
) -> tuple[Parity, tuple[str, ...]]:
    """Write the zip, and beside it the statistics of observations where there are any; report and notes.

    Args:
        policy: what is exported.
        environment: where both play.
        out: the zip.
        episodes: how many both replay, greedily.
        observations: how many both answer.

    Raises:
        ExportError: Stable-Baselines3 cannot express the policy, or what it loads does not play alike.
    """
    spec = policy.spec
    algorithm = ALGORITHMS[spec.kind]
    beside = out.with_suffix("") / STATISTICS
    if spec.normaliser is None:
        _refuse_stray_statistics(out, beside)
    with tempfile.TemporaryDirectory() as folder:
        made, kept = Path(folder) / "policy.zip", Path(folder) / STATISTICS
        model = make_model(policy)
        model.save(made)
        loaded = algorithm.load(made, device="cpu")
        statistics = None
        if spec.normaliser is not None:
            fresh = statistics_of(spec.normaliser, model)
            fresh.save(str(kept))
            statistics = VecNormalize.load(str(kept), fresh.venv)
        content, pickled = made.read_bytes(), kept.read_bytes() if statistics else b""
    player = Sb3Player(loaded, statistics, spec)
    comparison = _compare_actions(policy, player, environment, observations=observations)
    refuse_difference(comparison)
    parity = replay(policy, player, comparison, environment, rule=GREEDY, episodes=episodes)
    refuse_other_score(parity)
    if pickled:
        storage.write_bytes(beside, pickled)
    storage.write_bytes(out, content)
    return parity, _notes(policy, algorithm.__name__, out, beside)


def _compare_actions(policy: Policy, player: Sb3Player, environment: Environment, *, observations: int) -> Comparison:
    """Both take the action without noise on the same observations."""
    count = same = 0
    moved = 0.0
    for visited in walk(policy, environment, observations=observations):
        ours = policy.preferred(visited.answer.params)
        theirs = player.preferred(player.answer(visited.observation).params)
        count += len(ours)
        if policy.spec.discrete:
            same += int((ours == theirs).sum())
        else:
            gap = action_gap(policy, ours, theirs)
            moved = gap if np.isnan(gap) else max(moved, gap)
    if not policy.spec.discrete:
        return Comparison(observations=count, action_difference=moved)
    return Comparison(observations=count, clear_states=count, agreement=same / count)


def _refuse_stray_statistics(out: Path, beside: Path) -> None:
    """A zip beside somebody's statistics would be read as learned behind them."""
    for path in (beside, out.with_name(STATISTICS)):
        if path.exists():
            raise ExportError(f"{path} would be taken for this policy's, which has none; take another folder for -o")


def _notes(policy: Policy, algorithm: str, out: Path, beside: Path) -> tuple[str, ...]:
    spec = policy.spec
    notes = [f"load it with stable_baselines3.{algorithm}.load({str(out)!r})"]
    if spec.rule.name != "greedy":
        notes.append(f"the policy's own rule is {spec.rule}; deterministic=True is greedy, as compared here")
    else:
        notes.append("its predict samples or explores unless told deterministic=True")
    if not is_stock(spec):
        notes.append("its features extractor is rlkd.exporting.extractor.Encoder: rlkd has to be installed there")
    if spec.normaliser is not None:
        notes.append(f"it reads observations through VecNormalize.load({str(beside)!r}, venv)")
    if algorithm in ("DQN", "SAC"):
        notes.append("its replay buffer holds one step; to learn on, load it with buffer_size=1_000_000")
    critic = {"DQN": True, "SAC": False, "PPO": spec.network.value != "none"}[algorithm]
    if not critic:
        notes.append("its critic has learned nothing: the policy has none to take along")
    return tuple(notes)
