"""PPO with action masks in one file, in the style of CleanRL.

    python examples/cleanrl_ppo.py --total-steps 50000

It needs no wrapper and no callback: masks come from the vector env, which evaluates all programs that a step completes
together. An action may be one choice (NOSBenchToken-v0) or several (NOSBench-v0, NOSBenchEdit-v0).
"""

import gymnasium as gym
import numpy as np
import torch
import typer
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical


class Agent(nn.Module):
    """A policy and a value function with common layers."""

    def __init__(self, envs: VectorEnv, width: int = 128) -> None:
        super().__init__()
        observed, actions = envs.single_observation_space, envs.single_action_space
        self.factors = [actions.n] if isinstance(actions, gym.spaces.Discrete) else actions.nvec.tolist()
        # The sum of one embedding for each number of the observation is a linear layer on one-hot numbers.
        self.register_buffer("first", torch.tensor(np.cumsum(observed.nvec) - observed.nvec))
        self.body = nn.Sequential(nn.EmbeddingBag(int(observed.nvec.sum()), width, mode="sum"), nn.Tanh())
        self.body.append(nn.Linear(width, width)).append(nn.Tanh())
        self.policy = nn.Linear(width, sum(self.factors))
        self.value = nn.Linear(width, 1)
        nn.init.normal_(self.body[0].weight, std=0.1)
        nn.init.orthogonal_(self.policy.weight, 0.01)

    def forward(self, observations: Tensor, masks: Tensor) -> tuple[list[Categorical], Tensor]:
        """Returns the distribution of each factor of an action, and the values `(n,)`."""
        hidden = self.body(observations + self.first)
        logits = torch.where(masks, self.policy(hidden), -1e8)
        return [Categorical(logits=part) for part in logits.split(self.factors, dim=1)], self.value(hidden).squeeze(1)


def log_probability(choices: list[Categorical], actions: Tensor) -> Tensor:
    """Returns the log-probabilities of actions `(n, factors)`, summed over the factors."""
    return sum(choice.log_prob(actions[:, factor]) for factor, choice in enumerate(choices))


def train(
    envs: VectorEnv,
    total_steps: int = 20_000,
    num_steps: int = 64,  # of each env, between updates
    learning_rate: float = 1e-3,
    gamma: float = 1.0,  # the only reward comes at the end, and programs need not be short
    gae_lambda: float = 0.95,
    num_minibatches: int = 4,
    update_epochs: int = 4,
    clip: float = 0.2,
    entropy_weight: float = 0.01,
    seed: int = 0,
) -> list[float]:
    """Trains an agent on envs that reset in the same step; returns mean returns by iteration."""
    torch.manual_seed(seed)
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=learning_rate, eps=1e-5)
    n, factors = envs.num_envs, len(agent.factors)
    observations = torch.zeros((num_steps, n, *envs.single_observation_space.shape), dtype=torch.long)
    masks = torch.zeros((num_steps, n, sum(agent.factors)), dtype=torch.bool)
    actions = torch.zeros((num_steps, n, factors), dtype=torch.long)
    log_probs, rewards, ends = (torch.zeros((num_steps, n)) for _ in range(3))
    values = torch.zeros((num_steps + 1, n))

    def look() -> tuple[Tensor, Tensor]:
        return torch.as_tensor(observation), torch.as_tensor(np.stack(envs.call("action_masks")))

    observation, _ = envs.reset(seed=seed)
    returns, mean_returns, best = np.zeros(n), [], np.inf
    for iteration in range(total_steps // (num_steps * n)):
        finished = []
        for step in range(num_steps):
            observations[step], masks[step] = look()
            with torch.no_grad():
                choices, values[step] = agent(observations[step], masks[step])
                actions[step] = torch.stack([choice.sample() for choice in choices], dim=1)
                log_probs[step] = log_probability(choices, actions[step])
            taken = actions[step].numpy().reshape(envs.action_space.shape)
            observation, reward, terminated, _, infos = envs.step(taken)
            rewards[step], ends[step] = torch.as_tensor(reward), torch.as_tensor(terminated)
            returns += reward
            for number in np.flatnonzero(terminated):
                loss = infos["final_info"]["loss"][number]
                if loss is not None and loss < best:
                    best = loss
                    print(f"loss {loss:.4f}:\n{infos['final_info']['program'][number]}\n", flush=True)
                finished.append(returns[number])
                returns[number] = 0.0
        with torch.no_grad():
            values[num_steps] = agent(*look())[1]
        mean_returns.append(float(np.mean(finished)) if finished else float("nan"))
        print(f"iteration {iteration + 1}: {len(finished)} episodes, mean return {mean_returns[-1]:.3f}", flush=True)

        # Generalized advantage estimation; a step after an end belongs to another episode.
        advantages = torch.zeros((num_steps + 1, n))
        for step in reversed(range(num_steps)):
            follows = gamma * (1 - ends[step])
            delta = rewards[step] + follows * values[step + 1] - values[step]
            advantages[step] = delta + follows * gae_lambda * advantages[step + 1]
        advantages = advantages[:num_steps]
        targets = advantages + values[:num_steps]
        batch = [
            data.flatten(0, 1) for data in (observations, masks, actions, log_probs, values[:-1], advantages, targets)
        ]
        for _ in range(update_epochs):
            for part in torch.randperm(num_steps * n).chunk(num_minibatches):
                seen, mask, action, old_log_prob, old_value, advantage, target = (data[part] for data in batch)
                choices, value = agent(seen, mask)
                ratio = (log_probability(choices, action) - old_log_prob).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy_loss = -torch.min(advantage * ratio, advantage * ratio.clamp(1 - clip, 1 + clip)).mean()
                clipped_value = old_value + (value - old_value).clamp(-clip, clip)
                value_loss = 0.5 * torch.max((value - target) ** 2, (clipped_value - target) ** 2).mean()
                entropy = sum(choice.entropy() for choice in choices).mean()
                optimizer.zero_grad()
                (policy_loss - entropy_weight * entropy + 0.5 * value_loss).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    return mean_returns


def make_envs(env_id: str, num_envs: int, **arguments: object) -> VectorEnv:
    """Makes a vector env that starts the next episode in the step that ends one."""
    return gym.make_vec(
        f"nosbench_env:{env_id}",
        num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode="SameStep",
        **arguments,
    )


def main(
    env_id: str = "NOSBenchToken-v0", task: str = "toy", epochs: int = 1, total_steps: int = 20_000, num_envs: int = 16
) -> None:
    """Trains, by default on the toy task. A failure pays -5, so other differences stay visible."""
    torch.set_num_threads(1)  # more threads do not speed up so small a network
    train(make_envs(env_id, num_envs, task=task, epochs=epochs, max_instructions=15, failure_reward=-5.0), total_steps)


if __name__ == "__main__":
    typer.run(main)
