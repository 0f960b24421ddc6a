"""The best ranks of a truncated higher-order SVD: the error of all of them at once, from one core."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tnet.algebra import unfold
from tnet.arrays import (
    Array,
    adjoint,
    astype,
    dtype_name,
    gram_truncated,
    to_numpy,
    total_size,
    truncated_eigh,
    ttm_chain,
)
from tnet.decompositions.preparation import Prepared
from tnet.options import Truncation

__all__ = ["packed_by_truncation"]


def packed_by_truncation(
    prepared: Prepared, grams: Sequence[Array], largest: Sequence[int], max_params: int
) -> tuple[tuple[int, ...], float]:
    r"""Return the ranks of the truncated HOSVD with the least error, and the squared norm that it keeps.

    Parameters
    ----------
    prepared : Prepared
        The tensor, of shape (I_1, ..., I_N).
    grams : sequence of array
        Gram matrices of the unfoldings; those of modes longer than the product of the others are not read.
    largest : sequence of int
        Ranks beyond are not looked at.
    max_params : int

    Notes
    -----
    The bases of the HOSVD are nested: with the core S in all singular vectors, ranks r keep
    :math:`\sum_{i \le r} |S_i|^2`. So cumulative sums of :math:`|S|^2` along every mode give what is kept for all
    ranks. Of the last mode each combination of the others needs its largest rank within the budget alone.
    """
    x = prepared.array
    shape = tuple(int(n) for n in x.shape)
    bases = [adjoint(_basis(x, n, G, limit)) for n, (G, limit) in enumerate(zip(grams, largest, strict=True))]
    kept = np.abs(to_numpy(ttm_chain(x, bases, range(x.ndim)))).astype(np.float64) ** 2
    for axis in range(kept.ndim):
        np.cumsum(kept, axis=axis, out=kept)
    # What differs by roundoff is equal.
    eps = np.finfo(np.float32 if dtype_name(x) in ("float32", "complex64") else np.float64).eps
    return _best_corner(kept, shape, max_params, 4 * float(eps) * prepared.squared_norm)


def _basis(x: Array, mode: int, G: Array, rank: int) -> Array:
    """Return the leading left singular vectors of an unfolding."""
    truncation = Truncation(rank=rank)
    if x.shape[mode] ** 2 <= total_size(x.shape):
        return astype(truncated_eigh(G, truncation)[0], x.dtype)
    return astype(gram_truncated(unfold(x, mode), truncation).U, x.dtype)


def _best_corner(
    kept: np.ndarray, shape: tuple[int, ...], max_params: int, roundoff: float
) -> tuple[tuple[int, ...], float]:
    """Return the index, from 1, of the greatest entry whose ranks fit, of the fewest parameters among equal ones."""
    product, size = np.ones((1,) * (kept.ndim - 1)), np.zeros((1,) * (kept.ndim - 1))
    for place, n in zip(np.indices(kept.shape[:-1], sparse=True), shape[:-1], strict=True):
        product = product * (place + 1.0)
        size = size + n * (place + 1.0)
    room = np.floor((max_params - size) / (product + shape[-1]))
    last = np.clip(room, 1, kept.shape[-1]).astype(np.intp)
    values = np.where(room >= 1, np.take_along_axis(kept, last[..., None] - 1, axis=-1)[..., 0], -math.inf)
    enough = float(values.max()) - roundoff
    params = np.where(values >= enough, size + (product + shape[-1]) * last, math.inf)
    others = tuple(int(k) for k in np.unravel_index(int(np.argmin(params)), params.shape))
    # Along the last mode sums rise: the first that is enough.
    rank = 1 + int(np.searchsorted(kept[others], enough))
    return (*(k + 1 for k in others), rank), float(kept[(*others, rank - 1)])
