"""The loop behind lower convex hulls, compiled."""

# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import numpy as np

from tnet.arrays.compiled import jit

__all__ = ["chain"]


@jit
def chain(weights, costs, order):  # type: ignore[no-untyped-def]
    """Return which points make ``slope * weight + cost`` least for some slope >= 0; ``order`` sorts the weights."""
    kept = np.empty(len(order), dtype=np.int64)
    n = 0
    least = np.inf
    for k in order:
        c, w = costs[k], weights[k]
        if not c < least:
            continue
        least = c
        if n and weights[kept[n - 1]] == w:
            n -= 1
        while n > 1:
            i, j = kept[n - 2], kept[n - 1]
            if (costs[j] - costs[i]) * (w - weights[i]) < (c - costs[i]) * (weights[j] - weights[i]):
                break
            n -= 1
        kept[n] = k
        n += 1
    return kept[:n].copy()
