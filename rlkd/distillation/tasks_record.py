"""A finished run of several games as JSON and as tables for the terminal."""

from collections.abc import Sequence

import numpy as np
from rich.console import Group

from rlkd.data import JsonDict
from rlkd.distillation.record import about_run, game_record, of_teacher, result_table
from rlkd.distillation.result import Result, StudentResult
from rlkd.evaluation.record import WIDE, kilobytes, terminal_table
from rlkd.recipe import Distill
from rlkd.stats import normalised_over_games


def tasks_record(results: Sequence[Result], recipe: Distill, *, seed: int, command: str) -> JsonDict:
    """What `run.json` keeps and `--json` prints.

    Args:
        results: of each game.
        recipe: with `[tasks]`.
        seed: of the run.
        command: that made it.

    Returns:
        `tasks` holds for each game what the record of a run of one game does. `students` and `controls` are those of
        all games together: parameters (what is shared counted once), geometric mean of TN, means of agreement and KL.
    """
    games = []
    for result in results:
        environment = result.teacher.spec.environment
        assert environment is not None
        games.append({"name": result.game, **game_record(result, environment, seed=seed)})
    whole = about_run(results[0], recipe, seed=seed, command=command)
    for group in ("students", "controls"):
        entries = zip(*(result.students if group == "students" else result.controls for result in results), strict=True)
        records = zip(*(game[group] for game in games), strict=True)
        whole[group] = [_whole(*pair, results) for pair in zip(entries, records, strict=True)]
    sums = {name: sum(game[name] for game in games) for name in ("states", "steps", "frames")}
    return whole | {"tasks": games} | sums


def _whole(entries: Sequence[StudentResult], records: Sequence[JsonDict], results: Sequence[Result]) -> JsonDict:
    """One student over all games."""
    scores = [
        ([entry.evaluation.scores], result.teacher_evaluation.scores, result.random_evaluation.scores)
        for entry, result in zip(entries, results, strict=True)
    ]
    normalised = normalised_over_games(scores)
    spec = entries[0].policy.spec
    shared = sum(weight.numel() for weight in entries[0].policy.network.encoder.parameters())
    parameters = sum(entry.policy.spec.parameters for entry in entries) - (len(entries) - 1) * shared
    lowest = min(range(len(records)), key=lambda place: float(records[place]["normalised"]))
    return {
        "name": entries[0].plan.name,
        "paths": {result.game: str(entry.path) for entry, result in zip(entries, results, strict=True)},
        "seed": records[0]["seed"],
        "parameters": parameters,
        "weight_bytes": parameters * (spec.weight_bytes // spec.parameters),
        "parameter_ratio": parameters / sum(result.teacher.spec.parameters for result in results),
        "normalised": normalised.point,
        "normalised_ci95": [normalised.low, normalised.high],
        "lowest": {"name": results[lowest].game, "normalised": records[lowest]["normalised"]},
        **{
            name: float(np.mean([record[name] for record in records]))
            for name in ("agreement", "kl_teacher_states", "kl_student_states")
        },
        "frames": sum(record["frames"] for record in records),
        "gradient_steps": sum(entry.gradient_steps for entry in entries),
    }


def tasks_table(record: JsonDict, *, width: int = WIDE) -> Group:
    """The run's tables for the terminal, `width` characters wide: all games together, then each."""
    games = record["tasks"]
    caption = "TN over games: geometric mean, below random play counts as 0; below the line: controls"
    table = terminal_table(f"{len(games)} games: {', '.join(game['name'] for game in games)}", caption=caption)
    headers = ["parameters", "of teachers", "KB", "TN over games [95 %]", "lowest TN", "agrees"]
    if width < WIDE:
        headers = ["parameters", "of\nteachers", "TN over games\n[95 %]", "lowest TN"]
    table.add_column("student")
    for header in headers:
        table.add_column(header, justify="right")
    for style, group in ((None, "students"), ("dim", "controls")):
        for entry in record[group]:
            low, high = entry["normalised_ci95"]
            cells = {
                "parameters": f"{entry['parameters']:,}",
                "of teachers": of_teacher(entry["parameter_ratio"]),
                "KB": kilobytes(entry),
                "TN over games [95 %]": f"{entry['normalised']:.3f} [{low:.2f}, {high:.2f}]",
                "lowest TN": f"{entry['lowest']['normalised']:.3f} {entry['lowest']['name']}",
                "agrees": f"{entry['agreement']:.1%}",
            }
            row = [cells[header.replace("\n", " ")] for header in headers]
            table.add_row(entry["name"].replace("_", " ") if style else entry["name"], *row, style=style)
        table.add_section()
    return Group(table, *(result_table(game, width=width) for game in games))
