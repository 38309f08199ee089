"""What a term is put together from: functions of tensors, each with a note of what it reads and gives.

A part of one's own is such a record around a function, passed to `rlkd.distill(..., parts={"name": record})`. Numbers
that a recipe sets are the function's keyword-only arguments; their defaults are the recipe's.

Shapes: B samples, K teachers, A discrete actions, F features, P numbers in an answer.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_type_hints

from torch import Tensor

from rlkd.errors import RecipeError
from rlkd.policy import Kind
from rlkd.recipe import Part, convert, suggest

Space = Literal["scores", "probabilities"]
"""What [B, A] numbers mean: scores are logits or Q-values."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known about B states before the student is asked; a part says by name which of it it needs."""

    every_score: Tensor
    """[B, K, A]: the logits or Q-values of K teachers; of continuous policies whole answers, [B, K, P]."""
    every_probability: Tensor
    """[B, K, A]: softmax of the scores at the temperature of the teachers' kind; of continuous policies the scores."""
    action: Tensor | None = None
    """[B] int64: what was really done there."""
    familiarity: Tensor | None = None
    """[B]: how like the rest of the replay each state is, 1 on average."""
    fitted: Tensor | None = None
    """[]: the temperature at which the teacher's scores make most likely what it did."""
    luck: Tensor | None = None
    """[B]: uniform in [0, 1), drawn anew for every minibatch."""
    noise: Tensor | None = None
    """[B, A]: uniform in [0, 1), drawn anew for every minibatch."""
    lot: Tensor | None = None
    """[B]: uniform in [0, 1), drawn once for each state: the same whenever it is learnt from, for every student."""
    last_round: Tensor | None = None
    """[B, A]: the probabilities of the student as it was when the round began."""
    moving_average: Tensor | None = None
    """[B, A]: those of the moving average of its weights."""
    demonstrated: Tensor | None = None
    """[B]: beside a value learner, 1 where the teacher acted and 0 elsewhere."""
    ratio: Tensor | None = None
    """[B]: beside PPO, the probability of what was done under who learns, over that under who acted."""
    advantage: Tensor | None = None
    """[B]: discounted rewards that followed, less their mean over the replay, over their deviation."""
    head: Tensor | None = None
    """[A, F]: the first teacher's last weights, one row an action."""

    @property
    def scores(self) -> Tensor:
        """[B, A]: the first teacher's scores."""
        return self.every_score[:, 0]

    @property
    def probabilities(self) -> Tensor:
        """[B, A]: the first teacher's probabilities."""
        return self.every_probability[:, 0]


FIELDS = frozenset({field.name for field in fields(Sample)} | {"scores", "probabilities"})
"""Names of all that a part can read."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who answers: from what is known of the states to the first form of the target."""

    function: Callable[..., Tensor]
    """Takes what it `needs`, gives [B, A]."""
    gives: Space
    """What that is."""
    needs: tuple[str, ...]
    """Fields of `Sample`, in the order of the arguments."""
    one_hot: bool = False
    """Whether actions have probability 0 by its nature."""
    of: tuple[Kind, ...] = ("q", "categorical")
    """Which kinds of answers it can be given."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is done to an answer."""

    function: Callable[..., Tensor]
    """Takes [B, A] and what it `needs`, gives [B, A] probabilities."""
    takes: Space = "probabilities"
    """What it wants to be given."""
    needs: tuple[str, ...] = ()
    """Fields of `Sample`, in the order of the further arguments."""
    one_hot: bool | None = None
    """Whether actions have probability 0 behind it; None: as before it."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a student is from a target."""

    function: Callable[..., Tensor]
    """Takes target [B, A] and student [B, A], gives [B]."""
    target: Space = "probabilities"
    """What the target is to be. Scores are centred unless they are Q-values to Q-values."""
    student: Literal["scores", "log_probabilities"] = "log_probabilities"
    """What it takes of the student."""
    whole_support: bool = False
    """Whether a target's probability of 0 makes it meaningless."""
    gaussian: Callable[..., Tensor] | None = None
    """The same of diagonal Gaussians, from mean and log_std of the teacher and of the student, [B, D] each."""


@dataclass(frozen=True, slots=True)
class Weight:
    """Which states count how much."""

    function: Callable[..., Tensor]
    """Takes what it `needs`, gives [B]."""
    needs: tuple[str, ...]
    """Fields of `Sample`, in the order of the arguments."""
    discrete: bool = True
    """Whether it needs discrete actions."""


AnyPart = Teacher | Target | Divergence | Weight
Parts = Mapping[str, AnyPart]
"""A user's own parts by name."""
P = TypeVar("P", Teacher, Target, Divergence, Weight)


def find(part: Part, known: Mapping[str, P], own: Parts, kind: type[P]) -> P:
    """The record that a recipe's part names, among those shipped and the user's own.

    Raises:
        RecipeError: there is none of that kind; the nearest name is told.
    """
    named = {**known, **{name: record for name, record in own.items() if isinstance(record, kind)}}
    if part.name not in named:
        raise RecipeError(f"no {kind.__name__.lower()} '{part.name}'{suggest(part.name, named)}")
    return named[part.name]


def settled(part: Part, function: Callable[..., Any], kind: str) -> Part:
    """The part with a value for every keyword-only argument of its function, checked against its annotation.

    Raises:
        RecipeError: an unknown key (with the nearest known one), a missing one, a wrong type.
    """
    parameters = inspect.signature(function).parameters.values()
    known = {each.name: each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    hints, where = get_type_hints(function), f"{kind} '{part.name}'"
    for key in part.values:
        if key not in known:
            raise RecipeError(f"{where}: unknown key '{key}'{suggest(key, known) if known else '; it takes none'}")
    values = {}
    for name, parameter in known.items():
        if name not in hints:
            raise RecipeError(
                f"{where}: its keyword '{name}' has no annotation, so that no recipe can be checked by it"
            )
        given = part.values.get(name, parameter.default)
        if given is inspect.Parameter.empty:
            raise RecipeError(f"{where}: missing key '{name}'")
        values[name] = convert(hints[name], given, where=where, key=name)
    return Part(part.name, values)


def source_hash(parts: Parts) -> str:
    """SHA-256 of the source text of all functions of a user's parts; empty where there are none.

    Of the functions themselves: not of what they call.

    Raises:
        RecipeError: a function without a source file, as those typed into an interpreter: nobody could tell later what
            it was.
    """
    if not parts:
        return ""
    text = []
    for name, record in sorted(parts.items()):
        for field in fields(record):
            value = getattr(record, field.name)
            try:
                told = f"{inspect.getsource(value)} {_enclosed(value, name)}" if callable(value) else repr(value)
            except (OSError, TypeError):
                raise RecipeError(f"part '{name}' has no source text; write its function into a file") from None
            text.append(f"{name} {type(record).__name__} {field.name} {told}")
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def _enclosed(function: Callable[..., object], name: str) -> str:
    """Values that a function has taken along from where it was made."""
    values = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    if not all(isinstance(value, bool | int | float | str | None) for value in values):
        raise RecipeError(f"part '{name}' holds more than numbers and texts of the function that made it; pass them in")
    return repr(values)
