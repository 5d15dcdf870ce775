import numpy as np
from small_studies import read_csv

from nosbench_env.plotting import png
from nosbench_env.studies.cache_growth import cache_sizes
from nosbench_env.studies.cache_plots import plot_growth


def test_plots_show_the_tables(small_cache) -> None:
    study, _ = small_cache
    for name, runs in (("growth-within-runs", 1), ("growth-across-runs", 3)):
        table = study.folder / f"{name}.csv"
        figure = plot_growth(table, runs=runs)
        assert png(figure).startswith(b"\x89PNG")
        left = figure.axes[0]
        assert left.get_title() == "paper: cache size"
        rows = [row for row in read_csv(table) if (row["identity"], row["method"]) == ("paper", "rs")]
        first = [row for row in rows if row.get("seed", row.get("seeds")) == rows[0].get("seed", rows[0].get("seeds"))]
        np.testing.assert_array_equal(left.lines[0].get_xdata(), [int(row["queries"]) for row in first])
        np.testing.assert_array_equal(left.lines[0].get_ydata(), [int(row["cache_size"]) for row in first])
        assert left.lines[0].get_ydata()[-1] == cache_sizes(study.keys("rs", 0, "paper"))[-1] or runs == 3
