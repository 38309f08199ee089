"""A run folder -> one self-contained HTML file: what came out, with intervals, controls, pictures and provenance."""

from rlkd.report.write import write_report

__all__ = ["write_report"]
