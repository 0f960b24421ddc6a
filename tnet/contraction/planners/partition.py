"""Contraction trees by recursive bisection of the hypergraph: coarsen, grow, refine."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.greedy import random_greedy
from tnet.contraction.planners.incidence import incidence
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.noise import random_word
from tnet.contraction.planners.trees import Tree, log2_macs, pairs_of_children

__all__ = ["by_partition", "hypergraph", "smallest_cut"]

_COARSEST = 40  # vertices at which coarsening ends
_LEAST_SHRINK = 0.9  # a level that keeps more vertices than this share is not worth it
_STARTS = 8  # grown halves of the coarsest level
_PASSES = 6  # of refinement a level
_LARGEST_RATED = 64  # pins of a net above which it says little about who belongs together
_IMBALANCES = (0.4, 0.95)  # a tree draws one
_STEPS_A_UNIT = 8.0  # net weights are rounded to eighths of a bit, for gain buckets
_OPEN_WEIGHT = 50.0  # of an index that a part shares with the outside, in operands: halves share it evenly
_SMALL_PART = 12  # operands of a part that gets the best of a few greedy trees
_TRIALS_BELOW = 8  # greedy trees of a part that is small enough


class _Hypergraph(NamedTuple):
    first_pin: npt.NDArray[np.int64]
    pins: npt.NDArray[np.int32]  # vertices of each net
    first_net: npt.NDArray[np.int64]
    nets: npt.NDArray[np.int32]  # nets of each vertex
    vertex_weight: npt.NDArray[np.int64]
    net_weight: npt.NDArray[np.int64]


def by_partition(
    network: PlanningNetwork,
    *,
    seed: int,
    deadline: float = math.inf,
) -> Tree:
    """Return the tree of recursive bisection: both halves of the operands are contracted before they meet.

    Parameters
    ----------
    network : PlanningNetwork
    seed : int
        One seed gives one tree, unless the deadline cuts the recursion.
    deadline : float
        Value of ``time.perf_counter()`` after which all parts that are left get one greedy tree.

    Returns
    -------
    Tree

    Notes
    -----
    The step where two halves meet costs what is cut there, times the indices that the part shares with the outside.
    Of the weight m of a part, a half holds at most (1 + e) m / 2, with e drawn once for the tree, from 0.4 to 0.95.
    Open indices weigh much more than operands do, so that no half has nearly all of them: halves of equal numbers of
    operands alone make trees that cost up to 10^5 times more. A bisection of P pins takes O(P log P) operations.
    Source: J. Gray and S. Kourtis, "Hyper-optimized tensor network contraction",
    Quantum 5, 410 (2021), section 4.2; see :func:`smallest_cut` for the bisection.
    """
    n = len(network.legs)
    if n < 2:
        return Tree(np.empty((0, 2), np.int32), -math.inf)
    draws = np.random.default_rng(seed)
    share = (1.0 + draws.uniform(*_IMBALANCES)) / 2.0
    lists = incidence(network)
    place = np.full(n, -1, np.int64)
    children = np.full((2 * n - 1, 2), -1, np.int32)
    free = 2 * n - 2
    stack = [(np.arange(n), free)]
    while stack:
        members, node = stack.pop()
        m = len(members)
        late = time.perf_counter() > deadline
        if m <= _SMALL_PART or late:
            part = PlanningNetwork(
                network.legs[members], _open_legs(members, place, network.output, lists), *network[2:]
            )
            steps = random_greedy(
                part, seed=int(draws.integers(2**63)), n_trials=1 if late or m < 4 else _TRIALS_BELOW
            ).pairs
            inner = np.append(np.arange(free - m + 2, free), node)
            children[inner] = np.append(members, inner)[steps]
            free -= m - 2
            continue
        graph = _Hypergraph(*_part_of(members, place, lists, _STEPS_A_UNIT, _OPEN_WEIGHT))
        on_right = smallest_cut(graph, math.ceil(share * int(graph.vertex_weight.sum())), draws)
        for side, part_members in enumerate((members[~on_right], members[on_right])):
            if len(part_members) == 1:
                children[node, side] = part_members[0]
            else:
                free -= 1
                children[node, side] = free
                stack.append((part_members, free))
    pairs = pairs_of_children(children)
    return Tree(pairs, log2_macs(network, pairs))


def hypergraph(network: PlanningNetwork) -> _Hypergraph:
    """Return the hypergraph of all operands, each of weight 1 and more for its indices of the output."""
    n = len(network.legs)
    members, place = np.arange(n), np.full(n, -1, np.int64)
    return _Hypergraph(*_part_of(members, place, incidence(network), _STEPS_A_UNIT, _OPEN_WEIGHT))


def smallest_cut(graph: _Hypergraph, most: int, draws: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return which vertices are on the right of a small cut with at most ``most`` of the weight on each side.

    Vertices are matched along their heaviest nets until few are left; halves grown there from several vertices are
    refined by moves of single vertices (Fiduccia and Mattheyses), and so again at each finer level. Neither side is
    empty. Source: G. Karypis, R. Aggarwal, V. Kumar and S. Shekhar, "Multilevel hypergraph partitioning:
    applications in VLSI domain", IEEE Trans. VLSI 7, 69 (1999); C. M. Fiduccia and R. M. Mattheyses,
    "A linear-time heuristic for improving network partitions", DAC 1982.
    """
    total = int(graph.vertex_weight.sum())
    most = min(max(most, (total + 1) // 2), total - 1)
    noise = draws.integers(2**63, size=1, dtype=np.uint64)
    levels, clusters = [graph], []
    while (n := len(levels[-1].vertex_weight)) > _COARSEST:
        cluster, n_clusters = _matching(levels[-1], max(1, total // (_COARSEST // 2)), noise)
        if n_clusters > _LEAST_SHRINK * n:
            break
        clusters.append(cluster)
        levels.append(_Hypergraph(*_contracted(levels[-1], cluster, n_clusters)))
    side = _best_start(levels[-1], most, noise, _STARTS)
    for level, cluster in zip(reversed(levels[:-1]), reversed(clusters), strict=True):
        side = side[cluster]
        _refine(level, side, most, _PASSES)
    if side.min() == side.max():  # vertices too heavy to move one by one
        side[:] = 0
        side[: len(side) // 2] = 1
    return side.astype(np.bool_)


@jit
def _open_legs(members: Any, place: Any, output: Any, lists: Any) -> Any:
    """Return the indices of a part that stand outside it too."""
    row = np.zeros_like(output)
    for v in members:
        place[v] = 0
    for v in members:
        for e in range(lists.first_leg[v], lists.first_leg[v + 1]):
            i = lists.legs[e]
            outside = lists.in_output[i]
            for c in range(lists.first_carrier[i], lists.first_carrier[i + 1]):
                outside |= place[lists.carriers[c]] < 0
            if outside:
                row[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
    for v in members:
        place[v] = -1
    return row


@jit
def _part_of(members: Any, place: Any, lists: Any, steps_a_unit: float, open_weight: float) -> Any:
    """Return the hypergraph of a part: its operands are vertices, the indices that two of them carry are nets."""
    for k in range(len(members)):
        place[members[k]] = k
    n_pins, n_nets = 0, 0
    for k in range(len(members)):
        n_pins += lists.first_leg[members[k] + 1] - lists.first_leg[members[k]]
    first_pin = np.zeros(n_pins // 2 + 1, np.int64)
    pins = np.empty(n_pins, np.int32)
    weight = np.empty(n_pins // 2, np.int64)
    end = 0
    for k in range(len(members)):
        for e in range(lists.first_leg[members[k]], lists.first_leg[members[k] + 1]):
            i = lists.legs[e]
            start = end
            for c in range(lists.first_carrier[i], lists.first_carrier[i + 1]):
                p = place[lists.carriers[c]]
                if p < 0:
                    continue
                if p < k:  # this net stands there since its first vertex
                    end = start
                    break
                pins[end] = p
                end += 1
            if end - start < 2:
                end = start
                continue
            weight[n_nets] = max(1, round(steps_a_unit * lists.log2_sizes[i]))
            n_nets += 1
            first_pin[n_nets] = end
    vertex_weight = np.ones(len(members), np.int64)
    for k in range(len(members)):
        for e in range(lists.first_leg[members[k]], lists.first_leg[members[k] + 1]):
            i = lists.legs[e]
            outside = lists.in_output[i]
            for c in range(lists.first_carrier[i], lists.first_carrier[i + 1]):
                outside |= place[lists.carriers[c]] < 0
            if outside:
                vertex_weight[k] += round(open_weight * lists.log2_sizes[i])
    for k in range(len(members)):
        place[members[k]] = -1
    first_pin = first_pin[: n_nets + 1].copy()
    first_net, nets = _transposed(first_pin, pins, len(members))
    return first_pin, pins[:end].copy(), first_net, nets, vertex_weight, weight[:n_nets].copy()


@jit
def _transposed(first_pin: Any, pins: Any, n: int) -> Any:
    first_net = np.zeros(n + 1, np.int64)
    for p in range(first_pin[-1]):
        first_net[pins[p] + 1] += 1
    for v in range(n):
        first_net[v + 1] += first_net[v]
    nets = np.empty(first_pin[-1], np.int32)
    filled = first_net[:-1].copy()
    for e in range(len(first_pin) - 1):
        for p in range(first_pin[e], first_pin[e + 1]):
            nets[filled[pins[p]]] = e
            filled[pins[p]] += 1
    return first_net, nets


@jit
def _random_below(noise: Any, n: int) -> Any:
    """Return a random integer below n."""
    return np.int64(random_word(noise) >> np.uint64(1)) % n


@jit
def _matching(graph: Any, heaviest: int, noise: Any) -> Any:
    """Pair each vertex with the one it shares most with: the weights of common nets, over their pins less one."""
    n = len(graph.vertex_weight)
    order = np.arange(n)
    for k in range(n - 1, 0, -1):
        j = _random_below(noise, k + 1)
        order[k], order[j] = order[j], order[k]
    cluster = np.full(n, -1, np.int64)
    rating = np.zeros(n)
    touched = np.empty(n, np.int64)
    n_clusters = 0
    for v in order:
        if cluster[v] >= 0:
            continue
        n_touched = 0
        for e in graph.nets[graph.first_net[v] : graph.first_net[v + 1]]:
            n_pins = graph.first_pin[e + 1] - graph.first_pin[e]
            if n_pins > _LARGEST_RATED:
                continue
            for u in graph.pins[graph.first_pin[e] : graph.first_pin[e + 1]]:
                if u == v or cluster[u] >= 0:
                    continue
                if rating[u] == 0.0:
                    touched[n_touched] = u
                    n_touched += 1
                rating[u] += graph.net_weight[e] / (n_pins - 1.0)
        best, most = -1, 0.0
        for t in range(n_touched):
            u = touched[t]
            weight = graph.vertex_weight[u] + graph.vertex_weight[v]
            if weight <= heaviest and rating[u] / weight > most:
                best, most = u, rating[u] / weight
            rating[u] = 0.0
        cluster[v] = n_clusters
        if best >= 0:
            cluster[best] = n_clusters
        n_clusters += 1
    return cluster, n_clusters


@jit
def _contracted(graph: Any, cluster: Any, n_clusters: int) -> Any:
    """Return the hypergraph of the clusters; nets within one cluster are gone."""
    vertex_weight = np.zeros(n_clusters, np.int64)
    for v in range(len(cluster)):
        vertex_weight[cluster[v]] += graph.vertex_weight[v]
    n_nets = 0
    first_pin = np.zeros(len(graph.net_weight) + 1, np.int64)
    pins = np.empty_like(graph.pins)
    net_weight = np.empty_like(graph.net_weight)
    mark = np.full(n_clusters, -1, np.int64)
    end = 0
    for e in range(len(graph.net_weight)):
        start = end
        for v in graph.pins[graph.first_pin[e] : graph.first_pin[e + 1]]:
            if mark[cluster[v]] != e:
                mark[cluster[v]] = e
                pins[end] = cluster[v]
                end += 1
        if end - start < 2:
            end = start
            continue
        net_weight[n_nets] = graph.net_weight[e]
        n_nets += 1
        first_pin[n_nets] = end
    first_pin = first_pin[: n_nets + 1].copy()
    first_net, nets = _transposed(first_pin, pins, n_clusters)
    return first_pin, pins[:end].copy(), first_net, nets, vertex_weight, net_weight[:n_nets].copy()


@jit
def _best_start(graph: Any, most: int, noise: Any, n_starts: int) -> Any:
    """Grow right sides from random vertices, by the least cut, refine them, and return the best."""
    n = len(graph.vertex_weight)
    total = graph.vertex_weight.sum()
    best = np.zeros(n, np.int8)
    least = np.int64(-1)
    for _ in range(n_starts):
        side = np.zeros(n, np.int8)
        gain = np.empty(n, np.int64)
        pins_right = np.zeros(len(graph.net_weight), np.int64)
        for v in range(n):
            gain[v] = -graph.net_weight[graph.nets[graph.first_net[v] : graph.first_net[v + 1]]].sum()
        goal = total - most + _random_below(noise, 2 * most - total + 1)
        weight, v = 0, _random_below(noise, n)
        while weight < goal:
            side[v] = 1
            weight += graph.vertex_weight[v]
            for e in graph.nets[graph.first_net[v] : graph.first_net[v + 1]]:
                pins_right[e] += 1
                n_pins = graph.first_pin[e + 1] - graph.first_pin[e]
                change = graph.net_weight[e] * ((pins_right[e] == 1) + (pins_right[e] == n_pins - 1))
                if change:
                    for u in graph.pins[graph.first_pin[e] : graph.first_pin[e + 1]]:
                        gain[u] += change
            v = -1
            for u in range(n):
                if side[u] == 0 and (v < 0 or gain[u] > gain[v]):
                    v = u
            if v < 0:
                break
        cut = _refine(graph, side, most, _PASSES)
        if side.min() < side.max() and (least < 0 or cut < least):
            best, least = side, cut
    return best


@jit
def _refine(graph: Any, side: Any, most: int, n_passes: int) -> Any:
    """Move single vertices, each once a pass, best gain first; keep the best of all states; return its cut."""
    n, n_nets = len(graph.vertex_weight), len(graph.net_weight)
    gain = np.empty(n, np.int64)
    count = np.empty((n_nets, 2), np.int64)
    largest = np.int64(0)
    for v in range(n):
        largest = max(largest, graph.net_weight[graph.nets[graph.first_net[v] : graph.first_net[v + 1]]].sum())
    buckets = np.empty((2, 2 * largest + 1), np.int64)
    following, previous = np.empty(n, np.int64), np.empty(n, np.int64)
    top = np.empty(2, np.int64)
    moves = np.empty(n, np.int64)
    weight = np.zeros(2, np.int64)
    cut = np.int64(0)
    for _ in range(n_passes):
        cut = _first_gains(graph, side, gain, count, weight)
        buckets[:] = -1
        top[:] = -1
        for v in range(n):
            _link(v, side[v], gain[v] + largest, buckets, following, previous, top)
        before, best, n_best, n_moves = cut, cut, 0, 0
        excess = max(weight[0], weight[1], most) - most
        while n_moves < n and n_moves - n_best < max(25, n // 8):
            v = _next_vertex(graph, weight, most, buckets, following, top)
            if v < 0:
                break
            _unlink(v, side[v], gain[v] + largest, buckets, following, previous)
            moves[n_moves] = v
            n_moves += 1
            cut -= gain[v]
            _move(graph, v, side, gain, count, largest, buckets, following, previous, top)
            weight[1 - side[v]] -= graph.vertex_weight[v]
            weight[side[v]] += graph.vertex_weight[v]
            new_excess = max(weight[0], weight[1], most) - most
            if min(weight[0], weight[1]) > 0 and (new_excess < excess or (new_excess == excess and cut < best)):
                best, n_best, excess = cut, n_moves, new_excess
        for k in range(n_best, n_moves):
            side[moves[k]] = 1 - side[moves[k]]
        cut = best
        if n_best == 0 or best >= before:
            break
    return cut


@jit
def _first_gains(graph: Any, side: Any, gain: Any, count: Any, weight: Any) -> Any:
    """Compute what moving each vertex takes off the cut; return the cut."""
    count[:] = 0
    weight[:] = 0
    for v in range(len(side)):
        weight[side[v]] += graph.vertex_weight[v]
        for e in graph.nets[graph.first_net[v] : graph.first_net[v + 1]]:
            count[e, side[v]] += 1
    cut = np.int64(0)
    for e in range(len(count)):
        if count[e, 0] and count[e, 1]:
            cut += graph.net_weight[e]
    for v in range(len(side)):
        gain[v] = 0
        for e in graph.nets[graph.first_net[v] : graph.first_net[v + 1]]:
            if count[e, side[v]] == 1:
                gain[v] += graph.net_weight[e]
            if count[e, 1 - side[v]] == 0:
                gain[v] -= graph.net_weight[e]
    return cut


@jit
def _next_vertex(graph: Any, weight: Any, most: int, buckets: Any, following: Any, top: Any) -> int:
    """Return the unmoved vertex of best gain that the other side has room for, or -1."""
    best, best_gain = -1, -1
    for side in range(2):
        if weight[1 - side] >= most:
            continue
        while top[side] >= 0 and buckets[side, top[side]] < 0:
            top[side] -= 1
        g = top[side]
        while g > best_gain or (g == best_gain and g >= 0 and weight[side] > weight[1 - side]):
            v = buckets[side, g]
            while v >= 0 and weight[1 - side] + graph.vertex_weight[v] > most:
                v = following[v]
            if v >= 0:
                best, best_gain = v, g
                break
            g -= 1
            if g < 0:
                break
    return best


@jit
def _move(
    graph: Any,
    v: int,
    side: Any,
    gain: Any,
    count: Any,
    largest: int,
    buckets: Any,
    following: Any,
    previous: Any,
    top: Any,
) -> None:
    """Change the side of an unlinked vertex, and the gains of those linked yet that share a net with it."""
    old, new = side[v], 1 - side[v]
    side[v] = new
    for e in graph.nets[graph.first_net[v] : graph.first_net[v + 1]]:
        w = graph.net_weight[e]
        came_first, came_second = count[e, new] == 0, count[e, new] == 1
        count[e, old] -= 1
        count[e, new] += 1
        left_none, left_one = count[e, old] == 0, count[e, old] == 1
        if not (came_first or came_second or left_none or left_one):
            continue
        for u in graph.pins[graph.first_pin[e] : graph.first_pin[e + 1]]:
            if u == v or previous[u] == -2:
                continue
            change = 0
            if came_first:
                change += w
            if left_none:
                change -= w
            if came_second and side[u] == new:
                change -= w
            if left_one and side[u] == old:
                change += w
            if change:
                _unlink(u, side[u], gain[u] + largest, buckets, following, previous)
                gain[u] += change
                _link(u, side[u], gain[u] + largest, buckets, following, previous, top)


@jit
def _link(v: int, side: int, g: int, buckets: Any, following: Any, previous: Any, top: Any) -> None:
    first = buckets[side, g]
    following[v], previous[v] = first, -1
    if first >= 0:
        previous[first] = v
    buckets[side, g] = v
    top[side] = max(top[side], g)


@jit
def _unlink(v: int, side: int, g: int, buckets: Any, following: Any, previous: Any) -> None:
    if previous[v] >= 0:
        following[previous[v]] = following[v]
    else:
        buckets[side, g] = following[v]
    if following[v] >= 0:
        previous[following[v]] = previous[v]
    previous[v] = -2  # moved
