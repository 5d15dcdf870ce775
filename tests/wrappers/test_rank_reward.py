import pytest
from play import instant_env, write

from nosbench_env import Program
from nosbench_env.wrappers import RankReward


def of_loss(loss: float) -> Program:
    """A program with this `told_loss`."""
    return Program.parse("; ".join(["r9 = mul(grad, 0.1)"] * round(loss)))


def told_loss(program: Program) -> float:
    return float(len(program))


def test_rank_compares_with_the_last_episodes_alone() -> None:
    env = RankReward(instant_env("NOSBench-v0", told_loss), window=3)
    ranks = [write(env, of_loss(loss)) for loss in (5, 4, 6, 5, 5, 5, 6)]
    assert ranks == pytest.approx([0.5, 1.0, 0.0, 0.5, 0.5, 2 / 3, 0.0])
    assert write(env, of_loss(4), seed=1) == 0.5  # a seed begins anew
