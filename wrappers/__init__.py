"""Wrappers of the environments, imported as `nosbench_env.wrappers`.

Each changes one thing: an observation, a reward, or the end of an experiment. They wrap single envs, so they also work
with vector envs made of single envs: `gymnasium.make_vec(..., vectorization_mode="sync", wrappers=[LogReward])`, or
"async"; `make_vec_env(..., wrapper_class=LogReward)` of stable-baselines3. Each env then has a rank, a novelty and a
budget of its own. Several `EpisodeRecorder` may write to one file.

None of them wraps the vector env that evaluates programs together. For that one use Gymnasium's vector wrappers
(`gymnasium.wrappers.vector`: `TransformReward` and `TransformObservation` with a function, `FlattenObservation` for
one-hot, `RecordEpisodeStatistics`) or stable-baselines3's (`VecMonitor`, `VecNormalize`). Its masks are
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
