"""The report of a distillation run."""

from collections.abc import Sequence
from pathlib import Path

from rlkd.report import words
from rlkd.report.charts import dots, score_against_size, spans
from rlkd.report.curves import chart, series
from rlkd.report.page import document, figure, grid, header, provenance, section, table
from rlkd.report.record import Entry, Run, table_of
from rlkd.report.side_by_side import side_by_side
from rlkd.report.verdict import best_student, headline, verdicts

OVERLAP = "collect and learn"  # the phase in which roles run at the same time
PHASES = ("evaluate teacher and random play", OVERLAP, "evaluate students")
COLUMNS = (
    *("policy", "TN [95 %]", "score [95 %]", "of teacher", "parameters", "size", "failed", "agrees"),
    *("KL, teacher’s states", "KL, own states"),
)


def distill_page(run: Run) -> str:
    """The whole page."""
    teacher, random = run.teacher, run.random_mean
    if teacher is None or random is None:  # stopped before its first measurement
        body = [header(run, "distillation", "A distillation run that has not finished"), learning(run)]
        return document(run, f"{run.name}, unfinished", body, script=False)
    best = best_student(run.students)
    above = f"distillation on {teacher.environment} · {teacher.protocol} · {teacher.episodes} episodes a score"
    sentence = headline(teacher, best)
    body = [
        header(run, above, sentence, verdicts(teacher, run.students, run.controls, random)),
        section("Score", score_charts(run, teacher, random), score_table(run, teacher, random)),
        duel(run, teacher, best),
        learning(run),
        time_spent(run),
        provenance(run, _named(run, teacher), amounts(run)),
    ]
    return document(run, sentence, body, script=True)


def score_charts(run: Run, teacher: Entry, random: float) -> str:
    """Score against size, and normalised scores beside those of the controls."""
    against = figure(
        score_against_size(teacher, run.students, random),
        "Raw score against bytes of weights. Bars: 95 % intervals over episodes; the band is the teacher’s.",
    )
    control = figure(
        dots(run.students, run.controls),
        "0 is random play, 1 the teacher; the interval resamples episodes of all three. "
        "Controls share the first student’s network and budget; the shuffled teacher’s must fail.",
    )
    return grid([against, control])


def score_table(run: Run, teacher: Entry, random: float) -> str:
    """Teacher, students, controls and random play, a row each."""
    rows = [("", ["teacher", *_cells(teacher, teacher=True)])]
    rows += [("", [entry.name, *_cells(entry)]) for entry in run.students]
    for place, entry in enumerate(run.controls):
        rows.append(("control" if place else "control rule", [f"control: {words.plain(entry.name)}", *_cells(entry)]))
    rows.append(("control", ["control: random play", "0", words.number(random), *[""] * 7]))
    return table(COLUMNS, rows)


def _cells(entry: Entry, *, teacher: bool = False) -> list[str]:
    return [
        "1" if teacher else words.normalised(entry.normalised, entry.normalised_ci95),
        words.score(entry.mean, entry.ci95),
        "1" if teacher else words.fraction(entry.parameter_ratio),
        f"{entry.parameters:,}",
        words.size(entry.weight_bytes),
        "" if teacher else words.share(entry.failed_share),
        "" if teacher else words.share(entry.agreement, 1),
        "" if teacher else words.number(entry.kl_teacher_states, 3),
        "" if teacher else words.number(entry.kl_student_states, 3),
    ]


def duel(run: Run, teacher: Entry, best: Entry | None) -> str:
    """Teacher and one student side by side."""
    if best is None:
        return ""
    # By name alone: the run may have been moved, and a record must not lead out of its folder.
    files = (
        run.folder / (Path(teacher.path).name or "teacher.safetensors"),
        run.folder / "students" / Path(best.path).name,
    )
    names = (teacher.policy or "teacher", best.name)
    where = table_of(run.record, "environment")
    shown = table_of(run.record, "teacher_environment") or where
    return side_by_side(files, (teacher, best), (shown, where), names=names, roles=("the teacher", "the student"))


def learning(run: Run, heading: str = "Learning", x_title: str = "gradient steps") -> str:
    """Agreement and KL of every student and control against its gradient steps."""
    controls = [entry.name for entry in run.controls]
    names = [entry.name for entry in run.students] + controls
    if not names:
        names = sorted({tag.rsplit("/", 1)[0] for line in run.metrics for tag in line if tag.endswith("/kl")})
    styles = [controls.index(name) if name in controls else place for place, name in enumerate(names)]
    charts = []
    for tag, title, percent, caption in (
        (
            "agreement",
            "agreement",
            True,
            "Share of held-out teacher states with the same preferred action (of continuous actions: R² of the mean).",
        ),
        ("kl", "KL, nats", False, "Mean KL(teacher ‖ student) on held-out teacher states; lower is closer."),
    ):
        lines = [
            series(
                run.metrics, f"{name}/{tag}", words.plain(name) if name in controls else name, style, name in controls
            )
            for name, style in zip(names, styles, strict=True)
        ]
        charts.append(chart(lines, title, caption, x_title=x_title, percent=percent, wide=not percent))
    return section(heading, grid(charts))


def time_spent(run: Run) -> str:
    """Phases one after the other, and the roles that ran at the same time on the same axis."""
    seconds = {name: float(value) for name, value in table_of(run.record, "seconds").items() if _is_time(value)}
    phases = {name: value for name, value in seconds.items() if ": " not in name}
    roles = {name: value for name, value in seconds.items() if ": " in name}
    order = [name for name in PHASES if name in phases] + [name for name in phases if name not in PHASES]
    total = sum(phases.values())
    if not total:
        return ""
    starts, at = {}, 0.0
    for name in order:
        starts[name], at = at, at + phases[name]
    wall = figure(
        spans(
            [(name, starts[name], phases[name], place) for place, name in enumerate(order)], total, "Wall time by phase"
        ),
        f"Wall time, {words.duration(total)} in all.",
    )
    start = starts.get(OVERLAP, 0.0)
    ordered = sorted(roles.items(), key=lambda pair: (pair[0].split(":")[0], -pair[1]))
    rows = [(name, start, value, 3 if name.startswith("learning") else 4) for name, value in ordered]
    longest = max((start + value for value in roles.values()), default=0.0)
    busy = figure(
        spans(rows, max(total, longest), "Busy time of the roles that overlap"),
        f"Busy time of each role while “{OVERLAP}” ran, on the same axis. Roles overlap, so they add up to more "
        "than the wall time; each bar starts where the phase does, whenever its work was done.",
    )
    return section("Where the time went", grid([wall, busy] if rows else [wall]))


def amounts(run: Run) -> Sequence[tuple[str, object]]:
    """What was collected, and how many steps were taken."""
    record = run.record
    counts = (("states", "distinct states"), ("steps", "agent steps collected"), ("frames", "emulator frames"))
    numbers = [(name, f"{record[key]:,}") for key, name in counts if isinstance(record.get(key), int)]
    steps = {entry.gradient_steps for entry in (*run.students, *run.controls) if entry.gradient_steps}
    return [*numbers, ("gradient steps each", ", ".join(f"{step:,}" for step in sorted(steps)))]


def _named(run: Run, teacher: Entry) -> list[tuple[str, Entry]]:
    return [("teacher", teacher), *((entry.name, entry) for entry in (*run.students, *run.controls))]


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
