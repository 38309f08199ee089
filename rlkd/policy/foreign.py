"""A file of another project's weights as a policy of ours, by an import recipe."""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rlkd.errors import PolicyFileError, RecipeError
from rlkd.losses import NO_NOISE
from rlkd.policy.foreign_files import Arrays, read_arrays
from rlkd.policy.networks import PolicyNetwork
from rlkd.policy.policy import Policy
from rlkd.policy.rule import NEVER, parse_rule
from rlkd.policy.spec import Normaliser, PolicySpec
from rlkd.policy.torch_file import refuse_nan
from rlkd.recipe import Environment, Import, Layout, Score, Statistics, load_any, shipped
from rlkd.recipe import Tensor as Entry
from rlkd.recipe.read import suggest
from rlkd.vector import action_bounds, action_meanings, as_recipe, spaces

PICTURE_AXES, MATRIX_AXES = 4, 2
AXES: dict[Layout, int] = {
    "input_first": MATRIX_AXES,
    "channels_last": MATRIX_AXES,
    "rotated": PICTURE_AXES,
    "rows_columns_input_output": PICTURE_AXES,
}
"""How many axes a tensor of a layout has; `torch` fits any."""


def read_foreign(path: Path, recipe: Import, *, env: Environment | None, device: str) -> Policy:
    """The policy that a file's weights make by a recipe.

    Args:
        path: torch, HDF5, JSON, numpy pickle, ONNX or safetensors.
        recipe: network, names and layouts of the tensors, rule.
        env: where it plays, for recipes that do not say.
        device: where the network runs.

    Raises:
        RecipeError: the recipe names tensors that the network does not have, or misses some.
        PolicyFileError: the file is damaged or does not hold what the recipe says.
    """
    environment = env if recipe.env is None else as_recipe(recipe.env)
    if environment is None:
        raise RecipeError("this import recipe names no environment; name it with --env")
    arrays, sha256 = read_arrays(path)
    shape, discrete, actions = spaces(environment)
    if discrete != (recipe.output in ("categorical", "q")):
        raise RecipeError(f"output = '{recipe.output}' does not fit the actions of {environment.id}")
    with torch.device("meta"):
        network = PolicyNetwork(recipe.network, shape, recipe.output, actions)
        picture = _picture(network, shape)
    meanings = action_meanings(environment)
    rows = _rows(recipe.actions, meanings, environment.id)
    tensors = _tensors(arrays, recipe, network, picture, rows, str(path))
    low, high = action_bounds(environment)
    if recipe.clip == "never":
        low, high = (-math.inf,) * len(low), (math.inf,) * len(high)
    network.load_state_dict(tensors, assign=True)
    spec = PolicySpec(
        name=path.stem,
        kind=recipe.output,
        network=recipe.network,
        observation_shape=shape,
        observation_dtype="uint8" if environment.source == "ale" else "float32",
        actions=actions,
        rule=parse_rule(recipe.rule),
        action_low=low,
        action_high=high,
        action_meanings=meanings,
        environment=environment,
        normaliser=None if recipe.normaliser is None else _normaliser(arrays, recipe.normaliser, shape, str(path)),
        origin=f"{path.name}, sha256 {sha256}",
    )
    return Policy(network, spec, device=device)


def recipe_for(path: Path) -> str | None:
    """Name of the shipped import recipe that knows a file by its content; None where none does."""
    if not path.is_file():
        return None
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    for entry in shipped("agents"):
        recipe = load_any(entry.path) if entry.name.startswith("imports/") else None
        if isinstance(recipe, Import) and any(score.sha256 == sha256 for score in recipe.scores):
            return entry.name
    return None


def known_score(policy: PolicySpec, recipe: Import) -> Score | None:
    """What the recipe says that the file scores which a policy was read from."""
    return next((score for score in recipe.scores if policy.origin.endswith(score.sha256)), None)


def _tensors(
    arrays: Arrays,
    recipe: Import,
    network: PolicyNetwork,
    picture: tuple[int, ...],
    rows: list[int | None] | None,
    where: str,
) -> dict[str, Tensor]:
    """State dict of the network, float32."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in recipe.tensors:
        if name not in wanted:
            raise RecipeError(f"[tensors]: the network has no '{name}'{suggest(name, wanted)}")
    missing = sorted(set(wanted) - set(recipe.tensors) - {"log_std"})
    if missing:
        raise RecipeError(f"[tensors]: '{missing[0]}' is missing; the network has {', '.join(sorted(wanted))}")
    found = {}
    for name, shape in wanted.items():
        if name not in recipe.tensors:
            found[name] = torch.full(shape, NO_NOISE)
            continue
        entry = recipe.tensors[name]
        entry = Entry(name=entry) if isinstance(entry, str) else entry
        # Of a head with a spread, files hold the mean's half alone; of one with more actions, some rows.
        in_file, head = shape, name in ("head.weight", "head.bias")
        if head and rows is not None:
            in_file = (sum(row is not None for row in rows), *shape[1:])
        elif head and recipe.output == "squashed_gaussian":
            in_file = (shape[0] // 2, *shape[1:])
        _check_layout(name, entry.layout, shape, picture)
        array = _take(arrays, entry, in_file, picture, where)
        tensor = torch.from_numpy(array)
        refuse_nan(tensor, entry.name, where)
        if head and rows is not None:
            never = torch.full(shape, NEVER if name == "head.bias" else 0.0)
            for ours, theirs in enumerate(rows):
                if theirs is not None:
                    never[ours] = tensor[theirs]
            tensor = never
        elif in_file != shape:
            tensor = torch.cat([tensor, torch.full(in_file, NO_NOISE if name == "head.bias" else 0.0)])
        found[name] = tensor
    return found


def _check_layout(name: str, layout: Layout, shape: tuple[int, ...], picture: tuple[int, ...]) -> None:
    """Raise RecipeError unless a tensor of ours can lie so in a file."""
    if len(shape) != AXES.get(layout, len(shape)):
        kind = "a fully connected layer's weight" if AXES[layout] == MATRIX_AXES else "a convolution's weight"
        raise RecipeError(f"[tensors]: layout '{layout}' is of {kind}; '{name}' is {list(shape)}")
    if layout == "channels_last" and (len(picture) != 3 or math.prod(picture) != shape[1]):
        raise RecipeError(
            f"[tensors]: layout 'channels_last' is of the first layer behind convolutions, not of '{name}'"
        )


def _take(arrays: Arrays, entry: Entry, shape: tuple[int, ...], picture: tuple[int, ...], where: str) -> np.ndarray:
    """One tensor of the file as float32 in our layout and of our shape."""
    if entry.name not in arrays:
        raise PolicyFileError(f"{where}: no tensor '{entry.name}'{suggest(entry.name, arrays)}")
    array = arrays[entry.name]
    lies = _shape_in_file(shape, entry.layout)
    if entry.start is not None:
        array = array.ravel()[entry.start : entry.start + math.prod(shape)]
    elif array.ndim != len(lies) and array.size == math.prod(lies) == max(array.shape):
        array = array.ravel()  # a vector kept as a single row or column
    if array.size != math.prod(shape) or (entry.start is None and array.shape != lies):
        from_ = "" if entry.start is None else f" from number {entry.start} on"
        raise PolicyFileError(
            f"{where}: tensor '{entry.name}' is {list(arrays[entry.name].shape)}, wanted is {list(lies)}{from_} in the "
            f"layout '{entry.layout}'"
        )
    turned = _turned(array.reshape(lies), entry.layout, picture)
    with np.errstate(over="ignore"):  # infinity is refused
        return np.ascontiguousarray(turned, np.float32)


def _shape_in_file(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    if layout in ("input_first", "channels_last"):
        return shape[::-1]
    if layout == "rows_columns_input_output":
        return (*shape[2:], shape[1], shape[0])
    return shape


def _turned(array: np.ndarray, layout: Layout, picture: tuple[int, ...]) -> np.ndarray:
    if layout == "rotated":
        return array[..., ::-1, ::-1]
    if layout == "rows_columns_input_output":
        return array.transpose(3, 2, 0, 1)
    if layout == "channels_last":
        channels, height, width = picture
        by_pixel = array.reshape(height, width, channels, -1)
        return by_pixel.transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
    return array.T if layout == "input_first" else array


def _picture(network: PolicyNetwork, shape: tuple[int, ...]) -> tuple[int, ...]:
    """[C, H, W] before the convolutions' output is flattened; the observation's shape where there are none."""
    x = torch.empty(1, *shape)
    for module in network.encoder:
        if isinstance(module, nn.Flatten):
            break
        x = module(x)
    return tuple(x.shape[1:])


def _rows(actions: tuple[str, ...], meanings: tuple[str, ...], game: str) -> list[int | None] | None:
    """For each action of ours the row of the file's head, None for one that it does not have; None: all as they are."""
    if not actions:
        return None
    if not meanings:
        raise RecipeError(f"actions: {game} does not name its actions, so they cannot be matched")
    for name in actions:
        if name not in meanings:
            raise RecipeError(f"actions: {game} has no '{name}'{suggest(name, meanings)}")
    if len(set(actions)) < len(actions):
        raise RecipeError("actions: one of them stands there twice")
    return [actions.index(name) if name in actions else None for name in meanings]


def _normaliser(arrays: Arrays, recipe: Statistics, shape: tuple[int, ...], where: str) -> Normaliser:
    second = recipe.variance if recipe.variance is not None else recipe.mean_square
    mean, spread = (_statistics(arrays, name, shape, where) for name in (recipe.mean, str(second)))
    with np.errstate(all="ignore"):  # what comes of wild numbers is refused
        variance = spread if recipe.variance is not None else np.maximum(spread - mean**2, 0)
        variance = (np.sqrt(variance + recipe.epsilon) + recipe.deviation_epsilon) ** 2
    if not (np.isfinite(variance) & (variance > 0)).all():
        raise PolicyFileError(f"{where}: '{second}' makes a variance that is not above 0; give an epsilon if it is 0")
    return Normaliser(mean=tuple(mean.tolist()), variance=tuple(variance.tolist()), limit=recipe.limit, epsilon=0.0)


def _statistics(arrays: Arrays, name: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """One vector of the observation's shape, float64."""
    if name not in arrays:
        raise PolicyFileError(f"{where}: no tensor '{name}'{suggest(name, arrays)}")
    vector = arrays[name].astype(np.float64).ravel()
    if vector.shape != shape or not np.isfinite(vector).all():
        raise PolicyFileError(f"{where}: '{name}' is no vector of {shape} finite numbers")
    return vector
