"""The indices of each operand and the operands of each index, as compressed rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.arrays.compiled import jit
from tnet.contraction.planners.bits import count_bits, lowest_bit
from tnet.contraction.planners.network import PlanningNetwork

__all__ = ["Incidence", "incidence"]


class Incidence(NamedTuple):
    """A hypergraph: index ``64 w + b`` is bit b of word w, present or not.

    Parameters
    ----------
    first_leg : int64 array of shape (n + 1,)
        The legs of operand k are ``legs[first_leg[k] : first_leg[k + 1]]``, in ascending order.
    legs : int32 array
    first_carrier : int64 array of shape (64 W + 1,)
        The operands of index i are ``carriers[first_carrier[i] : first_carrier[i + 1]]``, in ascending order.
    carriers : int32 array
    in_output : bool array of shape (64 W,)
    log2_sizes : float64 array of shape (64 W,)
    """

    first_leg: npt.NDArray[np.int64]
    legs: npt.NDArray[np.int32]
    first_carrier: npt.NDArray[np.int64]
    carriers: npt.NDArray[np.int32]
    in_output: npt.NDArray[np.bool_]
    log2_sizes: npt.NDArray[np.float64]


def incidence(network: PlanningNetwork) -> Incidence:
    """Return the lists of legs and of carriers of a network."""
    return Incidence(*_lists(network.legs, network.output, network.log2_sizes))


@jit
def _lists(legs: Any, output: Any, log2_sizes: Any) -> Any:
    n, n_words = legs.shape
    one = np.uint64(1)
    first_leg = np.zeros(n + 1, np.int64)
    for k in range(n):
        first_leg[k + 1] = first_leg[k]
        for w in range(n_words):
            first_leg[k + 1] += np.int64(count_bits(legs[k, w]))
    index_of_leg = np.empty(first_leg[n], np.int32)
    first_carrier = np.zeros(64 * n_words + 1, np.int64)
    e = 0
    for k in range(n):
        for w in range(n_words):
            word = legs[k, w]
            while word:
                i = (w << 6) + lowest_bit(word)
                index_of_leg[e] = i
                first_carrier[i + 1] += 1
                e += 1
                word &= word - one
    in_output = np.empty(64 * n_words, np.bool_)
    log2_of_index = np.empty(64 * n_words)
    for i in range(64 * n_words):
        first_carrier[i + 1] += first_carrier[i]
        in_output[i] = (output[i >> 6] >> np.uint64(i & 63)) & one != 0
        log2_of_index[i] = log2_sizes[i >> 6]
    carriers = np.empty(first_leg[n], np.int32)
    filled = first_carrier[:-1].copy()
    for k in range(n):
        for e in range(first_leg[k], first_leg[k + 1]):
            i = index_of_leg[e]
            carriers[filled[i]] = k
            filled[i] += 1
    return first_leg, index_of_leg, first_carrier, carriers, in_output, log2_of_index
