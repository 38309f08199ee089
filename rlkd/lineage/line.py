"""What all generations of a lineage share."""

from dataclasses import dataclass, replace
from pathlib import Path

from rlkd import recipe, storage
from rlkd.errors import RecipeError
from rlkd.policy import Policy
from rlkd.recipe import Distill, Environment, Generations, Network, Ppo, recipe_hash


@dataclass(frozen=True, slots=True)
class Lineage:
    """What all generations of a run share."""

    run: Path
    """The run's folder."""
    environment: Environment
    """Where every generation plays."""
    generations: Generations
    """How one makes the next."""
    distilling: Distill
    """The distillation that every generation runs."""
    exploring: Ppo | None
    """How every generation explores before that; None: it does not."""
    network: Network
    """The students' network."""
    seed: int
    """Of the run."""
    episodes: int | None
    """Per evaluation; None takes the protocol's."""
    device: str
    """`auto`, `cpu` or `cuda`."""

    def seed_of(self, number: int) -> int:
        """Of all that a generation trains."""
        return self.seed + 1000 * number

    def identity(self, teacher: Policy) -> str:
        """What a run folder must share with a lineage that goes on in it."""
        # How many generations is left out: a finished lineage may be asked for more of them.
        rule = replace(self.generations, generations=1)
        recipes = [rule, self.distilling, self.environment, self.network, *([self.exploring] if self.exploring else [])]
        parts = [recipe_hash(part) for part in recipes]
        return storage.sha256(" ".join([*parts, teacher.spec.hash, str(self.seed), str(self.episodes)]).encode())


def student_network(generations: Generations, teacher: Policy) -> Network:
    """The students' network: a recipe's, or the teacher's own without its critic."""
    if generations.student == "same":
        return replace(teacher.spec.network, value="none")
    return recipe.load(generations.student, Network)


def exploration(generations: Generations, environment: Environment) -> Ppo | None:
    """The recipe by which generations explore; None where they do not. RecipeError where it has no bonus."""
    if generations.operator != "explore_distill":
        return None
    name = generations.explore or ("explore/ppo_rnd" if environment.views else "explore/ppo_rnd_classic")
    exploring = recipe.load(name, Ppo)
    if exploring.bonus is None:
        raise RecipeError(f"'{name}' has no [bonus] to explore with; `rlkd list agents` shows those of explore/")
    frames = generations.explore_frames
    return exploring if frames is None else replace(exploring, frames=frames)
