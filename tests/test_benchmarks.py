"""The harness of the benchmarks, which are scripts outside the package."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def harness() -> ModuleType:
    spec = importlib.util.spec_from_file_location("harness", BENCHMARKS / "harness.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sides_take_turns_and_each_goes_first(harness: ModuleType) -> None:
    called: list[str] = []
    sides = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = harness.interleaved(sides, rounds=3, warmup=1)
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert ["".join(called[start : start + 3]) for start in range(0, 12, 3)] == ["cab", "abc", "bca", "cab"]
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        harness.interleaved(sides, rounds=0)


def test_ratio_compares_within_rounds(harness: ModuleType) -> None:
    seconds = {"slow": [2.0, 20.0, 4.0], "fast": [1.0, 10.0, 1.0]}  # the machine was busy in the second round
    assert harness.ratio(seconds, "fast", "slow") == 2.0
    assert harness.ratio(seconds, "slow", "slow") == 1.0


def test_a_record_says_when_on_what_and_with_which_versions(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    harness.record("speed", {"steps a second": 7})
    harness.record("speed", {"steps a second": 8})
    first, second = map(json.loads, (tmp_path / "results" / "speed.jsonl").read_text().splitlines())
    assert (first["figures"], second["figures"]) == ({"steps a second": 7}, {"steps a second": 8})
    assert first["date"].endswith("+00:00")
    assert first["device"]["cpu"]
    assert {"python", "torch", "numpy", "gymnasium"} <= set(first["versions"])
