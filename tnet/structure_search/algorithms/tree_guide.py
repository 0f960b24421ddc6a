"""What the singular values of all cuts tell about trees: the promising ones, their ranks, and what none can beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tnet.structure_search.objective import FewestParams, LeastError, Objective, SizeAndError
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.spectra import CutSpectra
from tnet.structure_search.trees.ranks import Assignment, fewest_params, least_tails, ranks_at_price
from tnet.structure_search.trees.topology import CutPrices, Tree, cheapest_tree

__all__ = ["ErrorModel", "TreeGuide"]

_STEPS = 24  # of the search for the price of errors
_CLOSE = 0.005  # to the line between two trees: then it stops
_REMEMBERED = 4  # trees whose cost bounds that of the next one
_GROWTH = 8.0
_WIDEST = 1e30
_GRID = 13  # prices for an objective of which nothing is known
_PENALTIES = 6  # doublings of the price of internal cores until there are few enough


class ErrorModel(NamedTuple):
    r"""Predicts the squared relative error of ranks of a tree, :math:`o + \sum_e w_e t_e(r_e)` with tails t."""

    weights: np.ndarray
    offset: float = 0.0


@dataclass(eq=False)
class TreeGuide:
    """Tails of the cuts of one shape of the tensor, and the trees and ranks that they recommend.

    Parameters
    ----------
    spectra : CutSpectra
    objective : Objective
    space : SearchSpace
    max_degree : int or None
        Bonds of a core.
    """

    spectra: CutSpectra
    objective: Objective
    space: SearchSpace
    max_degree: int | None
    cuts: dict[int, CutPrices] = field(default_factory=dict)
    prices: dict[int | None, float] = field(default_factory=dict)  # at which the last search ended, by degree
    known: dict[Tree, None] = field(default_factory=dict)  # trees met, the last at the end

    def __post_init__(self) -> None:
        most = self.objective.rtol**2 if isinstance(self.objective, FewestParams) else math.inf
        everything = (1 << len(self.shape)) - 1
        for row, mask in enumerate(self.spectra.masks.tolist()):
            beyond = everything ^ mask if mask & 1 else mask
            side = self.spectra.side(mask)
            ranks = np.arange(1, min(side, self.space.max_rank) + 1)
            columns = np.minimum(ranks, self.spectra.tails.shape[1] - 1)
            tails = np.where(ranks < side, self.spectra.tails[row, columns], 0.0)
            last = int(np.argmax(tails <= 0.0)) + 1 if np.any(tails <= 0.0) else len(tails)
            fits = np.flatnonzero(tails[:last] <= most)
            if fits.size:
                self.cuts[beyond] = CutPrices(ranks[fits], tails[fits])

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the modes."""
        return self.spectra.shape

    def predicted(self, tree: Tree, ranks: Sequence[int], model: ErrorModel) -> float:
        """Return the squared relative error that the model expects."""
        return model.offset + float(np.dot(model.weights, self.tails(tree, ranks)))

    def tails(self, tree: Tree, ranks: Sequence[int]) -> np.ndarray:
        """Return the tail of every bond of a tree."""
        return np.array([self._tail(cut, rank) for cut, rank in zip(tree.cuts, ranks, strict=True)])

    def _tail(self, cut: int, rank: int) -> float:
        return self.spectra.tail(cut, rank) if rank < self.spectra.side(cut) else 0.0

    def is_known(self, tree: Tree) -> bool:
        """Return whether every bond of a tree is a cut whose singular values are known and allow some rank."""
        return all(cut in self.cuts for cut in tree.cuts)

    def ranks(self, tree: Tree, model: ErrorModel, *, is_exact: bool = True) -> Assignment | None:
        """Return the best ranks of a tree under the objective, as far as the model is right; None where none fit.

        ``tails`` of the result are weighted.
        """
        fixed = {bond[:2]: bond[2] for bond in self.space.fixed if bond[2] > 1}
        choices = []
        for bond, cut, weight in zip(tree.bonds, tree.cuts, model.weights, strict=True):
            ranks, tails = self.cuts[cut]
            wanted = fixed.get((min(bond), max(bond)))
            if wanted is not None:
                ranks, tails = np.array([wanted]), np.array([self._tail(cut, wanted)])
            choices.append(CutPrices(ranks, weight * tails))
        match self.objective:
            case FewestParams():
                return fewest_params(tree, choices, self.objective.rtol**2 - model.offset, is_exact=is_exact)
            case LeastError():
                return least_tails(tree, choices, self.objective.max_params, is_exact=is_exact)
            case SizeAndError():
                return self._at_own_price(lambda price: ranks_at_price(tree, choices, price))
            case _:
                found = (ranks_at_price(tree, choices, price) for price in self._grid())
                return min(found, key=lambda a: self._score(tree, a, model.offset + a.tails))

    def _score(self, tree: Tree, found: Assignment, rse: float) -> float:
        return self.objective.score(tree.structure(found.ranks), rse)

    def _at_own_price(self, solve: Callable[[float], Assignment]) -> Assignment:
        """Return the best ranks for size + weight * error; the logarithm of the size has the slope 1 / size.

        A logarithm lies below its tangents, so that going down along them ends in a local optimum; it is begun at
        several sizes.
        """
        assert isinstance(self.objective, SizeAndError)
        weight, entries = self.objective.weight, math.prod(self.shape)
        if self.objective.size == "ratio":
            return solve(weight * entries)
        found: dict[tuple[int, ...], Assignment] = {}
        for start in np.geomspace(sum(self.shape), entries, 4):
            params = float(start)
            for _ in range(10):
                best = solve(weight * params)
                if best.ranks in found:
                    break
                found[best.ranks] = best
                params = best.n_params
        return min(found.values(), key=lambda a: math.log(a.n_params) + weight * a.tails)

    def exchange_rate(self, tree: Tree, ranks: Sequence[int]) -> float:
        """Return the median over the bonds of the parameters that one rank less saves per tail that it adds."""
        n_params = tree.structure(ranks).n_params
        rates = []
        for e, (cut, rank) in enumerate(zip(tree.cuts, ranks, strict=True)):
            if rank > 1:
                saved = n_params - tree.structure([r - (k == e) for k, r in enumerate(ranks)]).n_params
                rates.append(saved / max(self._tail(cut, rank - 1) - self._tail(cut, rank), 1e-300))
        return float(np.median(rates)) if rates else float(sum(self.shape))

    def cheapest(self, trees: Sequence[Tree], price: float) -> list[Tree]:
        """Return the trees in ascending order of their least parameters + price * tails."""
        costs = []
        for tree in trees:
            found = ranks_at_price(tree, [self.cuts[cut] for cut in tree.cuts], price)
            costs.append(found.n_params + price * found.tails)
        return [trees[k] for k in np.argsort(costs, kind="stable")]

    def topologies(self, slack: float, degree: int | None = None) -> list[tuple[Tree, tuple[int, ...]]]:
        """Return trees that are best at some price of errors near the right one, the nearest first.

        Parameters
        ----------
        slack : float
            True errors are expected to be so many times less than the sum of tails.
        degree : int, optional
            Most bonds of a core, where fewer are wanted than the space allows.
        """
        match self.objective:
            case FewestParams():
                limit = slack * self.objective.rtol**2
                return self._around(lambda n_params, tails: tails <= limit, degree)
            case LeastError():
                most = self.objective.max_params
                return self._around(lambda n_params, tails: n_params > most, degree)
            case SizeAndError(size="ratio"):
                found = [self.best_tree(self.objective.weight * math.prod(self.shape) / slack, degree)]
            case _:
                found = [self.best_tree(price / slack, degree) for price in self._grid()]
        return [one for one in found if one is not None]

    def _grid(self) -> list[float]:
        return np.geomspace(sum(self.shape), 100.0 * math.prod(self.shape), _GRID).tolist()

    def _around(
        self, is_dear: Callable[[float, float], bool], degree: int | None
    ) -> list[tuple[Tree, tuple[int, ...]]]:
        """Return the trees on the convex hull of (tails, parameters) near where dear ones begin, the last met first.

        The line through the cheap and the dear one names the next price, until no tree lies below it.
        """
        price = self.prices.get(degree, float(sum(self.shape)))
        growth = _GROWTH if degree not in self.prices else math.sqrt(_GROWTH)
        met: dict[tuple[Tree, tuple[int, ...]], None] = {}
        ends: dict[bool, tuple[float, float]] = {}
        for _ in range(_STEPS):
            found = self.best_tree(price, degree)
            if found is None:
                return []
            met.pop(found, None)
            met[found] = None
            here = (float(found[0].structure(found[1]).n_params), float(np.sum(self.tails(*found))))
            known = len(ends) == 2
            line = ends[True][0] + price * ends[True][1] if known else math.inf
            if is_dear(*here):
                self.prices[degree] = price
            if known and here[0] + price * here[1] >= line * (1 - _CLOSE):
                break
            ends[is_dear(*here)] = here
            if len(ends) < 2:
                price = price / growth if True in ends else price * growth
            else:
                price = (ends[True][0] - ends[False][0]) / max(ends[False][1] - ends[True][1], 1e-300)
            if not 1 / _WIDEST < price < _WIDEST:
                break
        return list(met)[::-1]

    def best_tree(
        self, price: float, degree: int | None = None, noise: Mapping[int, float] | None = None
    ) -> tuple[Tree, tuple[int, ...]] | None:
        """Return the tree of all with the least parameters + price * sum of tails; None where no tree is possible.

        Parameters
        ----------
        price : float
        degree : int, optional
            Most bonds of a core.
        noise : mapping, optional
            Factors of the tails, by cut.
        """
        factors = {} if noise is None else noise
        cuts = {cut: CutPrices(ranks, price * factors.get(cut, 1.0) * t) for cut, (ranks, t) in self.cuts.items()}
        degrees = [d for d in (degree, self.max_degree) if d is not None]
        found = self._few_internal(cuts, min(degrees, default=None))
        if found is not None:
            self.known.pop(found[0], None)
            self.known[found[0]] = None
        return found

    def _few_internal(self, cuts: Mapping[int, CutPrices], degree: int | None) -> tuple[Tree, tuple[int, ...]] | None:
        """Return the cheapest tree with at most the allowed internal cores; they get dearer until it is so."""
        most, charge = self.space.n_internal, 0.0
        for attempt in range(_PENALTIES + 1):
            if not most or attempt == _PENALTIES:
                charge = math.inf
            try:
                cost, tree, ranks = cheapest_tree(
                    self.shape,
                    cuts,
                    max_degree=degree,
                    internal_price=charge,
                    at_most=self._known_cost(cuts, degree, charge),
                )
            except ValueError:
                return None
            if math.isinf(charge) or tree.structure(ranks).canonical().n_internal <= most:
                return tree, ranks
            charge = 2 * charge if charge else 0.02 * cost
        return None

    def _known_cost(self, cuts: Mapping[int, CutPrices], degree: int | None, charge: float) -> float:
        """Return the least cost of the trees met last, with the best ranks for these prices."""
        least = math.inf
        for tree in [*self.known][-_REMEMBERED:]:
            if (tree.n_internal and math.isinf(charge)) or (degree is not None and tree.degree > degree):
                continue
            found = ranks_at_price(tree, [cuts[cut] for cut in tree.cuts], 1.0)
            cost = found.n_params + found.tails + (tree.n_internal * charge if tree.n_internal else 0.0)
            least = min(least, cost * (1 + 1e-9))
        return least

    def bound(self) -> float | None:
        r"""Return a score that no tree of the space has less; None where the cuts are not all known.

        Notes
        -----
        With a squared relative error of at most t each bond has at least the rank at which the tail of its cut is t.
        The least number of parameters of all trees with these ranks, P(t), falls with t. So the score is at least
        P(rtol^2) for the fewest parameters, the least t with P(t) within the budget for the least error, and
        :math:`\min_t P(t) + \lambda t` for the sum, which is bracketed on intervals of t.
        """
        if len(self.spectra.masks) < 2 ** (len(self.shape) - 1) - 1:
            return None
        entries = math.prod(self.shape)
        match self.objective:
            case FewestParams():
                least = self._least_params(self.objective.rtol**2)
                return None if math.isinf(least) else least / entries
            case LeastError():
                low, high = 0.0, 1.0
                if self._least_params(low) <= self.objective.max_params:
                    return low
                while high - low > 1e-4 * high:
                    middle = (low + high) / 2
                    low, high = (
                        (middle, high) if self._least_params(middle) > self.objective.max_params else (low, middle)
                    )
                return low
            case SizeAndError():
                return self._bound_of_sum(self.objective)
            case _:
                return None

    def _least_params(self, rse: float) -> float:
        """Return the fewest parameters of a tree whose cuts all have tails of at most ``rse``; inf where none is."""
        cuts = {}
        for cut, (ranks, tails) in self.cuts.items():
            fits = np.flatnonzero(tails <= rse)
            if fits.size:
                cuts[cut] = CutPrices(ranks[fits[:1]], np.zeros(1))
        charge = 0.0 if self.space.n_internal else math.inf
        try:
            return cheapest_tree(self.shape, cuts, max_degree=self.max_degree, internal_price=charge)[0]
        except ValueError:
            return math.inf

    def _bound_of_sum(self, objective: SizeAndError) -> float:
        """Return a lower bound of size + weight * t over t in [0, 1] by halving intervals, the lowest first."""
        entries = math.prod(self.shape)

        def size(rse: float) -> float:
            params = self._least_params(rse) / entries
            return params if objective.size == "ratio" else math.log(params)

        known = {0.0: size(0.0), 1.0: size(1.0)}

        def below(ends: tuple[float, float]) -> float:
            return known[ends[1]] + (objective.weight * ends[0] if ends[0] >= objective.negligible else 0.0)

        intervals = [(0.0, 1.0)]
        for _ in range(40):
            lowest = min(intervals, key=below)
            start, end = lowest
            middle = end / 30 if start == 0.0 else math.sqrt(start * end)
            if end < 1e-12 or (start > 0.0 and end < 1.02 * start):
                break
            known[middle] = size(middle)
            intervals.remove(lowest)
            intervals += [(start, middle), (middle, end)]
        return min(below(ends) for ends in intervals)
