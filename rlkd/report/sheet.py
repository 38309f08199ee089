"""Pictures of two games in one sprite sheet, and the player that shows them: without JavaScript still a strip."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, sqrt

import cv2
import numpy as np

from rlkd.report import words
from rlkd.report.duel import Duel, Game

MOST_BYTES = 1_000_000  # of a sheet; base64 adds a third and the page is to stay below 2 MB
MOMENTS = 6  # pictures in the strip
STEPS_PER_SECOND = 15  # agent steps; Atari's own speed at frame skip 4

Column = dict[str, list[str] | list[int]]
"""One game's texts and marks by what they say, a list with an entry for each step shown."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Many pictures of one size in one image."""

    uri: str
    """`data:` address of the image."""
    columns: int
    """Pictures beside each other."""
    rows: int
    """Pictures below each other."""
    width: int
    """Of one picture, in its own pixels."""
    height: int
    """Of one picture."""

    def position(self, place: int) -> str:
        """CSS `background-position` that shows picture number `place`."""
        row, column = divmod(place, self.columns)
        x = 100 * column / max(self.columns - 1, 1)
        y = 100 * row / max(self.rows - 1, 1)
        return f"{x:.4f}% {y:.4f}%"


def sheet(pictures: Sequence[bytes]) -> Sheet:
    """PNG pictures of one size as one image: PNG, or JPEG where that is smaller, at most MOST_BYTES where it can be."""
    tiles = [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) for content in pictures]
    images = [np.asarray(tile) for tile in tiles if tile is not None]
    if len(images) != len(pictures):
        raise RuntimeError("OpenCV cannot read its own PNG")
    high, wide = images[0].shape[:2]
    columns = max(1, min(len(images), round(sqrt(len(images) * high / wide))))  # nearly square: phones limit both sides
    rows = ceil(len(images) / columns)
    canvas = np.zeros((rows * high, columns * wide, 3), np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        canvas[row * high : (row + 1) * high, column * wide : (column + 1) * wide] = image
    kind, content = _smallest(canvas)
    return Sheet(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", columns, rows, wide, high)


def player(
    duel: Duel, pictures: Sheet, start: int, length: int, *, names: tuple[str, str], roles: tuple[str, str]
) -> str:
    """Both games side by side from `start` for `length` steps, with controls, a timeline and a strip of moments.

    Args:
        duel: the games.
        pictures: the teacher's `length` pictures, then the student's.
        start: first step shown.
        length: steps shown.
        names: their names, where they have any besides their roles.
        roles: what they are to each other, for example "the teacher" and "the student".
    """
    games = (duel.teacher, duel.student)
    columns = [_column(game, start, length) for game in games]
    data = {"length": length, "start": start, "rate": STEPS_PER_SECOND, "games": columns}
    data |= {"columns": pictures.columns, "rows": pictures.rows}
    sides = [_side(side, columns[side], names[side], roles, pictures.position(side * length)) for side in range(2)]
    size = f"{pictures.columns * 100}% {pictures.rows * 100}%"
    style = (
        f".sprite{{background-image:url({pictures.uri});background-size:{size};"
        f"aspect-ratio:{pictures.width}/{pictures.height}}}"
    )
    # The text stands in a script element, where only "<" could end it early.
    script = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<style>{style}</style>
<div class="duel" id="duel">
<div><div class="stage">{"".join(sides)}</div>
{_timeline(columns, length, roles)}
<div class="buttons" hidden>
<input type="range" min="0" max="{length - 1}" value="0" aria-label="step">
<button type="button" data-do="back" aria-label="one step back">◀</button>
<button type="button" data-do="play" class="wide">play</button>
<button type="button" data-do="next" aria-label="one step on">▶</button>
<button type="button" data-do="jump">next disagreement</button>
<output>step {start + 1}</output>
</div></div>
{_strip(columns, pictures, start, length)}
</div>
<script type="application/json" id="duel-data">{script}</script>"""


def _smallest(canvas: np.ndarray) -> tuple[str, bytes]:
    """The first encoding that fits the budget, the smaller of PNG and JPEG preferred; else the smallest tried."""
    found = [("png", _encode(canvas, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 9]))]
    for quality in (85, 70, 55, 40):
        found.append(("jpeg", _encode(canvas, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])))
        best = min(found, key=lambda pair: len(pair[1]))
        if len(best[1]) <= MOST_BYTES:
            return best
    return min(found, key=lambda pair: len(pair[1]))


def _encode(canvas: np.ndarray, suffix: str, options: list[int]) -> bytes:
    written, content = cv2.imencode(suffix, canvas, options)
    if not written:
        raise RuntimeError(f"OpenCV cannot write {suffix}")
    return content.tobytes()


def _column(game: Game, start: int, length: int) -> Column:
    """One game's texts and marks, a list of `length` each; a game that is over stands still without marks."""
    last = len(game.moments) - 1
    moments = [game.moments[min(step, last)] for step in range(start, start + length)]
    over = [game.over and step > last for step in range(start, start + length)]
    return {
        "plays": ["–" if end else moment.played for moment, end in zip(moments, over, strict=True)],
        "teacher": ["–" if end else moment.teacher for moment, end in zip(moments, over, strict=True)],
        "student": ["–" if end else moment.student for moment, end in zip(moments, over, strict=True)],
        "score": [
            f"{words.number(game.score)}, game over" if end else words.number(moment.score)
            for moment, end in zip(moments, over, strict=True)
        ],
        "differ": [int(moment.differ and not end) for moment, end in zip(moments, over, strict=True)],
    }


def _side(side: int, column: Column, name: str, roles: tuple[str, str], position: str) -> str:
    first, second = (role.removeprefix("the ") for role in roles)
    who = escape((first, second)[side])
    rows = (
        ("plays", "plays"),
        ("teacher", f"{first} prefers"),
        ("student", f"{second} prefers"),
        ("score", "score"),
    )
    texts = "".join(
        f'<dt>{escape(title)}</dt><dd data-slot="{slot}">{escape(str(column[slot][0]))}</dd>' for slot, title in rows
    )
    marked = " differ" if column["differ"][0] else ""
    return f"""<div class="side"><h3>{who} plays <small>{escape(name)}</small></h3>
<div class="screen{marked}"><div class="sprite" style="background-position:{position}" role="img"
aria-label="screen of the {who}’s game"></div></div><dl>{texts}</dl></div>"""


def _timeline(columns: Sequence[Column], length: int, roles: tuple[str, str]) -> str:
    marks = [
        f'<rect x="{step}" y="{1 + 12 * side}" width="1" height="9" class="differs"/>'
        for side, column in enumerate(columns)
        for step, differ in enumerate(column["differ"])
        if differ
    ]
    lanes = [f'<rect x="0" y="{1 + 12 * side}" width="{length}" height="9" class="lane"/>' for side in range(2)]
    head = '<rect x="0" y="0" width="0.7" height="22" class="head"/>'
    inside = "".join((*lanes, *marks, head))
    return (
        f'<svg class="timeline" viewBox="0 0 {length} 22" preserveAspectRatio="none" role="img" '
        f'aria-label="disagreements over time, {escape(roles[0])}’s game above">{inside}</svg>'
    )


def _strip(columns: Sequence[Column], pictures: Sheet, start: int, length: int) -> str:
    """A few moments as still pictures: disagreements where there are any, else evenly spaced ones."""
    marked = [step for step in range(length) if any(column["differ"][step] for column in columns)]
    pool = marked or list(range(length))
    picks = sorted({pool[round(k * (len(pool) - 1) / max(MOMENTS - 1, 1))] for k in range(MOMENTS)})
    cards = []
    for step in picks:
        screens = "".join(
            f'<span class="screen{" differ" if columns[side]["differ"][step] else ""}"><span class="sprite" '
            f'style="background-position:{pictures.position(side * length + step)}"></span></span>'
            for side in range(2)
        )
        cards.append(
            f'<button type="button" data-jump="{step}">{screens}<small>step {start + step + 1}</small></button>'
        )
    return f'<div class="strip">{"".join(cards)}</div>'
