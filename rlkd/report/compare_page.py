"""The report of a study: who is better than whom, where, and how it came."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlkd.errors import StorageError
from rlkd.report import words
from rlkd.report.charts import Series
from rlkd.report.curves import chart
from rlkd.report.page import document, facts, folded, grid, header, section, table
from rlkd.report.record import Run, read_curves, table_of
from rlkd.report.verdict import Verdict
from rlkd.study.cell import short

POINTS = 60  # of a curve over seeds
TONES = {"better": "good", "worse": "bad"}
CURVES = (
    ("rollout/ep_rew_mean", "mean score", "Mean raw score of the last episodes in training, mean over seeds."),
    ("rollout/rooms", "rooms", "Different rooms seen so far in training, mean over seeds."),
    ("advantage/bonus", "share of the bonus", "Share of the bonus in the advantages' size, mean over seeds."),
    ("bonus/deviation", "deviation of the bonus", "What the bonus is divided by: it never forgets, mean over seeds."),
)
COLUMNS = ("environment", "agent", "score [95 %]", "difference [95 %]", "P(better)", "verdict", "seed by seed")


def compare_page(run: Run) -> str:
    """The whole page."""
    told = table_of(run.record, "verdicts")
    order = table_of(run.record, "order")
    agents, environments = (list(map(str, order.get(key) or ())) for key in ("agents", "environments"))
    above = f"{len(agents)} agents · {len(environments)} environments · {run.record.get('seeds')} seeds"
    if run.finished and not told:
        raise StorageError(f"{run.folder / 'run.json'}: damaged, no table 'verdicts'; run its command again")
    if not told:
        body = [header(run, above, "A study that has not finished"), *_curves(run, agents, environments)]
        return document(run, f"{run.name}, unfinished", body, script=False)
    try:
        verdicts = _verdicts(told, agents, environments)
        rows, suite = _rows(told, agents, environments), _suite(told, agents)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StorageError(f"{run.folder / 'run.json'}: damaged: {error}; run its command again") from None
    sentence = _headline(verdicts, agents)
    body = [
        header(run, above, sentence, verdicts),
        section("Scores", table(COLUMNS, rows)),
        section("Over all environments", *suite),
        *_curves(run, agents, environments),
        _provenance(run),
    ]
    return document(run, sentence, body, script=False)


def _headline(verdicts: Sequence[Verdict], agents: Sequence[str]) -> str:
    if len(agents) == 1:
        return f"Scores of {agents[0]}."
    if all("too few seeds" in verdict.sentence for verdict in verdicts):
        return "Too few seeds to say what differs."
    clear = [verdict for verdict in verdicts if verdict.tone != "unsure"]
    if not clear:
        return f"No difference to {agents[0]} is seen beyond the intervals."
    better = sum(verdict.tone == "good" for verdict in clear)
    return f"Against {agents[0]}: better in {better}, worse in {len(clear) - better} of {len(verdicts)} comparisons."


def _verdicts(told: Mapping[str, Any], agents: Sequence[str], environments: Sequence[str]) -> list[Verdict]:
    found = []
    for env in environments:
        for agent in agents[1:]:
            row = told["environments"][env]["agents"][agent]
            tone: Any = TONES.get(row["verdict"], "unsure")
            by = f"{row['verdict']}, {_said(row['difference'])}"
            found.append(Verdict(tone, f"{env}: {agent} against {agents[0]}: {by}."))
    return found


def _rows(told: Mapping[str, Any], agents: Sequence[str], environments: Sequence[str]) -> list[tuple[str, list[str]]]:
    rows = []
    for env in environments:
        each = told["environments"][env]
        for agent in agents:
            row = each["agents"][agent]
            against = ("difference" in row) and (_said(row["difference"]), _share(row), row["verdict"])
            by_seed = ", ".join(words.number(value) for value in row["by_seed"])
            rows.append(("", [env, agent, _said(row["mean"]), *(against or ("", "", "")), by_seed]))
        rows.append(("", [env, "random play", words.number(each["random"]), "", "", "", ""]))
    return rows


def _suite(told: Mapping[str, Any], agents: Sequence[str]) -> list[str]:
    """Interquartile means and performance profiles; nothing where there is one environment."""
    if not told["suite"]:
        return []
    rows, lines = [], []
    for place, agent in enumerate(agents):
        row = told["suite"][agent]
        rows.append(("", [agent, _said(row["iqm"]) if "iqm" in row else words.MISSING, _share(row)]))
        if "profile" not in row:
            continue
        shares = tuple(float(point) for point, *_ in row["profile"])
        lines.append(Series(short(agent), tuple(float(at) for at in told["profile_at"]), shares, place))
    caption = "Share of runs whose normalised score is above: 0 is random play, 1 the best agent's mean."
    if told["left_out"]:
        caption += f" Without {', '.join(told['left_out'])}: nobody clearly beats random play there."
    drawn = chart(lines, "share of runs", caption, x_title="normalised score", percent=True, include=(0.0, 1.0))
    return [table(("agent", "interquartile mean [95 %]", "P(better)"), rows), grid([drawn])]


def _curves(run: Run, agents: Sequence[str], environments: Sequence[str]) -> list[str]:
    """Curves of every environment, one line an agent: means over its seeds at equal steps."""
    found = []
    for env in environments:
        drawn = []
        for tag, title, caption in CURVES:
            lines = [_mean_line(run, env, agent, tag, place) for place, agent in enumerate(agents)]
            drawn.append(chart(lines, title, caption, x_title="agent steps"))
        found.append(section(f"{env}: how it came", grid(drawn, "three")))
    return found


def _mean_line(run: Run, env: str, agent: str, tag: str, place: int) -> Series | None:
    cells = [cell for cell in run.record.get("cells", []) if (cell.get("env"), cell.get("agent")) == (env, agent)]
    folders = [run.folder / str(cell.get("path")) for cell in cells]
    curves = []
    for folder in folders:
        points = [(line["step"], line[tag]) for line in read_curves(folder) if tag in line]
        if points:
            curves.append(np.array(points))
    if not curves:
        return None
    start, end = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    steps = np.linspace(start, end, POINTS) if end > start else np.array([end])
    mean = np.mean([np.interp(steps, curve[:, 0], curve[:, 1]) for curve in curves], axis=0)
    return Series(short(agent), tuple(map(float, steps)), tuple(map(float, mean)), place)


def _provenance(run: Run) -> str:
    record = run.record
    versions = ", ".join(f"{name} {value}" for name, value in sorted(table_of(record, "versions").items()))
    known = [("command", record.get("command")), ("frames of each training", record.get("frames"))]
    protocols = {name: told.get("protocol") for name, told in table_of(record, "environments").items()}
    known += [(f"protocol of {name}", protocol) for name, protocol in protocols.items()]
    hashes = "\n".join(f"{value}  {name}" for name, value in table_of(record, "hashes").items())
    return section(
        "How to make it again", facts([*known, ("versions", versions)]), folded("recipe hashes (SHA-256)", hashes)
    )


def _said(values: Sequence[float]) -> str:
    point, *interval = map(float, values)
    return words.score(point, interval) if interval else words.number(point)


def _share(row: Mapping[str, Any]) -> str:
    return words.number(float(row["improvement"]), 2) if "improvement" in row else ""
