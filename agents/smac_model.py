"""SMAC's computations: initial designs, and configurations with a high expected improvement.

These are the parts of SMAC's `HyperparameterOptimizationFacade`: a random forest on log-scaled costs, the expected
improvement for such a model, and its maximization by local and random search. Two other parts of SMAC are left out. One
is racing: here each configuration is evaluated once, and racing would still compare all pairs of configurations
(minutes for a proposal after 1,000 programs). The other is output folders.

This module imports SMAC, which takes seconds; agents import it at their first `ask`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from ConfigSpace import Configuration, ConfigurationSpace
from numpy.typing import NDArray
from smac import HyperparameterOptimizationFacade, Scenario
from smac.acquisition.function.expected_improvement import EI
from smac.acquisition.maximizer import LocalAndSortedRandomSearch
from smac.initial_design import SobolInitialDesign
from smac.model.random_forest.random_forest import RandomForest

Floats = NDArray[np.float64]

_PERCENTILE = 5  # SMAC's `scale_percentage`
_LEAST = 1e-10  # SMAC's `VERY_SMALL_NUMBER`
_LOWEST = 1e-20  # lower than SMAC's scale of any useful loss; keeps the exponentials of variances finite


def random_design(space: ConfigurationSpace, number: int, seed: int) -> list[Configuration]:
    """Draws `number` configurations uniformly."""
    space.seed(seed)
    return [space.sample_configuration() for _ in range(number)]


def sobol_design(space: ConfigurationSpace, number: int, seed: int) -> list[Configuration]:
    """Returns the first `number` configurations of a scrambled Sobol sequence, without repeats."""
    scenario = Scenario(space, deterministic=True, n_trials=number, seed=seed)  # its folder is never made
    return SobolInitialDesign(scenario, n_configs=number, max_ratio=1.0, seed=seed).select_configurations()


def challengers(
    space: ConfigurationSpace, evaluated: Sequence[Configuration], costs: Floats, seed: int, samples: int
) -> Iterator[Configuration]:
    """Yields configurations to evaluate next, best first.

    Args:
        space: The space.
        evaluated: The configurations evaluated so far, at least one.
        costs: The cost of each of them, `(n,)`, finite.
        seed: Seed of all draws.
        samples: Random configurations from which the local search starts, beside those evaluated.

    Yields:
        Configurations; some of `evaluated` may be among them. One in twelve is random, as in SMAC.
    """
    space.seed(seed)
    scenario = Scenario(space, deterministic=True, seed=seed)
    vectors = np.array([configuration.get_array() for configuration in evaluated])
    forest = fitted_forest(space, vectors, log_scaled(costs), seed)
    improvement = EI(log=True)
    improvement.update(model=forest, eta=float(forest.predict_marginalized(vectors)[0].min()))
    maximizer = LocalAndSortedRandomSearch(space, improvement, challengers=samples, seed=seed)
    now_and_then = HyperparameterOptimizationFacade.get_random_design(scenario)
    with _no_mean_of_nothing():
        yield from maximizer.maximize(list(evaluated), random_design=now_and_then)


def fitted_forest(space: ConfigurationSpace, vectors: Floats, log_costs: Floats, seed: int) -> RandomForest:
    """Fits SMAC's random forest, with the settings of its facade.

    Args:
        space: The space.
        vectors: Configurations, `(n, hyperparameters)`.
        log_costs: Their `log_scaled` costs, `(n,)`.
        seed: Seed of the forest.
    """
    forest = RandomForest(
        space,
        log_y=True,
        n_trees=10,
        ratio_features=1.0,
        min_samples_split=2,
        min_samples_leaf=1,
        # There are no more leaves than points. SMAC allows 2**20, which scikit-learn takes a second to allocate.
        max_leaf_nodes=max(2, len(vectors)),
        seed=seed,
        n_jobs=1,  # threads cost more than such trees
    )
    forest.train(vectors, log_costs[:, None])
    return forest


def log_scaled(costs: Floats) -> Floats:
    """Returns logarithms of costs scaled to 0 to 1, like SMAC's encoder.

    The scale begins below the lowest cost, by as much as the 5 % quantile lies above it. So the logarithm spreads all
    good costs, and not only the best one from the rest.

    Args:
        costs: `(n,)`, finite.

    Returns:
        `(n,)`, at most 0. They are finite even if all costs are equal, or so large that SMAC's own scale would take the
        logarithm of 0.
    """
    lowest, highest = costs.min(), costs.max()
    begin = lowest - (np.percentile(costs, _PERCENTILE) - lowest) - _LEAST
    if begin == highest:
        return np.zeros_like(costs)
    scaled: Floats = np.log(np.maximum((costs - begin) / (highest - begin), _LOWEST))
    return scaled


@contextmanager
def _no_mean_of_nothing() -> Iterator[None]:
    """Silences numpy's warnings when SMAC's local search averages no times."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        warnings.filterwarnings("ignore", "invalid value encountered in scalar divide", RuntimeWarning)
        yield
