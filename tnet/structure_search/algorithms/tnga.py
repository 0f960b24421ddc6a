"""TNGA: a genetic algorithm on the bonds of the complete graph."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet.errors import InputError
from tnet.structure_search.algorithms.coordinates import Coordinates, Point
from tnet.structure_search.algorithms.shapes import in_every_shape
from tnet.structure_search.proposals import Problem, Proposals

__all__ = ["TNGA"]


@dataclass(frozen=True)
class TNGA:
    r"""Genetic search: the better half of a population breeds, genes are bonds.

    Parameters
    ----------
    rank : int or None
        Of all bonds, which are there or not: the original algorithm, see :meth:`binary` for its settings. None lets
        every bond have any rank.
    population : int
        Structures of one generation.
    survivors : float
        Share of a generation, the best, that breeds.
    alpha : float
        Selects: the survivor of place k = 0, 1, ... is a parent with weight
        :math:`\max(\log(\alpha / (0.01 + 5 k)), 0.01)`.
    mutation : float
        Probability that a gene changes: a bond of fixed rank appears or goes, a rank becomes any other.
    absent : float
        Probability that a bond is missing from a structure of the first generation.
    generations : int or None
        None never ends.

    Notes
    -----
    Two parents have two children. With a fixed rank one core, drawn at random, exchanges all its bonds between the
    parents; with ranks, half of all genes are exchanged. Nothing else survives. "permutations": a child has the order
    of one parent, and two of its modes change places with the probability of a mutation; the papers have no order.
    Children that the space does not allow lose bonds until it does.

    References
    ----------
    .. [1] C. Li, Z. Sun, "Evolutionary topology search for tensor network decomposition", ICML 2020; the version for
       ranks is that of the tnGPS code.
    """

    rank: int | None = None
    population: int = 100
    survivors: float = 0.9
    alpha: float = 100.0
    mutation: float = 0.25
    absent: float = 0.5
    generations: int | None = 30

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 2:
            raise InputError(f"rank={self.rank!r}: give the rank of the bonds, at least 2, or None.")
        if self.population < 2 or (self.generations is not None and self.generations < 1):
            raise InputError(
                f"population={self.population!r}, generations={self.generations!r}: at least 2 structures and one "
                "generation."
            )
        if not (0 < self.survivors <= 1 and 0 <= self.mutation <= 1 and 0 <= self.absent <= 1 and self.alpha > 0):
            raise InputError(
                f"survivors={self.survivors!r}, mutation={self.mutation!r}, absent={self.absent!r}, "
                f"alpha={self.alpha!r}: shares and probabilities lie in [0, 1], survivors and alpha above 0."
            )

    @classmethod
    def binary(cls, rank: int) -> TNGA:
        """Return the published settings for bonds of one rank (population 50, 40 survive, alpha 200)."""
        return cls(rank, population=50, survivors=0.8, alpha=200.0, mutation=0.05)

    def propose(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        """Return the dialogue."""
        return in_every_shape(self._dialogue, problem, rng)

    def _dialogue(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        if self.rank is not None and self.rank > problem.space.max_rank:
            raise InputError(f"rank={self.rank} is above max_rank={problem.space.max_rank} of the space.")
        coordinates = Coordinates(problem.space, problem.shape)
        points = [self._first(coordinates, rng) for _ in range(self.population)]
        for _ in range(self.generations) if self.generations is not None else itertools.repeat(0):
            trials = yield [coordinates.structure(point) for point in points]
            best = np.argsort([trial.score for trial in trials], kind="stable").tolist()
            parents = [points[k] for k in best[: max(1, round(self.survivors * self.population))]]
            points = self._bred(coordinates, parents, rng)
        return None

    def _first(self, coordinates: Coordinates, rng: np.random.Generator) -> Point:
        point = coordinates.random(rng, absent=self.absent)
        if self.rank is None:
            return point
        return coordinates.repaired([self.rank if rank > 1 else 1 for rank in point.ranks], point.order, rng)

    def _bred(self, coordinates: Coordinates, parents: Sequence[Point], rng: np.random.Generator) -> list[Point]:
        """Return the next generation; parents are ordered, the best first."""
        weights = np.maximum(np.log(self.alpha / (0.01 + 5 * np.arange(len(parents)))), 0.01)
        children: list[Point] = []
        while len(children) < self.population:
            a, b = (parents[k] for k in rng.choice(len(parents), 2, p=weights / weights.sum()))
            exchanged = self._exchanged(coordinates, rng)
            for one, other in ((a, b), (b, a)):
                ranks = np.where(exchanged, other.ranks, one.ranks)
                children.append(self._mutated(coordinates, ranks, one.order, rng))
        return children[: self.population]

    def _exchanged(self, coordinates: Coordinates, rng: np.random.Generator) -> np.ndarray:
        """Return which genes two parents exchange."""
        pairs = coordinates.space.pairs(len(coordinates.shape))
        if self.rank is not None:
            core = int(rng.integers(len(coordinates.shape) + coordinates.space.n_internal))
            return np.array([core in pair for pair in pairs])
        chosen = np.zeros(len(pairs), dtype=bool)
        chosen[rng.permutation(len(pairs))[: len(pairs) // 2]] = True
        return chosen

    def _mutated(
        self, coordinates: Coordinates, ranks: np.ndarray, order: tuple[int, ...] | None, rng: np.random.Generator
    ) -> Point:
        mutated = rng.random(len(ranks)) < self.mutation
        if self.rank is not None:
            ranks = np.where(mutated, 1 + self.rank - ranks, ranks)  # 1 and the rank change places
        elif coordinates.space.max_rank > 1:
            other = rng.integers(1, coordinates.space.max_rank, len(ranks))
            ranks = np.where(mutated, other + (other >= ranks), ranks)
        if order is not None and rng.random() < self.mutation:
            a, b = rng.choice(len(order), 2, replace=False).tolist()
            order = Point((), order).transposed(a, b).order
        return coordinates.repaired(ranks.tolist(), order, rng)
