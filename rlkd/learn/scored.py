"""A rollout with the reward that a bonus gives its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlkd.errors import StorageError
from rlkd.explore import Novelty, Steps
from rlkd.learn.guard import check_finite
from rlkd.learn.rollout import Rollout
from rlkd.policy.tensors import below
from rlkd.recipe import Stream

PREFIX = "bonus."  # of a bonus's tensors in a checkpoint


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
    count = valid.sum().clamp(min=1)
    figures = {"raw": raw.sum() / count, "scaled": scaled.sum() / count}
    figures["deviation"] = bonus.scaling.sums.deviation()
    told = {f"bonus/{name}": float(value) for name, value in figures.items()}
    return replace(rollout, reward=torch.stack(columns, dim=-1)), steps if bonus.learning else None, told


def state_of(bonus: Novelty | None) -> dict[str, Tensor]:
    """All that a bonus remembers, for a checkpoint; nothing where there is none."""
    return {} if bonus is None else {f"{PREFIX}{name}": tensor for name, tensor in bonus.state_dict().items()}


def put_back(bonus: Novelty | None, tensors: Mapping[str, Tensor], *, run: str) -> None:
    """Let a bonus remember what `state_of` took.

    Raises:
        StorageError: the checkpoint has no state of a bonus where there is one now, or the other way about, or
            another one's.
    """
    found = below(tensors, PREFIX)
    if (bonus is None) != (not found):
        had = "with" if found else "without"
        raise StorageError(
            f"{run} holds a run {had} a bonus; repeat its command to go on with it, or name another --run"
        )
    if bonus is not None:
        try:
            bonus.load_state_dict(found)
        except RuntimeError as error:
            message = str(error).splitlines()[-1].strip()
            raise StorageError(f"{run}: its checkpoint does not fit this bonus: {message}") from None
