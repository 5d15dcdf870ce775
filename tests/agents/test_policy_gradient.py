"""Policy gradients: the gradient, learning, and the state."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from searches import TINY, evaluation, every_tiny_program, log_probabilities, loss_of, policy

from nosbench_env import Instruction, InvalidProgram, Oracle, Program, SearchSpace
from nosbench_env.agents import Budget, PolicyGradient, search
from nosbench_env.language.draft import CONSTRAINTS
from nosbench_env.language.functions import FUNCTIONS

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = {
    "reinforce": {},
    "risk-seeking": {"risk_seeking": True},
    "with evolution": {"risk_seeking": True, "evolution": 0.5, "population_size": 10, "tournament_size": 3},
}


def play(
    agent: PolicyGradient, rounds: int, n: int = 1, loss: Callable[[Program], float] = loss_of
) -> list[list[Program]]:
    asked = []
    for _ in range(rounds):
        programs = agent.ask(n)
        agent.tell(programs, [evaluation(program, loss(program)) for program in programs])
        asked.append(programs)
    return asked


class TestTheGradient:
    def test_reinforce_estimates_the_gradient_of_the_expected_reward(self) -> None:
        """Its expectation over all programs is the gradient of the expected reward."""
        agent = PolicyGradient(TINY, entropy_weight=0.0)
        agent._policy = made = policy(TINY)
        programs = every_tiny_program()
        rewards = np.random.default_rng(5).uniform(size=len(programs))
        probabilities = log_probabilities(made, programs).exp()
        expected_reward = probabilities @ torch.from_numpy(rewards).float()
        truth = torch.autograd.grad(expected_reward, list(made.parameters()), retain_graph=True)
        # The estimate from a batch is linear in its members: here each counts as often as it is drawn.
        often = len(programs) * probabilities.detach().double().numpy()
        estimate = torch.autograd.grad(agent._objective(programs, often * (rewards - 0.4)), list(made.parameters()))
        assert max(gradient.abs().max().item() for gradient in truth) > 0.01
        for right, estimated in zip(truth, estimate, strict=True):
            assert torch.allclose(right, estimated, atol=1e-4)

    def test_only_the_best_share_teaches_if_risk_seeking(self) -> None:
        agent = PolicyGradient(risk_seeking=True, epsilon=0.25)
        advantages = agent._advantages(np.array([0.1, 0.9, 0.5, 0.2, 0.8, 0.3, 0.4, 0.0, 0.6]))
        assert advantages == pytest.approx([0, 0.3, 0, 0, 0.2, 0, 0, 0, 0])

    def test_the_baseline_is_a_moving_average_of_the_batches_before(self) -> None:
        agent = PolicyGradient(baseline_decay=0.8)
        assert agent._advantages(np.array([0.2, 0.4])) == pytest.approx([-0.1, 0.1])
        assert agent._advantages(np.array([1.0, 0.8])) == pytest.approx([0.7, 0.5])
        assert agent._advantages(np.array([0.42, 0.42])) == pytest.approx([0, 0])

    def test_failures_are_worth_nothing_and_the_best_is_worth_one(self) -> None:
        agent = PolicyGradient(batch_size=100)
        losses = [3.0, 1.0, 2.0, 1e30, math.inf]
        programs = agent.ask(5)
        agent.tell(programs, [evaluation(program, loss) for program, loss in zip(programs, losses, strict=True)])
        worst = np.quantile(losses[:4], 0.75)
        assert agent._rewards([1.0, math.inf, 1e30, 2.0]) == pytest.approx([1, 0, 0, 1 - 1 / (worst - 1)])

    def test_entropy_counts_less_with_every_choice(self) -> None:
        program = Program.parse("r9 = mul(grad, 0.1)")  # of an untrained policy: length, function, inputs, output
        entropies = [math.log(4), math.log(26), math.log(12), math.log(12), math.log(3)]
        for decay in (1.0, 0.5, 0.0):
            agent = PolicyGradient(SearchSpace(4, 12), entropy_weight=0.1, entropy_decay=decay, length=None)
            expected = 0.1 * sum(decay**place * entropy for place, entropy in enumerate(entropies))
            assert agent._objective([program], np.zeros(1)).item() == pytest.approx(expected, abs=1e-4)

    def test_entropy_is_kept_up(self) -> None:
        def entropy(weight: float) -> float:
            agent = PolicyGradient(TINY, entropy_weight=weight, learning_rate=0.05)
            play(agent, 30, 16, lambda program: 1.0 if program[0].function == "mul" else 2.0)
            return agent.metrics()["entropy"]

        assert entropy(0.3) > entropy(0.0) + 0.5

    def test_repeats_are_never_reinforced(self) -> None:
        """Of two equivalent programs, the second changes nothing where it would be the best of its batch."""
        agent = PolicyGradient(TINY, risk_seeking=True, batch_size=4, queue_weight=0, entropy_weight=0)
        programs = [Program((Instruction("sign", (slot,), 9),)) for slot in range(8)]
        agent.tell(programs[:3], [evaluation(program, 5.0) for program in programs[:3]])
        agent.tell([programs[3]], [evaluation(programs[3], 1.0, "best")])
        before = log_probabilities(agent._policy, programs).detach()
        agent.tell(programs[4:7], [evaluation(program, 5.0) for program in programs[4:7]])
        agent.tell([programs[7]], [evaluation(programs[7], 1.0, "best")])
        moved = log_probabilities(agent._policy, programs).detach() - before
        assert agent.metrics()["repeated"] == 0.25
        assert moved[7] <= moved[1:3].max() + 0.02


class TestLearning:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_a_rewarded_function_is_written_more_often(self, variant: str) -> None:
        def loss(program: Program) -> float:
            return 1.0 if program[0].function == "mul" else math.nan if program[0].function == "exp" else 2.0

        agent = PolicyGradient(SearchSpace(3), 0, learning_rate=0.02, length=(2, 1), **VARIANTS[variant])
        play(agent, 40, 16, loss)
        with torch.no_grad():
            programs = agent._policy.sample(300, np.random.default_rng(0))
        assert np.mean([program[0].function == "mul" for program in programs]) > 5 / 26

    def test_the_queue_teaches_what_it_holds(self) -> None:
        agent = PolicyGradient(SearchSpace(3), risk_seeking=True, queue_weight=1.0, queue_size=1, batch_size=8)
        best = Program.parse("r9 = mul(grad, 0.1)")
        before = log_probabilities(agent._policy, [best]).item()
        agent.tell([best], [evaluation(best, 0.0)])
        play(agent, 10, 8, lambda program: 1.0)
        assert log_probabilities(agent._policy, [best]).item() > before + 2

    def test_the_queue_holds_the_best_of_different_keys(self) -> None:
        agent = PolicyGradient(risk_seeking=True, queue_size=2)
        programs = agent.ask(5)
        told = zip(programs, (3.0, 1.0, math.nan, 1.0, 2.0), "abcbd", strict=True)
        agent.tell(programs, [evaluation(program, loss, key) for program, loss, key in told])
        assert [(told.key, told.loss) for told in agent._queue] == [("b", 1.0), ("d", 2.0)]

    def test_what_was_told_is_drawn_again(self) -> None:
        agent = PolicyGradient(TINY, batch_size=6)
        signs = [Program((Instruction("sign", (slot,), 9),)) for slot in range(10)]
        with torch.no_grad():  # it writes these and nothing else
            agent._policy._head.bias[list(FUNCTIONS).index("sign")] = 50.0
        agent.tell(signs[:5], [evaluation(program, 1.0) for program in signs[:5]])
        assert set(agent.ask(3)) < set(signs[5:])

    def test_a_policy_that_knows_nothing_new_repeats_itself(self) -> None:
        agent = PolicyGradient(TINY, batch_size=100)
        with torch.no_grad():
            agent._policy._head.bias[list(FUNCTIONS).index("sign")] = 50.0
        assert len(set(agent.ask(60))) == 10

    def test_asking_one_by_one_gives_the_same_programs(self) -> None:
        agent, together = PolicyGradient(batch_size=8), PolicyGradient(batch_size=8)
        for _ in range(3):
            programs = together.ask(8)
            asked = [agent.ask()[0] for _ in range(8)]
            assert asked == programs
            for one in (agent, together):
                one.tell(programs, [evaluation(program, loss_of(program)) for program in programs])

    def test_what_was_written_before_an_update_is_not_proposed_after_it(self) -> None:
        agent, twin = PolicyGradient(batch_size=8), PolicyGradient(batch_size=8)
        old = twin.ask(8)
        assert agent.ask(3) == old[:3]
        agent.tell(old, [evaluation(program, loss_of(program)) for program in old])
        assert not set(agent.ask(8)) & set(old)

    def test_evolution_breeds_its_share_from_the_best(self) -> None:
        agent = PolicyGradient(risk_seeking=True, evolution=0.5, tournament_size=50, batch_size=100)
        good, bad = (Program((Instruction(name, (1,), 9),) * 9) for name in ("sign", "exp"))
        agent.tell([good, bad], [evaluation(good, 1.0), evaluation(bad, 2.0)])
        children = [program for program in agent.ask(100) if list(program).count(good[0]) >= 8]
        assert 30 < len(children) < 70

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_programs_lie_in_a_constrained_space(self, variant: str) -> None:
        agent = PolicyGradient(SearchSpace(6, constraints=CONSTRAINTS), batch_size=8, **VARIANTS[variant])
        assert all(program in agent.space for batch in play(agent, 6, 8) for program in batch)

    def test_metrics_are_finite_numbers(self) -> None:
        agent = PolicyGradient(risk_seeking=True, batch_size=4)
        assert agent.metrics() == {}
        play(agent, 2, 4)
        assert {"entropy", "quantile", "reward", "repeated", "objective"} <= set(agent.metrics())
        assert all(isinstance(value, float) and math.isfinite(value) for value in agent.metrics().values())

    def test_a_program_outside_the_space_is_refused(self) -> None:
        program = Program.parse("r9 = sign(r30)")
        with pytest.raises(InvalidProgram, match="the program is not in SearchSpace"):
            PolicyGradient().tell([program], [evaluation(program, 1.0)])


class TestState:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("told", [0, 3, 8, 21])
    def test_a_loaded_state_continues_alike_at_any_point(self, variant: str, told: int) -> None:
        def make() -> PolicyGradient:
            return PolicyGradient(SearchSpace(5, constraints=("used",)), 3, batch_size=8, **VARIANTS[variant])

        agent, restored = make(), make()
        play(agent, told)
        play(restored, 13)  # what it was does not matter
        restored.load_state_dict(json.loads(json.dumps(agent.state_dict(), allow_nan=False)))
        assert play(restored, 20) == play(agent, 20)
        assert restored.state_dict() == agent.state_dict()

    def test_a_damaged_state_changes_nothing(self) -> None:
        agent = PolicyGradient(batch_size=4)
        play(agent, 5)
        before = agent.state_dict()
        for damage in ({"weights": before["weights"][:-8]}, {"weights": "?"}, {"adam": []}, {"queue": [[1, 2]]}):
            with pytest.raises((ValueError, TypeError)):
                agent.load_state_dict(before | damage)
            assert agent.state_dict() == before

    def test_nobody_elses_random_streams_or_threads_are_touched(self) -> None:
        torch.manual_seed(7)
        np.random.seed(7)
        torch.set_num_threads(2)  # given back by the fixture
        streams = torch.get_rng_state(), np.random.get_state()[1].copy()
        play(PolicyGradient(risk_seeking=True, batch_size=4), 5)
        assert torch.equal(torch.get_rng_state(), streams[0])
        assert (np.random.get_state()[1] == streams[1]).all()
        assert torch.get_num_threads() == 2

    def test_the_callers_random_streams_change_nothing(self) -> None:
        torch.manual_seed(1)
        first = play(PolicyGradient(batch_size=4), 6)
        torch.manual_seed(2)
        assert play(PolicyGradient(batch_size=4), 6) == first

    def test_an_interrupted_run_continues_alike(self, tmp_path: Path) -> None:
        def run(folder: str, queries: int) -> None:
            agent = PolicyGradient(SearchSpace(4), risk_seeking=True, batch_size=8)
            oracle = Oracle("toy", store="sqlite://", workers=1)
            search(agent, oracle, Budget(queries=queries), epochs=1, batch_size=3, folder=tmp_path / folder)

        def programs(folder: str) -> list[object]:
            lines = (tmp_path / folder / "history.jsonl").read_text().splitlines()
            return [json.loads(line)["program"] for line in lines]

        run("whole", 30)
        run("parts", 15)
        run("parts", 30)
        assert programs("parts") == programs("whole")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("batch_size", 0),
            ("batch_size", 1.5),
            ("hidden_size", True),
            ("queue_size", -1),
            ("learning_rate", -1e-3),
            ("learning_rate", math.nan),
            ("epsilon", 1.5),
            ("baseline_decay", "much"),
            ("evolution", 2),
            ("length", (3, 0)),
        ],
    )
    def test_bad_hyperparameters_are_refused(self, name: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"{name} must be .*, got"):
            PolicyGradient(risk_seeking=True, **{name: value})

    def test_reinforce_takes_no_evolution(self) -> None:
        with pytest.raises(ValueError, match="evolution needs risk_seeking"):
            PolicyGradient(evolution=0.5)
