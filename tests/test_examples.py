"""The examples run, and their agents learn."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from oracles import InstantOracle, random_loss
from play import IDS

from nosbench_env import Program

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, if other programs want them too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_sign(program: Program) -> float:
    """A loss from 0 to 1: the share of instructions that are no `sign`."""
    return sum(instruction.function != "sign" for instruction in program) / len(program)


def test_cleanrl_ppo_learns_what_is_paid() -> None:
    example, oracle = load("cleanrl_ppo"), InstantOracle(without_sign)
    envs = example.make_envs("NOSBenchToken-v0", 16, task="toy", max_instructions=3, oracle=oracle)
    returns = example.train(envs, total_steps=16 * 64 * 12)
    assert len(returns) == 12
    assert np.mean(returns[:2]) < -0.85
    assert np.mean(returns[-2:]) > -0.5
    assert min(returns) >= -1.0  # nothing else was paid: masked choices, which pay -20, were never taken


def test_an_exported_incumbent_learns_to_read_digits(tmp_path: Path) -> None:
    example = load("train_with_exported")
    optimizer = example.load_optimizer(example.export("Incumbent", tmp_path))
    assert example.train(optimizer, epochs=10) > 0.9


@pytest.mark.parametrize("env_id", IDS)
def test_cleanrl_ppo_plays_every_env(env_id: str) -> None:
    example, oracle = load("cleanrl_ppo"), InstantOracle(random_loss)
    envs = example.make_envs(env_id, 2, task="toy", oracle=oracle)
    (mean_return,) = example.train(envs, total_steps=256, num_steps=128)
    assert np.isfinite(mean_return)
    assert oracle.asked


def test_rllib_ppo_never_takes_a_masked_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.rllib", reason="needs RLlib: pip install 'nosbench_env[ray]'")
    record = tmp_path / "episodes.jsonl"
    load("rllib_ppo").train(iterations=1, batch_size=512, record=str(record))
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(lines) >= 3
    assert "invalid" not in {line["status"] for line in lines}
