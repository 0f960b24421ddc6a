"""Greedy contraction trees with Boltzmann noise, for networks of a few to many thousands of operands.

The loops run over lists of legs, not over bits: a step costs what its neighbourhood costs, whatever the number of
operands and of indices. They run in pieces of some milliseconds, so that a deadline holds.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.incidence import Incidence, incidence
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.noise import random_word, uniform_of_word
from tnet.contraction.planners.trees import Tree

__all__ = ["random_greedy"]

_MOST_NEIGHBOURS = 32
"""Operands looked at through one index; of an index that more carry, that many are looked at from each carrier."""

_ALPHAS = (0.1, 4.0)
_LOG_TEMPERATURES = (math.log(1e-3), math.log(1.0))

_WORK_A_PIECE = 1 << 18
"""Candidate pairs and legs between two looks at the clock: 10 to 40 ms."""

# Phases of a trial: push all pairs of neighbours, contract the best, at last join what shares no index; or give up.
_FILL, _CONTRACT, _JOIN, _DONE, _STOPPED = range(5)
# Counters of a trial.
_PHASE, _CURSOR, _STEP, _HEAP_SIZE, _STAMP, _PUSHED = range(6)


class _State(NamedTuple):
    """One trial under way.

    An entry is a leg of an operand, by its place in the lists of the network. The legs of a node are a linked list of
    entries, which a contraction joins.
    """

    next_entry: npt.NDArray[np.int32]
    owner: npt.NDArray[np.int32]  # node that an entry is a leg of
    slot: npt.NDArray[np.int32]  # place of an entry among the carriers of its index
    carriers: npt.NDArray[np.int32]  # entries, ordered by index
    n_carriers: npt.NDArray[np.int32]
    seen: npt.NDArray[np.int32]  # of an index, an entry of the node at hand
    head: npt.NDArray[np.int32]  # of a node, its first entry
    alive: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float64]
    shared: npt.NDArray[np.float64]  # of a neighbour, the weight that a contraction with the node at hand saves
    mark: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.int32]
    counters: npt.NDArray[np.int64]
    macs: npt.NDArray[np.float64]  # (m, s): s * 2**m so far
    noise: npt.NDArray[np.uint64]


def random_greedy(network: PlanningNetwork, *, seed: int, n_trials: int, deadline: float = math.inf) -> Tree:
    r"""Return the cheapest of several greedy trees.

    A trial contracts, again and again, the pair of neighbours with the least
    :math:`\operatorname{sgn}(s) \log(1 + |s|) - \tau G`, where
    :math:`s = \mathrm{size}(ab) / \alpha - \alpha (\mathrm{size}(a) + \mathrm{size}(b))` and G is Gumbel noise: this
    samples from the Boltzmann distribution of temperature :math:`\tau`. What shares no index is joined at the end,
    the smallest two first.

    Parameters
    ----------
    network : PlanningNetwork
    seed : int
        One seed gives one tree, unless the deadline cuts the trials.
    n_trials : int
        The first is without noise, with alpha = 1; for each other one alpha is drawn uniformly from 0.1 to 4, and tau
        log-uniformly from 0.001 to 1.
    deadline : float
        Value of ``time.perf_counter()`` at which the search ends; the first trial then joins what is left by size.

    Returns
    -------
    Tree

    Notes
    -----
    A trial takes O(E d log E) for E legs and d neighbours of a node, and ends as soon as it costs more than the best
    tree. Memory is O(E + live pairs of neighbours). Source: J. Gray and S. Kourtis, "Hyper-optimized tensor network
    contraction", Quantum 5, 410 (2021), section 4.1.
    """
    n = len(network.legs)
    if n < 2:
        return Tree(np.empty((0, 2), np.int32), -math.inf)
    graph = incidence(network)
    state = _empty_state(graph, n, seed)
    heap_keys, heap_nodes = _empty_heap(max(1024, 2 * n))
    draws = np.random.default_rng(seed)
    best = Tree(state.pairs, math.inf)
    for trial in range(max(n_trials, 1)):
        alpha = draws.uniform(*_ALPHAS) if trial else 1.0
        tau = math.exp(draws.uniform(*_LOG_TEMPERATURES)) if trial else 0.0
        _start(graph, state)
        while not _advance(graph, state, heap_keys, heap_nodes, alpha, tau, best.log2_macs, _WORK_A_PIECE):
            if state.counters[_HEAP_SIZE] + n > heap_keys.size:
                heap_keys, heap_nodes = _larger_heap(heap_keys, heap_nodes)
            if time.perf_counter() > deadline:
                if trial:
                    return best
                _give_up_on_neighbours(state, heap_keys, heap_nodes)
        if state.counters[_PHASE] == _DONE:
            best = Tree(state.pairs.copy(), float(state.macs[0] + math.log2(state.macs[1])))
        if time.perf_counter() > deadline:
            break
    return best


def _empty_state(graph: Incidence, n: int, seed: int) -> _State:
    n_entries, n_indices, n_nodes = graph.legs.size, graph.in_output.size, 2 * n - 1
    return _State(
        next_entry=np.empty(n_entries, np.int32),
        owner=np.empty(n_entries, np.int32),
        slot=np.empty(n_entries, np.int32),
        carriers=np.empty(n_entries, np.int32),
        n_carriers=np.empty(n_indices, np.int32),
        seen=np.full(n_indices, -1, np.int32),
        head=np.empty(n_nodes, np.int32),
        alive=np.empty(n_nodes, np.bool_),
        weight=np.empty(n_nodes),
        shared=np.empty(n_nodes),
        mark=np.zeros(n_nodes, np.int64),
        neighbours=np.empty(n_nodes, np.int64),
        pairs=np.empty((n - 1, 2), np.int32),
        counters=np.zeros(6, np.int64),
        macs=np.empty(2),
        noise=np.array([seed % 2**64], np.uint64),
    )


def _empty_heap(capacity: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    return np.empty(capacity), np.empty((capacity, 2), np.int64)


def _larger_heap(keys: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    new_keys, new_nodes = _empty_heap(2 * keys.size)
    new_keys[: keys.size], new_nodes[: keys.size] = keys, nodes
    return new_keys, new_nodes


@jit
def _start(graph: Any, state: Any) -> None:
    n = graph.first_leg.size - 1
    state.n_carriers[:] = 0
    for k in range(n):
        state.alive[k] = True
        state.head[k] = -1
        state.weight[k] = 0.0
        for e in range(graph.first_leg[k], graph.first_leg[k + 1]):
            i = graph.legs[e]
            state.weight[k] += graph.log2_sizes[i]
            state.owner[e] = k
            state.next_entry[e] = state.head[k]
            state.head[k] = e
            state.slot[e] = state.n_carriers[i]
            state.carriers[graph.first_carrier[i] + state.slot[e]] = e
            state.n_carriers[i] += 1
    stamp = state.counters[_STAMP]
    state.counters[:] = 0
    state.counters[_STAMP] = stamp
    state.macs[0] = 0.0
    state.macs[1] = 0.0


@jit
def _advance(
    graph: Any, state: Any, keys: Any, nodes: Any, alpha: float, tau: float, bound: float, work: int
) -> bool:
    """Carry a trial on; return whether it ended, else the work is used up or the heap needs room."""
    n = graph.first_leg.size - 1
    counters = state.counters
    while work > 0 and counters[_PHASE] < _DONE:
        if counters[_STEP] == n - 1:
            counters[_PHASE] = _DONE
            break
        if counters[_HEAP_SIZE] + n > keys.size:
            _drop_dead(state, keys, nodes)
            if 2 * counters[_HEAP_SIZE] + n > keys.size:
                return False
        if counters[_PHASE] == _FILL:
            work -= _fill_from_next_node(graph, state, keys, nodes, alpha, tau)
            continue
        a, b = _next_pair(state, keys, nodes)
        if a < 0:
            if counters[_PUSHED] == 0:  # no two nodes share an index
                _queue_by_weight(state, keys, nodes)
            else:
                counters[_PHASE] = _FILL
                counters[_CURSOR] = 0
                counters[_PUSHED] = 0
            continue
        work -= _contract(graph, state, a, b)
        if state.macs[0] + math.log2(state.macs[1]) >= bound:
            counters[_PHASE] = _STOPPED
            break
        k = n + counters[_STEP] - 1
        if counters[_PHASE] == _JOIN:
            _push(state.counters, keys, nodes, state.weight[k], k, k)
        else:
            work -= _push_pairs(graph, state, keys, nodes, k, alpha, tau)
    return counters[_PHASE] >= _DONE


@jit
def _fill_from_next_node(graph: Any, state: Any, keys: Any, nodes: Any, alpha: float, tau: float) -> int:
    n_nodes = graph.first_leg.size - 1 + state.counters[_STEP]
    k = state.counters[_CURSOR]
    if k == n_nodes:
        state.counters[_PHASE] = _CONTRACT
        return 1
    state.counters[_CURSOR] += 1
    if not state.alive[k]:
        return 1
    return _push_pairs(graph, state, keys, nodes, k, alpha, tau)


@jit
def _next_pair(state: Any, keys: Any, nodes: Any) -> Any:
    """Return the best pair of live nodes, or (-1, -1) from an empty heap."""
    while state.counters[_HEAP_SIZE] > 0:
        a, b = nodes[0, 0], nodes[0, 1]
        _pop(state.counters, keys, nodes)
        if state.counters[_PHASE] == _JOIN:
            b = nodes[0, 0]
            _pop(state.counters, keys, nodes)
            return a, b
        if state.alive[a] and state.alive[b]:
            return a, b
    return -1, -1


@jit
def _contract(graph: Any, state: Any, a: int, b: int) -> int:
    """Make the next node of a and b; return the number of legs touched."""
    k = graph.first_leg.size - 1 + state.counters[_STEP]
    state.pairs[state.counters[_STEP], 0] = a
    state.pairs[state.counters[_STEP], 1] = b
    state.counters[_STEP] += 1
    state.alive[a] = state.alive[b] = False
    state.alive[k] = True
    legs, log2_step, work = -1, 0.0, 2
    for side in range(2):
        e = state.head[a] if side == 0 else state.head[b]
        while e >= 0:
            work += 1
            following = state.next_entry[e]
            i = graph.legs[e]
            if side == 1 and state.seen[i] >= 0 and state.owner[state.seen[i]] == k:
                _drop_carrier(graph, state, e)
            else:
                state.owner[e] = k
                state.seen[i] = e
                state.next_entry[e] = legs
                legs = e
                log2_step += graph.log2_sizes[i]
            e = following
    state.head[k] = -1
    state.weight[k] = 0.0
    while legs >= 0:
        following = state.next_entry[legs]
        i = graph.legs[legs]
        if state.n_carriers[i] > 1 or graph.in_output[i]:
            state.next_entry[legs] = state.head[k]
            state.head[k] = legs
            state.weight[k] += graph.log2_sizes[i]
        legs = following
    if state.macs[1] == 0.0 or log2_step > state.macs[0]:
        state.macs[1] *= 2.0 ** (state.macs[0] - log2_step)
        state.macs[0] = log2_step
    state.macs[1] += 2.0 ** (log2_step - state.macs[0])
    return work


@jit
def _drop_carrier(graph: Any, state: Any, e: int) -> None:
    i = graph.legs[e]
    state.n_carriers[i] -= 1
    first = graph.first_carrier[i]
    moved = state.carriers[first + state.n_carriers[i]]
    state.carriers[first + state.slot[e]] = moved
    state.slot[moved] = state.slot[e]


@jit
def _push_pairs(graph: Any, state: Any, keys: Any, nodes: Any, k: int, alpha: float, tau: float) -> int:
    """Push node k with its neighbours: with later ones only, where every node is asked in turn.

    What both carry is met on the way, so the weight of a product is that of its factors less what they share.
    """
    state.counters[_STAMP] += 1
    stamp = state.counters[_STAMP]
    first = k if state.counters[_PHASE] == _FILL else 0
    n_found, work, crowded = 0, 2, False
    e = state.head[k]
    while e >= 0:
        i = graph.legs[e]
        state.seen[i] = e
        n_carriers = state.n_carriers[i]
        many = n_carriers > _MOST_NEIGHBOURS
        crowded |= many
        saved = graph.log2_sizes[i] * (2.0 if n_carriers == 2 and not graph.in_output[i] else 1.0)
        for j in range(1, min(n_carriers, _MOST_NEIGHBOURS + 1)):
            s = (state.slot[e] + j) % n_carriers
            other = state.owner[state.carriers[graph.first_carrier[i] + s]]
            if not many and other < first:
                continue
            if state.mark[other] != stamp:
                state.mark[other] = stamp
                state.shared[other] = 0.0
                state.neighbours[n_found] = other
                n_found += 1
            if not many:
                state.shared[other] += saved
        work += min(n_carriers, _MOST_NEIGHBOURS)
        e = state.next_entry[e]
    for j in range(n_found):
        other = state.neighbours[j]
        if crowded:
            state.shared[other] += _weight_of_crowded_indices(graph, state, k, other)
        weight = state.weight[k] + state.weight[other] - state.shared[other]
        key = _score(weight, state.weight[k], state.weight[other], alpha)
        if tau > 0.0:
            key -= tau * _gumbel(state.noise)
        _push(state.counters, keys, nodes, key, k, other)
    state.counters[_PUSHED] += n_found
    return work + n_found


@jit
def _weight_of_crowded_indices(graph: Any, state: Any, k: int, other: int) -> float:
    total = 0.0
    e = state.head[other]
    while e >= 0:
        i = graph.legs[e]
        if state.n_carriers[i] > _MOST_NEIGHBOURS and state.seen[i] >= 0 and state.owner[state.seen[i]] == k:
            total += graph.log2_sizes[i]
        e = state.next_entry[e]
    return total


@jit
def _score(weight_ab: float, weight_a: float, weight_b: float, alpha: float) -> float:
    """Return sgn(s) log(1 + |s|), s = 2**weight_ab / alpha - alpha (2**weight_a + 2**weight_b), without overflow."""
    largest = max(weight_ab, weight_a, weight_b)
    s = 2.0 ** (weight_ab - largest) / alpha - alpha * (2.0 ** (weight_a - largest) + 2.0 ** (weight_b - largest))
    if s == 0.0:
        return 0.0
    size = math.log1p(abs(s) * 2.0**largest) if largest < 100.0 else largest * math.log(2.0) + math.log(abs(s))
    return size if s > 0.0 else -size


@jit
def _gumbel(noise: Any) -> float:
    """Return a Gumbel variate."""
    return -math.log(-math.log(uniform_of_word(random_word(noise))))


@jit
def _push(counters: Any, keys: Any, nodes: Any, key: float, a: int, b: int) -> None:
    place = counters[_HEAP_SIZE]
    counters[_HEAP_SIZE] += 1
    while place > 0:
        parent = (place - 1) >> 1
        if keys[parent] <= key:
            break
        keys[place] = keys[parent]
        nodes[place, 0] = nodes[parent, 0]
        nodes[place, 1] = nodes[parent, 1]
        place = parent
    keys[place] = key
    nodes[place, 0] = a
    nodes[place, 1] = b


@jit
def _pop(counters: Any, keys: Any, nodes: Any) -> None:
    counters[_HEAP_SIZE] -= 1
    size = counters[_HEAP_SIZE]
    key, a, b = keys[size], nodes[size, 0], nodes[size, 1]
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[place] = keys[child]
        nodes[place, 0] = nodes[child, 0]
        nodes[place, 1] = nodes[child, 1]
        place = child
    keys[place] = key
    nodes[place, 0] = a
    nodes[place, 1] = b


@jit
def _drop_dead(state: Any, keys: Any, nodes: Any) -> None:
    """Drop from the heap what is contracted already."""
    size = state.counters[_HEAP_SIZE]
    state.counters[_HEAP_SIZE] = 0
    for j in range(size):
        a, b = nodes[j, 0], nodes[j, 1]
        if state.alive[a] and state.alive[b]:  # kept ones move to the front: place j is read already
            _push(state.counters, keys, nodes, keys[j], a, b)


@jit
def _queue_by_weight(state: Any, keys: Any, nodes: Any) -> None:
    state.counters[_PHASE] = _JOIN
    state.counters[_HEAP_SIZE] = 0
    for k in range(state.pairs.shape[0] + 1 + state.counters[_STEP]):
        if state.alive[k]:
            _push(state.counters, keys, nodes, state.weight[k], k, k)


@jit
def _give_up_on_neighbours(state: Any, keys: Any, nodes: Any) -> None:
    if state.counters[_PHASE] < _JOIN:
        _queue_by_weight(state, keys, nodes)
