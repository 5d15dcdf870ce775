"""SMAC's agents: what they compute beside SMAC itself, that they learn, and that stopping changes nothing."""

import json
import logging
import math
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nosbench_env import BASELINES, Evaluation, OptimizerConfig, Oracle, Program, SearchSpace
from nosbench_env.agents import Budget, HistoryEntry, SmacHPO, SmacNOS, search
from nosbench_env.agents.search import _Run
from nosbench_env.agents.smac_spaces import optimizer_config_space, program_config_space, program_of

pytest.importorskip("smac")
from smac import HyperparameterOptimizationFacade, Scenario
from smac.runhistory import RunHistory
from smac.runhistory.encoder import RunHistoryLogScaledEncoder

from nosbench_env.agents import smac_model

WHOLE_SEARCH = smac_model.LocalAndSortedRandomSearch
SMALL: dict[str, Any] = {"initial_configs": 4, "retrain_after": 3, "challengers": 20}


def small_agent(name: str, seed: int = 0) -> SmacNOS | SmacHPO:
    return SmacNOS(SearchSpace(3), seed, **SMALL) if name == "smac-nos" else SmacHPO(seed, **SMALL)


@pytest.fixture(autouse=True)
def _short_local_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(smac_model.LocalAndSortedRandomSearch, n_steps_plateau_walk=1, local_search_iterations=3)
    monkeypatch.setattr(smac_model, "LocalAndSortedRandomSearch", quick)


both = pytest.mark.parametrize("name", ["smac-nos", "smac-hpo"])


def evaluation(program: Any, loss: float) -> Evaluation[Any]:
    status = "ok" if math.isfinite(loss) else "nan" if math.isnan(loss) else "inf"
    return Evaluation(program, "toy", 1, 0, loss, status, (loss,), f"key {program}", False, "trained")


def lines(folder: Path) -> list[tuple[Any, ...]]:
    """A history but for wall times and hits, which depend on what the store had kept."""
    entries = [HistoryEntry.from_json(json.loads(line)) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [(e.number, e.batch, e.program, e.status, e.loss, e.key, e.new, e.simulated_seconds) for e in entries]


class TestStopping:
    @both
    @pytest.mark.parametrize("batch_size", [1, 5])
    @pytest.mark.parametrize("saved", [True, False], ids=["state saved", "state lost"])
    def test_a_continued_run_is_the_uninterrupted_one(
        self, tmp_path: Path, name: str, batch_size: int, saved: bool
    ) -> None:
        """Stopped within the initial design, within a round and between rounds; losses agree to the last bit."""

        def run(folder: str, *stops: int) -> list[tuple[Any, ...]]:
            oracle = Oracle("toy", tmp_path / f"{folder}.sqlite", "cpu", workers=1)
            for queries in (*stops, 10):
                budget = Budget(queries=queries)
                search(small_agent(name), oracle, budget, epochs=1, folder=tmp_path / folder, batch_size=batch_size)
                if not saved:
                    (tmp_path / folder / "agent.json").unlink()
            return lines(tmp_path / folder)

        stops = (2, 6, 7) if batch_size == 1 else (5,)
        assert run("stopped", *stops) == run("whole")

    def test_an_interrupt_between_two_saves_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run(folder: str, **more: Any) -> None:
            oracle = Oracle("toy", tmp_path / f"{folder}.sqlite", "cpu", workers=1)
            search(small_agent("smac-hpo"), oracle, Budget(queries=12), epochs=1, folder=tmp_path / folder, **more)

        def interrupt(entry: HistoryEntry[Any], _: Any) -> None:
            if entry.number == 9:
                raise KeyboardInterrupt

        save = _Run.save_agent
        monkeypatch.setattr(
            _Run,
            "save_agent_now_and_then",
            lambda self, agent, queries: save(self, agent, queries) if queries == 6 else None,
        )
        with pytest.raises(KeyboardInterrupt):
            run("stopped", on_query=interrupt)
        assert json.loads((tmp_path / "stopped" / "agent.json").read_text())["queries"] == 6
        run("stopped")
        run("whole")
        assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


class TestSearch:
    def test_hyperparameters_found_beat_the_default_optimizer(self, oracle: Oracle) -> None:
        adamw = oracle.query(BASELINES["torch.AdamW"].candidate, epochs=1)
        agent = SmacHPO(seed=0, initial_configs=10, challengers=100)
        result = search(agent, oracle, Budget(queries=40), epochs=1)
        assert result.best is not None
        assert isinstance(result.best.program, OptimizerConfig)
        assert result.best.loss is not None
        assert result.best.loss < adamw.loss - 0.1

    def test_the_forest_does_better_than_its_initial_design(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a smooth function of the learning rate and the optimizer, whose best value is 0."""
        monkeypatch.setattr(smac_model, "LocalAndSortedRandomSearch", WHOLE_SEARCH)
        agent = SmacHPO(seed=0, initial_configs=15, challengers=200)

        def loss(optimizer: OptimizerConfig) -> float:
            rate = dict(optimizer.hyperparameters)["lr"]
            assert isinstance(rate, float)
            return abs(math.log10(rate) + 2) + 3 * (optimizer.name != "torch.optim.Adagrad")

        losses = []
        for _ in range(15 + 16):
            optimizer = agent.ask()[0]
            losses.append(loss(optimizer))
            agent.tell([optimizer], [evaluation(optimizer, losses[-1])])
        assert np.median(losses[15:]) < np.quantile(losses[:15], 0.25)
        assert min(losses[15:]) < min(losses[:15])

    def test_programs_are_searched_end_to_end(self, oracle: Oracle, tmp_path: Path) -> None:
        result = search(small_agent("smac-nos"), oracle, Budget(queries=12), epochs=1, folder=tmp_path / "run")
        assert (result.queries, len({str(line[2]) for line in lines(tmp_path / "run")})) == (12, 12)
        assert Program.parse((tmp_path / "run" / "best.txt").read_text()) == result.best.program


class TestProposals:
    @both
    def test_nothing_is_proposed_twice_though_much_is_pending(self, name: str) -> None:
        agent = small_agent(name)
        first = agent.ask(6)
        agent.tell(first[:3], [evaluation(program, float(place)) for place, program in enumerate(first[:3])])
        everything = [*first, *agent.ask(10)]
        assert len(set(everything)) == 16

    def test_an_exhausted_space_gives_what_it_has(self) -> None:
        agent = SmacNOS(SearchSpace(1, 10), initial_configs=2, retrain_after=2, challengers=5)
        agent._search._pending = _Everything()
        asked = agent.ask(3)
        assert all(program in agent.space for program in asked)

    def test_all_that_fails_or_is_equal_leaves_the_agent_working(self) -> None:
        for losses in ([math.nan] * 4, [math.inf, math.nan] * 2, [1e300] * 4, [1.5] * 4, [0.0] * 4, [-3e9] * 4):
            agent = SmacHPO(**SMALL)
            asked = agent.ask(4)
            agent.tell(asked, [evaluation(one, loss) for one, loss in zip(asked, losses, strict=True)])
            assert len(set(agent.ask(3))) == 3

    def test_of_what_is_told_twice_the_first_counts(self) -> None:
        agents = [SmacHPO(**SMALL), SmacHPO(**SMALL)]
        for agent, more in zip(agents, ([], [7.0]), strict=True):
            asked = agent.ask(4)
            agent.tell(asked, [evaluation(one, float(place)) for place, one in enumerate(asked)])
            agent.tell(asked[: len(more)], [evaluation(asked[0], loss) for loss in more])
        assert agents[0].state_dict() == agents[1].state_dict()

    @both
    def test_what_is_not_in_the_space_is_refused_and_nothing_learnt(self, name: str) -> None:
        agent = small_agent(name)
        good = agent.ask(1)
        foreign = (
            Program.parse("; ".join(["r9 = sqrt(grad)"] * 4)) if name == "smac-nos" else BASELINES["Lion"].candidate
        )
        with pytest.raises(ValueError, match="is not in the space"):
            agent.tell([*good, foreign], [evaluation(program, 1.0) for program in (*good, foreign)])
        assert agent.state_dict()["told"] == []

    def test_constraints_are_refused(self) -> None:
        with pytest.raises(ValueError, match="can't express the constraints used"):
            SmacNOS(SearchSpace(constraints=("used",)))

    @pytest.mark.parametrize("argument", ["initial_configs", "retrain_after", "challengers"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, True])
    def test_bad_numbers_are_refused(self, argument: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{argument} must be an integer >= 1, got"):
            SmacHPO(**{argument: value})

    def test_defaults_are_the_papers(self) -> None:
        assert SmacNOS().config() == {
            "space": {"max_instructions": 20, "memory_size": 20},
            "seed": 0,
            "initial_configs": 10,
            "retrain_after": 8,
            "challengers": 10_000,
        }
        assert SmacHPO().config()["initial_configs"] == 90


class _Everything(set[Any]):
    """As if all had been asked for."""

    def __contains__(self, _: object) -> bool:
        return True


class TestModel:
    """What stands in for parts of SMAC is compared with them."""

    @pytest.mark.parametrize("seed", range(5))
    def test_costs_are_scaled_as_smac_scales_them(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        costs = np.concatenate([rng.normal(size=30), [2.0**31] * seed, rng.exponential(100.0, size=5)])
        space = program_config_space(SearchSpace(4))
        space.seed(seed)
        history = RunHistory(n_objectives=1)
        for configuration, cost in zip(space.sample_configuration(len(costs)), costs, strict=True):
            history.add(configuration, float(cost))
        encoder = RunHistoryLogScaledEncoder(Scenario(space, deterministic=True))
        encoder.runhistory = history
        _, expected = encoder.transform()
        assert np.array_equal(smac_model.log_scaled(costs), expected[:, 0])

    def test_the_forest_is_that_of_smacs_facade(self) -> None:
        space = optimizer_config_space()
        space.seed(0)
        vectors = np.array([one.get_array() for one in space.sample_configuration(60)])
        log_costs = smac_model.log_scaled(np.random.default_rng(0).exponential(size=60))
        smacs = HyperparameterOptimizationFacade.get_model(Scenario(space, deterministic=True, seed=5))
        smacs.train(vectors, log_costs[:, None])
        ours = smac_model.fitted_forest(space, vectors, log_costs, 5)
        space.seed(1)
        others = np.array([one.get_array() for one in space.sample_configuration(200)])
        for one, other in zip(ours.predict_marginalized(others), smacs.predict_marginalized(others), strict=True):
            assert np.array_equal(one, other)

    def test_costs_without_a_scale_stay_finite(self) -> None:
        """Ties at a number so large that SMAC's scale begins at the lowest cost itself, of which the log is -inf."""
        for costs in ([-3e9, -3e9, -3e9, 2.0**31], [2.0**31] * 3, [0.0], [1e-300, 1.0]):
            found = smac_model.log_scaled(np.array(costs))
            assert np.isfinite(found).all()
            assert (found <= 0).all()

    def test_a_design_holds_different_configurations_and_depends_on_the_seed(self) -> None:
        programs, optimizers = program_config_space(), optimizer_config_space()
        for design, space in ((smac_model.random_design, programs), (smac_model.sobol_design, optimizers)):
            one, same, other = (design(space, 25, seed) for seed in (1, 1, 2))
            assert one == same != other
            assert len(set(one)) == 25

    def test_challengers_come_from_the_model(self) -> None:
        """Of two lengths the shorter is always better: most of what is proposed is short."""
        space = program_config_space(SearchSpace(10))
        space.seed(0)
        evaluated = space.sample_configuration(60)
        costs = np.array([float(one["length"]) for one in evaluated])
        found = smac_model.challengers(space, evaluated, costs, seed=3, samples=200)
        lengths = [len(program_of(configuration)) for configuration in islice(found, 5)]
        assert np.median(lengths) <= 3


class TestManners:
    @pytest.mark.parametrize(
        "module", ["nosbench_env.agents", "nosbench_env.cli.app", "nosbench_env.agents.smac_spaces"]
    )
    def test_smac_is_imported_by_those_who_use_it(self, module: str) -> None:
        code = f"import sys, {module}; assert not {{'smac', 'ConfigSpace', 'dask'}} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)

    @both
    def test_it_is_quiet_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        root = logging.getLogger()
        before = (root.level, list(root.handlers), logging.getLogger("smac").level)
        np.random.seed(0)
        state = np.random.get_state()[1].copy()
        agent = small_agent(name)
        asked = agent.ask(4)
        agent.tell(asked, [evaluation(one, float(place)) for place, one in enumerate(asked)])
        agent.ask(3)
        assert (root.level, list(root.handlers), logging.getLogger("smac").level) == before
        assert np.array_equal(np.random.get_state()[1], state)
        assert list(tmp_path.iterdir()) == []
        assert capfd.readouterr() == ("", "")
