"""Policies made by hand, environments cut short, commands in processes of their own: what several tests start from."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlkd import recipe as recipes
from rlkd.collect.acting import answering
from rlkd.distillation.lesson import Seen
from rlkd.distillation.steps import learn
from rlkd.distillation.student import Student
from rlkd.metrics import StopSignal
from rlkd.policy import Kind, Output, Policy, PolicyNetwork, PolicySpec, Rule
from rlkd.policy.compute import Precision
from rlkd.recipe import Distill, Environment, Network, Part, Protocol, Source, Term
from rlkd.replay import Replay
from rlkd.terms import Objective
from rlkd.vector import action_bounds, action_meanings, as_recipe, spaces

LINEAR = Network(encoder="mlp", hidden=())
TINY = Network(encoder="mlp", hidden=(16,), activation="tanh")
"""114 parameters for CartPole: (4 + 1) * 16 + (16 + 1) * 2."""
TINY_PIXELS = Network(encoder="conv", channels=(4, 4), kernels=(8, 4), strides=(4, 3), hidden=(16,))
TINY_RESNET = Network(encoder="resnet", channels=(4, 6), blocks=2, hidden=(20,))


def environment(name: str, *, frame_cap: int | None = None, episodes: int | None = None) -> Environment:
    """A shipped environment, its games cut short, its protocol of few episodes."""
    recipe = as_recipe(name)
    protocol: Protocol = recipe.protocol
    return replace(
        recipe, frame_cap=frame_cap or recipe.frame_cap, protocol=replace(protocol, episodes=episodes or 100)
    )


def policy(
    recipe: Environment,
    kind: Kind,
    network: Network,
    *,
    seed: int = 0,
    rule: str = "greedy",
    sharpness: float = 1.0,
) -> Policy:
    """A policy of random weights for an environment; `sharpness` multiplies its head."""
    shape, _, actions = spaces(recipe)
    low, high = action_bounds(recipe)
    spec = PolicySpec(
        name=f"{recipe.id}-by-hand",
        kind=kind,
        network=network,
        observation_shape=shape,
        observation_dtype="uint8" if len(shape) == 3 else "float32",
        actions=actions,
        action_low=low,
        action_high=high,
        action_meanings=action_meanings(recipe),
        environment=recipe,
        rule=Rule(name="sampled") if rule == "sampled" else Rule(name="greedy"),
        origin="made by hand",
    )
    made = PolicyNetwork(network, shape, kind, actions)
    made.initialise(torch.Generator().manual_seed(seed), for_rl=False)
    with torch.no_grad():
        made.head.weight *= sharpness
    return Policy(made, spec)


def cartpole_teacher(kind: Kind = "categorical", *, rule: str = "greedy", recipe: Environment | None = None) -> Policy:
    """Pushes the cart to the side to which the pole leans and falls: 500 points, nearly always."""
    teacher = policy(recipe or as_recipe("cartpole"), kind, LINEAR, rule=rule)
    push = torch.tensor([0.1, 0.5, 4.0, 4.0]) * (1.0 if kind == "categorical" else 0.1)
    with torch.no_grad():
        teacher.network.head.weight[:] = torch.stack([-push, push])
        teacher.network.head.bias.zero_()
    return Policy(teacher.network, teacher.spec)


def always(action: int, teacher: Policy) -> Policy:
    """A policy that plays one action of the teacher's, whatever it sees."""
    network = PolicyNetwork(
        teacher.spec.network, teacher.spec.observation_shape, teacher.spec.kind, teacher.spec.actions
    )
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        network.head.bias[action] = 10.0
    return Policy(network, replace(teacher.spec, name=f"always-{action}"))


def student_file(folder: Path, name: str, network: Network) -> str:
    """A network recipe as a file, for what takes names."""
    path = folder / f"{name}.toml"
    hidden = ", ".join(str(width) for width in network.hidden)
    path.write_text(f'kind = "network"\nencoder = "mlp"\nhidden = [{hidden}]\nactivation = "{network.activation}"\n')
    return str(path)


def filled(teacher: Policy, states: int = 400) -> Replay:
    """A replay of random observations of the teacher's size, answered by it; action 1 was done everywhere."""
    observation = np.random.default_rng(0).normal(0, 0.5, (states, *teacher.spec.observation_shape)).astype(np.float32)
    with torch.inference_mode():
        answers = teacher(observation).flat
    replay = Replay(1, states, teacher.spec.observation_shape, answers.shape[1], None, keeps_actions=True)
    for k in range(states):
        one = slice(k, k + 1)
        replay.append(np.zeros(1, int), observation[one], np.zeros(1, bool), answers[one], np.ones(1, int))
    return replay


def learn_alone(
    student: Student,
    replay: Replay,
    rows: np.ndarray,
    goal: int,
    precision: Precision,
    stop: StopSignal | None = None,
) -> None:
    """Gradient steps of one student on some states of a replay, up to so many in all."""
    learn([student], [Seen(replay, rows)], goal, precision, stop)


def shipped_techniques(kind: type) -> list[str]:
    """Names of the recipes in `agents/distill/` that are of one kind."""
    found = [entry for entry in recipes.shipped("agents") if entry.name.startswith("distill/")]
    return [entry.name for entry in found if isinstance(recipes.load_any(entry.path), kind)]


def loss_of(
    terms: Sequence[Term], teacher: Kind, answers: Tensor, student: Output, *, progress: float = 0.0, **known: Tensor
) -> Tensor:
    """[B]: a recipe's loss of some answers; `known` are fields of `Sample`."""
    discrete = teacher in ("q", "categorical")
    objective = Objective(terms, teacher, answers.shape[1] if discrete else answers.shape[1] // 2)
    sample = objective.sample(answers, known)
    return objective.losses(objective.targets(sample), objective.weights(sample), student, progress)


def small_distillation(**changes: Any) -> Distill:
    """A distillation recipe of two seconds."""
    recipe = Distill(
        source=Source(states=800, rounds=4, num_envs=8, epsilon=0.1),
        terms=(Term(divergence=Part("forward_kl")),),
        gradient_steps=80,
        batch_size=64,
        learning_rate=1e-2,
        students=("mlp_16",),
        controls=(),
        held_out_states=64,
    )
    return replace(recipe, **changes)


def started(arguments: Sequence[str], folder: Path, *, first: str = "") -> subprocess.Popen[str]:
    """`rlkd ARGUMENTS` in a process and a process group of its own; `first` is a line of Python that runs before."""
    # A test run in the background ignores Ctrl-C, and so would what it starts.
    listens = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{listens}\nfrom rlkd.cli import main\n{first}\nsys.exit(main(sys.argv[1:]))"
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for its end: what it printed on stdout and what it said on stderr."""
    out, err = process.communicate(timeout=200)
    return out, without_progress(err)


def without_progress(err: str) -> str:
    """What is on stderr besides the lines that a slow machine writes every 30 seconds."""
    return "".join(line for line in err.splitlines(keepends=True) if " min left " not in line)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until the process has come so far; fails if it ends before."""
    end = time.monotonic() + 250
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"never came so far: {process.communicate()}")
        time.sleep(0.005)


def who_is_asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of those whom collectors ask from now on, one an answer."""
    names: list[str] = []

    def spy(player: Policy, *given: Any) -> Any:
        names.append(player.spec.name)
        return answering(player, *given)

    monkeypatch.setattr("rlkd.collect.collector.answering", spy)
    return names
