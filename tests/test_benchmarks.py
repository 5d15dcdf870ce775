"""The benchmarks, which are scripts outside the package: their harness, and that each of them runs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
OTHERS = ("harness.py", "programs.py", "fill_results.py", "agents.py", "same_answers.py")  # which time nothing
SCRIPTS = sorted(file.name for file in BENCHMARKS.glob("*.py") if file.name not in OTHERS)


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
    assert {"cpu", "cores", "load"} <= set(first["device"])
    assert {"python", "torch", "numpy", "gymnasium"} <= set(first["versions"])


def test_before_is_called_before_every_call(harness: ModuleType) -> None:
    called: list[str] = []
    sides = {name: lambda name=name: called.append(name) for name in "ab"}
    harness.interleaved(sides, rounds=1, warmup=1, before=lambda: called.append("|"))
    assert "".join(called) == "|b|a|a|b"


def run(script: str, *options: str) -> str:
    root = BENCHMARKS.parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_how_to_use_it(script: str) -> None:
    assert "--no-record" in run(script, "--help")


def committed_results() -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in (BENCHMARKS / "results").rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("env.py", ("--rounds", "1"), "cached episodes"),
        ("vector.py", ("--rounds", "1", "--steps", "20"), "steps a second: tokens, ours"),
        ("program_step.py", ("--rounds", "1", "--programs", "SGD", "AdamW"), "GB/s"),
        ("pfn_epoch.py", ("--steps", "12"), "program step"),
        ("gradient_free.py", ("--steps", "2", "--rounds", "1"), "extrapolated"),
        ("memory.py", ("--programs", "4", "--steps", "2"), "peak"),
        ("throughput.py", ("--task", "toy", "--programs", "2", "--rounds", "1"), "evaluations a minute"),
        ("identity.py", ("--programs", "40", "--rounds", "1"), "a second"),
        ("agents_tuning.py", ("--seeds", "1", "--distinct", "10"), "risk-seeking with evolution"),
        ("store.py", ("--records", "2000", "--queries", "200"), "hits, p99, microseconds"),
    ],
)
def test_scripts_run_at_tiny_sizes(script: str, options: tuple[str, ...], said: str) -> None:
    results = committed_results()
    assert said in run(script, *options, "--no-record")
    assert committed_results() == results


def test_the_study_of_the_agents_goes_on_where_it_was(tmp_path: Path) -> None:
    histories = [tmp_path / "runs" / f"{method}-s7" / "history.jsonl" for method in ("rs", "risk-seeking-constrained")]
    options = (
        "--folder",
        str(tmp_path),
        "--methods",
        "rs",
        "risk-seeking-constrained",
        "--seeds",
        "7",
        "--task",
        "toy",
    )
    assert run("agents.py", *options, "--distinct", "3").count(" distinct, best ") == 2
    before = [history.read_text() for history in histories]
    run("agents.py", *options, "--distinct", "20")
    for history, first in zip(histories, before, strict=True):
        assert history.read_text().startswith(first)
        assert 20 <= sum(json.loads(line)["new"] for line in history.read_text().splitlines()) < 36


def test_the_gpus_script_runs_on_a_cpu_and_says_what_it_did_not_measure() -> None:
    sections = ("updates", "launches", "roofline")
    printed = run("gpu.py", "--device", "cpu", "--in-process", "--no-record", "--sections", *sections)
    assert [line.split() for line in printed.splitlines() if line.endswith(" ok") and line[0] != "-"] == [
        [section, "ok"] for section in sections
    ]
    assert printed.count("not measured") == 2


def test_a_failing_section_of_the_gpus_script_does_not_stop_the_others() -> None:
    printed = run("gpu.py", "--device", "cuda:99", "--small", "--no-record", "--sections", "roofline", "optimizer")
    assert printed.count("failed:") == 4  # each when it happens, and in the table
