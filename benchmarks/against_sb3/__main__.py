"""Collect-and-distill against the loop that one would write on Stable-Baselines3, in one run, interleaved.

    make bench NAME=against_sb3

Same teacher, game, pictures, student network (`nature_428k`), batch, optimiser and its schedule, number of states and
of samples. The loop: `model.predict` on Stable-Baselines3's DummyVecEnv, states in a list, answers asked for in
batches, then an eager torch student; it steps our single environment, which is leaner than Stable-Baselines3's stack of
wrappers and gives the same pictures. Every variant runs in a process of its own; imports, construction and evaluation
are not timed. KL is measured on one set of teacher states that nobody learnt from. CPU seconds are those of the own
process.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import Record, end_with, in_its_own_process, machine, store

FOLDER = Path(__file__).parent
STATES, GRADIENT_STEPS, BATCH, RATE = 20_480, 260, 256, 1e-3
VARIANTS = {
    "rlkd float32": ("ours", "float32"),
    "rlkd bfloat16": ("ours", "bfloat16"),
    "loop on SB3, 8 environments": ("loop", "8"),
    "loop on SB3, 1 environment": ("loop", "1"),
}
WANTED = {"loop on SB3, 8 environments": 3.0, "loop on SB3, 1 environment": 4.0}


def main() -> int:
    """Run all variants in turn, `--repeats` times, and store the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", nargs=3, metavar=("KIND", "SETTING", "SEED"), help="one timed run")
    chosen = parser.parse_args()
    if chosen.variant:
        kind, setting, seed = chosen.variant
        print(json.dumps(run_ours(setting, int(seed)) if kind == "ours" else run_loop(int(setting), int(seed))))
        return 0
    runs: dict[str, list[Record]] = {name: [] for name in VARIANTS}
    for repeat in range(chosen.repeats):
        for name, (kind, setting) in VARIANTS.items():
            runs[name].append(in_its_own_process("against_sb3", ["--variant", kind, setting, str(repeat)]))
            print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    lines, record = table(runs)
    store(FOLDER, record | {"machine": machine(), "runs": runs}, lines)
    return 0


def table(runs: dict[str, list[Record]]) -> tuple[list[str], Record]:
    """Medians over repeats; ratios are medians of the ratios of paired repeats."""
    lines = [
        (
            f"{STATES:,} states collected, {GRADIENT_STEPS * BATCH:,} samples learnt, "
            f"{len(runs['rlkd float32'])} repeats, interleaved; median (min to max)."
        ),
        "",
        "| variant | wall s | own CPU s | collecting s | learning s | held-out KL, nats |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        cells = [_spread([run[key] for run in found]) for key in ("wall", "cpu", "collecting", "learning", "kl")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| pair | wall ratio | ratio of work per own CPU-second | wanted (wall) |", "|---|---|---|---|"]
    record: Record = {"ratios": {}}
    for peer, wanted in WANTED.items():
        for ours in ("rlkd float32", "rlkd bfloat16"):
            pairs = list(zip(runs[peer], runs[ours], strict=True))
            wall, cpu = ([a[key] / b[key] for a, b in pairs] for key in ("wall", "cpu"))
            verdict = ("met" if np.median(wall) >= wanted else "MISSED") + f": >= {wanted:g}"
            lines.append(f"| {peer} / {ours} | {_spread(wall)} | {_spread(cpu)} | {verdict} |")
            record["ratios"][f"{peer} / {ours}"] = {"wall": wall, "cpu": cpu}
    return lines, record


def run_ours(precision: str, seed: int) -> Record:
    """Two halves of environments, a sampler thread, and a learner that splits its minibatches; overlapped."""
    import torch

    from rlkd import metrics, recipe
    from rlkd.collect import Collector
    from rlkd.distillation.learning import Game, Setting, learn_rounds
    from rlkd.distillation.student import Plan, Student
    from rlkd.policy.compute import idle_cores, one_thread_per_role
    from rlkd.recipe import Distill, Network, Part, Source, Term
    from rlkd.replay import Replay

    one_thread_per_role()
    teacher, environment, probes = _shared()
    assert precision in ("float32", "bfloat16")
    described = Distill(
        source=Source(states=STATES, rounds=20, num_envs=32, epsilon=0.0),
        terms=(Term(divergence=Part("forward_kl")),),
        gradient_steps=GRADIENT_STEPS,
        batch_size=BATCH,
        learning_rate=RATE,
        students=("nature_428k",),
        controls=(),
    )
    plan = Plan("nature_428k", recipe.load("nature_428k", Network))
    student = Student(plan, described, teacher.spec, seed=seed, device=torch.device("cpu"), parts=idle_cores(1))
    replay = Replay(32, STATES, teacher.spec.observation_shape, teacher.spec.actions, environment.views["pixels"])
    with TemporaryDirectory() as folder:
        setting = Setting(teacher, environment, described, seed, precision, probes[:8], Path(folder))  # type: ignore[arg-type]  # checked
        collector = Collector(environment, teacher, described.source, seed=seed, precision=setting.precision)
        wall, cpu = time.perf_counter(), time.process_time()
        game = Game(setting, [student], replay, collector)
        busy = learn_rounds([game], metrics.StopSignal(), identity=setting.identity)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    collecting = sum(seconds for name, seconds in busy.items() if name.startswith("collecting"))
    return _result(wall, cpu, collecting, student.seconds, _held_out_kl(student.network.float(), teacher, probes))


def run_loop(num_envs: int, seed: int) -> Record:
    """Predict, step, append; then label, stack and learn. Torch keeps its own threads, and its own way of waiting."""
    os.environ.pop("OMP_WAIT_POLICY", None)  # set by rlkd, which such a loop would not have imported before torch
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from torch.nn import functional as F

    import rlkd
    from rlkd import recipe
    from rlkd.policy import PolicyNetwork
    from rlkd.recipe import Network

    teacher, _, probes = _shared()
    venv = make_vec_env(lambda: rlkd.make("pong"), n_envs=num_envs, seed=seed)
    model = _as_sb3(teacher, venv)
    student = PolicyNetwork(
        recipe.load("nature_428k", Network), teacher.spec.observation_shape, "categorical", teacher.spec.actions
    )
    student.initialise(torch.Generator().manual_seed(seed), for_rl=False)
    optimiser = torch.optim.Adam(student.parameters(), lr=RATE)
    wall, cpu = time.perf_counter(), time.process_time()
    observations: list[np.ndarray] = []
    observation = venv.reset()
    while len(observations) < STATES:
        observations.extend(np.asarray(observation))
        action, _ = model.predict(observation, deterministic=teacher.spec.rule.name == "greedy")
        observation, _, _, _ = venv.step(action)
    logits = []
    with torch.no_grad():
        for start in range(0, STATES, BATCH):
            batch = torch.as_tensor(np.stack(observations[start : start + BATCH]))
            logits.append(model.policy.get_distribution(batch).distribution.logits)
    answers = torch.cat(logits)
    collected = time.perf_counter()
    generator = np.random.default_rng(seed)
    for step in range(GRADIENT_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / GRADIENT_STEPS)  # rlkd's schedule
        picks = generator.integers(STATES, size=BATCH)
        batch = torch.as_tensor(np.stack([observations[pick] for pick in picks]))
        output = student(batch)
        loss = F.kl_div(
            F.log_softmax(output.params["logits"], dim=-1),
            F.log_softmax(answers[picks], dim=-1),
            log_target=True,
            reduction="batchmean",
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimiser.step()
    done = time.perf_counter()
    cpu = time.process_time() - cpu
    return _result(done - wall, cpu, collected - wall, done - collected, _held_out_kl(student, teacher, probes))


def _shared() -> tuple[Any, Any, np.ndarray]:
    """Teacher, environment, and 1,024 held-out teacher states, made once and kept in runs/."""
    from rlkd.evaluation import environment_of, play
    from rlkd.policy import load_policy

    teacher = load_policy("policy:pong")
    environment = environment_of(teacher, None)
    path = Path("runs/against_sb3") / f"states-{teacher.spec.hash[:12]}.npy"
    if not path.exists():
        played = play(teacher, environment, episodes=16, keep_states=1024)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, played.states)
    return teacher, environment, np.load(path)


def _as_sb3(teacher: Any, venv: Any) -> Any:
    """A Stable-Baselines3 PPO model with the teacher's weights."""
    import torch
    from stable_baselines3 import PPO

    model = PPO("CnnPolicy", venv, device="cpu", n_steps=64, batch_size=64)
    ours = teacher.network.state_dict()
    names = {f"encoder.{k}": f"features_extractor.cnn.{k}" for k in (0, 2, 4)} | {
        "encoder.7": "features_extractor.linear.0",
        "head": "action_net",
        "critic": "value_net",
    }
    weights = {
        f"{theirs}.{part}": ours[f"{own}.{part}"] for own, theirs in names.items() for part in ("weight", "bias")
    }
    missing = model.policy.load_state_dict(weights, strict=False).missing_keys
    assert all(name.startswith(("pi_features", "vf_features")) for name in missing), missing
    with torch.no_grad():
        states = np.zeros((2, *teacher.spec.observation_shape), np.uint8)
        same: Any = model.policy.get_distribution(torch.as_tensor(states)).distribution
        wanted = teacher(states).params["logits"]
        assert torch.allclose(same.logits, wanted - wanted.logsumexp(-1, keepdim=True), atol=1e-5)
    return model


def _held_out_kl(network: Any, teacher: Any, probes: np.ndarray) -> float:
    """Mean KL(teacher || student) in nats, in float32."""
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        own, wanted = (
            torch.cat([net(torch.as_tensor(part)).params["logits"] for part in np.array_split(probes, 8)])
            for net in (network, teacher.network)
        )
    log_p, log_q = F.log_softmax(wanted, -1), F.log_softmax(own, -1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def _result(wall: float, cpu: float, collecting: float, learning: float, kl: float) -> Record:
    return {"wall": wall, "cpu": cpu, "collecting": collecting, "learning": learning, "kl": kl}


def _spread(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    end_with(main)
