import math
from dataclasses import replace

import numpy as np
import pytest

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program
from nosbench_env.plotting import png
from nosbench_env.studies.baseline_plots import plot_final_losses, plot_learning_curves
from nosbench_env.studies.baselines import Score, score

FAILS = Program.parse("r9 = sub(grad, grad); r9 = div(grad, r9)")


@pytest.fixture
def scores(oracle: Oracle) -> list[Score]:
    candidates = {"Adam $_{": KNOWN_PROGRAMS["Adam"], "fails": FAILS}
    return score(oracle, candidates, epochs=2, seeds=(0, 3), paper_losses={"Adam $_{": 1.0})


def test_learning_curves_are_means_over_the_seeds(scores: list[Score]) -> None:
    figure = plot_learning_curves(scores)
    assert png(figure).startswith(b"\x89PNG")
    (panel,) = figure.axes
    assert panel.get_legend_handles_labels()[1] == [r"Adam \$_{", "fails (fails)"]
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), scores[0].curves.mean(axis=0))


def test_at_most_twelve_curves_are_shown(scores: list[Score]) -> None:
    (panel,) = plot_learning_curves([replace(scores[0], name=f"{place}") for place in range(15)]).axes
    assert len(panel.lines) == 12
    assert panel.get_title(loc="left") == "the best 12 of 15"


def test_final_losses_show_seeds_means_papers_and_failures(scores: list[Score]) -> None:
    figure = plot_final_losses(scores)
    assert png(figure).startswith(b"\x89PNG")
    (panel,) = figure.axes
    seeds, mean, paper = panel.lines[:3]
    assert sorted(seeds.get_xdata()) == sorted(scores[0].losses)
    assert (list(mean.get_xdata()), list(paper.get_xdata())) == ([scores[0].mean], [1.0])
    assert [text.get_text() for text in panel.texts] == ["2 of 2 fail ▸"]
    assert math.isinf(scores[1].mean)
