"""Search methods, imported as `nosbench_env.agents`. They propose programs; `search` does everything else."""

from collections.abc import Mapping
from types import MappingProxyType

from nosbench_env.agents.agent import Agent
from nosbench_env.agents.policy import AgentPolicy
from nosbench_env.agents.policy_gradient import PolicyGradient
from nosbench_env.agents.random_search import RandomSearch
from nosbench_env.agents.regularized_evolution import RegularizedEvolution
from nosbench_env.agents.search import Budget, HistoryEntry, RunError, SearchResult, search

# By their names; "rs" and "re" are the paper's abbreviations.
AGENTS: Mapping[str, type[Agent]] = MappingProxyType(
    {"rs": RandomSearch, "re": RegularizedEvolution, "reinforce": PolicyGradient, "risk-seeking": PolicyGradient}
)

__all__ = [
    "AGENTS",
    "Agent",
    "AgentPolicy",
    "Budget",
    "HistoryEntry",
    "PolicyGradient",
    "RandomSearch",
    "RegularizedEvolution",
    "RunError",
    "SearchResult",
    "search",
]
