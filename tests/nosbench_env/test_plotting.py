"""The common style of all plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nosbench_env import plotting

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'nosbench_env[plot]'")


def test_without_matplotlib_the_message_names_the_extra_and_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"nosbench_env\[plot\].*--no-plot\b"):
        plotting.check_matplotlib()


def test_28_curves_all_look_different() -> None:
    assert len({plotting.style(place)[:2] for place in range(28)}) == 28


def test_panels_come_row_by_row() -> None:
    figure, panels = plotting.empty_figure(4.0, 3.0, columns=3, rows=2)
    assert tuple(figure.get_size_inches()) == (4.0, 3.0)
    assert [panel.get_subplotspec().num1 for panel in panels] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("task", "unit"), [("pfn", "loss (nats)"), ("another", "loss")])
def test_only_known_units_are_named(task: str, unit: str) -> None:
    assert plotting.with_unit("loss", task) == unit


def test_long_names_take_two_lines_and_dollars_are_no_mathematics() -> None:
    lines = plotting.wrapped("$x$ " * 30, width=20).split("\n")
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert all(line.count("$") == line.count(r"\$") for line in lines)


def test_curves_end_with_their_marker_and_stand_in_the_legend() -> None:
    figure, (left, right) = plotting.empty_figure(6.0, 3.0, columns=2)
    x = np.arange(3)
    plotting.plot_steps(left, plotting.style(0), x, x + 1.0, x + 0.5, x + 1.5, "steps")
    plotting.plot_mean(right, plotting.style(1), x, np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]), "mean")
    plotting.legend(figure)
    (curve, end), (mean,) = left.get_lines(), right.get_lines()
    assert (curve.get_drawstyle(), end.get_xydata().tolist()) == ("steps-post", [[2.0, 3.0]])
    assert mean.get_ydata().tolist() == [2.0, 3.0, 4.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["steps", "mean"]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_suffix_gives_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    figure, _ = plotting.empty_figure(2.0, 2.0)
    plotting.save(figure, tmp_path / f"plot.{suffix}")
    assert (tmp_path / f"plot.{suffix}").read_bytes().startswith(start)
    assert plotting.png(figure).startswith(b"\x89PNG")


def test_letters_that_the_font_lacks_make_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    figure, (panel,) = plotting.empty_figure(2.0, 2.0)
    panel.set_title("\U00012000")
    plotting.png(figure)
    assert not recwarn.list


def test_colours_stand_out_on_white() -> None:
    for place, colour in enumerate(plotting.COLOURS):  # 3:1 for graphics (WCAG); the later colours at least 2:1
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        contrast = 1.05 / (np.dot((0.2126, 0.7152, 0.0722), linear) + 0.05)
        assert contrast > (3 if place < 3 else 2)
