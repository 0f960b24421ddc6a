"""The best of all trees over some modes, when every bond of a rank has a price: dynamic programming over subsets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tnet.structure_search.lower_hull import Hull, least_at, lower_hull
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
    sizes = tuple(int(n) for n in shape)
    limit = 2 if max_degree is None else max_degree
    tables = _Tables(sizes, cuts, limit, max_degree is not None, internal_price, at_most)
    everything = (1 << len(sizes)) - 2
    for modes in _sets(everything, cuts):
        tables.add(modes)
    best = min(
        (
            (float(least_at(hull, np.array([float(sizes[0])]))[0][0]), count)
            for count, hull in tables.parted.get(everything, {}).items()
        ),
        default=None,
    )
    if best is None or best[0] > at_most:
        raise ValueError(
            f"no tree over {len(sizes)} modes consists of the {len(cuts)} cuts at a cost of <= {at_most}"
        )
    value, count = best
    point = int(least_at(tables.parted[everything][count], np.array([float(sizes[0])]))[1][0])
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


class _Tables:
    """The tables of the dynamic programme: for each set of modes, what it costs behind one bond or several."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        cuts: Mapping[int, CutPrices],
        limit: int,
        is_strict: bool,
        internal_price: float,
        at_most: float,
    ) -> None:
        self.sizes, self.cuts, self.internal_price, self.at_most = sizes, cuts, internal_price, at_most
        self.limit, self.is_strict = limit, is_strict
        # By number of bonds, the last number standing for itself and more unless the degree is bounded. A pick of
        # `parted` is (first set, its point in `parted[..][1]`, bonds of the rest, point); with one bond it is
        # (rank, point of `ends`).
        self.parted: dict[int, dict[int, Hull]] = {}
        # The core at the end of a bond: picks are (mode or _INTERNAL, bonds, point).
        self.ends: dict[int, Hull] = {}

    def add(self, modes: int) -> None:
        """Fill the tables of a set, those of its subsets being filled."""
        found: dict[int, Hull] = {}
        for count, parts in self._partings(modes).items():
            joined = self._joined(parts)
            if joined.weights.size:
                found[count] = joined
        self.parted[modes] = found
        if modes in self.cuts:
            end = self._end(modes)
            if end is not None:
                self.ends[modes] = end
                ranks, prices = self.cuts[modes]
                values, points = least_at(end, ranks.astype(float))
                values = values + prices
                values[values > self.at_most] = np.inf
                kept = lower_hull(ranks.astype(float), values)
                if kept.size:
                    picks = np.stack([ranks[kept], points[kept]], axis=1)
                    found[1] = Hull(ranks[kept].astype(float), values[kept], picks)

    def _partings(self, modes: int) -> dict[int, list[Hull]]:
        """Return the products for all ways to part a set into a first bond and others, by the number of bonds."""
        partings: dict[int, list[Hull]] = {}
        for first in _subsets_with_lowest(modes, self.cuts):
            head = self.parted.get(first, {}).get(1)
            if head is None:
                continue
            for count, rest in self.parted.get(modes ^ first, {}).items():
                total = count + 1 if self.is_strict else 2
                if total <= self.limit:
                    weights = np.multiply.outer(head.weights, rest.weights).ravel()
                    costs = np.add.outer(head.costs, rest.costs).ravel()
                    place = np.array([first, count, len(rest.weights)])
                    partings.setdefault(total, []).append(Hull(weights, costs, place))
        return partings

    def _joined(self, parts: Sequence[Hull]) -> Hull:
        """Return the hull of all points; ``picks`` of a part are (first set, count of the rest, its points)."""
        weights = np.concatenate([part.weights for part in parts])
        costs = np.concatenate([part.costs for part in parts])
        affordable = np.flatnonzero(weights + costs <= self.at_most)
        kept = affordable[lower_hull(weights[affordable], costs[affordable])]
        starts = np.cumsum([0, *(len(part.weights) for part in parts)])
        which = np.searchsorted(starts, kept, side="right") - 1
        place = kept - starts[which]
        heads = np.array([part.picks for part in parts], dtype=np.int64)[which]
        here, rest = np.divmod(place, heads[:, 2])
        return Hull(weights[kept], costs[kept], np.stack([heads[:, 0], here, heads[:, 1], rest], axis=1))

    def _end(self, modes: int) -> Hull | None:
        """Return the hull of all cores that may stand at the end of a bond around a set."""
        most = self.limit - 1 if self.is_strict else self.limit
        pools: list[tuple[np.ndarray, np.ndarray, int, int]] = []
        for mode in _members(modes):
            rest = modes ^ (1 << mode)
            if rest == 0:
                pools.append((np.array([float(self.sizes[mode])]), np.zeros(1), mode, 0))
            for count, hull in self.parted.get(rest, {}).items():
                if count <= most:
                    pools.append((self.sizes[mode] * hull.weights, hull.costs, mode, count))
        if np.isfinite(self.internal_price):
            for count, hull in self.parted[modes].items():
                if 2 <= count <= most:
                    pools.append((hull.weights, hull.costs + self.internal_price, _INTERNAL, count))
        if not pools:
            return None
        weights = np.concatenate([pool[0] for pool in pools])
        costs = np.concatenate([pool[1] for pool in pools])
        kept = lower_hull(weights, costs)
        starts = np.cumsum([0, *(len(pool[0]) for pool in pools)])
        which = np.searchsorted(starts, kept, side="right") - 1
        picks = [(pools[w][2], pools[w][3], k - starts[w]) for w, k in zip(which, kept, strict=True)]
        return Hull(weights[kept], costs[kept], np.array(picks, dtype=np.int64).reshape(-1, 3))

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
                pick = self.parted[modes][count].picks[point]
                first, place = (modes, point) if count == 1 else (int(pick[0]), int(pick[1]))
                rank, end = (int(value) for value in self.parted[first][1].picks[place])
                mode, below, below_point = (int(value) for value in self.ends[first].picks[end])
                child = n_cores if mode == _INTERNAL else mode
                n_cores += mode == _INTERNAL
                bonds.append((core, child))
                cuts.append(first)
                ranks.append(rank)
                if below:
                    ahead.append((child, first if mode == _INTERNAL else first ^ (1 << mode), below, below_point))
                if count == 1:
                    break
                modes, count, point = modes ^ first, int(pick[2]), int(pick[3])
        return Tree(self.sizes, n_cores - len(self.sizes), tuple(bonds), tuple(cuts)), tuple(ranks)


def _members(modes: int) -> Iterator[int]:
    while modes:
        lowest = modes & -modes
        yield lowest.bit_length() - 1
        modes ^= lowest


def _subsets_with_lowest(modes: int, cuts: Mapping[int, CutPrices]) -> Iterator[int]:
    """Yield the proper subsets that hold the lowest mode, of the cuts alone where these are fewer."""
    lowest = modes & -modes
    others = modes ^ lowest
    if 1 << others.bit_count() > len(cuts):
        yield from (cut for cut in cuts if cut & lowest and cut & ~modes == 0 and cut != modes)
        return
    subset = others
    while subset:
        subset = (subset - 1) & others
        yield subset | lowest
