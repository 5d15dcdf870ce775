import math

import pytest

from nosbench_env.store import Record
from nosbench_env.store.record import answer_of, checksum, contents, record_of, row_of

NAN = math.nan


@pytest.mark.parametrize(
    ("records", "epochs", "last_epoch_only", "expected"),
    [
        ([], 1, True, None),
        ([Record((3.0, 2.0))], 1, False, Record((3.0,))),
        ([Record((3.0, 2.0))], 3, True, None),
        ([Record((3.0,), 5)], 3, False, Record((3.0, NAN, NAN), 5)),
        ([Record((1.0,), first_epoch=2)], 3, False, None),
        ([Record((1.0,), first_epoch=2)], 3, True, Record((1.0,), first_epoch=2)),
        ([Record((NAN,), 7, first_epoch=2)], 5, True, Record((NAN,), 7, first_epoch=4)),
        ([Record((1.0,), first_epoch=1), Record((3.0, 9.0))], 2, True, Record((3.0, 1.0))),
        (
            [Record((3.0,), None, {"n": 1}), Record((4.0, 2.0), None, {"n": 2})],
            2,
            False,
            Record((3.0, 2.0), None, {"n": 2}),
        ),
    ],
)
def test_records_of_a_key_answer_together(
    records: list[Record], epochs: int, last_epoch_only: bool, expected: Record | None
) -> None:
    assert repr(answer_of(records, epochs, last_epoch_only)) == repr(expected)


@pytest.mark.parametrize(
    "record",
    [
        Record((0.1, 5e-324, -0.0, NAN, math.inf, -math.inf)),
        Record((1.0,), 2**31 - 1, {"seconds": 0.5, "program": [["mul", [1, 6], 9]]}, 17),
    ],
)
def test_a_record_comes_back_from_its_row(record: Record) -> None:
    row = row_of("key", record)
    assert repr(record_of(row)) == repr(record)
    assert row["checksum"] == checksum(row)


def test_contents_ignore_the_order_of_a_provenance_and_nothing_else() -> None:
    first = row_of("a", Record((1.0,), None, {"x": 1, "y": 2}))
    assert contents(first) == contents(row_of("a", Record((1.0,), None, {"y": 2, "x": 1})))
    for other in (
        row_of("b", Record((1.0,), None, {"x": 1, "y": 2})),
        row_of("a", Record((1.0,), 3, {"x": 1, "y": 2})),
    ):
        assert contents(first) != contents(other)
