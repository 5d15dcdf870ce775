from itertools import pairwise

import numpy as np

from nosbench_env.plotting import png
from nosbench_env.studies.figure1_plot import plot_figure1, spread


def test_the_plot_has_a_curve_for_each_method_and_a_name_for_each_baseline(small_figure1) -> None:
    _, figure1 = small_figure1
    figure = plot_figure1(figure1)
    assert png(figure).startswith(b"\x89PNG")
    (panel,) = figure.axes
    labels = panel.get_legend_handles_labels()[1]
    assert labels == [f"{group.label} (2\u00a0runs)" for group in figure1.comparison.groups]
    names = " ".join([panel.get_title(loc="right"), *(text.get_text() for text in panel.texts)])
    assert all(score.name in names for score in figure1.scores)


def test_names_are_moved_apart_as_little_as_needed() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 13, 20):
        heights = sorted(rng.beta(0.3, 2, count).tolist())
        moved = spread(heights, 0.04)
        assert all(second - first > 0.04 - 1e-9 for first, second in pairwise(moved))
        assert min(moved) >= 0.02 - 1e-9
        assert max(moved) <= 0.98 + 1e-9
    assert spread([0.1, 0.5, 0.9], 0.04) == [0.1, 0.5, 0.9]
    assert spread([], 0.04) == []
