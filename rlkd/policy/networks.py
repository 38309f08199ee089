"""Networks: one definition for teacher and student, built from a `Network` recipe.

observation -> scale -> encoder -> hidden layers -> optional recurrent core and layers -> linear head (and a critic).
The four networks of Policy Distillation (Rusu et al., arXiv:1511.06295) are `conv` with 1,693,362, 427,874,
113,346 and 61,954 parameters at 18 actions.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkd.errors import MismatchError
from rlkd.losses import NO_NOISE
from rlkd.policy.output import Output
from rlkd.policy.rule import PARAMS, Kind
from rlkd.recipe import Network

CORES: dict[str, type[nn.GRUCell] | type[nn.LSTMCell]] = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
LOG_STD_BOUNDS = (NO_NOISE, 2.0)  # of squashed Gaussians, as in SAC (Haarnoja et al. 2018, arXiv:1812.05905)
MIN_DEVIATION = 1e-3  # a unit that answers the same to all states is not blown up more than this allows


class PolicyNetwork(nn.Module):
    """[B, *observation] -> `Output`.

    uint8 pixels [B, C, H, W] are scaled to [0, 1]; float pictures and vectors [B, D] pass as they are (whiten before).
    """

    def __init__(self, recipe: Network, observation_shape: Sequence[int], kind: Kind, actions: int) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.actions = actions
        self.pixels = recipe.encoder == "conv"
        shape = tuple(observation_shape)
        if self.pixels != (len(shape) == 3):
            raise MismatchError(f"encoder '{recipe.encoder}' cannot read observations of shape {list(shape)}")
        self.encoder, width = _encoder(recipe, shape)
        self.core = CORES[recipe.core](width, recipe.core_width) if recipe.core != "none" else None
        width = recipe.core_width if self.core is not None else width
        self.core_layers, width = _fully_connected(recipe.core_hidden or (), width, _behind_layers(recipe))
        state_independent = kind == "gaussian"  # as in PPO implementations: one log_std per action dimension
        outputs = actions if state_independent else actions * len(PARAMS[kind])
        self.head = nn.Linear(width, outputs)
        self.log_std = nn.Parameter(torch.zeros(actions)) if state_independent else None
        self.mean_limit = recipe.mean_limit if kind in ("gaussian", "squashed_gaussian") else None
        self.critic_encoder: nn.Module | None = None
        self.critic: nn.Linear | None = None
        if recipe.value == "shared":
            self.critic = nn.Linear(width, recipe.value_heads or 1)
        elif recipe.value == "separate":
            self.critic_encoder, critic_width = _encoder(recipe, shape)
            self.critic = nn.Linear(critic_width, recipe.value_heads or 1)

    def forward(self, observation: Tensor, state: Tensor | None = None) -> Output:
        """The answer to one batch.

        Args:
            observation: [B, *observation_shape], uint8 for pixels, float32 for vectors.
            state: [B, S] recurrent state, zeros at the start of an episode; None for feed-forward networks.
        """
        x = self._scaled(observation)
        features, state = self._remember(self.encoder(x), state)
        return self._answer(x, features, state)

    @property
    def state_width(self) -> int:
        """S, numbers of the recurrent state; 0 of feed-forward networks."""
        if self.core is None:
            return 0
        return self.core.hidden_size * (2 if isinstance(self.core, nn.LSTMCell) else 1)

    def unroll(self, observation: Tensor, first: Tensor, state: Tensor | None = None) -> Output:
        """The answers to B sequences of T observations.

        Args:
            observation: [B, T, *observation_shape].
            first: [B, T] bool, the observation begins an episode: what was remembered is forgotten.
            state: [B, S] before the first observation; None: zeros.

        Returns:
            Parameters, value and features of [B * T] rows, sequence by sequence; the state [B, S] after the last.
        """
        x = self._scaled(observation.flatten(0, 1))
        encoded = self.encoder(x).unflatten(0, first.shape)
        by_step = []
        for t in range(first.shape[1]):
            state = None if state is None else state * ~first[:, t, None]
            features, state = self._remember(encoded[:, t], state)
            by_step.append(features)
        return self._answer(x, torch.stack(by_step, 1).flatten(0, 1), state)

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
            features = features.to(self.head.weight.dtype)
            raw = self.head(features)
            value = None if self.critic is None else self.critic(seen.to(features.dtype))
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
        so that the first policy is uniform, and the critic at gain 1 (Huang et al. 2022, 37 details of PPO).
        """
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
        if self.critic is not None:
            nn.init.orthogonal_(self.critic.weight, 1.0, generator=generator)

    @torch.no_grad()
    def standardise(self, observation: Tensor) -> None:
        """Scale and shift the encoder's fresh units so that each answers with mean 0 and deviation 1 to some states.

        Consecutive pictures differ in a few pixels: units drawn without looking answer nearly the same to all states,
        nothing in four of ten cases, and more of them die in the first steps. What pixels and ReLU give on is never
        negative, so their weights are centred first: the picture's common brightness then moves no unit.

        Args:
            observation: [B, *observation_shape] as for `forward`, some hundred states.

        Source: data-dependent initialisation of Salimans and Kingma 2016, arXiv:1602.07868, section 3.
        """
        x = self._scaled(observation)
        for module in self.encoder:
            if isinstance(module, nn.Conv2d | nn.Linear):
                incoming = tuple(range(1, module.weight.dim()))
                if self.pixels:
                    module.weight -= module.weight.mean(incoming, keepdim=True)
                by_unit = module(x).transpose(0, 1).flatten(1)
                deviation = by_unit.std(1).clamp_min(MIN_DEVIATION)
                module.weight /= deviation.view(-1, *(1 for _ in incoming))
                bias: Tensor = module.bias  # type: ignore[assignment]  # our layers all have one
                bias.sub_(by_unit.mean(1)).div_(deviation)
            x = module(x)

    def _scaled(self, observation: Tensor) -> Tensor:
        if observation.dtype != torch.uint8:
            return observation
        device, dtype = observation.device.type, self.head.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        # Dividing, not multiplying by 1/255: the same bits as Stable-Baselines3.
        return observation.to(dtype).div_(255.0).contiguous(memory_format=torch.channels_last)


def acting_parameters(network: PolicyNetwork) -> int:
    """Numbers on the path from observation to action; critics do not count."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("critic"))


def acting_flops(network: PolicyNetwork, observation_shape: Sequence[int]) -> int:
    """Floating-point operations of one decision, a multiply-add counted as two, biases and activations left out."""
    flops = 0
    shape = tuple(observation_shape)
    for module in network.encoder:
        if isinstance(module, nn.Conv2d):
            height, width = (_size_after(module, size) for size in shape[1:])
            shape = (module.out_channels, height, width)
            flops += 2 * height * width * module.weight.numel()
        elif isinstance(module, nn.MaxPool2d):
            shape = (shape[0], *(_size_after(module, size) for size in shape[1:]))
        elif isinstance(module, nn.Linear):
            flops += 2 * module.weight.numel()
    if network.core is not None:
        flops += 2 * (network.core.weight_ih.numel() + network.core.weight_hh.numel())
        flops += sum(2 * layer.weight.numel() for layer in network.core_layers if isinstance(layer, nn.Linear))
    return flops + 2 * network.head.weight.numel()


def _encoder(recipe: Network, shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Convolutions and hidden layers, and the width of what comes out."""
    layers: list[nn.Module] = []
    activation = ACTIVATIONS[recipe.activation]
    if recipe.encoder == "conv":
        channels, height, width = shape
        paddings = recipe.paddings or (0,) * len(recipe.channels)
        pools = recipe.pools or (1,) * len(recipe.channels)
        for out, kernel, stride, padding, pool in zip(
            recipe.channels, recipe.kernels, recipe.strides, paddings, pools, strict=True
        ):
            new: list[nn.Conv2d | nn.MaxPool2d] = [nn.Conv2d(channels, out, kernel, stride, padding)]
            layers += [new[0], activation()]
            if pool > 1:
                new.append(nn.MaxPool2d(pool))
                layers.append(new[1])
            channels = out
            for layer in new:
                height, width = _size_after(layer, height), _size_after(layer, width)
            if min(height, width) < 1:
                raise MismatchError(f"observations of shape {list(shape)} are too small for these convolutions")
        layers.append(nn.Flatten())
        size = channels * height * width
    else:
        size = shape[0]
    connected, width = _fully_connected(recipe.hidden, size, _behind_layers(recipe))
    return nn.Sequential(*layers, *connected), width


def _size_after(layer: nn.Conv2d | nn.MaxPool2d, size: int) -> int:
    """Rows or columns of what a square layer makes of so many."""
    kernel, stride, padding = (
        int(value[0] if isinstance(value, tuple) else value)
        for value in (layer.kernel_size, layer.stride, layer.padding)
    )
    return (size + 2 * padding - kernel) // stride + 1


def _behind_layers(recipe: Network) -> str:
    return recipe.hidden_activation or recipe.activation


def _fully_connected(widths: Sequence[int], size: int, activation: str) -> tuple[nn.Sequential, int]:
    """Linear layers with an activation behind each, and the width of what comes out."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(size, width), ACTIVATIONS[activation]()]
        size = width
    return nn.Sequential(*layers), size
