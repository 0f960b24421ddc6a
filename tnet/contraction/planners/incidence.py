"""The indices of each operand and the operands of each index, as compressed rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tnet.contraction.planners.network import PlanningNetwork

__all__ = ["Incidence", "incidence"]

_BITS_A_BLOCK = 1 << 26


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
    n, n_words = network.legs.shape
    operands, legs = [], []
    rows = max(1, _BITS_A_BLOCK // (64 * n_words))
    for start in range(0, n, rows):
        operand, leg = np.nonzero(_bits(network.legs[start : start + rows]))
        operands.append(operand + start)
        legs.append(leg)
    operand, leg = np.concatenate(operands).astype(np.int32), np.concatenate(legs).astype(np.int32)
    by_index = np.argsort(leg, kind="stable")
    return Incidence(
        first_leg=np.searchsorted(operand, np.arange(n + 1)),
        legs=leg,
        first_carrier=np.searchsorted(leg[by_index], np.arange(64 * n_words + 1)),
        carriers=operand[by_index],
        in_output=_bits(network.output[None])[0].astype(np.bool_),
        log2_sizes=np.repeat(network.log2_sizes, 64),
    )


def _bits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    octets = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little")
