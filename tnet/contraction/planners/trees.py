"""Contraction trees as arrays: the legs and the cost of every node."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.bits import weight_of_union
from tnet.contraction.planners.network import PlanningNetwork

__all__ = ["Tree", "legs_of_nodes", "log2_macs", "pairs_below", "pairs_of_children"]


class Tree(NamedTuple):
    """A contraction tree and its cost.

    Parameters
    ----------
    pairs : int32 array of shape (n - 1, 2)
        Single-assignment numbering: step k contracts two nodes to node n + k.
    log2_macs : float
        Base-2 logarithm of the multiply-adds of all steps.
    """

    pairs: npt.NDArray[np.int32]
    log2_macs: float


def log2_macs(network: PlanningNetwork, pairs: np.ndarray) -> float:
    """Return the base-2 logarithm of the multiply-adds of all pairwise steps.

    Parameters
    ----------
    network : PlanningNetwork
    pairs : int32 array of shape (n - 1, 2)
        Single-assignment numbering: step k contracts two nodes to node n + k.
    """
    if not len(pairs):
        return -math.inf
    return float(_log2_macs(legs_of_nodes(network.legs, network.output, pairs), pairs, network.log2_sizes))


@jit
def legs_of_nodes(inputs: Any, output: Any, pairs: Any) -> Any:
    """Return the legs of all nodes, operands first: shape (2n - 1, W).

    A node keeps an index that stands below it when the index also stands outside, or in the output. Top-down,
    ``outside(child) = outside(parent) | below(sibling)``, so hyper-indices and batch indices need no counts.
    """
    n, n_words = inputs.shape
    below = np.empty((n + pairs.shape[0], n_words), inputs.dtype)
    below[:n] = inputs
    for k in range(pairs.shape[0]):
        for w in range(n_words):
            below[n + k, w] = below[pairs[k, 0], w] | below[pairs[k, 1], w]
    outside = np.empty_like(below)
    outside[-1] = output
    for k in range(pairs.shape[0] - 1, -1, -1):
        a, b = pairs[k]
        for w in range(n_words):
            outside[a, w] = outside[n + k, w] | below[b, w]
            outside[b, w] = outside[n + k, w] | below[a, w]
    for v in range(below.shape[0]):
        for w in range(n_words):
            below[v, w] &= outside[v, w]
    return below


@jit
def pairs_of_children(children: Any) -> Any:
    """Return the steps of a tree given by the two children of each node: shape (2n - 1, 2), leaves and root as usual.

    Inner nodes may stand in any order; they are numbered anew, each after its children.
    """
    n_nodes = children.shape[0]
    return pairs_below(n_nodes - 1, children, (n_nodes + 1) // 2)


@jit
def pairs_below(root: int, children: Any, n: int) -> Any:
    """Return the steps of the tree of n leaves at a node, of any number of nodes given by their children.

    Nodes 0 to n - 1 are the leaves; inner nodes are numbered anew, each after its children.
    """
    pairs = np.empty((n - 1, 2), np.int32)
    top_down = np.empty(n - 1, np.int64)
    top_down[0] = root
    n_seen = 1
    for k in range(n - 1):
        for side in range(2):
            child = children[top_down[k], side]
            if child >= n:
                top_down[n_seen] = child
                child = 2 * n - 2 - n_seen
                n_seen += 1
            pairs[n - 2 - k, side] = child
    return pairs


@jit
def _log2_macs(legs: Any, pairs: Any, log2_sizes: Any) -> float:
    n_steps = pairs.shape[0]
    costs = np.empty(n_steps)
    for k in range(n_steps):
        costs[k] = weight_of_union(legs[pairs[k, 0]], legs[pairs[k, 1]], log2_sizes)
    largest = costs.max()
    return largest + math.log2(np.exp2(costs - largest).sum())
