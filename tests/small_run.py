"""A small distillation run to report on, and what a browser would make of the page."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rlkd import storage
from rlkd.distillation import run_distillation
from rlkd.distillation.record import run_record
from rlkd.recipe import Distill, Network, Part, Source, Term
from tests import handmade

VOID = {"meta", "input", "br", "img", "link", "hr"}
CLOSED = {"path", "line", "rect"}  # SVG elements that may close themselves
EPISODES = 5


class Page(HTMLParser):
    """A page's elements, texts and table rows; complains about tags that do not fit."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | CLOSED
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        """All that is there to be read, with plain spaces."""
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def count(self, tag: str) -> int:
        """How many elements there are of a kind."""
        return sum(name == tag for name, _ in self.elements)


def make_run(run: Path) -> Path:
    """A small, real CartPole run; tests copy it before they change anything."""
    where = handmade.environment("cartpole", frame_cap=200, episodes=EPISODES)
    teacher = handmade.cartpole_teacher(rule="sampled", recipe=where)
    recipe = Distill(
        source=Source(states=640, num_envs=16, rounds=3),
        terms=(Term(divergence=Part("forward_kl")),),
        gradient_steps=60,
        batch_size=64,
        students=("mlp_64",),
        held_out_states=100,
    )
    students = {"tiny": handmade.TINY, "tinier": Network(encoder="mlp", hidden=(2,), activation="tanh")}
    result = run_distillation(teacher, students, recipe, run=run, seed=0, episodes=EPISODES)
    storage.write_json(run / "run.json", run_record(result, where, seed=0, command="rlkd distill teacher"))
    return run


def record(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return content
