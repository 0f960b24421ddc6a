"""The space of a search as arrays: many structures at once, scored by their size and the bound of their error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np

from tnet.structure_search.bounds import CutBounds, cut_bounds
from tnet.structure_search.objective import INFEASIBLE, FewestParams, LeastError, Objective, SizeAndError
from tnet.structure_search.proposals import Problem
from tnet.structure_search.spectra import CutSpectra
from tnet.structure_search.structure import Structure

__all__ = ["Landscape", "Points"]

# Beyond, there are more cuts and placements than thousands of structures can be held against.
_MOST_MODES, _MOST_INTERNAL = 12, 8


class Points(NamedTuple):
    """Many structures: ranks of the slots of the space, and the order of the modes on them.

    Parameters
    ----------
    ranks : array of int, shape (B, n_slots)
    order : array of int, shape (B, n_cores)
        Core ``order[b, k]`` stands where slots say k; it differs from 0, 1, ... for "permutations" only.
    """

    ranks: np.ndarray
    order: np.ndarray

    def part(self, places: np.ndarray | slice) -> Points:
        """Return some of the points."""
        return Points(self.ranks[places], self.order[places])

    @property
    def count(self) -> int:
        """Number of structures."""
        return len(self.ranks)


class Scores(NamedTuple):
    """What is known of points without solving for cores."""

    score: np.ndarray
    bound: np.ndarray
    n_params: np.ndarray


class Landscape:
    """All structures of a problem's space, for its own shape.

    Parameters
    ----------
    problem : Problem
        Where it has no spectra, all bounds are 0.
    """

    def __init__(self, problem: Problem) -> None:
        space, shape = problem.space, problem.shape
        self.objective, self.space, self.shape = problem.objective, space, shape
        self.expired = problem.expired
        self.n_modes, self.n_cores = len(shape), len(shape) + space.n_internal
        slots = space.pairs(self.n_modes)
        self.slots = np.array(slots, dtype=np.intp).reshape(-1, 2)
        self.first, self.second = np.triu_indices(self.n_cores, 1)
        self.pair_number = np.zeros((self.n_cores, self.n_cores), dtype=np.intp)
        self.pair_number[self.first, self.second] = np.arange(len(self.first))
        self.pair_number += self.pair_number.T
        fixed = {bond[:2]: bond[2] for bond in space.fixed}
        largest = [self._largest_rank(pair) for pair in slots]
        self.lowest = np.array([fixed.get(pair, 1) for pair in slots], dtype=np.int64)
        self.highest = np.array(
            [fixed.get(pair, most) for pair, most in zip(slots, largest, strict=True)], dtype=np.int64
        )
        self.sizes = np.array([*shape, *[1] * space.n_internal], dtype=np.float64)
        self.bounds: CutBounds | None = None
        has_cuts = isinstance(problem.spectra, CutSpectra) and problem.spectra.n_cuts > 0
        if has_cuts and space.n_internal <= _MOST_INTERNAL and len(shape) <= _MOST_MODES:
            self.bounds = cut_bounds(cast("CutSpectra", problem.spectra), space.n_internal)
        self.falling, self.rising = self._additions()
        self.swapped = self._swaps()
        self.renamings = self._renamings()

    def without_loops(self) -> Landscape:
        """Return the trees among the structures of this landscape of any bonds."""
        trees = copy(self)
        trees.space = replace(self.space, kind="trees")
        return trees

    def _largest_rank(self, pair: tuple[int, int]) -> int:
        """Return the rank beyond which a bond between two modes has no use: all that either side can send."""
        if self.space.kind == "permutations" or pair[1] >= self.n_modes:
            return self.space.max_rank
        total = math.prod(self.shape)
        return min(self.space.max_rank, max(total // self.shape[pair[0]], total // self.shape[pair[1]]))

    def _additions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return for each move the slot whose rank falls and the one whose rank rises; the last number is neither."""
        count = len(self.slots)
        moves = [(count, up) for up in range(count)] + [(down, count) for down in range(count)]
        moves += itertools.permutations(range(count), 2)
        found = np.array(moves, dtype=np.intp).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def _swaps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of slots with a common core, whose ranks may change places."""
        pairs = itertools.combinations(range(len(self.slots)), 2)
        found = [(a, b) for a, b in pairs if set(self.slots[a]) & set(self.slots[b])]
        array = np.array(found, dtype=np.intp).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def _renamings(self) -> np.ndarray:
        """Return the orders of slots in which two modes change places, where any slot may have any rank."""
        found = []
        if self.space.kind in ("free", "trees"):
            number = {tuple(pair): k for k, pair in enumerate(self.slots.tolist())}
            for i, j in itertools.combinations(range(self.n_modes), 2):
                renamed = {i: j, j: i}
                pairs = [tuple(sorted(renamed.get(core, core) for core in pair)) for pair in self.slots.tolist()]
                found.append(np.array([number[pair] for pair in pairs]))
        return np.array(found, dtype=np.intp).reshape(-1, len(self.slots))

    def pair_ranks(self, points: Points) -> np.ndarray:
        """Return the ranks of all pairs of cores, 1 where there is no slot: shape (B, n_pairs)."""
        ranks = np.ones((points.count, len(self.first)), dtype=np.int64)
        if self.space.kind == "permutations":
            ends = points.order[:, self.slots]
            np.put_along_axis(ranks, self.pair_number[ends[..., 0], ends[..., 1]], points.ranks, axis=1)
        else:
            ranks[:, self.pair_number[self.slots[:, 0], self.slots[:, 1]]] = points.ranks
        return ranks

    def scores(self, points: Points) -> Scores:
        """Return the least score that each structure can have, the bound of its error, and its size."""
        ranks = self.pair_ranks(points)
        bound = np.zeros(points.count) if self.bounds is None else self.bounds.of_pair_ranks(ranks)
        n_params = self.products_of(ranks) @ self.sizes
        return Scores(self._score(points, n_params, bound), bound, n_params)

    def tails(self, points: Points) -> np.ndarray:
        """Return the tail of every cut, shape (B, n_cuts); no cuts where there are no spectra."""
        if self.bounds is None:
            return np.zeros((points.count, 0))
        return self.bounds.cut_tails(self.pair_ranks(points))

    @property
    def is_monotone(self) -> bool:
        """Whether the score is known to be a function of size and error that falls with neither."""
        return type(self.objective) in (FewestParams, SizeAndError, LeastError)

    def score_of(self, points: Points, rse: np.ndarray) -> np.ndarray:
        """Return the score that structures have at these squared relative errors."""
        return self._score(points, self.n_params(points), rse)

    def score_at(self, n_params: np.ndarray, rse: np.ndarray) -> np.ndarray:
        """Return the score at a size and an error, of an objective that asks for no more."""
        return _scores(self.objective, n_params, math.prod(self.shape), rse, None)

    def n_params(self, points: Points) -> np.ndarray:
        """Return the entries of all cores."""
        return self.products_of(self.pair_ranks(points)) @ self.sizes

    def error_that_wins(self, score: float) -> float:
        """Return the largest squared relative error with which any structure can beat a score."""
        return max(0.0, self.objective.error_to_beat(self.space.smallest(self.shape), score))

    def products_of(self, ranks: np.ndarray) -> np.ndarray:
        """Return the product of the ranks of each core, of ranks of pairs; 0 for an internal core without bonds."""
        matrix = np.ones((len(ranks), self.n_cores, self.n_cores))
        matrix[:, self.first, self.second] = ranks
        matrix[:, self.second, self.first] = ranks
        products = matrix.prod(axis=2)
        products[:, self.n_modes :] *= products[:, self.n_modes :] > 1
        return products

    def _score(self, points: Points, n_params: np.ndarray, rse: np.ndarray) -> np.ndarray:
        return _scores(self.objective, n_params, math.prod(self.shape), rse, lambda k: self.structure(points, k))

    def structure(self, points: Points, place: int) -> Structure:
        """Return one of the points as a structure."""
        order = points.order[place, : self.n_modes].tolist() if self.space.kind == "permutations" else None
        return self.space.place(self.shape, points.ranks[place].tolist(), order)

    def point_of(self, structure: Structure) -> Points:
        """Return a structure of this shape, modes in their own order, as a point."""
        return self.points(np.array([[structure.rank(i, j) for i, j in self.slots.tolist()]], dtype=np.int64))

    def points(self, ranks: np.ndarray) -> Points:
        """Return points with these ranks of the slots, modes in their own order."""
        return Points(ranks, np.broadcast_to(np.arange(self.n_cores), (len(ranks), self.n_cores)))

    def random(self, count: int, rng: np.random.Generator) -> Points:
        """Return points with about half the bonds, most of rank 2, that meet the constraints."""
        n_slots = len(self.slots)
        density = rng.uniform(0.3, 0.8, (count, 1))
        ranks = np.where(rng.random((count, n_slots)) < density, 1 + rng.geometric(0.5, (count, n_slots)), 1)
        ranks = np.clip(ranks, self.lowest, self.highest)
        order = np.repeat(np.arange(self.n_cores)[None], count, axis=0)
        if self.space.kind == "permutations":
            order[:, : self.n_modes] = [rng.permutation(self.n_modes) for _ in range(count)]
        dropped = np.argsort(rng.random((count, n_slots)), axis=1)
        for turn in range(n_slots):
            points = Points(ranks, order)
            broken = ~(self.allowed(points) & self.narrow(points))
            if not broken.any():
                break
            slot = dropped[broken, turn]
            ranks[broken, slot] = self.lowest[slot]
        return Points(ranks, order)

    def keys(self, points: Points) -> list[bytes]:
        """Return what is equal for equal structures."""
        return [row.tobytes() for row in self.pair_ranks(points).astype(np.int32)]

    def narrow(self, points: Points) -> np.ndarray:
        """Return which points meet the constraint on the contraction width."""
        most = self.space.max_width
        if most is None:
            return np.ones(points.count, dtype=bool)
        good = np.log2(self.products_of(self.pair_ranks(points)).max(axis=1)) <= most
        for place in np.flatnonzero(good):
            good[place] = self.structure(points, int(place)).width <= most
        return good

    def allowed(self, points: Points) -> np.ndarray:
        """Return which points meet the constraints on degrees and loops; for the width see :meth:`narrow`."""
        good = np.ones(points.count, dtype=bool)
        if self.space.max_degree is None and self.space.kind != "trees":
            return good
        linked = np.zeros((points.count, self.n_cores, self.n_cores))
        linked[:, self.first, self.second] = self.pair_ranks(points) > 1
        linked += linked.swapaxes(1, 2)
        if self.space.max_degree is not None:
            good &= linked.sum(axis=2).max(axis=1) <= self.space.max_degree
        if self.space.kind == "trees":
            good &= _without_loops(linked)
        return good

    def neighbours(self, points: Points, place: int) -> Points:
        """Return the points one move away from one of the points."""
        row, order = points.ranks[place], points.order[place]
        down, up = np.append(row > self.lowest, True), np.append(row < self.highest, True)
        fits = down[self.falling] & up[self.rising]
        ranks = np.repeat(np.append(row, 0)[None], int(fits.sum()), axis=0)
        every = np.arange(len(ranks))
        ranks[every, self.falling[fits]] -= 1
        ranks[every, self.rising[fits]] += 1
        first, second = (slots[row[self.swapped[0]] != row[self.swapped[1]]] for slots in self.swapped)
        swapped = np.repeat(row[None], len(first), axis=0)
        swapped[np.arange(len(first)), first], swapped[np.arange(len(first)), second] = row[second], row[first]
        far = np.diag(row // 4 * (row >= 8))  # large ranks move by more than one as well
        far = far[far.any(axis=1)]
        others = np.concatenate([row + far, row - far, swapped, row[self.renamings]])
        others = others[
            ((others >= self.lowest) & (others <= self.highest)).all(axis=1) & (others != row).any(axis=1)
        ]
        ranks = np.concatenate([ranks[:, :-1], others])
        orders = np.broadcast_to(order, (len(ranks), len(order)))
        if self.space.kind == "permutations":
            pairs = np.array(list(itertools.combinations(range(self.n_modes), 2)))
            swapped = np.repeat(order[None], len(pairs), axis=0)
            every = np.arange(len(pairs))
            swapped[every, pairs[:, 0]], swapped[every, pairs[:, 1]] = order[pairs[:, 1]], order[pairs[:, 0]]
            ranks = np.concatenate([ranks, np.repeat(row[None], len(pairs), axis=0)])
            orders = np.concatenate([orders, swapped])
        found = Points(ranks, orders)
        found = found.part(self.allowed(found))
        return found.part(self.narrow(found))


def _without_loops(linked: np.ndarray) -> np.ndarray:
    """Return which of many graphs are forests: as many bonds as cores less the parts."""
    n = linked.shape[1]
    reach = linked + np.eye(n)
    for _ in range(max(1, math.ceil(math.log2(n)))):
        reach = (reach @ reach > 0).astype(np.float64)
    parts = (1 / reach.sum(axis=2)).sum(axis=1)
    return np.rint(linked.sum(axis=(1, 2)) / 2 + parts) == n


def _scores(
    objective: Objective,
    n_params: np.ndarray,
    n_entries: int,
    rse: np.ndarray,
    structure: Callable[[int], Structure] | None,
) -> np.ndarray:
    """Return ``objective.score`` of many structures; objectives that are not known here are asked one by one."""
    ratio = n_params / n_entries
    if type(objective) is FewestParams:
        limit = objective.rtol**2
        with np.errstate(divide="ignore"):
            return ratio + np.where(rse <= limit, 0.0, INFEASIBLE * (1 + np.log(rse / limit)))
    if type(objective) is SizeAndError:
        size = ratio if objective.size == "ratio" else np.log(ratio)
        return size + np.where(rse < objective.negligible, 0.0, objective.weight * rse)
    if type(objective) is LeastError:
        excess = n_params / objective.max_params
        return np.where(excess <= 1, rse, INFEASIBLE * excess + np.minimum(rse, 1.0))
    assert structure is not None
    return np.array([objective.score(structure(k), float(error)) for k, error in enumerate(rse)])
