"""Numbers that change while something is learnt: straight lines between points of its progress."""

from itertools import pairwise

from rlkd.recipe.read import require

Points = tuple[tuple[float, float], ...]
"""Pairs of progress, from 0 to 1, and value. Between two of them the value runs along a straight line, before the first
and after the last it stays. Two points at the same progress are a step: from there on the second one's value holds."""


def value_at(schedule: float | Points, progress: float) -> float:
    """The value at a progress in [0, 1]; a bare number is always that."""
    if not isinstance(schedule, tuple):
        return schedule
    for (start, before), (end, after) in pairwise(schedule):
        if start <= progress < end:
            return before + (after - before) * (progress - start) / (end - start)
    return schedule[0][1] if progress < schedule[0][0] else schedule[-1][1]


def ended(schedule: float | Points, progress: float) -> bool:
    """Whether its value is 0 at a progress and stays so."""
    later = [value for place, value in schedule if place > progress] if isinstance(schedule, tuple) else []
    return all(value == 0 for value in (value_at(schedule, progress), *later))


def check_schedule(schedule: float | Points, name: str) -> None:
    """RecipeError unless its points stand in order within [0, 1]."""
    if isinstance(schedule, tuple):
        places = [place for place, _ in schedule]
        ordered = places == sorted(places) and all(0 <= place <= 1 for place in places)
        require(bool(places) and ordered, f"{name} takes points [progress, value] in order of progress, 0 to 1")
