"""All structures of a space whose bound is below a score, by branch and bound on their ranks."""

from __future__ import annotations

import itertools

import numpy as np

from tnet.structure_search.algorithms.landscape import Landscape, Points

__all__ = ["all_below", "least_score"]

_BLOCK = 4096  # nodes looked at together
_PAIRED_UP_TO = 8  # modes; 105 partitions into pairs
_PERMUTED_UP_TO = 8  # modes; 40320 orders


def all_below(landscape: Landscape, score: float, *, max_nodes: int) -> Points | None:
    r"""Return every structure that may score less than ``score``, as far as bounds tell.

    Parameters
    ----------
    landscape : Landscape
    score : float
        Usually of the best structure known.
    max_nodes : int
        Partial assignments of ranks to look at.

    Returns
    -------
    Points or None
        None where ``max_nodes`` did not do, the seconds of the search are over, more than 8 modes may change places,
        or the objective is not known to grow with size and error.

    Notes
    -----
    Slots get their ranks one after another. Of all structures that agree on the first ones, none is smaller than with
    ranks 1 for the others, and none has a lower bound than with the largest ranks for the others: the size grows with
    every rank, and the bound falls. The size is bounded better by what cuts need: let :math:`R_S` be the least rank
    of the cut of the modes S from the rest with which an error can still win. The cores of S have the product
    :math:`\prod_{i \in S} P_i` of all their ranks, in which bonds inside S count twice, so

    .. math:: \sum_{i \in S} I_i P_i \ge |S| \Bigl(R_S \prod_{i \in S} I_i
              \prod_{e \subset S} r_e^2\Bigr)^{1 / |S|},

    by the inequality of the arithmetic and geometric mean. The best of several partitions of the modes counts.
    """
    if not landscape.is_monotone or not _are_few_orders(landscape):
        return None
    found: list[Points] = []
    left = max_nodes
    for order in _orders(landscape):
        tree = _Tree(landscape, order, score)
        ranks = tree.leaves(left)
        left -= tree.n_nodes
        if ranks is None:
            return None
        found.append(Points(ranks, np.broadcast_to(order, (len(ranks), len(order)))))
    points = Points(np.concatenate([p.ranks for p in found]), np.concatenate([p.order for p in found]))
    _, first = np.unique(np.array(landscape.keys(points), dtype=object), return_index=True)
    return points.part(np.sort(first))


def least_score(landscape: Landscape, score: float) -> float | None:
    """Return a lower bound of the scores of all structures, or ``score`` where none is below; None if not monotone.

    It is what :func:`all_below` knows before the first branch: the size that all cuts need together, and the error at
    the largest ranks.
    """
    if not landscape.is_monotone:
        return None
    low, high = landscape.points(landscape.lowest[None]), landscape.points(landscape.highest[None])
    if landscape.space.kind == "permutations":
        size, bound = landscape.n_params(low), np.zeros(1)
    else:
        size, bound = _SizeBound(landscape, score)(low), landscape.scores(high).bound
    return min(score, float(landscape.score_at(size, bound)[0]))


def _are_few_orders(landscape: Landscape) -> bool:
    return landscape.space.kind != "permutations" or landscape.n_modes <= _PERMUTED_UP_TO


def _orders(landscape: Landscape) -> list[np.ndarray]:
    """Return the orders of the modes that differ on the slots."""
    plain = np.arange(landscape.n_cores)
    if landscape.space.kind != "permutations":
        return [plain]
    seen: dict[frozenset[tuple[int, ...]], np.ndarray] = {}
    for order in itertools.permutations(range(landscape.n_modes)):
        places = frozenset(tuple(sorted((order[i], order[j]))) for i, j in landscape.slots.tolist())
        seen.setdefault(places, np.array(order))
    return list(seen.values())


class _SizeBound:
    """Lower bounds of the size of all structures whose ranks are at least some, and whose error can still win."""

    def __init__(self, landscape: Landscape, score: float) -> None:
        n = landscape.n_modes
        self.landscape = landscape
        partitions = _partitions(n)
        subsets = sorted({block for partition in partitions for block in partition})
        number = {subset: k for k, subset in enumerate(subsets)}
        members = np.array(subsets)[:, None] >> np.arange(landscape.n_cores) & 1
        self.members, self.count = members.astype(np.float64).T, members.sum(axis=1)
        self.inside = 2.0 * (members[:, landscape.first] * members[:, landscape.second]).T
        self.logs = np.log(landscape.sizes) @ self.members + np.log(_needed(landscape, subsets, score))
        self.alone = np.zeros(landscape.n_cores)
        self.alone[:n] = _needed(landscape, [1 << mode for mode in range(n)], score)
        self.partitions = [  # of equally many blocks: numbers of the blocks, shape (n_blocks, n_partitions)
            np.array([[number[block] for block in p] for p in partitions if len(p) == length]).T
            for length in sorted({len(p) for p in partitions})
        ]

    def __call__(self, points: Points) -> np.ndarray:
        """Return the bounds, given the least ranks."""
        ranks = self.landscape.pair_ranks(points)
        sizes = np.maximum(self.landscape.products_of(ranks), self.alone) * self.landscape.sizes
        mean = self.count * np.exp((np.log(ranks) @ self.inside + self.logs) / self.count)
        blocks = np.maximum(sizes @ self.members, mean).T
        modes = np.max([blocks[numbers].sum(axis=0).max(axis=0) for numbers in self.partitions], axis=0)
        return (modes + sizes[:, self.landscape.n_modes :].sum(axis=1)) * (1 - 1e-12)


def _partitions(n_modes: int) -> list[tuple[int, ...]]:
    """Return partitions of the modes, blocks as bits: all into two blocks, and into pairs."""
    everything = (1 << n_modes) - 1
    found = [(mask, everything ^ mask) for mask in range(1, 1 << (n_modes - 1))]
    if n_modes <= _PAIRED_UP_TO:
        found += [matching for matching in _matchings(tuple(range(n_modes))) if len(matching) > 1]
    return found


def _matchings(modes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return all partitions into pairs, with one mode alone where their number is odd."""
    if len(modes) <= 1:
        return [tuple(1 << mode for mode in modes)]
    first, rest = modes[0], modes[1:]
    found = []
    for place, other in enumerate(rest):
        found += [(1 << first | 1 << other, *tail) for tail in _matchings(rest[:place] + rest[place + 1 :])]
    if len(modes) % 2:
        found += [(1 << first, *tail) for tail in _matchings(rest)]
    return found


def _needed(landscape: Landscape, subsets: list[int], score: float) -> np.ndarray:
    """Return the least rank of the cut around each subset of the modes with which an error can beat the score."""
    if landscape.bounds is None:
        return np.ones(len(subsets))
    spectra = landscape.bounds.spectra
    ranks = spectra.needed_ranks(landscape.error_that_wins(score))
    rows = [spectra.row(subset) for subset in subsets]
    return np.array([1 if row is None else ranks[row] for row in rows])


class _Tree:
    """The assignments of ranks to slots in turn, for one order of the modes."""

    def __init__(self, landscape: Landscape, order: np.ndarray, score: float) -> None:
        self.landscape, self.order, self.score = landscape, order, score
        self.n_nodes = 0
        self.least_size = _SizeBound(landscape, score)
        self.highest = landscape.highest.copy()
        for slot in range(len(self.highest)):  # no rank that alone makes the structure too large
            most = int(self.highest[slot])
            ranks = np.repeat(landscape.lowest[None], most, axis=0)
            ranks[:, slot] = np.maximum(np.arange(1, most + 1), landscape.lowest[slot])
            fits = self._keep(ranks, np.where(np.arange(len(self.highest)) == slot, ranks, landscape.highest))
            self.highest[slot] = max(int(ranks[fits, slot].max(initial=1)), int(landscape.lowest[slot]))

    def leaves(self, max_nodes: int) -> np.ndarray | None:
        """Return the ranks of all structures that may win; None where there are too many nodes."""
        low, high = self.landscape.lowest, self.highest
        n_slots = len(low)
        stack = [(0, low[None, :0])]
        found = []
        while stack:
            depth, prefix = stack.pop()
            if depth == n_slots:
                found.append(prefix)
                continue
            values = np.arange(low[depth], high[depth] + 1)
            grown = np.concatenate(
                [np.repeat(prefix, len(values), axis=0), np.tile(values, len(prefix))[:, None]], axis=1
            )
            self.n_nodes += len(grown)
            if self.n_nodes > max_nodes or self.landscape.expired():
                return None
            least = np.concatenate([grown, np.repeat(low[None, depth + 1 :], len(grown), axis=0)], axis=1)
            most = np.concatenate([grown, np.repeat(high[None, depth + 1 :], len(grown), axis=0)], axis=1)
            grown = grown[self._keep(least, most)]
            step = max(1, _BLOCK // len(values))
            stack += [(depth + 1, grown[k : k + step]) for k in range(0, len(grown), step)]
        return np.concatenate(found) if found else np.empty((0, n_slots), dtype=np.int64)

    def _keep(self, least: np.ndarray, most: np.ndarray) -> np.ndarray:
        """Return which nodes may hold a structure that scores less."""
        orders = np.broadcast_to(self.order, (len(least), len(self.order)))
        low, high = Points(least, orders), Points(most, orders)
        keep = self.landscape.allowed(low)
        n_params = self.landscape.n_params(low)
        keep &= self.landscape.score_at(n_params, np.zeros(len(least))) < self.score
        if keep.any():
            n_params = self.least_size(low.part(keep))
            bounds = self.landscape.scores(high.part(keep)).bound
            keep[keep] = self.landscape.score_at(n_params, bounds) < self.score
        return keep
