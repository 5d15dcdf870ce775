"""Damaged files: a store answers right, doesn't know, or says that it is damaged; nothing else."""

from pathlib import Path

import fuzz
import pytest


def test_damaged_files_give_no_wrong_answer_and_no_other_error(tmp_path: Path) -> None:
    outcomes = fuzz.run(tmp_path, copies=60, seed=1)
    assert outcomes["get: right"] > 500
    assert outcomes["get: said to be damaged"] > 100


@pytest.mark.slow
def test_many_damaged_files_give_no_wrong_answer_and_no_other_error(tmp_path: Path) -> None:
    print(fuzz.run(tmp_path, copies=2500, seed=2))
