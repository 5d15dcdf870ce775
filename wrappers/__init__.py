"""Wrappers of the environment, imported as `nosbench_env.wrappers`: each changes one thing an agent sees."""

from nosbench_env.wrappers.episode_recorder import EpisodeRecorder
from nosbench_env.wrappers.reward_transform import RewardTransform

__all__ = ["EpisodeRecorder", "RewardTransform"]
