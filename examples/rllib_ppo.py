"""RLlib's PPO, with action masks, writes optimizers token by token.

    pip install 'nosbench_env[ray]'
    python examples/rllib_ppo.py --iterations 10

On the toy task an iteration takes about ten seconds. For the paper's task remove "task" and "epochs" from `env_config`;
it takes much longer.
"""

import typer
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule

from nosbench_env.rllib import register_rllib


def train(
    env_id: str = "NOSBenchToken-v0", iterations: int = 5, batch_size: int = 512, seed: int = 0, record: str = ""
) -> float:
    """Trains; returns the mean return of the last iteration. `record` is a file for all programs."""
    register_rllib()
    # The first is the innermost. RLlib's masking module reads masks from the observation, so they come last.
    wrappers = {"RewardTransform": {"low": -5.0}, "OneHotObservation": {}, "ActionMaskObservation": {}}
    if record:
        wrappers = {"EpisodeRecorder": {"path": record}, **wrappers}
    config = (
        PPOConfig()
        .environment(
            env_id,
            env_config={
                "task": "toy",
                "epochs": 1,
                "max_instructions": 15,
                "wrappers": wrappers,
            },
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=ActionMaskingTorchRLModule))
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8)  # in this process; with more, all use the same store
        .training(gamma=1.0, lr=3e-4, train_batch_size_per_learner=batch_size, minibatch_size=128, num_epochs=4)
        .debugging(seed=seed)
    )
    algorithm = config.build_algo()
    mean_return = float("nan")
    try:
        for iteration in range(iterations):
            runners = algorithm.train()["env_runners"]
            mean_return = runners["episode_return_mean"]
            length = runners["episode_len_mean"]
            print(f"iteration {iteration + 1}: mean return {mean_return:.3f}, mean length {length:.1f}", flush=True)
    finally:
        algorithm.stop()
    return mean_return


if __name__ == "__main__":
    typer.run(train)
