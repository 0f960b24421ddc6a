"""Polish a contraction tree: replace small subtrees by the best trees of their leaves."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.bits import weight_of_union
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.noise import mixed, random_word, uniform_of_word
from tnet.contraction.planners.optimal import DenseTables, dense_tables, solve_subsets, weigh_subsets
from tnet.contraction.planners.trees import Tree, legs_of_nodes, log2_macs, pairs_of_children
from tnet.errors import InputError

__all__ = ["reconfigure"]

_WORK_A_PIECE = 1 << 23  # pairs of subsets between two looks at the clock, 10 to 40 ms
_LARGEST_SUBTREE = 14
_PATIENCE = 4  # rounds that change nothing
_LEAST_GAIN = 1e-9  # relative: smaller ones are rounding
_NEGLIGIBLE = 1e-6  # of the whole cost: subtrees whose costliest step is below are left alone

_CURSOR, _N_CHANGED, _N_REMEMBERED = range(3)


class _Nodes(NamedTuple):
    """The tree under work: leaves 0 ... n - 1, then steps in any order, the root last."""

    children: npt.NDArray[np.int32]  # (2n - 1, 2), -1 for leaves
    legs: npt.NDArray[np.uint64]
    log2_step: npt.NDArray[np.float64]  # cost of the step that makes a node, -inf for leaves
    name: npt.NDArray[np.uint64]  # of the set of leaves below: the xor of random words


class _Work(NamedTuple):
    """Space for one subtree of s leaves, and the memory of those that are known to be optimal."""

    tables: DenseTables
    leaves: npt.NDArray[np.int32]
    inner: npt.NDArray[np.int32]
    legs: npt.NDArray[np.uint64]  # (s, W)
    subsets: npt.NDArray[np.int64]
    remembered: npt.NDArray[np.uint64]  # open addressing by name, 0 where empty
    counters: npt.NDArray[np.int64]
    noise: npt.NDArray[np.uint64]


def reconfigure(
    network: PlanningNetwork,
    pairs: npt.NDArray[np.int32],
    *,
    subtree_size: int = 8,
    seed: int,
    max_rounds: int = 64,
    deadline: float = math.inf,
) -> Tree:
    """Return a tree that costs no more, with small subtrees optimised one after another.

    Parameters
    ----------
    network : PlanningNetwork
    pairs : int32 array of shape (n - 1, 2)
        The tree to start from.
    subtree_size : int
        Leaves of a subtree, 2 to 14; 8 is quick, 10 to 12 find more.
    seed : int
    max_rounds : int
        A round visits every node, the costliest first, as the root of a subtree. The first round grows a subtree
        at its costliest leaf, later ones at random leaves; rounds end early when several found nothing.
    deadline : float
        Value of ``time.perf_counter()`` at which the search ends.

    Returns
    -------
    Tree

    Raises
    ------
    InputError
        ``subtree_size`` out of range.

    Notes
    -----
    A subtree of s leaves takes O(3**s), over all trees of its leaves, outer products included. Source: J. Gray and
    S. Kourtis, "Hyper-optimized tensor network contraction", Quantum 5, 410 (2021), section 4.4.
    """
    if not 2 <= subtree_size <= _LARGEST_SUBTREE:
        raise InputError(f"subtree_size={subtree_size!r}: choose 2 to {_LARGEST_SUBTREE} leaves.")
    start = Tree(np.array(pairs, dtype=np.int32), log2_macs(network, pairs))
    if len(pairs) < 2:
        return start
    draws = np.random.default_rng(seed)
    n = len(network.legs)
    nodes = _nodes_of_pairs(network, start.pairs, draws)
    work = _space(subtree_size, network.legs.shape[1], n, draws)
    n_idle = 0
    for round_ in range(max_rounds):
        order = n + np.argsort(-nodes.log2_step[n:], kind="stable")
        work.counters[_CURSOR] = work.counters[_N_CHANGED] = 0
        while work.counters[_CURSOR] < n - 1 and time.perf_counter() < deadline:
            if 2 * work.counters[_N_REMEMBERED] > work.remembered.size:
                work.remembered[:] = 0
                work.counters[_N_REMEMBERED] = 0
            _improve(nodes, work, order, network.log2_sizes, subtree_size, round_ > 0, _WORK_A_PIECE)
        n_idle = 0 if work.counters[_N_CHANGED] else n_idle + 1
        if time.perf_counter() >= deadline or n_idle > _PATIENCE:
            break
    improved = pairs_of_children(nodes.children)
    cost = log2_macs(network, improved)
    return Tree(improved, cost) if cost < start.log2_macs else start


def _nodes_of_pairs(network: PlanningNetwork, pairs: npt.NDArray[np.int32], draws: np.random.Generator) -> _Nodes:
    n = len(network.legs)
    children = np.full((2 * n - 1, 2), -1, np.int32)
    children[n:] = pairs
    name = np.zeros(2 * n - 1, np.uint64)
    name[:n] = draws.integers(1, 2**64, size=n, dtype=np.uint64)
    legs = legs_of_nodes(network.legs, network.output, pairs)
    nodes = _Nodes(children, legs, np.full(2 * n - 1, -np.inf), name)
    _weigh_steps(nodes, network.log2_sizes)
    return nodes


def _space(size: int, n_words: int, n: int, draws: np.random.Generator) -> _Work:
    n_slots = 1 << max(12, (8 * n).bit_length())
    return _Work(
        dense_tables(size),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty((size, n_words), np.uint64),
        np.empty(size, np.int64),
        np.zeros(n_slots, np.uint64),
        np.zeros(3, np.int64),
        draws.integers(0, 2**64, size=1, dtype=np.uint64),
    )


@jit
def _weigh_steps(nodes: Any, log2_sizes: Any) -> None:
    n = (nodes.children.shape[0] + 1) // 2
    for k in range(n, 2 * n - 1):
        a, b = nodes.children[k, 0], nodes.children[k, 1]
        nodes.log2_step[k] = weight_of_union(nodes.legs[a], nodes.legs[b], log2_sizes)
        nodes.name[k] = nodes.name[a] ^ nodes.name[b]


@jit
def _improve(nodes: Any, work: Any, order: Any, log2_sizes: Any, size: int, at_random: bool, budget: int) -> None:
    """Optimise the subtrees at the nodes of ``order`` from the cursor on, until the budget is spent."""
    counters = work.counters
    threshold = nodes.log2_step.max() + math.log2(_NEGLIGIBLE)
    nothing = np.zeros(size, np.int64)
    while counters[_CURSOR] < order.size and budget > 0:
        if 2 * counters[_N_REMEMBERED] > work.remembered.size:
            return
        root = order[counters[_CURSOR]]
        counters[_CURSOR] += 1
        budget -= 1
        n_leaves, log2_cost = _grow(nodes, work, root, size, at_random)
        if n_leaves < 3 or log2_cost < threshold or not _is_new(nodes, work, n_leaves):
            continue
        for j in range(n_leaves):
            for w in range(log2_sizes.size):
                work.legs[j, w] = nodes.legs[work.leaves[j], w]
        weigh_subsets(work.legs[:n_leaves], nodes.legs[root], log2_sizes, work.tables)
        cap = log2_cost + math.log2(1.0 - _LEAST_GAIN)
        solve_subsets(work.tables, n_leaves, nothing, True, cap, 1, 1 << 62)
        budget -= 3**n_leaves // 2
        if work.tables.cost[(1 << n_leaves) - 1] < np.inf:
            _replace(nodes, work, root, n_leaves, log2_sizes)
            counters[_N_CHANGED] += 1


@jit
def _grow(nodes: Any, work: Any, root: int, size: int, at_random: bool) -> Any:
    """Open nodes below ``root`` until there are ``size`` leaves; return their number and the subtree's log2 cost."""
    leaves, inner = work.leaves, work.inner
    leaves[0] = root
    n_leaves, largest, total = 1, nodes.log2_step[root], 0.0
    while n_leaves < size:
        chosen, best = -1, -np.inf
        for j in range(n_leaves):
            key = nodes.log2_step[leaves[j]]
            if key > -np.inf and at_random and n_leaves > 1:
                key = uniform_of_word(random_word(work.noise))
            if key > best:
                chosen, best = j, key
        if chosen < 0:
            break
        node = leaves[chosen]
        step = nodes.log2_step[node]
        if step > largest:
            total *= 2.0 ** (largest - step)
            largest = step
        total += 2.0 ** (step - largest)
        inner[n_leaves - 1] = node
        leaves[chosen] = nodes.children[node, 0]
        leaves[n_leaves] = nodes.children[node, 1]
        n_leaves += 1
    return n_leaves, largest + math.log2(total)


@jit
def _is_new(nodes: Any, work: Any, n_leaves: int) -> bool:
    """Remember a set of leaves; return whether it was unknown."""
    name = np.uint64(0)
    for j in range(n_leaves):
        name += mixed(nodes.name[work.leaves[j]])
    name |= np.uint64(1)
    mask = work.remembered.size - 1
    slot = np.int64((name >> np.uint64(20)) & np.uint64(mask))
    while work.remembered[slot]:
        if work.remembered[slot] == name:
            return False
        slot = (slot + 1) & mask
    work.remembered[slot] = name
    work.counters[_N_REMEMBERED] += 1
    return True


@jit
def _replace(nodes: Any, work: Any, root: int, n_leaves: int, log2_sizes: Any) -> None:
    """Hang the leaves below ``root`` as the tables say; the nodes that were between are used again."""
    part, subsets = work.tables.part, work.subsets
    full = (1 << n_leaves) - 1
    subsets[0] = full
    n_open = 1
    n_words = nodes.legs.shape[1]
    for k in range(n_leaves - 1):
        node, subset = work.inner[k], subsets[k]
        for side in range(2):
            half = part[subset] if side == 0 else subset ^ part[subset]
            if half & (half - 1) == 0:
                leaf = 0
                while not (half >> leaf) & 1:
                    leaf += 1
                nodes.children[node, side] = work.leaves[leaf]
                continue
            child = work.inner[n_open]
            nodes.children[node, side] = child
            subsets[n_open] = half
            n_open += 1
            for w in range(n_words):
                below, outside = np.uint64(0), nodes.legs[root, w]
                for leaf in range(n_leaves):
                    if (half >> leaf) & 1:
                        below |= work.legs[leaf, w]
                    else:
                        outside |= work.legs[leaf, w]
                nodes.legs[child, w] = below & outside
    for k in range(n_leaves - 2, -1, -1):
        node = work.inner[k]
        a, b = nodes.children[node, 0], nodes.children[node, 1]
        nodes.log2_step[node] = weight_of_union(nodes.legs[a], nodes.legs[b], log2_sizes)
        nodes.name[node] = nodes.name[a] ^ nodes.name[b]
