"""Writers killed at random moments: nothing stored is lost, no lease stays, nothing is trained twice at once."""

from pathlib import Path

import pytest
import stress


def test_ten_kills_of_writers_lose_nothing(location: str, tmp_path: Path) -> None:
    done = stress.run(location, tmp_path, kills=10, seed=1, pause_s=0.15)
    assert done["processes"] == 18
    assert done["stored"] > 10


@pytest.mark.slow
def test_two_hundred_kills_of_writers_lose_nothing(location: str, tmp_path: Path) -> None:
    done = stress.run(location, tmp_path, kills=200, seed=2)
    print(done)
    assert done["cut short"] > 50
    assert done["taken over"] > 10
    assert done["longer than a lease"] > 0
