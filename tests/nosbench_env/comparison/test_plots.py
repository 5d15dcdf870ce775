from pathlib import Path

from run_folders import write_run

from nosbench_env.comparison import Comparison, compare, read_run
from nosbench_env.comparison.plots import plot_curves, plot_losses, plot_trade_offs
from nosbench_env.comparison.reference import Reference
from nosbench_env.plotting import png


def test_anything_can_be_plotted(tmp_path: Path) -> None:
    """Of methods without a curve, of single runs, of runs that are all equal, of many methods and long names."""
    groups = {
        "failed": [[None, None]],
        "equal": [[1.0, 1.0]] * 3,
        "single": [[3.0, 2.0]],
        "日本語 $ ^_{": [[2.0, None], [None, 1.0]],
        "long-" * 30: [[1e30, -1e30]],
    } | {f"method {i}": [[float(i), 1.0]] for i in range(9)}
    runs = [
        read_run(write_run(tmp_path / f"{i}-{k}", losses, name, k))
        for i, (name, many) in enumerate(groups.items())
        for k, losses in enumerate(many)
    ]
    for some in (runs, runs[:1], runs[1:4]):
        comparison = compare(some)
        for axis in ("queries", "distinct"):
            assert png(plot_curves(comparison, axis)).startswith(b"\x89PNG")
        assert png(plot_losses(comparison)).startswith(b"\x89PNG")


def comparison_of_two(tmp_path: Path) -> Comparison:
    runs = [
        read_run(write_run(tmp_path / f"{name}-{seed}", [9.0, low + seed, low], name, seed))
        for name, low in (("rs", 3.0), ("ppo", 2.0))
        for seed in range(3)
    ]
    return compare(
        runs, budget=2, costs=["memory", "operations"], find_reference=lambda conditions: Reference("AdamW", 2.5)
    )


def test_curves_show_each_method_the_reference_and_the_budget(tmp_path: Path) -> None:
    comparison = comparison_of_two(tmp_path)
    (panel,) = plot_curves(comparison, "queries").axes
    labels = panel.get_legend_handles_labels()[1]
    assert labels == ["random search (3\u00a0runs)", "ppo (3\u00a0runs)", "AdamW, for reference"]
    assert panel.lines[0].get_ydata().tolist() == comparison.curves["queries"][0].iqm.tolist()
    assert [2.0, 2.0] in [list(line.get_xdata()) for line in panel.lines]  # the budget


def test_losses_show_each_run(tmp_path: Path) -> None:
    (panel,) = plot_losses(comparison_of_two(tmp_path)).axes
    assert sorted(panel.lines[0].get_xdata()) == [3.0, 4.0, 5.0]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["random search", "ppo"]


def test_trade_offs_have_a_panel_for_each_cost_and_any_front(tmp_path: Path) -> None:
    assert len(plot_trade_offs(comparison_of_two(tmp_path / "two")).axes) == 2
    runs = [read_run(write_run(tmp_path / f"{k}", [10.0**k, None], f"m {k} $", 0)) for k in range(9)]
    for some in (runs, runs[:1]):
        for costs in (["memory"], ["memory", "operations", "instructions"]):
            assert png(plot_trade_offs(compare(some, costs=costs))).startswith(b"\x89PNG")
