"""The parts of SMAC that `smac_model` replaces or configures, compared with SMAC's own."""

from itertools import islice

import numpy as np
import pytest

from nosbench_env import SearchSpace
from nosbench_env.agents.smac_spaces import optimizer_config_space, program_config_space, program_of

pytest.importorskip("smac")
from smac import HyperparameterOptimizationFacade, Scenario
from smac.runhistory import RunHistory
from smac.runhistory.encoder import RunHistoryLogScaledEncoder

from nosbench_env.agents import smac_model

pytestmark = pytest.mark.usefixtures("quick_smac")


@pytest.mark.parametrize("seed", range(5))
def test_costs_are_scaled_as_smac_scales_them(seed: int) -> None:
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


def test_the_forest_is_that_of_smacs_facade() -> None:
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


def test_costs_without_a_scale_stay_finite() -> None:
    """Ties at large numbers, for which SMAC's scale begins at the lowest cost and its log is -inf."""
    for costs in ([-3e9, -3e9, -3e9, 2.0**31], [2.0**31] * 3, [0.0], [1e-300, 1.0]):
        scaled = smac_model.log_scaled(np.array(costs))
        assert np.isfinite(scaled).all()
        assert (scaled <= 0).all()


def test_a_design_holds_different_configurations_and_depends_on_the_seed() -> None:
    programs, optimizers = program_config_space(), optimizer_config_space()
    for design, space in ((smac_model.random_design, programs), (smac_model.sobol_design, optimizers)):
        one, same, other = (design(space, 25, seed) for seed in (1, 1, 2))
        assert one == same != other
        assert len(set(one)) == 25


def test_challengers_come_from_the_model() -> None:
    """If shorter programs are always better, most proposals are short."""
    space = program_config_space(SearchSpace(10))
    space.seed(0)
    evaluated = space.sample_configuration(60)
    costs = np.array([float(one["length"]) for one in evaluated])
    proposals = smac_model.challengers(space, evaluated, costs, seed=3, samples=200)
    lengths = [len(program_of(configuration)) for configuration in islice(proposals, 5)]
    assert np.median(lengths) <= 3
