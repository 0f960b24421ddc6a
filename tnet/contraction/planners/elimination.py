"""Contraction trees from orders in which the indices are summed: best where indices have many carriers."""

from __future__ import annotations

import math
import time
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.bits import count_bits, lowest_bit, weight
from tnet.contraction.planners.incidence import incidence
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.trees import Tree, log2_macs

__all__ = ["by_elimination"]

_WORK_A_PIECE = 1 << 23
"""Words of neighbourhoods looked at between two looks at the clock: about 10 ms."""


class _State(NamedTuple):
    """The line graph while its vertices, the indices, are eliminated."""

    neighbours: npt.NDArray[np.uint64]  # (64 W, W): indices that stand together in a tensor, oneself included
    left: npt.NDArray[np.bool_]  # indices that are to be eliminated yet
    key: npt.NDArray[np.float64]
    tie: npt.NDArray[np.float64]
    mark: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    n_done: npt.NDArray[np.int64]


def by_elimination(
    network: PlanningNetwork,
    *,
    seed: int,
    order: Literal["min-fill", "min-degree"] = "min-fill",
    deadline: float = math.inf,
) -> Tree:
    """Return the tree of bucket elimination along a greedy order of the indices.

    Parameters
    ----------
    network : PlanningNetwork
    seed : int
        Breaks ties at random; one seed gives one tree, unless the deadline cuts the order.
    order : {"min-fill", "min-degree"}
        Next is summed the index whose neighbours lack the fewest edges between them, an edge counting the product of
        the logarithms of its sizes; or the index whose tensor, of all its neighbours, is smallest.
    deadline : float
        Value of ``time.perf_counter()`` after which the rest of the indices is taken in the order of their last keys.

    Returns
    -------
    Tree

    Notes
    -----
    Two indices are neighbours if an operand carries both. Summing an index multiplies all tensors that carry it,
    the smallest two first, and makes its neighbours a clique. Indices of the output come last and are not summed;
    what shares no index is joined at the end.
    With m indices of degree d a step takes O(m + d^4) operations for min-fill, O(m + d^2) for min-degree; memory is
    O(m^2 / 64) words. Source: R. Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial
    Intelligence 113, 41 (1999).
    """
    n = len(network.legs)
    if n < 2:
        return Tree(np.empty((0, 2), np.int32), -math.inf)
    lists = incidence(network)
    n_indices = len(lists.in_output)
    state = _State(
        neighbours=_line_graph(network.legs, lists.first_carrier, lists.carriers),
        left=(np.diff(lists.first_carrier) > 0) & ~lists.in_output,
        key=np.full(n_indices, math.inf),
        tie=np.random.default_rng(seed).random(n_indices),
        mark=np.full(n_indices, -1, np.int64),
        order=np.empty(n_indices, np.int64),
        n_done=np.zeros(1, np.int64),
    )
    by_fill = order == "min-fill"
    position = 0
    while position < n_indices and time.perf_counter() <= deadline:
        position = _first_keys(state, lists.log2_sizes, by_fill, position, _WORK_A_PIECE)
    while time.perf_counter() <= deadline and not _eliminate(state, lists.log2_sizes, by_fill, _WORK_A_PIECE):
        pass
    rest = np.flatnonzero(state.left)
    done = state.order[: state.n_done[0]]
    last = np.flatnonzero(lists.in_output)
    indices = np.concatenate([done, rest[np.argsort(state.key[rest], kind="stable")], last])
    pairs = _tree_of_buckets(network.legs, network.log2_sizes, indices)
    return Tree(pairs, log2_macs(network, pairs))


@jit
def _line_graph(legs: Any, first_carrier: Any, carriers: Any) -> Any:
    n_words = legs.shape[1]
    neighbours = np.zeros((64 * n_words, n_words), np.uint64)
    for i in range(64 * n_words):
        for c in range(first_carrier[i], first_carrier[i + 1]):
            for w in range(n_words):
                neighbours[i, w] |= legs[carriers[c], w]
    return neighbours


@jit
def _first_keys(state: Any, log2_sizes: Any, by_fill: bool, position: int, work: int) -> int:
    while position < len(state.left) and work > 0:
        if state.left[position]:
            work -= _set_key(state, log2_sizes, by_fill, position)
        position += 1
        work -= 1
    return position


@jit
def _eliminate(state: Any, log2_sizes: Any, by_fill: bool, work: int) -> bool:
    """Carry the elimination on; return whether all indices are eliminated."""
    neighbours, left = state.neighbours, state.left
    n_indices, n_words = neighbours.shape
    while work > 0:
        v = -1
        for i in range(n_indices):
            if left[i]:
                key = state.key[i]
                if v < 0 or key < state.key[v] or (key == state.key[v] and state.tie[i] < state.tie[v]):
                    v = i
        if v < 0:
            return True
        stamp = state.n_done[0]
        left[v] = False
        state.order[stamp] = v
        state.n_done[0] += 1
        work -= n_indices
        word, bit = v >> 6, np.uint64(1) << np.uint64(v & 63)
        around = _members(neighbours[v])
        for u in around:
            if u != v:
                for w in range(n_words):
                    neighbours[u, w] |= neighbours[v, w]
                neighbours[u, word] &= ~bit
        work -= len(around) * n_words
        for u in around:
            if u == v:
                continue
            if left[u] and state.mark[u] != stamp:
                state.mark[u] = stamp
                work -= _set_key(state, log2_sizes, by_fill, u)
            if by_fill:  # an edge between two indices changes the fill of those that neighbour both
                for x in _members(neighbours[u]):
                    if left[x] and state.mark[x] != stamp:
                        state.mark[x] = stamp
                        work -= _set_key(state, log2_sizes, by_fill, x)
    return False


@jit
def _set_key(state: Any, log2_sizes: Any, by_fill: bool, i: int) -> int:
    """Compute the key of an index; return the words looked at."""
    around = _members(state.neighbours[i])
    total = 0.0
    if not by_fill:
        for u in around:
            total += log2_sizes[u]
        state.key[i] = total
        return len(around) + state.neighbours.shape[1]
    words = np.flatnonzero(state.neighbours[i])
    for u in around:
        missing = 0.0
        for w in words:
            lacking = state.neighbours[i, w] & ~state.neighbours[u, w]
            if lacking:
                missing += count_bits(lacking) * log2_sizes[w << 6]
        total += missing * log2_sizes[u]
    state.key[i] = total
    return len(around) * len(words) + state.neighbours.shape[1]


@jit
def _members(row: Any) -> Any:
    count = np.int64(0)
    for w in range(len(row)):
        count += np.int64(count_bits(row[w]))
    members = np.empty(count, np.int64)
    place = 0
    for w in range(len(row)):
        word = row[w]
        while word:
            members[place] = (w << 6) + lowest_bit(word)
            place += 1
            word &= word - np.uint64(1)
    return members


@jit
def _tree_of_buckets(operands: Any, log2_sizes: Any, indices: Any) -> Any:
    """Contract, for each index in its turn, all tensors that carry it; at last join what is left."""
    n, n_words = operands.shape
    n_turns = len(indices)
    turn = np.full(64 * n_words, n_turns, np.int64)
    for t in range(n_turns):
        turn[indices[t]] = t
    legs = np.empty((2 * n - 1, n_words), np.uint64)
    legs[:n] = operands
    size = np.empty(2 * n - 1)
    first_of_turn = np.full(n_turns + 1, -1, np.int64)  # buckets are linked lists of tensors
    following = np.full(2 * n - 1, -1, np.int64)
    for v in range(n):
        _put(v, legs, size, log2_sizes, turn, -1, first_of_turn, following)
    pairs = np.empty((n - 1, 2), np.int32)
    bucket = np.empty(n, np.int64)
    k = 0
    for t in range(n_turns + 1):
        count = 0
        v = first_of_turn[t]
        while v >= 0:
            bucket[count] = v
            count += 1
            v = following[v]
        if count == 0:
            continue
        while count > 1:
            a = _take_smallest(bucket, size, count)
            b = _take_smallest(bucket, size, count - 1)
            pairs[k, 0], pairs[k, 1] = min(a, b), max(a, b)
            for w in range(n_words):
                legs[n + k, w] = legs[a, w] | legs[b, w]
            size[n + k] = weight(legs[n + k], log2_sizes)
            bucket[count - 2] = n + k
            k += 1
            count -= 1
        if t < n_turns:
            v = bucket[0]
            i = indices[t]
            legs[v, i >> 6] &= ~(np.uint64(1) << np.uint64(i & 63))
            _put(v, legs, size, log2_sizes, turn, t, first_of_turn, following)
    return pairs


@jit
def _take_smallest(bucket: Any, size: Any, count: int) -> int:
    """Return the smallest tensor of a bucket, whose last one takes its place."""
    best = 0
    for c in range(1, count):
        if size[bucket[c]] < size[bucket[best]]:
            best = c
    taken = bucket[best]
    bucket[best] = bucket[count - 1]
    return taken


@jit
def _put(
    v: int, legs: Any, size: Any, log2_sizes: Any, turn: Any, after: int, first_of_turn: Any, following: Any
) -> None:
    """Put a tensor into the bucket of its index whose turn comes next."""
    size[v] = weight(legs[v], log2_sizes)
    earliest = len(first_of_turn) - 1
    for w in range(legs.shape[1]):
        word = legs[v, w]
        while word:
            t = turn[(w << 6) + lowest_bit(word)]
            if after < t < earliest:
                earliest = t
            word &= word - np.uint64(1)
    following[v] = first_of_turn[earliest]
    first_of_turn[earliest] = v
