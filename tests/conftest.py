"""What all tests share: few threads, patient hypothesis, and a count of tests that lacked their teachers."""

import os
from pathlib import Path

# Before anything imports torch, and for the processes that tests start: threads that spin while they wait,
# or more of them than cores, make everything many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest

NO_TEACHERS = "needs RLKD_TEACHERS, the folder of pretrained teachers"

# No deadline: a shared machine is slow at times. The same examples every time: a red run can be repeated.
hypothesis.settings.register_profile("rlkd", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("rlkd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `teachers` where there are none."""
    folder = os.environ.get("RLKD_TEACHERS")
    if folder and Path(folder).is_dir():
        return
    for item in items:
        if item.get_closest_marker("teachers"):
            item.add_marker(pytest.mark.skip(reason=NO_TEACHERS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped for want of teachers."""
    reports = terminalreporter.stats.get("skipped", [])
    count = sum(NO_TEACHERS in str(report.longrepr) for report in reports)
    if count:
        terminalreporter.write_line(f"skipped for want of teachers (RLKD_TEACHERS): {count}")
