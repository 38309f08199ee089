"""What all tests share: few threads, patient hypothesis, and counts of tests that lacked teachers or a GPU."""

import os
from pathlib import Path

# Before anything imports torch, and for the processes that tests start: threads that spin while they wait,
# or more of them than cores, make everything many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest
import torch

NO_TEACHERS = "needs RLKD_TEACHERS, the folder of pretrained teachers"
NO_GPU = "needs a CUDA device"

# No deadline: a shared machine is slow at times. The same examples every time: a red run can be repeated.
hypothesis.settings.register_profile("rlkd", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("rlkd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `teachers` or `cuda` where there is no such thing."""
    folder = os.environ.get("RLKD_TEACHERS")
    missing = {
        "teachers": None if folder and Path(folder).is_dir() else NO_TEACHERS,
        "cuda": None if torch.cuda.is_available() else NO_GPU,
    }
    for item in items:
        for mark, reason in missing.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped for want of what."""
    reports = terminalreporter.stats.get("skipped", [])
    for what, reason in (("teachers (RLKD_TEACHERS)", NO_TEACHERS), ("a CUDA device", NO_GPU)):
        count = sum(reason in str(report.longrepr) for report in reports)
        if count:
            terminalreporter.write_line(f"skipped for want of {what}: {count}")
