"""TNLS: random structures around the best one so far, the neighbourhood shrinking."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from tnet.errors import InputError
from tnet.structure_search.algorithms.coordinates import Coordinates, Point
from tnet.structure_search.algorithms.shapes import in_every_shape
from tnet.structure_search.proposals import Problem, Proposals

__all__ = ["TNLS"]


@dataclass(frozen=True)
class TNLS:
    r"""Local sampling of ranks and permutations.

    Parameters
    ----------
    n_samples : int
        Structures of one iteration.
    decay : float
        Of the standard deviation of the ranks, per iteration.
    least_deviation : float
        Below which it does not fall.
    distance : int
        Most transpositions between the order of the best structure and that of a sample ("permutations" only); how
        many, from none on, is drawn uniformly.
    absent : float or None
        Probability that a pair of cores has no bond at the start. None: 0.6 for free topologies, else 0.
    patience : int or None
        Ends after so many iterations without a better score; None never ends.

    Notes
    -----
    In iteration t = 1, 2, ... each rank of a sample is that of the best structure plus a normal number of standard
    deviation :math:`\max(c^{\,t - 2}, \sigma_{\min})`, rounded and clipped. The best of all is the next centre.

    References
    ----------
    .. [1] C. Li, J. Zeng, Z. Tao, Q. Zhao, "Permutation search of tensor network structures via local sampling",
       ICML 2022, arXiv:2206.06597; the schedule of the deviation is that of the authors' later code (tnGPS).
    """

    n_samples: int = 60
    decay: float = 0.99
    least_deviation: float = 0.3
    distance: int = 1
    absent: float | None = None
    patience: int | None = 10

    def __post_init__(self) -> None:
        for name in ("n_samples", "distance") + (("patience",) if self.patience is not None else ()):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)!r}: give a whole number, at least 1.")
        if not (0 < self.decay <= 1 and self.least_deviation > 0):
            raise InputError(
                f"decay={self.decay!r}, least_deviation={self.least_deviation!r}: decay lies in (0, 1], the "
                "deviation is positive."
            )
        if self.absent is not None and not 0 <= self.absent <= 1:
            raise InputError(f"absent={self.absent!r}: give a probability.")

    def propose(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        """Return the dialogue."""
        return in_every_shape(self._dialogue, problem, rng)

    def _dialogue(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        coordinates = Coordinates(problem.space, problem.shape)
        best = coordinates.random(rng, absent=self.absent)
        (trial,) = yield [coordinates.structure(best)]
        score, idle = trial.score, 0
        for t in itertools.count(1):
            if idle == self.patience:
                return None
            deviation = max(self.decay ** (t - 2), self.least_deviation)
            points = [self._sample(coordinates, best, deviation, rng) for _ in range(self.n_samples)]
            trials = yield [coordinates.structure(point) for point in points]
            idle += 1
            for point, trial in zip(points, trials, strict=True):
                if trial.score < score or not math.isfinite(score):
                    best, score, idle = point, trial.score, 0 if math.isfinite(trial.score) else idle
        return None

    def _sample(self, coordinates: Coordinates, best: Point, deviation: float, rng: np.random.Generator) -> Point:
        ranks = (
            np.rint(np.asarray(best.ranks) + rng.standard_normal(len(best.ranks)) * deviation).astype(int).tolist()
        )
        near = best
        if best.order is not None:
            for _ in range(int(rng.integers(self.distance + 1))):
                a, b = rng.choice(len(best.order), 2, replace=False).tolist()
                near = near.transposed(a, b)
        return coordinates.repaired(ranks, near.order, rng)
