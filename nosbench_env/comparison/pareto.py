"""Points with several objectives, of each of which less is better: which of them are on the front, and its volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pareto_front(points: ArrayLike) -> NDArray[np.int64]:
    """The places of the points that no other dominates; of equal points, the first alone.

    A point dominates another that it is nowhere worse than and somewhere better.

    Args:
        points: `(points, objectives)` numbers, inf allowed.

    Returns:
        Places in `points`, in the order of the first objective, then of the second and so on.

    Raises:
        ValueError: If `points` is not of two dimensions, has no objective, or holds NaN.

    >>> pareto_front([[3, 0], [1, 2], [2, 2], [1, 2]]).tolist()
    [1, 0]
    """
    left = _checked(points)
    places = np.lexsort(left.T[::-1])  # the first of what is left is dominated by nothing that is left
    left = left[places]
    front = []
    while len(left):
        front.append(places[0])
        better_somewhere = (left < left[0]).any(axis=1)
        places, left = places[better_somewhere], left[better_somewhere]
    return np.array(front, dtype=np.int64)


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """How much of the space the points dominate, up to a reference point (Zitzler and Thiele, 1998); exact.

    It is computed by slicing along the last objective, then the one before: fast where those take few different
    values, as numbers of slots and operations do.

    Args:
        points: `(points, objectives)` numbers. Those that are not better than the reference in all objectives add
            nothing.
        reference: `(objectives,)` finite numbers.

    Returns:
        The volume, in the product of the objectives' units; inf if a point is -inf somewhere.

    Raises:
        ValueError: If the shapes do not fit or `points` holds NaN.

    >>> hypervolume([[0, 1], [1, 0]], [2, 2])
    3.0
    """
    found, corner = _checked(points), np.asarray(reference, dtype=np.float64)
    if corner.shape != found.shape[1:] or not np.isfinite(corner).all():
        raise ValueError(f"reference must be {found.shape[1]} finite numbers, one an objective, got {reference!r}")
    return _volume(found[(found < corner).all(axis=1)], corner)


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
    found = np.asarray(points, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] == 0:
        raise ValueError(f"points must be of shape (points, objectives), got {found.shape}")
    if np.isnan(found).any():
        raise ValueError("points must be numbers, got NaN among them")
    return found
