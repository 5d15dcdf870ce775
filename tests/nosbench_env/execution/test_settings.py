import subprocess
import sys

import numpy as np
import pytest

from nosbench_env.execution.settings import (
    MAX_EPOCHS,
    check_arithmetic,
    check_device_name,
    check_epochs,
    check_seed,
)


@pytest.mark.parametrize("epochs", [1, np.int64(20), MAX_EPOCHS])
def test_epochs_are_integers(epochs: int) -> None:
    assert type(check_epochs(epochs)) is int
    assert check_epochs(epochs) == epochs


def test_epochs_may_be_left_to_the_task() -> None:
    assert check_epochs(None) is None


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3", True, MAX_EPOCHS + 1])
def test_bad_epochs_are_refused(epochs: object) -> None:
    with pytest.raises(ValueError, match=rf"epochs must be .*, got '?{epochs}"):
        check_epochs(epochs)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, np.int32(7), 1_000_000])
def test_seeds_are_integers(seed: int) -> None:
    assert type(check_seed(seed)) is int
    assert check_seed(seed) == seed


@pytest.mark.parametrize("seed", [-1, 1_000_001, 0.5, None, True])
def test_bad_seeds_are_refused(seed: object) -> None:
    with pytest.raises(ValueError, match=rf"seed must be .*, got {seed}"):
        check_seed(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_device_names_need_not_be_available(device: str) -> None:
    assert check_device_name(device) == device


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:", "cuda:x", "CPU", "", 0, None])
def test_unknown_devices_are_refused(device: object) -> None:
    with pytest.raises(ValueError, match=f"unknown device {device!r}.*'cpu'.*'cuda'"):
        check_device_name(device)  # type: ignore[arg-type]


def test_arithmetic_is_one_of_two() -> None:
    assert [check_arithmetic(name) for name in ("float32", "tf32")] == ["float32", "tf32"]
    with pytest.raises(ValueError, match=r"unknown arithmetic 'float64'.*'float32'.*'tf32'"):
        check_arithmetic("float64")


def test_checking_loads_no_torch() -> None:
    code = "import sys, nosbench_env.execution.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
