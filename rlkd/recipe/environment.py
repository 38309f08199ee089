"""The environment recipe: all that changes the picture or the score. Under each field stands its meaning."""

from dataclasses import dataclass, field
from typing import Literal

from rlkd.recipe.read import require

EVALUATION_SEEDS = 900_000
"""Environment seeds from here on belong to evaluation, those below to collecting and learning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """How an Atari game is played, apart from its picture. Absent for environments that are not Atari."""

    action_set: Literal["minimal", "full"]
    """The game's own actions, or all 18."""
    frame_skip: int
    """Emulator frames per agent step; the action is repeated."""
    sticky_probability: float
    """Chance that a frame repeats the previous action. Machado et al., arXiv:1709.06009: 0.25."""
    noop_max: int
    """A new game starts with fewer emulator frames of NOOP than this, FIRE included, drawn from the episode's seed."""
    fire_on_reset: bool
    """Press FIRE once after a reset where the game has the action."""
    lives: Literal["game", "life"]
    """What a learner takes as the end of an episode: the game, or a lost life (the game goes on, as in Mnih
    et al. 2015). Scores always count the whole game."""
    frame_skip_max: int | None = None
    """Largest of a random frame skip: every step draws one from `frame_skip` to this, each alike, as the `-v0` and
    `-v4` ids of gym do with 2 to 4. Unset: always `frame_skip`."""
    fire_after_life: Literal["press"] | None = None
    """`press`: when a life was lost, FIRE is pressed for one more frame skip within the same step, so that the game
    goes on. Unset: whoever plays has to do it."""
    room_address: int | None = None
    """Byte of the console's 128 that says in which room the player is: rooms seen are counted. Such games run in worker
    processes, because ale-py's C++ vector environment does not show the console's memory."""

    def __post_init__(self) -> None:
        require(self.frame_skip >= 1, f"frame_skip must be at least 1, got {self.frame_skip}")
        most = self.frame_skip if self.frame_skip_max is None else self.frame_skip_max
        require(most >= self.frame_skip, f"frame_skip_max must be at least frame_skip, got {most}")
        require(self.noop_max >= 0, f"noop_max must be at least 0, got {self.noop_max}")
        place = self.room_address
        require(place is None or 0 <= place < 128, f"room_address must be in 0..127, got {place}")
        require(
            0 <= self.sticky_probability < 1,
            f"sticky_probability must be in [0, 1), got {self.sticky_probability}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How an emulator screen of 210 x 160 becomes an observation [stack, height, width], uint8."""

    max_over_last: Literal[1, 2]
    """Pixel-wise maximum over this many last frames of a step; 2 removes sprite flicker."""
    crop: tuple[int, int]
    """First and last row kept, before resizing; (0, 210) keeps all."""
    grey: Literal["palette", "luminance", "luminance_601", "luminance_skimage", "mean"]
    """ALE's grey palette; RGB weighted by Rec. 709 (0.2126, 0.7152, 0.0722), by Rec. 601 as OpenCV does (0.299, 0.587,
    0.114), or by scikit-image's 0.2125, 0.7154, 0.0721; or the plain mean of RGB."""
    resize: Literal["area", "bilinear", "pil_bilinear"]
    """OpenCV INTER_AREA; INTER_LINEAR without antialiasing; or Pillow's BILINEAR, which antialiases."""
    height: int
    """Rows of the observation, in pixels."""
    width: int
    """Columns of the observation, in pixels."""
    stack: int
    """Frames in one observation, `frame_skip` emulator frames apart."""
    stack_order: Literal["oldest_first", "newest_first"]
    """Where the newest frame stands."""
    stack_padding: Literal["zeros", "repeat"]
    """What stands for frames before the episode began: zeros, or its first frame."""
    stretch: Literal["frame"] | None = None
    """`frame`: the darkest and brightest grey of each frame become 0 and 255 before resizing, as `imresize` of old
    SciPy did. Unset: greys stay."""
    grey_after: Literal["resize"] | None = None
    """`resize`: the three colours are resized, then made grey. Unset: grey first."""

    def __post_init__(self) -> None:
        for name in ("height", "width", "stack"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")
        require(
            0 <= self.crop[0] < self.crop[1] <= 210,
            f"crop must be rows first < last within 0..210, got {list(self.crop)}",
        )
        require(
            self.grey_after is None or (self.grey != "palette" and self.stretch is None),
            "grey_after = 'resize' needs colours: it goes with neither grey = 'palette' nor stretch",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How policies are scored here: raw score, whole game, every episode with its own seed."""

    name: str
    """What results are filed under; two results compare only under one name."""
    episodes: int = 100
    """Episodes per score."""
    first_seed: int = 1_000_000
    """Episode k plays with environment seed `first_seed + k`; training never uses these."""

    def __post_init__(self) -> None:
        require(self.episodes >= 1, f"episodes must be at least 1, got {self.episodes}")
        require(
            self.first_seed >= EVALUATION_SEEDS,
            f"first_seed must be at least {EVALUATION_SEEDS:_}, got {self.first_seed}: below are the seeds of training",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a policy plays: everything that changes the picture or the score."""

    source: Literal["ale", "gymnasium"]
    """`ale`: an Atari game. `gymnasium`: any registered gymnasium id."""
    id: str
    """ROM name ("ms_pacman") or gymnasium id ("CartPole-v1")."""
    frame_cap: int
    """Emulator frames (Atari) or steps after which an episode is truncated."""
    protocol: Protocol
    """The evaluation protocol."""
    emulator: Emulator | None = None
    """Atari only."""
    views: dict[str, View] = field(default_factory=dict)
    """Atari only: observation views by name; `pixels` is what policies read."""
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """gymnasium only: keyword arguments of `gymnasium.make`."""
    observation: Literal["symbols", "time", "memory"] | None = None
    """`memory`, of Atari: the console's 128 bytes, float32 in [0, 1], in the place of [views.pixels]. The others belong
    to gymnasium: `symbols` takes of a MiniGrid observation the picture in symbols, float32 [3, rows, columns]:
    object, colour and state of each cell in view. `time` appends to a vector the share of `frame_cap` that is left,
    from 1 to 0, as the RL Zoo's TimeFeatureWrapper does. Unset: the observation as it is."""

    entries: tuple[int, ...] | None = None
    """gymnasium only: which numbers of a vector are seen, by their places from 0, so that a player may know less than
    there is. Unset: all."""
    layout_seed: int | None = None
    """gymnasium only: every episode begins from this seed, so that a drawn layout is always the same one. Unset: each
    episode has its own."""
    at_frame_cap: Literal["terminates"] | None = None
    """What the end by `frame_cap` is for who learns: `terminates`, an end like the game's own, as in Burda et al. 2018.
    Unset: a cut, behind which play would have gone on."""

    def __post_init__(self) -> None:
        atari = self.source == "ale"
        require(self.frame_cap >= 1, f"frame_cap must be at least 1, got {self.frame_cap}")
        require(atari == (self.emulator is not None), "[emulator] belongs to source = 'ale', and only there")
        memory = self.observation == "memory"
        pixels = "pixels" in self.views if atari and not memory else not self.views
        require(
            pixels, "[views.pixels] belongs to source = 'ale', and only there, and not beside observation = 'memory'"
        )
        require(not (atari and self.options), "options belong to source = 'gymnasium'")
        home = "ale" if memory else "gymnasium"
        belongs = f"observation = '{self.observation}' belongs to source = '{home}'"
        require(self.observation is None or self.source == home, belongs)
        require(not (atari and self.entries), "entries belong to source = 'gymnasium'")
        require(not atari or self.layout_seed is None, "layout_seed belongs to source = 'gymnasium'")

    @property
    def ends_with_life(self) -> bool:
        """Whether a lost life ends an episode for who learns."""
        return self.emulator is not None and self.emulator.lives == "life"

    @property
    def frame_skip(self) -> int:
        """Emulator frames per agent step, the mean of a random frame skip; 1 where there is no emulator."""
        if self.emulator is None:
            return 1
        return (self.emulator.frame_skip + (self.emulator.frame_skip_max or self.emulator.frame_skip)) // 2
