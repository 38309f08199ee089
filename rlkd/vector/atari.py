"""One Atari game with every preprocessing choice of a recipe, on the plain emulator interface.

This is the reference and the fallback: ale-py's C++ vector environment plays the default view faster, and a
test holds the two to identical transitions.
"""

import copy
from typing import Any

import ale_py
import cv2
import gymnasium
import numpy as np
from ale_py import roms

from rlkd.errors import RecipeError
from rlkd.recipe import Environment, View

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # its banner would drown our own lines
WEIGHTS = {
    "luminance": np.array([0.2126, 0.7152, 0.0722], np.float32),
    "luminance_skimage": np.array([0.2125, 0.7154, 0.0721], np.float32),
}
"""Of red, green and blue, by the name of the grey."""
FILTERS = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR}

SETTLING_FRAMES = 8  # of them all stick with a chance of 0.25 ** 8
MEMORY = View(
    max_over_last=1,
    crop=(0, 210),
    grey="palette",
    resize="area",
    height=1,
    width=1,
    stack=1,
    stack_order="oldest_first",
    stack_padding="zeros",
)
"""Of games that are seen as the console's memory: nobody looks at their pictures."""


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
        self.recipe, self.emulator, self.view = recipe, recipe.emulator, recipe.views.get("pixels", MEMORY)
        self.render_mode = render_mode
        self.rom = rom_path(recipe.id)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", self.emulator.sticky_probability)
        self.ale.loadROM(self.rom)
        minimal = self.emulator.action_set == "minimal"
        self.actions = self.ale.getMinimalActionSet() if minimal else self.ale.getLegalActionSet()
        shape = (self.view.stack, self.view.height, self.view.width)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        if recipe.observation == "memory":
            self.observation_space = gymnasium.spaces.Box(0, 1, (128,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(self.actions))
        self.stacked = np.zeros(shape, np.uint8)
        self.screens = [self._screen(), self._screen()]
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
        self.screens[0] = self._screen()
        self.screens[1] = np.zeros_like(self.screens[0])
        frame = self._picture()
        self.stacked[:] = 0 if self.view.stack_padding == "zeros" else frame
        self._push(frame)
        return self._seen(), self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeat one action for a frame skip, or until the game ends or is cut."""
        lives = self.ale.lives()
        reward, terminated, truncated = self._hold(self.actions[int(action)])
        life_lost = self.ale.lives() < lives and not (terminated or truncated)
        if self.emulator.fire_after_life and life_lost and ale_py.Action.FIRE in self.actions:
            more, terminated, truncated = self._hold(ale_py.Action.FIRE)
            reward += more
        self._push(self._picture())
        return self._seen(), reward, terminated, truncated, self._info()

    def _seen(self) -> np.ndarray:
        if self.recipe.observation == "memory":
            return np.asarray(self.ale.getRAM(), np.float32) / 255
        return self.stacked.copy()

    def _info(self) -> dict[str, int]:
        """Of the state that the player is in now."""
        told = {"lives": self.ale.lives()}
        if self.emulator.room_address is not None:
            told["room"] = int(self.ale.getRAM()[self.emulator.room_address])
        return told

    def _hold(self, action: ale_py.Action) -> tuple[float, bool, bool]:
        """Hold an action for one frame skip: reward, terminated, truncated; the last two screens are kept."""
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
            if left < self.view.max_over_last:
                self.screens[left] = self._screen()
        return reward, False, False

    def follow(self, other: "AtariGame") -> None:
        """Go on from where another game of the same recipe is, with its luck: from here on, equal actions give both
        the same frames."""
        state = other.ale.cloneState(include_rng=True)
        if not other.settled:
            other.settle(other.last_action, state)
        self.settle(other.last_action, state)
        self.stacked[:] = other.stacked
        self.screens = [screen.copy() for screen in other.screens]
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

    def _screen(self) -> np.ndarray:
        if self.view.grey == "palette":
            return np.asarray(self.ale.getScreenGrayscale())
        return np.asarray(self.ale.getScreenRGB())

    def _picture(self) -> np.ndarray:
        """uint8 [height, width] of the last screens."""
        if self.view.max_over_last == 2:
            # In place, so that a step cut short shows what it had before and not the step before alone.
            np.maximum(self.screens[0], self.screens[1], out=self.screens[0])
        return picture(self.screens[0], self.view)

    def _push(self, frame: np.ndarray) -> None:
        if self.view.stack_order == "oldest_first":
            self.stacked[:-1] = self.stacked[1:]
            self.stacked[-1] = frame
        else:
            self.stacked[1:] = self.stacked[:-1]
            self.stacked[0] = frame


def picture(screen: np.ndarray, view: View) -> np.ndarray:
    """uint8 [height, width] from a screen, uint8 [210, 160] (palette grey) or [210, 160, 3]."""
    screen = screen[view.crop[0] : view.crop[1]]
    if view.grey_after is not None:
        return np.asarray(np.rint(_grey(_resized(screen, view), view)), np.uint8)
    grey = _grey(screen, view)
    if view.stretch is not None:
        low, span = grey.min(), max(float(np.ptp(grey)), 1e-6)
        grey = (grey - low) * (255 / span) + 0.5
    return _resized(grey.astype(np.uint8), view)


def _grey(colours: np.ndarray, view: View) -> np.ndarray:
    """[H, W] from [H, W, 3]: uint8 of the palette and of OpenCV, float32 of the others."""
    if view.grey == "palette":
        return colours
    if view.grey == "luminance_601":
        return np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY))
    if view.grey == "mean":
        return np.asarray(colours.mean(-1, dtype=np.float32))
    return np.asarray(colours.astype(np.float32) @ WEIGHTS[view.grey])


def _resized(screen: np.ndarray, view: View) -> np.ndarray:
    """uint8 [height, width, ...]."""
    size = (view.width, view.height)
    if view.resize != "pil_bilinear":
        return np.asarray(cv2.resize(screen, size, interpolation=FILTERS[view.resize]))
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise RecipeError("resize = 'pil_bilinear' takes Pillow; pip install pillow") from None
    return np.asarray(Image.fromarray(screen).resize(size, Image.Resampling.BILINEAR))


def rom_path(game: str) -> str:
    """Path of the ROM that ale-py carries; RecipeError when there is none of that name."""
    path = roms.get_rom_path(game) if game in roms.get_all_rom_ids() else None
    if path is None:
        raise RecipeError(f"ale-py has no game '{game}'; names are lower case with underscores, like 'ms_pacman'")
    return str(path)


def cpp_can_play(recipe: Environment) -> bool:
    """Whether ale-py's C++ vector environment expresses everything in the recipe."""
    if recipe.emulator is None:
        return False
    view = recipe.views.get("pixels", MEMORY)
    return (
        recipe.observation is None
        and view.crop == (0, 210)
        and (view.grey, view.resize) == ("palette", "area")
        and (view.stack_order, view.stack_padding) == ("oldest_first", "zeros")
        and not any((view.stretch, view.grey_after, recipe.emulator.frame_skip_max, recipe.emulator.fire_after_life))
        and recipe.emulator.room_address is None
    )
