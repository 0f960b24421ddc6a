"""Contraction trees along a line: for chains, ladders, strips, and whatever else has a small path-width."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.bits import count_bits, weight_of_union
from tnet.contraction.planners.incidence import Incidence, incidence
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.trees import Tree, log2_macs, pairs_of_children

__all__ = ["along_a_line"]

_MOST_WORK = 1.5e8
"""Splits of intervals, times words of legs, that the dynamic programming may look at: 0.3 s."""

_MOST_BYTES = 1 << 27
_MOST_CANDIDATES = 128
"""Neighbours of a growing line that are looked at for its next operand: those seen first."""

_LINES = 4  # besides the order given

_PIVOTS = 24
"""Operands from which distances are measured to place all others on an axis."""

_NEAR = 0.8
"""Steps on that axis within which operands may change places."""

# What a node of the tree is: operands i to i + l - 1, the first j, or those from j on.
_INTERVAL, _PREFIX, _SUFFIX = range(3)


class _Line(NamedTuple):
    """Tables of the dynamic programming; costs are in units of those of the plain sweep."""

    below: npt.NDArray[np.uint64]  # [i, l - 1]: indices of the operands i to i + l - 1
    before: npt.NDArray[np.uint64]  # (n + 1, W): indices of the first j operands
    behind: npt.NDArray[np.uint64]  # (n + 1, W): indices of the operands from j on
    output: npt.NDArray[np.uint64]
    cost: npt.NDArray[np.float64]  # [i, l - 1]
    split: npt.NDArray[np.int32]  # [i, l - 1]: operands of the left part
    prefix_cost: npt.NDArray[np.float64]
    prefix_step: npt.NDArray[np.int32]  # operands that the last step to the first j adds
    suffix_cost: npt.NDArray[np.float64]
    suffix_step: npt.NDArray[np.int32]


def along_a_line(network: PlanningNetwork, *, seed: int, deadline: float = math.inf) -> Tree:
    r"""Return the best tree whose nodes are intervals of a line of operands.

    Lines are the order given; orders along an axis on which distances are kept, as well as one axis can; and orders
    grown from one end, which take next the neighbour that leaves the smallest boundary. The two with the cheapest
    sweeps go through dynamic programming over intervals,

    .. math:: f(i, j) = \min_{i < k < j} f(i, k) + f(k, j) + 2^{w(A_{ik} \cup A_{kj})},

    with the legs :math:`A_{ij}` of the operands i to j - 1. On long lines intervals have at most w operands; longer
    prefixes and suffixes grow by such intervals, and meet where it is cheapest.

    Parameters
    ----------
    network : PlanningNetwork
    seed : int
        Of the ends that lines grow from; one seed gives one tree, unless the deadline cuts the search.
    deadline : float
        Value of ``time.perf_counter()`` after which no more lines are grown and intervals no longer considered.

    Returns
    -------
    Tree

    Notes
    -----
    Takes O(n w^2) splits of W words, w = n up to some hundreds of operands. Chains of matrices and the sweep of
    <x|A|x> are found at once. With w = n this is the algorithm for chains of matrices, with sets of legs for sizes:
    S. S. Godbole, "On efficient computation of matrix chain products", IEEE Trans. Computers C-22, 864 (1973).
    """
    n = len(network.legs)
    if n < 2:
        return Tree(np.empty((0, 2), np.int32), -math.inf)
    trees = []
    for line in _best_lines(network, np.random.default_rng(seed), deadline):
        pairs = pairs_of_children(_children_along(line, network, deadline))
        trees.append(Tree(pairs, log2_macs(network, pairs)))
        if time.perf_counter() > deadline:
            break
    return min(trees, key=lambda tree: tree.log2_macs)


def _best_lines(network: PlanningNetwork, draws: np.random.Generator, deadline: float) -> list[npt.NDArray[np.int64]]:
    """Return the two orders of operands whose sweeps from one end to the other take the fewest multiply-adds."""
    n, lists = len(network.legs), incidence(network)
    lines = [np.arange(n)]
    while len(lines) <= _LINES and time.perf_counter() <= deadline:
        lines.append(_line_along(_coordinate(lists, draws), lists))
        lines.append(_grown_line(int(lines[-1][0]), lists))
    costs = [_log2_macs_of_sweep(network.legs[line], network.output, network.log2_sizes) for line in lines]
    return [lines[k] for k in np.argsort(costs, kind="stable")[:2]]


def _children_along(line: npt.NDArray[np.int64], network: PlanningNetwork, deadline: float) -> npt.NDArray[np.int32]:
    legs = np.ascontiguousarray(network.legs[line])
    n, n_words = legs.shape
    reference = _log2_macs_of_sweep(legs, network.output, network.log2_sizes)
    window = _affordable_window(n, n_words)
    tables = _empty_tables(legs, network.output, window)
    length = 2
    while length <= window and time.perf_counter() <= deadline:
        _fill_length(tables, network.log2_sizes, reference, length)
        length += 1
    window = length - 1
    meeting = _fill_ends(tables, network.log2_sizes, reference, window) if window < n else 0
    return _children_of_tables(tables, line, window, meeting)


def _affordable_window(n: int, n_words: int) -> int:
    """Return the longest interval that time and memory allow, at least one operand."""
    window = min(n, max(1, _MOST_BYTES // (8 * n * n_words)))
    while window > 1 and (n * window**2 / 2 - window**3 / 3) * (n_words + 8) > _MOST_WORK:
        window -= 1
    return window


@jit
def _grown_line(start: int, lists: Any) -> Any:
    n = len(lists.first_leg) - 1
    line = np.empty(n, np.int64)
    to_come = lists.first_carrier[1:] - lists.first_carrier[:-1]  # carriers not yet on the line
    on_boundary = np.zeros(len(lists.in_output), np.bool_)
    seen = np.zeros(n, np.bool_)
    queue = np.empty(n, np.int64)  # neighbours of the line, in the order in which they were seen
    head, tail, unseen = 0, 1, 0
    queue[0] = start
    seen[start] = True
    for k in range(n):
        if head == tail:  # a component is complete
            while seen[unseen]:
                unseen += 1
            queue[tail] = unseen
            seen[unseen] = True
            tail += 1
        best, least = head, math.inf
        for q in range(head, min(tail, head + _MOST_CANDIDATES)):
            growth = _growth(queue[q], lists, to_come, on_boundary)
            if growth < least:
                best, least = q, growth
        v = queue[best]
        for q in range(best, head, -1):
            queue[q] = queue[q - 1]
        head += 1
        line[k] = v
        _put_at_end(v, lists, to_come, on_boundary)
        for e in range(lists.first_leg[v], lists.first_leg[v + 1]):
            i = lists.legs[e]
            for c in range(lists.first_carrier[i], lists.first_carrier[i + 1]):
                if not seen[lists.carriers[c]]:
                    seen[lists.carriers[c]] = True
                    queue[tail] = lists.carriers[c]
                    tail += 1
    return line


def _coordinate(lists: Incidence, draws: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a place of each operand on an axis, as far apart as steps go, from distances to some operands.

    Source: U. Brandes and C. Pich, "Eigensolver methods for progressive multidimensional scaling of large data",
    Graph Drawing 2006.
    """
    n = len(lists.first_leg) - 1
    pivots = draws.permutation(n)[:_PIVOTS]
    distances = np.array([_distances(int(p), lists) for p in pivots], dtype=np.float64).T
    squared = np.minimum(distances, 1.0 + np.max(distances, initial=0.0, where=distances < n)) ** 2
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    axis = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
    first, last = int(np.argmin(axis)), int(np.argmax(axis))
    steps = _distances(first, lists)[last]
    return axis * (steps / max(axis[last] - axis[first], 1e-300))


@jit
def _growth(v: int, lists: Any, to_come: Any, on_boundary: Any) -> float:
    """Return by how much the boundary of a line grows, in bits, when operand v is put at its end."""
    growth = 0.0
    for e in range(lists.first_leg[v], lists.first_leg[v + 1]):
        i = lists.legs[e]
        stays = to_come[i] > 1 or lists.in_output[i]
        if stays and not on_boundary[i]:
            growth += lists.log2_sizes[i]
        elif on_boundary[i] and not stays:
            growth -= lists.log2_sizes[i]
    return growth


@jit
def _put_at_end(v: int, lists: Any, to_come: Any, on_boundary: Any) -> None:
    for e in range(lists.first_leg[v], lists.first_leg[v + 1]):
        i = lists.legs[e]
        to_come[i] -= 1
        on_boundary[i] = to_come[i] > 0 or lists.in_output[i]


@jit
def _distances(start: int, lists: Any) -> Any:
    """Return the number of steps from ``start`` to each operand, n where there is no way."""
    n = len(lists.first_leg) - 1
    distance = np.full(n, n, np.int64)
    passed = np.zeros(len(lists.first_carrier), np.bool_)
    queue = np.empty(n, np.int64)
    queue[0], tail = start, 1
    distance[start] = 0
    for head in range(n):
        if head == tail:
            break
        v = queue[head]
        for e in range(lists.first_leg[v], lists.first_leg[v + 1]):
            i = lists.legs[e]
            if passed[i]:
                continue
            passed[i] = True
            for c in range(lists.first_carrier[i], lists.first_carrier[i + 1]):
                if distance[lists.carriers[c]] == n:
                    distance[lists.carriers[c]] = distance[v] + 1
                    queue[tail] = lists.carriers[c]
                    tail += 1
    return distance


@jit
def _line_along(coordinate: Any, lists: Any) -> Any:
    """Order by a coordinate; of those nearer than ``_NEAR`` to the next, the smallest boundary first."""
    n = len(lists.first_leg) - 1
    line = np.argsort(coordinate, kind="mergesort")
    to_come = lists.first_carrier[1:] - lists.first_carrier[:-1]
    on_boundary = np.zeros(len(lists.in_output), np.bool_)
    for k in range(n):
        best, least = k, math.inf
        for q in range(k, min(n, k + _MOST_CANDIDATES)):
            if coordinate[line[q]] > coordinate[line[k]] + _NEAR:
                break
            growth = _growth(line[q], lists, to_come, on_boundary)
            if growth < least:
                best, least = q, growth
        v = line[best]
        for q in range(best, k, -1):
            line[q] = line[q - 1]
        line[k] = v
        _put_at_end(v, lists, to_come, on_boundary)
    return line


@jit
def _before_and_behind(legs: Any) -> Any:
    n, n_words = legs.shape
    before = np.zeros((n + 1, n_words), np.uint64)
    behind = np.zeros((n + 1, n_words), np.uint64)
    for k in range(n):
        for w in range(n_words):
            before[k + 1, w] = before[k, w] | legs[k, w]
            behind[n - 1 - k, w] = behind[n - k, w] | legs[n - 1 - k, w]
    return before, behind


@jit
def _log2_macs_of_sweep(legs: Any, output: Any, log2_sizes: Any) -> float:
    n = len(legs)
    before, behind = _before_and_behind(legs)
    costs = np.empty(n - 1)
    for k in range(1, n):
        costs[k - 1] = weight_of_union(before[k] & (behind[k] | output), legs[k], log2_sizes)
    largest = costs.max()
    return largest + math.log2(np.exp2(costs - largest).sum())


def _empty_tables(legs: npt.NDArray[np.uint64], output: npt.NDArray[np.uint64], window: int) -> _Line:
    n, n_words = legs.shape
    below = np.empty((n, window, n_words), np.uint64)
    below[:, 0] = legs
    before, behind = _before_and_behind(legs)
    return _Line(
        below=below,
        before=before,
        behind=behind,
        output=output,
        cost=np.zeros((n, window)),
        split=np.ones((n, window), np.int32),
        prefix_cost=np.full(n + 1, math.inf),
        prefix_step=np.ones(n + 1, np.int32),
        suffix_cost=np.full(n + 1, math.inf),
        suffix_step=np.ones(n + 1, np.int32),
    )


@jit
def _fill_length(tables: Any, log2_sizes: Any, reference: float, length: int) -> None:
    """Find the best trees of all intervals of this length."""
    below, before, behind, cost = tables.below, tables.before, tables.behind, tables.cost
    n, _, n_words = below.shape
    for i in range(n - length + 1):
        for w in range(n_words):
            below[i, length - 1, w] = below[i, length - 2, w] | below[i + length - 1, 0, w]
        best = math.inf
        for k in range(1, length):
            total = cost[i, k - 1] + cost[i + k, length - k - 1]
            if total >= best:
                continue
            macs = 0.0
            for w in range(n_words):
                # Of two neighbours each keeps what the other has: the legs of both are those of the
                # whole and those that they share.
                left, right = below[i, k - 1, w], below[i + k, length - k - 1, w]
                outside = before[i, w] | behind[i + length, w] | tables.output[w]
                both = (left & right) | ((left | right) & outside)
                if both:
                    macs += count_bits(both) * log2_sizes[w]
            total += 2.0 ** (macs - reference)
            if total < best:
                best = total
                tables.split[i, length - 1] = k
        cost[i, length - 1] = best


@jit
def _fill_ends(tables: Any, log2_sizes: Any, reference: float, window: int) -> int:
    """Find the best trees of all prefixes and suffixes; return where a prefix and a suffix meet at the least cost."""
    prefix, suffix, cost = tables.prefix_cost, tables.suffix_cost, tables.cost
    n = len(tables.below)
    for j in range(1, n):
        if j <= window:
            prefix[j] = cost[0, j - 1]
            suffix[n - j] = cost[n - j, j - 1]
            continue
        for length in range(1, window + 1):
            i = j - length
            total = prefix[i] + cost[i, length - 1]
            if total < prefix[j]:
                total += 2.0 ** (_log2_macs_of_join(tables, log2_sizes, 0, i, j) - reference)
                if total < prefix[j]:
                    prefix[j] = total
                    tables.prefix_step[j] = length
            i = n - j
            total = suffix[i + length] + cost[i, length - 1]
            if total < suffix[i]:
                total += 2.0 ** (_log2_macs_of_join(tables, log2_sizes, i, i + length, n) - reference)
                if total < suffix[i]:
                    suffix[i] = total
                    tables.suffix_step[i] = length
    meeting, least = 1, math.inf
    for j in range(1, n):
        total = prefix[j] + suffix[j] + 2.0 ** (_log2_macs_of_join(tables, log2_sizes, 0, j, n) - reference)
        if total < least:
            meeting, least = j, total
    return meeting


@jit
def _log2_macs_of_join(tables: Any, log2_sizes: Any, i: int, k: int, j: int) -> float:
    """Return the cost of the operands i to k - 1 with k to j - 1, where i = 0 or j = n."""
    total = 0.0
    n = len(tables.below)
    for w in range(len(log2_sizes)):
        left = tables.before[k, w] if i == 0 else tables.below[i, k - i - 1, w]
        right = tables.behind[k, w] if j == n else tables.below[k, j - k - 1, w]
        outside = tables.before[i, w] | tables.behind[j, w] | tables.output[w]
        total += count_bits((left & right) | ((left | right) & outside)) * log2_sizes[w]
    return total


@jit
def _children_of_tables(tables: Any, line: Any, window: int, meeting: int) -> Any:
    """Return the two children of each node of the best tree; leaves are the operands that stand on the line."""
    n = len(line)
    children = np.full((2 * n - 1, 2), -1, np.int32)
    stack = np.empty((n + 1, 4), np.int64)  # node, kind, first operand, number of operands
    free = 2 * n - 2
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = free, _INTERVAL, 0, n
    height = 1
    while height:
        height -= 1
        node, kind, i, length = stack[height]
        if window < length < n:
            left = length - tables.prefix_step[length] if kind == _PREFIX else tables.suffix_step[i]
        elif window < length:
            left = meeting
        else:
            left = tables.split[i, length - 1]
        for side in range(2):
            first, count = (i, left) if side == 0 else (i + left, length - left)
            if count == 1:
                children[node, side] = line[first]
                continue
            free -= 1
            children[node, side] = free
            stack[height, 0], stack[height, 1], stack[height, 2], stack[height, 3] = free, _INTERVAL, first, count
            if count > window:
                stack[height, 1] = _PREFIX if first == 0 else _SUFFIX
            height += 1
    return children
