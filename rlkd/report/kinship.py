"""Sections of a lineage's page that bring several lines, arms and roles together."""

from collections.abc import Sequence

from rlkd.lineage.lines import CONTROLS, Group, groups
from rlkd.report import words
from rlkd.report.family import Member, spoken_role
from rlkd.report.lineage_charts import Curve, by_generation
from rlkd.report.page import figure, section, table
from rlkd.report.record import Run
from rlkd.report.tree import family_tree, style_of

COLUMNS = ("who", "generation", "lines", "TN to the first [95 %]", "score [95 %]", "agrees", "parameters")
MEASURED = {
    "entropy": ("child", "entropy_student_states"),
    "rank": ("child", "effective_rank"),
    "calibration error": ("first", "calibration_error"),
}
"""Where `measures` has what tells arms apart; the first teacher is the same for all."""


def tree(run: Run, everybody: Sequence[Member]) -> str:
    """The family tree; nothing where nobody's parents are told by name."""
    if len(everybody) < 2:
        return ""
    drawn = family_tree(everybody, str(run.record.get("operator")))
    caption = (
        "Each box is a policy with its teacher-normalised score, generations from left to right. Lines end at who was "
        "made; a pointer over a box shows its name and interval."
    )
    return section("Family tree", figure(drawn, caption))


def arms_chart(run: Run) -> str:
    """Scores by generation, a curve an arm; controls are grey, most of them single points."""
    by_name: dict[str, list[Group]] = {}
    for group in groups(run.record["steps"]):
        if not group.role or group.role in CONTROLS:
            by_name.setdefault(group.name, []).append(group)
    curves, controls = [], 0
    for name, found in by_name.items():
        told = [group.normalised for group in found]
        dim = bool(found[0].role)
        curves.append(
            Curve(
                name,
                tuple(group.number for group in found),
                tuple(estimate.point for estimate in told),
                tuple((estimate.low, estimate.high) for estimate in told),
                controls if dim else style_of(found[0].arm),
                dim,
            )
        )
        controls += dim
    return figure(by_generation(curves), f"{_caption(run)} An interval without a cap goes on beyond the chart.")


def arms_table(run: Run) -> str:
    """The same figures in words, and those of everybody on the way; what was measured of nobody gets no column."""
    rows: list[tuple[str, list[str]]] = []
    before, found = "", groups(run.record["steps"])
    told = [name for name, way in MEASURED.items() if any(_measured(group, way) is not None for group in found)]
    for group in found:
        name = spoken_role(group.role) or group.name
        estimate, raw, agreement = group.normalised, group.score, group.mean_of("agreement")
        cells = [
            name if name != before else "",
            str(group.number),
            str(len(group.records)),
            words.normalised(estimate.point, (estimate.low, estimate.high)),
            words.score(raw.point, (raw.low, raw.high)),
            "" if agreement is None else words.share(agreement, 1),
            f"{group.records[0]['parameters']:,}",
            *(_cell(_measured(group, MEASURED[name])) for name in told),
        ]
        rows.append(("" if name == before or not rows else "rule", cells))
        before = name
    caption = _caption(run)
    if told:
        caption += " Entropy, in nats, is where each plays itself; calibration is against the first teacher."
    return section("Every arm and generation", table((*COLUMNS, *told), rows), f'<p class="quiet">{caption}</p>')


def _measured(group: Group, way: Sequence[str]) -> float | None:
    return group.mean_of("measures", *way)


def _cell(value: float | None) -> str:
    return words.number(value, 3 if value is None or abs(value) < 10 else 1)


def _caption(run: Run) -> str:
    lines = len({row["line"] for row in run.record["steps"]})
    if lines == 1:
        return "One line: intervals are over episodes, and one seed shows nothing about seeds."
    return f"Means over {lines} lines of descent with Student’s 95 % intervals; a line counts once."
