"""Tables of (weight, cost) of which only the lower convex hull can be least at any slope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Hull", "least_at", "lower_hull", "products"]


class Hull(NamedTuple):
    """Points in ascending order of weight and descending order of cost; ``picks`` tells where each came from.

    ``weights`` (n,), ``costs`` (n,), ``picks`` (n, d) of int.
    """

    weights: np.ndarray
    costs: np.ndarray
    picks: np.ndarray


def lower_hull(weights: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the indices of the points that make ``slope * weight + cost`` least for some slope >= 0.

    Parameters
    ----------
    weights, costs : array, shape (n,)
        Infinite costs are left out.

    Returns
    -------
    array of int
        In ascending order of weight. One of points that are equal.

    Notes
    -----
    The chain of Andrew (1979) over the points that no other dominates: O(n log n).
    """
    from tnet.structure_search.trees.lower_hull_loops import chain

    return chain(weights, costs, np.argsort(weights, kind="stable"))


def least_at(hull: Hull, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least ``slope * weight + cost`` for each slope, and the index of its point."""
    values = slopes[:, None] * hull.weights + hull.costs
    index = np.argmin(values, axis=1)
    return values[np.arange(len(slopes)), index], index


def products(hulls: Sequence[Hull]) -> Hull:
    """Return the hull of all products of weights and sums of costs, one point of each hull.

    ``picks`` (n, len(hulls)) holds the index of the point in each hull. The product is linear in every weight, so
    points inside a hull are never needed.
    """
    weights, costs, picks = np.ones(1), np.zeros(1), np.zeros((1, 0), dtype=np.int64)
    for hull in hulls:
        all_weights = np.multiply.outer(weights, hull.weights).ravel()
        all_costs = np.add.outer(costs, hull.costs).ravel()
        kept = lower_hull(all_weights, all_costs)
        before, here = np.divmod(kept, len(hull.weights))
        weights, costs = all_weights[kept], all_costs[kept]
        picks = np.concatenate([picks[before], here[:, None]], axis=1)
    return Hull(weights, costs, picks)
