"""Runs arms, each seed once, and hands out what rows measure on them: policies, held-out states, scores."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

import rlkd
from benchmarks.common import Record, read_run
from benchmarks.techniques.arms import ARMS, HELD_OUT, PLAYED, PONG, Arm, Rewarded
from rlkd import recipe as recipes
from rlkd.data import Evaluation
from rlkd.distillation import Baseline, measure_baseline
from rlkd.distillation.checks import check_parts
from rlkd.distillation.learning import Setting
from rlkd.evaluation import Played, agreement, environment_of, mean_kl, play
from rlkd.policy import Policy, load_policy
from rlkd.recipe import Distill, Network, Ppo, recipe_hash
from rlkd.replay import Replay, path_of, take
from rlkd.stats import failed_share, normalised_score
from rlkd.storage import read_json, write_json
from rlkd.vector import as_recipe, spaces

BASELINE_EPISODES = 48
KEPT = ("mean", "normalised", "failed_share", "agreement", "kl_teacher_states", "kl_student_states")
NUMBERS = "numbers.json"
TINY = ("source.states=512", "gradient_steps=16", "held_out_states=64")
TINY_STEPS = 2048
Numbers = dict[str, float]


class Bench:
    """A run folder, and what has been made in it."""

    def __init__(self, run: Path, budget: Mapping[str, float], *, tiny: bool = False) -> None:
        """Take a folder.

        Args:
            run: everything is kept in it.
            budget: agent steps of reinforcement learning.
            tiny: every size as small as it can be, to see that all runs.
        """
        self.run, self.budget, self.tiny = run, budget, tiny
        self._teachers: dict[str, Policy] = {}
        self._baselines: dict[str, Baseline] = {}

    def teacher(self, name: str, env: str | None = None) -> Policy:
        """A teacher by its name in `arms`."""
        if name not in self._teachers:
            file = name if name.startswith("policy:") else Path(os.environ["RLKD_TEACHERS"]) / name
            self._teachers[name] = load_policy(file, env=env)
        return self._teachers[name]

    def baseline(self, name: str, env: str | None = None) -> Baseline:
        """A teacher's scores and held-out states, and random play; measured once for a run folder."""
        teacher = self.teacher(name, env)
        folder = self.run / "baselines" / teacher.spec.hash[:16]
        if name not in self._baselines and not (folder / "scores.json").exists():
            pixels = teacher.spec.observation_dtype == "uint8"
            episodes = (2 if self.tiny else BASELINE_EPISODES) if pixels else 100
            found = measure_baseline(
                teacher, environment_of(teacher, None), episodes=episodes, keep_states=HELD_OUT if pixels else 5000
            )
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / "states.npy", found.teacher.states)
            write_json(
                folder / "scores.json", {"teacher": asdict(found.teacher.evaluation), "random": asdict(found.random)}
            )
        if name not in self._baselines:
            scores = json.loads((folder / "scores.json").read_text())
            teacher_scores, random = (_evaluation(scores[who]) for who in ("teacher", "random"))
            self._baselines[name] = Baseline(Played(teacher_scores, np.load(folder / "states.npy")), random)
        return self._baselines[name]

    def states(self, name: str) -> np.ndarray:
        """[S, ...]: states of whole games that the teacher played; no arm learns from them."""
        return self.baseline(name).teacher.states

    def numbers(self, name: str, seed: int) -> dict[str, Numbers]:
        """KEPT of an arm's student and of its controls, by name; the arm is run where it was not yet."""
        arm, path = ARMS[name], self.file(name, seed)
        cpu, wall = time.process_time(), time.perf_counter()
        record = self._distilled(name, arm, seed) if isinstance(arm, Arm) else self._rewarded(name, arm, seed)
        entries = {"student": record["students"][0]} | {entry["name"]: entry for entry in record["controls"]}
        found = {who: {key: float(entry[key]) for key in KEPT} for who, entry in entries.items()}
        if not path.exists():
            spent = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
            write_json(path, {"numbers": found, **spent})
        return found

    def file(self, name: str, seed: int) -> Path:
        """Where `numbers` keeps what it gave."""
        return self._folder(name, seed) / NUMBERS

    def told(self, name: str, seed: int) -> Record | None:
        """What `numbers` gave, and the seconds that it took; None where the arm has not been run."""
        path = self.file(name, seed)
        return read_json(path) if path.exists() else None

    def policy(self, name: str, seed: int) -> Policy:
        """An arm's student."""
        self.numbers(name, seed)
        arm, folder = ARMS[name], self._folder(name, seed)
        if isinstance(arm, Rewarded):
            return load_policy(folder / "generations" / "000" / "policy.safetensors")
        return load_policy(folder / "students" / f"{recipes.network_label(arm.student)}.safetensors")

    def learnt(self, name: str, seed: int) -> Replay:
        """The states that a teacher-driven arm learnt from, with the teacher's answers."""
        arm = ARMS[name]
        assert isinstance(arm, Arm)
        self.numbers(name, seed)
        teacher, recipe = self.teacher(arm.teacher, arm.env), self._recipe(arm)
        environment = environment_of(teacher, None)
        replay = Replay(
            recipe.source.num_envs,
            recipe.source.states,
            spaces(environment)[0],
            teacher.spec.actions,
            environment.views.get("pixels"),
            keeps_actions=True,
            keeps_rewards=True,
        )
        setting = Setting(teacher, environment, recipe, seed, "auto", np.empty(0), self.run)
        take(path_of(self.run / "replay", setting.about), replay)
        return replay

    def _recipe(self, arm: Arm) -> Distill:
        return recipes.load(arm.agent, Distill, overrides=self._overrides(arm))

    def _overrides(self, arm: Arm) -> tuple[str, ...]:
        return (*arm.overrides, *TINY) if self.tiny else arm.overrides

    def _folder(self, name: str, seed: int) -> Path:
        return self.run / "arms" / name / f"seed{seed}"

    def _distilled(self, name: str, arm: Arm, seed: int) -> Record:
        teacher, folder = self.teacher(arm.teacher, arm.env), self._folder(name, seed)
        recipe = self._recipe(arm)
        network = {arm.student: recipes.load(arm.student, Network)}
        settled = check_parts(teacher, network, recipe, environment_of(teacher, None), arm.parts)
        return read_run(folder, teacher.spec.hash, settled) or rlkd.distill(
            teacher,
            [arm.student],
            run=folder,
            agent=arm.agent,
            seed=seed,
            episodes=1 if self.tiny else arm.episodes,
            overrides=self._overrides(arm),
            baseline=self.baseline(arm.teacher, arm.env),
            parts=arm.parts,
            replay=self.run / "replay" if recipe.source.teacher_fraction == (1.0, 1.0) else None,
        )

    def _rewarded(self, name: str, arm: Rewarded, seed: int) -> Record:
        """The same of a policy that learns from rewards; likeness is to the Pong policy."""
        folder, game = self._folder(name, seed), as_recipe("pong")
        steps = TINY_STEPS if self.tiny else int(self.budget[arm.steps])
        teacher = None if arm.teacher is None else self.teacher(arm.teacher)
        recipe = recipes.load(arm.agent, Ppo, overrides=(*arm.overrides, f"frames={game.frame_skip * steps}"))
        identity = {"recipe": recipe_hash(recipe), "teacher": "" if teacher is None else teacher.spec.hash}
        path = folder / "played.json"
        if path.exists():
            record: Record = read_json(path)
            if record["identity"] != identity:
                raise SystemExit(f"{folder} holds a run with another teacher or recipe; name another --run")
            return record
        policy = rlkd.train(
            game, arm.agent, run=folder, seed=seed, frames=recipe.frames, teacher=teacher, overrides=arm.overrides
        )
        entry = self.scored(policy, episodes=PLAYED)
        record = {"identity": identity, "students": [entry], "controls": []}
        write_json(path, record)
        return record

    def scored(self, policy: Policy, *, episodes: int) -> Numbers:
        """KEPT of any policy on Pong."""
        master, baseline = self.teacher(PONG), self.baseline(PONG)
        played = play(policy, episodes=1 if self.tiny else episodes, keep_states=HELD_OUT)
        scores, teacher, random = played.evaluation.scores, baseline.teacher.evaluation.scores, baseline.random.scores
        likeness = partial(mean_kl, policy, master, teacher_temperature=1.0)
        return {
            "mean": played.evaluation.mean,
            "normalised": normalised_score([scores], teacher, random).point,
            "failed_share": failed_share(scores, teacher, random),
            "agreement": agreement(policy, master, baseline.teacher.states),
            "kl_teacher_states": likeness(baseline.teacher.states),
            "kl_student_states": likeness(played.states),
        }


def _evaluation(values: Record) -> Evaluation:
    return Evaluation(**values | {name: tuple(values[name]) for name in ("scores", "steps", "seeds")})
