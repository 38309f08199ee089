"""Any policy file to a policy that plays: ours, shipped by name, ONNX, a Stable-Baselines3 zip, foreign weights.

Torch is imported for the files that need it.
"""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlkd.errors import MismatchError, PolicyFileError, RlkdError
from rlkd.policy.acting import Acting
from rlkd.policy.onnx_file import OnnxPolicy, is_sealed, read_sealed
from rlkd.policy.spec import PolicySpec
from rlkd.recipe import Environment, Import, shipped, to_table
from rlkd.recipe import load as load_recipe
from rlkd.recipe.read import suggest
from rlkd.vector import action_meanings, as_recipe, environment_named_in, spaces

if TYPE_CHECKING:
    from rlkd.policy.policy import Policy

Player = TypeVar("Player", bound=Acting)
HEADER_BYTES = 1024**2  # of a .safetensors file, within which its metadata stand


def load(
    path: str | Path, device: str = "cpu", *, agent: str | Import | None = None, env: str | Environment | None = None
) -> Acting:
    """The policy in a file. Nothing in the file is executed.

    Args:
        path: an rlkd .safetensors file, `policy:NAME` for a shipped one, a Stable-Baselines3 .zip, an .onnx file that
            `rlkd export` wrote, or with `agent` weights of any other origin.
        device: where its network runs; ONNX files run on the CPU.
        agent: import recipe, for files that hold weights alone; those that a shipped recipe knows need none.
        env: the environment it plays in, for files that do not say; without it, a Stable-Baselines3 zip with a
            gymnasium id in its name is taken to play there if it fits.

    Raises:
        PolicyFileError: missing, damaged, or of a kind that is not read.
        UnsafeFileError: a file that wants more than numbers decoded.
        MismatchError: the policy does not fit `env`.
    """
    if agent is None and Path(path).suffix == ".onnx" and describes_itself(Path(path)):
        player = OnnxPolicy(Path(path))
        return player if env is None else attach(player, as_recipe(env), where=str(path))
    return load_policy(path, device, agent=agent, env=env)


def load_policy(
    path: str | Path, device: str = "cpu", *, agent: str | Import | None = None, env: str | Environment | None = None
) -> "Policy":
    """As `load`, for a policy that can be learnt from and trained: any file but one played by ONNX Runtime."""
    if find_spec("torch") is None:
        raise PolicyFileError(f"{path}: reading it takes torch; without it, .onnx files play that `rlkd export` wrote")
    text = str(path)
    if text.startswith("policy:"):
        path = shipped_file(text.removeprefix("policy:"))
    path = Path(path)
    if agent is None and not describes_itself(path):
        from rlkd.policy.foreign import recipe_for

        agent = recipe_for(path)
    if agent is not None:
        from rlkd.policy.foreign import read_foreign

        recipe = agent if isinstance(agent, Import) else load_recipe(agent, Import)
        policy = read_foreign(path, recipe, env=None if env is None else as_recipe(env), device=device)
    elif path.suffix == ".zip":
        from rlkd.policy.sb3 import read_zip

        policy = read_zip(path, device=device)
        if env is None:
            return _guessed(policy, path)
        env = _as_learnt_in(as_recipe(env), path)
    elif path.suffix == ".safetensors":
        from rlkd.policy.policy import read_policy

        policy = read_policy(path, device=device)
    elif path.suffix == ".onnx":
        read_sealed(path)
        raise MismatchError(
            f"{path}: an ONNX file plays, but nothing is distilled from it; take the policy it was made of"
        )
    else:
        raise PolicyFileError(
            f"{path}: not a policy by itself; rlkd reads .safetensors, .onnx and Stable-Baselines3 .zip files, and "
            "weights of other projects with an import recipe: --agent (agents/imports/README.md)"
        )
    return policy if env is None else attach(policy, as_recipe(env), where=text)


def as_policy(policy: "Policy | str | Path", *, env: Environment | None = None) -> "Policy":
    """The policy itself, or the one in a file; with `env` as its environment if it is given."""
    if isinstance(policy, str | Path):
        return load_policy(policy, env=env)
    return policy if env is None else attach(policy, env, where=policy.spec.name)


def as_player(policy: Acting | str | Path, *, env: Environment | None = None) -> Acting:
    """As `as_policy`, also for files that only play."""
    if isinstance(policy, str | Path):
        return load(policy, env=env)
    return policy if env is None else attach(policy, env, where=policy.spec.name)


def from_sb3(model: Any, *, env: str | Environment | None = None) -> "Policy":
    """The policy of a live algorithm of Stable-Baselines3 or sb3-contrib, of those whose zips are read; weights are
    copied."""
    from rlkd.policy.sb3 import from_model

    policy = from_model(model)
    return policy if env is None else attach(policy, as_recipe(env), where=type(model).__name__)


def attach(policy: Player, recipe: Environment, *, where: str) -> Player:
    """The policy with `recipe` as its environment.

    Raises:
        MismatchError: observations, actions or the game differ.
    """
    check_fits(policy.spec, recipe, where=where)
    meanings = action_meanings(recipe)
    spec = dataclasses.replace(policy.spec, environment=recipe, action_meanings=meanings)
    return policy.under(spec)


def _guessed(policy: Player, path: Path) -> Player:
    """With the environment that its file's name holds, or as it is."""
    recipe = environment_named_in(path.stem)
    try:
        return policy if recipe is None else attach(policy, _as_learnt_in(recipe, path), where=str(path))
    except RlkdError:  # another game after all, or one whose emulator is not installed
        return policy


def _as_learnt_in(recipe: Environment, path: Path) -> Environment:
    """The environment with the time left in its observations, where the RL Zoo's configuration says so."""
    config = path.with_suffix("") / "config.yml"
    told = config.is_file() and "TimeFeatureWrapper" in config.read_text(errors="replace")[:65536]
    plain = recipe.source == "gymnasium" and recipe.observation is None
    return dataclasses.replace(recipe, observation="time") if told and plain else recipe


def check_fits(spec: PolicySpec, recipe: Environment, *, where: str) -> None:
    """Raise MismatchError unless a policy of `spec` can play in `recipe`: it may see more frames than it reads."""
    own = spec.environment
    if own is not None and (own.source, own.id) != (recipe.source, recipe.id):
        raise MismatchError(f"{where} was made for {own.id}, not for {recipe.id}; pass the environment it knows")
    shape, discrete, actions = spaces(recipe)
    more = len(shape) == 3 and shape[1:] == spec.observation_shape[1:] and shape[0] > spec.observation_shape[0]
    if shape != spec.observation_shape and not (more and own is not None and "pixels" in recipe.views):
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
            seen, given = to_table(own.views[name]), to_table(recipe.views[name])
            for key in (seen | given).keys() - {"stack"}:  # how many frames are stacked shows in the shape
                if seen.get(key) != given.get(key):
                    raise MismatchError(
                        f"{where} was made for pictures with {key} = {seen.get(key)!r}, {recipe.id} has "
                        f"{given.get(key)!r} in [views.{name}]; pass the environment it knows"
                    )


def shipped_file(name: str) -> Path:
    """Where a policy that ships lies; PolicyFileError where there is none of that name."""
    known = {entry.name: entry.path for entry in shipped("policies")}
    if name not in known:
        raise PolicyFileError(f"no shipped policy '{name}'{suggest(name, known)}")
    return known[name]


def describes_itself(path: Path) -> bool:
    """Whether a file says what its weights are the weights of: a zip, or one of our own; True where there is none."""
    if path.suffix == ".onnx":
        return is_sealed(path)
    if path.suffix == ".safetensors" and path.is_file():
        with path.open("rb") as opened:
            return b'"rlkd"' in opened.read(HEADER_BYTES)
    return path.suffix in (".zip", ".safetensors")
