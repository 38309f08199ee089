"""What is trained for the rows: each arm is one recipe with one teacher and one student, and several rows may read it.

All arms of a group learn from the same states with the same number of steps, so that they differ in one thing. 40,000
states of Pong and 1,000 steps of 256 leave a student of 62,000 parameters a little below its teacher: where all reach
it, no technique can differ from another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.techniques.parts import MISLABELLED, NEVER_FIRST
from rlkd.terms import Parts

PONG, PONG_DQN, BREAKOUT = "policy:pong", "policy:pong_dqn", "policy:breakout"
ACROBOT = "dlr_rl-trained-agents/ppo/Acrobot-v1_1/Acrobot-v1.zip"
"""Below RLKD_TEACHERS."""
SMALL = "nature_62k@width=0.5"
PLAYED = 16
"""Episodes a seed where scores are compared; thresholds.toml says why not 100."""
LOOKED = 4
"""Episodes where states that the student visits are needed, and its score is not."""
HELD_OUT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One distillation."""

    teacher: str
    """Name, or file below RLKD_TEACHERS."""
    agent: str
    """Distillation recipe."""
    overrides: tuple[str, ...]
    """Of the recipe."""
    student: str = "nature_62k"
    """Network."""
    env: str | None = None
    """Of a teacher that does not say."""
    episodes: int = PLAYED
    """Each student plays."""
    parts: Parts = field(default_factory=dict)
    """Of a loss, that the recipe does not ship."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewarded:
    """One reinforcement learning, with or without a teacher; scores are those of its last policy."""

    agent: str
    """Recipe of ours."""
    steps: str
    """Key of thresholds.toml, [budget]: agent steps."""
    teacher: str | None = None
    """None: rewards alone."""
    overrides: tuple[str, ...] = ()
    """Of the recipe."""


BUDGET = (
    "source.states=40000",
    "source.rounds=4",
    "source.num_envs=16",
    "gradient_steps=1000",
    f"held_out_states={HELD_OUT}",
    "controls=[]",
)
CONTROLS = 'controls=["hard_labels", "shuffled_teacher"]'
# Few states, of four environments: of more, only the beginnings of games would be seen.
FEW = (*BUDGET, "source.states=8000", "source.rounds=8", "source.num_envs=4")
NOISY = (*BUDGET, "source.states=2000", "source.rounds=8", "source.num_envs=4")
MISSING = {"never_first": NEVER_FIRST}
WRONG = {"mislabelled": MISLABELLED}
MISSING_ACTION = 2
"""RIGHT in Pong."""
NEVER = f'{{name="never_first", action={MISSING_ACTION}}}'
WRONG_SHARE = 0.4
WRONG_LABELS = f'{{name="mislabelled", share={WRONG_SHARE}}}'
SYNTHETIC = ("source.states=500", "source.num_envs=4", "source.epsilon=0.1", "held_out_states=5000", "controls=[]")
KL = "policy_distillation"
REWARDS = ('network="nature_62k"', "learning_rate=2e-3")
TEACHER_STAYS = "terms.0.coefficient=[[0.0, 1.0], [0.7, 1.0], [1.0, 0.1]]"
ARMS: Mapping[str, Arm | Rewarded] = {
    # Pong, 40,000 states of the teacher.
    "plain": Arm(teacher=PONG, agent=KL, overrides=(*BUDGET, CONTROLS)),
    "top_k": Arm(teacher=PONG, agent="top_k", overrides=BUDGET),
    "smoothed": Arm(teacher=PONG, agent=KL, overrides=(*BUDGET, 'terms.0.target=[{name="smooth", epsilon=0.1}]')),
    "confidence": Arm(teacher=PONG, agent="confidence_preserving", overrides=BUDGET),
    "permuted": Arm(teacher=PONG, agent="born_again_dkpp", overrides=BUDGET),
    "ippd": Arm(teacher=PONG, agent="ippd", overrides=BUDGET, episodes=LOOKED),
    "pseudo_label": Arm(
        teacher=PONG,
        agent="pseudo_label",
        overrides=(
            *BUDGET,
            'controls=["hard_labels"]',  # which learns from the asked states alone
            "terms.0.weight.share=0.025",
            "terms.1.weight.share=0.025",
        ),
        episodes=LOOKED,
    ),
    "missing_soft": Arm(
        teacher=PONG,
        agent="hinton",
        overrides=(*BUDGET, f"terms.0.weight={NEVER}", f"terms.1.weight={NEVER}"),
        episodes=LOOKED,
        parts=MISSING,
    ),
    "missing_hard": Arm(
        teacher=PONG,
        agent="policy_distillation_nll",
        overrides=(*BUDGET, f"terms.0.weight={NEVER}"),
        episodes=LOOKED,
        parts=MISSING,
    ),
    "student_driven": Arm(
        teacher=PONG, agent="dagger", overrides=(*BUDGET, "source.teacher_fraction=[0.0, 0.0]"), episodes=LOOKED
    ),
    # Pong, 8,000 states of play without random actions: the teacher is greedy, so that hard labels are what it did.
    "few_soft": Arm(teacher=PONG, agent=KL, overrides=(*FEW, "source.epsilon=0.0", CONTROLS)),
    "few_dagger": Arm(teacher=PONG, agent="dagger", overrides=(*FEW, "source.epsilon=0.0")),
    # Pong, 2,000 states, two of five labels wrong.
    "noisy_plain": Arm(
        teacher=PONG,
        agent="policy_distillation_nll",
        overrides=(*NOISY, f"terms.0.teacher={WRONG_LABELS}"),
        episodes=LOOKED,
        parts=WRONG,
    ),
    "noisy_air": Arm(
        teacher=PONG,
        agent="air",
        overrides=(*NOISY, f"terms.0.teacher={WRONG_LABELS}"),
        episodes=LOOKED,
        parts=WRONG,
    ),
    # Pong, a quarter of the student's weights.
    "small": Arm(teacher=PONG, agent=KL, student=SMALL, overrides=(*BUDGET, CONTROLS)),
    "small_stopped": Arm(teacher=PONG, agent="early_stopped_distillation", student=SMALL, overrides=BUDGET),
    # Pong, a teacher of Q-values.
    "dqn_kl": Arm(teacher=PONG_DQN, agent=KL, overrides=(*BUDGET, CONTROLS)),
    "dqn_mse": Arm(teacher=PONG_DQN, agent="policy_distillation_mse", overrides=BUDGET),
    "dqn_calibrated": Arm(teacher=PONG_DQN, agent="calibrated_teacher", overrides=BUDGET, episodes=LOOKED),
    # Breakout.
    "breakout_kl": Arm(teacher=BREAKOUT, agent=KL, overrides=(*BUDGET, 'controls=["hard_labels"]')),
    # Who never serves stands still until the frame cap, 27,000 steps a game: the shuffled teacher's student plays two.
    "breakout_shuffled": Arm(
        teacher=BREAKOUT, agent=KL, overrides=(*BUDGET, 'controls=["shuffled_teacher"]'), episodes=2
    ),
    "breakout_mse": Arm(teacher=BREAKOUT, agent="policy_distillation_mse", overrides=BUDGET),
    # Pong, rewards.
    "kickstarting": Rewarded(
        agent="kickstarting", steps="agent_steps", teacher=PONG, overrides=(*REWARDS, TEACHER_STAYS)
    ),
    "ppo": Rewarded(agent="rl/ppo", steps="agent_steps_alone", overrides=REWARDS),
    # Acrobot.
    "munge": Arm(teacher=ACROBOT, env="acrobot", agent="munge", student="mlp_16", overrides=SYNTHETIC, episodes=LOOKED),
    "uniform_box": Arm(
        teacher=ACROBOT,
        env="acrobot",
        agent="munge",
        student="mlp_16",
        overrides=(*SYNTHETIC, 'source.synthetic="uniform"'),
        episodes=LOOKED,
    ),
    "real_only": Arm(
        teacher=ACROBOT,
        env="acrobot",
        agent="classic",
        student="mlp_16",
        overrides=(*SYNTHETIC, "source.rounds=1", 'terms.0.divergence="mse"'),
        episodes=LOOKED,
    ),
}
