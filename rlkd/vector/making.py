"""`make` and `make_vec`: a recipe name, a .toml file or a raw gymnasium id to environments."""

import os
import re
import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import NormalizeReward

from rlkd import recipe as recipes
from rlkd.errors import RecipeError
from rlkd.recipe import EVALUATION_SEEDS, Environment, Protocol
from rlkd.vector.atari import AtariGame, cpp_can_play, rom_path
from rlkd.vector.observations import Entries, OneLayout, Symbols, TimeLeft
from rlkd.vector.stepper import Stepper
from rlkd.vector.workers import WorkerVectorEnv
from rlkd.vector.worlds import register_worlds

register_worlds()
Backend = Literal["auto", "ale", "ale_same_step", "sync", "workers"]


def as_recipe(env: str | Environment) -> Environment:
    """The environment recipe that `env` means: a recipe, a shipped name, a path, or a raw gymnasium id.

    Raises:
        RecipeError: neither a recipe nor a registered gymnasium id.
    """
    if isinstance(env, Environment):
        return env
    try:
        return recipes.load(env, Environment)
    except RecipeError as unknown:
        if env.endswith(".toml") or "ambiguous" in str(unknown):
            raise
        _register(env)
        spec = gymnasium.registry.get(env)
        if spec is None:
            raise RecipeError(f"{unknown}; nor is '{env}' a registered gymnasium id") from None
    steps = spec.max_episode_steps or 1_000_000
    protocol = Protocol(name=f"{steps}-steps")
    return Environment(source="gymnasium", id=env, frame_cap=steps, protocol=protocol)


def environment_named_in(text: str) -> Environment | None:
    """The environment whose gymnasium id a file's name holds, as "ppo-LunarLander-v2" does, or its next version.

    Returns:
        The shipped recipe of that id, else one with gymnasium's defaults; None where the text names nothing that
        gymnasium can still make.
    """
    found = re.search(r"([A-Za-z]+)-v(\d+)", text)
    if found is None:
        return None
    base, version = found[1], int(found[2])
    later = [
        (spec.version, spec.id)
        for spec in gymnasium.registry.values()
        # Versions 2 and 3 of the MuJoCo games are registered, but want a package that has gone.
        if spec.name == base
        and version <= (spec.version or 0)
        and not ("mujoco" in str(spec.entry_point) and (spec.version or 0) < 4)
    ]
    if not later:
        return None
    wanted = min(later)[1]
    recipe = next((each for each in _shipped_classic() if each.id == wanted), None)
    return as_recipe(wanted) if recipe is None else recipe


def _shipped_classic() -> list[Environment]:
    loaded = [recipes.load(entry.name, Environment) for entry in recipes.shipped("envs")]
    return [recipe for recipe in loaded if recipe.source == "gymnasium" and recipe.entries is None]


def make(env: str | Environment, *, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """One environment.

    Args:
        env: recipe name, path of a .toml, or a raw gymnasium id.
        render_mode: as in gymnasium; "rgb_array" gives pictures by `render()`.
    """
    recipe = as_recipe(env)
    if recipe.source == "ale":
        return AtariGame(recipe, render_mode)
    _register(recipe.id)
    return _make_gymnasium(recipe, render_mode)


def make_vec(
    env: str | Environment,
    num_envs: int,
    seed: int,
    *,
    backend: Backend = "auto",
    threads: int = 0,
    timeout: float = 60.0,
) -> VectorEnv[Any, Any, Any]:
    """Many environments stepped together, seeded and reset; `metadata["autoreset_mode"]` says how rows reset.

    Args:
        env: recipe name, path of a .toml, or a raw gymnasium id.
        num_envs: how many.
        seed: row i starts from `seed + i`.
        backend: `auto` takes ale-py's C++ environment where it can express the recipe, else gymnasium's
            SyncVectorEnv for cheap environments and `workers` for Atari: processes of our own, several environments
            in each (`WorkerVectorEnv`), for any environment whose steps are slow. They import no calling script: an
            id that only a script registers is unknown to them. `sync` and `ale_same_step` are for tests.
        threads: emulator threads of the C++ environment, or worker processes; 0 takes one for each core.
        timeout: seconds after which a worker process that does not answer is killed and started again.

    Raises:
        RecipeError: there is no such environment, or it cannot be made.
    """
    recipe = as_recipe(env)
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    if backend == "auto":
        backend = "ale" if cpp_can_play(recipe) else ("sync" if recipe.source == "gymnasium" else "workers")
    vector: VectorEnv[Any, Any, Any]
    if backend in ("ale", "ale_same_step"):
        vector = _ale(recipe, num_envs, backend, threads)
    elif backend == "sync":
        thunks: list[Callable[[], gymnasium.Env[Any, Any]]] = [partial(make, recipe) for _ in range(num_envs)]
        vector = SyncVectorEnv(thunks, autoreset_mode=AutoresetMode.NEXT_STEP)
    else:
        vector = _workers(recipe, num_envs, seed, threads, timeout)
    try:
        vector.reset(seed=seed)
    except BaseException:
        vector.close()  # no worker process is left behind
        raise
    return vector


def make_halves(env: str | Environment, num_envs: int, generator: np.random.Generator) -> list[Stepper]:
    """One or two steppers that hold all environments between them, the first half of the rows and the second.

    Args:
        env: as for `make_vec`.
        num_envs: how many, over both.
        generator: gives the seed of row 0, below those of evaluations; row i plays from i seeds later.
    """
    # Drawn, because runs with neighbouring seeds must not share all but one of their games.
    start = int(generator.integers(EVALUATION_SEEDS - num_envs))
    larger = -(-num_envs // 2)
    sizes = [(start, larger), (start + larger, num_envs - larger)]
    with ExitStack() as made:  # if the second half cannot be made, no worker process of the first is left behind
        halves = [made.enter_context(closing(Stepper(make_vec(env, size, first)))) for first, size in sizes if size]
        made.pop_all()
    return halves


def action_meanings(recipe: Environment) -> tuple[str, ...]:
    """Names of the discrete actions, in order; empty where the environment does not name them."""
    if recipe.source == "ale":
        return tuple(action.name for action in AtariGame(recipe).actions)
    return _GRID_ACTIONS if recipe.id.startswith("MiniGrid-") else _CLASSIC_ACTIONS.get(recipe.id, ())


_GRID_ACTIONS = ("LEFT", "RIGHT", "FORWARD", "PICKUP", "DROP", "TOGGLE", "DONE")
_CLASSIC_ACTIONS = {
    "CartPole-v1": ("LEFT", "RIGHT"),
    "Acrobot-v1": ("TORQUE_MINUS", "NONE", "TORQUE_PLUS"),
    "MountainCar-v0": ("LEFT", "NONE", "RIGHT"),
    "rlkd/DeepSea-v0": ("FIRST", "SECOND"),  # which of them is right differs from cell to cell
    "rlkd/NoisyTv-v0": ("UP", "DOWN", "LEFT", "RIGHT", "PRESS"),
    "rlkd/NChain-v0": ("FORWARD", "BACK"),
    "LunarLander-v3": ("NONE", "LEFT_ENGINE", "MAIN_ENGINE", "RIGHT_ENGINE"),
}


def _ale(recipe: Environment, num_envs: int, backend: str, threads: int) -> VectorEnv[Any, Any, Any]:
    from ale_py.vector_env import AtariVectorEnv

    emulator, view = recipe.emulator, recipe.views.get("pixels")
    if emulator is None or view is None or not cpp_can_play(recipe):
        raise ValueError(f"ale-py's C++ environment cannot express the recipe of {recipe.id}; take 'workers'")
    rom_path(recipe.id)
    mode = AutoresetMode.NEXT_STEP if backend == "ale" else AutoresetMode.SAME_STEP
    vector = AtariVectorEnv(
        recipe.id,
        num_envs,
        num_threads=threads or min(num_envs, os.cpu_count() or 1),
        max_num_frames_per_episode=recipe.frame_cap,
        repeat_action_probability=emulator.sticky_probability,
        full_action_space=emulator.action_set == "full",
        autoreset_mode=mode,
        img_height=view.height,
        img_width=view.width,
        stack_num=view.stack,
        frameskip=emulator.frame_skip,
        maxpool=view.max_over_last == 2,
        noop_max=emulator.noop_max,
        use_fire_reset=emulator.fire_on_reset,
        # The environment's own clipping loses the raw score and its episodic_life starts a whole new game,
        # so both stay off: rewards are clipped in the learner, lives handled in `Stepper`.
        reward_clipping=False,
        episodic_life=False,
        life_loss_info=False,
    )
    # It writes its mode into gymnasium's class attribute, where the next environment overwrites it for both.
    vector.metadata = {"autoreset_mode": mode}
    return vector


def _workers(recipe: Environment, num_envs: int, seed: int, threads: int, timeout: float) -> WorkerVectorEnv:
    one = make(recipe)  # what cannot be made is refused here
    try:
        return WorkerVectorEnv(
            recipe,
            num_envs,
            seed,
            observation_space=one.observation_space,
            action_space=one.action_space,
            workers=min(num_envs, threads or os.cpu_count() or 1),
            timeout=timeout,
        )
    finally:
        one.close()


def _make_gymnasium(recipe: Environment, render_mode: str | None) -> gymnasium.Env[Any, Any]:
    try:
        options: dict[str, Any] = {**recipe.options, "max_episode_steps": recipe.frame_cap}
        if render_mode is not None:  # some environments cannot be looked at, and take no such argument
            options["render_mode"] = render_mode
        with warnings.catch_warnings():
            # A recipe names the version that its scores belong to, also where gymnasium has a newer one.
            warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
            env = gymnasium.make(recipe.id, **options)
    except (gymnasium.error.Error, TypeError) as error:
        raise RecipeError(f"gymnasium cannot make '{recipe.id}': {error}") from None
    if recipe.layout_seed is not None:
        env = OneLayout(env, recipe.layout_seed)
    if recipe.entries is not None:
        env = Entries(env, recipe.entries)
    if recipe.observation == "symbols":
        return Symbols(env)
    return TimeLeft(env, recipe.frame_cap) if recipe.observation == "time" else env


def _register(name: str) -> None:
    """Let gymnasium know the ids of packages that it does not look for by itself."""
    import ale_py

    gymnasium.register_envs(ale_py)
    if name.startswith("MiniGrid-"):
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on stdout, which belongs to --json
        try:
            import minigrid
        except ModuleNotFoundError:
            raise RecipeError(f"{name} takes the package minigrid; pip install minigrid") from None
        gymnasium.register_envs(minigrid)


def spaces(recipe: Environment) -> tuple[tuple[int, ...], bool, int]:
    """Observation shape, whether actions are discrete, and how many there are (or action dimensions)."""
    env = make(recipe)
    try:
        space, observation = env.action_space, env.observation_space
        if not isinstance(observation, gymnasium.spaces.Box):
            raise RecipeError(f"{recipe.id}: observations must be a Box, got {type(observation).__name__}")
        if isinstance(space, gymnasium.spaces.Discrete):
            return observation.shape, True, int(space.n)
        if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
            return observation.shape, False, space.shape[0]
        raise RecipeError(f"{recipe.id}: actions must be Discrete or a flat Box, got {space}")
    finally:
        env.close()


def normalises_rewards(recipe: Environment) -> bool:
    """Whether a wrapper of the environment's own divides rewards by a deviation that it keeps."""
    env = made = make(recipe)
    try:
        while isinstance(env, gymnasium.Wrapper) and not isinstance(env, NormalizeReward):
            env = env.env
        return isinstance(env, NormalizeReward)
    finally:
        made.close()


def action_bounds(recipe: Environment) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower and upper bounds of continuous actions; empty where actions are discrete."""
    env = make(recipe)
    try:
        space = env.action_space
        if not isinstance(space, gymnasium.spaces.Box):
            return (), ()
        return tuple(float(low) for low in space.low), tuple(float(high) for high in space.high)
    finally:
        env.close()
