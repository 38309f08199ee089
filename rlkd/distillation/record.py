"""A finished distillation run as JSON and as a table for the terminal."""

from rich.table import Table

from rlkd import storage
from rlkd.data import JsonDict
from rlkd.distillation.run import Result, StudentResult
from rlkd.distillation.terms import reported_temperatures
from rlkd.evaluation.record import result_record
from rlkd.recipe import Distill, Environment, recipe_hash, to_table
from rlkd.stats import failed_share, normalised_score


def run_record(result: Result, recipe: Distill, environment: Environment, *, seed: int, command: str) -> JsonDict:
    """What `run.json` keeps and `--json` prints."""
    teacher_file = result.run / "teacher.safetensors"
    random = result.random_evaluation
    return {
        "kind": "distill",
        "status": "done",
        "run": str(result.run),
        "command": command,
        "seed": seed,
        "recipe": to_table(recipe),
        "recipe_hash": recipe_hash(recipe),
        "environment": to_table(environment),
        **reported_temperatures(recipe, result.teacher.spec.kind),
        "teacher": result_record(result.teacher_evaluation, random=random, path=teacher_file)
        | {"path": str(teacher_file), "flops": result.teacher.spec.flops},
        "random": {"mean": random.mean, "scores": list(random.scores)},
        "students": [_student(entry, result, seed, environment) for entry in result.students],
        "controls": [_student(entry, result, seed, environment) for entry in result.controls],
        "states": result.states,
        "steps": result.steps,
        "frames": result.steps * environment.frame_skip,
        "seconds": {name: round(value, 2) for name, value in result.seconds.items()},
        "versions": storage.versions(),
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


def result_table(record: JsonDict) -> Table:
    """The run's table for the terminal: who, how large, how good, how alike."""
    table = Table(title=f"{record['teacher']['environment']}, {record['teacher']['protocol']}")
    table.add_column("policy")
    columns = ("parameters", "of teacher", "KB", "score [95 %]", "TN [95 %]", "failed", "agrees")
    for column in (*columns, "KL teacher's", "KL own states"):
        table.add_column(column, justify="right")
    teacher = record["teacher"]
    table.add_row("teacher", f"{teacher['parameters']:,}", "1", _kilobytes(teacher), _score(teacher), "1")
    for entry in record["students"]:
        table.add_row(entry["name"], *_cells(entry))
    table.add_section()
    for entry in record["controls"]:
        table.add_row(f"control: {entry['name'].replace('_', ' ')}", *_cells(entry), style="dim")
    table.add_row("control: random play", "", "", "", f"{record['random']['mean']:.1f}", "0", style="dim")
    return table


def _cells(entry: JsonDict) -> tuple[str, ...]:
    low, high = entry["normalised_ci95"]
    return (
        f"{entry['parameters']:,}",
        f"1/{1 / entry['parameter_ratio']:.1f}",
        _kilobytes(entry),
        _score(entry),
        f"{entry['normalised']:.3f} [{low:.2f}, {high:.2f}]",
        f"{entry['failed_share']:.0%}",
        f"{entry['agreement']:.1%}",
        f"{entry['kl_teacher_states']:.3f}",
        f"{entry['kl_student_states']:.3f}",
    )


def _score(entry: JsonDict) -> str:
    low, high = entry["ci95"]
    return f"{entry['mean']:.1f} [{low:.1f}, {high:.1f}]"


def _kilobytes(entry: JsonDict) -> str:
    return f"{entry['weight_bytes'] / 1000:,.0f}"
