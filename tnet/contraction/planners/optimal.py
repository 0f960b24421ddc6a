"""The cheapest contraction tree, by dynamic programming over subsets of operands.

Up to a dozen operands, tables over all subsets; above, tables of those connected subsets that cost no more than a
cap, which is raised until a tree is found.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.bits import weight, weight_of_union
from tnet.contraction.planners.greedy import random_greedy
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.trees import Tree, log2_macs, pairs_below

__all__ = ["optimal"]

_MOST_IN_DENSE_TABLES = 12
_MOST_WITH_OUTER_PRODUCTS = 20  # 3**20 / 2 pairs of subsets take some seconds
_MOST_OPERANDS = 64  # of a component: a subset is one word
_MOST_SUBSETS = 1 << 20
_WORK_A_PIECE = 1 << 23  # pairs of subsets between two looks at the clock, 10 to 50 ms
_TESTS_A_PIECE = 1 << 20  # the same where every pair is looked up
_LOG2_STEP_OF_CAP = 2.0
_TOLERANCE = 1e-9  # relative, on a cost that equals the cap

# Counters of the search through levels: subsets of `level` operands are made of `part` and `level - part`.
_LEVEL, _PART, _FIRST, _N_SUBSETS = range(4)
_RUNNING, _LEVEL_ENDED, _FOUND, _NONE, _FULL = range(5)


def optimal(
    network: PlanningNetwork,
    *,
    log2_cost_cap: float | None = None,
    search_outer: bool = False,
    deadline: float = math.inf,
) -> Tree | None:
    """Return a tree of least multiply-adds, or None where the limits do not let one be found.

    Parameters
    ----------
    network : PlanningNetwork
        At most 64 operands in each connected component; 20 in all with ``search_outer``.
    log2_cost_cap : float, optional
        Trees above this cost are of no interest.
    search_outer : bool
        Contract also operands that share no index: the optimum over all trees. Without it, components are optimal
        over trees of connected subsets, and joined the two smallest first.
    deadline : float
        Value of ``time.perf_counter()`` at which the search ends without a tree.

    Returns
    -------
    Tree or None
        None: no tree within the cap, too many operands, the deadline, or more than 2**20 subsets.

    Notes
    -----
    ``cost(S) = min over A + B = S of cost(A) + cost(B) + 2**w(A, B)``, with w the summed log-sizes of the indices of
    both. At worst O(3**n) time and O(2**n) memory; chains and trees of 40 operands and more are easy, since only
    connected subsets below the cap are kept. Source: R. N. C. Pfeifer, J. Haegeman and F. Verstraete, "Faster
    identification of optimal contraction sequences for tensor networks", Phys. Rev. E 90, 033315 (2014).
    """
    n = len(network.legs)
    cap = math.inf if log2_cost_cap is None else log2_cost_cap
    if n < 2:
        return Tree(np.empty((0, 2), np.int32), -math.inf)
    components = [np.arange(n)] if search_outer else _components(network.legs)
    most = _MOST_WITH_OUTER_PRODUCTS if search_outer else _MOST_OPERANDS
    if max(len(members) for members in components) > most:
        return None
    pairs: list[tuple[int, int]] = []
    roots: list[int] = []
    for members in components:
        part = _subnetwork(network, members)
        found = _optimal_of_component(part, cap, search_outer, deadline)
        if found is None:
            return None
        names = [int(k) for k in members]
        for a, b in found:
            pairs.append((names[a], names[b]))
            names.append(n + len(pairs) - 1)
        roots.append(names[-1])
    array = _with_joined_roots(network, pairs, roots)
    cost = log2_macs(network, array)
    return Tree(array, cost) if cost <= cap + _TOLERANCE else None


def _optimal_of_component(
    network: PlanningNetwork, cap: float, outer: bool, deadline: float
) -> npt.NDArray[np.int32] | None:
    n = len(network.legs)
    if n == 1:
        return np.empty((0, 2), np.int32)
    known = random_greedy(network, seed=0, n_trials=16, deadline=deadline)
    cap = min(cap, known.log2_macs)
    if outer or n <= _MOST_IN_DENSE_TABLES:
        return _by_dense_tables(network, cap, outer, deadline)
    lowest = max(weight(row, network.log2_sizes) for row in network.legs)
    rung = min(lowest + _LOG2_STEP_OF_CAP, cap)
    search = _empty_search(network, 1 << 10)
    while True:
        status, search = _by_levels(network, search, rung, deadline)
        if status == _FOUND:
            return pairs_below(int(search.counters[_N_SUBSETS]) - 1, search.parts, n)
        if status != _NONE or rung >= cap:
            return None
        rung = min(rung + _LOG2_STEP_OF_CAP, cap)


def _subnetwork(network: PlanningNetwork, members: npt.NDArray[np.int64]) -> PlanningNetwork:
    if len(members) == len(network.legs):
        return network
    legs = network.legs[members]
    used = np.flatnonzero(legs.any(axis=0))
    used = used if used.size else np.zeros(1, np.int64)
    columns = np.ascontiguousarray(legs[:, used])
    return PlanningNetwork(columns, network.output[used], network.log2_sizes[used], network.indices[used])


def _with_joined_roots(
    network: PlanningNetwork, pairs: list[tuple[int, int]], roots: list[int]
) -> npt.NDArray[np.int32]:
    """Join components, which share no index: the two of the smallest results first."""
    n = len(network.legs)
    below = list(network.legs)
    for a, b in pairs:
        below.append(below[a] | below[b])
    queue = sorted((weight(below[root] & network.output, network.log2_sizes), root) for root in roots)
    while len(queue) > 1:
        (weight_a, a), (weight_b, b) = queue[:2]
        pairs.append((a, b))
        queue = sorted([*queue[2:], (weight_a + weight_b, n + len(pairs) - 1)])
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _components(legs: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.int64]]:
    labels = _component_labels(legs)
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


@jit
def _component_labels(legs: Any) -> Any:
    n, n_words = legs.shape
    carrier = np.full(64 * n_words, -1, np.int64)
    parent = np.arange(n)
    for k in range(n):
        for w in range(n_words):
            for bit in range(64):
                if (legs[k, w] >> np.uint64(bit)) & np.uint64(1):
                    i = 64 * w + bit
                    if carrier[i] < 0:
                        carrier[i] = k
                    a, b = k, carrier[i]
                    while parent[a] != a:
                        parent[a] = parent[parent[a]]
                        a = parent[a]
                    while parent[b] != b:
                        parent[b] = parent[parent[b]]
                        b = parent[b]
                    parent[max(a, b)] = min(a, b)
    for k in range(n):  # a parent is never later than its child
        parent[k] = parent[parent[k]]
    return parent


# Tables over all subsets.


class DenseTables(NamedTuple):
    """What is known of every subset of n operands: arrays of length 2**n."""

    inside: npt.NDArray[np.float64]  # weight of the indices that end within the subset
    touching: npt.NDArray[np.float64]  # weight of the indices of the subset's operands
    cost: npt.NDArray[np.float64]  # of the best tree, in units of the cap; inf above it
    part: npt.NDArray[np.int64]  # one half of the best tree


def dense_tables(n: int) -> DenseTables:
    """Return tables for up to n operands."""
    size = 1 << n
    return DenseTables(np.empty(size), np.empty(size), np.empty(size), np.empty(size, np.int64))


def _by_dense_tables(
    network: PlanningNetwork, cap: float, outer: bool, deadline: float
) -> npt.NDArray[np.int32] | None:
    n = len(network.legs)
    tables = dense_tables(n)
    weigh_subsets(network.legs, network.output, network.log2_sizes, tables)
    neighbours = _neighbours(network.legs)
    subset = 1
    while subset < 1 << n:
        if time.perf_counter() > deadline:
            return None
        subset = solve_subsets(tables, n, neighbours, outer, cap + _TOLERANCE, subset, _WORK_A_PIECE)
    if not np.isfinite(tables.cost[(1 << n) - 1]):
        return None
    return _pairs_of_parts(tables.part, n)


@jit
def weigh_subsets(legs: Any, output: Any, log2_sizes: Any, tables: Any) -> None:
    """Fill ``inside`` and ``touching`` for the operands ``legs``, by sums over all subsets of a subset."""
    n, n_words = legs.shape
    size = 1 << n
    inside, touching = tables.inside, tables.touching
    inside[:size] = 0.0
    touching[:size] = 0.0
    one = np.uint64(1)
    for w in range(n_words):
        union = np.uint64(0)
        for k in range(n):
            union |= legs[k, w]
        while union:
            lowest = union & (~union + one)
            union ^= lowest
            carriers = 0
            for k in range(n):
                if legs[k, w] & lowest:
                    carriers |= 1 << k
            touching[carriers] += log2_sizes[w]
            if not output[w] & lowest:
                inside[carriers] += log2_sizes[w]
    for k in range(n):
        bit = 1 << k
        for subset in range(size):
            if subset & bit:
                inside[subset] += inside[subset ^ bit]
                touching[subset] += touching[subset ^ bit]
    total = touching[size - 1]
    for subset in range(size >> 1):  # an index touches a subset unless all its carriers are outside
        other = size - 1 - subset
        touching[subset], touching[other] = total - touching[other], total - touching[subset]


@jit
def solve_subsets(tables: Any, n: int, neighbours: Any, outer: bool, log2_cap: float, first: int, work: int) -> int:
    """Find the best tree of every subset from ``first`` on; return the next one when the work is done.

    The indices of a step A + B = S are those that touch S, less those that end within A or within B.
    """
    inside, touching, cost, part = tables.inside, tables.touching, tables.cost, tables.part
    subset = first
    while subset < 1 << n and work > 0:
        lowest = subset & -subset
        rest = subset ^ lowest
        work -= 1
        cost[subset] = 0.0 if rest == 0 else np.inf
        if rest and (outer or _is_connected(subset, neighbours)):
            best = np.inf
            base = touching[subset] - log2_cap
            b = rest
            while b:
                a = subset ^ b
                halves = cost[a] + cost[b]
                if halves < best:
                    step = base - inside[a] - inside[b]
                    if step <= 0.0:
                        whole = halves + 2.0**step
                        if whole < best and whole <= 1.0:
                            best = whole
                            part[subset] = b
                b = (b - 1) & rest
                work -= 1
            cost[subset] = best
        subset += 1
    return subset


@jit
def _is_connected(subset: int, neighbours: Any) -> bool:
    reached = subset & -subset
    fringe = reached
    while fringe:
        k = 0
        while not (fringe >> k) & 1:
            k += 1
        fringe ^= 1 << k
        new = neighbours[k] & subset & ~reached
        reached |= new
        fringe |= new
    return reached == subset


@jit
def _neighbours(legs: Any) -> Any:
    """Return, for each of up to 64 operands, the set of operands with which it shares an index."""
    n, n_words = legs.shape
    neighbours = np.zeros(n, np.int64)
    for a in range(n):
        for b in range(n):
            for w in range(n_words):
                if a != b and legs[a, w] & legs[b, w]:
                    neighbours[a] |= np.int64(1) << b
                    break
    return neighbours


@jit
def _pairs_of_parts(part: Any, n: int) -> Any:
    pairs = np.empty((n - 1, 2), np.int32)
    subsets = np.empty(n - 1, np.int64)  # top-down; a subset's node is numbered from the end
    subsets[0] = (1 << n) - 1
    n_subsets = 1
    for k in range(n - 1):
        for side in range(2):
            half = part[subsets[k]] if side == 0 else subsets[k] ^ part[subsets[k]]
            if half & (half - 1):
                subsets[n_subsets] = half
                pairs[n - 2 - k, side] = 2 * n - 2 - n_subsets
                n_subsets += 1
            else:
                leaf = 0
                while not (half >> leaf) & 1:
                    leaf += 1
                pairs[n - 2 - k, side] = leaf
    return pairs


# Tables of connected subsets below a cap.


class _Search(NamedTuple):
    """Connected subsets by their number of operands; those of a level below the current one are sorted."""

    subset: npt.NDArray[np.uint64]
    cost: npt.NDArray[np.float64]  # in units of the cap
    parts: npt.NDArray[np.int32]  # (n_subsets, 2): the halves of the best tree
    neighbours: npt.NDArray[np.uint64]
    legs: npt.NDArray[np.uint64]  # (n_subsets, W)
    slots: npt.NDArray[np.int32]  # open addressing by subset, of the current level; -1 where empty
    first_of_level: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]


def _empty_search(network: PlanningNetwork, capacity: int) -> _Search:
    n, n_words = network.legs.shape
    return _Search(
        np.empty(capacity, np.uint64),
        np.empty(capacity),
        np.empty((capacity, 2), np.int32),
        np.empty(capacity, np.uint64),
        np.empty((capacity, n_words), np.uint64),
        np.full(2 * capacity, -1, np.int32),
        np.zeros(n + 2, np.int64),
        np.zeros(4, np.int64),
    )


def _by_levels(network: PlanningNetwork, search: _Search, cap: float, deadline: float) -> tuple[int, _Search]:
    _start_levels(network.legs, search)
    cap += _TOLERANCE
    while True:
        status = _raise_levels(network.legs, network.output, network.log2_sizes, search, cap, _TESTS_A_PIECE)
        if status == _FULL and len(search.subset) < _MOST_SUBSETS:
            search = _larger_search(network, search)
        elif status == _LEVEL_ENDED:
            _sort_last_level(search)
        elif status != _RUNNING:
            return status, search
        if time.perf_counter() > deadline:
            return _FULL, search


def _larger_search(network: PlanningNetwork, search: _Search) -> _Search:
    larger = _empty_search(network, 4 * len(search.subset))
    for old, new in zip(search[:5], larger[:5], strict=True):
        new[: len(old)] = old
    larger.first_of_level[:] = search.first_of_level
    larger.counters[:] = search.counters
    _enter_level(larger)
    return larger


@jit
def _start_levels(legs: Any, search: Any) -> None:
    n, n_words = legs.shape
    search.neighbours[:n] = _neighbours(legs).view(np.uint64)
    for a in range(n):
        search.subset[a] = np.uint64(1) << np.uint64(a)
        search.cost[a] = 0.0
        for w in range(n_words):
            search.legs[a, w] = legs[a, w]
    search.first_of_level[1] = 0
    search.first_of_level[2] = n
    search.counters[_LEVEL] = 2
    search.counters[_PART] = 1
    search.counters[_FIRST] = 0
    search.counters[_N_SUBSETS] = n
    search.slots[:] = -1


@jit
def _raise_levels(legs: Any, output: Any, log2_sizes: Any, search: Any, log2_cap: float, work: int) -> int:
    n = legs.shape[0]
    counters, first = search.counters, search.first_of_level
    while counters[_LEVEL] <= n:
        level, part = counters[_LEVEL], counters[_PART]
        while counters[_FIRST] < first[part + 1]:
            if work <= 0:
                return _RUNNING
            i = counters[_FIRST]
            start = i + 1 if 2 * part == level else first[level - part]
            done = _pair_with_level(legs, output, log2_sizes, search, log2_cap, i, start, first[level - part + 1])
            if done < 0:
                return _FULL
            work -= done
            counters[_FIRST] += 1
        counters[_PART] += 1
        if 2 * counters[_PART] > level:
            first[level + 1] = counters[_N_SUBSETS]
            counters[_LEVEL] += 1
            counters[_PART] = 1
            counters[_FIRST] = 0
            return _LEVEL_ENDED
        counters[_FIRST] = first[counters[_PART]]
    return _FOUND if first[n + 1] > first[n] else _NONE


@jit
def _pair_with_level(
    legs: Any, output: Any, log2_sizes: Any, search: Any, log2_cap: float, i: int, start: int, stop: int
) -> int:
    """Join subset i with the disjoint neighbours among subsets start ... stop - 1, which are sorted.

    Where two subsets meet in an operand, all that agree with the second from this bit upward are skipped.
    """
    subset, cost = search.subset, search.cost
    work, j = 1, start
    while j < stop:
        work += 1
        both = subset[i] & subset[j]
        if both:
            j = _first_not_below(subset, _next_without_top_bit(subset[j], both), j + 1, stop)
            continue
        if search.neighbours[i] & subset[j] and cost[i] + cost[j] < 1.0:
            step = weight_of_union(search.legs[i], search.legs[j], log2_sizes) - log2_cap
            if step <= 0.0:
                whole = cost[i] + cost[j] + 2.0**step
                if whole <= 1.0 and not _keep(legs, output, search, i, j, whole):
                    return -1
        j += 1
    return work


@jit
def _next_without_top_bit(x: Any, both: Any) -> Any:
    """Return the least number above all that agree with x down to the top bit of ``both``; 0 where there is none."""
    top = np.uint64(0)
    for shift in (32, 16, 8, 4, 2, 1):
        if both >> np.uint64(shift):
            both >>= np.uint64(shift)
            top += np.uint64(shift)
    return ((x >> top) + np.uint64(1)) << top


@jit
def _first_not_below(subset: Any, bound: Any, low: int, high: int) -> int:
    if bound == 0:
        return high
    stride = 1
    while low + stride < high and subset[low + stride] < bound:  # near ones are the rule
        low += stride
        stride *= 2
    high = min(high, low + stride)
    while low < high:
        middle = (low + high) >> 1
        if subset[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def _keep(legs: Any, output: Any, search: Any, i: int, j: int, cost: float) -> bool:
    """Keep the union of subsets i and j with this cost, where it is the best so far; False when the table is full."""
    union = search.subset[i] | search.subset[j]
    slot = _slot_of(search, union)
    k = search.slots[slot]
    if k < 0:
        k = search.counters[_N_SUBSETS]
        if k == search.subset.size:
            return False
        search.counters[_N_SUBSETS] += 1
        search.slots[slot] = k
        search.subset[k] = union
        search.neighbours[k] = (search.neighbours[i] | search.neighbours[j]) & ~union
        for w in range(output.size):
            outside = output[w]
            for leaf in range(legs.shape[0]):
                if not (union >> np.uint64(leaf)) & np.uint64(1):
                    outside |= legs[leaf, w]
            search.legs[k, w] = (search.legs[i, w] | search.legs[j, w]) & outside
    elif search.cost[k] <= cost:
        return True
    search.cost[k] = cost
    search.parts[k, 0] = i
    search.parts[k, 1] = j
    return True


@jit
def _slot_of(search: Any, subset: Any) -> Any:
    mask = search.slots.size - 1
    z = subset * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64((z ^ (z >> np.uint64(32))) & np.uint64(mask))
    while search.slots[slot] >= 0 and search.subset[search.slots[slot]] != subset:
        slot = (slot + 1) & mask
    return slot


@jit
def _enter_level(search: Any) -> None:
    for k in range(search.first_of_level[search.counters[_LEVEL]], search.counters[_N_SUBSETS]):
        search.slots[_slot_of(search, search.subset[k])] = k


def _sort_last_level(search: _Search) -> None:
    level = search.counters[_LEVEL] - 1
    start, stop = search.first_of_level[level], search.first_of_level[level + 1]
    order = start + np.argsort(search.subset[start:stop])
    for column in search[:5]:
        column[start:stop] = column[order]
    search.slots[:] = -1
