"""What SMAC computes: initial designs, and the configurations that its model expects most of.

These are the parts of SMAC's `HyperparameterOptimizationFacade`: a random forest on log-scaled costs, the expected
improvement for such a model, maximized by local and random search. What SMAC puts around them is left out: racing,
which has nothing to race where a configuration is evaluated once and for all, but compares all pairs of configurations
(minutes a proposal after 1,000 programs), and output folders.

This module imports SMAC, which takes seconds; agents import it when they are first asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from ConfigSpace import Configuration, ConfigurationSpace
from numpy.typing import NDArray
from scipy.stats import norm
from smac import HyperparameterOptimizationFacade, Scenario
from smac.acquisition.function.expected_improvement import EI
from smac.acquisition.maximizer import LocalAndSortedRandomSearch
from smac.initial_design import SobolInitialDesign
from smac.model.random_forest.random_forest import RandomForest

Floats = NDArray[np.float64]

_PERCENTILE = 5  # SMAC's `scale_percentage`
_LEAST = 1e-10  # SMAC's `VERY_SMALL_NUMBER`


def random_design(space: ConfigurationSpace, number: int, seed: int) -> list[Configuration]:
    """So many configurations, drawn uniformly."""
    space.seed(seed)
    return [space.sample_configuration() for _ in range(number)]


def sobol_design(space: ConfigurationSpace, number: int, seed: int) -> list[Configuration]:
    """So many configurations of a scrambled Sobol sequence, less those that come twice."""
    scenario = Scenario(space, deterministic=True, n_trials=number, seed=seed)  # of which the folder is never made
    return SobolInitialDesign(scenario, n_configs=number, max_ratio=1.0, seed=seed).select_configurations()


def challengers(
    space: ConfigurationSpace, evaluated: Sequence[Configuration], costs: Floats, seed: int, samples: int
) -> Iterator[Configuration]:
    """What to evaluate next, best first; one in twelve is drawn at random instead, as SMAC does.

    Args:
        space: Where they come from.
        evaluated: The configurations evaluated so far, at least one.
        costs: What each of them cost, `(n,)`, finite.
        seed: Of all draws.
        samples: Random configurations among which the local search finds its starts, beside those evaluated.

    Yields:
        Configurations, among which may be some of `evaluated`.
    """
    space.seed(seed)
    scenario = Scenario(space, deterministic=True, seed=seed)
    vectors = np.array([configuration.get_array() for configuration in evaluated])
    forest = fitted_forest(space, vectors, log_scaled(costs), seed)
    improvement = LogExpectedImprovement(log=True)
    improvement.update(model=forest, eta=float(forest.predict_marginalized(vectors)[0].min()))
    maximizer = LocalAndSortedRandomSearch(space, improvement, challengers=samples, seed=seed)
    now_and_then = HyperparameterOptimizationFacade.get_random_design(scenario)
    with _no_mean_of_nothing():
        found = maximizer.maximize(list(evaluated), random_design=now_and_then)
        yield from found


def fitted_forest(space: ConfigurationSpace, vectors: Floats, log_costs: Floats, seed: int) -> RandomForest:
    """SMAC's random forest, as its facade makes it, of configurations `(n, hyperparameters)` and log costs `(n,)`."""
    forest = RandomForest(
        space,
        log_y=True,
        n_trees=10,
        ratio_features=1.0,
        min_samples_split=2,
        min_samples_leaf=1,
        # There are no more leaves than points. SMAC allows for 2**20, and scikit-learn makes room for all: a second.
        max_leaf_nodes=max(2, len(vectors)),
        seed=seed,
        n_jobs=1,  # threads cost more than such trees
    )
    forest.train(vectors, log_costs[:, None])
    return forest


def log_scaled(costs: Floats) -> Floats:
    """Costs as the forest sees them: scaled to 0 to 1 and then their logarithm, as SMAC's log-scaled encoder does.

    The scale begins below the lowest cost, by as much as the 5 % quantile lies above it, so that the logarithm sets
    good costs apart from each other and not the best from all.

    Args:
        costs: `(n,)`, finite.

    Returns:
        `(n,)`; at most 0, and finite where all are equal, or are so large that SMAC's own scale has a logarithm of 0.
    """
    lowest, highest = costs.min(), costs.max()
    begin = lowest - (np.percentile(costs, _PERCENTILE) - lowest) - _LEAST
    if begin == highest:
        return np.zeros_like(costs)
    found: Floats = np.log(np.maximum((costs - begin) / (highest - begin), np.finfo(np.float64).tiny))
    return found


class LogExpectedImprovement(EI):
    """The expected improvement for a model of log costs (Hutter et al., 2009): SMAC's, but for what falls below 0.

    Far from any improvement SMAC's difference of two tiny numbers may come out below 0 by underflow, and SMAC then
    gives up with an error. Here it is 0.
    """

    def _compute(self, X: Floats) -> Floats:  # noqa: N803
        assert self._model is not None
        assert self._eta is not None
        mean, variance = self._model.predict_marginalized(X)
        deviation = np.sqrt(variance)
        distance = (self._eta - mean) / deviation
        improvement = np.exp(self._eta) * norm.cdf(distance) - np.exp(variance / 2 + mean) * norm.cdf(
            distance - deviation
        )
        found: Floats = np.maximum(improvement, 0.0).reshape(-1, 1)
        return found


@contextmanager
def _no_mean_of_nothing() -> Iterator[None]:
    """Silences numpy where SMAC's local search takes, for its log, the mean time of no steps."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        warnings.filterwarnings("ignore", "invalid value encountered in scalar divide", RuntimeWarning)
        yield
