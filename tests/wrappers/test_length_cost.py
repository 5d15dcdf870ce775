from play import instant_env, write

from nosbench_env import Program
from nosbench_env.wrappers import LengthCost


def test_length_costs_by_the_instruction() -> None:
    env = LengthCost(instant_env("NOSBench-v0", lambda program: float(len(program))), cost=0.5)
    assert write(env, Program.parse("; ".join(["r9 = mul(grad, 0.1)"] * 3))) == -4.5
