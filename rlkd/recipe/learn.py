"""How a policy is made by reinforcement learning: recipes as frozen values. Meanings stand under fields.

A recipe says what is learnt, never how a machine does it: devices, threads and precision are not in it.
"""

from dataclasses import dataclass, field
from typing import Literal

from rlkd.recipe.bonus import Bonus
from rlkd.recipe.read import require
from rlkd.recipe.schedule import Points, check_schedule
from rlkd.recipe.term import Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One reward that policy-gradient learning follows: a return, a value head and a share in the advantage of its own.

    Several streams with two discounts and one of them running on over the ends of episodes are what random network
    distillation learns from (Burda et al. 2018, arXiv:1810.12894, section 2.3).
    """

    name: str = "game"
    """What curves call it."""
    reward: Literal["game", "bonus", "teacher"] = "game"
    """The environment's reward, what `[bonus]` gives for new states, or minus the loss that `[[terms]]` say of the
    state: with the last, who learns avoids states in which it will be unlike its teacher (Czarnecki et al. 2019,
    arXiv:1902.02186)."""
    sign: bool = False
    """Learn from the sign of the reward; scores stay raw."""
    discount: float = 0.99
    """Discount per agent step."""
    gae_lambda: float = 0.95
    """Exponential weight of generalised advantage estimation, arXiv:1506.02438."""
    episodic: bool = True
    """The return ends with the episode; otherwise it runs on over episodes, as if play never stopped."""
    coefficient: float = 1.0
    """Weight of this stream's advantage in the sum."""

    def __post_init__(self) -> None:
        for name in ("discount", "gae_lambda"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1], got {getattr(self, name)}")
        require(not self.sign or self.reward == "game", "sign belongs to reward = 'game'; no other is clipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ppo:
    """Proximal policy optimisation, Schulman et al. 2017, arXiv:1707.06347."""

    network: str
    """Name of a network recipe, with or without scales: `nature`, `nature@width=0.5`."""
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
    streams: tuple[Stream, ...] = (Stream(),)
    """Rewards that are learnt from; each has a value head."""
    bonus: Bonus | None = None
    """Where the reward of a stream with `reward = "bonus"` comes from."""
    terms: tuple[Term, ...] | None = None
    """What is learnt from a teacher, beside the rewards; progress in their schedules is the run's. Unset: nothing."""
    policy_coefficient: float | Points | None = None
    """Weight of the surrogate loss beside terms; or points [share of the run, weight], with straight lines between
    them. At 0 the critic alone learns from rewards. Unset: 1."""
    teacher_value_coefficient: float | Points | None = None
    """Weight of half the squared difference to the values of the teacher's critic, beside terms; or points, as above.
    For teachers that learnt by the same streams. Unset: critics learn from rewards alone."""
    clip: float = 0.2
    """Half width of the trust interval of the probability ratio."""
    entropy_coefficient: float = 0.01
    """Weight of the policy's entropy, in nats."""
    value_coefficient: float = 0.5
    """Weight of the squared value error."""
    max_gradient_norm: float | None = None
    """Global gradient norm after clipping, over policy, critic and a bonus's predictor; unset: gradients stay as they
    are."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon, in the unit of a gradient."""
    normalise_advantages: bool = True
    """Give the advantages of each minibatch mean 0 and deviation 1."""
    minibatches: Literal["shuffled", "environments"] = "shuffled"
    """Steps at random, new ones in each epoch; or whole environments, always the same ones."""
    vtrace: bool = True
    """Weigh rollouts that lag behind the weights as V-trace does (Espeholt et al. 2018, arXiv:1802.01561): one more
    forward pass a rollout."""
    checkpoint_seconds: float = 60.0
    """Wall seconds between resumable checkpoints."""

    def __post_init__(self) -> None:
        for name in ("frames", "num_envs", "rollout_steps", "epochs", "minibatch", "learning_rate"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")
        norm = self.max_gradient_norm
        require(norm is None or norm > 0, f"max_gradient_norm must be above 0, got {norm}")
        require(self.adam_epsilon > 0, f"adam_epsilon must be above 0, got {self.adam_epsilon}")
        check_schedule(1.0 if self.policy_coefficient is None else self.policy_coefficient, "policy_coefficient")
        check_schedule(self.teacher_value_coefficient or 0.0, "teacher_value_coefficient")
        for name in ("policy_coefficient", "teacher_value_coefficient"):
            taught = bool(self.terms) or getattr(self, name) is None
            require(taught, f"{name} belongs to recipes with [[terms]]")
        names = [stream.name for stream in self.streams]
        require(len(names) > 0, "at least one [[streams]] is needed")
        require(len(set(names)) == len(names), f"streams need names of their own, got {names}")
        wanting = sum(stream.reward == "bonus" for stream in self.streams)
        require(
            bool(self.terms) or all(stream.reward != "teacher" for stream in self.streams),
            "a stream with reward = 'teacher' needs [[terms]]",
        )
        require(
            wanting == (self.bonus is not None),
            "[bonus] and one of [[streams]] with reward = 'bonus' belong together; "
            f"{'there is a' if self.bonus else 'no'} [bonus], and {wanting} such streams",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dqn:
    """Deep Q-learning, Mnih et al. 2015, and what came after it, each part behind a switch of its own."""

    network: str
    """Name of a network recipe; its head is replaced."""
    frames: int
    """Emulator frames in all (agent steps x frame skip)."""
    num_envs: int
    """Environments stepped together, in two fixed halves."""
    states: int
    """States kept in the replay, over all environments; the oldest are overwritten."""
    learning_starts: int
    """Agent steps, over all environments, that are played before the first gradient step."""
    train_every: int
    """Agent steps, over all environments, for each gradient step."""
    target_every: int
    """Gradient steps between two copies of the weights into the target network."""
    batch: int
    """Transitions in one gradient step."""
    learning_rate: float
    """Adam step size."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon, in the unit of a gradient."""
    max_gradient_norm: float | None = None
    """Global gradient norm after clipping, of the network and of a bonus's model each; unset: gradients stay as they
    are."""
    discount: float = 0.99
    """Discount per agent step."""
    sign: bool = False
    """Learn from the sign of the reward; scores stay raw."""
    double: bool = True
    """The learner picks the next action, the target network values it: van Hasselt et al. 2015, arXiv:1509.06461."""
    duelling: bool = False
    """A state's value and the actions' advantages from hidden layers of their own: Wang et al. 2015,
    arXiv:1511.06581."""
    n_step: int = 1
    """Rewards, one an agent step, that are added up before bootstrapping."""
    prioritised: bool = False
    """Draw transitions in proportion to their last error: Schaul et al. 2015, arXiv:1511.05952."""
    alpha: float = 0.5
    """Power of the error in a priority; only where `prioritised`."""
    beta: float = 0.4
    """Power of the importance weights at the start, 1 at the end, linear in between; only where `prioritised`."""
    quantiles: int = 0
    """Quantiles of the return that each action has (QR-DQN, Dabney et al. 2017, arXiv:1710.10044); 0 learns the mean
    alone, as DQN does."""
    epsilon_start: float = 1.0
    """Chance of a uniformly random action at the start."""
    epsilon_end: float = 0.01
    """The same at the end of its fall, and from there on."""
    epsilon_fraction: float = 0.1
    """Share of the run in which it falls, linearly."""
    terms: tuple[Term, ...] | None = None
    """What is learnt from a teacher, beside the rewards; progress in their schedules is the run's. Unset: nothing."""
    teacher_steps: int | None = None
    """Agent steps at the start in which the teacher acts; goes with `terms`. Unset: none."""
    bonus: Bonus | None = None
    """A reward for what is new beside the game's, asked for anew whenever a transition is drawn. One value follows
    both: what comes out values states by the game's reward and what bonus was left at the end."""
    bonus_coefficient: float | None = None
    """Weight of the scaled bonus beside the game's reward; goes with `[bonus]`."""
    checkpoint_seconds: float = 60.0
    """Wall seconds between resumable checkpoints."""

    def __post_init__(self) -> None:
        counts = ("frames", "states", "train_every", "target_every", "batch", "n_step")
        for name in (*counts, "learning_rate", "adam_epsilon"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")
        shares = ("discount", "alpha", "beta", "epsilon_start", "epsilon_end", "epsilon_fraction")
        for name in shares:
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1], got {getattr(self, name)}")
        taught = bool(self.terms) or self.teacher_steps is None
        require(taught, "teacher_steps belongs to recipes with [[terms]]")
        require(self.quantiles >= 0, f"quantiles must be at least 0, got {self.quantiles}")
        norm = self.max_gradient_norm
        require(norm is None or norm > 0, f"max_gradient_norm must be above 0, got {norm}")
        halves = self.num_envs >= 2 and self.num_envs % 2 == 0
        require(halves, f"num_envs must be even and at least 2 (two fixed halves), got {self.num_envs}")
        weight = self.bonus_coefficient
        require(weight is None or weight >= 0, f"bonus_coefficient must be at least 0, got {weight}")
        require((weight is None) == (self.bonus is None), "[bonus] and bonus_coefficient belong together")
        if self.bonus is not None:
            # A memory holds what each step led to, and lines of environments that go on.
            final = self.bonus.terminal == "final" and self.bonus.filter_over == "time"
            require(final, "a bonus of a value learner takes terminal = 'final' and filter_over = 'time'")
        least = self.num_envs * (self.n_step + 1)
        require(
            least <= self.learning_starts <= self.states,
            f"learning_starts must be between num_envs x (n_step + 1) = {least} and states = {self.states}, "
            f"got {self.learning_starts}",
        )


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
