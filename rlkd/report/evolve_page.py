"""The report of a lineage: generations of policies, each the teacher of the next."""

from collections.abc import Sequence
from html import escape

from rlkd.report import words
from rlkd.report.charts import Series, generations
from rlkd.report.curves import chart, series
from rlkd.report.page import document, figure, grid, header, mark, provenance, section, table
from rlkd.report.record import Entry, Run, read_curves, table_of
from rlkd.report.side_by_side import side_by_side
from rlkd.report.verdict import FEW, Verdict, change

COLUMNS = (
    *("generation", "score [95 %]", "TN to the first [95 %]", "learned from", "against its parent"),
    *("agrees", "KL", "parameters", "seed", "took"),
)


def evolve_page(run: Run) -> str:
    """The whole page."""
    line, random = run.generations, run.random_mean
    if len(line) < 2 or random is None:
        body = [
            header(run, "generations", "A lineage whose first student has not finished"),
            section("Learning", grid(_learning(run))),
        ]
        return document(run, f"{run.name}, unfinished", body, script=False)
    first, last = line[0], line[-1]
    above = f"generations on {first.environment} · {first.protocol} · {first.episodes} episodes a score"
    sentence = _headline(first, last)
    drawn = figure(
        generations(line, random), "Mean raw score and 95 % interval over episodes; the band is generation 0’s."
    )
    body = [
        header(run, above, sentence, _verdicts(line)),
        section("Score and learning", grid([drawn, *_learning(run)], "three")),
        section("What changed from one to the next", _table(line)),
        _duel(run, first, last),
        provenance(run, [(f"generation {entry.number}", entry) for entry in line]),
    ]
    return document(run, sentence, body, script=True)


def _headline(first: Entry, last: Entry) -> str:
    verdict = change(first, last)
    ending = {
        "good": "which is better",
        "bad": "which is worse",
        "unsure": "no change beyond the intervals",
    }[verdict.tone]
    return (
        f"After {last.number} generation{'s' if last.number > 1 else ''} the score is "
        f"{words.score(last.mean, last.ci95)}, against {words.score(first.mean, first.ci95)} at the start: {ending}."
    )


def _verdicts(line: Sequence[Entry]) -> list[Verdict]:
    found = []
    for entry in line[1:]:
        parent = _parent(entry, line)
        if parent is not None:
            step = change(parent, entry)
            words_here = f"Generation {entry.number} against generation {parent.number}: {step.sentence}."
            found.append(Verdict(step.tone, words_here))
    few = min(entry.episodes for entry in line)
    if 0 < few < FEW:
        found.append(Verdict("unsure", f"Scores rest on {few} episodes each: intervals from so few say little."))
    return found


def _parent(entry: Entry, line: Sequence[Entry]) -> Entry | None:
    """The generation that a policy learned from, found by its hash."""
    return next((other for other in line if other.hash and other.hash in entry.parents), None)


def _table(line: Sequence[Entry]) -> str:
    rows = []
    for entry in line:
        parent = _parent(entry, line)
        step = change(parent, entry) if parent is not None else None
        described = _differences(parent, entry) if parent is not None else "the first teacher"
        sign = f"{mark(step)} {escape(step.sentence)}. " if step is not None else ""
        if parent is not None:
            source = f"generation {parent.number}"
        else:
            source = ", ".join(hash_[:8] for hash_ in entry.parents) or words.MISSING
        cells = [
            str(entry.number),
            words.score(entry.mean, entry.ci95),
            words.normalised(entry.normalised, entry.normalised_ci95) if entry.number else "1",
            source,
            f'<td class="words">{sign}{escape(described)}</td>',
            words.share(entry.agreement, 1),
            words.number(entry.kl_teacher_states, 3),
            f"{entry.parameters:,}",
            words.MISSING if entry.seed is None else str(entry.seed),
            words.MISSING if entry.seconds is None else words.duration(entry.seconds),
        ]
        rows.append(("", cells))
    return table(COLUMNS, rows)


def _differences(parent: Entry, entry: Entry) -> str:
    """What was done otherwise than for the parent."""
    found = []
    if entry.parameters != parent.parameters:
        found.append(f"{words.fraction(entry.parameters / max(parent.parameters, 1))} of its parameters")
    if entry.rule != parent.rule:
        found.append(f"plays {entry.rule}, not {parent.rule}")
    if parent.recipe_hash is not None and entry.recipe_hash != parent.recipe_hash:
        found.append("another recipe")
    if entry.explorer is not None:
        explored = words.score(entry.explorer.mean, entry.explorer.ci95)
        found.append(f"from its parent, which explored first and then scored {explored}")
    found.append(f"new weights from seed {entry.seed}" if entry.seed is not None else "new weights")
    return ", ".join(found)


def _duel(run: Run, first: Entry, last: Entry) -> str:
    files = [run.folder / "generations" / f"{entry.number:03d}" / "policy.safetensors" for entry in (first, last)]
    roles = (f"generation {first.number}", f"generation {last.number}")
    where = table_of(run.record, "environment")
    return side_by_side((files[0], files[1]), (first, last), (where, where), names=("", ""), roles=roles)


def _learning(run: Run) -> list[str]:
    """Agreement and KL of every generation with its own teacher, from the distillation runs inside the folder."""
    lines: dict[str, list[Series | None]] = {"agreement": [], "kl": []}
    for place, folder in enumerate(sorted((run.folder / "generations").glob("[0-9]*/distill"))):
        metrics, name = read_curves(folder), f"generation {int(folder.parent.name)}"
        for tag, found in lines.items():
            names = sorted({key for line in metrics for key in line if key.endswith(f"/{tag}")})
            found.append(series(metrics, names[0], name, place) if names else None)
    agreement = chart(
        lines["agreement"],
        "agreement with its teacher",
        "Share of held-out teacher states with the same preferred action.",
        x_title="gradient steps",
        percent=True,
    )
    kl = chart(
        lines["kl"],
        "KL from its teacher, nats",
        "Mean KL(teacher ‖ student) on held-out teacher states.",
        x_title="gradient steps",
        wide=True,
    )
    return [agreement, kl]
