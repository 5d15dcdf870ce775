import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import postgres as postgres_server
import pytest

from nosbench_env.cli.app import main
from nosbench_env.oracles.oracle import Oracle

# A slow machine is not a defect.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

DATA = Path(__file__).parent / "data"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` are skipped without a CUDA device; `make test-gpu` lets them fail instead."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        missing = pytest.fail if os.environ.get("NOSBENCH_REQUIRE_GPU") else pytest.skip
        missing("needs a CUDA device")


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's store."""
    monkeypatch.setenv("NOSBENCH_STORE", str(tmp_path / "results.sqlite"))


@pytest.fixture(autouse=True)
def _ctrl_c() -> None:
    """Ctrl-C means what it should, here and in what the test starts.

    A command that was interrupted ignores it from then on, in this process where it ran; and a shell starts what is in
    the background with it ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    """A PostgreSQL server."""
    if postgres_server.installed() is None:
        pytest.skip("needs a PostgreSQL server: pip install pgserver")
    with postgres_server.Server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a new store may be made, in each kind of database."""
    if request.param == "sqlite":
        yield str(tmp_path / "folder" / "results.sqlite")
        return
    with request.getfixturevalue("postgres").database() as url:
        yield url


@pytest.fixture(scope="session")
def conformance() -> dict[str, Any]:
    """Programs with the parameters after each of 5 steps and the proxy value, as the paper's code computes them."""
    return json.loads((DATA / "programs.json").read_text())


@pytest.fixture(scope="session")
def pfn_curves() -> dict[str, Any]:
    """Learning curves on the PFN task, as the paper's code computes them."""
    return json.loads((DATA / "pfn_curves.json").read_text())


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    """The toy task on a new store, all in this process: what worker processes do is tested where they are."""
    return Oracle("toy", tmp_path / "oracle.sqlite", "cpu", workers=1)


class Run(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def nosbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Run]:
    """Runs the command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Run:
        monkeypatch.setattr(sys, "argv", ["nosbench", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return Run(exited.value.code or 0, printed.out, printed.err)

    return run
