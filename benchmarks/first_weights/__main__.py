"""What looking at states before the first step is worth to a student of pixels.

    make bench NAME=first_weights

`nature_113k` learns the shipped Pong policy's answers to the same 12,000 states for 600 steps, from weights as they are
drawn (orthogonal, the control) and from the same weights standardised on 512 states, at two learning rates. KL and
agreement are measured on states of other episodes; a unit is dead when it answers zero to all of 400 of them.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import Record, end_with, machine, options, store
from rlkd import recipe as recipes
from rlkd.collect import Collector
from rlkd.distillation.lesson import Seen
from rlkd.distillation.steps import learn
from rlkd.distillation.student import Plan, Student
from rlkd.evaluation import agreement, environment_of, mean_kl, play
from rlkd.policy import PolicyNetwork, load_policy
from rlkd.policy.compute import one_thread_per_role
from rlkd.recipe import Distill, Network, Part, Source, Term
from rlkd.replay import Replay
from rlkd.stats import mean_interval

FOLDER = Path(__file__).parent
STUDENT, STATES, STEPS, HELD_OUT = "nature_113k", 12_000, 600, 1024
RATES = (1e-3, 2e-3)


def main() -> int:
    """Train every arm, and store the table."""
    chosen = options(__doc__ or "")
    one_thread_per_role()
    teacher = load_policy("policy:pong")
    environment = environment_of(teacher, None)
    source = Source(states=STATES, rounds=1, num_envs=32, epsilon=0.05)
    replay = Replay(32, STATES, teacher.spec.observation_shape, teacher.spec.actions, environment.views["pixels"])
    collector = Collector(environment, teacher, source, seed=0, precision="auto")
    collector.collect(replay, 0, [])
    collector.close()
    probes = play(teacher, environment, episodes=8, keep_states=HELD_OUT).states
    lines = [
        f"`{STUDENT}` after {STEPS} steps on {len(replay):,} states, {chosen.seeds} seeds, 95 % intervals:",
        "",
        "| first weights | learning rate | held-out KL, nats | agreement | dead units by layer |",
        "|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine(), "arms": []}
    for standardised in (False, True):
        for rate in RATES:
            recipe = Distill(
                source=source,
                terms=(Term(divergence=Part("forward_kl")),),
                gradient_steps=STEPS,
                learning_rate=rate,
                students=(STUDENT,),
            )
            found: list[tuple[float, float, list[int]]] = []
            for seed in range(chosen.seeds):
                plan = Plan(STUDENT, recipes.load(STUDENT, Network))
                student = Student(plan, recipe, teacher.spec, seed=seed, device=torch.device("cpu"))
                if not standardised:
                    student.network.standardise = lambda observation: None  # type: ignore[method-assign]  # the control
                learn([student], [Seen(replay, replay.rows())], STEPS, "auto")
                policy = student.snapshot()
                kl = mean_kl(policy, teacher, probes, teacher_temperature=1.0)
                dead = dead_units(policy.network, torch.from_numpy(probes[:400]))
                found.append((kl, agreement(policy, teacher, probes), dead))
                print(f"standardised {standardised}, rate {rate:g}, seed {seed}: {found[-1]}", file=sys.stderr)
            kls = mean_interval([kl for kl, _, _ in found])
            agree = float(np.mean([same for _, same, _ in found]))
            dead = np.mean([counts for _, _, counts in found], axis=0).round(1).tolist()
            arm = "standardised" if standardised else "as drawn"
            lines.append(
                f"| {arm} | {rate:g} | {kls.point:.3f} [{kls.low:.3f}, {kls.high:.3f}] | {agree:.1%} "
                f"| {', '.join(f'{each:g}' for each in dead)} |"
            )
            record["arms"].append({"first_weights": arm, "rate": rate, "runs": found})
    store(FOLDER, record, lines)
    return 0


def dead_units(network: PolicyNetwork, observation: Tensor) -> list[int]:
    """How many units of each hidden layer answer zero to all observations."""
    counts: list[int] = []

    def count(_: nn.Module, __: object, answer: Tensor) -> None:
        counts.append(int((answer.transpose(0, 1).flatten(1).amax(1) <= 0).sum()))

    hooks = [module.register_forward_hook(count) for module in network.encoder if isinstance(module, nn.ReLU)]
    with torch.no_grad():
        network(observation)
    for hook in hooks:
        hook.remove()
    return counts


if __name__ == "__main__":
    end_with(main)
