import math
import re

import numpy as np
import pytest
from small_studies import FIGURE5

from nosbench_env import KNOWN_PROGRAMS
from nosbench_env.studies.figure1 import Figure1Settings
from nosbench_env.studies.pages import baseline_cells, figure1_page, figure5_page, rank_text, table

PAPERS = {"SGD": 0.5, "Adam": -0.14, "AdamW": -0.09}


class Stub:
    """A figure of given losses."""

    def __init__(
        self, losses: dict[str, float], papers: dict[str, float], methods: dict[str, float], epochs: int
    ) -> None:
        self.settings = Figure1Settings("pfn", epochs)
        self.scores = sorted(
            (StubScore(name, loss, papers.get(name)) for name, loss in losses.items()), key=lambda score: score.mean
        )
        self.method_rows = [{"method": name, "iqm": loss} for name, loss in methods.items()]


class StubScore:
    def __init__(self, name: str, mean: float, paper_loss: float | None) -> None:
        self.name, self.mean, self.paper_loss = name, mean, paper_loss
        self.losses = np.array([mean - 0.01, mean + 0.01])
        self.evaluations = [type("Evaluation", (), {"program": KNOWN_PROGRAMS["SGD"]})()]


@pytest.mark.parametrize(
    ("losses", "rank"),
    [
        ({"SGD": 0.55, "Adam": -0.2, "AdamW": 0.0}, "1.00"),
        ({"SGD": -0.5, "Adam": -0.1, "AdamW": 0.0}, "-0.50"),
        ({"SGD": 0.5, "Adam": -0.05, "AdamW": -0.08}, "0.50"),
        ({"SGD": math.inf, "Adam": -0.14, "AdamW": -0.09}, None),
        ({"SGD": 1.0}, None),
    ],
)
def test_ranks_are_compared_with_the_papers(losses: dict[str, float], rank: str | None) -> None:
    text = rank_text(Stub(losses, PAPERS, {}, 20))
    assert text == "" if rank is None else text.endswith(f" {rank}")


def test_losses_are_compared_with_the_papers_at_the_same_length() -> None:
    losses = {"SGD": 0.9, "Adam": math.inf, "Lion": 0.5}
    cells = {cell["optimizer"]: cell for cell in baseline_cells(Stub(losses, PAPERS, {}, 20))}
    assert {name: cell["difference"] for name, cell in cells.items()} == {"SGD": "+0.400", "Adam": "-", "Lion": "-"}
    assert cells["Adam"]["mean"] == "2 of 2 fail"
    assert cells["Lion"]["paper's code"] == "-"
    assert all("difference" not in cell for cell in baseline_cells(Stub(losses, PAPERS, {}, 1)))
    assert all("paper's code" not in cell for cell in baseline_cells(Stub(losses, {}, {}, 20)))


def test_the_page_of_figure_1_holds_its_tables(small_figure1) -> None:
    _, figure = small_figure1
    page = figure1_page(figure)
    assert "2 runs of each method with 40 queries" in page
    assert "| RE from AdamW | 2 |" in page
    assert "| AdamW-cosine |" in page
    assert "nan" not in page


def test_the_page_of_figure_5_holds_its_table(small_figure5) -> None:
    _, summary = small_figure5
    page = figure5_page(FIGURE5, summary)
    assert "Task `toy`, 2 epochs, 2 seeds; 12 steps" in page
    assert [line.split(" | ")[0] for line in page.splitlines() if re.match(r"\| [IA]", line)] == [
        f"| {row['candidate']}" for row in summary
    ]


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    lines = table([{"name": "a|b", "loss": "-0.5"}, {"name": "c", "loss": "1 of 2 fail"}]).splitlines()
    assert lines == ["| name | loss |", "| --- | ---: |", r"| a\|b | -0.5 |", "| c | 1 of 2 fail |"]
