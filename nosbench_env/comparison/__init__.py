"""Comparison of search methods by their runs: curves, tables, tests, a report."""

from nosbench_env.comparison.comparison import Comparison, compare
from nosbench_env.comparison.runs import AXES, Run, RunGroup, group_runs, read_run

__all__ = ["AXES", "Comparison", "Run", "RunGroup", "compare", "group_runs", "read_run"]
