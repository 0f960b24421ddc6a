"""Several planners in turn, as long as planning pays: the anytime search behind ``planner="auto"``."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tnet.contraction.planners.annealing import anneal
from tnet.contraction.planners.elimination import by_elimination
from tnet.contraction.planners.greedy import random_greedy
from tnet.contraction.planners.linear import along_a_line
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.optimal import optimal
from tnet.contraction.planners.partition import by_partition
from tnet.contraction.planners.recombination import recombine
from tnet.contraction.planners.reconfigure import reconfigure
from tnet.contraction.planners.trees import Tree

__all__ = ["portfolio"]

_FIRST_TRIALS = 32
_TRIALS_A_START = 16
_MOST_OPTIMAL_OPERANDS = 24
_SHARE_OF_OPTIMAL = 0.2  # of the time left, for a search that may end without a tree

_RUNNERS = 8
_LAST_RUNNERS = 2
_FIRST_SWEEPS = 500
_SWEEPS_GROW = 4  # a heat has half the runners of the one before, and each goes further
_BETA = (0.5, 15.0)

_KICKS = 20
_KICK_SWEEPS = 300
_KICK_BETAS = ((4.0, 15.0), (2.5, 15.0))  # the next, hotter one when a round of kicks gains little
_HARD_KICK_BETA = (2.0, 15.0)  # for the best tree, after a race without a better one
_LITTLE = 0.01  # in log2

_LOG2_OF_PROMISE = 4.0
"""Kinds of trees whose first one costs more than 16 times the best, once both are polished, take no part in races."""

_LARGE_SUBTREE = 11


def portfolio(
    network: PlanningNetwork, *, seed: int, deadline_of: Callable[[float], float], start: Tree | None = None
) -> Tree:
    """Return the best tree that the planners find before it is good enough.

    Parameters
    ----------
    network : PlanningNetwork
        Connected, or not.
    seed : int
        One seed gives one sequence of searches; the clock decides how many of them are made.
    deadline_of : callable
        Given the base-2 logarithm of the multiply-adds of the best tree so far, the value of ``time.perf_counter()``
        at which it is good enough.
    start : Tree, optional
        A tree known already; the result is never worse.

    Returns
    -------
    Tree

    Notes
    -----
    1. Greedy trees with noise, then dynamic programming on up to 24 operands: a tree found by it ends the search.
    2. Trees of other kinds, each polished by reconfiguration: elimination orders, a line, partitions.
    3. Races, one after another until the deadline: 8 trees (greedy ones, of the other kinds those of promise,
       and the best so far in the first race) are annealed by few sweeps, the better half by 4 times as many, and so
       on to the last two. Short runs from many trees find a good region.
    4. The winner of a race is annealed from a low temperature, 20 times; the trees that come of it are recombined.
       Rounds of this kind find the floor of the region. They are repeated as long as they gain.
       After a race without a new best tree, the best one is kicked again, harder.

    Sources as named by the planners; races of this kind are successive halving, K. Jamieson and A. Talwalkar,
    "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016.
    """
    n = len(network.legs)
    if n < 2:
        return Tree(np.empty((0, 2), np.int32), -math.inf)
    seeds = _seeds(seed)
    best = Tree(np.empty((0, 2), np.int32), math.inf) if start is None else start

    def deadline() -> float:
        return deadline_of(best.log2_macs)

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
    field, kinds = [best], []
    for make in (along_a_line, by_partition, by_elimination):
        if time.perf_counter() >= deadline():
            return best
        tree = make(network, seed=next(seeds), deadline=deadline())
        tree = reconfigure(network, tree.pairs, seed=next(seeds), max_rounds=4, deadline=deadline())
        if tree.log2_macs < best.log2_macs + _LOG2_OF_PROMISE:
            field.append(tree)
            kinds.append(make)
        best = _cheaper(best, tree)
    starts = _starts(network, kinds[1:] if along_a_line in kinds else kinds, seeds, deadline)
    while time.perf_counter() < deadline():
        best = _race(network, field, best, starts, seeds, deadline)
        field = []
    return best


def _starts(
    network: PlanningNetwork,
    kinds: Sequence[Callable[..., Tree]],
    seeds: Iterator[int],
    deadline: Callable[[], float],
) -> Iterator[Tree]:
    """Yield trees to anneal: greedy ones, and every third of another kind."""
    others = itertools.cycle(kinds)
    for k in itertools.count():
        if kinds and k % 3 == 2:
            yield next(others)(network, seed=next(seeds), deadline=deadline())
        else:
            yield random_greedy(network, seed=next(seeds), n_trials=_TRIALS_A_START, deadline=deadline())


def _race(
    network: PlanningNetwork,
    field: Sequence[Tree],
    best: Tree,
    starts: Iterator[Tree],
    seeds: Iterator[int],
    deadline: Callable[[], float],
) -> Tree:
    """Anneal several trees, the better half of them further, kick the winner, and return the best of all."""
    sweeps, n_runners, runners = _FIRST_SWEEPS, _RUNNERS, itertools.chain(field, starts)
    while True:
        ended: list[Tree] = []
        for tree in itertools.islice(runners, n_runners):
            if time.perf_counter() >= deadline():
                return best
            tree = anneal(network, tree.pairs, seed=next(seeds), n_sweeps=sweeps, beta=_BETA, deadline=deadline())
            tree = reconfigure(network, tree.pairs, seed=next(seeds), max_rounds=2, deadline=deadline())
            ended.append(tree)
            best = _cheaper(best, tree)
        ended.sort(key=lambda tree: tree.log2_macs)
        if n_runners <= _LAST_RUNNERS:
            break
        n_runners //= 2
        runners = iter(ended[:n_runners])
        sweeps *= _SWEEPS_GROW
    polished = _kicked(network, ended[0], _KICK_BETAS, seeds, deadline)
    polished = reconfigure(
        network, polished.pairs, subtree_size=_LARGE_SUBTREE, seed=next(seeds), max_rounds=2, deadline=deadline()
    )
    if polished.log2_macs > best.log2_macs:
        polished = _kicked(network, best, (_HARD_KICK_BETA,), seeds, deadline)
    return _cheaper(best, polished)


def _kicked(
    network: PlanningNetwork,
    tree: Tree,
    betas: Sequence[tuple[float, float]],
    seeds: Iterator[int],
    deadline: Callable[[], float],
) -> Tree:
    """Anneal a tree lightly, many times, recombine what comes of it, and again as long as that gains."""
    for beta in betas:
        gain = math.inf
        while gain > _LITTLE:
            near = [tree]
            for _ in range(_KICKS):
                if time.perf_counter() >= deadline():
                    break
                seed, until = next(seeds), deadline()
                near.append(
                    anneal(
                        network, tree.pairs, seed=seed, n_sweeps=_KICK_SWEEPS, beta=beta, keep="last", deadline=until
                    )
                )
            found = recombine(network, near)
            found = reconfigure(network, found.pairs, seed=next(seeds), max_rounds=2, deadline=deadline())
            gain = tree.log2_macs - found.log2_macs
            tree = found
    return tree


def _cheaper(a: Tree, b: Tree) -> Tree:
    return b if b.log2_macs < a.log2_macs else a


def _seeds(seed: int) -> Iterator[int]:
    draws = np.random.default_rng(seed)
    while True:
        yield int(draws.integers(2**31))
