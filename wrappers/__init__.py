"""Wrappers of the environment, imported as `nosbench_env.wrappers`: each changes one thing an agent sees or is paid.

They wrap single envs, so they also go where vector envs are made of such: `gymnasium.make_vec(...,
vectorization_mode="sync", wrappers=[LogReward])`, or "async"; `make_vec_env(..., wrapper_class=LogReward)` of
stable-baselines3. Each env is wrapped by itself then, with a rank, a novelty and a budget of its own; `EpisodeRecorder`
may be given one file for all.

None of them wraps the vector env that evaluates programs together. Around that one use Gymnasium's vector wrappers
(`gymnasium.wrappers.vector`: `TransformReward` and `TransformObservation` with a function, `FlattenObservation` for
one-hot, `RecordEpisodeStatistics`), or stable-baselines3's (`VecMonitor`, `VecNormalize`); its masks are
`envs.unwrapped.action_masks()`, its evaluations `envs.unwrapped.last_evaluations`.
"""

from nosbench_env.wrappers.action_mask_observation import ActionMaskObservation
from nosbench_env.wrappers.episode_recorder import EpisodeRecorder
from nosbench_env.wrappers.flat_observation import FlatObservation
from nosbench_env.wrappers.length_cost import LengthCost
from nosbench_env.wrappers.log_reward import LogReward
from nosbench_env.wrappers.multi_objective_reward import MultiObjectiveReward
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
    "MultiObjectiveReward",
    "NoveltyBonus",
    "OneHotObservation",
    "PotentialShaping",
    "QueryBudget",
    "RankReward",
    "RelativeReward",
    "RewardTransform",
    "TokenObservation",
]
