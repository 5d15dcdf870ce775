"""Writers killed at random moments, who lose no record and leave no lease."""

from pathlib import Path

import pytest
import stress


def test_ten_kills_of_writers_lose_nothing(location: str, tmp_path: Path) -> None:
    kills, workers = 10, 8
    done = stress.run(location, tmp_path, kills, workers, seed=1, pause_s=0.15)
    assert done["processes"] == kills + workers
    assert done["stored"] > 10


@pytest.mark.slow
def test_two_hundred_kills_of_writers_lose_nothing(location: str, tmp_path: Path) -> None:
    done = stress.run(location, tmp_path, kills=200, seed=2)
    print(done)
    assert done["cut short"] > 50
    assert done["taken over"] > 10
    assert done["longer than a lease"] > 0
