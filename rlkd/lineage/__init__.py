"""Generations: operators, parents, resume."""

from rlkd.lineage.run import evolve
from rlkd.lineage.table import lineage_table
from rlkd.lineage.verify import verify

__all__ = ["evolve", "lineage_table", "verify"]
