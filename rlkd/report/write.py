"""`write_report`: a run folder -> report.html."""

from collections.abc import Callable
from pathlib import Path

from rlkd import storage
from rlkd.report.compare_page import compare_page
from rlkd.report.distill_page import distill_page
from rlkd.report.evolve_page import evolve_page
from rlkd.report.record import Kind, Run, read_run
from rlkd.report.tasks_page import tasks_page
from rlkd.report.train_page import train_page

PAGES: dict[Kind, Callable[[Run], str]] = {
    "distill": distill_page,
    "tasks": tasks_page,
    "evolve": evolve_page,
    "train": train_page,
    "compare": compare_page,
}


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run: one HTML file that needs nothing else, in about 20 seconds.

    Args:
        run: folder of a distillation, a lineage, a training run or a study, finished or not.
        out: the file; None takes `report.html` in the run folder.

    Returns:
        The file.

    Raises:
        StorageError: no run folder, a damaged run.json, or the disk refused.
    """
    path = run / "report.html" if out is None else out
    found = read_run(run)
    storage.write_bytes(path, PAGES[found.kind](found).encode("utf-8"))
    return path
