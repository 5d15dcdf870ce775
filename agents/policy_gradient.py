"""Policy gradients: REINFORCE and the risk-seeking policy gradient over programs."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nosbench_env.agents.agent import check_agent_seed, check_number_asked, rng_state
from nosbench_env.agents.token_policy import TokenPolicy
from nosbench_env.evaluation import Evaluation
from nosbench_env.execution.numerics import exact_arithmetic
from nosbench_env.language.program import InvalidProgram, Program
from nosbench_env.language.search_space import SearchSpace

POPULATION_SIZE, TOURNAMENT_SIZE = 100, 25  # of evolution; the paper's (Appendix F)
_REDRAWS = 10  # draws in place of a program that was told before
_REMEMBERED_LOSSES = 256  # losses that define the scale of rewards
_WORST = 0.75  # the quantile of the finite losses whose reward is 0


class PolicyGradient:
    """A recurrent policy over programs, trained by REINFORCE or risk-seeking policy gradient.

    A `TokenPolicy` writes the programs. After every `batch_size` programs told, Adam takes a step that increases

        mean of (advantage * log p(program)) + entropy_weight * entropy + queue_weight * mean of (log p(queued program))

    *REINFORCE* (Williams, 1992; over update rules: Bello et al., 2017): the advantage is the reward less an exponential
    moving average of the rewards. *Risk-seeking* (Petersen et al., 2021): only the best share `epsilon` of a batch
    counts, with the difference of its rewards to the quantile there as advantages. So training improves the best
    programs instead of the average. The *queue* holds the best programs told so far (Abolafia et al., 2018), which
    every update learns from. With `evolution`, some of the proposals are children of earlier programs, as in
    regularized evolution; the policy learns from them as from its own (Mundhenk et al., 2021).

    *Reward.* The scale is given by the finite losses among the last 256 programs of different keys: 1 for the lowest, 0
    for the 75 % quantile and above, linear between, and 0 for failures. So a very large loss does not hide the
    differences between the others, and no task needs a scale of its own.

    *Repeats.* Many proposals are equivalent to earlier ones, as in random search. They cost no training. A program of a
    known key gets a reward of 0, however good it is; otherwise the policy would converge to a single program. A
    proposal with the same text as a program told before is drawn again, up to 10 times.

    The progress within a few hundred programs depends on the initial policy. Use a space with constraints: without
    them, nine of ten programs ignore the gradient.

    Args:
        space: The search space; the paper's if None.
        seed: Seed of all draws and of the initial weights.
        risk_seeking: True for the risk-seeking policy gradient, False for REINFORCE.
        batch_size: Programs told between updates. Published searches use 100 to 1,000; a search of a few hundred
            programs must learn sooner. This default, the learning rate's and the queue weight's are the best of a few
            tried on the toy task, with 200 programs a run. The differences there were hardly larger than those between
            seeds.
        learning_rate: Learning rate of Adam. Deep symbolic optimization uses 0.0005 to 0.001, for thousands of updates.
        entropy_weight: Weight of the entropy of all choices of a program, in nats (there: 0.005 to 0.03).
        queue_weight: Weight of the queue; None is 0.1 if risk-seeking, and 0 for REINFORCE.
        epsilon: The share of a batch that counts if risk-seeking (Petersen et al., 2021: 0.05, of 1,000).
        entropy_decay: Factor of an entropy from one choice to the next. Below 1, mainly the first choices, on which the
            others depend, are kept open (Landajuela et al., 2021: 0.7).
        baseline_decay: Factor of REINFORCE's baseline from one batch to the next.
        queue_size: Programs in the queue, of different keys (Abolafia et al., 2018, and Mundhenk et al., 2021: 10).
        evolution: The share of children. It needs `risk_seeking`, since REINFORCE can learn only from its own programs.
        population_size: The last programs told, from which evolution draws parents (the NOSBench paper: 100).
        tournament_size: Programs drawn, with replacement; the best becomes the parent (the NOSBench paper: 25).
        hidden_size: Size of the network's state (Petersen et al., 2021: 32).
        length: Mean and standard deviation of the lengths under the untrained policy; see `TokenPolicy`.
        uniform_arity: True for equal probabilities of the arities under the untrained policy; see `TokenPolicy`.

    Raises:
        ValueError: If an argument is out of range.

    >>> agent = PolicyGradient(SearchSpace(constraints=("gradient", "used")), seed=1, risk_seeking=True)
    >>> all(program in agent.space for program in agent.ask(3))
    True
    """

    def __init__(
        self,
        space: SearchSpace | None = None,
        seed: int = 0,
        *,
        risk_seeking: bool = False,
        batch_size: int = 16,
        learning_rate: float = 0.02,
        entropy_weight: float = 0.01,
        queue_weight: float | None = None,
        epsilon: float = 0.25,
        entropy_decay: float = 1.0,
        baseline_decay: float = 0.8,
        queue_size: int = 10,
        evolution: float = 0.0,
        population_size: int = POPULATION_SIZE,
        tournament_size: int = TOURNAMENT_SIZE,
        hidden_size: int = 32,
        length: tuple[float, float] | None = (6.0, 3.0),
        uniform_arity: bool = False,
    ) -> None:
        if queue_weight is None:
            queue_weight = 0.1 if risk_seeking else 0.0
        self._hyperparameters: dict[str, Any] = {
            "risk_seeking": risk_seeking,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "entropy_weight": entropy_weight,
            "queue_weight": queue_weight,
            "epsilon": epsilon,
            "entropy_decay": entropy_decay,
            "baseline_decay": baseline_decay,
            "queue_size": queue_size,
            "evolution": evolution,
            "population_size": population_size,
            "tournament_size": tournament_size,
            "hidden_size": hidden_size,
            "length": None if length is None else list(length),
            "uniform_arity": uniform_arity,
        }
        _check(self._hyperparameters)
        self.name = "risk-seeking" if risk_seeking else "reinforce"
        self.space = space or SearchSpace()
        self.seed = check_agent_seed(seed)
        self.risk_seeking, self.batch_size = risk_seeking, batch_size
        self._entropy_weight, self._entropy_decay = entropy_weight, entropy_decay
        self._baseline_decay, self._epsilon = baseline_decay, epsilon
        self._queue_size, self._queue_weight = queue_size, queue_weight
        self._evolution, self._tournament_size = evolution, tournament_size
        self._rng = np.random.default_rng(self.seed)
        with exact_arithmetic():
            self._policy = TokenPolicy(self.space, self._rng, hidden_size, length, uniform_arity)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), lr=learning_rate)
        self._batch: list[_Told] = []  # programs told since the last update
        self._stock: list[Program] = []  # programs written and not yet proposed
        self._keys: set[str] = set()  # of all programs told
        self._texts: set[str] = set()  # of all programs told, as `_digest`
        self._losses: deque[float] = deque(maxlen=_REMEMBERED_LOSSES)  # of programs of different keys
        self._queue: list[_Told] = []  # best first
        self._population: deque[_Told] = deque(maxlen=population_size)
        self._baseline: float | None = None
        self._metrics: dict[str, float] = {}

    def ask(self, n: int = 1) -> list[Program]:
        """Proposes programs of the policy and, with evolution, children of earlier programs."""
        return [self._child() if self._breeds() else self._written() for _ in range(check_number_asked(n))]

    def _breeds(self) -> bool:
        return bool(self._evolution and self._population) and self._rng.random() < self._evolution

    def _written(self) -> Program:
        if not self._stock:  # writing a batch takes little more time than writing one program
            with exact_arithmetic():
                for redraws_left in range(_REDRAWS, -1, -1):
                    missing = self.batch_size - len(self._stock)
                    for program in self._policy.sample(missing, self._rng) if missing else []:
                        if redraws_left == 0 or (self._is_new(program) and program not in self._stock):
                            self._stock.append(program)
        return self._stock.pop(0)

    def _child(self) -> Program:
        members = self._rng.integers(len(self._population), size=self._tournament_size)
        parent = min((self._population[member] for member in members), key=lambda told: told.loss)
        for _ in range(_REDRAWS + 1):
            child = self.space.mutate(parent.program, self._rng)
            if self._is_new(child):
                break
        return child

    def _is_new(self, program: Program) -> bool:
        return _digest(program) not in self._texts

    def tell(self, programs: Sequence[Program], evaluations: Sequence[Evaluation]) -> None:
        """Learns from programs, in batches of `batch_size`.

        They need not be programs asked for. A program that the policy can't write (see `TokenPolicy.writes`) only joins
        the population.

        Raises:
            InvalidProgram: If a program is not in the space.
        """
        for program, evaluation in zip(programs, evaluations, strict=True):
            if program not in self.space:
                raise InvalidProgram(f"the program is not in {self.space}; bring it there with admit()")
            loss = evaluation.loss if evaluation.status == "ok" else math.inf
            told = _Told(program, loss, evaluation.key, evaluation.key in self._keys)
            self._population.append(told)
            self._texts.add(_digest(program))
            self._keys.add(told.key)
            if not told.repeated:
                self._losses.append(told.loss)
            if self._policy.writes(program):
                self._teach(told)

    def _teach(self, told: _Told) -> None:
        if not told.repeated and math.isfinite(told.loss):
            self._queue = sorted([*self._queue, told], key=lambda one: one.loss)[: self._queue_size]
        self._batch.append(told)
        if len(self._batch) == self.batch_size:
            self._update()
            self._batch.clear()
            self._stock.clear()  # written by the policy before the update

    def _update(self) -> None:
        """Takes a step of Adam that increases the objective."""
        repeated = np.array([told.repeated for told in self._batch])
        rewards = np.where(repeated, 0, self._rewards([told.loss for told in self._batch]))
        advantages = self._advantages(rewards)
        with exact_arithmetic():
            objective = self._objective([told.program for told in self._batch], advantages)
            self._optimizer.zero_grad()
            (-objective).backward()  # type: ignore[no-untyped-call]  # missing in torch's stubs
            self._optimizer.step()
        self._metrics |= {"reward": rewards.mean().item(), "repeated": repeated.mean().item()}

    def _objective(self, programs: Sequence[Program], advantages: NDArray[np.float64]) -> Tensor:
        """Returns the objective to maximize.

        Its gradient is the estimate of the policy gradient plus the regularizers' gradients.
        """
        n = len(programs)
        queue = [told.program for told in self._queue] if self._queue_weight else []
        logs, entropies = self._policy(self._policy.read([*programs, *queue]))
        logs = logs.sum(0)
        decay = torch.tensor(self._entropy_decay) ** torch.arange(len(entropies))
        entropy = decay @ entropies[:, :n].mean(1)
        objective: Tensor = torch.from_numpy(advantages).float() @ logs[:n] / n + self._entropy_weight * entropy
        if queue:
            objective = objective + self._queue_weight * logs[n:].mean()
            self._metrics["queue_log_probability"] = logs[n:].mean().item()
        self._metrics |= {
            "log_probability": logs[:n].mean().item(),
            "entropy": entropies[:, :n].sum(0).mean().item(),
            "objective": objective.item(),
        }
        return objective

    def _rewards(self, losses: Sequence[float]) -> NDArray[np.float64]:
        finite = [loss for loss in self._losses if math.isfinite(loss)] or [0.0]
        best, worst = min(finite), float(np.quantile(finite, _WORST))
        return np.clip((worst - np.array(losses)) / (worst - best or 1), 0, 1)

    def _advantages(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.risk_seeking:
            quantile = np.quantile(rewards, 1 - self._epsilon)
            self._metrics["quantile"] = float(quantile)
            return np.maximum(rewards - quantile, 0)
        mean = float(rewards.mean())
        baseline = mean if self._baseline is None else self._baseline
        self._baseline = self._baseline_decay * baseline + (1 - self._baseline_decay) * mean
        self._metrics["baseline"] = baseline
        return rewards - baseline

    def metrics(self) -> dict[str, float]:
        """Returns measures of the last update; none before the first.

        They are the batch's mean reward, its share of repeats and the mean log-probability of its programs; the
        policy's entropy, in nats for a program; the baseline, or the quantile of the batch's rewards; the mean
        log-probability of the queue's programs; and the objective.
        """
        return dict(self._metrics)

    def config(self) -> dict[str, Any]:
        """See `Agent.config`."""
        return {"space": self.space.to_json(), "seed": self.seed, **self._hyperparameters}

    def state_dict(self) -> dict[str, Any]:
        """See `Agent.state_dict`."""
        return {
            "rng": rng_state(self._rng),
            "weights": _packed(self._policy.parameters()),
            "adam": [
                {name: _packed([value]) for name, value in self._optimizer.state[weights].items()}
                for weights in self._policy.parameters()
            ],
            "batch": [told.to_json() for told in self._batch],
            "stock": [program.to_json() for program in self._stock],
            "queue": [told.to_json() for told in self._queue],
            "population": [told.to_json() for told in self._population],
            "losses": [_finite(loss) for loss in self._losses],
            "keys": sorted(self._keys),
            "texts": sorted(self._texts),
            "baseline": self._baseline,
            "metrics": self._metrics,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Agent.load_state_dict`."""
        parameters = list(self._policy.parameters())
        weights = _unpacked(state["weights"], parameters)
        adam = {
            number: {name: _unpacked(text, [_like(name, own)])[0] for name, text in moments.items()}
            for number, (own, moments) in enumerate(zip(parameters, state["adam"], strict=True))
            if moments
        }
        batch, queue, population = (
            [_Told.from_json(data) for data in state[name]] for name in ("batch", "queue", "population")
        )
        stock = [Program.from_json(program) for program in state["stock"]]
        self._rng.bit_generator.state = state["rng"]
        with torch.no_grad():
            for own, loaded in zip(parameters, weights, strict=True):
                own.copy_(loaded)
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": adam})
        self._batch, self._stock, self._queue = batch, stock, queue
        self._population.clear()
        self._population.extend(population)
        self._losses.clear()
        self._losses.extend(_number(loss) for loss in state["losses"])
        self._keys, self._texts = set(state["keys"]), set(state["texts"])
        self._baseline, self._metrics = state["baseline"], dict(state["metrics"])


@dataclass(frozen=True, slots=True)
class _Told:
    """A program told, with its loss (infinite if it failed).

    `repeated` is True if an earlier program had the same key.
    """

    program: Program
    loss: float
    key: str
    repeated: bool

    def to_json(self) -> list[Any]:
        return [self.program.to_json(), _finite(self.loss), self.key, self.repeated]

    @classmethod
    def from_json(cls, data: list[Any]) -> _Told:
        program, loss, key, repeated = data
        return cls(Program.from_json(program), _number(loss), key, repeated)


_WHOLE_NUMBERS = {"batch_size": 1, "queue_size": 0, "population_size": 1, "tournament_size": 1, "hidden_size": 1}
_NUMBERS = {
    "learning_rate": math.inf,
    "entropy_weight": math.inf,
    "entropy_decay": 1,
    "baseline_decay": 1,
    "epsilon": 1,
    "queue_weight": math.inf,
    "evolution": 1,
}


def _check(hyperparameters: Mapping[str, Any]) -> None:
    for name, least in _WHOLE_NUMBERS.items():
        value = hyperparameters[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    for name, greatest in _NUMBERS.items():
        value = hyperparameters[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= greatest:
            bounds = f"from 0 to {greatest}" if greatest < math.inf else ">= 0"
            raise ValueError(f"{name} must be a number {bounds}, got {value!r}")
    if hyperparameters["evolution"] and not hyperparameters["risk_seeking"]:
        raise ValueError("evolution needs risk_seeking: REINFORCE can learn only from its own programs")


def _digest(program: Program) -> str:
    return hashlib.blake2b(str(program).encode(), digest_size=8).hexdigest()


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _number(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _like(name: str, weights: Tensor) -> Tensor:
    return torch.empty(()) if name == "step" else weights


def _packed(tensors: Iterable[Tensor]) -> str:
    """Returns float32 tensors as text: their numbers in base64."""
    numbers = [tensor.detach().numpy().astype("<f4").tobytes() for tensor in tensors]
    return base64.b64encode(b"".join(numbers)).decode()


def _unpacked(text: str, like: Sequence[Tensor]) -> list[Tensor]:
    """Returns the tensors of a `_packed` text, with the shapes of `like`.

    Raises:
        ValueError: If the text holds another count of numbers.
    """
    numbers = torch.from_numpy(np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32))
    if len(numbers) != sum(tensor.numel() for tensor in like):
        raise ValueError(f"expected {sum(tensor.numel() for tensor in like)} numbers, got {len(numbers)}")
    parts = torch.split(numbers, [tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]
