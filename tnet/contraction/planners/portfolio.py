"""Several planners in turn, as long as planning pays: the anytime search behind ``planner="auto"``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tnet.contraction.planners.annealing import anneal
from tnet.contraction.planners.elimination import by_elimination
from tnet.contraction.planners.greedy import random_greedy
from tnet.contraction.planners.linear import along_a_line
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.optimal import optimal
from tnet.contraction.planners.partition import by_partition
from tnet.contraction.planners.reconfigure import reconfigure
from tnet.contraction.planners.trees import Tree

__all__ = ["Budget", "portfolio"]

_FIRST_TRIALS = 32
_TRIALS_A_START = 4
_MOST_OPTIMAL_OPERANDS = 24
_SHARE_OF_OPTIMAL = 0.2  # of the time left, for a search that may end without a tree

_RUNNERS = 8
_FIRST_SWEEPS = 500
_SWEEPS_GROW = 4  # a heat has half the runners of the one before, and each goes further
_BETA = (0.5, 15.0)
_KICK_BETA = (3.0, 20.0)

_SECONDS_FOR_LARGE_SUBTREES = 0.5
_LARGE_SUBTREE = 12


class Budget(NamedTuple):
    """How long planning may take: a ceiling, and a share of the time that the contraction will take.

    Parameters
    ----------
    started : float
        Value of ``time.perf_counter()``.
    ceiling : float
        Seconds.
    share : float or None
        Of the predicted seconds; None uses the ceiling up.
    floor : float
        Seconds that are spent at least where ``share`` is given.
    log2_rate : float
        Base-2 logarithm of the multiply-adds a second.
    """

    started: float
    ceiling: float
    share: float | None
    floor: float
    log2_rate: float

    def deadline(self, log2_macs: float) -> float:
        """Return the value of ``time.perf_counter()`` at which a plan of that cost is good enough."""
        if self.share is None:
            return self.started + self.ceiling
        predicted = 2.0 ** min(log2_macs - self.log2_rate, 60.0)
        return self.started + min(self.ceiling, max(self.floor, self.share * predicted))


def portfolio(network: PlanningNetwork, *, seed: int, budget: Budget, start: Tree | None = None) -> Tree:
    """Return the best tree that the planners find within a budget.

    Parameters
    ----------
    network : PlanningNetwork
        Connected, or not.
    seed : int
        One seed gives one sequence of searches; the budget decides how many of them are made.
    budget : Budget
    start : Tree, optional
        A tree known already; the result is never worse.

    Returns
    -------
    Tree

    Notes
    -----
    1. Greedy trees with noise, then dynamic programming on up to 24 operands: a tree found by it ends the search.
    2. Trees of other kinds, each polished by reconfiguration: elimination orders, a line, partitions.
    3. Races, one after another until the budget is used: 8 trees (greedy, partitions, elimination) are annealed by
       few sweeps, the better half by 4 times as many, and so on to the last; the best tree of all is kept, and takes
       part. Short runs from many trees find a good region; a long run there finds its floor.

    Sources as named by the planners; races of this kind are successive halving, K. Jamieson and A. Talwalkar,
    "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016.
    """
    n = len(network.legs)
    if n < 2:
        return Tree(np.empty((0, 2), np.int32), -math.inf)
    seeds = _seeds(seed)
    best = Tree(np.empty((0, 2), np.int32), math.inf) if start is None else start
    deadline = _deadline_of(budget, lambda: best.log2_macs)
    best = _cheaper(best, random_greedy(network, seed=next(seeds), n_trials=_FIRST_TRIALS, deadline=deadline()))
    if n == 2 or time.perf_counter() >= deadline():
        return best
    best = reconfigure(network, best.pairs, seed=next(seeds), max_rounds=4, deadline=deadline())
    if n <= _MOST_OPTIMAL_OPERANDS:
        left = deadline() - time.perf_counter()
        found = optimal(
            network, log2_cost_cap=best.log2_macs, deadline=time.perf_counter() + _SHARE_OF_OPTIMAL * left
        )
        if found is not None:
            return _cheaper(best, found)
    for make in (along_a_line, by_elimination, by_partition):
        if time.perf_counter() >= deadline():
            return best
        tree = make(network, seed=next(seeds), deadline=deadline())
        best = _cheaper(best, reconfigure(network, tree.pairs, seed=next(seeds), max_rounds=4, deadline=deadline()))
    lap = 0
    while time.perf_counter() < deadline():
        best = _race(network, best, seeds, lap, deadline)
        lap += 1
    return best


def _race(
    network: PlanningNetwork, best: Tree, seeds: Iterator[int], lap: int, deadline: Callable[[], float]
) -> Tree:
    """Anneal several trees, the better half further, and return the best of all."""
    field = [best]
    for k in range(_RUNNERS - 1):
        if time.perf_counter() >= deadline():
            break
        field.append(_start(network, (lap * (_RUNNERS - 1) + k) % 7, next(seeds), deadline()))
    sweeps = _FIRST_SWEEPS
    while field:
        for k, tree in enumerate(field):
            if time.perf_counter() >= deadline():
                return best
            beta = _KICK_BETA if tree is best else _BETA
            tree = anneal(network, tree.pairs, seed=next(seeds), n_sweeps=sweeps, beta=beta, deadline=deadline())
            tree = reconfigure(network, tree.pairs, seed=next(seeds), max_rounds=2, deadline=deadline())
            field[k] = tree
            best = _cheaper(best, tree)
        if len(field) == 1:
            break
        field = sorted(field, key=lambda tree: tree.log2_macs)[: len(field) // 2]
        sweeps *= _SWEEPS_GROW
    return best


def _start(network: PlanningNetwork, kind: int, seed: int, deadline: float) -> Tree:
    """Return a tree to anneal; every seventh is of the same kind."""
    if kind in (1, 4):
        return by_partition(network, seed=seed, deadline=deadline)
    if kind == 6:
        return by_elimination(network, seed=seed, deadline=deadline)
    return random_greedy(network, seed=seed, n_trials=_TRIALS_A_START, deadline=deadline)


def _cheaper(a: Tree, b: Tree) -> Tree:
    return b if b.log2_macs < a.log2_macs else a


def _seeds(seed: int) -> Iterator[int]:
    draws = np.random.default_rng(seed)
    while True:
        yield int(draws.integers(2**31))


def _deadline_of(budget: Budget, log2_macs: Callable[[], float]) -> Callable[[], float]:
    return lambda: budget.deadline(log2_macs())
