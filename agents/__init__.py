"""Search methods and the loop that runs them, imported as `nosbench_env.agents`."""

from nosbench_env.agents.agent import Agent, ProgramAgent
from nosbench_env.agents.budget import Budget
from nosbench_env.agents.history import HistoryEntry, RunError, SearchResult
from nosbench_env.agents.make import AGENTS, make_agent, run_name, usual_batch_size
from nosbench_env.agents.policy import AgentPolicy
from nosbench_env.agents.policy_gradient import PolicyGradient
from nosbench_env.agents.ppo import PPOAgent
from nosbench_env.agents.random_search import RandomSearch
from nosbench_env.agents.regularized_evolution import RegularizedEvolution
from nosbench_env.agents.search import search
from nosbench_env.agents.smac_hpo import SmacHPO
from nosbench_env.agents.smac_nos import SmacNOS

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
    "make_agent",
    "run_name",
    "search",
    "usual_batch_size",
]
