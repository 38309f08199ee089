"""What every training run does between two rounds of learning: count, record, keep policies, hear signals."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rlkd import metrics
from rlkd.data import Episode
from rlkd.learn.checkpoint import Progress
from rlkd.policy import Policy, PolicyNetwork, PolicySpec
from rlkd.policy.file import build_network

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
    """The sampler waited: for emulators, or for the learner's next weights."""
    total: float = 0.0
    """Of the rounds that were timed."""

    def shares(self) -> dict[str, float]:
        """By TensorBoard tag."""
        total = max(self.total, 1e-9)
        return {"time/learner_waited": self.learner / total, "time/sampler_waited": self.sampler / total}


@dataclass(slots=True, kw_only=True)
class Training:
    """One attempt at a run. The learner owns the weights; this owns the counters and the files beside the checkpoint."""

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

    @property
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
        self.waited.total += seconds
        progress.scores = (*progress.scores, *(episode.score for episode in episodes))[-100:]
        self.bar.update(progress.steps, f"score {np.mean(progress.scores or [np.nan]):.1f}")

    def record(self, figures: Mapping[str, float]) -> None:
        """Write curves, every few rounds and at the end."""
        progress = self.progress
        if progress.rounds % RECORD_EVERY and not self.over:
            return
        summary = {
            "rollout/ep_rew_mean": float(np.mean(progress.scores)) if progress.scores else float("nan"),
            "time/agent_steps_per_second": progress.steps / progress.seconds,
            "time/frames": progress.steps * self.frame_skip,
            "time/hours": progress.seconds / 3600,
        }
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
        due = self.stop.asked or self.over or time.monotonic() - self.saved > self.checkpoint_seconds
        if due:
            self.saved = time.monotonic()
        return due

    def check_stop(self) -> None:
        """Raise `Stopped` if a signal came; call it when all is saved."""
        self.stop.check(f"run {self.run} is saved at agent step {self.progress.steps}; the same command goes on")

    def finish(self, network: PolicyNetwork) -> Policy:
        """Save the last policy, and say who waited for whom."""
        if self.waited.total:
            learner, sampler = (100 * share for share in self.waited.shares().values())
            metrics.say(f"the learner waited for data {learner:.0f} % of the time, the sampler {sampler:.0f} %")
        return self._save(network, self.run / POLICY)

    def _save(self, network: PolicyNetwork, path: Path) -> Policy:
        """A copy, so that what is saved later does not change with the learner."""
        copy = build_network(self.spec)
        copy.load_state_dict({name: tensor.cpu() for name, tensor in network.state_dict().items()})
        policy = Policy(copy, replace(self.spec, origin=f"{self.spec.origin}, at agent step {self.progress.steps:,}"))
        policy.save(path)
        return policy
