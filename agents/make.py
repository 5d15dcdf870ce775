"""`make_agent`: every search method by its name, with the defaults of `nosbench search`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from nosbench_env.agents.agent import Agent
from nosbench_env.agents.policy_gradient import PolicyGradient
from nosbench_env.agents.ppo import PPOAgent
from nosbench_env.agents.random_search import RandomSearch
from nosbench_env.agents.regularized_evolution import RegularizedEvolution
from nosbench_env.agents.smac_hpo import SmacHPO
from nosbench_env.agents.smac_nos import SmacNOS
from nosbench_env.language.known_programs import KNOWN_PROGRAMS, known_name
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace

# `AGENTS[name](space=..., seed=...)` makes a search method; "smac-hpo" takes no space. The first two names are the
# paper's abbreviations.
AGENTS: Mapping[str, Callable[..., Agent[Any]]] = MappingProxyType(
    {
        "rs": RandomSearch,
        "re": RegularizedEvolution,
        "ppo": PPOAgent,
        "maskable-ppo": partial(PPOAgent, masked=True),
        "reinforce": partial(PolicyGradient, risk_seeking=False),
        "risk-seeking": partial(PolicyGradient, risk_seeking=True),
        "smac-nos": SmacNOS,
        "smac-hpo": SmacHPO,
    }
)
DEFAULT_START = "AdamW"
_WITH_START = ("re",)
_WITH_INITIAL = ("smac-nos", "smac-hpo")
_ONE_AT_A_TIME = ("rs", "re", "smac-nos", "smac-hpo")
_USUAL_BATCH_SIZE = 16


def make_agent(
    name: str,
    *,
    seed: int = 0,
    start: Program | str | None = None,
    constraints: Sequence[str] = (),
    initial: int | None = None,
) -> Agent[Any]:
    """Makes a search method with the defaults of `nosbench search`.

    The classes of `nosbench_env.agents` have further arguments.

    Args:
        name: A key of `AGENTS`.
        seed: Seed of the search method.
        start: The start of "re": a program, the name of a known program, or "random" for random programs; AdamW if
            None.
        constraints: Constraints on all programs; see `SearchSpace`. Not for "smac-nos" and "smac-hpo".
        initial: The proposals with which "smac-nos" (default 10) and "smac-hpo" (default 90) begin before they learn.

    Raises:
        ValueError: If an argument is invalid, or not for this search method.

    >>> make_agent("re", start="SGD", constraints=["used"]).config()["space"]["constraints"]
    ['used']
    """
    _check_options(name, start, constraints, initial)
    if name in _WITH_INITIAL:
        return AGENTS[name](seed=seed, **({} if initial is None else {"initial_configs": initial}))
    options = {"start": _start_program(start)} if name in _WITH_START else {}
    return AGENTS[name](space=SearchSpace(constraints=tuple(constraints)), seed=seed, **options)


def usual_batch_size(name: str) -> int:
    """Returns the batch size that `nosbench search` uses for an agent.

    It is 16 for agents that learn from many programs at a time, so that worker processes can train them together.

    Raises:
        ValueError: If no agent has this name.
    """
    _check_options(name, None, (), None)
    return 1 if name in _ONE_AT_A_TIME else _USUAL_BATCH_SIZE


def run_name(
    name: str,
    *,
    task: str,
    epochs: int,
    seed: int = 0,
    training_seed: int = 0,
    start: Program | str | None = None,
    constraints: Sequence[str] = (),
    initial: int | None = None,
    batch_size: int | None = None,
    arithmetic: str = "float32",
    identity: str = "fingerprint",
) -> str:
    """Names a run after its settings, like `nosbench search` in `runs/`.

    Settings that are as usual are left out, except for agent, start, task, epochs and seed. The arguments are those of
    `make_agent`, `search` and `Oracle`.

    Raises:
        ValueError: If an argument is not for this search method.

    >>> run_name("re", task="toy", epochs=5, seed=1, start="random", batch_size=4)
    're-random-toy-e5-s1-b4'
    """
    _check_options(name, start, constraints, initial)
    label = f"{name}-{_start_label(start)}" if name in _WITH_START else name
    parts = {
        f"-{arithmetic}": arithmetic != "float32",
        f"-{identity}": identity != "fingerprint",
        f"-t{training_seed}": training_seed != 0,
        f"-b{batch_size}": batch_size not in (None, usual_batch_size(name)),
        f"-i{initial}": initial is not None,
        **{f"-{constraint}": True for constraint in sorted(set(constraints))},
    }
    return f"{label}-{task}-e{epochs}-s{seed}" + "".join(part for part, unusual in parts.items() if unusual)


def _check_options(name: str, start: Program | str | None, constraints: Sequence[str], initial: int | None) -> None:
    if name not in AGENTS:
        raise ValueError(f"agent must be one of {', '.join(AGENTS)}, got {name!r}")
    if start is not None and name not in _WITH_START:
        raise ValueError(f"start (--start) is for the agent re; {name} starts from nothing")
    if constraints and name in _WITH_INITIAL:
        raise ValueError(f"constraints (--constraint) are not for {name}: its configurations can't express them")
    if initial is not None and name not in _WITH_INITIAL:
        raise ValueError(f"initial (--initial) is for smac-nos and smac-hpo; {name} has no initial design")


def _start_program(start: Program | str | None) -> Program | None:
    """Returns the program that evolution starts from; None for random programs."""
    if isinstance(start, Program):
        return start
    start = DEFAULT_START if start is None else start
    if start.lower() == "random":
        return None
    if (known := known_name(start)) is None:
        raise ValueError(f"start must be a program, 'random' or one of {', '.join(KNOWN_PROGRAMS)}, got {start!r}")
    return KNOWN_PROGRAMS[known]


def _start_label(start: Program | str | None) -> str:
    if (program := _start_program(start)) is None:
        return "random"
    names = {known: name.lower() for name, known in KNOWN_PROGRAMS.items()}
    return names.get(program) or hashlib.sha256(str(program).encode()).hexdigest()[:8]
