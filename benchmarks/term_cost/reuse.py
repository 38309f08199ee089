"""A student of a run that plays and asks its teacher, against a further one that finds states and answers kept."""

import time
from pathlib import Path

import torch

from benchmarks.common import Record
from rlkd import metrics
from rlkd import recipe as recipes
from rlkd.collect import Collector
from rlkd.distillation.learning import Game, Setting, learn_rounds
from rlkd.distillation.student import Plan, Student
from rlkd.evaluation import environment_of, play
from rlkd.policy import load_policy
from rlkd.policy.compute import idle_cores, one_thread_per_role
from rlkd.recipe import Distill, Network
from rlkd.replay import Kept, Replay, path_of, take

STUDENT = "nature_62k"


def student_of(folder: Path, *, states: int, steps: int, seed: int) -> Record:
    """Wall and CPU seconds from a recipe and a teacher to a trained student: all that `rlkd distill --replay` does
    but playing for scores. Which of the two it is says whether the folder holds the states already."""
    one_thread_per_role()
    teacher = load_policy("policy:pong")
    environment = environment_of(teacher, None)
    overrides = (f"source.states={states}", f"gradient_steps={steps}", "controls=[]")
    recipe = recipes.load("policy_distillation", Distill, overrides=overrides)
    probes = play(teacher, environment, episodes=1, keep_states=256).states
    setting = Setting(teacher, environment, recipe, seed, "auto", probes, folder / f"run{time.time_ns()}")
    path = path_of(folder / "replay", setting.about)
    wall, cpu, first = time.perf_counter(), time.process_time(), not path.exists()
    replay = Replay(
        recipe.source.num_envs,
        states,
        teacher.spec.observation_shape,
        teacher.spec.actions,
        environment.views["pixels"],
        keeps_actions=True,
        keeps_rewards=True,
    )
    plan = Plan(STUDENT, recipes.load(STUDENT, Network))
    parts = idle_cores(1)
    student = Student(plan, recipe, teacher.spec, seed=seed, device=torch.device("cpu"), parts=parts)
    source: Collector | Kept
    source = Collector(environment, teacher, recipe.source, seed=seed) if first else take(path, replay)
    with metrics.stop_signal() as stop:
        learn_rounds([Game(setting, [student], replay, source, path)], stop, identity=setting.identity)
    if isinstance(source, Collector):
        source.close()
    return {
        "first": first,
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "learning": student.seconds,
    }
