"""How one student learns several games, as a frozen value. Meanings stand under fields."""

from dataclasses import dataclass
from typing import Literal

from rlkd.recipe.read import require

Sampling = Literal["even", "size"]
"""How gradient steps are shared out among games."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Several games with a teacher each, and one student: a shared encoder, and for each game a head of its own."""

    sampling: Sampling = "even"
    """From which game a gradient step takes its minibatch. `even`: from all alike (Rusu et al. 2016, arXiv:1511.06295).
    `size`: in proportion to the number of their states to the power of 0.75 (BAM, Clark et al. 2019,
    arXiv:1907.04829)."""
    states: tuple[int, ...] | None = None
    """Distinct states of each game, in the order of the teachers. Unset: `source.states` of each, and `size` is then
    the same as `even`."""

    def __post_init__(self) -> None:
        require(self.states is None or min((*self.states, 1)) > 0, f"tasks.states must be above 0, got {self.states}")
