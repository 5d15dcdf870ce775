"""Small studies that several tests look at and none changes."""

from pathlib import Path
from typing import Any

import pytest
from small_studies import CACHE, FIGURE1, FIGURE5, RatesOfSGD

from nosbench_env.agents import AGENTS
from nosbench_env.studies import figure1
from nosbench_env.studies.cache import PARTS, CacheStudy
from nosbench_env.studies.figure1 import Figure1, Figure1Study
from nosbench_env.studies.figure5 import Figure5Study
from nosbench_env.studies.settings import Resources


@pytest.fixture
def quick_smac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure1, "AGENTS", {**AGENTS, "smac-hpo": RatesOfSGD})


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[CacheStudy, dict[str, list[dict[str, Any]]]]:
    """All parts of a small study of the cache, and their tables."""
    study = CacheStudy(tmp_path_factory.mktemp("cache"), CACHE, Resources(device="cpu"))
    return study, study.run(list(PARTS))


@pytest.fixture(scope="session")
def small_figure1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Figure1]:
    """The folder and the data of a small Figure 1."""
    folder = tmp_path_factory.mktemp("figure1")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(figure1, "AGENTS", {**AGENTS, "smac-hpo": RatesOfSGD})
        return folder, Figure1Study(folder, FIGURE1).run()


@pytest.fixture(scope="session")
def small_figure5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Figure5Study, list[dict[str, Any]]]:
    """A small Figure 5 and its table."""
    study = Figure5Study(tmp_path_factory.mktemp("figure5"), FIGURE5)
    return study, study.run()
