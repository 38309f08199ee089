"""The report of a distillation of several games into students that play them all."""

from dataclasses import replace

from rlkd.report import words
from rlkd.report.charts import dots
from rlkd.report.distill_page import amounts, duel, learning, score_charts, score_table, time_spent
from rlkd.report.page import document, figure, grid, header, provenance, section, table
from rlkd.report.record import Entry, Run
from rlkd.report.verdict import FAILED, best_student, few_episodes, over_games


def tasks_page(run: Run) -> str:
    """The whole page: all games together, then each."""
    best = best_student(run.students)
    names = [str(game.record["name"]) for game in run.games]
    sentence = _headline(best, len(names))
    entries = [
        (f"{name}: {entry.name or 'teacher'}", entry)
        for game, name in zip(run.games, names, strict=True)
        for entry in (game.teacher, *game.students, *game.controls)
        if entry is not None
    ]
    few = few_episodes([entry for _, entry in entries])
    found = [*over_games(run.students, run.controls), *([] if few is None else [few])]
    body = [
        header(run, f"distillation of {', '.join(names)}", sentence, found),
        section("All games", _charts(run, best, names), _table(run, names)),
    ]
    for game, name in zip(run.games, names, strict=True):
        assert game.teacher is not None
        assert game.random_mean is not None
        charts = score_charts(game, game.teacher, game.random_mean)
        body += [
            section(name, charts, score_table(game, game.teacher, game.random_mean)),
            learning(game, f"Learning: {name}", "gradient steps, over all games"),
        ]
    body += [_hardest(run, best, names), time_spent(run), provenance(run, entries, amounts(run))]
    return document(run, sentence, body, script=True)


def _headline(best: Entry | None, games: int) -> str:
    if best is None or best.normalised is None or best.normalised_ci95 is None:
        return "No student has been measured."
    figures = words.normalised(best.normalised, best.normalised_ci95)
    if best.normalised <= FAILED:
        return f"No student learned to play all {games} games: {best.name}, the best, is at {figures} over them."
    size = words.fraction(best.parameter_ratio)
    return (
        f"{best.name} plays {games} games at {figures} of their teachers’ leads over random play, with {size} of the "
        "parameters of all teachers together."
    )


def _of(game: Run, name: str) -> Entry | None:
    """A student or control in one game, by its name."""
    return next((entry for entry in (*game.students, *game.controls) if entry.name == name), None)


def _charts(run: Run, best: Entry | None, names: list[str]) -> str:
    over = figure(
        dots(run.students, run.controls),
        "Geometric mean over games; a score below random play counts as 0, so that one game not learnt makes it 0. The "
        "interval resamples episodes of each game’s student, teacher and random play.",
    )
    found = [] if best is None else [(_of(game, best.name), name) for game, name in zip(run.games, names, strict=True)]
    rows = [replace(entry, name=name) for entry, name in found if entry is not None]
    by_game = figure(dots(rows, ()), f"{best.name} in each game." if best is not None else "")
    return grid([over, by_game] if rows else [over])


def _table(run: Run, names: list[str]) -> str:
    columns = (
        "student",
        "TN over games [95 %]",
        "of teachers",
        "parameters",
        "size",
        *(f"TN {name}" for name in names),
    )
    rows = []
    for place, entry in enumerate((*run.students, *run.controls)):
        control = place >= len(run.students)
        style = ("control" if place > len(run.students) else "control rule") if control else ""
        own = [_of(game, entry.name) for game in run.games]
        cells = [
            f"control: {words.plain(entry.name)}" if control else entry.name,
            words.normalised(entry.normalised, entry.normalised_ci95),
            words.fraction(entry.parameter_ratio),
            f"{entry.parameters:,}",
            words.size(entry.weight_bytes),
            *(words.number(None if each is None else each.normalised, 2) for each in own),
        ]
        rows.append((style, cells))
    return table(columns, rows)


def _hardest(run: Run, best: Entry | None, names: list[str]) -> str:
    """Teacher and best student side by side in the game where it keeps least."""
    found = []
    for game, name in zip(run.games, names, strict=True):
        entry = None if best is None else _of(game, best.name)
        if entry is not None and entry.normalised is not None and game.teacher is not None:
            found.append((entry.normalised, name, game, game.teacher, entry))
    if not found:
        return ""
    _, name, game, teacher, entry = min(found, key=lambda each: each[0])
    return duel(game, teacher, replace(entry, name=f"{entry.name} in {name}, where it keeps least"))
