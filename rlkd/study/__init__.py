"""Studies: agents x environments x seeds, and what can be said of them."""

from rlkd.study.grid import compare
from rlkd.study.verdicts import comparison_table

__all__ = ["compare", "comparison_table"]
