"""Simulated annealing on contraction trees: rotations, each judged by the two steps that it changes."""

from __future__ import annotations

import math
import time
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.bits import count_bits, weight, weight_of_union
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.noise import random_word, uniform_of_word
from tnet.contraction.planners.trees import Tree, legs_of_nodes, log2_macs, pairs_of_children

__all__ = ["anneal"]

_WORK_A_PIECE = 3_000_000
"""Words of legs looked at between two looks at the clock: about 20 ms."""

_PRICE_OF_SIZE = 0.1  # a step more of size above the target, in steps of multiply-adds: more freezes the search

_WORDS_A_MOVE = 20
"""What a rotation costs besides its legs, in words of legs."""


class _State(NamedTuple):
    """A tree that changes in place: the leaves are nodes 0 to n - 1, the last node is the root."""

    children: npt.NDArray[np.int32]  # (2n - 1, 2), -1 at leaves
    legs: npt.NDArray[np.uint64]
    macs: npt.NDArray[np.float64]  # of the step that makes a node, base-2 logarithm
    size: npt.NDArray[np.float64]  # of a node, base-2 logarithm of its elements
    log2_sizes: npt.NDArray[np.float64]
    best: npt.NDArray[np.int32]  # children of the best tree so far
    best_score: npt.NDArray[np.float64]
    noise: npt.NDArray[np.uint64]


def anneal(
    network: PlanningNetwork,
    pairs: np.ndarray,
    *,
    seed: int,
    n_sweeps: int,
    beta: tuple[float, float] = (1.0, 10.0),
    log2_size_target: float | None = None,
    keep: Literal["best", "last"] = "best",
    deadline: float = math.inf,
) -> Tree:
    r"""Return the best tree that simulated annealing meets on its way, or the tree given.

    A sweep visits each inner node p = ((a b) c) and offers it ((a c) b) or ((b c) a), of equal chance. With the
    multiply-adds f of the two steps before and f' after, the rotation is taken with probability
    :math:`\min(1, e^{-\beta \Delta})`, :math:`\Delta = \log_2 (f'_1 + f'_2) - \log_2 (f_1 + f_2)`: a relative change,
    so that cheap corners of the tree are ordered like its dear ones. All other nodes keep their legs:
    with D the legs of p, those of the new inner node are :math:`(A \cup C) \cap (B \cup D)`.

    Parameters
    ----------
    network : PlanningNetwork
    pairs : int32 array of shape (n - 1, 2)
        The start.
    seed : int
        One seed gives one tree, unless the deadline shortens the schedule.
    n_sweeps : int
        Visits of each node.
    beta : pair of float
        Inverse temperature of the first and the last sweep; it grows by equal steps.
    log2_size_target : float or None
        Base-2 logarithm of the elements wanted at most in an intermediate result. What is above counts like
        multiply-adds: a tree is judged by ``log2_macs + max(0, log2_size - log2_size_target)``, with the size of its
        largest intermediate, for that is the price of slicing a tree badly.
    keep : {"best", "last"}
        "last" returns the tree of the last sweep, which may cost more than the start: another good tree near by.
    deadline : float
        Value of ``time.perf_counter()`` at which the search ends. Where it comes before the last sweep, the
        temperature falls faster, so that it still ends at its lowest.

    Returns
    -------
    Tree
        Never worse than the start, if the best is kept.

    Notes
    -----
    A move takes O(W) operations for W words of legs; memory is O(n W). Source: G. Kalachev, P. Panteleev and
    M.-H. Yung, "Multi-tensor contraction for XEB verification of quantum circuits", arXiv:2108.05665, section on
    the optimisation of contraction trees.
    """
    n = len(network.legs)
    if n < 2:
        return Tree(np.empty((0, 2), np.int32), -math.inf)
    target = math.inf if log2_size_target is None else float(log2_size_target)
    state = _state_of(network, np.ascontiguousarray(pairs, dtype=np.int32), seed)
    _keep_if_best(state, target)
    most = max(1, _WORK_A_PIECE // (n * (state.legs.shape[1] + _WORDS_A_MOVE)))
    started = time.perf_counter()
    progress, sweeps, step = 0.0, 0, 1.0 / max(n_sweeps, 1)
    while n > 2 and progress < 1.0 - 1e-9 and n_sweeps > 0:
        # The first piece is short: it tells how many sweeps are to be had before the deadline.
        piece = min(most if sweeps else max(1, most // 8), math.ceil((1.0 - progress) / step - 1e-9))
        first = beta[0] + progress * (beta[1] - beta[0])
        _sweep(state, piece, float(first), step * (beta[1] - beta[0]), target, _PRICE_OF_SIZE)
        progress, sweeps, now = progress + piece * step, sweeps + piece, time.perf_counter()
        if now >= deadline:
            break
        seconds_a_sweep = (now - started) / sweeps
        step = max(1.0 / n_sweeps, (1.0 - progress) * seconds_a_sweep / (deadline - now))
    found = pairs_of_children(state.best if keep == "best" else state.children)
    return Tree(found, log2_macs(network, found))


def _state_of(network: PlanningNetwork, pairs: np.ndarray, seed: int) -> _State:
    n = len(network.legs)
    children = np.full((2 * n - 1, 2), -1, np.int32)
    children[n:] = pairs
    legs = legs_of_nodes(network.legs, network.output, pairs)
    macs, size = _weights(children, legs, network.log2_sizes)
    noise = np.array([seed % 2**64], np.uint64)
    return _State(children, legs, macs, size, network.log2_sizes, children.copy(), np.array([math.inf]), noise)


@jit
def _weights(children: Any, legs: Any, log2_sizes: Any) -> Any:
    macs, size = np.zeros(len(children)), np.zeros(len(children))
    for v in range(len(children) // 2 + 1, len(children)):
        macs[v] = weight_of_union(legs[children[v, 0]], legs[children[v, 1]], log2_sizes)
        size[v] = weight(legs[v], log2_sizes)
    return macs, size


def _sweep_loop(state: Any, n_sweeps: int, beta: float, step: float, target: float, price: float) -> None:
    """Visit all inner nodes ``n_sweeps`` times, the inverse temperature growing by ``step`` a sweep."""
    children, legs, macs, size = state.children, state.legs, state.macs, state.size
    n_nodes, n_words = legs.shape
    n = (n_nodes + 1) // 2
    one = np.uint64(1)
    for _ in range(n_sweeps):
        for p in range(n_nodes - 1, n - 1, -1):
            z = random_word(state.noise)
            side = np.int64(z & one)
            x = children[p, side]
            if x < n:
                side = 1 - side
                x = children[p, side]
                if x < n:
                    continue
            stays = np.int64((z >> one) & one)
            a, b, c = children[x, stays], children[x, 1 - stays], children[p, 1 - side]
            macs_x, macs_p = 0.0, 0.0
            for w in range(n_words):
                union = legs[a, w] | legs[c, w]
                macs_x += count_bits(union) * state.log2_sizes[w]
                macs_p += count_bits((union & legs[p, w]) | legs[b, w]) * state.log2_sizes[w]
            # Taken where the cost grows by less than an exponential variate over beta.
            room = -math.log(uniform_of_word(z)) / beta
            size_x = 0.0
            if target < math.inf:
                for w in range(n_words):
                    size_x += count_bits((legs[a, w] | legs[c, w]) & (legs[b, w] | legs[p, w])) * state.log2_sizes[w]
                room += price * (max(0.0, size[x] - target) - max(0.0, size_x - target))
            if not _is_less(macs_x, macs_p, macs[x], macs[p], room):
                continue
            for w in range(n_words):
                legs[x, w] = (legs[a, w] | legs[c, w]) & (legs[b, w] | legs[p, w])
            macs[x], macs[p], size[x] = macs_x, macs_p, size_x
            children[x, 0], children[x, 1] = a, c
            children[p, 0], children[p, 1] = x, b
        beta += step
        _keep_if_best(state, target)


@jit
def _is_less(new_1: float, new_2: float, old_1: float, old_2: float, room: float) -> bool:
    """Return whether log2(2**new_1 + 2**new_2) <= log2(2**old_1 + 2**old_2) + room; mostly the largest tell."""
    new, old = max(new_1, new_2), max(old_1, old_2) + room
    if new > old + 1.0:
        return False
    if new + 1.0 <= old:
        return True
    new += math.log2(1.0 + 2.0 ** (min(new_1, new_2) - new))
    return new <= old + math.log2(1.0 + 2.0 ** (min(old_1, old_2) + room - old))


@jit
def _keep_if_best(state: Any, target: float) -> None:
    n = (len(state.macs) + 1) // 2
    largest, largest_size = state.macs[n], state.size[n]
    for v in range(n, len(state.macs)):
        largest = max(largest, state.macs[v])
        largest_size = max(largest_size, state.size[v])
    total = 0.0
    for v in range(n, len(state.macs)):
        total += 2.0 ** (state.macs[v] - largest)
    score = largest + math.log2(total) + max(0.0, largest_size - target)
    if score < state.best_score[0]:
        state.best_score[0] = score
        state.best[:] = state.children


_sweep = jit(_sweep_loop, fastmath=frozenset({"reassoc"}))
