"""Structures that wait to be evaluated, with all that is known of them."""

from __future__ import annotations

import math

import numpy as np

from tnet.structure_search.algorithms.error_model import ErrorModel, described
from tnet.structure_search.algorithms.landscape import Landscape, Points

__all__ = ["CandidatePool"]

_TRUSTED = 0.999  # share of the error of an evaluated structure that its parts are believed to have at least


class CandidatePool:
    """The points of one landscape that came up in a search, and what evaluations told about them.

    Parameters
    ----------
    landscape : Landscape
    """

    def __init__(self, landscape: Landscape) -> None:
        self.landscape = landscape
        self.points = landscape.points(np.empty((0, len(landscape.slots)), dtype=np.int64))
        self.bound_score = np.zeros(0)
        self.believed_rse = np.zeros(0)
        self.tried = np.zeros(0, dtype=bool)
        self.model = ErrorModel()
        self._places: dict[bytes, int] = {}
        self._evaluated: list[tuple[np.ndarray, float]] = []

    def add(self, points: Points, below: float, most: int | None = None) -> None:
        """Take in points whose bound is below a score, at most so many of the best."""
        first: dict[bytes, int] = {}
        for k, key in enumerate(self.landscape.keys(points)):
            if key not in self._places:
                first.setdefault(key, k)
        if not first:
            return
        keys = list(first)
        points = points.part(np.array(list(first.values())))
        scored = self.landscape.scores(points)
        order = np.argsort(scored.score, kind="stable")
        order = order[scored.score[order] < below][:most]
        self._places.update({keys[k]: len(self.tried) + n for n, k in enumerate(order.tolist())})
        kept = points.part(order)
        believed = scored.bound[order]
        ranks = self.landscape.pair_ranks(kept)
        for whole, rse in self._evaluated:
            believed = np.where((ranks <= whole).all(axis=1), np.maximum(believed, _TRUSTED * rse), believed)
        self.points = Points(
            np.concatenate([self.points.ranks, kept.ranks]), np.concatenate([self.points.order, kept.order])
        )
        self.bound_score = np.concatenate([self.bound_score, scored.score[order]])
        self.believed_rse = np.concatenate([self.believed_rse, believed])
        self.tried = np.concatenate([self.tried, np.zeros(len(order), dtype=bool)])

    def place(self, point: Points) -> int:
        """Return the place of a point that was taken in."""
        return self._places[self.landscape.keys(point)[0]]

    def learn(self, place: int, rse: float) -> None:
        """Take in the error that was found for a point: structures within it are believed to have no smaller one."""
        point = self.points.part(slice(place, place + 1))
        ranks = self.landscape.pair_ranks(point)
        self.model.learn(self._described(point)[0], rse)
        if np.isfinite(rse):
            self._evaluated.append((ranks[0], rse))
            inside = (self.landscape.pair_ranks(self.points) <= ranks).all(axis=1)
            self.believed_rse[inside] = np.maximum(self.believed_rse[inside], _TRUSTED * rse)

    def waiting(self, below: float) -> np.ndarray:
        """Return the places of points that were not tried, and whose bound is below a score."""
        return np.flatnonzero(~self.tried & (self.bound_score < below))

    def are_smaller(self, places: np.ndarray) -> np.ndarray:
        """Return which points have fewer parameters than the tensor has entries."""
        return self.landscape.n_params(self.points.part(places)) < math.prod(self.landscape.shape)

    def n_bonds(self, places: np.ndarray) -> np.ndarray:
        """Return the number of bonds of points."""
        return (self.points.ranks[places] > 1).sum(axis=1)

    def believed_score(self, places: np.ndarray) -> np.ndarray:
        """Return the least score that points have as far as bounds and evaluations tell."""
        return self.landscape.score_of(self.points.part(places), self.believed_rse[places])

    def expected_score(self, places: np.ndarray) -> np.ndarray:
        """Return the score that the model expects of points."""
        rse = np.maximum(self.expected_rse(self.points.part(places)), self.believed_rse[places])
        return self.landscape.score_of(self.points.part(places), rse)

    def expected_rse(self, points: Points) -> np.ndarray:
        """Return the squared relative errors that the model expects."""
        return self.model.predict(self._described(points))

    def _described(self, points: Points) -> np.ndarray:
        ranks = self.landscape.pair_ranks(points)
        return described(self.landscape.n_params(points), self.landscape.tails(points), ranks)
