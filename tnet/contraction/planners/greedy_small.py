"""Contraction trees of small networks, in Python alone: there is nothing to compile.

A few greedy trees, then dynamic programming over connected subsets where the network is small enough. Sets of indices
are the bits of an integer; sizes are exact integers.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Collection, Sequence
from typing import NamedTuple

__all__ = ["small_tree"]

_Pair = tuple[int, int]
_Level = dict[int, tuple[int, int, int, int]]  # subset -> (least cost, legs, their size, one half)

_WEIGHTS = ((1, 1), (2, 1), (1, 2))
"""Greedy trees minimise ``p size(ab) - q (size(a) + size(b))``; q / p is the square of the usual score's alpha."""

_TEMPERATURE = 0.3
_NOISY = 2  # greedy trees with noise, besides three without
_MOST_OPERANDS_FOR_SUBSETS = 14
_MOST_TESTS = 4000  # pairs of subsets, at about 0.2 us
_LEAST_DENSE = 9  # operands from which subsets are searched only where the network is nearly a tree


class _Network(NamedTuple):
    legs: list[int]
    output: int
    lasting: int  # indices of more than two carriers, the output counted: a contraction of two does not end them
    n_carriers: dict[int, int]  # of those
    groups: list[tuple[int, int]]  # (size, indices of this size)
    memo: dict[int, int]  # sizes of sets of indices


def small_tree(
    inputs: Sequence[Collection[int]],
    output: Collection[int],
    sizes: Sequence[int],
    *,
    seed: int,
) -> tuple[_Pair, ...]:
    """Return the cheapest of a few greedy trees, or the best without outer products where that is found soon.

    Parameters
    ----------
    inputs : sequence of collection of int
        Index numbers of each operand.
    output : collection of int
    sizes : sequence of int
        Size of each index.
    seed : int
        Of the noise in some of the greedy trees.

    Returns
    -------
    tuple of pair of int
        Operands of each step, the smaller first, in single-assignment numbering.

    Notes
    -----
    The search for the best tree ends after 4000 pairs of subsets; then, and for more than 14 operands, greedy trees
    must do. A greedy tree takes O(E d log E) for E legs and d neighbours of a node. The methods and their sources are
    those of ``random_greedy`` and ``optimal``, which are compiled and made for larger networks.
    """
    n = len(inputs)
    if n < 3:
        return ((0, 1),) if n == 2 else ()
    network = _bits_of(inputs, output, sizes)
    if n == 3:
        return _best_of_three(network)
    operand_sizes = [_size(x, network) for x in network.legs]
    pairs = _neighbours(network, operand_sizes)
    best, cost = _greedy(network, operand_sizes, pairs, math.inf, 1, 1)
    if n < _LEAST_DENSE or (n <= _MOST_OPERANDS_FOR_SUBSETS and len(pairs) <= n):
        found, complete = _over_subsets(network, operand_sizes, cost)
        if complete:
            return found or best
    noise = random.Random(seed)
    trials = [(p, q, None) for p, q in _WEIGHTS[1:]] + [(*_WEIGHTS[1], noise)] * _NOISY
    for p, q, source in trials:
        found, found_cost = _greedy(network, operand_sizes, pairs, cost, p, q, source)
        best, cost = (found, found_cost) if found else (best, cost)
    return best


def _bits_of(inputs: Sequence[Collection[int]], output: Collection[int], sizes: Sequence[int]) -> _Network:
    n_carriers = [0] * len(sizes)
    sets = [set(indices) for indices in (*inputs, output)]
    for indices in sets:
        for i in indices:
            n_carriers[i] += 1
    bits = [0] * len(sizes)
    by_size: dict[int, int] = {}
    of_lasting: dict[int, int] = {}
    for i, (count, size) in enumerate(zip(n_carriers, sizes, strict=True)):
        if count > 1 and size > 1:
            bits[i] = bit = 1 << i
            by_size[size] = by_size.get(size, 0) | bit
            if count > 2:
                of_lasting[bit] = count
    legs = [sum([bits[i] for i in indices]) for indices in sets]
    result = legs.pop()
    return _Network(legs, result, sum(of_lasting), of_lasting, list(by_size.items()), {})


def _size(indices: int, network: _Network) -> int:
    size = network.memo.get(indices)
    if size is None:
        size = 1
        for n, members in network.groups:
            size *= n ** (indices & members).bit_count()
        network.memo[indices] = size
    return size


def _bits(indices: int) -> list[int]:
    found = []
    while indices:
        bit = indices & -indices
        found.append(bit)
        indices ^= bit
    return found


def _best_of_three(network: _Network) -> tuple[_Pair, ...]:
    def cost(a: int, b: int, c: int) -> int:
        x, z = network.legs[a] | network.legs[b], network.legs[c]
        return _size(x, network) + _size((x & network.output) | z, network)

    a, b, c = min(((0, 1, 2), (0, 2, 1), (1, 2, 0)), key=lambda order: cost(*order))
    return (a, b), (c, 3)


def _neighbours(network: _Network, sizes: list[int]) -> list[tuple[int, int, int, int]]:
    """Return (a, b, size of their product, sum of their sizes) of all pairs that share an index."""
    lasting, found = network.lasting, []
    for b, y in enumerate(network.legs):
        for a in range(b):
            shared = network.legs[a] & y
            if shared:
                product = sizes[a] * sizes[b] // _size(shared, network) ** 2
                if shared & lasting:
                    product *= _size(shared & lasting, network)
                found.append((a, b, product, sizes[a] + sizes[b]))
    return found


def _greedy(
    network: _Network,
    sizes: list[int],
    pairs: list[tuple[int, int, int, int]],
    bound: float,
    p: int,
    q: int,
    noise: random.Random | None = None,
) -> tuple[tuple[_Pair, ...], float]:
    """Return a greedy tree and its multiply-adds, or no pairs as soon as it is no cheaper than the bound."""
    lasting, memo = network.lasting, network.memo
    live: dict[int, int] = dict(enumerate(network.legs))
    sizes = list(sizes)
    n_carriers = dict(network.n_carriers)
    heap: list[tuple[float, int, int]] = [
        (score if noise is None else _key(score, noise), a, b)
        for a, b, score in [(a, b, p * product - q * factors) for a, b, product, factors in pairs]
    ]
    heapq.heapify(heap)
    steps: list[_Pair] = []
    cost = 0
    while len(live) > 1:
        if heap:
            _, a, b = heapq.heappop(heap)
            if a not in live or b not in live:
                continue
        else:  # nothing left shares an index: the two smallest, and again
            a, b = sorted(heapq.nsmallest(2, live, key=sizes.__getitem__))
        x, y = live.pop(a), live.pop(b)
        shared = x & y
        step = sizes[a] * sizes[b] // _size(shared, network)
        cost += step
        if cost >= bound:
            return (), bound
        steps.append((a, b))
        ended = shared & ~lasting
        for bit in _bits(shared & lasting):
            n_carriers[bit] -= 1
            if n_carriers[bit] == 2:
                lasting ^= bit
        k, z, size_z = len(sizes), (x | y) ^ ended, step // _size(ended, network)
        sizes.append(size_z)
        for other, w in live.items():
            shared = z & w
            if shared:
                size_w, size_shared = sizes[other], memo.get(shared) or _size(shared, network)
                product = size_z * size_w // (size_shared * size_shared)
                if shared & lasting:
                    product *= _size(shared & lasting, network)
                score = p * product - q * (size_z + size_w)
                heapq.heappush(heap, (score if noise is None else _key(score, noise), other, k))
        live[k] = z
    return tuple(steps), cost


def _key(score: int, noise: random.Random) -> float:
    log = math.log(1 + abs(score))
    gumbel = -math.log(-math.log(noise.random() or 0.5))
    return (log if score > 0 else -log) - _TEMPERATURE * gumbel


def _over_subsets(network: _Network, sizes: list[int], bound: float) -> tuple[tuple[_Pair, ...], bool]:
    """Return the best tree of connected subsets below the bound, if any, and whether the search came to its end."""
    n, lasting, memo = len(network.legs), network.lasting, network.memo
    carriers = {
        bit: sum([1 << k for k, x in enumerate(network.legs) if x & bit]) | (1 << n if network.output & bit else 0)
        for bit in network.n_carriers
    }
    levels: list[_Level] = [{}, {1 << k: (0, x, sizes[k], 0) for k, x in enumerate(network.legs)}]
    n_tests = 0
    for level in range(2, n + 1):
        found: _Level = {}
        for part in range(1, level // 2 + 1):
            larger = [(t, *entry[:3]) for t, entry in levels[level - part].items()]
            n_tests += len(levels[part]) * len(larger)
            if n_tests > _MOST_TESTS:
                return (), False
            for s, (cost_s, x, size_s, _) in levels[part].items():
                for t, cost_t, y, size_t in larger:
                    shared = x & y
                    if s & t or not shared:
                        continue
                    step = size_s * size_t // (memo.get(shared) or _size(shared, network))
                    cost = cost_s + cost_t + step
                    if cost >= bound:
                        continue
                    known = found.get(s | t)
                    if known is None:
                        ended = shared
                        for bit in _bits(shared & lasting):
                            if carriers[bit] & ~(s | t):
                                ended ^= bit
                        found[s | t] = (cost, (x | y) ^ ended, step // _size(ended, network), s)
                    elif cost < known[0]:
                        found[s | t] = (cost, known[1], known[2], s)
        levels.append(found)
    return _joined_components(network, levels), True


def _joined_components(network: _Network, levels: list[_Level]) -> tuple[_Pair, ...]:
    """Return the steps of the best trees of all components, then the two smallest results, and again."""
    n = len(network.legs)
    steps: list[_Pair] = []
    queue: list[tuple[int, int]] = []
    left = (1 << n) - 1
    while left:
        component = left & -left
        legs = 0
        fringe = component
        while fringe:
            component |= fringe
            for k in [bit.bit_length() - 1 for bit in _bits(fringe)]:
                legs |= network.legs[k]
            fringe = sum([1 << k for k, x in enumerate(network.legs) if x & legs]) & ~component
        if component not in levels[component.bit_count()]:
            return ()
        queue.append((levels[component.bit_count()][component][2], _append_steps(steps, levels, component, n)))
        left &= ~component
    heapq.heapify(queue)
    while len(queue) > 1:
        (size_a, a), (size_b, b) = heapq.heappop(queue), heapq.heappop(queue)
        steps.append((min(a, b), max(a, b)))
        heapq.heappush(queue, (size_a * size_b, n + len(steps) - 1))
    return tuple(steps)


def _append_steps(steps: list[_Pair], levels: list[_Level], subset: int, n: int) -> int:
    """Append the steps that make a subset; return its node."""
    if not subset & (subset - 1):
        return subset.bit_length() - 1
    part = levels[subset.bit_count()][subset][3]
    a, b = _append_steps(steps, levels, part, n), _append_steps(steps, levels, subset ^ part, n)
    steps.append((min(a, b), max(a, b)))
    return n + len(steps) - 1
