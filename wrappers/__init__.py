"""Wrappers of the environment, imported as `nosbench_env.wrappers`: each changes one thing an agent sees or is paid."""

from nosbench_env.wrappers.action_mask_observation import ActionMaskObservation
from nosbench_env.wrappers.episode_recorder import EpisodeRecorder
from nosbench_env.wrappers.flat_observation import FlatObservation
from nosbench_env.wrappers.length_cost import LengthCost
from nosbench_env.wrappers.log_reward import LogReward
from nosbench_env.wrappers.novelty_bonus import NoveltyBonus
from nosbench_env.wrappers.one_hot_observation import OneHotObservation
from nosbench_env.wrappers.potential_shaping import PotentialShaping
from nosbench_env.wrappers.query_budget import BudgetSpent, QueryBudget
from nosbench_env.wrappers.rank_reward import RankReward
from nosbench_env.wrappers.relative_reward import RelativeReward
from nosbench_env.wrappers.reward_transform import RewardTransform
from nosbench_env.wrappers.token_observation import TokenObservation

__all__ = [
    "ActionMaskObservation",
    "BudgetSpent",
    "EpisodeRecorder",
    "FlatObservation",
    "LengthCost",
    "LogReward",
    "NoveltyBonus",
    "OneHotObservation",
    "PotentialShaping",
    "QueryBudget",
    "RankReward",
    "RelativeReward",
    "RewardTransform",
    "TokenObservation",
]
