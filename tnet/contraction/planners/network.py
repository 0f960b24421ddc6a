"""What a planner sees of a network: which operand carries which index, as bits, and the size of each index."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PlanningNetwork", "planning_network"]


class PlanningNetwork(NamedTuple):
    """A hypergraph of n operands; its indices are the bits of W words.

    Parameters
    ----------
    legs : uint64 array of shape (n, W)
        Bit b of word w of row k is set where operand k carries the index.
    output : uint64 array of shape (W,)
        The indices of the result.
    log2_sizes : float64 array of shape (W,)
        Base-2 logarithm of the size of every index of a word: a word holds only indices of one size, so that the
        elements of a tensor with legs ``x`` are ``2 ** sum(popcount(x) * log2_sizes)``.
    indices : int64 array of shape (W, 64)
        The index of the network that each bit stands for, -1 for bits without one.
    """

    legs: npt.NDArray[np.uint64]
    output: npt.NDArray[np.uint64]
    log2_sizes: npt.NDArray[np.float64]
    indices: npt.NDArray[np.int64]


def planning_network(
    inputs: Sequence[Collection[int]], output: Collection[int], sizes: Sequence[int]
) -> PlanningNetwork:
    """Return the planner's view of a network.

    Parameters
    ----------
    inputs : sequence of collection of int
        Index numbers of each operand.
    output : collection of int
    sizes : sequence of int
        Size of each index.

    Notes
    -----
    Indices of size 1, and of size 0, cost nothing and are left out; so is an index of one operand alone that is not
    in the output: it is summed before the first step.
    """
    carriers = [0] * len(sizes)
    for indices in (*inputs, output):
        for i in set(indices):
            carriers[i] += 1
    by_size: dict[int, list[int]] = {}
    for i, (n, size) in enumerate(zip(carriers, sizes, strict=True)):
        if n > 1 and size > 1:
            by_size.setdefault(size, []).append(i)
    words: list[tuple[int, list[int]]] = []
    for size, members in sorted(by_size.items()):
        words += [(size, members[k : k + 64]) for k in range(0, len(members), 64)]
    n_words = max(len(words), 1)
    place = {i: (w, b) for w, (_, members) in enumerate(words) for b, i in enumerate(members)}
    table = np.full((n_words, 64), -1, dtype=np.int64)
    for i, (w, b) in place.items():
        table[w, b] = i
    rows = np.zeros((len(inputs) + 1, n_words), dtype=np.uint64)
    for k, indices in enumerate((*inputs, output)):
        for i in set(indices):
            if i in place:
                w, b = place[i]
                rows[k, w] |= np.uint64(1 << b)
    log2_sizes = np.array([math.log2(size) for size, _ in words] or [0.0], dtype=np.float64)
    return PlanningNetwork(rows[:-1].copy(), rows[-1].copy(), log2_sizes, table)
