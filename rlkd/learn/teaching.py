"""A teacher beside reinforcement learning: its answers to a rollout, and what the terms of a recipe make of them."""

from dataclasses import replace

import torch
from torch import Tensor

from rlkd.errors import MismatchError
from rlkd.learn.rollout import Rollout
from rlkd.learn.samples import answer_all
from rlkd.policy import Output, Policy, PolicyNetwork, PolicySpec
from rlkd.policy.compute import Precision
from rlkd.recipe import Ppo
from rlkd.terms import Objective, Parts


class Teaching:
    """The terms of a recipe for one teacher, and what the teacher remembers from rollout to rollout."""

    def __init__(self, teacher: Policy, spec: PolicySpec, agent: Ppo, parts: Parts | None = None) -> None:
        """Check that they fit.

        Args:
            teacher: answers every state that the learner visits; it runs where it is.
            spec: of the policy that learns.
            agent: with terms.
            parts: of a user's own, by name.

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
        self.objective = Objective(agent.terms or (), teacher.spec.kind, spec.actions, parts)
        self.objective.check_known({"scores", "probabilities", "ratio", "head"}, "beside PPO")
        if self.objective.student != spec.kind:
            wanted, kind = self.objective.student, spec.kind
            raise MismatchError(
                f"the terms make a '{wanted}' policy of a '{teacher.spec.kind}' teacher, PPO a '{kind}'"
            )

    @torch.no_grad()
    def answers(self, rollout: Rollout) -> Tensor:
        """[T * N, P]: what the teacher says to every step of a rollout, asked once."""
        seen, first = rollout.observation[:-1], rollout.first[:-1]
        if self.state is None:
            return self.teacher(seen.flatten(0, 1)).flat.float()
        found = []
        for t in range(len(seen)):
            output = self.teacher(seen[t], self.state, first[t].cpu().numpy())
            self.state = output.state
            found.append(output.flat.float())
        return torch.cat(found)

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
        ratio = torch.ones(len(answers), device=answers.device)
        losses = self.losses(answers, Output(output.kind, params), ratio, progress).view(rollout.valid.shape)
        reward = rollout.reward.clone()
        for k, stream in enumerate(agent.streams):
            if stream.reward == "teacher":
                reward[..., k] = -losses * rollout.valid
        return replace(rollout, reward=reward)

    def losses(self, answers: Tensor, student: Output, ratio: Tensor, progress: float) -> Tensor:
        """[B]: the summed terms.

        Args:
            answers: [B, P] of the teacher.
            student: who learns.
            ratio: [B], probability of what was done under who learns, over that under who acted.
            progress: share of the run that lies behind.
        """
        sample = self.objective.sample(answers, {"ratio": ratio, "head": self.teacher.network.head.weight.detach()})
        targets, weights = self.objective.targets(sample), self.objective.weights(sample)
        return self.objective.losses(targets, weights, student, progress)
