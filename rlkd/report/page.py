"""The page around the charts: document, sections, tables, provenance. Every text that comes from outside is escaped."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rlkd import recipe
from rlkd.errors import RecipeError
from rlkd.recipe import Distill, Dqn, Environment, Generations, Ppo, Recipe, Sb3, build
from rlkd.report.record import Entry, Run, table_of
from rlkd.report.verdict import Verdict

MARKS = {"good": ("✓", "yes"), "bad": ("✗", "no"), "unsure": ("~", "open")}
# The browser itself refuses whatever would leave the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(run: Run, title: str, body: Iterable[str], *, script: bool) -> str:
    """A whole HTML page with its style and, if `script`, the player, all inline."""
    parts = list(body)
    style, code = _asset("page.css"), f"<script>{_asset('player.js')}</script>" if script else ""
    banner = [] if run.finished else [_banner(run)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{"".join((*banner, *parts))}
</main>
{code}
</body>
</html>
"""


def header(run: Run, above: str, headline: str, verdicts: Sequence[Verdict] = ()) -> str:
    """The first screen: what this is, the main sentence, what speaks for and against it."""
    words = f"{above} · run {run.name}"
    return f'<header><p class="quiet">{escape(words)}</p><h1>{escape(headline)}</h1>{listed(verdicts)}</header>'


def listed(verdicts: Sequence[Verdict]) -> str:
    """Verdicts as a list; nothing where there are none."""
    items = "".join(f"<li>{mark(verdict)}<span>{escape(verdict.sentence)}</span></li>" for verdict in verdicts)
    return f'<ul class="verdicts">{items}</ul>' if items else ""


def mark(verdict: Verdict) -> str:
    """A verdict's sign, in shape, colour and, for screen readers, words."""
    sign, words = MARKS[verdict.tone]
    return f'<b class="{verdict.tone}" role="img" aria-label="{words}">{sign}</b>'


def section(title: str, *parts: str) -> str:
    """A titled section; nothing where it would be empty."""
    inside = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{inside}</section>" if inside else ""


def figure(drawing: str, caption: str) -> str:
    """A chart with a plain-text caption, if it needs one."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{drawing}{below}</figure>"


def grid(figures: Iterable[str], style: str = "pair") -> str:
    """Figures beside each other where the screen is wide enough."""
    inside = "".join(figures)
    return f'<div class="{style}">{inside}</div>' if inside else ""


def paragraph(words: str, style: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{style}">{escape(words)}</p>' if style else f"<p>{escape(words)}</p>"


def table(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table that scrolls sideways on a narrow screen.

    Args:
        columns: plain-text titles.
        rows: CSS class of the row, and its cells as plain text; a cell that starts with "<td" is markup already.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = []
    for style, cells in rows:
        inside = "".join(cell if cell.startswith("<td") else f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr class="{style}">{inside}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values; pairs whose value is None or empty are left out."""
    kept = [(name, value) for name, value in pairs if value not in (None, "", [], {})]
    inside = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in kept)
    return f'<dl class="facts">{inside}</dl>' if inside else ""


def folded(title: str, content: str) -> str:
    """Preformatted plain text behind a title that opens it."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(content)}</pre></details>"


def provenance(run: Run, entries: Sequence[tuple[str, Entry]], extra: Iterable[tuple[str, object]] = ()) -> str:
    """Command, seed, protocol, versions, recipes as TOML and hashes: what is needed to make it again."""
    record = run.record
    first = entries[0][1] if entries else None
    versions = ", ".join(f"{name} {value}" for name, value in sorted(table_of(record, "versions").items()))
    seeds = f"{min(first.seeds)} to {max(first.seeds)}" if first is not None and first.seeds else None
    known = [
        ("command", record.get("command")),
        ("training seed", record.get("seed")),
        ("environment", ", ".join(dict.fromkeys(entry.environment for _, entry in entries if entry.environment))),
        ("protocol", ", ".join(dict.fromkeys(entry.protocol for _, entry in entries if entry.protocol))),
        ("episodes a score", first.episodes or None if first else None),
        ("episode seeds", seeds),
        ("action rule", first.rule if first else None),
        *extra,
        ("versions", versions),
        ("recipe hash", record.get("recipe_hash")),
    ]
    hashes = "\n".join(f"{entry.hash or '-':64}  {name}" for name, entry in entries)
    return section(
        "How to make it again",
        facts(known),
        _recipe("distillation recipe", table_of(record, "recipe"), (Distill, Ppo, Dqn, Sb3)),
        _recipe("generations recipe", table_of(record, "rule"), (Generations,)),
        _recipe("training recipe", table_of(record, "training"), (Ppo,)),
        _recipe("agent recipe", table_of(record, "agent"), (Ppo, Dqn, Sb3, Distill)),
        *(
            _recipe("environment recipe", table_of(each.record, "environment"), (Environment,))
            for each in (run, *run.games)
        ),
        folded("policy hashes (SHA-256 over weights and record)", hashes) if hashes else "",
    )


def _recipe(title: str, values: Mapping[str, Any], kinds: Sequence[type[Recipe]]) -> str:
    """A recipe as TOML; as JSON where this version cannot read it."""
    if not values:
        return ""
    for kind in kinds:
        try:
            return folded(f"{title} (TOML)", recipe.dump(build(kind, values, where=title)))
        except RecipeError:
            continue
    return folded(f"{title} (JSON)", json.dumps(values, indent=2, sort_keys=True))


def _banner(run: Run) -> str:
    what = "There is no run.json yet" if not run.record else "run.json says that it is still running"
    words = (
        f"This run has not finished. {what}; shown is what it has recorded so far. The same command goes on with it."
    )
    return f'<p class="banner"><strong>Stopped or still running.</strong> {escape(words)}</p>'


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
