import math

import pytest
from results import record

from nosbench_env.results.agreement import largest_difference
from nosbench_env.store import Record

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (record(3.0, 2.0), record(3.0, 2.0), 0.0),
        (record(3.0, 2.0), record(3.0, 1.75, 9.0), 0.25),
        (record(3.0, 2.0), record(1.5, first_epoch=1), 0.5),
        (record(3.0), record(1.5, first_epoch=1), None),
        (record(NAN), record(NAN), 0.0),
        (record(INF), record(INF), 0.0),
        (record(INF), record(-INF), INF),
        (record(INF), record(NAN), INF),
        (record(1.0), record(NAN), INF),
        (record(3.0, stopped_at=5), record(3.0, NAN, NAN), 0.0),
        (record(3.0, stopped_at=5), record(3.0, 2.0), INF),
        (record(3.0, stopped_at=5), record(2.0, first_epoch=7), INF),
        (record(3.0, stopped_at=5), record(3.0, stopped_at=9), 0.0),
    ],
)
def test_records_are_compared_where_both_tell(first: Record, second: Record, expected: float | None) -> None:
    assert largest_difference(first, second) == expected
    assert largest_difference(second, first) == expected
