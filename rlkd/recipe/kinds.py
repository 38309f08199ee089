"""The kinds of recipe in `agents/`, as frozen values; imports have a file of their own. Meanings stand under fields.

One class a kind: `Network`, `Ppo`, `Sb3`, `Distill`, `Generations`. A TOML file names its kind in its first
key, `kind`. Values are checked here once; the rooms trust them.
"""

from dataclasses import dataclass, field
from typing import Literal

from rlkd.recipe.read import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The shape of a network: encoder, optional recurrent core, then one linear head."""

    encoder: Literal["conv", "mlp"]
    """Convolutions over pixels [C, H, W], or a plain multilayer perceptron over a vector."""
    channels: tuple[int, ...] = ()
    """Output channels of each convolution; none for an mlp."""
    kernels: tuple[int, ...] = (8, 4, 3)
    """Square kernel size of each convolution, in pixels."""
    strides: tuple[int, ...] = (4, 2, 1)
    """Stride of each convolution, in pixels."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the fully connected layers after the encoder's input or convolutions."""
    activation: Literal["relu", "tanh", "elu"] = "relu"
    """Between all layers."""
    core: Literal["none", "gru", "lstm"] = "none"
    """A recurrent core behind the hidden layers."""
    core_width: int = 128
    """Width of the recurrent core."""
    core_hidden: tuple[int, ...] | None = None
    """Widths of the fully connected layers between core and head; unset: none."""
    paddings: tuple[int, ...] | None = None
    """Zeros around each convolution's input, in pixels; unset: none."""
    pools: tuple[int, ...] | None = None
    """Square size, in pixels, of a maximum taken behind each convolution's activation; unset: none, as is size 1."""
    hidden_activation: Literal["relu", "tanh", "elu"] | None = None
    """Behind fully connected layers, where it is another than behind convolutions."""
    mean_limit: float | None = None
    """Largest absolute mean of a Gaussian policy before it is squashed; unset: none."""
    value: Literal["none", "shared", "separate"] = "none"
    """Critic: none, a head on the same features, or a network of its own with the same hidden widths."""

    def __post_init__(self) -> None:
        if self.encoder == "conv":
            same = len(self.channels) == len(self.kernels) == len(self.strides) > 0
            require(same, "channels, kernels and strides need one entry for each convolution")
            extra = [values for values in (self.paddings, self.pools) if values is not None]
            fit = all(len(values) == len(self.channels) for values in extra)
            require(fit, "paddings and pools need one entry for each convolution")
            require(min((0, *(self.paddings or ()))) == 0, "paddings must be at least 0")
            require(min((1, *(self.pools or ()))) == 1, "pools must be at least 1")
        else:
            require(
                not (self.channels or self.paddings or self.pools),
                "channels belong to encoder = 'conv', as do paddings and pools",
            )
        widths = (
            *self.channels,
            *self.kernels,
            *self.strides,
            *self.hidden,
            self.core_width,
            *(self.core_hidden or ()),
        )
        require(min(widths) > 0, "channels, kernels, strides, hidden, core_width and core_hidden must be above 0")
        require(self.core != "none" or not self.core_hidden, "core_hidden belongs to a recurrent core")
        require(self.mean_limit is None or self.mean_limit > 0, f"mean_limit must be above 0, got {self.mean_limit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ppo:
    """Proximal policy optimisation, Schulman et al. 2017, arXiv:1707.06347."""

    network: str
    """Name of a network recipe."""
    frames: int
    """Emulator frames in all (agent steps x frame skip)."""
    num_envs: int
    """Environments stepped together."""
    rollout_steps: int
    """Agent steps per environment in one rollout."""
    epochs: int
    """Passes over each rollout."""
    minibatch: int
    """Samples per gradient step."""
    learning_rate: float
    """Adam step size at the start."""
    final_learning_rate: float
    """Adam step size at the end; linear in between."""
    discount: float = 0.99
    """Discount per agent step."""
    gae_lambda: float = 0.95
    """Exponential weight of generalised advantage estimation, arXiv:1506.02438."""
    clip: float = 0.2
    """Half width of the trust interval of the probability ratio."""
    entropy_coefficient: float = 0.01
    """Weight of the policy's entropy, in nats."""
    value_coefficient: float = 0.5
    """Weight of the squared value error."""
    max_gradient_norm: float = 0.5
    """Global gradient norm after clipping."""
    clip_reward: bool = False
    """Learn from the sign of the reward; scores stay raw."""
    checkpoint_seconds: float = 60.0
    """Wall seconds between resumable checkpoints."""

    def __post_init__(self) -> None:
        for name in ("frames", "num_envs", "rollout_steps", "epochs", "minibatch", "learning_rate"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("discount", "gae_lambda"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sb3:
    """One of Stable-Baselines3's own learners, with its own hyperparameters."""

    algorithm: Literal["ppo", "a2c", "dqn"]
    """Class of stable_baselines3."""
    policy: Literal["CnnPolicy", "MlpPolicy", "auto"] = "auto"
    """auto: CnnPolicy for pixels, MlpPolicy otherwise."""
    frames: int = 100_000
    """Emulator frames in all."""
    num_envs: int = 1
    """Environments stepped together."""
    hyperparameters: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Keyword arguments of the algorithm's constructor."""

    def __post_init__(self) -> None:
        require(self.frames > 0 and self.num_envs > 0, "frames and num_envs must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which states the student learns from."""

    states: int
    """Distinct states kept in the replay."""
    rounds: int = 8
    """Collection rounds: while round k+1 is collected, students learn from rounds up to k."""
    num_envs: int = 32
    """Environments stepped together, in two fixed halves."""
    epsilon: float = 0.05
    """Chance of a uniformly random action, so that states off the acting policy's path are seen too."""
    teacher_fraction: tuple[float, float] = (1.0, 1.0)
    """Chance that the teacher, not a student, picks the action: first round, last round, linear in between.
    The teacher answers every state in any case and all rounds are kept (DAgger, arXiv:1011.0686)."""

    def __post_init__(self) -> None:
        require(self.states >= self.num_envs, "states must be at least num_envs")
        require(self.rounds >= 1 and self.num_envs >= 2, "rounds must be at least 1, num_envs at least 2")
        require(self.num_envs % 2 == 0, f"num_envs must be even (two fixed halves), got {self.num_envs}")
        require(0 <= self.epsilon <= 1, f"epsilon must be in [0, 1], got {self.epsilon}")
        require(
            all(0 <= fraction <= 1 for fraction in self.teacher_fraction),
            f"teacher_fraction must be in [0, 1], got {list(self.teacher_fraction)}",
        )
        require(self.teacher_fraction[0] == 1 or self.rounds > 1, "a falling teacher_fraction needs rounds > 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of the loss: coefficient x divergence(target, student)."""

    divergence: Literal["forward_kl", "cross_entropy", "mse"]
    """`forward_kl`: KL(teacher || student). `cross_entropy`: negative log-likelihood of the teacher's greedy
    action (label H1). `mse`: squared error of the outputs, logits centred first."""
    coefficient: float = 1.0
    """Weight of this term."""
    teacher_temperature: float | None = None
    """Softmax temperature of the teacher; unset: 0.01 for Q-values (arXiv:1511.06295), 1 for logits."""
    student_temperature: float = 1.0
    """Softmax temperature of the student."""
    scale: float = 1.0
    """Multiplies the divergence; Hinton et al. (arXiv:1503.02531) use temperature squared."""

    def __post_init__(self) -> None:
        for value in (self.teacher_temperature, self.student_temperature):
            require(value is None or value > 0, f"temperatures must be above 0, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distill:
    """Everything one distillation run needs besides teacher, environment and students."""

    source: Source
    """Which states."""
    terms: tuple[Term, ...]
    """The loss, summed."""
    gradient_steps: int
    """Gradient steps of each student, over all rounds."""
    students: tuple[str, ...]
    """Network recipes of the students, where the caller names none; the controls copy the first."""
    batch_size: int = 256
    """Samples per gradient step."""
    learning_rate: float = 1e-3
    """Adam step size at the start; falls linearly to zero."""
    controls: tuple[Literal["hard_labels", "shuffled_teacher"], ...] = ("hard_labels", "shuffled_teacher")
    """Extra students with the first student's network at the same budget."""
    held_out_states: int = 4096
    """States per player on which agreement and KL are reported; never trained on."""

    def __post_init__(self) -> None:
        require(len(self.terms) > 0, "at least one [[terms]] is needed")
        for name in ("gradient_steps", "batch_size", "learning_rate", "held_out_states"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generations:
    """How one generation makes the next."""

    operator: Literal["fresh"]
    """`fresh`: a new student with new initial weights learns from its predecessor (arXiv:1805.04770)."""
    distill: str | None = None
    """Name of the distillation recipe that every generation runs; none takes what `rlkd distill` would."""
    student: str = "same"
    """Network recipe of the students; `same` takes the teacher's."""
    generations: int = 3
    """How many students in a row."""

    def __post_init__(self) -> None:
        require(self.generations >= 1, f"generations must be at least 1, got {self.generations}")
