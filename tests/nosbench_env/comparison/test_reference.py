from pathlib import Path

import pytest

from nosbench_env.comparison.reference import Reference, look_up
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.oracles.oracle import Oracle

CONDITIONS_OF_TOY = {
    "task": "toy",
    "task_version": 1,
    "arithmetic": "float32",
    "epochs": 1,
    "training_seed": 0,
    "identity": "fingerprint",
}


def test_a_reference_is_looked_up_and_never_trained(tmp_path: Path, oracle: Oracle) -> None:
    store = str(oracle.store.location)
    unknown = look_up("adamw", CONDITIONS_OF_TOY, store)
    assert unknown.loss is None
    assert "`nosbench evaluate AdamW --task toy --epochs 1`" in unknown.why_not
    assert not Path(store).exists()
    expected = oracle.query(KNOWN_PROGRAMS["AdamW"], 1).loss
    assert look_up("adamw", CONDITIONS_OF_TOY, store) == Reference("AdamW", expected)
    assert look_up("SGD", CONDITIONS_OF_TOY, store).loss is None
    for change in ({"task_version": 2}, {"training_seed": 1}, {"identity": "paper"}, {"task": "my-own"}):
        assert look_up("AdamW", CONDITIONS_OF_TOY | change, store).loss is None
    with pytest.raises(ValueError, match=r"reference must be one of SGD, .*, or none, got 'AdamV'"):
        look_up("AdamV", CONDITIONS_OF_TOY, store)


def test_a_store_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_text("no database " * 500)
    assert "not a database" in look_up("AdamW", CONDITIONS_OF_TOY, str(damaged)).why_not
