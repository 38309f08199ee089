"""What every training run does between two rounds of learning: count, record, keep policies, hear signals."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rlkd import metrics, storage
from rlkd.data import Episode
from rlkd.learn.checkpoint import Progress, load_checkpoint
from rlkd.policy import Policy, PolicyNetwork, PolicySpec
from rlkd.policy.policy import snapshot
from rlkd.recipe import Dqn, Ppo, recipe_hash
from rlkd.vector import Stepper

T = TypeVar("T")
RECORD_EVERY = 5  # rounds between two lines of metrics
EARLY = (0.01, 0.02, 0.05, 0.10, 0.25, 0.50, 0.75, 1.0)
"""Shares of a run after which its policy is kept on request: early-stopped teachers."""
LEAST_EPISODES = 20  # behind a mean score that may be called the best
POLICY = Path("generations") / "000" / "policy.safetensors"


@dataclass(slots=True, kw_only=True)
class Waited:
    """Wall seconds that two sides of a run spent waiting for each other or for emulators."""

    learner: float = 0.0
    """The learner waited for data."""
    sampler: float = 0.0
    """The sampler waited for the learner's next weights."""
    emulators: float = 0.0
    """The sampler waited for emulators."""
    total: float = 0.0
    """Of the rounds that were timed."""

    def note(self, started: float, begun: float, learnt: float, sampled: float, emulators: float) -> float:
        """A round ended just now, both sides of it; returns its wall seconds.

        Args:
            started: `time.monotonic()` when the sampler began.
            begun: the same when the learner began.
            learnt: the same when it was done and waited for data.
            sampled: seconds that the sampler took.
            emulators: seconds of those that it waited for emulators.
        """
        now = time.monotonic()
        self.learner += begun - started + now - learnt
        self.sampler += now - started - sampled
        self.emulators += emulators
        self.total += now - started
        return now - started

    def shares(self) -> dict[str, float]:
        """By TensorBoard tag."""
        total = max(self.total, 1e-9)
        return {
            "time/learner_waited": self.learner / total,
            "time/sampler_waited": self.sampler / total,
            "time/waited_for_emulators": self.emulators / total,
        }


@dataclass(slots=True, kw_only=True)
class Training:
    """One attempt at a run: its counters, and its files but for the checkpoint. The learner owns the weights."""

    run: Path
    """The run's folder."""
    spec: PolicySpec
    """Of the policy that comes out."""
    progress: Progress
    """Counters, over all attempts."""
    total: int
    """Agent steps of the whole run."""
    frame_skip: int
    """Emulator frames of an agent step."""
    checkpoint_seconds: float
    """Wall seconds between two checkpoints."""
    keep_early: bool
    """Whether policies at fixed shares of the run are kept."""
    recorder: metrics.Recorder
    """Curves."""
    bar: metrics.Bar
    """For the person who waits."""
    stop: metrics.StopSignal
    """Signals."""
    waited: Waited = field(default_factory=Waited)
    """Of this attempt."""
    saved: float = field(default_factory=time.monotonic)
    """When the last checkpoint was written."""

    def over(self) -> bool:
        """Whether all steps have been learnt from."""
        return self.progress.steps >= self.total

    @property
    def done(self) -> float:
        """Share of the run that lies behind, in [0, 1]."""
        return min(1.0, self.progress.steps / self.total)

    def count(self, steps: int, episodes: Sequence[Episode], seconds: float) -> None:
        """A round was learnt from: its agent steps, the episodes that ended in it, its wall time."""
        progress = self.progress
        progress.rounds += 1
        progress.steps += steps
        progress.seconds += seconds
        progress.scores = (*progress.scores, *(episode.score for episode in episodes))[-100:]
        progress.rooms = tuple(sorted(set(progress.rooms).union(*(episode.rooms for episode in episodes))))
        self.bar.update(progress.steps, f"score {np.mean(progress.scores or [np.nan]):.1f}")

    def record(self, figures: Mapping[str, float]) -> None:
        """Write curves, every few rounds and at the end."""
        progress = self.progress
        if progress.rounds % RECORD_EVERY and not self.over():
            return
        summary = {
            "rollout/ep_rew_mean": float(np.mean(progress.scores)) if progress.scores else float("nan"),
            "time/agent_steps_per_second": progress.steps / progress.seconds,
            "time/frames": progress.steps * self.frame_skip,
            "time/hours": progress.seconds / 3600,
        }
        if progress.rooms:
            summary["rollout/rooms"] = len(progress.rooms)
        self.recorder.write(progress.steps, {**figures, **summary, **self.waited.shares()})

    def keep(self, network: PolicyNetwork, steps: int) -> None:
        """Write the policies that are due after a round of so many steps: the best one, early ones on request.

        Policies land in `best.safetensors` and `early/PERCENT.safetensors`, with weights copied from `network`.
        """
        progress = self.progress
        if len(progress.scores) >= LEAST_EPISODES and progress.rounds % RECORD_EVERY == 0:
            mean = float(np.mean(progress.scores))
            if progress.best is None or mean > progress.best:
                progress.best = mean
                self._save(network, self.run / "best.safetensors")
        if self.keep_early:
            for share in EARLY:
                if progress.steps - steps < share * self.total <= progress.steps:
                    self._save(network, self.run / "early" / f"{100 * share:03.0f}.safetensors")

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is to be written now: after a while, on a signal, at the end."""
        due = self.stop.asked or self.over() or time.monotonic() - self.saved > self.checkpoint_seconds
        if due:
            self.saved = time.monotonic()
        return due

    def check_stop(self) -> None:
        """Raise `Stopped` if a signal came; call it when all is saved."""
        self.stop.check(f"run {self.run} is saved at agent step {self.progress.steps}; the same command goes on")

    def finish(self, network: PolicyNetwork) -> Policy:
        """Save the last policy, and say who waited for whom."""
        if self.waited.total:
            learner, sampler, emulators = (f"{share:.0%}" for share in self.waited.shares().values())
            metrics.say(
                f"the learner waited for data {learner} of the time; the sampler for the learner {sampler}, for "
                f"emulators {emulators}"
            )
        return self._save(network, self.run / POLICY)

    def _save(self, network: PolicyNetwork, path: Path) -> Policy:
        origin = f"{self.spec.origin}, at agent step {self.progress.steps:,}"
        policy = snapshot(network, replace(self.spec, origin=origin))
        policy.save(path)
        return policy


def starter(steppers: Sequence[Stepper], device: torch.device, pool: ThreadPoolExecutor) -> Callable[..., Future[Any]]:
    """What starts the sampling of a round: `pool.submit`, or where a second thread does not pay, something that does
    the work before it returns.

    The work is the same either way.
    """
    return pool.submit if side_by_side(steppers, device) else _at_once


def side_by_side(steppers: Sequence[Stepper], device: torch.device) -> bool:
    """Whether a second thread that samples pays.

    Environments that step in this interpreter and a learner on the CPU only take it from each other: one after the
    other does the same in less time.
    """
    return device.type != "cpu" or all(stepper.outside for stepper in steppers)


def _at_once(function: Callable[..., T], *arguments: object) -> Future[T]:
    done: Future[T] = Future()
    done.set_result(function(*arguments))
    return done


@contextmanager
def training_run(
    run: Path,
    spec: PolicySpec,
    agent: Ppo | Dqn,
    *,
    head: str = "",
    seed: int,
    keep_early: bool,
) -> Iterator[tuple[Training, dict[str, Tensor]]]:
    """A run folder, locked, with its curves, signals and progress bar, and the tensors of its checkpoint.

    Args:
        run: the folder; a run in it goes on.
        spec: of the policy that comes out; it says where it plays.
        agent: how it learns; a folder belongs to its kind, values may change when a run goes on, and that is noted.
        head: what its network has beside the policy's, which a checkpoint has to fit.
        seed: of the run.
        keep_early: whether policies at fixed shares of the run are kept.

    Raises:
        StorageError: the folder is in use, full, damaged, or holds another run.
    """
    environment = spec.environment
    assert environment is not None
    total = agent.frames // environment.frame_skip
    learner = type(agent).__name__.lower()
    identity = storage.sha256(f"{learner} {head} {recipe_hash(environment)} {recipe_hash(spec.network)}".encode())
    with storage.run_folder(run), metrics.stop_signal() as stop:
        storage.refuse_other_kinds(run, "train")
        progress, tensors = load_checkpoint(run, identity=identity, seed=seed)
        tell_versions(run, progress)
        start_chunk(progress, recipe_hash(replace(agent, checkpoint_seconds=1.0)))
        recorder = metrics.Recorder(run, resume_step=progress.steps + 1)
        try:
            with metrics.bar(f"{learner} on {environment.id}, agent steps", total) as bar:
                training = Training(
                    run=run,
                    spec=spec,
                    progress=progress,
                    total=total,
                    frame_skip=environment.frame_skip,
                    checkpoint_seconds=agent.checkpoint_seconds,
                    keep_early=keep_early,
                    recorder=recorder,
                    bar=bar,
                    stop=stop,
                )
                yield training, tensors
        finally:
            recorder.close()


def tell_versions(run: Path, progress: Progress) -> None:
    """One line where the checkpoint was written under other versions: the run goes on, but bits may differ."""
    now = storage.versions()
    if progress.under and (changed := storage.changes(progress.under, now)):
        metrics.say(f"{run} was saved under {changed}: it goes on, but bits may differ")
    progress.under = now


def start_chunk(progress: Progress, recipe: str) -> None:
    """Note with which recipe, by its hash, the run goes on from here. Rates may change between chunks, in sight."""
    if progress.chunks and not progress.chunks[-1].endswith(recipe):
        metrics.say(f"going on at agent step {progress.steps} with another agent recipe than before")
    if not progress.chunks or not progress.chunks[-1].endswith(recipe):
        progress.chunks = (*progress.chunks, f"{progress.steps} {recipe}")
