"""A structure as a point: one rank for each pair of cores that may have a bond, and an order of the modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure

__all__ = ["Coordinates", "Point"]

_ABSENT = 0.6


class Point(NamedTuple):
    """Ranks of the pairs of a space, and the order of the modes where the space has one.

    Parameters
    ----------
    ranks : tuple of int
        1 is no bond.
    order : tuple of int, or None
        Mode ``order[k]`` stands at place k of the template; None but for permutations.
    """

    ranks: tuple[int, ...]
    order: tuple[int, ...] | None = None

    def with_rank(self, variable: int, rank: int) -> Point:
        """Return the point with another rank of one pair."""
        return Point((*self.ranks[:variable], rank, *self.ranks[variable + 1 :]), self.order)

    def transposed(self, a: int, b: int) -> Point:
        """Return the point in which the modes at places a and b are exchanged."""
        assert self.order is not None
        order = list(self.order)
        order[a], order[b] = order[b], order[a]
        return Point(self.ranks, tuple(order))


@dataclass(frozen=True)
class Coordinates:
    """The points of a space for tensors of one shape.

    Parameters
    ----------
    space : SearchSpace
    shape : tuple of int
    """

    space: SearchSpace
    shape: tuple[int, ...]

    @property
    def permuted(self) -> bool:
        """Whether points have an order of the modes."""
        return self.space.kind == "permutations"

    @property
    def free(self) -> list[int]:
        """Positions of the ranks that are not fixed."""
        fixed = {bond[:2] for bond in self.space.fixed}
        return [k for k, pair in enumerate(self.space.pairs(len(self.shape))) if pair not in fixed]

    def structure(self, point: Point) -> Structure:
        """Return the structure at a point."""
        return self.space.place(self.shape, point.ranks, point.order)

    def allows(self, point: Point) -> bool:
        """Return whether the structure at a point belongs to the space."""
        return self.space.allows(self.structure(point))

    def random(self, rng: np.random.Generator, *, absent: float | None = 0.0) -> Point:
        """Return a point drawn at random, with bonds taken away until the space allows it.

        Parameters
        ----------
        rng : numpy Generator
        absent : float or None
            Probability that a pair has no bond; the others draw from 2 to the largest rank. With 0 all pairs draw
            from 1, which is no bond either. None is the published choice: 0.6 where bonds are free, else 0.
        """
        if absent is None:
            absent = _ABSENT * (self.space.kind in ("free", "trees"))
        pairs = self.space.pairs(len(self.shape))
        most = self.space.max_rank
        drawn = rng.integers(min(2 if absent else 1, most), most + 1, len(pairs))
        ranks = np.where(rng.random(len(pairs)) < absent, 1, drawn)
        order = tuple(rng.permutation(len(self.shape)).tolist()) if self.permuted else None
        return self.repaired(ranks.tolist(), order, rng)

    def repaired(self, ranks: Sequence[int], order: Sequence[int] | None, rng: np.random.Generator) -> Point:
        """Return a point of the space near these ranks.

        Ranks are clipped, fixed bonds are set, and bonds are taken away at random until all constraints are met:
        fewer bonds break none of them, and the fixed ones alone are allowed.
        """
        fixed = {bond[:2]: bond[2] for bond in self.space.fixed}
        pairs = self.space.pairs(len(self.shape))
        clipped = (min(max(int(rank), 1), self.space.max_rank) for rank in ranks)
        kept = tuple(fixed.get(pair, rank) for pair, rank in zip(pairs, clipped, strict=True))
        point = Point(kept, None if order is None else tuple(int(k) for k in order))
        if self.allows(point):
            return point
        bonds = [k for k in self.free if kept[k] > 1]
        for k in rng.permutation(bonds).tolist():
            point = point.with_rank(k, 1)
            if self.allows(point):
                break
        return point
