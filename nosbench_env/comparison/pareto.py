"""Pareto fronts and hypervolumes of points whose objectives are minimized."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto_front(points: ArrayLike) -> NDArray[np.int64]:
    """Returns the indices of the points on the Pareto front.

    A point is on the front if no other point dominates it: is nowhere worse and somewhere better. Of equal points only
    the first is returned.

    Args:
        points: `(points, objectives)` numbers, inf allowed.

    Returns:
        Indices of `points`, in the order of the first objective, then of the second and so on.

    Raises:
        ValueError: If `points` is not of two dimensions, has no objective, or holds NaN.

    >>> pareto_front([[3, 0], [1, 2], [2, 2], [1, 2]]).tolist()
    [1, 0]
    """
    left = _checked(points)
    places = np.lexsort(left.T[::-1])  # no remaining point dominates the first of them
    left = left[places]
    front = []
    while len(left):
        front.append(places[0])
        better_somewhere = (left < left[0]).any(axis=1)
        places, left = places[better_somewhere], left[better_somewhere]
    return np.array(front, dtype=np.int64)


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Returns the exact hypervolume of points (Zitzler and Thiele, 1998).

    It is the volume of the space that the points dominate, up to a reference point, computed by slicing along the last
    objective, then the one before. This is fast if these take few different values, as numbers of slots and operations
    do.

    Args:
        points: `(points, objectives)` numbers. Those not better than the reference in all objectives add nothing.
        reference: `(objectives,)` finite numbers.

    Returns:
        The volume, in the product of the objectives' units; inf if a point is -inf somewhere.

    Raises:
        ValueError: If the shapes do not match or `points` holds NaN.

    >>> hypervolume([[0, 1], [1, 0]], [2, 2])
    3.0
    """
    checked, corner = _checked(points), np.asarray(reference, dtype=np.float64)
    if corner.shape != checked.shape[1:] or not np.isfinite(corner).all():
        raise ValueError(f"reference must be {checked.shape[1]} finite numbers, one an objective, got {reference!r}")
    return _volume(checked[(checked < corner).all(axis=1)], corner)


def _volume(points: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    points = points[pareto_front(points)]
    last = points[:, -1]
    borders = np.unique(last)
    depths = np.diff(borders, append=corner[-1])
    return sum(
        float(depth) * _volume(points[last <= border, :-1], corner[:-1])
        for border, depth in zip(borders, depths, strict=True)
    )


def _checked(points: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"points must be of shape (points, objectives), got {array.shape}")
    if np.isnan(array).any():
        raise ValueError("points must be numbers, got NaN among them")
    return array
