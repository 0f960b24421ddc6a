"""Truncated singular value decompositions of a stack of matrices, all to one rank."""

from __future__ import annotations

import math
from typing import NamedTuple

from tnet.arrays import Array, adjoint, array_namespace, astype, dtype_name, is_complex, squared_norm, to_numpy
from tnet.options import Truncation

__all__ = ["BlockFactors", "block_factors", "nearest_of_rank", "residual"]

_PANEL = 1 << 20  # elements of the stack that are widened to double precision at a time


class BlockFactors(NamedTuple):
    """``tall`` (..., m, r) times ``wide`` (..., r, n), and the squared norm of what the stack loses."""

    tall: Array
    wide: Array
    discarded: float


def block_factors(Y: Array, truncation: Truncation, *, exactly: bool) -> BlockFactors:
    """Return the best factors of one common rank for a stack of matrices.

    Parameters
    ----------
    Y : array, shape (p, q, m, n)
    truncation : Truncation
        Of the whole stack: a tail is counted over all matrices.
    exactly : bool
        By singular value decompositions, to roundoff; else by the Gram matrices of the shorter side, in
        double precision, which resolve relative errors down to 1e-7.

    Notes
    -----
    ``p q m n min(m, n)`` multiply-adds by Gram and an eigendecomposition of order ``min(m, n)`` for each matrix.
    One of the two factors has orthonormal columns or rows: that of the shorter side.
    """
    xp = array_namespace(Y)
    if exactly:
        U, s, Vh = xp.linalg.svd(Y, full_matrices=False)
        squares = _pooled(s * s)
        r = truncation.keep(squares)
        wide = astype(s[..., :r, None], Y.dtype) * Vh[..., :r, :]
        return BlockFactors(U[..., :r], wide, math.fsum(squares[r:]))
    flip = Y.shape[-2] > Y.shape[-1]
    Z = adjoint(Y) if flip else Y
    values, U = _gram_bases(Z)
    squares = _pooled(values)
    r = truncation.keep(squares)
    U = U[..., :r]
    discarded = math.fsum(squares[r:])
    return BlockFactors(Y @ U, adjoint(U), discarded) if flip else BlockFactors(U, adjoint(U) @ Y, discarded)


def nearest_of_rank(Y: Array, rank: int) -> tuple[Array, Array]:
    """Return factors ``(..., m, r)`` and ``(..., r, n)`` of the nearest matrices of a rank, by Gram matrices."""
    flip = Y.shape[-2] > Y.shape[-1]
    _, U = _gram_bases(adjoint(Y) if flip else Y)
    U = U[..., :rank]
    return (Y @ U, adjoint(U)) if flip else (U, adjoint(U) @ Y)


def residual(Y: Array, tall: Array, wide: Array) -> float:
    """Return the squared norm of ``Y - tall @ wide``, a slab of the stack at a time."""
    step = max(1, _PANEL * 4 // max(1, math.prod(int(n) for n in Y.shape[1:])))
    return math.fsum(
        squared_norm(Y[k : k + step, ...] - tall[k : k + step, ...] @ wide[k : k + step, ...], "the residual")
        for k in range(0, int(Y.shape[0]), step)
    )


def _gram_bases(Z: Array) -> tuple[Array, Array]:
    """Return descending eigenvalues, not negative, and eigenvectors of ``Z Z^H``, these in the dtype of ``Z``."""
    xp = array_namespace(Z)
    G = _grams(Z)
    values, vectors = xp.linalg.eigh(G)
    values = xp.flip(values, axis=-1)
    return xp.where(values > 0, values, xp.zeros_like(values)), astype(xp.flip(vectors, axis=-1), Z.dtype)


def _grams(Z: Array) -> Array:
    xp = array_namespace(Z)
    if dtype_name(Z) in ("float64", "complex128"):
        return Z @ adjoint(Z)
    wide = xp.complex128 if is_complex(Z) else xp.float64
    step = max(1, _PANEL // max(1, math.prod(int(n) for n in Z.shape[1:])))
    grams: list[Array] = []
    for k in range(0, int(Z.shape[0]), step):
        slab = astype(Z[k : k + step, ...], wide)
        grams.append(slab @ adjoint(slab))
    return xp.concat(grams, axis=0)


def _pooled(squares: Array) -> list[float]:
    """Return the sum over the stack of the k-th largest squared singular values, for every k."""
    xp = array_namespace(squares)
    return to_numpy(xp.sum(xp.reshape(squares, (-1, squares.shape[-1])), axis=0, dtype=xp.float64)).tolist()
