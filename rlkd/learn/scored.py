"""A bonus for a learner: made, asked about a rollout, kept in checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rlkd.errors import MismatchError, OtherRunError, StorageError
from rlkd.explore import Novelty, Steps, warm_up
from rlkd.learn.guard import check_finite
from rlkd.learn.rollout import Rollout
from rlkd.learn.training import Training
from rlkd.policy import PolicySpec
from rlkd.policy.tensors import below, moments_of, put_moments_back
from rlkd.recipe import Dqn, Ppo, Stream
from rlkd.vector import Stepper, normalises_rewards

PREFIX = "bonus."  # of a bonus's tensors in a checkpoint
MOMENTS = "bonus_moments."  # of its own optimiser's


def make_bonus(spec: PolicySpec, agent: Ppo | Dqn, *, seed: int, device: torch.device) -> Novelty | None:
    """The bonus that the recipe wants, with weights from a seed, on a device; None where it wants none.

    Raises:
        MismatchError: the bonus cannot read these observations or actions, or the environment scales its rewards.
    """
    if agent.bonus is None:
        return None
    assert spec.environment is not None
    if normalises_rewards(spec.environment):
        raise MismatchError(
            f"{spec.environment.id} divides its rewards by a deviation of its own (NormalizeReward): beside a bonus, "
            "which is scaled here, the weight of the two would drift; make the environment without that wrapper"
        )
    bonus = Novelty(
        agent.bonus,
        spec.environment.views.get("pixels"),
        spec.observation_shape,
        None if spec.kind == "gaussian" else spec.actions,
        num_envs=agent.num_envs,
        rollout_steps=agent.rollout_steps if isinstance(agent, Ppo) else 1,  # asked for over environments alone
    )
    bonus.initialise(torch.Generator().manual_seed(seed + 6))
    return bonus.to(device)


def first_look(bonus: Novelty, steppers: Sequence[Stepper], training: Training) -> None:
    """Let the whitening begin with random play; the run's seed says which. Stopped on a signal."""
    for played in warm_up(bonus, steppers, np.random.default_rng([training.progress.seed, 5])):
        training.bar.update(0, f"random play for the whitening: {played:,} of {bonus.warm_up_steps:,}")
        training.stop.check(f"run {training.run} had not begun to learn; the same command begins again")


@torch.no_grad()
def scored(
    bonus: Novelty, rollout: Rollout, streams: Sequence[Stream], *, where: str
) -> tuple[Rollout, Steps | None, dict[str, float]]:
    """Fill in the rewards of the bonus, and let it see the rollout.

    Old statistics give the bonus; then the rollout's own observations enter them; the predictor learns with new ones.

    Args:
        bonus: changes.
        rollout: as it was sampled.
        streams: rewards in order; one of them is the bonus's.
        where: of the run, for messages.

    Returns:
        The rollout with rewards; its T * N steps, where they are to be learnt from; figures by TensorBoard tag.

    Raises:
        NotFiniteError: the bonus is NaN or infinite.
    """
    valid = rollout.valid
    steps = bonus.steps(rollout.observation, rollout.action, rollout.first, rollout.ended)
    raw = bonus.bonus(steps, valid.flatten()).view(valid.shape)
    check_finite({"bonus": raw}, where=where)
    bonus.seen.update(bonus.look(rollout.observation[:-1])[bonus.looked(valid, rollout.ended)])
    scaled = bonus.scaling.scale(raw, valid)
    columns = [scaled if s.reward == "bonus" else rollout.reward[..., k] for k, s in enumerate(streams)]
    told = figures_of(bonus, raw, scaled, valid)
    return replace(rollout, reward=torch.stack(columns, dim=-1)), steps if bonus.learning else None, told


def figures_of(bonus: Novelty, raw: Tensor, scaled: Tensor, valid: Tensor) -> dict[str, float]:
    """What curves tell of a bonus, by TensorBoard tag; all of one shape, 0 where a step is not valid."""
    count = valid.sum().clamp(min=1)
    figures = {"raw": raw.sum() / count, "scaled": scaled.sum() / count}
    figures["deviation"] = bonus.scaling.sums.deviation()
    return {f"bonus/{name}": float(value) for name, value in figures.items()}


def state_of(bonus: Novelty | None, optimiser: torch.optim.Optimizer | None = None) -> dict[str, Tensor]:
    """All that a bonus remembers, for a checkpoint, and its optimiser's moments, where it has one of its own."""
    state = {} if bonus is None else {f"{PREFIX}{name}": tensor for name, tensor in bonus.state_dict().items()}
    moments = {} if optimiser is None else moments_of(optimiser)
    return state | {f"{MOMENTS}{name}": tensor for name, tensor in moments.items()}


def put_back(
    bonus: Novelty | None,
    tensors: Mapping[str, Tensor],
    *,
    run: str,
    optimiser: torch.optim.Optimizer | None = None,
) -> None:
    """Let a bonus, and its optimiser where it has one of its own, remember what `state_of` took.

    Raises:
        StorageError: the checkpoint has no state of a bonus where there is one now, or the other way about, or
            another one's.
    """
    found = below(tensors, PREFIX)
    if (bonus is None) != (not found):
        had = "with" if found else "without"
        raise OtherRunError(f"{run} holds a run {had} a bonus")
    if bonus is not None:
        try:
            bonus.load_state_dict(found)
            if optimiser is not None:
                put_moments_back(below(tensors, MOMENTS), optimiser)
        except (RuntimeError, ValueError) as error:
            message = str(error).splitlines()[-1].strip()
            raise StorageError(f"{run}: its checkpoint does not fit this bonus: {message}") from None
