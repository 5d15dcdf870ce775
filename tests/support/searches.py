"""Search runs in tests: small agents, made-up evaluations, and the histories of run folders."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nosbench_env import Evaluation, Instruction, OptimizerConfig, Program, SearchSpace
from nosbench_env.agents import Agent, HistoryEntry, RegularizedEvolution, SmacHPO, SmacNOS
from nosbench_env.agents.history import read_history
from nosbench_env.agents.token_policy import TokenPolicy
from nosbench_env.language.functions import FUNCTIONS

SMALL_SMAC: dict[str, Any] = {"initial_configs": 4, "retrain_after": 3, "challengers": 20}
TINY = SearchSpace(max_instructions=1, memory_size=10)


def small_evolution(seed: int = 0) -> RegularizedEvolution:
    return RegularizedEvolution(seed=seed, population_size=6, tournament_size=3)


def small_smac(name: str, seed: int = 0) -> SmacNOS | SmacHPO:
    """Makes an agent of SMAC with a small initial design and short rounds."""
    return SmacNOS(SearchSpace(3), seed, **SMALL_SMAC) if name == "smac-nos" else SmacHPO(seed, **SMALL_SMAC)


def evaluation(program: Any, loss: float, key: str | None = None) -> Evaluation[Any]:
    """Makes up an evaluation on the toy task."""
    status = "ok" if math.isfinite(loss) else "nan" if math.isnan(loss) else "inf"
    return Evaluation(program, "toy", 1, 0, loss, status, (loss,), key or str(program), False, "trained")


def loss_of(candidate: Program | OptimizerConfig) -> float:
    """Makes up a loss that rises with the length of a candidate's text; some candidates fail."""
    length = len(candidate) if isinstance(candidate, Program) else len(str(candidate))
    return math.nan if length % 7 == 6 else len(str(candidate)) / 100


def play(agent: Agent[Any], rounds: int) -> list[Any]:
    """Asks for one candidate a round and tells its `loss_of`; returns the candidates."""
    asked = []
    for _ in range(rounds):
        candidate = agent.ask()[0]
        agent.tell([candidate], [evaluation(candidate, loss_of(candidate))])
        asked.append(candidate)
    return asked


def history(folder: Path) -> list[HistoryEntry[Any]]:
    """Reads the finished queries of a run folder."""
    return read_history(folder / "history.jsonl").entries


def told(entries: list[HistoryEntry[Any]]) -> list[tuple[Any, ...]]:
    """Leaves out wall times and hits, which differ between an interrupted run and a whole one."""
    return [(e.number, e.batch, e.program, e.status, e.loss, e.key, e.new, e.simulated_seconds) for e in entries]


def every_tiny_program() -> list[Program]:
    """Returns all programs of `TINY`."""
    return [
        Program((Instruction(function.name, inputs, 9),))
        for function in FUNCTIONS.values()
        for inputs in itertools.product(range(10), repeat=function.arity)
    ]


def policy(space: SearchSpace, seed: int = 0, **arguments: object) -> TokenPolicy:
    """Makes a policy with random weights in all layers; the untrained one has zeros in the last."""
    made = TokenPolicy(space, np.random.default_rng(seed), **arguments)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(torch.from_numpy(rng.normal(0, 0.5, tuple(weights.shape))))
    return made


def log_probabilities(made: TokenPolicy, programs: Sequence[Program]) -> torch.Tensor:
    return made(made.read(programs))[0].sum(0)
