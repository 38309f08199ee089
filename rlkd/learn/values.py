"""The network of value learners: a policy network's features, and Q-values or quantiles linear in them.

Whatever the head looks like while it learns, all behind the features is linear, so it folds into the plain head of a
policy of kind `q`: the mean over quantiles, and of a duelling head V + A - mean A. Who acts, exports or distils sees
that plain policy and nothing else.

Shapes: B batch, A actions, M quantiles (1 where the mean alone is learnt), F features.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from rlkd import recipe
from rlkd.errors import RecipeError
from rlkd.policy import PolicySpec, Rule
from rlkd.policy.file import build_network
from rlkd.recipe import Dqn, Environment, Network
from rlkd.vector import action_meanings, spaces

RULE = Rule(name="epsilon_greedy", epsilon=0.01)
"""Of the policies that come out: greedy ones can stand still for ever."""


class ValueNetwork(nn.Module):
    """[B, *observation] -> [B, A, M]."""

    def __init__(self, spec: PolicySpec, agent: Dqn) -> None:
        """Weights are not yet set.

        Args:
            spec: of the plain policy, as `value_spec` makes it.
            agent: says whether there are quantiles and two streams.
        """
        super().__init__()
        self.policy = build_network(spec)
        """Its features are the learner's own; its head is what `fold` last made of the learning head."""
        self.policy.head.requires_grad_(requires_grad=False)
        self.actions, self.quantiles = spec.actions, max(1, agent.quantiles)
        self.width = self.policy.head.in_features // (2 if agent.duelling else 1)
        self.advantage = nn.Linear(self.width, self.actions * self.quantiles)
        self.value = nn.Linear(self.width, self.quantiles) if agent.duelling else None

    def forward(self, observation: Tensor) -> Tensor:
        """Quantiles (or means) of the return of every action, [B, A, M] float32, for observations [B, ...]."""
        features = self.policy(observation).features
        # Answers in full precision, as those of every policy: gaps between Q-values are finer than bfloat16 is.
        with torch.autocast(observation.device.type, enabled=False):
            returns: Tensor = self.advantage(features[:, : self.width]).view(-1, self.actions, self.quantiles)
            if self.value is not None:
                common = self.value(features[:, self.width :])[:, None]
                returns = common + returns - returns.mean(dim=1, keepdim=True)
        return returns

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights from `generator`, uniform within 1 / sqrt(inputs), as torch's layers and DQN's do.

        Policies' larger orthogonal weights are no start here: with them, values over 3 steps ran away on CartPole
        (to 10^4, where 100 is the most), here as in Stable-Baselines3; with these they did not.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                limit = layer.weight[0].numel() ** -0.5
                nn.init.uniform_(layer.weight, -limit, limit, generator=generator)
                nn.init.uniform_(layer.bias, -limit, limit, generator=generator)  # type: ignore[arg-type]
        self.fold()

    @torch.no_grad()
    def fold(self) -> None:
        """Make the policy's head answer the means of what `forward` answers."""
        weight = self.advantage.weight.view(self.actions, self.quantiles, -1).mean(dim=1)
        bias = self.advantage.bias.view(self.actions, self.quantiles).mean(dim=1)
        if self.value is not None:
            common = self.value.weight.mean(dim=0).expand(self.actions, -1)
            weight = torch.cat([weight - weight.mean(dim=0), common], dim=1)
            bias = bias - bias.mean() + self.value.bias.mean()
        self.policy.head.weight.copy_(weight)
        self.policy.head.bias.copy_(bias)


def value_spec(environment: Environment, agent: Dqn, *, origin: str) -> PolicySpec:
    """The record of the plain policy that a value learner makes for an environment.

    With `duelling` the last hidden layer is twice as wide as the network recipe says: each stream has its width.

    Raises:
        RecipeError: actions are not discrete, or the network does not fit.
    """
    shape, discrete, actions = spaces(environment)
    if not discrete:
        raise RecipeError(f"value learners need discrete actions, and those of {environment.id} are continuous")
    network = recipe.load(agent.network, Network)
    if network.core != "none":
        raise RecipeError(f"value learners learn from single steps, and network '{agent.network}' remembers")
    if network.members is not None:
        raise RecipeError(f"value learners train one network, and '{agent.network}' is made of members")
    if agent.duelling:
        if not network.hidden:
            raise RecipeError(f"duelling needs a hidden layer, and network '{agent.network}' has none")
        network = replace(network, hidden=(*network.hidden[:-1], 2 * network.hidden[-1]))
    return PolicySpec(
        name=f"{environment.id}-{'qrdqn' if agent.quantiles else 'dqn'}",
        kind="q",
        network=network.acting,
        observation_shape=shape,
        observation_dtype="uint8" if environment.views else "float32",
        actions=actions,
        action_meanings=action_meanings(environment),
        environment=environment,
        rule=RULE,
        origin=origin,
    )
