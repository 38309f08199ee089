"""A teacher beside reinforcement learning: its answers to what was played, and what a recipe's terms make of them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlkd.errors import MismatchError
from rlkd.evaluation import play, play_randomly
from rlkd.learn.rollout import Rollout
from rlkd.learn.samples import answer_all
from rlkd.metrics import StopSignal
from rlkd.policy import Output, Policy, PolicyNetwork, PolicySpec, as_policy
from rlkd.policy.compute import Precision
from rlkd.policy.policy import snapshot
from rlkd.recipe import Dqn, Environment, Ppo, ended, value_at
from rlkd.storage import read_json, write_json
from rlkd.terms import Objective

BASELINE = "baseline.json"
"""In a run folder: mean scores of teacher and random play, for gates."""
BASELINE_EPISODES = 20


class Teaching:
    """The terms of a recipe for one teacher, and what the teacher remembers from rollout to rollout."""

    def __init__(self, teacher: Policy, spec: PolicySpec, agent: Ppo | Dqn) -> None:
        """Check that they fit.

        Args:
            teacher: answers every state that the learner visits; it runs where it is.
            spec: of the policy that learns.
            agent: with terms.

        Raises:
            MismatchError: other actions, another kind of answer, or a part that reads what there is not here.
            RecipeError: an unknown name or number.
        """
        mine, its = ((each.actions, each.action_meanings) for each in (spec, teacher.spec))
        if mine != its:
            raise MismatchError(
                f"{teacher.spec.name} has {its[0]} actions {list(its[1])}, who learns from it {mine[0]} {list(mine[1])}"
            )
        self.teacher, self.state = teacher, teacher.initial_state(agent.num_envs)
        self.objective = Objective(agent.terms or (), teacher.spec.kind, spec.actions)
        self.gate = 1.0
        """Of the terms that have one."""
        self.value_coefficient = agent.teacher_value_coefficient if isinstance(agent, Ppo) else None
        """Of the difference to the teacher's values; None: they are not asked for."""
        self.baseline: dict[str, float] | None = None
        """Mean scores of teacher and random play; None where no term has a gate, or nothing was played yet."""
        # No probabilities: what is averaged over a minibatch is not at hand in its pieces.
        here = {"scores"} if teacher.network.last_weights is None else {"scores", "head"}
        if isinstance(agent, Dqn):
            self.objective.check_known(here | {"action", "demonstrated"}, "beside value learners")
            check_values(teacher, self.objective)
            return
        self.objective.check_known(here | {"ratio"}, "beside PPO")
        if self.objective.student != spec.kind:
            wanted, kind = self.objective.student, spec.kind
            raise MismatchError(
                f"the terms make a '{wanted}' policy of a '{teacher.spec.kind}' teacher, PPO a '{kind}'"
            )
        if self.value_coefficient is not None:
            wanted_values, there = _values(spec), _values(teacher.spec)
            if there != wanted_values:
                raise MismatchError(
                    f"teacher_value_coefficient needs a teacher with a critic of {wanted_values} value(s), and "
                    f"{teacher.spec.name} has {there or 'none'}; leave it out"
                )

    @torch.no_grad()
    def answers(self, rollout: Rollout) -> Tensor:
        """[T * N, P]: what the teacher says to every step of a rollout, asked once; [T * N, P + K] with its values."""
        seen, first = rollout.observation[:-1], rollout.first[:-1]
        if self.state is None:
            return self._told(self.teacher(seen.flatten(0, 1)))
        found = []
        for t in range(len(seen)):
            output = self.teacher(seen[t], self.state, first[t].cpu().numpy())
            self.state = output.state
            found.append(self._told(output))
        return torch.cat(found)

    def _told(self, output: Output) -> Tensor:
        if self.value_coefficient is None:
            return output.flat.float()
        assert output.value is not None
        return torch.cat([output.flat.float(), output.value.float()], dim=-1)

    @torch.no_grad()
    def rewarded(
        self,
        rollout: Rollout,
        answers: Tensor,
        network: PolicyNetwork,
        agent: Ppo,
        precision: Precision,
        progress: float,
    ) -> Rollout:
        """The rollout with minus the terms' loss as the reward of the streams that want it; 0 where not valid.

        Args:
            rollout: as it was sampled.
            answers: of the teacher to it.
            network: who learns.
            agent: with streams.
            precision: of the network.
            progress: share of the run that lies behind.
        """
        if all(stream.reward != "teacher" for stream in agent.streams):
            return rollout
        output = answer_all(network, rollout, precision)
        params = {name: tensor[: len(answers)] for name, tensor in output.params.items()}
        known = {"ratio": torch.ones(len(answers), device=answers.device)}
        losses = self.losses(answers, Output(output.kind, params), known, progress).view(rollout.valid.shape)
        reward = rollout.reward.clone()
        for k, stream in enumerate(agent.streams):
            if stream.reward == "teacher":
                reward[..., k] = -losses * rollout.valid
        return replace(rollout, reward=reward)

    def losses(self, answers: Tensor, student: Output, known: Mapping[str, Tensor], progress: float) -> Tensor:
        """[B]: the summed terms, and half the squared difference of values where the recipe has a weight for it.

        Args:
            answers: as `answers` gives them.
            student: who learns; without values, these are left out.
            known: fields of `Sample` that its learner knows.
            progress: share of the run that lies behind.
        """
        values = None
        if self.value_coefficient is not None:
            count = _values(self.teacher.spec)
            answers, values = answers[:, :-count], answers[:, -count:]
        sample = self.objective.sample(answers, {**known, "head": self.teacher.network.last_weights})
        targets, weights = self.objective.targets(sample), self.objective.weights(sample)
        found = self.objective.losses(targets, weights, student, progress, self.gate)
        if values is None or self.value_coefficient is None or student.value is None:
            return found
        apart = (student.value.float() - values).square().sum(-1)
        return found + value_at(self.value_coefficient, progress) * 0.5 * apart

    def over(self, progress: float) -> bool:
        """Whether nothing is learnt from the teacher any more, at this progress and later."""
        follows = self.value_coefficient is not None and not ended(self.value_coefficient, progress)
        return self.objective.over(progress) and not follows

    def follow(self, run: Path, environment: Environment, scores: Sequence[float], stop: StopSignal) -> None:
        """Set the gate by recent scores of play in training; teacher and random play are measured once a run."""
        if not any(bound.term.gate for bound in self.objective.terms):
            return
        self.baseline = self.baseline or self._measured(run / BASELINE, environment, stop)
        span = self.baseline["teacher"] - self.baseline["random"]
        if scores and span:
            self.gate = min(max(1 - (float(np.mean(scores)) - self.baseline["random"]) / span, 0.0), 1.0)

    def _measured(self, path: Path, environment: Environment, stop: StopSignal) -> dict[str, float]:
        """Scores from a run's file, which is made where it is not there yet."""
        if not path.exists():
            here = snapshot(self.teacher.network, self.teacher.spec)  # evaluation runs on the CPU
            played = play(here, environment, episodes=BASELINE_EPISODES, title="teacher", stop=stop).evaluation
            random = play_randomly(environment, episodes=BASELINE_EPISODES, stop=stop)
            write_json(path, {"teacher": played.mean, "random": random.mean})
        found: dict[str, float] = read_json(path)
        return found


def _values(spec: PolicySpec) -> int:
    """How many numbers a policy's critic answers."""
    return 0 if spec.network.value == "none" else spec.network.value_heads or 1


def check_values(teacher: Policy, objective: Objective) -> None:
    """Raise MismatchError where terms would regress Q-values on what are none."""
    for bound in objective.terms:
        if bound.divergence.target == "scores" and teacher.spec.kind != "q":
            raise MismatchError(
                f"divergence '{bound.term.divergence.name}' compares Q-values, and a '{teacher.spec.kind}' teacher has "
                "none; take one of probabilities"
            )


def taught_by(teacher: Policy | None, spec: PolicySpec, agent: Ppo | Dqn, device: torch.device) -> Teaching | None:
    """The recipe's terms for a teacher, on a device; None where there are neither.

    Raises:
        MismatchError: there is one of them alone, or they do not fit.
    """
    if (teacher is None) != (not agent.terms):
        needs = "needs a teacher, and there is none" if agent.terms else "learns from no teacher, and one was named"
        raise MismatchError(f"the recipe {needs}")
    if teacher is None:
        return None
    there = as_policy(teacher, env=spec.environment)
    network = copy.deepcopy(there.network)  # the caller's own stays where it is
    return Teaching(Policy(network, there.spec, device=str(device)), spec, agent)
