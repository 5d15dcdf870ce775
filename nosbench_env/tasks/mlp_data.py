"""The data of the MLP tasks: tables from scikit-learn or OpenML."""

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
MIN_ROWS = 2 * FOLDS  # batch normalisation needs two rows in each fold
MAX_VALUES = 100_000_000  # rows times features; 400 MB
MAX_NUMBERED_CLASSES = 100  # a target with more different numbers counts as a regression

# Name -> the function of `sklearn.datasets` that loads the data set, which is installed with scikit-learn.
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
    """Loads a table for classification to the CPU, once.

    Features are standardised over all rows, as in the paper's code. Categories are numbered in the data set's order and
    then treated like numbers. A missing value counts as the mean of its feature. Classes are numbered in the order of
    their first rows.

    Args:
        name: A name in `DATA_SETS`, or "openml-ID". A data set of OpenML is downloaded once and then kept in
            scikit-learn's data folder (`SCIKIT_LEARN_DATA`).

    Returns:
        Features `(rows, features)` float32 and classes `(rows,)` int64.

    Raises:
        ValueError: If the name is unknown, or the data set is unavailable or no classification problem.
    """
    openml = re.fullmatch("openml-([1-9][0-9]{0,8})", str(name))
    if openml is None and name not in DATA_SETS:
        raise ValueError(
            f"unknown data set {name!r}; known are {', '.join(DATA_SETS)}, and openml-ID, such as openml-31"
        )
    table = _fetch(int(openml[1])) if openml else _load(DATA_SETS[name])
    try:
        return _features(table.data), _classes(table.target)
    except ValueError as error:
        raise ValueError(f"data set {name!r} can't be a task: {error}") from error


def _load(function: str) -> Any:
    import sklearn.datasets  # takes a second

    return getattr(sklearn.datasets, function)()


def _fetch(number: int) -> Any:
    """Fetches a data set of OpenML, with categories as numbers."""
    from sklearn.datasets import fetch_openml, get_data_home

    page = f"See https://www.openml.org/d/{number}"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A network error occurred", UserWarning)  # raised below if it persists
            return fetch_openml(data_id=number, as_frame=False, parser="liac-arff", n_retries=1)
    except ValueError as error:  # its first sentence names the defect; the rest advises callers of the function
        raise ValueError(f"data set {number} of OpenML can't be a task: {str(error).split('. ')[0]}. {page}") from error
    except Exception as error:  # of many types: from the network, the service, the format
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(
            f"can't download data set {number} of OpenML: {reason}. The first use needs a network connection; the data "
            f"are then kept in {get_data_home()}. {page}"
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
    known = values[:, ~np.isnan(values).all(axis=0)]  # drops features without any value
    if not known.shape[1]:
        raise ValueError("all values are missing")
    standardised = StandardScaler().fit_transform(known)  # rejects infinite values and ignores missing ones
    return torch.tensor(np.nan_to_num(standardised, nan=0.0), dtype=torch.float32)


def _classes(target: NDArray[Any] | None) -> Tensor:
    if target is None or target.ndim != 1:
        raise ValueError("expected one column with the classes of the rows")
    labels = target.tolist()
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    if any(label is None or label != label for label in numbers):  # NaN differs from itself
        raise ValueError("the classes of some rows are missing")
    numeric = target.dtype.kind in "iuf"
    if numeric and (len(numbers) > MAX_NUMBERED_CLASSES or any(label != int(label) for label in numbers)):
        raise ValueError(f"its target has {len(numbers)} different numbers: a regression, not a classification")
    if len(numbers) < 2:
        raise ValueError(f"expected at least two classes, got {len(numbers)}")
    return torch.tensor([numbers[label] for label in labels], dtype=torch.int64)
