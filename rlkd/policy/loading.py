"""Any policy file to a `Policy`: ours, shipped by name, or a Stable-Baselines3 zip."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from rlkd.errors import MismatchError, PolicyFileError, RlkdError
from rlkd.policy import file
from rlkd.policy.policy import Policy
from rlkd.policy.spec import PolicySpec
from rlkd.recipe import Environment, shipped, to_table
from rlkd.recipe.read import suggest
from rlkd.vector import action_meanings, as_recipe, environment_named_in, spaces


def load(path: str | Path, device: str = "cpu", *, env: str | Environment | None = None) -> Policy:
    """The policy in a file. Nothing in the file is executed.

    Args:
        path: an rlkd .safetensors file, `policy:NAME` for a shipped one, or a Stable-Baselines3 .zip.
        device: where its network runs.
        env: the environment it plays in, for files that do not say; without it, a Stable-Baselines3 zip with a
            gymnasium id in its name is taken to play there if it fits.

    Raises:
        PolicyFileError: missing, damaged, or of a kind that is not read.
        UnsafeFileError: a file that wants more than numbers decoded.
        MismatchError: the policy does not fit `env`.
    """
    text = str(path)
    if text.startswith("policy:"):
        path = _shipped(text.removeprefix("policy:"))
    path = Path(path)
    if path.suffix == ".zip":
        from rlkd.policy.sb3 import read_zip

        policy = read_zip(path, device=device)
        if env is None:
            return _guessed(policy, path)
    elif path.suffix == ".safetensors":
        spec, weights = file.read(path)
        try:
            with torch.device("meta"):  # a forged record must not make us allocate what its weights do not fill
                network = file.build_network(spec)
            network.load_state_dict(weights, assign=True)
        except (MismatchError, RuntimeError, TypeError):
            raise PolicyFileError(f"{path}: its weights do not fit its network; the file is damaged") from None
        policy = Policy(network, spec, device=device)
    else:
        raise PolicyFileError(f"{path}: not a policy; rlkd reads .safetensors files and Stable-Baselines3 .zip files")
    return policy if env is None else attach(policy, as_recipe(env), where=text)


def as_policy(policy: Policy | str | Path, *, env: Environment | None = None) -> Policy:
    """The policy itself, or the one in a file; with `env` as its environment if it is given."""
    if not isinstance(policy, Policy):
        return load(policy, env=env)
    return policy if env is None else attach(policy, env, where=policy.spec.name)


def from_sb3(model: Any, *, env: str | Environment | None = None) -> Policy:
    """The policy of a live Stable-Baselines3 ppo, a2c or dqn with CnnPolicy or MlpPolicy; weights are copied."""
    from rlkd.policy.sb3 import from_model

    policy = from_model(model)
    return policy if env is None else attach(policy, as_recipe(env), where=type(model).__name__)


def attach(policy: Policy, recipe: Environment, *, where: str) -> Policy:
    """The policy with `recipe` as its environment.

    Raises:
        MismatchError: observations, actions or the game differ.
    """
    check_fits(policy.spec, recipe, where=where)
    meanings = action_meanings(recipe)
    spec = dataclasses.replace(policy.spec, environment=recipe, action_meanings=meanings)
    return Policy(policy.network, spec, device=str(policy.device))


def _guessed(policy: Policy, path: Path) -> Policy:
    """With the environment that its file's name holds, or as it is."""
    recipe = environment_named_in(path.stem)
    try:
        return policy if recipe is None else attach(policy, recipe, where=str(path))
    except RlkdError:  # another game after all, or one whose emulator is not installed
        return policy


def check_fits(spec: PolicySpec, recipe: Environment, *, where: str) -> None:
    """Raise MismatchError unless a policy of `spec` can play in `recipe`."""
    own = spec.environment
    if own is not None and (own.source, own.id) != (recipe.source, recipe.id):
        raise MismatchError(f"{where} was made for {own.id}, not for {recipe.id}; pass the environment it knows")
    shape, discrete, actions = spaces(recipe)
    if shape != spec.observation_shape:
        raise MismatchError(
            f"{where} reads observations of shape {list(spec.observation_shape)}, {recipe.id} gives {list(shape)}"
        )
    if discrete != spec.discrete or actions != spec.actions:
        kinds = {True: "discrete actions", False: "action dimensions"}
        raise MismatchError(
            f"{where} has {spec.actions} {kinds[spec.discrete]}, {recipe.id} takes {actions} {kinds[discrete]}"
        )
    meanings = action_meanings(recipe)
    if spec.action_meanings and meanings and spec.action_meanings != meanings:
        raise MismatchError(f"{where} numbers its actions {list(spec.action_meanings)}, {recipe.id} {list(meanings)}")
    if own is not None:
        for name in own.views.keys() & recipe.views.keys():
            for key, seen in to_table(own.views[name]).items():
                given = to_table(recipe.views[name])[key]
                if seen != given:
                    raise MismatchError(
                        f"{where} was made for pictures with {key} = {seen!r}, {recipe.id} has {given!r} in "
                        f"[views.{name}]; pass the environment it knows"
                    )


def _shipped(name: str) -> Path:
    known = {entry.name: entry.path for entry in shipped("policies")}
    if name not in known:
        raise PolicyFileError(f"no shipped policy '{name}'{suggest(name, known)}")
    return known[name]
