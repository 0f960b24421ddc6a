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

_MOST_WORK = 3e8
"""Splits of intervals, times words of legs, that the dynamic programming may look at: about half a second."""

_MOST_BYTES = 1 << 27
_MOST_CANDIDATES = 128
"""Neighbours of a growing line that are looked at for its next operand: those seen first."""

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


def along_a_line(network: PlanningNetwork, *, seed: int, n_lines: int = 4, deadline: float = math.inf) -> Tree:
    r"""Return the best tree whose nodes are intervals of a line of operands.

    Lines are the order given and orders grown from one end, which take next the neighbour that leaves the smallest
    boundary. The one with the cheapest sweep goes through dynamic programming over intervals,

    .. math:: f(i, j) = \min_{i < k < j} f(i, k) + f(k, j) + 2^{w(A_{ik} \cup A_{kj})},

    with the legs :math:`A_{ij}` of the operands i to j - 1. On long lines intervals have at most w operands; longer
    prefixes and suffixes grow by such intervals, and meet where it is cheapest.

    Parameters
    ----------
    network : PlanningNetwork
    seed : int
        Of the ends that lines grow from; one seed gives one tree, unless the deadline cuts the search.
    n_lines : int
        Lines grown besides the order given.
    deadline : float
        Value of ``time.perf_counter()`` after which no more lines are grown and intervals no longer considered.

    Returns
    -------
    Tree

    Notes
    -----
    Takes O(n w^2) splits of W words, w = n up to some hundreds of operands. Exact for the optimal sweep of
    <x|A|x> with chains of ranks larger than those of A.
    """
    n = len(network.legs)
    if n < 2:
        return Tree(np.empty((0, 2), np.int32), -math.inf)
    line = _best_line(network, incidence(network), np.random.default_rng(seed), n_lines, deadline)
    children = _children_along(line, network, deadline)
    pairs = pairs_of_children(children)
    return Tree(pairs, log2_macs(network, pairs))


def _best_line(
    network: PlanningNetwork, lists: Incidence, draws: np.random.Generator, n_lines: int, deadline: float
) -> npt.NDArray[np.int64]:
    """Return the order of operands whose sweep from one end to the other takes the fewest multiply-adds."""
    n = len(network.legs)
    best = np.arange(n)
    least = _log2_macs_of_sweep(network.legs, network.output, network.log2_sizes)
    end = int(draws.integers(n))
    for trial in range(n_lines):
        # A line grown from anywhere ends far from there: the next one starts at its end.
        line = _grown_line(end, *lists)
        cost = _log2_macs_of_sweep(network.legs[line], network.output, network.log2_sizes)
        if cost < least:
            best, least = line, cost
        end = int(line[-1]) if trial % 2 == 0 else int(draws.integers(n))
        if time.perf_counter() > deadline:
            break
    return best


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
def _grown_line(
    start: int, first_leg: Any, legs: Any, first_carrier: Any, carriers: Any, in_output: Any, log2_sizes: Any
) -> Any:
    n = len(first_leg) - 1
    line = np.empty(n, np.int64)
    to_come = first_carrier[1:] - first_carrier[:-1]  # carriers not yet on the line
    on_boundary = np.zeros(len(in_output), np.bool_)
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
            growth = 0.0
            for e in range(first_leg[queue[q]], first_leg[queue[q] + 1]):
                i = legs[e]
                stays = to_come[i] > 1 or in_output[i]
                if stays and not on_boundary[i]:
                    growth += log2_sizes[i]
                elif on_boundary[i] and not stays:
                    growth -= log2_sizes[i]
            if growth < least:
                best, least = q, growth
        v = queue[best]
        for q in range(best, head, -1):
            queue[q] = queue[q - 1]
        head += 1
        line[k] = v
        for e in range(first_leg[v], first_leg[v + 1]):
            i = legs[e]
            to_come[i] -= 1
            on_boundary[i] = to_come[i] > 0 or in_output[i]
            for c in range(first_carrier[i], first_carrier[i + 1]):
                if not seen[carriers[c]]:
                    seen[carriers[c]] = True
                    queue[tail] = carriers[c]
                    tail += 1
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
