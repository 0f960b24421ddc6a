"""Sets of indices as rows of 64-bit words, for compiled planners."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from tnet.arrays.compiled import jit

__all__ = ["count_bits", "lowest_bit", "weight", "weight_of_union"]


def _count_bits(typing_context: Any, word: Any) -> Any:
    if not isinstance(word, types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), generate


count_bits: Any = intrinsic(_count_bits)
"""Return the number of bits set in a word: one instruction of the processor."""


@jit
def lowest_bit(word: Any) -> Any:
    """Return the place of the lowest bit that is set, from 0; ``word & (word - 1)`` is the rest."""
    return np.int64(count_bits(~word & (word - np.uint64(1))))


@jit
def weight(row: Any, log2_sizes: Any) -> float:
    """Return the base-2 logarithm of the elements of a tensor with the legs ``row``."""
    total = 0.0
    for w in range(row.size):
        if row[w]:
            total += count_bits(row[w]) * log2_sizes[w]
    return total


@jit
def weight_of_union(a: Any, b: Any, log2_sizes: Any) -> float:
    """Return the base-2 logarithm of the multiply-adds that contracting legs ``a`` with ``b`` takes."""
    total = 0.0
    for w in range(a.size):
        both = a[w] | b[w]
        if both:
            total += count_bits(both) * log2_sizes[w]
    return total
