import math

import numpy as np
import pytest
from searches import evaluation

from nosbench_env import BASELINES, OptimizerConfig, Oracle
from nosbench_env.agents import Budget, SmacHPO, search

pytest.importorskip("smac")


@pytest.mark.usefixtures("quick_smac")
def test_hyperparameters_found_beat_the_default_optimizer(oracle: Oracle) -> None:
    adamw = oracle.query(BASELINES["torch.AdamW"].candidate, epochs=1)
    agent = SmacHPO(seed=0, initial_configs=10, challengers=100)
    result = search(agent, oracle, Budget(queries=40), epochs=1)
    assert result.best is not None
    assert isinstance(result.best.program, OptimizerConfig)
    assert result.best.loss is not None
    assert result.best.loss < adamw.loss - 0.1


def test_the_forest_does_better_than_its_initial_design() -> None:
    """On a smooth function of the learning rate and the optimizer, whose best value is 0."""
    agent = SmacHPO(seed=0, initial_configs=15, challengers=200)

    def loss(optimizer: OptimizerConfig) -> float:
        rate = dict(optimizer.hyperparameters)["lr"]
        assert isinstance(rate, float)
        return abs(math.log10(rate) + 2) + 3 * (optimizer.name != "torch.optim.Adagrad")

    losses = []
    for _ in range(15 + 16):
        optimizer = agent.ask()[0]
        losses.append(loss(optimizer))
        agent.tell([optimizer], [evaluation(optimizer, losses[-1])])
    assert np.median(losses[15:]) < np.quantile(losses[:15], 0.25)
    assert min(losses[15:]) < min(losses[:15])


def test_the_default_initial_design_is_the_papers() -> None:
    assert SmacHPO().config()["initial_configs"] == 90
