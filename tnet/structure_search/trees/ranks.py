"""The ranks of a fixed tree under a budget of parameters or of error: exact, by labels between Lagrangian bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tnet.structure_search.trees.lower_hull import Hull, least_at, lower_hull, products
from tnet.structure_search.trees.topology import CutPrices, Tree

__all__ = ["Assignment", "fewest_params", "least_tails", "ranks_at_price"]

_ROUNDS = 60  # of the search for the multiplier
_CLOSE = 1e-12  # relative distance from a line that counts as none
_MOST_LABELS = 2_000  # kept at a bond; beyond, only the most promising ones


class Assignment(NamedTuple):
    """Ranks of the bonds of a tree in its order, what they cost, and whether no others are better."""

    ranks: tuple[int, ...]
    n_params: int
    tails: float
    is_proven: bool


def fewest_params(
    tree: Tree, tails: Sequence[CutPrices], budget: float, *, is_exact: bool = True
) -> Assignment | None:
    r"""Return the ranks with the fewest parameters whose tails sum to at most ``budget``; None where there are none.

    Parameters
    ----------
    tree : Tree
    tails : sequence of CutPrices
        For each bond the ranks to choose from, ascending, and the squared relative error of cutting there.
    budget : float
    is_exact : bool
        False is content with the best solution met while the multiplier is found, lowered rank by rank.

    Notes
    -----
    The number of parameters, a sum of products of ranks, is linear in each single rank, so the Lagrangian relaxation

    .. math:: L(\lambda) = \min_r\; \sum_v I_v \prod_{e \ni v} r_e + \lambda \Big(\sum_e t_e(r_e) - B\Big)

    is solved exactly by one pass over the tree with lower convex hulls (:func:`products`), and a second pass tells
    for every bond and rank how good a solution through it may be. Between the greatest :math:`L` and the best
    solution met on the way lie few ranks. They are enumerated from the leaves on: a label (parameters, tails) at a
    rank of a bond dies if another is no worse in both, or if its bound reaches the best solution. A linear integer
    programme would need the logarithms of the products, which the sum over cores does not allow, or one binary
    variable for each combination of ranks around a core.
    """
    return _Ranks(tree, tails).solve(budget, tails_are_bounded=True, is_exact=is_exact)


def least_tails(
    tree: Tree, tails: Sequence[CutPrices], max_params: int, *, is_exact: bool = True, most_labels: int = _MOST_LABELS
) -> Assignment | None:
    """Return the ranks with the least sum of tails within ``max_params``, by the same method; None where none fit.

    Up to ``most_labels`` labels are kept at a bond; where that is too few, the assignment is not proven.
    """
    return _Ranks(tree, tails, most_labels).solve(float(max_params), tails_are_bounded=False, is_exact=is_exact)


def ranks_at_price(tree: Tree, tails: Sequence[CutPrices], price: float) -> Assignment:
    """Return the ranks with the least parameters + price * sum of tails."""
    return _Ranks(tree, tails).relaxed(price)


class _Labels(NamedTuple):
    """Partial solutions beyond a bond: rank of the bond, parameters, tails, and the labels they consist of."""

    ranks: np.ndarray
    params: np.ndarray
    tails: np.ndarray
    parts: np.ndarray


class _Ranks:
    """A tree with its choices of ranks, and passes over it. Bond e leads to core ``tree.bonds[e][1]``."""

    def __init__(self, tree: Tree, tails: Sequence[CutPrices], most_labels: int = _MOST_LABELS) -> None:
        self.tree = tree
        self.most_labels = most_labels
        self.ranks = [choice.ranks.astype(float) for choice in tails]
        self.tails = [choice.prices for choice in tails]
        n_cores = len(tree.shape) + tree.n_internal
        self.size = [float(n) for n in tree.shape] + [1.0] * tree.n_internal
        self.below: list[list[int]] = [[] for _ in range(n_cores)]
        for e, (parent, _) in enumerate(tree.bonds):
            self.below[parent].append(e)
        self.above: list[int | None] = [None] * n_cores
        for e, (_, child) in enumerate(tree.bonds):
            self.above[child] = e

    def solve(self, budget: float, *, tails_are_bounded: bool, is_exact: bool) -> Assignment | None:
        """Return the best ranks within a budget of tails or of parameters."""
        if not self.tree.bonds:
            return self._assignment(())

        def excess(found: Assignment) -> float:
            return (found.tails if tails_are_bounded else found.n_params) - budget

        def goal(found: Assignment) -> float:
            return found.n_params if tails_are_bounded else found.tails

        extreme = [len(r) - 1 if tails_are_bounded else 0 for r in self.ranks]
        best = self._assignment(extreme)
        if excess(best) > 0:
            return None
        price, best = self._multiplier(best, excess, goal, tails_are_bounded)
        return self._enumerate(price, budget, best, tails_are_bounded) if is_exact else best._replace(is_proven=False)

    def _multiplier(
        self,
        best: Assignment,
        excess: Callable[[Assignment], float],
        goal: Callable[[Assignment], float],
        tails_are_bounded: bool,
    ) -> tuple[float, Assignment]:
        """Return the price of tails at which the relaxation bounds best, and the best solution met on the way.

        The line through a solution that fits and one that does not names the next price; when no solution lies
        below it, it touches the convex hull of all (tails, params) where the budget cuts it.
        """
        dear = self._assignment([len(r) - 1 for r in self.ranks])  # many parameters, small tails
        cheap = self._assignment([0] * len(self.ranks))
        price = 0.0
        for _ in range(_ROUNDS):
            if dear.tails >= cheap.tails:
                break
            price = (dear.n_params - cheap.n_params) / (cheap.tails - dear.tails)
            found = self.relaxed(price)
            fits = excess(found) <= 0
            if fits and goal(found) < goal(best):
                best = found
            value, line = found.n_params + price * found.tails, dear.n_params + price * dear.tails
            if value >= line - _CLOSE * abs(line):
                break
            if fits == tails_are_bounded:
                dear = found
            else:
                cheap = found
        best = self._trimmed(best, excess) if tails_are_bounded else self._filled(best, excess)
        return price, best

    def relaxed(self, price: float) -> Assignment:
        """Return the ranks with the least parameters + price * tails."""
        tables, hulls = self._inward(price)
        chosen = [0] * len(self.ranks)
        ahead: list[tuple[int, float]] = [(0, self.size[0])]
        while ahead:
            core, slope = ahead.pop()
            below = self.below[core]
            if not below:
                continue
            table = tables[core]
            point = int(least_at(table, np.array([slope]))[1][0])
            for e, place in zip(below, table.picks[point], strict=True):
                chosen[e] = int(hulls[e].picks[place, 0])
                child = self.tree.bonds[e][1]
                ahead.append((child, self.size[child] * self.ranks[e][chosen[e]]))
        return self._assignment(chosen)

    def _inward(self, price: float) -> tuple[list[Hull], list[Hull]]:
        """Return for each core the products of the bonds away from core 0, for each bond its hull seen from there."""
        tables: list[Hull | None] = [None] * len(self.below)
        hulls: list[Hull | None] = [None] * len(self.ranks)
        for e in reversed(range(len(self.ranks))):
            child = self.tree.bonds[e][1]
            tables[child] = products([hulls[b] for b in self.below[child]])  # type: ignore[misc]
            values, _ = least_at(tables[child], self.size[child] * self.ranks[e])  # type: ignore[arg-type]
            hulls[e] = _hull_of(self.ranks[e], values + price * self.tails[e])
        tables[0] = products([hulls[e] for e in self.below[0]])  # type: ignore[misc]
        return tables, hulls  # type: ignore[return-value]

    def _outward(self, price: float, hulls: Sequence[Hull]) -> list[np.ndarray]:
        """Return for each bond and rank the least cost of all that lies on the side of core 0, without its tail."""
        outside: list[np.ndarray] = [np.zeros(0)] * len(self.ranks)
        for e, (parent, _) in enumerate(self.tree.bonds):
            others = [hulls[b] for b in self.below[parent] if b != e]
            up = self.above[parent]
            if up is not None:
                others.append(_hull_of(self.ranks[up], outside[up] + price * self.tails[up]))
            outside[e] = least_at(products(others), self.size[parent] * self.ranks[e])[0]
        return outside

    def _enumerate(self, price: float, budget: float, best: Assignment, tails_are_bounded: bool) -> Assignment:
        """Return the best solution of all, by labels whose bound is below that of the best known one."""
        _, hulls = self._inward(price)
        outside = self._outward(price, hulls)
        # Labels with params + price * tails + (bound of the rest) of at least `limit` cannot lead to a better one.
        if tails_are_bounded:
            limit = best.n_params - 1 + price * budget
            limit += 1e-9 * max(1.0, abs(limit))
        else:
            limit = budget + price * best.tails
        labels: list[_Labels | None] = [None] * len(self.ranks)
        is_proven = True
        for e in reversed(range(len(self.ranks))):
            child = self.tree.bonds[e][1]
            up = _hull_of(self.ranks[e], outside[e] + price * self.tails[e])
            parts, is_whole = self._combined(child, [up], hulls, labels, price, budget, limit, tails_are_bounded)
            is_proven = is_proven and is_whole
            ends = self._ended(parts, self.ranks[e], self.tails[e], self.size[child])
            bound = np.take(outside[e], ends.parts[:, -1]) + ends.params + price * ends.tails
            cost = ends.tails if tails_are_bounded else ends.params
            kept = _undominated(ends, (bound < limit) & (cost <= budget))
            if len(kept) > self.most_labels:
                is_proven = False
                kept = np.sort(kept[np.argsort(bound[kept], kind="stable")[: self.most_labels]])
            labels[e] = _taken(ends, kept)
        parts, is_whole = self._combined(0, [], hulls, labels, price, budget, limit, tails_are_bounded)
        is_proven = is_proven and is_whole
        params = parts.params + self.size[0] * parts.ranks
        cost, goal = (parts.tails, params) if tails_are_bounded else (params, parts.tails)
        fits = np.flatnonzero(cost <= budget)
        if fits.size == 0:
            return best._replace(is_proven=is_proven)
        winner = int(fits[np.lexsort((cost[fits], goal[fits]))[0]])
        if not (goal[winner] < (best.n_params if tails_are_bounded else best.tails)):
            return best._replace(is_proven=is_proven)
        chosen = [0] * len(self.ranks)
        ahead = [(0, parts.parts[winner])]
        while ahead:
            core, picks = ahead.pop()
            for e, label in zip(self.below[core], picks, strict=False):
                found = labels[e]
                assert found is not None
                chosen[e] = int(found.parts[label, -1])
                ahead.append((self.tree.bonds[e][1], found.parts[label, :-1]))
        return self._assignment(chosen)._replace(is_proven=is_proven)

    def _combined(
        self,
        core: int,
        up: list[Hull],
        hulls: Sequence[Hull],
        labels: Sequence[_Labels | None],
        price: float,
        budget: float,
        limit: float,
        tails_are_bounded: bool,
    ) -> tuple[_Labels, bool]:
        """Return the combinations of labels of the bonds below a core that may still win, and whether these are all.

        Their ranks hold the products.
        """
        is_whole = True
        state = _Labels(np.ones(1), np.zeros(1), np.zeros(1), np.zeros((1, 0), dtype=np.int64))
        below = self.below[core]
        for k, e in enumerate(below):
            added = labels[e]
            assert added is not None
            rest = products([*(hulls[b] for b in below[k + 1 :]), *up])
            pieces = []
            step = max(1, _MOST_LABELS * 200 // max(1, len(added.ranks)))
            for start in range(0, max(1, len(state.ranks)), step):
                piece = _crossed(_taken(state, slice(start, start + step)), added)
                bound = piece.params + price * piece.tails
                bound = bound + _least_at_many(rest, self.size[core] * piece.ranks)
                cost = piece.tails if tails_are_bounded else piece.params
                alive = (bound < limit) & (cost <= budget)
                pieces.append(_taken(piece, _undominated(piece, alive)))
            joined = _Labels(*(np.concatenate(fields) for fields in zip(*pieces, strict=True)))
            state = _taken(joined, _undominated(joined, np.ones(len(joined.ranks), dtype=bool)))
            if len(state.ranks) > self.most_labels:
                is_whole = False
                bound = state.params + price * state.tails + _least_at_many(rest, self.size[core] * state.ranks)
                state = _taken(state, np.sort(np.argsort(bound, kind="stable")[: self.most_labels]))
        return state, is_whole

    @staticmethod
    def _ended(parts: _Labels, ranks: np.ndarray, tails: np.ndarray, size: float) -> _Labels:
        """Return the labels of a bond of any rank above the combinations at its core; the rank's index goes last."""
        n, m = len(parts.ranks), len(ranks)
        index = np.tile(np.arange(m), n)
        params = np.repeat(parts.params, m) + size * np.multiply.outer(parts.ranks, ranks).ravel()
        tails = np.add.outer(parts.tails, tails).ravel()
        picks = np.concatenate([np.repeat(parts.parts, m, axis=0), index[:, None]], axis=1)
        return _Labels(np.tile(ranks, n), params, tails, picks)

    def _assignment(self, chosen: Sequence[int]) -> Assignment:
        ranks = [int(self.ranks[e][place]) for e, place in enumerate(chosen)]
        sizes = list(self.size)
        for (parent, child), rank in zip(self.tree.bonds, ranks, strict=True):
            sizes[parent] *= rank
            sizes[child] *= rank
        tails = math.fsum(float(self.tails[e][place]) for e, place in enumerate(chosen))
        return Assignment(tuple(ranks), round(sum(sizes)), tails, True)

    def _places(self, found: Assignment) -> list[int]:
        return [int(np.searchsorted(self.ranks[e], rank)) for e, rank in enumerate(found.ranks)]

    def _trimmed(self, found: Assignment, excess: Callable[[Assignment], float]) -> Assignment:
        """Lower single ranks, each time the one that saves most, while the tails allow it."""
        while True:
            chosen = self._places(found)
            lower = [self._assignment(_changed(chosen, e, -1)) for e, place in enumerate(chosen) if place > 0]
            fits = [other for other in lower if excess(other) <= 0]
            if not fits:
                return found
            found = min(fits, key=lambda other: (other.n_params, other.tails))

    def _filled(self, found: Assignment, excess: Callable[[Assignment], float]) -> Assignment:
        """Raise single ranks, each time the one that gains most for its parameters, while these allow it."""
        while True:
            chosen = self._places(found)
            higher = [
                self._assignment(_changed(chosen, e, 1))
                for e, place in enumerate(chosen)
                if place + 1 < len(self.ranks[e])
            ]
            here = found
            fits = [other for other in higher if excess(other) <= 0 and other.tails < here.tails]
            if not fits:
                return found
            found = max(fits, key=lambda other: (here.tails - other.tails) / (other.n_params - here.n_params + 1e-9))


def _changed(chosen: Sequence[int], e: int, step: int) -> list[int]:
    return [place + step * (e == k) for k, place in enumerate(chosen)]


def _hull_of(ranks: np.ndarray, costs: np.ndarray) -> Hull:
    kept = lower_hull(ranks, costs)
    return Hull(ranks[kept], costs[kept], kept[:, None])


def _least_at_many(hull: Hull, slopes: np.ndarray) -> np.ndarray:
    """Return the least values at many slopes, which repeat."""
    distinct, place = np.unique(slopes, return_inverse=True)
    return least_at(hull, distinct)[0][place]


def _crossed(state: _Labels, added: _Labels) -> _Labels:
    """Return all pairs of labels; the index of the second goes last."""
    n, m = len(state.ranks), len(added.ranks)
    index = np.tile(np.arange(m), n)
    return _Labels(
        np.multiply.outer(state.ranks, added.ranks).ravel(),
        np.add.outer(state.params, added.params).ravel(),
        np.add.outer(state.tails, added.tails).ravel(),
        np.concatenate([np.repeat(state.parts, m, axis=0), index[:, None]], axis=1),
    )


def _taken(labels: _Labels, kept: np.ndarray | slice) -> _Labels:
    return _Labels(labels.ranks[kept], labels.params[kept], labels.tails[kept], labels.parts[kept])


def _undominated(labels: _Labels, alive: np.ndarray) -> np.ndarray:
    """Return the indices of live labels than which none of the same rank is as good in both respects."""
    index = np.flatnonzero(alive)
    index = index[np.lexsort((labels.tails[index], labels.params[index], labels.ranks[index]))]
    if index.size == 0:
        return index
    _, group = np.unique(labels.ranks[index], return_inverse=True)
    # Within a group the least tails so far: shift the groups apart, later ones lower, so that one scan does all.
    tails = labels.tails[index]
    span = float(tails.max() - tails.min())
    shifted = tails - group * span
    least_before = np.concatenate([[math.inf], np.minimum.accumulate(shifted)[:-1]])
    first = np.concatenate([[True], group[1:] != group[:-1]])
    return index[first | (shifted < least_before)]
