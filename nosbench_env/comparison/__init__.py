"""Comparison of search methods by the run folders they left: curves, tables, tests, a report."""

from nosbench_env.comparison.comparison import Comparison, compare
from nosbench_env.comparison.runs import AXES, Method, Run, group_runs, read_run

__all__ = ["AXES", "Comparison", "Method", "Run", "compare", "group_runs", "read_run"]
