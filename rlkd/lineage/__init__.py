"""Generations: operators, parents, resume."""

from rlkd.lineage.run import evolve
from rlkd.lineage.table import lineage_table

__all__ = ["evolve", "lineage_table"]
