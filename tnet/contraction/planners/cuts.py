"""What cutting one index more does to the cost and the memory of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.bits import weight, weight_of_union
from tnet.contraction.planners.network import PlanningNetwork
from tnet.contraction.planners.trees import legs_of_nodes

__all__ = ["Cuts", "weigh_cuts"]

_LOG2_OF_SMALL = 6.0  # what has less than 1/64 of the elements of the largest frees nothing worth a cut


class Cuts(NamedTuple):
    """Cuts of one index more, each into a prime number of parts.

    Parameters
    ----------
    indices : int64 array of shape (m,)
    log2_macs : float64 array of shape (m,)
        Of all slices; steps below which nothing is cut count once.
    log2_peak : float64 array of shape (m,)
        Most elements of intermediates alive at once, within one slice.
    """

    indices: npt.NDArray[np.int64]
    log2_macs: npt.NDArray[np.float64]
    log2_peak: npt.NDArray[np.float64]


def weigh_cuts(
    network: PlanningNetwork,
    pairs: npt.NDArray[np.int32],
    touched: npt.NDArray[np.bool_],
    log2_slices: float,
    parts: Sequence[int],
) -> Cuts:
    """Weigh a cut of each index that an array alive at the peak carries.

    Parameters
    ----------
    network : PlanningNetwork
        With the sizes within one slice.
    pairs : int32 array of shape (n - 1, 2)
        In the order of evaluation.
    touched : bool array of shape (n,)
        Operands that carry an index cut already.
    log2_slices : float
        Base-2 logarithm of the number of slices made by those cuts.
    parts : sequence of int
        For each index, the number of parts that it would be cut into.

    Returns
    -------
    Cuts
        O(m n) for m indices.
    """
    legs = legs_of_nodes(network.legs, network.output, pairs)
    at_peak = _legs_at_peak(legs, pairs, network.log2_sizes)
    words, bits = np.nonzero((at_peak[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1))
    indices = network.indices[words, bits]
    log2_parts = np.log2([parts[i] for i in indices]) if len(indices) else np.zeros(0)
    slices = log2_slices + log2_parts
    macs, peaks = _weigh(legs, pairs, touched, network.log2_sizes, words, bits.astype(np.uint64), log2_parts, slices)
    return Cuts(indices, macs, peaks)


@jit
def _legs_at_peak(legs: Any, pairs: Any, log2_sizes: Any) -> Any:
    """Return the union of the legs of what is alive at the step that holds most."""
    n = pairs.shape[0] + 1
    weights = np.empty(legs.shape[0])
    for v in range(legs.shape[0]):
        weights[v] = weight(legs[v], log2_sizes)
    largest = weights[n:].max()
    live, most, step = 0.0, -1.0, 0
    for k in range(n - 1):
        live += 2.0 ** (weights[n + k] - largest)
        if live > most:
            most, step = live, k
        for side in range(2):
            if pairs[k, side] >= n:
                live -= 2.0 ** (weights[pairs[k, side]] - largest)
    union = np.zeros(legs.shape[1], legs.dtype)
    used = np.zeros(legs.shape[0], np.bool_)
    for k in range(step):
        used[pairs[k, 0]] = used[pairs[k, 1]] = True
    for v in range(n, n + step + 1):
        if not used[v] and weights[v] > largest - _LOG2_OF_SMALL:
            union |= legs[v]
    for side in range(2):
        if weights[pairs[step, side]] > largest - _LOG2_OF_SMALL:
            union |= legs[pairs[step, side]]
    return union


@jit
def _weigh(
    legs: Any, pairs: Any, touched: Any, log2_sizes: Any, words: Any, bits: Any, log2_parts: Any, log2_slices: Any
) -> Any:
    n = pairs.shape[0] + 1
    weights = np.empty(legs.shape[0])
    costs = np.empty(n - 1)
    for v in range(legs.shape[0]):
        weights[v] = weight(legs[v], log2_sizes)
    for k in range(n - 1):
        costs[k] = weight_of_union(legs[pairs[k, 0]], legs[pairs[k, 1]], log2_sizes)
    largest, dearest = weights[n:].max(), costs.max()
    macs = np.empty(words.size)
    peaks = np.empty(words.size)
    below = np.empty(legs.shape[0], np.bool_)
    one = np.uint64(1)
    for c in range(words.size):
        w, bit, cut = words[c], bits[c], log2_parts[c]
        for v in range(n):
            below[v] = touched[v] or (legs[v, w] >> bit) & one
        total, live, most = 0.0, 0.0, 0.0
        for k in range(n - 1):
            a, b = pairs[k]
            below[n + k] = below[a] or below[b]
            carried = ((legs[a, w] | legs[b, w]) >> bit) & one
            log2_step = costs[k] - (cut if carried else 0.0) + (log2_slices[c] if below[n + k] else 0.0)
            total += 2.0 ** (log2_step - dearest)
            live += 2.0 ** (weights[n + k] - (cut if (legs[n + k, w] >> bit) & one else 0.0) - largest)
            most = max(most, live)
            for side in range(2):
                v = pairs[k, side]
                if v >= n:
                    live -= 2.0 ** (weights[v] - (cut if (legs[v, w] >> bit) & one else 0.0) - largest)
        macs[c] = dearest + np.log2(total)
        peaks[c] = largest + np.log2(most)
    return macs, peaks
