import json
from pathlib import Path

TOY = ["--task", "toy", "--device", "cpu"]


def test_doctor_finds_a_sound_installation_sound(nosbench, tmp_path: Path) -> None:
    run = nosbench("doctor")
    assert run.code == 0
    assert "FAIL" not in run.out
    assert f"{tmp_path / 'results.sqlite'}, 0 results" in run.out
    findings = json.loads(nosbench("doctor", "--json").out)
    assert {"python", "torch", "store", "optimizer", "fingerprint", "training"} <= {
        finding["check"] for finding in findings
    }


def test_doctor_finds_a_broken_store(nosbench, tmp_path: Path) -> None:
    (tmp_path / "corrupt").write_bytes(b"not a database" * 100)
    run = nosbench("doctor", "--store", "corrupt")
    assert run.code == 2
    assert "FAIL  store" in run.out
