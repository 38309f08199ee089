"""What a policy is, apart from its weights: the record that travels in its file."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlkd.errors import RecipeError
from rlkd.policy.rule import Kind, Rule
from rlkd.recipe import Environment, Network

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Normaliser:
    """Whitens vector observations: `clip((x - mean) / sqrt(variance + epsilon), -limit, limit)`."""

    mean: tuple[float, ...]
    """[D]."""
    variance: tuple[float, ...]
    """[D]."""
    limit: float = 10.0
    """Largest absolute value that the network sees."""
    epsilon: float = 1e-8
    """Added to the variance."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.variance):
            raise RecipeError("mean and variance must have one length")

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Whitened float32 observations, [..., D], computed in float64."""
        centred = observation.astype(np.float64) - np.array(self.mean)
        white = centred / np.sqrt(np.array(self.variance) + self.epsilon)
        clipped: np.ndarray = np.clip(white, -self.limit, self.limit).astype(np.float32)
        return clipped


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """Everything about a policy but its weights."""

    name: str
    """What tables call it."""
    kind: Kind
    """What the network's output means."""
    network: Network
    """Its shape."""
    observation_shape: tuple[int, ...]
    """[C, H, W] for pixels, [D] for vectors."""
    observation_dtype: Literal["uint8", "float32"]
    """As the environment gives it."""
    actions: int
    """Number of discrete actions, or of action dimensions."""
    rule: Rule
    """How it picks actions unless asked otherwise."""
    action_low: tuple[float, ...] = ()
    """[D], lower bounds of continuous actions."""
    action_high: tuple[float, ...] = ()
    """[D], upper bounds of continuous actions."""
    action_meanings: tuple[str, ...] = ()
    """Names of the discrete actions, in order."""
    environment: Environment | None = None
    """The recipe it was made for, in full; None when nobody said."""
    normaliser: Normaliser | None = None
    """Applied to observations before the network."""
    precision: Literal["float32", "float16"] = "float32"
    """How weights are stored; acting is always in float32."""
    origin: str = ""
    """How it came to be, for example "rlkd train pong --agent ppo"."""
    parents: tuple[str, ...] = ()
    """Content hashes of the policies it learned from."""
    parameters: int = 0
    """Numbers on the path from observation to action."""
    weight_bytes: int = 0
    """Bytes of those numbers as stored."""
    flops: int = 0
    """Floating-point operations of one decision."""
    hash: str = ""
    """SHA-256 over weights and everything above."""

    @property
    def discrete(self) -> bool:
        """Whether actions are choices rather than vectors."""
        return self.kind in ("categorical", "q")
