"""What is seen of an Atari game: pictures, with every preprocessing choice of a view, or the console's memory."""

from typing import Self

import ale_py
import cv2
import gymnasium
import numpy as np

from rlkd.errors import RecipeError
from rlkd.recipe import View

WEIGHTS = {
    "luminance": np.array([0.2126, 0.7152, 0.0722], np.float32),
    "luminance_skimage": np.array([0.2125, 0.7154, 0.0721], np.float32),
}
"""Of red, green and blue, by the name of the grey."""
FILTERS = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR}


class Pictures:
    """Stacks of the last frames, uint8 [stack, height, width]."""

    def __init__(self, ale: ale_py.ALEInterface, view: View) -> None:
        self.ale, self.view = ale, view
        shape = (view.stack, view.height, view.width)
        self.space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.stacked = np.zeros(shape, np.uint8)
        self.screens = [self._screen(), self._screen()]

    def begin(self) -> None:
        """A new game has begun."""
        self.screens[0] = self._screen()
        self.screens[1] = np.zeros_like(self.screens[0])
        self.stacked[:] = 0 if self.view.stack_padding == "zeros" else picture(self.screens[0], self.view)

    def look(self, left: int) -> None:
        """A frame was played, before so many more of the same step."""
        if left < self.view.max_over_last:
            self.screens[left] = self._screen()

    def seen(self) -> np.ndarray:
        """The stack behind a step, or at a game's beginning; once for each."""
        if self.view.max_over_last == 2:
            # In place, so that a step cut short shows what it had before and not the step before alone.
            np.maximum(self.screens[0], self.screens[1], out=self.screens[0])
        frame = picture(self.screens[0], self.view)
        if self.view.stack_order == "oldest_first":
            self.stacked[:-1] = self.stacked[1:]
            self.stacked[-1] = frame
        else:
            self.stacked[1:] = self.stacked[:-1]
            self.stacked[0] = frame
        return self.stacked.copy()

    def follow(self, other: Self) -> None:
        """Have seen what another has."""
        self.stacked[:] = other.stacked
        self.screens = [screen.copy() for screen in other.screens]

    def _screen(self) -> np.ndarray:
        if self.view.grey == "palette":
            return np.asarray(self.ale.getScreenGrayscale())
        return np.asarray(self.ale.getScreenRGB())


class Memory:
    """The console's memory, float32 [128] in [0, 1]: nothing of what was before is needed."""

    def __init__(self, ale: ale_py.ALEInterface) -> None:
        self.ale = ale
        self.space = gymnasium.spaces.Box(0, 1, (128,), np.float32)

    def begin(self) -> None:
        """A new game has begun."""

    def look(self, left: int) -> None:
        """A frame was played."""

    def seen(self) -> np.ndarray:
        """The memory as it is."""
        return np.asarray(self.ale.getRAM(), np.float32) / 255


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
