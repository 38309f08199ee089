"""Networks: one definition for teacher and student, built from a `Network` recipe.

observation -> scale -> encoder -> hidden layers -> optional recurrent core and layers -> linear head (and a critic).
The four networks of Policy Distillation (Rusu et al., arXiv:1511.06295) are `conv` with 1,693,362, 427,874,
113,346 and 61,954 parameters at 18 actions; IMPALA's (Espeholt et al., arXiv:1802.01561) is `resnet` with 1,093,858.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkd.errors import MismatchError
from rlkd.losses import NO_NOISE
from rlkd.policy.compute import Precision, takes_bfloat16
from rlkd.policy.encoders import ACTIVATIONS, behind_layers, flops, fully_connected, make_encoder, standardise
from rlkd.policy.output import Output
from rlkd.policy.rule import PARAMS, Kind
from rlkd.recipe import Combine, Network

CORES: dict[str, type[nn.GRUCell] | type[nn.LSTMCell]] = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}
LOG_STD_BOUNDS = (NO_NOISE, 2.0)  # of squashed Gaussians, as in SAC (Haarnoja et al. 2018, arXiv:1812.05905)


class PolicyNetwork(nn.Module):
    """[B, *observation] -> `Output`.

    uint8 pixels [B, C, H, W] are scaled to [0, 1]; float pictures and vectors [B, D] pass as they are (whiten before).

    A network of members holds them under `members`, and has neither encoder nor head of its own.
    """

    def __init__(self, recipe: Network, observation_shape: Sequence[int], kind: Kind, actions: int) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.actions = actions
        self.pixels = recipe.pixels
        self.state_width = recipe.state_width
        """S, numbers of the recurrent state; 0 of feed-forward networks."""
        self.core: nn.GRUCell | nn.LSTMCell | None = None
        self.branch: nn.Sequential | None = None
        self.critic_branch: nn.Sequential | None = None
        self.log_std: nn.Parameter | None = None
        self.critic_encoder: nn.Module | None = None
        self.critic: nn.Linear | None = None
        self.combine = recipe.combine
        self.members = nn.ModuleList(
            PolicyNetwork(member, observation_shape, kind, actions) for member in recipe.members or ()
        )
        if self.members:
            if kind not in ("categorical", "q"):
                raise MismatchError(f"members answer together about discrete actions, not as a '{kind}' policy")
            return
        self.encoder, width = make_encoder(recipe, observation_shape)
        if recipe.core != "none":
            self.core, width = CORES[recipe.core](width, recipe.core_width), recipe.core_width
        self.core_layers, width = fully_connected(recipe.core_hidden or (), width, behind_layers(recipe))
        if recipe.branches:
            self.branch = _branch(width, recipe)
        state_independent = kind == "gaussian"  # as in PPO implementations: one log_std per action dimension
        outputs = actions if state_independent else actions * len(PARAMS[kind])
        self.head = nn.Linear(width, outputs)
        if state_independent:
            self.log_std = nn.Parameter(torch.zeros(actions))
        self.mean_limit = recipe.mean_limit if kind in ("gaussian", "squashed_gaussian") else None
        if recipe.value == "shared":
            self.critic = nn.Linear(width, recipe.value_heads or 1)
            self.critic_branch = _branch(width, recipe) if recipe.branches else None
        elif recipe.value == "separate":
            self.critic_encoder, critic_width = make_encoder(recipe, observation_shape)
            self.critic = nn.Linear(critic_width, recipe.value_heads or 1)

    def forward(self, observation: Tensor, state: Tensor | None = None) -> Output:
        """The answer to one batch.

        Args:
            observation: [B, *observation_shape], uint8 for pixels, float32 for vectors.
            state: [B, S] recurrent state, zeros at the start of an episode; None for feed-forward networks.
        """
        if self.members:
            return self._together(observation)
        x = self._scaled(observation)
        features, state = self._remember(self.encoder(x), state)
        return self._answer(x, features, state)

    def unroll(self, observation: Tensor, first: Tensor, state: Tensor | None = None) -> Output:
        """The answers to B sequences of T observations.

        Args:
            observation: [B, T, *observation_shape].
            first: [B, T] bool, the observation begins an episode: what was remembered is forgotten.
            state: [B, S] before the first observation; None: zeros.

        Returns:
            Parameters, value and features of [B * T] rows, sequence by sequence; the state [B, S] after the last.
        """
        if self.members:
            return self._together(observation.flatten(0, 1))
        x = self._scaled(observation.flatten(0, 1))
        encoded = self.encoder(x).unflatten(0, first.shape)
        by_step = []
        for t in range(first.shape[1]):
            state = None if state is None else state * ~first[:, t, None]
            features, state = self._remember(encoded[:, t], state)
            by_step.append(features)
        return self._answer(x, torch.stack(by_step, 1).flatten(0, 1), state)

    @property
    def parts(self) -> list["PolicyNetwork"]:
        """The members; the network itself where there are none."""
        return [member for member in self.members if isinstance(member, PolicyNetwork)] or [self]

    @property
    def last_weights(self) -> Tensor | None:
        """[A, F], those of the head; None of a network of members, which have one each."""
        return None if self.members else self.head.weight.detach()

    def _together(self, observation: Tensor) -> Output:
        """What the members answer to one batch, as one answer; features are those of all, side by side."""
        x = self._scaled(observation)  # once for all: what is no bytes passes as it is
        told: list[Output] = [member(x) for member in self.parts]
        scores = torch.stack([each.flat for each in told])
        assert self.combine is not None
        params = {PARAMS[self.kind][0]: combined_scores(scores, self.kind, self.combine)}
        features = [each.features for each in told if each.features is not None]
        return Output(self.kind, params, None, torch.cat(features, dim=-1))

    def _remember(self, features: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features [B, F] through the recurrent core, in full precision, and its state afterwards."""
        if self.core is None:
            return features, state
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.head.weight.dtype)
            if isinstance(self.core, nn.LSTMCell):
                halves = None if state is None else state.chunk(2, dim=-1)  # hidden and cell state side by side
                hidden, cell = self.core(features, halves)
                return hidden, torch.cat([hidden, cell], dim=-1)
            hidden = self.core(features, state)
            return hidden, hidden

    def _answer(self, x: Tensor, features: Tensor, state: Tensor | None) -> Output:
        """The output, from scaled observations (a separate critic reads them) and features behind the core."""
        features = self.core_layers(features)
        seen = features if self.critic_encoder is None else self.critic_encoder(x)
        # Answers in full precision: gaps between Q-values are finer than bfloat16 is.
        with torch.autocast(x.device.type, enabled=False):
            features, seen = features.to(self.head.weight.dtype), seen.to(self.head.weight.dtype)
            if self.critic_branch is not None:
                seen = seen + self.critic_branch(seen)
            if self.branch is not None:
                features = features + self.branch(features)
            raw = self.head(features)
            value = None if self.critic is None else self.critic(seen)
        if self.log_std is not None:
            params = {"mean": raw, "log_std": self.log_std.expand_as(raw)}
        else:
            names = PARAMS[self.kind]
            params = dict(zip(names, raw.chunk(len(names), dim=-1), strict=True))
        if self.kind == "squashed_gaussian":
            params["log_std"] = params["log_std"].clamp(*LOG_STD_BOUNDS)
        if self.mean_limit is not None:
            params["mean"] = params["mean"].clamp(-self.mean_limit, self.mean_limit)
        return Output(self.kind, params, value, features, state)

    def initialise(self, generator: torch.Generator, *, for_rl: bool) -> None:
        """Draw all weights from `generator`.

        Orthogonal with gain sqrt(2) and zero biases; for policy-gradient learning the head starts at gain 0.01,
        so that the first policy is uniform, and the critic at gain 1 (Huang et al. 2022, 37 details of PPO). Behind
        residual branches, which start at gain 0.1, the critic's is 0.01 (Burda et al. 2018, arXiv:1810.12894, code).
        Members draw one after the other, but for those that are frozen: no weight of theirs requires a gradient.
        """
        if self.members:
            for member in self._learning:
                member.initialise(generator, for_rl=for_rl)
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(module.weight, math.sqrt(2), generator=generator)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # our layers all have one
            elif isinstance(module, nn.GRUCell | nn.LSTMCell):
                for weight in (module.weight_ih, module.weight_hh):
                    nn.init.orthogonal_(weight, generator=generator)
                nn.init.zeros_(module.bias_ih)
                nn.init.zeros_(module.bias_hh)
        nn.init.orthogonal_(self.head.weight, 0.01 if for_rl else 1.0, generator=generator)
        for branch in (self.branch, self.critic_branch):
            if branch is not None:
                nn.init.orthogonal_(branch.get_parameter("0.weight"), 0.1, generator=generator)
        if self.critic is not None:
            nn.init.orthogonal_(self.critic.weight, 1.0 if self.critic_branch is None else 0.01, generator=generator)

    def standardise(self, observation: Tensor) -> None:
        """Scale and shift the encoder's fresh units so that each answers with mean 0 and deviation 1 to some states.

        Consecutive pictures differ in a few pixels: units drawn without looking answer nearly the same to all states,
        nothing in four of ten cases, and more of them die in the first steps. What pixels and ReLU give on is never
        negative, and what a maximum gives on mostly positive, so weights are centred first: the picture's common
        brightness then moves no unit, but where one sees zeros around the picture. Frozen members stay as they are.

        Args:
            observation: [B, *observation_shape] as for `forward`, some hundred states.

        Source: data-dependent initialisation of Salimans and Kingma 2016, arXiv:1602.07868, section 3.
        """
        if self.members:
            for member in self._learning:
                member.standardise(observation)
            return
        standardise(self.encoder, self._scaled(observation), centred=self.pixels)

    @property
    def _learning(self) -> list["PolicyNetwork"]:
        return [member for member in self.parts if any(weight.requires_grad for weight in member.parameters())]

    def cast_encoder(self, precision: Precision) -> None:
        """Keep the encoder's weights in bfloat16 where its passes are: cast once, not in each of them."""
        for part in self.parts:
            if takes_bfloat16(part.head.weight.device, precision, pixels=self.pixels):
                part.encoder.to(torch.bfloat16)

    def _scaled(self, observation: Tensor) -> Tensor:
        if observation.dtype != torch.uint8:
            return observation
        device, dtype = observation.device.type, self.parts[0].head.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        # Bytes are put in order before they are cast: a quarter as much is moved. Dividing, not multiplying by 1/255:
        # the same bits as Stable-Baselines3.
        return observation.contiguous(memory_format=torch.channels_last).to(dtype).div_(255.0)


def _branch(width: int, recipe: Network) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), ACTIVATIONS[behind_layers(recipe)]())


def combined_scores(scores: Tensor, kind: Kind, combine: Combine) -> Tensor:
    """The scores of K members as those of one policy.

    `sum`: `sum_k z_k`. `mean` of categorical scores: `log(mean_k softmax(z_k))`, normalised; of Q-values `mean_k z_k`:
    they are no log-probabilities, and a mean of estimates of a return estimates it too (Anschel et al. 2017,
    arXiv:1611.01929).

    Args:
        scores: [K, B, A], logits or Q-values.
        kind: `categorical` or `q`.
        combine: how.

    Returns:
        [B, A].
    """
    if combine == "sum":
        return scores.sum(0)
    if kind == "q":
        return scores.mean(0)
    return scores.log_softmax(-1).logsumexp(0) - math.log(len(scores))


def acting_parameters(network: PolicyNetwork) -> int:
    """Numbers on the path from observation to action; critics do not count."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("critic"))


def acting_flops(network: PolicyNetwork, observation_shape: Sequence[int]) -> int:
    """Floating-point operations of one decision, a multiply-add counted as two, biases and activations left out."""
    if network.members:
        return sum(acting_flops(member, observation_shape) for member in network.parts)
    total, _ = flops(network.encoder, tuple(observation_shape))
    if network.core is not None:
        total += 2 * (network.core.weight_ih.numel() + network.core.weight_hh.numel())
        total += flops(network.core_layers, (network.core.hidden_size,))[0]
    if network.branch is not None:
        total += flops(network.branch, (network.head.in_features,))[0]
    return total + 2 * network.head.weight.numel()
