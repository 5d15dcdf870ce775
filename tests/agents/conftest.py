from collections.abc import Iterator
from functools import partial

import pytest

from nosbench_env.execution.numerics import exact_arithmetic


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Computes as the agents do; small tensors on many threads are slow on a busy machine."""
    with exact_arithmetic():
        yield


@pytest.fixture
def quick_smac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens SMAC's local searches."""
    pytest.importorskip("smac")
    from nosbench_env.agents import smac_model

    quick = partial(smac_model.LocalAndSortedRandomSearch, n_steps_plateau_walk=1, local_search_iterations=3)
    monkeypatch.setattr(smac_model, "LocalAndSortedRandomSearch", quick)
