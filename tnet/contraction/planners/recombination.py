"""Build one contraction tree from the steps of several: the cheapest that they can be recombined to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.bits import weight, weight_of_union
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.trees import Tree, legs_of_nodes, log2_macs, pairs_of_children

__all__ = ["recombine"]


def recombine(network: PlanningNetwork, trees: Sequence[Tree]) -> Tree:
    """Return the cheapest tree all of whose steps stand in trees that are given.

    Trees that were found from one another by small changes share most sets of leaves, and each is good in another
    corner. A step is a set of leaves and its two halves, and its cost knows nothing of the rest of the tree: dynamic
    programming over all sets that occur picks the best of each corner at once.

    Parameters
    ----------
    network : PlanningNetwork
    trees : sequence of Tree
        One or more, each of all operands.

    Returns
    -------
    Tree
        Never worse than the best one given, which is returned if nothing is better.

    Notes
    -----
    T trees of n operands take O(T n (W + log(T n))) operations for W words of legs. Without output indices the cost
    of a step is the same for the three sets that meet in it, whichever lies above: all trees are hung up at one
    operand first, the smallest, so that what differs by its root only is shared as well. Sets of leaves go by
    random names of 64 bits, and two have one name with a chance below 1e-9.
    """
    best = min(trees, key=lambda tree: tree.log2_macs)
    n = len(network.legs)
    if n < 3 or len(trees) < 2:
        return best
    words = np.random.default_rng(0).integers(1, 2**64, size=n, dtype=np.uint64)
    hang = -1 if network.output.any() else _smallest(network)
    n_steps = n - 1 if hang < 0 else n - 2
    names = np.empty((len(trees), n_steps, 3), np.uint64)
    cost, size = np.empty((len(trees), n_steps)), np.empty((len(trees), n_steps), np.int64)
    for k, tree in enumerate(trees):
        legs = legs_of_nodes(network.legs, network.output, tree.pairs)
        _list_steps(legs, network.log2_sizes, tree.pairs, words, hang, names[k], cost[k], size[k])
    known, sets = np.unique(np.concatenate([words, names.ravel()]), return_inverse=True)
    leaves, steps = sets[:n].astype(np.int64), sets[n:].reshape(-1, 3).astype(np.int64)
    order = np.argsort(size.ravel(), kind="stable")
    halves = _cheapest_halves(steps[order], np.exp2(cost.ravel()[order] - cost.max()), leaves, len(known))
    children = _tree_of_halves(halves, leaves, int(steps[order[-1], 0]), hang)
    pairs = pairs_of_children(children)
    found = Tree(pairs, log2_macs(network, pairs))
    return found if found.log2_macs < best.log2_macs else best


def _smallest(network: PlanningNetwork) -> int:
    return min(range(len(network.legs)), key=lambda k: weight(network.legs[k], network.log2_sizes))


@jit
def _list_steps(
    legs: Any, log2_sizes: Any, pairs: Any, words: Any, hang: int, names: Any, cost: Any, size: Any
) -> None:
    """List the steps of a tree as it is when operand ``hang`` is contracted last; -1 leaves the tree as it is.

    A step is the names of its result and of the two halves, its log2 cost and the number of leaves below.
    """
    n = len(words)
    below = np.empty(2 * n - 1, np.uint64)
    below[:n] = words
    n_below = np.ones(2 * n - 1, np.int64)
    has = np.zeros(2 * n - 1, np.bool_)
    if hang >= 0:
        has[hang] = True
    for k in range(n - 1):
        a, b = pairs[k]
        below[n + k] = below[a] ^ below[b]
        n_below[n + k] = n_below[a] + n_below[b]
        has[n + k] = has[a] or has[b]
    for k in range(len(cost)):  # without the last step where the tree is hung up: its two halves meet elsewhere
        a, b = pairs[k]
        if has[a] or has[b]:
            kept = b if has[a] else a
            outside, n_outside = below[-1] ^ below[n + k], n - n_below[n + k]
            first, second, size[k] = below[kept], outside, n_below[kept] + n_outside
        else:
            first, second, size[k] = below[a], below[b], n_below[n + k]
        names[k, 0], names[k, 1], names[k, 2] = first ^ second, first, second
        cost[k] = weight_of_union(legs[a], legs[b], log2_sizes)


@jit
def _cheapest_halves(steps: Any, cost: Any, leaves: Any, n_sets: int) -> Any:
    """Return the two halves into which each set is best split; steps stand in the order of their sizes."""
    total = np.full(n_sets, np.inf)
    total[leaves] = 0.0
    halves = np.full((n_sets, 2), -1, np.int64)
    for k in range(len(steps)):
        result, a, b = steps[k]
        value = total[a] + total[b] + cost[k]
        if value < total[result]:
            total[result] = value
            halves[result, 0], halves[result, 1] = a, b
    return halves


def _tree_of_halves(
    halves: npt.NDArray[np.int64], leaves: npt.NDArray[np.int64], whole: int, hang: int
) -> npt.NDArray[np.int32]:
    """Return the children of all nodes; ``whole`` is the largest set, to which operand ``hang`` comes last."""
    n = len(leaves)
    operand = {int(name): k for k, name in enumerate(leaves)}
    children = np.full((2 * n - 1, 2), -1, np.int32)
    free = 2 * n - 2  # nodes are numbered downwards from the root
    if hang >= 0:
        children[free] = hang, free - 1
        free -= 1
    todo = [(free, whole)]
    while todo:
        node, name = todo.pop()
        for side, half in enumerate(map(int, halves[name])):
            child = operand.get(half, -1)
            if child < 0:
                free -= 1
                child = free
                todo.append((child, half))
            children[node, side] = child
    return children
