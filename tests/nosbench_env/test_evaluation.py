import json
import math

import pytest

from nosbench_env import KNOWN_PROGRAMS, Evaluation, Program
from nosbench_env.evaluation import Statistics

SGD = KNOWN_PROGRAMS["SGD"]


@pytest.mark.parametrize(("loss", "status"), [(0.5, "ok"), (math.nan, "nan"), (math.inf, "inf")])
def test_evaluation_is_json_data(loss: float, status: str) -> None:
    evaluation = Evaluation(SGD, "toy", 2, 3, loss, status, (1.5, loss), "key", True, "store", 1.0, {"device": "cpu"})
    data = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    number = loss if status == "ok" else None
    assert (data["loss"], data["curve"], data["status"]) == (number, [1.5, number], status)
    assert Program.from_json(data["program"]) == SGD
    assert (data["seed"], data["first_epoch"], data["provenance"]) == (3, 0, {"device": "cpu"})


def test_statistics_count_hits_with_and_without_diverged() -> None:
    counts = Statistics()
    assert math.isnan(counts.hit_rate)
    assert math.isnan(counts.hit_rate_excluding_diverged)
    for source in ("trained", "probe", "store", "trained", "shipped", "probe"):
        counts.count(source)
    assert counts == Statistics(queries=6, trained=2, stored=2, diverged=2)
    assert counts.hit_rate == pytest.approx(4 / 6)
    assert counts.hit_rate_excluding_diverged == pytest.approx(2 / 4)
