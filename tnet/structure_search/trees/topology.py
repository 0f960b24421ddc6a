"""The best of all trees over some modes, when every bond of a rank has a price: dynamic programming over subsets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tnet.structure_search.structure import Structure

__all__ = ["CutPrices", "Tree", "cheapest_tree", "tree_of"]

_INTERNAL = -1  # in place of a mode
_ALL_SETS_UP_TO = 12  # modes


class CutPrices(NamedTuple):
    """What a bond costs beside its parameters: ``prices[i]`` at rank ``ranks[i]``."""

    ranks: np.ndarray
    prices: np.ndarray


class Tree(NamedTuple):
    """A tree of cores with one bond to each but core 0; bonds may have any rank, 1 too.

    ``bonds[e] = (parent, child)``, parents first; ``cuts[e]`` the set of modes beyond the bond, bit k for mode k.
    """

    shape: tuple[int, ...]
    n_internal: int
    bonds: tuple[tuple[int, int], ...]
    cuts: tuple[int, ...]

    @property
    def key(self) -> tuple[int, ...]:
        """The cuts in ascending order: they determine a tree, whatever its internal cores are called."""
        return tuple(sorted(self.cuts))

    @property
    def degree(self) -> int:
        """Most bonds of a core."""
        ends = [core for bond in self.bonds for core in bond]
        return max(map(ends.count, ends), default=0)

    def structure(self, ranks: Sequence[int]) -> Structure:
        """Return the structure with these ranks of the bonds."""
        found = ((min(bond), max(bond), int(rank)) for bond, rank in zip(self.bonds, ranks, strict=True) if rank > 1)
        return Structure(self.shape, tuple(sorted(found)), self.n_internal)


def cheapest_tree(
    shape: Sequence[int],
    cuts: Mapping[int, CutPrices],
    *,
    max_degree: int | None = None,
    internal_price: float = 0.0,
    at_most: float = math.inf,
) -> tuple[float, Tree, tuple[int, ...]]:
    r"""Return the tree and ranks with the least parameters plus prices, its cost first.

    .. math:: \min_{T, r}\; \sum_v I_v \prod_{e \ni v} r_e + \sum_e \mathrm{price}_{\mathrm{cut}(e)}(r_e)

    over all trees whose cores carry one mode or none, with any number of bonds.

    Parameters
    ----------
    shape : sequence of int
        Sizes I of at least two modes; at most 62 of them.
    cuts : mapping of int to CutPrices
        Bonds that there may be: for sets of modes without mode 0, bit k for mode k. All single modes are among them.
    max_degree : int, optional
        Bonds of a core, at least 2.
    internal_price : float
        Of every core without a mode; inf allows none.
    at_most : float
        The cost of a tree that is known: what costs more is not followed, which saves most of the time.

    Raises
    ------
    ValueError
        No tree can be made of these cuts, or none that costs at most so much.

    Notes
    -----
    g(S, r), the least cost of what lies beyond a bond of rank r around the modes S, follows from the ways to choose
    a core at its end and to part the other modes among its bonds. The core costs r times the product of their
    ranks. So of all ways to part a set only the lower convex hull of (product, cost) counts (:func:`products`), and
    the minimum is exact for any degree. Beyond 12 modes only those sets are shared out that are a cut, or a cut
    without one mode, which leaves two bonds away from core 0 to most cores.
    With all cuts there are :math:`3^{N-1}/2` pairs of sets, and the hulls of each pair are multiplied.
    """
    from tnet.structure_search.trees.topology_loops import fill

    sizes = tuple(int(n) for n in shape)
    everything = (1 << len(sizes)) - 2
    sets = np.array(_sets(everything, cuts), dtype=np.int64)
    none = CutPrices(np.zeros(0), np.zeros(0))
    choices = [cuts.get(modes, none) for modes in sets.tolist()]
    ends = np.cumsum([0, *(len(choice.ranks) for choice in choices)])
    tables = _Tables(
        sizes,
        sets,
        *fill(
            sets,
            ends[:-1],
            ends[1:],
            np.concatenate([choice.ranks for choice in choices]).astype(float),
            np.concatenate([choice.prices for choice in choices]).astype(float),
            np.array(sizes, dtype=float),
            2 if max_degree is None else max_degree,
            max_degree is not None,
            float(internal_price),
            float(at_most),
            everything.bit_length() <= _ALL_SETS_UP_TO,
        ),
    )
    value, count, point = tables.cheapest(everything)
    if not value <= at_most or math.isinf(value):
        raise ValueError(
            f"no tree over {len(sizes)} modes consists of the {len(cuts)} cuts at a cost of <= {at_most}"
        )
    return value, *tables.tree(everything, count, point)


def tree_of(structure: Structure) -> Tree:
    """Return the tree of a structure without loops, parts without a bond joined to core 0."""
    near: list[list[int]] = [[] for _ in range(structure.n_cores)]
    for i, j, _ in structure.bonds:
        near[i].append(j)
        near[j].append(i)
    bonds: list[tuple[int, int]] = []
    seen = {0}
    for start in range(structure.n_cores):
        ahead = [start]
        if start not in seen:
            bonds.append((0, start))
            seen.add(start)
        while ahead:
            core = ahead.pop()
            for other in near[core]:
                if other not in seen:
                    bonds.append((core, other))
                    seen.add(other)
                    ahead.append(other)
    beyond = [1 << core if core < structure.n_modes else 0 for core in range(structure.n_cores)]
    for parent, child in reversed(bonds):
        beyond[parent] |= beyond[child]
    return Tree(structure.shape, structure.n_internal, tuple(bonds), tuple(beyond[child] for _, child in bonds))


def _sets(everything: int, cuts: Mapping[int, CutPrices]) -> list[int]:
    """Return the sets of modes that the bonds of a core may share out, smaller numbers first."""
    if everything.bit_length() <= _ALL_SETS_UP_TO:
        return [2 * k for k in range(1, everything // 2 + 1)]
    without_one = (cut ^ (1 << mode) for cut in [*cuts, everything] for mode in _members(cut))
    return sorted({*cuts, everything, *without_one} - {0})


class _Tables(NamedTuple):
    """What :func:`fill` found: for each set of modes, what it costs behind one bond or several."""

    sizes: tuple[int, ...]
    sets: np.ndarray
    values: np.ndarray
    picks: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def cheapest(self, modes: int) -> tuple[float, int, int]:
        """Return the least cost of core 0 with a set beyond its bonds, the number of bonds and the point."""
        place = int(np.searchsorted(self.sets, modes))
        best = (math.inf, 0, 0)
        for count in range(1, self.starts.shape[1]):
            values = self.values[self.starts[place, count] : self.stops[place, count]]
            if len(values):
                costs = self.sizes[0] * values[:, 0] + values[:, 1]
                best = min(best, (float(costs.min()), count, int(costs.argmin())))
        return best

    def pick(self, modes: int, count: int, point: int) -> list[int]:
        """Return where a point of a table came from."""
        place = int(np.searchsorted(self.sets, modes))
        return self.picks[self.starts[place, count] + point].tolist()

    def tree(self, modes: int, count: int, point: int) -> tuple[Tree, tuple[int, ...]]:
        """Follow the picks back from core 0."""
        bonds: list[tuple[int, int]] = []
        cuts: list[int] = []
        ranks: list[int] = []
        n_cores = len(self.sizes)
        ahead = [(0, modes, count, point)]
        while ahead:
            core, modes, count, point = ahead.pop()
            while True:
                pick = self.pick(modes, count, point)
                first, place = (modes, point) if count == 1 else (int(self.sets[pick[0]]), pick[1])
                rank, end, *_ = self.pick(first, 1, place)
                mode, below, below_point, _ = self.pick(first, 0, end)
                child = n_cores if mode == _INTERNAL else mode
                n_cores += mode == _INTERNAL
                bonds.append((core, child))
                cuts.append(first)
                ranks.append(rank)
                if below:
                    ahead.append((child, first if mode == _INTERNAL else first ^ (1 << mode), below, below_point))
                if count == 1:
                    break
                modes, count, point = modes ^ first, pick[2], pick[3]
        return Tree(self.sizes, n_cores - len(self.sizes), tuple(bonds), tuple(cuts)), tuple(ranks)


def _members(modes: int) -> Iterator[int]:
    while modes:
        lowest = modes & -modes
        yield lowest.bit_length() - 1
        modes ^= lowest
