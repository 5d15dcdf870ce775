"""Damaged files: a store answers correctly, has no answer, or reports the damage."""

from pathlib import Path

import fuzz
import pytest


def test_damaged_files_give_no_wrong_answer_and_no_other_error(tmp_path: Path) -> None:
    outcomes = fuzz.run(tmp_path, copies=60, seed=1)
    assert outcomes["get: right"] > 500
    assert outcomes["get: reported as damaged"] > 100


@pytest.mark.slow
def test_many_damaged_files_give_no_wrong_answer_and_no_other_error(tmp_path: Path) -> None:
    outcomes = fuzz.run(tmp_path, copies=2500, seed=2)
    print(outcomes)
    assert outcomes["get: right"] > 20_000
    assert outcomes["get: reported as damaged"] > 4_000
