import math

from play import instant_env, write

from nosbench_env import KNOWN_PROGRAMS, Program
from nosbench_env.wrappers import NoveltyBonus

ADAM = KNOWN_PROGRAMS["Adam"]
SGD = KNOWN_PROGRAMS["SGD"]


def test_novelty_is_paid_once_for_what_does_the_same() -> None:
    env = NoveltyBonus(instant_env("NOSBench-v0", lambda _: 1.0), bonus=0.25)
    unlike, alike = Program.parse("r9 = mul(grad, 0.1)"), Program.parse("r10 = exp(step); r9 = mul(0.1, grad)")
    assert write(env, unlike) == -0.75
    assert write(env, alike) == -1.0
    assert write(env, ADAM) == -0.75
    assert len(env.seen) == 2
    assert write(env, unlike, seed=0) == -0.75


def test_failures_are_not_novel() -> None:
    assert write(NoveltyBonus(instant_env("NOSBench-v0", lambda _: math.nan)), SGD) == -20.0
