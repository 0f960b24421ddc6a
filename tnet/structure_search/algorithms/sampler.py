"""A user's own sampler of ranks as an algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tnet.errors import InputError
from tnet.structure_search.algorithms.coordinates import Coordinates, Point
from tnet.structure_search.algorithms.shapes import in_every_shape
from tnet.structure_search.proposals import Problem, Proposals

__all__ = ["GenerateSample", "Sampler"]

GenerateSample: TypeAlias = Callable[
    [
        dict[str, list[np.ndarray]],
        dict[str, list[float]],
        np.ndarray,
        int,
        int,
        int,
        dict[str, Any],
    ],
    Sequence[Any],
]
"""``(history, fitness, best, n, iteration, max_iterations, hyperparameters) -> vectors``."""


@dataclass(frozen=True)
class Sampler:
    """What a function with the signature of tnGPS samples, iteration by iteration.

    Parameters
    ----------
    function : callable
        ``function(history, fitness, best, n, iteration, max_iterations, hyperparameters)`` returns integer vectors:
        the ranks of the pairs of the space, 1 for no bond. ``history["1"]`` is the list of the vectors of the first
        iteration, ``fitness["1"]`` their scores (the lower the better); ``best`` is the best vector so far; ``n``
        vectors are asked for; ``iteration`` is one more than there are in the history.
    n_samples : int
        Vectors of one iteration; of more the first ``n_samples`` are taken.
    max_iterations : int
    absent : float
        Probability that a pair has no bond in a vector of the first iteration, which is drawn at random.
    hyperparameters : mapping
        Given to the function, with ``"code_upperbound"``, the largest rank, and ``"rng"``, a NumPy generator: what it
        draws from there comes again with the same seed.

    Notes
    -----
    Ranks out of range are clipped, and vectors that the constraints forbid lose bonds until they are allowed. The
    search ends early where the function has no vector to give. Orders of modes are not sampled: spaces of kind
    "permutations" are refused.

    References
    ----------
    .. [1] J. Zeng et al., "tnGPS: discovering unknown tensor network structure search algorithms via large language
       models (LLMs)", ICML 2024.

    Examples
    --------
    >>> def near_the_best(history, fitness, best, n, iteration, max_iterations, hyperparameters):
    ...     return [best + hyperparameters["rng"].integers(-1, 2, len(best)) for _ in range(n)]
    >>> Sampler(near_the_best, n_samples=20).max_iterations
    20
    """

    function: GenerateSample
    n_samples: int = 100
    max_iterations: int = 20
    absent: float = 0.85
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError(f"function={self.function!r}: give a callable that returns vectors of ranks.")
        if self.n_samples < 1 or self.max_iterations < 1:
            raise InputError(
                f"n_samples={self.n_samples!r}, max_iterations={self.max_iterations!r}: both are at least 1."
            )
        if not 0 <= self.absent <= 1:
            raise InputError(f"absent={self.absent!r}: give a probability.")

    def propose(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        """Return the dialogue."""
        return in_every_shape(self._dialogue, problem, rng)

    def _dialogue(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        if problem.space.kind == "permutations":
            raise InputError("a sampler gives ranks, no orders of modes: use kind 'ranks', 'free' or 'trees'.")
        coordinates = Coordinates(problem.space, problem.shape)
        points = [coordinates.random(rng, absent=self.absent) for _ in range(self.n_samples)]
        history: dict[str, list[np.ndarray]] = {}
        fitness: dict[str, list[float]] = {}
        best, best_score = np.asarray(points[0].ranks), np.inf
        given = {**self.hyperparameters, "code_upperbound": problem.space.max_rank, "rng": rng}
        for iteration in range(1, self.max_iterations + 1):
            if iteration > 1:
                past = {key: list(value) for key, value in history.items()}
                scores = {key: list(value) for key, value in fitness.items()}
                vectors = self.function(
                    past, scores, best.copy(), self.n_samples, iteration, self.max_iterations, dict(given)
                )
                points = self._points(vectors, coordinates, rng)
            if not points:
                return None
            trials = yield [coordinates.structure(point) for point in points]
            history[str(iteration)] = [np.asarray(point.ranks) for point in points]
            fitness[str(iteration)] = [trial.score for trial in trials]
            for point, trial in zip(points, trials, strict=True):
                if trial.score < best_score:
                    best, best_score = np.asarray(point.ranks), trial.score
        return None

    def _points(self, vectors: Sequence[Any], coordinates: Coordinates, rng: np.random.Generator) -> list[Point]:
        """Return the points of the vectors that a function gave, or say what is wrong with them."""
        n = len(coordinates.space.pairs(len(coordinates.shape)))
        points = []
        for vector in list(vectors)[: self.n_samples]:
            try:
                ranks = np.asarray(vector, dtype=float)
            except (TypeError, ValueError):
                ranks = np.empty(0)
            if ranks.shape != (n,) or not np.isfinite(ranks).all():
                raise InputError(f"the sampler gave {vector!r}: give vectors of {n} ranks, one for each pair.")
            points.append(coordinates.repaired(np.rint(ranks).tolist(), None, rng))
        return points
