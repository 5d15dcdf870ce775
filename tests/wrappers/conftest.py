import gymnasium
import pytest


@pytest.fixture
def env() -> gymnasium.Env:
    """`NOSBench-v0` on the toy task with a new store."""
    return gymnasium.make("nosbench_env:NOSBench-v0", task="toy", epochs=1, device="cpu", store="sqlite://")
