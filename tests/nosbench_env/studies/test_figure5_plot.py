from nosbench_env.plotting import png
from nosbench_env.studies.figure5_plot import plot_figure5, smoothed_over


def test_the_plot_shows_each_optimizer_in_three_panels(small_figure5) -> None:
    study, summary = small_figure5
    figure = plot_figure5(study.files.path, "toy")
    assert png(figure).startswith(b"\x89PNG")
    assert len(figure.axes) == 3
    assert figure.axes[2].get_legend_handles_labels()[1] == [row["candidate"] for row in summary]


def test_long_lines_are_smoothed() -> None:
    assert [smoothed_over(steps) for steps in (1, 60, 61, 2000)] == [1, 1, 1, 50]
