"""A rollout with the reward that a bonus gives its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlkd.errors import StorageError
from rlkd.explore import Rnd
from rlkd.learn.guard import check_finite
from rlkd.learn.rollout import Rollout
from rlkd.policy.tensors import below
from rlkd.recipe import Stream

PREFIX = "bonus."  # of a bonus's tensors in a checkpoint


@torch.no_grad()
def scored(
    bonus: Rnd, rollout: Rollout, streams: Sequence[Stream], *, where: str
) -> tuple[Rollout, Tensor, dict[str, float]]:
    """Fill in the rewards of the bonus, and let it see the rollout.

    Old statistics give the bonus; then the rollout's own observations enter them; the predictor learns with new ones.

    Args:
        bonus: changes.
        rollout: as it was sampled.
        streams: rewards in order; one of them is the bonus's.
        where: of the run, for messages.

    Returns:
        The rollout with rewards; [T * N, ...] what the predictor is to learn from; figures by TensorBoard tag.

    Raises:
        NotFiniteError: the bonus is NaN or infinite.
    """
    valid = rollout.valid
    arrived = bonus.arrivals(rollout.observation, rollout.first, rollout.ended)
    raw = bonus.bonus(arrived.flatten(0, 1)).view(valid.shape)
    check_finite({"bonus": raw}, where=where)
    acted_on = bonus.look(rollout.observation[:-1])
    bonus.seen.update(acted_on[valid])
    scaled = bonus.scaling.scale(raw, valid)
    columns = [scaled if s.reward == "bonus" else rollout.reward[..., k] for k, s in enumerate(streams)]
    count = valid.sum().clamp(min=1)
    figures = {"raw": (raw * valid).sum() / count, "scaled": scaled.sum() / count}
    figures["deviation"] = bonus.scaling.sums.deviation()
    looked_at = arrived if bonus.recipe.learns_from == "arrived" else acted_on
    return (
        replace(rollout, reward=torch.stack(columns, dim=-1)),
        looked_at.flatten(0, 1),
        {f"bonus/{name}": float(value) for name, value in figures.items()},
    )


def state_of(bonus: Rnd | None) -> dict[str, Tensor]:
    """All that a bonus remembers, for a checkpoint; nothing where there is none."""
    return {} if bonus is None else {f"{PREFIX}{name}": tensor for name, tensor in bonus.state_dict().items()}


def put_back(bonus: Rnd | None, tensors: Mapping[str, Tensor], *, run: str) -> None:
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
