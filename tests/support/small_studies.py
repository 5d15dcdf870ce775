"""Small studies on the toy task."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.studies.cache import CacheStudySettings
from nosbench_env.studies.figure1 import Figure1Settings
from nosbench_env.studies.figure5 import Figure5Settings

CACHE_QUERIES = 120  # the first population of evolution, and 20 children
CACHE = CacheStudySettings(
    task="toy", queries=CACHE_QUERIES, merged_pairs=20, split_programs=20, diverged_programs=6, max_instructions=8
)
FIGURE1_QUERIES = 40  # evolution begins with 100 copies of one program: these take no time
FIGURE1 = Figure1Settings(
    task="toy",
    epochs=1,
    seeds=2,
    queries=FIGURE1_QUERIES,
    max_instructions=14,
    methods=("rs", "re-adamw", "smac-hpo"),
    baselines=("SGD", "AdamW", "AdamW-cosine"),
)
FIGURE5 = Figure5Settings(task="toy", epochs=2, seeds=2, proxy_steps=12)


class RatesOfSGD:
    """Stands for SMAC_HPO, which takes seconds to start: proposes SGD with different rates."""

    name = "smac-hpo"

    def __init__(self, seed: int, initial_configs: int) -> None:
        self.seed, self.initial_configs, self.asked = seed, initial_configs, 0

    def ask(self, n: int = 1) -> list[OptimizerConfig]:
        self.asked += n
        return [OptimizerConfig("torch.optim.SGD", {"lr": (1 + self.seed) * 10.0 ** -(self.asked % 4)})] * n

    def tell(self, programs: Sequence[Any], evaluations: Sequence[Any]) -> None:
        pass

    def config(self) -> dict[str, Any]:
        return {"seed": self.seed, "initial_configs": self.initial_configs}

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = state["asked"]


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def fail(*arguments: Any, **options: Any) -> None:
    raise AssertionError("this was done before")
