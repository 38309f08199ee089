"""Does an imported policy play as well as it did for others? A two-sample test against the score that they measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlkd import recipe as recipes
from rlkd.data import JsonDict
from rlkd.errors import MismatchError, RecipeError
from rlkd.evaluation.play import play
from rlkd.policy import Acting, load_policy
from rlkd.policy.foreign import known_score, recipe_for
from rlkd.policy.foreign_files import read_arrays
from rlkd.policy.loading import describes_itself
from rlkd.recipe import Import, Score
from rlkd.stats import standard_error
from rlkd.vector import as_recipe

LIMIT = 3.0
"""Standard errors of the difference that two measurements of one policy may be apart."""
EPISODES = 50
"""Played for a check."""


@dataclass(frozen=True, slots=True)
class Check:
    """Two measurements of one policy, side by side."""

    ours: tuple[float, ...]
    """Raw score of each episode played here."""
    theirs: Score
    """What others measured."""

    @property
    def standard_errors(self) -> float:
        """The difference of the means in standard errors of both together; 0 where neither spreads and both agree."""
        return standard_errors(self.ours, self.theirs.mean, self.theirs.std, self.theirs.episodes)

    @property
    def passed(self) -> bool:
        """Whether the difference may be chance."""
        return abs(self.standard_errors) <= LIMIT

    def __str__(self) -> str:
        low = f"{np.mean(self.ours):.2f} (std {np.std(self.ours, ddof=1):.2f}, {len(self.ours)} episodes)"
        high = f"{self.theirs.mean:g} (std {self.theirs.std:g}, {self.theirs.episodes} episodes)"
        verdict = "passed" if self.passed else "FAILED"
        return f"{verdict}: scores {low}, known for {high}: {self.standard_errors:+.1f} standard errors"


def check(policy: Acting, score: Score, *, episodes: int = EPISODES) -> Check:
    """Play a policy by its own rule in its own environment, from the seeds that others played where they are known.

    Args:
        policy: one with an environment.
        score: what others measured.
        episodes: at least 2.
    """
    played = play(policy, episodes=episodes, first_seed=score.first_seed, title=f"check {policy.spec.name}")
    return Check(played.evaluation.scores, score)


def import_policy(
    path: str | Path,
    output: str | Path | None = None,
    *,
    agent: str | None = None,
    env: str | None = None,
    episodes: int | None = None,
) -> JsonDict:
    """Read another project's policy, check it if asked to, and write it as a file of ours.

    Args:
        path: its file.
        output: where to write; None: nowhere.
        agent: import recipe; None: the shipped one that knows the file by its content, if there is one.
        env: where it plays; None: as file or recipe says.
        episodes: of the check against the score that the recipe states; None: no check.

    Returns:
        What it is: name, environment, rule, sizes, hash, and the check's outcome. Of a file that no recipe knows, with
        nothing to do, names and shapes of the arrays in it.

    Raises:
        RecipeError: there is nothing to do, or no score to check against.
        MismatchError: the check failed; nothing is written then.
    """
    if output is not None and Path(output).suffix != ".safetensors":
        raise RecipeError(f"{output}: policies are .safetensors files; name one")
    if episodes is not None and episodes < 2:
        raise RecipeError(f"episodes must be at least 2, got {episodes}; {EPISODES} make a check")
    speaks = describes_itself(Path(path))
    agent = agent or (None if speaks else recipe_for(Path(path)))
    if agent is None and not speaks:
        if output is not None or episodes is not None:
            raise RecipeError(
                f"{path}: no shipped import recipe knows it; name one with --agent. `rlkd import {path}` alone lists "
                "what is in it, agents/imports/README.md says how a recipe is written"
            )
        arrays, sha256 = read_arrays(Path(path))
        return {
            "file": str(path),
            "sha256": sha256,
            "arrays": {name: list(array.shape) for name, array in arrays.items()},
        }
    if output is None and episodes is None:
        raise RecipeError("name the file to write with -o, or check alone with --check")
    policy = load_policy(path, agent=agent, env=None if env is None else as_recipe(env))
    spec = policy.spec
    record: JsonDict = {
        "policy": spec.name,
        "environment": None if spec.environment is None else spec.environment.id,
        "kind": spec.kind,
        "rule": str(spec.rule),
        "observation": list(spec.observation_shape),
        "actions": ", ".join(spec.action_meanings) or spec.actions,
        "parameters": spec.parameters,
        "recipe": agent,
        "origin": spec.origin,
        "hash": spec.hash,
    }
    if episodes is not None:
        recipe = None if agent is None else recipes.load(agent, Import)
        if env is not None and recipe is not None and recipe.env is not None:
            raise RecipeError(f"the known score is of {recipe.env}, where the check plays; leave --env out")
        score = None if recipe is None else known_score(spec, recipe)
        if score is None:
            raise RecipeError(f"{path}: no import recipe states its score; add [[scores]] with its sha256 to check it")
        done = check(policy, score, episodes=episodes)
        record |= {"check": str(done), "scores": list(done.ours), "standard_errors": done.standard_errors}
        if not done.passed:
            raise MismatchError(f"{path}: {done}; preprocessing, rule or layout of the recipe differ from its author's")
    if output is not None:
        policy.save(output)
        record["path"] = str(output)
    return record


def standard_errors(ours: Sequence[float], mean: float, std: float, episodes: int) -> float:
    """How far the mean of our scores is from another measurement's, in standard errors of the difference.

    Args:
        ours: at least 2 scores.
        mean: of the other measurement.
        std: its standard deviation over episodes.
        episodes: how many it had.
    """
    error = standard_error(float(np.std(ours, ddof=1)), len(ours), std, episodes)
    difference = float(np.mean(ours) - mean)
    if error == 0:
        return 0.0 if difference == 0 else float(np.copysign(np.inf, difference))
    return float(difference / error)
