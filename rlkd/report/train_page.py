"""The report of a reinforcement-learning run: score, what the learner saw, speed."""

from rlkd.report import words
from rlkd.report.curves import chart, series
from rlkd.report.page import document, grid, header, provenance, section
from rlkd.report.record import Run

SCORE = "rollout/ep_rew_mean"
SPEEDS = ("time/agent_steps_per_second", "time/fps")
WAITED = {
    "time/learner_waited": "learner",
    "time/sampler_waited": "sampler",
    "time/waited_for_emulators": "emulators",
}
MOST_FIGURES = 12


def train_page(run: Run) -> str:
    """The whole page."""
    what = " · ".join(part for part in ("training", _name(run, "environment"), _name(run, "agent")) if part)
    sentence = _headline(run)
    body = [
        header(run, what, sentence),
        section("Score and speed", grid([_score(run), _speed(run), _waiting(run)], "three")),
        section("What the learner saw", grid(_figures(run), "three")),
        provenance(run, [], [("environment", _name(run, "environment")), ("agent", _name(run, "agent"))]),
    ]
    return document(run, sentence, body, script=False)


def _headline(run: Run) -> str:
    last = {tag: value for line in run.metrics for tag, value in line.items()}
    steps = f"{int(last.get('step', 0)):,} agent steps"
    if "time/frames" in last:
        steps += f" ({int(last['time/frames']):,} frames)"
    if "time/hours" in last:
        steps += f" in {words.duration(3600 * last['time/hours'])}"
    if SCORE in last:
        return f"The mean score of the last episodes is {words.number(last[SCORE])} after {steps}."
    return f"No episode has finished yet after {steps}." if run.metrics else "Nothing has been recorded yet."


def _name(run: Run, key: str) -> str:
    """A record's environment or agent by name; a recipe's table by its id."""
    value = run.record.get(key)
    if isinstance(value, dict):
        value = value.get("id") or value.get("name")
    return value if isinstance(value, str) else ""


def _chart(run: Run, tag: str, title: str, caption: str) -> str:
    return chart([series(run.metrics, tag, title, 0)], title, caption, x_title="agent steps")


def _score(run: Run) -> str:
    return _chart(run, SCORE, "mean score", "Mean raw score of the last episodes.")


def _speed(run: Run) -> str:
    known = {tag for line in run.metrics for tag in line}
    tag = next((tag for tag in SPEEDS if tag in known), SPEEDS[0])
    return _chart(run, tag, "agent steps per second", "Since the start of the run, pauses left out.")


def _waiting(run: Run) -> str:
    caption = (
        "Shares of the time: learner waiting for data, sampler for the learner, sampler for emulators. Where the "
        "learner hardly waits, learning is the limit."
    )
    lines = [series(run.metrics, tag, name, place) for place, (tag, name) in enumerate(WAITED.items())]
    return chart(lines, "who waited", caption, x_title="agent steps", percent=True, include=(0.0, 0.1))


def _figures(run: Run) -> list[str]:
    known = {tag for line in run.metrics for tag in line}
    tags = sorted(tag for tag in known if tag.startswith(("advantage/", "bonus/", "train/")))
    return [_chart(run, tag, tag, "") for tag in tags[:MOST_FIGURES]]
