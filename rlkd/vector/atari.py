"""One Atari game with every preprocessing choice of a recipe, on the plain emulator interface.

This is the reference and the fallback: ale-py's C++ vector environment plays the default view faster, and a
test holds the two to identical transitions.
"""

import copy
from typing import Any

import ale_py
import gymnasium
import numpy as np
from ale_py import roms

from rlkd.errors import RecipeError
from rlkd.recipe import Environment
from rlkd.vector.sight import Memory, Pictures

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # its banner would drown our own lines
SETTLING_FRAMES = 8  # of them all stick with a chance of 0.25 ** 8


class AtariGame(gymnasium.Env[np.ndarray, np.int64]):
    """One Atari game: observations uint8 [stack, height, width], or the console's memory as float32 [128] in [0, 1]
    where the recipe says so; rewards raw, `info["lives"]` each step, and
    `info["room"]` where the recipe says how to know it.

    A reset with a seed reloads the game, so that the episode depends on the seed alone: emulator, sticky
    actions and the number of no-ops. Frame for frame it does what ale-py's C++ vector environment does, its
    oddities too: FIRE comes first and counts as one of the no-ops, whose number is drawn from 0 to
    `noop_max - 1`; the frame on which an episode ends is never seen, so that the last picture is made of
    frames before it. A seed gives both the same number of no-ops where the C++ standard library is GNU's, as
    in ale-py's Linux wheels.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012  # as gymnasium

    def __init__(self, recipe: Environment, render_mode: str | None = None) -> None:
        if recipe.emulator is None:
            raise ValueError(f"{recipe.id} is not an Atari game")
        self.recipe, self.emulator = recipe, recipe.emulator
        self.render_mode = render_mode
        self.rom = rom_path(recipe.id)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", self.emulator.sticky_probability)
        self.ale.loadROM(self.rom)
        minimal = self.emulator.action_set == "minimal"
        self.actions = self.ale.getMinimalActionSet() if minimal else self.ale.getLegalActionSet()
        self.sight = Memory(self.ale) if recipe.observation == "memory" else Pictures(self.ale, recipe.views["pixels"])
        self.observation_space = self.sight.space
        self.action_space = gymnasium.spaces.Discrete(len(self.actions))
        self.frames = 0
        self.noop_bits = np.random.RandomState()
        self.last_action = ale_py.Action.NOOP
        self.settled = False
        """What a sticky frame would repeat is known to be the last action."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First observation of a new game, after no-ops and FIRE; a seed makes the whole game repeatable."""
        super().reset(seed=seed)
        if seed is not None:
            self.ale.setInt("random_seed", seed)
            self.ale.loadROM(self.rom)
            self.noop_bits = np.random.RandomState(seed)
        self._restart()
        noops = self._noops()
        if self.emulator.fire_on_reset and ale_py.Action.FIRE in self.actions:
            self._act(ale_py.Action.FIRE)
            noops -= 1
        for _ in range(noops):
            self._act(ale_py.Action.NOOP)
            if self.ale.game_over():
                self._restart()
        self.frames = 0
        self.sight.begin()
        return self.sight.seen(), self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeat one action for a frame skip, or until the game ends or is cut."""
        lives = self.ale.lives()
        reward, terminated, truncated = self._hold(self.actions[int(action)])
        life_lost = self.ale.lives() < lives and not (terminated or truncated)
        if self.emulator.fire_after_life and life_lost and ale_py.Action.FIRE in self.actions:
            more, terminated, truncated = self._hold(ale_py.Action.FIRE)
            reward += more
        return self.sight.seen(), reward, terminated, truncated, self._info()

    def _info(self) -> dict[str, int]:
        """Of the state that the player is in now."""
        told = {"lives": self.ale.lives()}
        if self.emulator.room_address is not None:
            told["room"] = int(self.ale.getRAM()[self.emulator.room_address])
        return told

    def _hold(self, action: ale_py.Action) -> tuple[float, bool, bool]:
        """Hold an action for one frame skip: reward, terminated, truncated; its last frames are looked at."""
        least, most = self.emulator.frame_skip, self.emulator.frame_skip_max
        frames = least if most is None else int(self.np_random.integers(least, most + 1))
        reward = 0.0
        for left in reversed(range(frames)):
            reward += self._act(action)
            self.frames += 1
            terminated = self.ale.game_over(with_truncation=False)
            truncated = self.frames >= self.recipe.frame_cap and not terminated
            if terminated or truncated:
                return reward, terminated, truncated
            self.sight.look(left)
        return reward, False, False

    def follow(self, other: "AtariGame") -> None:
        """Go on from where another game of the same recipe is, with its luck: from here on, equal actions give both
        the same frames."""
        state = other.ale.cloneState(include_rng=True)
        if not other.settled:
            other.settle(other.last_action, state)
        self.settle(other.last_action, state)
        if isinstance(self.sight, Pictures) and isinstance(other.sight, Pictures):
            self.sight.follow(other.sight)
        self.frames = other.frames
        self.noop_bits.set_state(other.noop_bits.get_state())
        self._np_random = copy.deepcopy(other.np_random)

    def settle(self, last_action: ale_py.Action, state: ale_py.ALEState) -> None:
        """Take over a state of the emulator.

        The action that a sticky frame repeats is not in it, and nobody can ask for it: the last one is repeated until
        all but surely it was done.
        """
        for _ in range(SETTLING_FRAMES):
            self._act(last_action)
        self.ale.restoreState(state)
        self.settled = True

    def _act(self, action: ale_py.Action) -> int:
        self.last_action, self.settled = action, False
        return self.ale.act(action)

    def _restart(self) -> None:
        self.ale.reset_game()
        self.last_action, self.settled = ale_py.Action.NOOP, False

    def render(self) -> np.ndarray:
        """The game's own screen, uint8 [210, 160, 3]."""
        return np.asarray(self.ale.getScreenRGB())

    def _noops(self) -> int:
        """Uniform in 0 .. noop_max - 1, drawn as libstdc++ does with std::mt19937 (arXiv:1805.10941)."""
        most = max(self.emulator.noop_max, 1)
        while True:
            product = int(self.noop_bits.randint(2**32, dtype=np.uint32)) * most
            if product % 2**32 >= 2**32 % most:
                return product >> 32


def rom_path(game: str) -> str:
    """Path of the ROM that ale-py carries; RecipeError when there is none of that name."""
    path = roms.get_rom_path(game) if game in roms.get_all_rom_ids() else None
    if path is None:
        raise RecipeError(f"ale-py has no game '{game}'; names are lower case with underscores, like 'ms_pacman'")
    return str(path)


def cpp_can_play(recipe: Environment) -> bool:
    """Whether ale-py's C++ vector environment expresses everything in the recipe."""
    view = recipe.views.get("pixels")
    if recipe.emulator is None or view is None:
        return False
    return (
        view.crop == (0, 210)
        and (view.grey, view.resize) == ("palette", "area")
        and (view.stack_order, view.stack_padding) == ("oldest_first", "zeros")
        and not any((view.stretch, view.grey_after, recipe.emulator.frame_skip_max, recipe.emulator.fire_after_life))
        and recipe.emulator.room_address is None
    )
