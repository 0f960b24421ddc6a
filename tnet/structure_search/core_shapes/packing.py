"""Tucker packing: the ranks of a Tucker model that keep most of the singular values within a number of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet.structure_search.trees.ranks import least_tails
from tnet.structure_search.trees.topology import CutPrices, Tree

__all__ = ["MOST_LABELS", "TuckerPacking", "packed_exactly", "packed_greedily"]

MOST_LABELS = 200_000  # partial choices at a bond before a proof is given up


@dataclass(frozen=True, eq=False)
class TuckerPacking:
    r"""Maximise :math:`\sum_n f_n(r_n)` subject to :math:`\prod_n r_n + \sum_n I_n r_n \le c`.

    Parameters
    ----------
    shape : tuple of int
        :math:`I_n`.
    kept : tuple of array of float64
        ``kept[n][r - 1]`` is :math:`f_n(r)`, the sum of the r largest squared singular values of mode n. Its length
        is the largest rank that is of use.
    max_params : int
        c, at least :math:`1 + \sum_n I_n`.
    """

    shape: tuple[int, ...]
    kept: tuple[np.ndarray, ...]
    max_params: int

    def size(self, ranks: Sequence[int]) -> int:
        """Return the number of parameters of a core of this shape and its factors."""
        return math.prod(ranks) + sum(n * r for n, r in zip(self.shape, ranks, strict=True))

    def value(self, ranks: Sequence[int]) -> float:
        """Return the sum of squared singular values that is kept."""
        return math.fsum(float(f[r - 1]) for f, r in zip(self.kept, ranks, strict=True))

    @property
    def largest(self) -> tuple[int, ...]:
        """The largest ranks of use that a mode can have when the others have rank 1."""
        least = 1 + sum(self.shape)
        return tuple(
            min(len(f), 1 + (self.max_params - least) // (n + 1)) for n, f in zip(self.shape, self.kept, strict=True)
        )


def packed_exactly(packing: TuckerPacking, largest: Sequence[int] | None = None) -> tuple[tuple[int, ...], bool]:
    """Return the best ranks, up to ``largest``, and whether they are proven to be.

    Notes
    -----
    The packing is that of a tree whose centre carries no mode (``trees.ranks.least_tails``).
    """
    limits = (
        packing.largest if largest is None else [min(a, b) for a, b in zip(packing.largest, largest, strict=True)]
    )
    n_modes = len(packing.shape)
    bonds = ((0, n_modes), *((n_modes, k) for k in range(1, n_modes)))
    tree = Tree(packing.shape, 1, bonds, (0,) * n_modes)
    tails = [
        CutPrices(np.arange(1, limit + 1), f[-1] - f[:limit]) for f, limit in zip(packing.kept, limits, strict=True)
    ]
    found = least_tails(tree, tails, packing.max_params, most_labels=MOST_LABELS)
    assert found is not None  # rank 1 everywhere fits
    return found.ranks, found.is_proven


def packed_greedily(packing: TuckerPacking, *, by_size: bool) -> tuple[int, ...]:
    """Return ranks raised from 1, one by one, each time that which gains most among those that fit.

    Parameters
    ----------
    packing : TuckerPacking
    by_size : bool
        Compare gains per added parameter.
    """
    ranks = [1] * len(packing.shape)
    product, size = 1, packing.size(ranks)
    while True:
        best, chosen, added = 0.0, -1, 0
        for n, f in enumerate(packing.kept):
            if ranks[n] == len(f):
                continue
            more = product // ranks[n] + packing.shape[n]
            gain = float(f[ranks[n]] - f[ranks[n] - 1]) / (more if by_size else 1)
            if size + more <= packing.max_params and gain > best:
                best, chosen, added = gain, n, more
        if chosen < 0:
            return tuple(ranks)
        product += product // ranks[chosen]
        size += added
        ranks[chosen] += 1
