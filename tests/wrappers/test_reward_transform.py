import gymnasium
from play import instant_env, write

from nosbench_env import KNOWN_PROGRAMS, Program, SearchSpace
from nosbench_env.wrappers import RewardTransform

SPACE = SearchSpace()
FAILS = Program.parse("r9 = log(r9); r9 = mul(r9, r10)")
ADAM = KNOWN_PROGRAMS["Adam"]
SGD = KNOWN_PROGRAMS["SGD"]


def told_loss(program: Program) -> float:
    return float(len(program))


def test_reward_is_scaled_then_clipped(env: gymnasium.Env) -> None:
    adam = write(env, ADAM)
    assert write(RewardTransform(env, scale=0.5), ADAM) == 0.5 * adam
    assert write(RewardTransform(env, scale=10, low=-2.0), ADAM) == -2.0
    assert write(RewardTransform(env, high=-1.5), ADAM) == -1.5
    assert write(RewardTransform(env, scale=0.1, low=-5), FAILS) == -2.0
    assert write(RewardTransform(env, low=-5), FAILS) == -5.0


def test_rewards_before_the_end_stay_0(env: gymnasium.Env) -> None:
    wrapped = RewardTransform(env, low=-3.0, high=-2.0)
    wrapped.reset()
    assert wrapped.step(SPACE.encode(SGD[0]))[1] == 0.0


def test_every_improvement_is_scaled_and_clipped_where_each_is_paid() -> None:
    def rewards(**arguments: float) -> list[float]:
        env = RewardTransform(instant_env("NOSBenchEdit-v0", told_loss, start="SGD"), **arguments)
        env.reset()
        delete, insert = [1, 0, *SPACE.encode(SGD[0])], [0, 0, *SPACE.encode(SGD[0])]
        nothing = [1, 0, *SPACE.encode(SGD[0])]
        env.step(delete), env.step(delete), env.step(delete)
        paid = [env.step(action)[1] for action in (nothing, insert)]  # a program of 1 can't get shorter: not evaluated
        env.reset()
        return [*paid, env.step(delete)[1]]

    assert len(SGD) == 4
    assert rewards() == [0.0, -1.0, 1.0]
    assert rewards(scale=2.0) == [0.0, -2.0, 2.0]
    assert rewards(low=-3.0, high=-0.5) == [0.0, -1.0, -0.5]
