"""Data of the MLP tasks: tables whose rows are to be told apart, from scikit-learn or from OpenML."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDS = 10  # of the cross-validation
MIN_ROWS = 2 * FOLDS  # two in each fold, since a batch normalisation needs two
MAX_VALUES = 100_000_000  # rows times features; 400 MB
MAX_NUMBERED_CLASSES = 100  # a target of more different numbers is taken for a measurement

# Name -> the function of `sklearn.datasets` that loads what is installed with it.
DATA_SETS: Mapping[str, str] = MappingProxyType(
    {
        "digits": "load_digits",
        "breast-cancer": "load_breast_cancer",
        "iris": "load_iris",
        "wine": "load_wine",
    }
)


@cache
def load_data_set(name: str) -> tuple[Tensor, Tensor]:
    """A table to learn, on the CPU; each is read once.

    Features are standardised over all rows, as in the paper's code. Categories are numbered in the data set's order,
    and then treated like numbers; a missing value counts as the feature's mean. Classes are numbered in the order in
    which they occur.

    Args:
        name: A name in `DATA_SETS`, or "openml-ID". A data set of OpenML is downloaded once and then kept in
            scikit-learn's folder for data (`SCIKIT_LEARN_DATA`).

    Returns:
        Features `(rows, features)` float32 and classes `(rows,)` int64.

    Raises:
        ValueError: If the name is unknown, or the data set can't be got or is not one of classes to tell apart.
    """
    openml = re.fullmatch("openml-([1-9][0-9]{0,8})", str(name))
    if openml is None and name not in DATA_SETS:
        raise ValueError(
            f"unknown data set {name!r}; known are {', '.join(DATA_SETS)}, and openml-ID, such as openml-31"
        )
    found = _fetch(int(openml[1])) if openml else _load(DATA_SETS[name])
    try:
        return _features(found.data), _classes(found.target)
    except ValueError as error:
        raise ValueError(f"data set {name!r} can't be a task: {error}") from error


def _load(function: str) -> Any:
    import sklearn.datasets  # takes a second

    return getattr(sklearn.datasets, function)()


def _fetch(number: int) -> Any:
    """A data set of OpenML, with categories as numbers."""
    from sklearn.datasets import fetch_openml, get_data_home

    page = f"See https://www.openml.org/d/{number}"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A network error occurred", UserWarning)  # it is raised if it stays
            return fetch_openml(data_id=number, as_frame=False, parser="liac-arff", n_retries=1)
    except ValueError as error:  # its first sentence says what is wrong, the rest advises callers of the function
        raise ValueError(f"data set {number} of OpenML can't be a task: {str(error).split('. ')[0]}. {page}") from error
    except Exception as error:  # of many types: the network's, the service's, the format's
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(
            f"can't get data set {number} of OpenML: {reason}. The first time this takes a network; from then on the "
            f"data are in {get_data_home()}. {page}"
        ) from error


def _features(table: Any) -> Tensor:
    from scipy.sparse import issparse
    from sklearn.preprocessing import StandardScaler

    rows, features = table.shape
    if rows < MIN_ROWS or features == 0:
        raise ValueError(f"expected at least {MIN_ROWS} rows and a feature, got {rows} and {features}")
    if rows * features > MAX_VALUES:
        raise ValueError(f"expected at most {MAX_VALUES:,} values, got {rows:,} rows of {features:,} features")
    values = np.asarray(table.toarray() if issparse(table) else table, dtype=np.float64)
    known = values[:, ~np.isnan(values).all(axis=0)]  # a feature that is always missing says nothing
    if not known.shape[1]:
        raise ValueError("all its values are missing")
    standardised = StandardScaler().fit_transform(known)  # it refuses infinite values, and looks past missing ones
    return torch.tensor(np.nan_to_num(standardised, nan=0.0), dtype=torch.float32)


def _classes(target: NDArray[Any] | None) -> Tensor:
    if target is None or target.ndim != 1:
        raise ValueError("expected one column that says the class of a row")
    labels = target.tolist()
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    if any(label is None or label != label for label in numbers):  # NaN differs from itself
        raise ValueError("the class of some rows is missing")
    numeric = target.dtype.kind in "iuf"
    if numeric and (len(numbers) > MAX_NUMBERED_CLASSES or any(label != int(label) for label in numbers)):
        raise ValueError(f"its target is a number of {len(numbers)} different values: a regression, not classes")
    if len(numbers) < 2:
        raise ValueError(f"expected two classes or more, got {len(numbers)}")
    return torch.tensor([numbers[label] for label in labels], dtype=torch.int64)
