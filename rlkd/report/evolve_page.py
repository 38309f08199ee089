"""The report of a lineage: generations of policies, each the teacher of the next."""

from collections.abc import Sequence
from html import escape

from rlkd.report import words
from rlkd.report.charts import Series, generations
from rlkd.report.curves import chart, series
from rlkd.report.family import Member, against_the_first, answers, members, spoken_role
from rlkd.report.kinship import arms_chart, arms_table, tree
from rlkd.report.page import document, figure, grid, header, listed, mark, provenance, section, table
from rlkd.report.record import Entry, Run, read_curves, table_of
from rlkd.report.side_by_side import side_by_side
from rlkd.report.verdict import FEW, Verdict, change
from rlkd.report.what_happened import time_spent, what_happened

COLUMNS = (
    *("generation", "score [95 %]", "TN to the first [95 %]", "learned from", "against its parent"),
    *("agrees", "KL", "parameters", "seed", "took"),
)


def evolve_page(run: Run) -> str:
    """The whole page."""
    line, random, everybody = run.generations, run.random_mean, members(run)
    several = any(member.line for member in everybody)
    whose = ", line 0" if several else ""  # of several lines of descent, the first is told of
    if len(line) < 2 or random is None:
        body = [
            header(run, "generations", "A lineage whose first student has not finished"),
            section("Learning", grid(_learning(run, everybody, whose))),
        ]
        return document(run, f"{run.name}, unfinished", body, script=False)
    first, last = line[0], line[-1]
    plain = not several and all(member.arm is None for member in everybody)
    above = f"generations on {first.environment} · {first.protocol} · {first.episodes} episodes a score"
    sentence = (several and against_the_first(run.record)) or _headline(first, last)
    if plain:
        caption = "Mean raw score and 95 % interval over episodes; the band is generation 0’s."
        drawn = figure(generations(line, random), caption)
    else:
        drawn = arms_chart(run)
    body = [
        header(run, above, sentence, _verdicts(line) if plain else _warning(line)),
        *(f'<h3 class="question">{escape(question)}</h3>{listed(told)}' for question, told in answers(run).items()),
        section("Score and learning", grid([drawn, *_learning(run, everybody, whose)], "three" if plain else "pair")),
        tree(run, everybody),
        "" if plain and all(not member.role for member in everybody) else arms_table(run),
        section(f"What changed from one to the next{whose}", _table(run, line, everybody)),
        what_happened(everybody),
        time_spent(everybody),
        _duel(run, first, last),
        provenance(run, [(f"generation {entry.number}", entry) for entry in line], _known(run)),
    ]
    return document(run, sentence, body, script=True)


def _known(run: Run) -> list[tuple[str, object]]:
    lines = run.record.get("lines")
    return [("operator", run.record.get("operator")), ("lines of descent", lines if lines != 1 else None)]


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
    return found + _warning(line)


def _warning(line: Sequence[Entry]) -> list[Verdict]:
    few = min(entry.episodes for entry in line)
    if 0 < few < FEW:
        return [Verdict("unsure", f"Scores rest on {few} episodes each: intervals from so few say little.")]
    return []


def _parent(entry: Entry, line: Sequence[Entry]) -> Entry | None:
    """The generation that a policy learned from, found by its hash; else the one before, where others of its own
    generation stand between the two."""
    found = next((other for other in line if other.hash and other.hash in entry.parents), None)
    return found or next((other for other in line if other.number == entry.number - 1 and entry.parent_names), None)


def _table(run: Run, line: Sequence[Entry], everybody: Sequence[Member]) -> str:
    rows, by_name = [], {member.name: member for member in everybody}
    operator = str(run.record.get("operator"))
    for entry in line:
        parent = _parent(entry, line)
        step = change(parent, entry) if parent is not None else None
        own = by_name.get(entry.name)
        described = ", ".join(_differences(parent, entry, _born(entry, own, operator)))
        sign = f"{mark(step)} {escape(step.sentence)}. " if step is not None else ""
        teachers = own.teachers(operator) if own is not None else ()
        if teachers:
            source = ", ".join(f"generation {int(name)}" if name.isdecimal() else name for name in teachers)
        elif parent is not None and own is None:
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


def _differences(parent: Entry | None, entry: Entry, born: str) -> list[str]:
    """What was done otherwise than for the parent."""
    found = []
    if parent is None:
        return [born]
    if entry.parameters != parent.parameters:
        found.append(f"{words.fraction(entry.parameters / max(parent.parameters, 1))} of its parameters")
    if entry.rule != parent.rule:
        found.append(f"plays {entry.rule}, not {parent.rule}")
    if parent.recipe_hash is not None and entry.recipe_hash != parent.recipe_hash:
        found.append("another recipe")
    return [*found, born]


def _born(entry: Entry, own: Member | None, operator: str) -> str:
    """What its weights were at first."""
    if not entry.number:
        return "the first teacher"
    if own is not None and own.how == "select":
        return f"the same as {own.chosen}, best of {len(own.parent_names)} on episodes of their own"
    if own is not None and own.starts(operator):
        return f"begins with weights of {', '.join(own.starts(operator))}"
    return f"new weights from seed {entry.seed}" if entry.seed is not None else "new weights"


def _duel(run: Run, first: Entry, last: Entry) -> str:
    files = [run.folder / "generations" / f"{entry.number:03d}" / "policy.safetensors" for entry in (first, last)]
    roles = (f"generation {first.number}", f"generation {last.number}")
    where = table_of(run.record, "environment")
    return side_by_side((files[0], files[1]), (first, last), (where, where), names=("", ""), roles=roles)


def _learning(run: Run, everybody: Sequence[Member], whose: str) -> list[str]:
    """Agreement and KL of every generation with its own teacher, from the distillation runs inside the folder."""
    lines: dict[str, list[Series | None]] = {"agreement": [], "kl": []}
    names = {folder.parent.name: folder for folder in sorted((run.folder / "generations").glob("[0-9]*/distill"))}
    shown = {name: f"generation {int(name)}" for name in names if name.isdecimal()}
    if not shown:  # who is distilled is no generation's policy, but one of those that it is chosen from
        own = {member.name: member for member in everybody if member.arm is None and not member.line}
        shown = {name: f"{own[name].number}, {spoken_role(own[name].role)}" for name in names if name in own}
    for place, (folder_name, name) in enumerate(shown.items()):
        metrics = read_curves(names[folder_name])
        for tag, found in lines.items():
            tags = sorted({key for line in metrics for key in line if key.endswith(f"/{tag}")})
            found.append(series(metrics, tags[0], name, place) if tags else None)
    agreement = chart(
        lines["agreement"],
        "agreement with its teacher",
        f"Share of held-out teacher states with the same preferred action{whose}.",
        x_title="gradient steps",
        percent=True,
    )
    kl = chart(
        lines["kl"],
        "KL from its teacher, nats",
        f"Mean KL(teacher ‖ student) on held-out teacher states{whose}.",
        x_title="gradient steps",
        wide=True,
    )
    return [agreement, kl]
