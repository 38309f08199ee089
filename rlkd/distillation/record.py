"""A finished distillation run as JSON and as a table for the terminal."""

from rich.table import Table

from rlkd import storage
from rlkd.data import JsonDict
from rlkd.distillation.games import teacher_file
from rlkd.distillation.result import Result, StudentResult
from rlkd.evaluation.record import WIDE, kilobytes, result_record, terminal_table
from rlkd.recipe import Distill, Environment, recipe_hash, to_table
from rlkd.stats import failed_share, normalised_score
from rlkd.terms import reported_temperatures


def run_record(result: Result, environment: Environment, *, seed: int, command: str) -> JsonDict:
    """What `run.json` keeps and `--json` prints."""
    about = about_run(result, result.recipe, seed=seed, command=command)
    return about | game_record(result, environment, seed=seed)


def about_run(result: Result, recipe: Distill, *, seed: int, command: str) -> JsonDict:
    """What a record says of a run, whatever it played: `result` of any of its games."""
    return {
        "kind": "distill",
        "status": "done",
        "run": str(result.run),
        "command": command,
        "seed": seed,
        "recipe": to_table(recipe),
        "recipe_hash": recipe_hash(recipe),
        "seconds": {name: round(value, 2) for name, value in result.seconds.items()},
        "versions": storage.versions(),
    }


def game_record(result: Result, environment: Environment, *, seed: int) -> JsonDict:
    """What a record says of the teachers and students of one game."""
    recipe, random = result.recipe, result.random_evaluation
    files = [teacher_file(result.run, result.game, place) for place in range(1, 2 + len(result.more_evaluations))]
    seen = result.teacher.spec.environment
    played = 1 if seen is None or seen == environment else 2  # of two views, each is a game of its own
    return {
        "environment": to_table(environment),
        **({} if seen is None or seen == environment else {"teacher_environment": to_table(seen)}),
        **reported_temperatures(recipe.terms, result.teacher.spec.kind),
        "teacher": result_record(result.teacher_evaluation, random=random, path=files[0])
        | {"path": str(files[0]), "flops": result.teacher.spec.flops},
        "more_teachers": [
            result_record(each, random=random, path=file)
            for each, file in zip(result.more_evaluations, files[1:], strict=True)
        ],
        "random": {"mean": random.mean, "scores": list(random.scores)},
        "students": [_student(entry, result, seed, environment) for entry in result.students],
        "controls": [_student(entry, result, seed, environment) for entry in result.controls],
        "states": result.states,
        "steps": result.steps,
        "data_hash": result.data_hash,
        "frames": result.steps * environment.frame_skip * played,
    }


def _student(entry: StudentResult, result: Result, seed: int, environment: Environment) -> JsonDict:
    teacher, random = result.teacher_evaluation, result.random_evaluation
    normalised = normalised_score([entry.evaluation.scores], teacher.scores, random.scores)
    spec = entry.policy.spec
    return result_record(entry.evaluation, random=random, path=entry.path) | {
        "name": entry.plan.name,
        "path": str(entry.path),
        "seed": seed,
        "parameter_ratio": spec.parameters / result.teacher.spec.parameters,
        "normalised": normalised.point,
        "normalised_ci95": [normalised.low, normalised.high],
        "failed_share": failed_share(entry.evaluation.scores, teacher.scores, random.scores),
        "agreement": entry.agreement,
        "kl_teacher_states": entry.kl_teacher_states,
        "kl_student_states": entry.kl_student_states,
        "flops": spec.flops,
        "frames": result.steps * environment.frame_skip,
        "gradient_steps": entry.gradient_steps,
    }


def result_table(record: JsonDict, *, width: int = WIDE) -> Table:
    """The run's table for the terminal, `width` characters wide: who, how large, how good, how alike."""
    teacher, random = record["teacher"], record["random"]
    table = terminal_table(f"{teacher['environment']}, {teacher['protocol']}", caption="below the line: controls")
    headers = ["parameters", "of teacher", "KB", "score [95 %]", "TN [95 %]", "failed", "agrees", "KL", "KL own states"]
    if width < WIDE:
        headers = ["parameters", "of\nteacher", "score", "TN [95 %]", "failed", "agrees"]
    table.add_column("policy")
    for header in headers:
        table.add_column(header, justify="right")
    rows = [("teacher", _size(teacher) | {"of teacher": "1", "TN [95 %]": "1"})]
    rows += [(f"teacher {place}", _size(entry)) for place, entry in enumerate(record["more_teachers"], 2)]
    rows += [(entry["name"], _cells(entry)) for entry in record["students"]]
    controls = [(entry["name"].replace("_", " "), _cells(entry)) for entry in record["controls"]]
    controls.append(("random play", {"score": f"{random['mean']:.1f}", "TN [95 %]": "0"}))
    for style, group in ((None, rows), ("dim", controls)):
        for name, cells in group:
            table.add_row(name, *(_cell(cells, header) for header in headers), style=style)
        table.add_section()
    return table


def _cell(cells: dict[str, str], header: str) -> str:
    header = header.replace("\n", " ")
    return cells.get(header) or cells.get(header.removesuffix(" [95 %]"), "")


def _size(entry: JsonDict) -> dict[str, str]:
    low, high = entry["ci95"]
    score = f"{entry['mean']:.1f}"
    return {
        "parameters": f"{entry['parameters']:,}",
        "KB": kilobytes(entry),
        "score": score,
        "score [95 %]": f"{score} [{low:.1f}, {high:.1f}]",
    }


def _cells(entry: JsonDict) -> dict[str, str]:
    (low, high), ratio = entry["normalised_ci95"], entry["parameter_ratio"]
    return _size(entry) | {
        "of teacher": of_teacher(ratio),
        "TN [95 %]": f"{entry['normalised']:.3f} [{low:.2f}, {high:.2f}]",
        "failed": f"{entry['failed_share']:.0%}",
        "agrees": f"{entry['agreement']:.1%}",
        "KL": f"{entry['kl_teacher_states']:.3f}",
        "KL own states": f"{entry['kl_student_states']:.3f}",
    }


def of_teacher(ratio: float) -> str:
    """A share of the teacher's parameters: `1/27.1`, or `1.5 x` where it is more than all."""
    return f"1/{1 / ratio:.1f}" if ratio < 1 else f"{ratio:.1f} x"
