import csv
import math
from pathlib import Path

import pytest

from nosbench_env import KNOWN_PROGRAMS, OptimizerConfig, Oracle, Program
from nosbench_env.studies.baselines import score, score_rows, write_tables

FAILS = Program.parse("r9 = sub(grad, grad); r9 = div(grad, r9)")


def test_scores_are_ranked_and_tabulated(tmp_path: Path) -> None:
    oracle = Oracle("toy", tmp_path / "oracle.sqlite", "cpu", workers=1)
    candidates = {
        "fails": FAILS,
        "slow": OptimizerConfig("torch.optim.SGD", {"lr": 1e-6}),
        "Adam": KNOWN_PROGRAMS["Adam"],
    }
    scores = score(oracle, candidates, epochs=2, seeds=(0, 3), paper_losses={"Adam": 1.0})
    assert [found.name for found in scores] == ["Adam", "slow", "fails"]
    rows = score_rows(scores)
    losses = [oracle.query(KNOWN_PROGRAMS["Adam"], 2, seed).loss for seed in (0, 3)]
    assert rows[0]["mean"] == pytest.approx(sum(losses) / 2)
    assert rows[0]["sd"] == pytest.approx(abs(losses[0] - losses[1]) / math.sqrt(2))
    assert (rows[0]["paper"], rows[1]["paper"]) == (1.0, None)
    assert (rows[2]["failed"], rows[2]["mean"], rows[2]["sd"], rows[2]["rank"]) == (2, None, None, 3)
    table, curves = write_tables(scores, tmp_path / "out")
    with table.open() as file:
        read = list(csv.DictReader(file))
    assert [(row["name"], row["failed"], row["mean"] == "") for row in read] == [
        ("Adam", "0", False),
        ("slow", "0", False),
        ("fails", "2", True),
    ]
    with curves.open() as file:
        points = list(csv.DictReader(file))
    adam = oracle.query(KNOWN_PROGRAMS["Adam"], 2, 3).curve
    assert [float(row["loss"]) for row in points if (row["name"], row["seed"]) == ("Adam", "3")] == list(adam)
    with pytest.raises(ValueError, match="one candidate and one seed, got 0 and 1"):
        score(oracle, {}, seeds=[0])
