"""Search methods, imported as `nosbench_env.agents`. They propose programs; `search` does everything else."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from nosbench_env.agents.agent import Agent, ProgramAgent
from nosbench_env.agents.policy import AgentPolicy
from nosbench_env.agents.policy_gradient import PolicyGradient
from nosbench_env.agents.ppo import PPOAgent
from nosbench_env.agents.random_search import RandomSearch
from nosbench_env.agents.regularized_evolution import RegularizedEvolution
from nosbench_env.agents.search import Budget, HistoryEntry, RunError, SearchResult, search
from nosbench_env.agents.smac_hpo import SmacHPO
from nosbench_env.agents.smac_nos import SmacNOS

# How each search method is made: `AGENTS[name](space, seed)`; "smac-hpo" searches no space of programs and takes none.
# The first two by the paper's abbreviations.
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

__all__ = [
    "AGENTS",
    "Agent",
    "AgentPolicy",
    "Budget",
    "HistoryEntry",
    "PPOAgent",
    "PolicyGradient",
    "ProgramAgent",
    "RandomSearch",
    "RegularizedEvolution",
    "RunError",
    "SearchResult",
    "SmacHPO",
    "SmacNOS",
    "search",
]
