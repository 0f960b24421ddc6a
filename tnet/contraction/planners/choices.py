"""The planners that can be chosen by name, each with a fixed amount of work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from tnet.contraction.planners.annealing import anneal
from tnet.contraction.planners.elimination import by_elimination
from tnet.contraction.planners.greedy import random_greedy
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.partition import by_partition
from tnet.contraction.planners.reconfigure import reconfigure
from tnet.contraction.planners.trees import Tree

__all__ = ["TREES"]

_GREEDY_TRIALS = 128
_ANNEALED = 8
_SWEEPS = 2000
_PARTITIONS = 16
_ORDERS = 4
_ROUNDS = 8


def _random_greedy(network: PlanningNetwork, seed: int, deadline: float) -> Tree:
    return random_greedy(network, seed=seed, n_trials=_GREEDY_TRIALS, deadline=deadline)


def _annealing(network: PlanningNetwork, seed: int, deadline: float) -> Tree:
    def make(k: int, seed: int) -> Tree:
        start = random_greedy(network, seed=seed, n_trials=4, deadline=deadline)
        return anneal(network, start.pairs, seed=seed, n_sweeps=_SWEEPS, deadline=deadline)

    return _best_of(network, make, _ANNEALED, seed, deadline)


def _partition(network: PlanningNetwork, seed: int, deadline: float) -> Tree:
    def make(k: int, seed: int) -> Tree:
        return by_partition(network, seed=seed, deadline=deadline)

    return _best_of(network, make, _PARTITIONS, seed, deadline)


def _elimination(network: PlanningNetwork, seed: int, deadline: float) -> Tree:
    def make(k: int, seed: int) -> Tree:
        order = "min-degree" if k % 2 else "min-fill"
        return by_elimination(network, seed=seed, order=order, deadline=deadline)

    return _best_of(network, make, _ORDERS, seed, deadline)


TREES: Mapping[str, Callable[[PlanningNetwork, int, float], Tree]] = {
    "random-greedy": _random_greedy,
    "annealing": _annealing,
    "partition": _partition,
    "elimination": _elimination,
}
"""Functions of a network, a seed and a deadline; all but greedy trees are polished by reconfiguration."""


def _best_of(
    network: PlanningNetwork, make: Callable[[int, int], Tree], n_trees: int, seed: int, deadline: float
) -> Tree:
    """Return the cheapest of several trees, as many as are made before the deadline, but one at least."""
    draws = np.random.default_rng(seed)
    trees: list[Tree] = []
    for k in range(n_trees):
        tree = make(k, int(draws.integers(2**31)))
        trees.append(reconfigure(network, tree.pairs, seed=k, max_rounds=_ROUNDS, deadline=deadline))
        if time.perf_counter() > deadline:
            break
    return min(trees, key=lambda tree: tree.log2_macs)
