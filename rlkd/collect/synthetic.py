"""States that nobody visited, made from visited ones, for teachers that can be asked about anything.

For observations whose numbers mean something each: vectors, a console's memory; never pictures. D states, F numbers in
each; N states to begin from.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.spatial import cKDTree

from rlkd.errors import RecipeError
from rlkd.recipe import Part, suggest
from rlkd.terms.parts import settled


def munge(
    states: np.ndarray, every: np.ndarray, generator: np.random.Generator, *, swap: float = 0.5, variance: float = 1.0
) -> np.ndarray:
    """[N, F]: each number is, with probability `swap`, drawn anew around that of the state's nearest neighbour.

    From N(neighbour's number, |difference| / variance). Nearest is told by numbers scaled to [0, 1] over all states;
    a state's own copies are no neighbours of it. With `swap` 0 nothing changes.

    Args:
        states: [N, F] to begin from.
        every: [D, F] all that were visited, among whom neighbours are looked for.
        generator: of everything random.
        swap: chance of each number, in [0, 1].
        variance: local variance parameter, above 0: larger keeps closer.

    Source:
        MUNGE of Bucila, Caruana, Niculescu-Mizil 2006 ("Model compression"), for continuous attributes. There the pair
        exchanges its numbers; here each state makes one of its own and stays as it is.
    """
    if not 0 <= swap <= 1 or not variance > 0:
        raise ValueError(f"swap must be in [0, 1] and variance above 0, got {swap} and {variance}")
    near = every[_nearest(states, every)]
    drawn = generator.normal(near, np.abs(states - near) / variance)
    changed = generator.random(states.shape) < swap
    return np.where(changed, drawn, states).astype(np.float32)


def noise(
    states: np.ndarray, every: np.ndarray, generator: np.random.Generator, *, deviation: float = 0.1
) -> np.ndarray:
    """[N, F]: Gaussian noise of so many deviations of each number over all visited states."""
    made: np.ndarray = states + generator.normal(size=states.shape) * deviation * every.std(axis=0)
    return made.astype(np.float32)


def uniform(states: np.ndarray, every: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[N, F]: anywhere in the box that holds all visited states: what any other way has to beat."""
    low, high = every.min(axis=0), every.max(axis=0)
    made: np.ndarray = low + generator.random(states.shape) * (high - low)
    return made.astype(np.float32)


def _nearest(states: np.ndarray, every: np.ndarray) -> np.ndarray:
    """[N]: place in `every` of each state's nearest neighbour that is not the same as itself."""
    low = every.min(axis=0)
    span = np.maximum(every.max(axis=0) - low, 1e-12)
    others, places = np.unique(every, axis=0, return_index=True)
    asked, back = np.unique(states, axis=0, return_inverse=True)  # copies of a state have the same neighbour
    distance, found = cKDTree((others - low) / span).query((asked - low) / span, k=min(2, len(others)))
    distance, found = (each.reshape(len(asked), -1) for each in (distance, found))
    nearest: np.ndarray = places[found[np.arange(len(asked)), np.where(distance[:, 0] > 0, 0, -1)]]
    return nearest[back.reshape(-1)]


SYNTHETIC: dict[str, Callable[..., np.ndarray]] = {"munge": munge, "noise": noise, "uniform": uniform}


def made_by(part: Part) -> "partial[np.ndarray]":
    """The function that a recipe's part names, with its numbers.

    Raises:
        RecipeError: an unknown name or key, a missing key, a wrong type, or a number that cannot be.
    """
    if part.name not in SYNTHETIC:
        raise RecipeError(f"no way to make up states is called '{part.name}'{suggest(part.name, SYNTHETIC)}")
    function = SYNTHETIC[part.name]
    make_up = partial(function, **settled(part, function, "synthetic").values)
    try:
        make_up(np.eye(2), np.eye(2), np.random.default_rng(0))
    except ValueError as error:
        raise RecipeError(f"synthetic '{part.name}': {error}") from None
    return make_up
