"""`PPOAgent`: stable-baselines3's PPO and sb3-contrib's MaskablePPO as search methods."""

from __future__ import annotations

import base64
import io
import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from nosbench_env.agents.agent import check_agent_seed, check_number_asked
from nosbench_env.evaluation import Evaluation
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.oracles.oracle import Oracle

if TYPE_CHECKING:
    from stable_baselines3 import PPO

    from nosbench_env.envs.program_env import ProgramEnv

RANKED_LOSSES = 1000  # the last losses told, among which a loss is ranked
_PATIENCE = 10_000  # episodes that may end outside of the space for each one within it
_METRICS: Mapping[str, str] = MappingProxyType(
    {
        "train/policy_gradient_loss": "policy_loss",
        "train/value_loss": "value_loss",
        "train/entropy_loss": "entropy",  # SB3 logs its negative
        "train/approx_kl": "approx_kl",
        "train/clip_fraction": "clip_fraction",
        "train/explained_variance": "explained_variance",
    }
)

Rewards = Literal["rank", "loss"]


class PPOAgent:
    """Proximal policy optimization (Schulman et al., 2017) of stable-baselines3 or sb3-contrib.

    `ask` plays episodes of the env with the policy, side by side. The evaluation at the end of an episode, its only
    reward, comes with `tell`. Episodes are added to the model's own rollout buffer in the order in which they are told,
    and whenever it is full the model trains with its own `train`. So it learns the same as from playing the env, while
    the search loop owns the evaluations, their budget and the run folder. Programs that the agent was not asked for are
    ignored: it learns only from its own choices. Episodes whose program is not in the space, which "ppo" writes since
    it has no mask, count as failures and are not evaluated.

    Without `masked` this is PPO on `NOSBench-v0`, with an instruction as action ("ppo"). With it, this is MaskablePPO
    on `NOSBenchToken-v0`, with a token as action and exact masks ("maskable-ppo"; needs sb3-contrib).

    Rewards are ranks by default: the share of the last losses told that are worse, with equal ones counted half;
    failures share the last place. Ranks need no scale, and neither a failure's -20 nor a task's range of losses hides
    the differences between good programs. With `rewards="loss"` they are the env's: `max(-loss, failure_reward)`.

    A repeated program is paid like any other, so a policy may converge to a few programs. If the budget counts distinct
    programs, set a limit of queries beside it.

    The agent needs many programs. Within 800 on the toy task it learned to write fewer harmful ones than random search,
    but its best was no better. The defaults are the best of a few tried there, on two seeds.

    To do the same with stable-baselines3's own `learn`, without a budget or a run folder, on 16 envs whose programs are
    evaluated together::

        envs = make_sb3_env("nosbench_env:NOSBenchToken-v0", 16, task="toy", epochs=1)  # nosbench_env.sb3
        MaskablePPO("MlpPolicy", envs, n_steps=32, batch_size=128, gamma=1.0).learn(20_000)

    Args:
        space: The search space; the paper's if None.
        seed: Seed of the initial weights and of all draws, as in stable-baselines3.
        masked: True for MaskablePPO on tokens; see above.
        rewards: "rank" or "loss"; see above.
        failure_reward: With `rewards="loss"`, the reward of a failed program, and the lowest reward.
        n_steps: Actions between updates.
        minibatch_size: Actions in a gradient step (`batch_size` of stable-baselines3).
        n_epochs: Passes of an update through its actions.
        learning_rate: Learning rate of Adam.
        gamma: Discount. The only reward of an episode comes at its end, so less than 1 favours short programs.
        gae_lambda: From one-step estimates of the advantage (0) to the plain return (1).
        clip_range: Clipping range of the ratio of new to old probabilities.
        ent_coef: Weight of the entropy in the objective; a greater one explores more.
        vf_coef: Weight of the value function's error in the objective.
        max_grad_norm: Norm to which gradients are clipped.
        net_arch: Widths of the hidden layers, for the policy and the value function alike.

    Attributes:
        model: The model of stable-baselines3, with its usual `predict`, `save` and `policy`. It has no env; call
            `set_env` before its own `learn`.

    Raises:
        ValueError: If an argument is out of range, or `masked` without sb3-contrib.
    """

    def __init__(
        self,
        space: SearchSpace | None = None,
        seed: int = 0,
        *,
        masked: bool = False,
        rewards: Rewards = "rank",
        failure_reward: float = -20.0,
        n_steps: int = 512,
        minibatch_size: int = 128,
        n_epochs: int = 10,
        learning_rate: float = 1e-3,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        ent_coef: float = 0.01,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        net_arch: Sequence[int] = (64, 64),
    ) -> None:
        if rewards not in ("rank", "loss"):
            raise ValueError(f"rewards must be 'rank' or 'loss', got {rewards!r}")
        for name, number in (("n_steps", n_steps), ("minibatch_size", minibatch_size)):
            if check_number_asked(number, name) < 2:
                raise ValueError(f"{name} must be at least 2: advantages are normalized, got {number}")
        if n_steps % minibatch_size:
            raise ValueError(f"n_steps must be a multiple of minibatch_size {minibatch_size}, got {n_steps}")
        self.name = "maskable-ppo" if masked else "ppo"
        self.space = space or SearchSpace()
        self.seed = check_agent_seed(seed)
        self.masked, self.rewards, self.failure_reward = bool(masked), rewards, float(failure_reward)
        self._hyperparameters: dict[str, Any] = {
            "n_steps": n_steps,
            "batch_size": minibatch_size,
            "n_epochs": check_number_asked(n_epochs, "n_epochs"),
            "learning_rate": float(learning_rate),
            "gamma": float(gamma),
            "gae_lambda": float(gae_lambda),
            "clip_range": float(clip_range),
            "ent_coef": float(ent_coef),
            "vf_coef": float(vf_coef),
            "max_grad_norm": float(max_grad_norm),
        }
        self.net_arch = [check_number_asked(width, "net_arch") for width in net_arch]
        self._envs = [self._make_env()]
        self._random = _RandomState(self.seed)
        with self._random.in_use():
            self.model = self._make_model()
        self._asked: dict[Program, deque[_Episode]] = {}
        self._told: deque[tuple[_Episode, float]] = deque()  # episodes not yet learned, the first perhaps in part
        self._learned = 0  # actions of the first episode that are learned
        self._ranks = _Ranks(RANKED_LOSSES)
        self._metrics: dict[str, float] = {}

    def ask(self, n: int = 1) -> list[Program]:
        """Plays episodes side by side and proposes their programs."""
        programs: list[Program] = []
        failures = 0
        while len(programs) < check_number_asked(n):
            for episode in self._play(n - len(programs)):
                if episode.program is not None and episode.program in self.space:
                    programs.append(episode.program)
                    self._asked.setdefault(episode.program, deque()).append(episode)
                else:
                    failures += 1
                    self._take(episode, math.inf)
            if failures > _PATIENCE * n:
                raise RuntimeError(f"{self.name} wrote {failures} programs that are not in {self.space}")
        return programs

    def tell(self, programs: Sequence[Program], evaluations: Sequence[Evaluation]) -> None:
        """Rewards the episodes of these programs, and trains after every `n_steps` actions."""
        for program, evaluation in zip(programs, evaluations, strict=True):
            if not (episodes := self._asked.get(program)):
                continue  # not written by this policy
            self._take(episodes.popleft(), evaluation.loss if evaluation.status == "ok" else math.inf)
            if not episodes:
                del self._asked[program]

    def metrics(self) -> dict[str, float]:
        """Returns the last update's measures, such as losses; initially none."""
        return dict(self._metrics)

    def config(self) -> dict[str, Any]:
        """See `Agent.config`."""
        hyperparameters = {
            {"batch_size": "minibatch_size"}.get(name, name): value for name, value in self._hyperparameters.items()
        }
        return {
            "space": self.space.to_json(),
            "seed": self.seed,
            "rewards": self.rewards,
            "failure_reward": self.failure_reward,
            **hyperparameters,
            "net_arch": self.net_arch,
        }

    def state_dict(self) -> dict[str, Any]:
        """See `Agent.state_dict`."""
        policy = self.model.policy
        return {
            "weights": _to_text({"policy": policy.state_dict(), "optimizer": policy.optimizer.state_dict()}),
            "random": self._random.to_json(),
            "told": [[*episode.to_json(), reward] for episode, reward in self._told],
            "learned": self._learned,
            "ranked": [loss if math.isfinite(loss) else None for loss in self._ranks.losses],
            "metrics": self._metrics,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Agent.load_state_dict`."""
        weights = _from_text(state["weights"])
        try:
            self.model.policy.load_state_dict(weights["policy"])
        except RuntimeError as error:
            raise ValueError(f"the state is of another network: {error}") from error
        self.model.policy.optimizer.load_state_dict(weights["optimizer"])
        self._random = _RandomState.from_json(state["random"])
        self._asked.clear()
        self._told = deque((_Episode.from_json(*episode), reward) for *episode, reward in state["told"])
        self._learned = state["learned"]
        self._ranks = _Ranks(RANKED_LOSSES)
        for loss in state["ranked"]:
            self._ranks.add(math.inf if loss is None else loss)
        self._metrics = state["metrics"]

    def _play(self, n: int) -> list[_Episode]:
        """Plays episodes with the present policy, as the model's `collect_rollouts` does."""
        import torch

        self._envs += [self._make_env() for _ in range(n - len(self._envs))]
        observations = {number: self._envs[number].reset()[0] for number in range(n)}
        episodes = [_Episode() for _ in range(n)]
        policy = self.model.policy
        policy.set_training_mode(False)
        with self._random.in_use(), torch.no_grad():
            while observations:
                playing = list(observations)
                seen = torch.as_tensor(np.stack(list(observations.values())))
                if self.masked:
                    masks = np.stack([self._envs[number].action_masks() for number in playing])
                    actions, values, log_probs = policy(seen, action_masks=masks)
                else:
                    actions, values, log_probs = policy(seen)
                chosen = zip(playing, actions.numpy(), values.flatten().tolist(), log_probs.tolist(), strict=True)
                for number, action, value, log_prob in chosen:
                    episodes[number].add(action.tolist(), value, log_prob)
                    observations[number], _, over, _, _ = self._envs[number].step(action)
                    if over:
                        del observations[number]
                        evaluation = self._envs[number].last_evaluation
                        episodes[number].program = None if evaluation is None else evaluation.program
        return episodes

    def _take(self, episode: _Episode, loss: float) -> None:
        """Adds an episode (failed: loss inf); trains after enough actions."""
        rank = self._ranks.add(loss)
        self._told.append((episode, rank if self.rewards == "rank" else max(-loss, self.failure_reward)))
        while sum(len(episode) for episode, _ in self._told) - self._learned >= self.model.n_steps:
            self._train()

    def _train(self) -> None:
        """Fills the rollout buffer with the first `n_steps` actions; trains with it."""
        import torch

        buffer, n_steps = self.model.rollout_buffer, self.model.n_steps
        buffer.reset()
        replayed = (step for episode, reward in self._told for step in self._replay(episode, reward))
        rewards = [reward for _, reward in self._told]
        lengths = [len(episode) for episode, _ in self._told]
        with self._random.in_use():
            for step in islice(replayed, self._learned, self._learned + n_steps):
                buffer.add(**step)
            self._learned += n_steps
            while self._told and self._learned >= len(self._told[0][0]):
                self._learned -= len(self._told.popleft()[0])
            # The value at the point where the last episode is cut, as estimated when it was played.
            value = self._told[0][0].values[self._learned] if self._learned else 0.0
            buffer.compute_returns_and_advantage(torch.tensor([value]), np.array([not self._learned]))
            self.model.train()
        self._measure(rewards, lengths)

    def _replay(self, episode: _Episode, reward: float) -> Iterator[dict[str, Any]]:
        """Yields an episode's steps as arguments of the rollout buffer's `add`."""
        import torch

        env = self._envs[0]
        observation, _ = env.reset()
        for number, action in enumerate(episode.actions):
            chosen = np.array([action])
            yield {
                "obs": observation,
                "action": chosen,
                "reward": np.array([reward if number == len(episode) - 1 else 0.0]),
                "episode_start": np.array([number == 0]),
                "value": torch.tensor(episode.values[number]),
                "log_prob": torch.tensor([episode.log_probs[number]]),
                **({"action_masks": env.action_masks()} if self.masked else {}),
            }
            observation = env.step(chosen[0])[0]

    def _measure(self, rewards: Sequence[float], lengths: Sequence[int]) -> None:
        logged = self.model.logger.name_to_value
        metrics = {name: float(logged[key]) for key, name in _METRICS.items() if key in logged}
        metrics["entropy"] = -metrics["entropy"]
        metrics |= {"mean_reward": float(np.mean(rewards)), "mean_length": float(np.mean(lengths))}
        metrics["updates"] = self._metrics.get("updates", 0.0) + 1
        self._metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _make_env(self) -> ProgramEnv:
        """Makes an env to play episodes in, without evaluating their programs."""
        bounds = self.space.to_json()
        oracle = cast(Oracle, _NoOracle())
        if self.masked:
            from nosbench_env.envs.token_env import NOSBenchTokenEnv

            return NOSBenchTokenEnv(**bounds, oracle=oracle)
        from nosbench_env.envs.instruction_env import NOSBenchEnv

        return NOSBenchEnv(**bounds, oracle=oracle)

    def _make_model(self) -> PPO:
        from stable_baselines3.common.logger import Logger

        env, settings = self._envs[0], self._hyperparameters | {"policy_kwargs": {"net_arch": self.net_arch}}
        if self.masked:
            if find_spec("sb3_contrib") is None:
                raise ValueError("maskable-ppo needs sb3-contrib: pip install 'nosbench_env[sb3-contrib]'")
            from sb3_contrib import MaskablePPO

            model = cast("PPO", MaskablePPO("MlpPolicy", env, device="cpu", **settings))
        else:
            from stable_baselines3 import PPO

            model = PPO("MlpPolicy", env, device="cpu", **settings)
        model.env = None  # it was needed for its spaces alone
        model.set_logger(Logger(folder=None, output_formats=[]))
        return model


class _Episode:
    """A played episode: its actions, with the policy's values and log-probabilities.

    `program` is None if the env would not evaluate one.
    """

    def __init__(self) -> None:
        self.program: Program | None = None
        self.actions: list[Any] = []
        self.values: list[float] = []
        self.log_probs: list[float] = []

    def __len__(self) -> int:
        return len(self.actions)

    def add(self, action: Any, value: float, log_prob: float) -> None:
        self.actions.append(action)
        self.values.append(value)
        self.log_probs.append(log_prob)

    def to_json(self) -> list[Any]:
        return [self.actions, self.values, self.log_probs]

    @classmethod
    def from_json(cls, actions: list[Any], values: list[float], log_probs: list[float]) -> _Episode:
        episode = cls()
        episode.actions, episode.values, episode.log_probs = actions, values, log_probs
        return episode


class _Ranks:
    """The ranks of losses among the last `size` ones."""

    def __init__(self, size: int) -> None:
        self.losses: deque[float] = deque()
        self._size = size
        self._sorted: list[float] = []

    def add(self, loss: float) -> float:
        """Adds a loss; returns the share of worse ones, ties counting half."""
        if len(self.losses) == self._size:
            del self._sorted[bisect_left(self._sorted, self.losses.popleft())]
        self.losses.append(loss)
        insort(self._sorted, loss)
        better, not_worse = bisect_left(self._sorted, loss), bisect_right(self._sorted, loss)
        return 1 - (better + not_worse) / (2 * len(self._sorted))


@dataclass(slots=True)
class _RandomState:
    """An agent's own global torch and numpy generators, from which SB3 draws."""

    torch_state: Any
    numpy_state: Any

    def __init__(self, seed: int) -> None:
        import torch

        seed %= 2**32  # numpy takes no more
        self.torch_state = torch.Generator().manual_seed(seed).get_state()
        self.numpy_state = np.random.RandomState(seed).get_state(legacy=False)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Uses this state in the block, then restores the caller's.

        The block does not depend on other settings of the caller either (threads, default types, gradient mode).
        """
        import torch

        from nosbench_env.execution.numerics import exact_arithmetic  # loads torch

        caller = np.random.get_state()
        with exact_arithmetic(), torch.random.fork_rng(devices=[]):
            try:
                torch.set_rng_state(self.torch_state)
                np.random.set_state(self.numpy_state)
                yield
            finally:
                self.torch_state = torch.get_rng_state()
                self.numpy_state = np.random.get_state(legacy=False)
                np.random.set_state(caller)

    def to_json(self) -> dict[str, Any]:
        words = self.numpy_state["state"]
        return {
            "torch": base64.b64encode(self.torch_state.numpy().tobytes()).decode(),
            "numpy": self.numpy_state | {"state": {"key": words["key"].tolist(), "pos": words["pos"]}},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> _RandomState:
        import torch

        state = cls(0)
        state.torch_state = torch.frombuffer(bytearray(base64.b64decode(data["torch"])), dtype=torch.uint8)
        words = data["numpy"]["state"]
        key = np.array(words["key"], dtype=np.uint32)
        state.numpy_state = data["numpy"] | {"state": {"key": key, "pos": words["pos"]}}
        return state


class _NoOracle:
    """The oracle of episodes that are evaluated later."""

    def query(self, program: Program, *_: Any, **__: Any) -> Evaluation:
        return Evaluation(program, "none", 1, 0, 0.0, "ok", (), "", True, "store")


def _to_text(tensors: dict[str, Any]) -> str:
    import torch

    file = io.BytesIO()
    torch.save(tensors, file)
    return base64.b64encode(file.getvalue()).decode()


def _from_text(text: str) -> dict[str, Any]:
    import torch

    try:
        return cast(
            dict[str, Any],
            torch.load(io.BytesIO(base64.b64decode(text)), map_location="cpu", weights_only=True),
        )
    except Exception as error:  # torch raises many types for damaged data
        raise ValueError(f"the weights are damaged: {error}") from error
