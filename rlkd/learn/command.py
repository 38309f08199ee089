"""`train`: names in, a run folder and a policy out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlkd import recipe as recipes
from rlkd import storage
from rlkd.errors import RecipeError
from rlkd.learn.dqn import train_dqn
from rlkd.learn.ppo import train_ppo
from rlkd.policy import Policy, as_policy
from rlkd.recipe import Dqn, Environment, Ppo, Sb3, check_request, load_any, recipe_hash, to_table
from rlkd.terms import settle
from rlkd.vector import as_recipe


def train(
    env: Environment | str,
    agent: str | None = None,
    *,
    run: str | Path,
    seed: int = 0,
    frames: int | None = None,
    device: str = "auto",
    keep_early: bool = False,
    start: Policy | str | Path | None = None,
    teacher: Policy | str | Path | None = None,
    overrides: Sequence[str] = (),
    command: str = "",
) -> Policy:
    """Make a policy by reinforcement learning; a run folder that exists is resumed.

    Args:
        env: where.
        agent: recipe of our PPO (`rl/ppo`), our value learners (`rl/dqn`, `rl/qrdqn`) or Stable-Baselines3's learners
            (`sb3/ppo`, `sb3/dqn`); None takes `rl/ppo` for Atari and `rl/ppo_classic` otherwise.
        run: folder for checkpoint, curves and `generations/000/policy.safetensors`.
        seed: of everything random.
        frames: emulator frames in all; None takes the recipe's.
        device: `auto`, `cpu` or `cuda`.
        keep_early: keep the policies at 1, 2, 5, 10, 25, 50, 75 and 100 % of the run, in `early/`: early-stopped
            teachers.
        start: a policy, or its file, whose weights our PPO begins with; None draws new ones.
        teacher: a policy, or its file, from which our learners learn beside the rewards; for recipes with terms.
        overrides: `key=value` for the agent's recipe.
        command: for the record.

    Raises:
        RlkdError: what the caller can fix; `Stopped` on a signal, after saving.
    """
    check_request(seed)
    environment, folder = as_recipe(env), Path(run)
    name = agent or ("rl/ppo" if environment.source == "ale" else "rl/ppo_classic")
    recipe = load_any(recipes.resolve(name, "agents"), overrides=overrides)
    if not isinstance(recipe, Ppo | Dqn | Sb3):
        raise RecipeError(f"'{name}' does not say how to train; `rlkd list agents` shows rl/ and sb3/ recipes")
    if isinstance(recipe, Ppo | Dqn) and recipe.terms:
        recipe = replace(recipe, terms=tuple(settle(term) for term in recipe.terms))
    if frames is not None:
        recipe = replace(recipe, frames=frames)
    if start is not None and not isinstance(recipe, Ppo):
        raise RecipeError(f"'{name}' begins with weights of its own; a start is for our PPO")
    if teacher is not None and not isinstance(recipe, Ppo | Dqn):
        raise RecipeError(f"'{name}' learns from no teacher; recipes of ours with terms do, as kickstarting")
    master = None if teacher is None else as_policy(teacher, env=environment)
    origin = f"{name} on {environment.id}, seed {seed}, {recipe.frames:,} frames"
    if isinstance(recipe, Ppo):
        policy = train_ppo(
            environment,
            recipe,
            run=folder,
            seed=seed,
            device=device,
            keep_early=keep_early,
            start=None if start is None else as_policy(start),
            teacher=master,
            origin=origin,
        )
    elif isinstance(recipe, Dqn):
        policy = train_dqn(
            environment,
            recipe,
            run=folder,
            seed=seed,
            device=device,
            keep_early=keep_early,
            teacher=master,
            origin=origin,
        )
    else:
        if keep_early:
            raise RecipeError(f"'{name}' is not a learner of ours: it keeps no early policies")
        from rlkd.learn.sb3 import train_sb3  # loads Stable-Baselines3, which our own learners do not need

        policy = train_sb3(environment, recipe, run=folder, seed=seed, device=device, origin=origin)
    record = {
        "kind": "train",
        "status": "done",
        "run": str(folder),
        "command": command,
        "seed": seed,
        "environment": to_table(environment),
        "agent": {"name": name} | to_table(recipe),
        "recipe_hash": recipe_hash(recipe),
        "hash": policy.spec.hash,
        "versions": storage.versions(),
    }
    storage.write_json(folder / "run.json", record)
    return policy
