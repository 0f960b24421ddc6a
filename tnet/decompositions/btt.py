"""Block tensor train of a matrix: every block at its best low rank, in the plain or a weighted norm."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from tnet.algebra import bounded_ranks
from tnet.arrays import Array, array_namespace, as_array, astype, scale_by_power_of_two
from tnet.decompositions.block_svd import BlockFactors, block_factors, residual
from tnet.decompositions.btt_fit import blocks_of, fit_blocks
from tnet.decompositions.iteration import warn_unless_converged
from tnet.decompositions.operator_arguments import checked_digits, checked_weight
from tnet.decompositions.preparation import Prepared, prepare, rescaled
from tnet.decompositions.truncated_basis import error_floor, resolve_method
from tnet.errors import RankError
from tnet.formats import BlockTensorTrain
from tnet.options import Stopping, Truncation, check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["btt"]


def btt(
    w: Array,
    row_shape: Sequence[int],
    column_shape: Sequence[int],
    rank: int | None = None,
    *,
    rtol: float | None = None,
    weight: Array | None = None,
    row_weight: Array | None = None,
    stopping: Stopping = Stopping(max_iter=100, change=1e-4),  # noqa: B008 - frozen
) -> Decomposition[BlockTensorTrain]:
    r"""Decompose a matrix into a block tensor train of two cores; with rank 1, a Monarch matrix.

    .. math:: W_{(i_1 i_2), (j_1 j_2)} \approx \sum_{\rho=1}^r L[i_1, i_2, j_1, \rho] \, R[j_1, \rho, i_1, j_2]

    Parameters
    ----------
    w : array, shape (m_1 m_2, n_1 n_2)
        Real or complex floating point. Not changed; a torch tensor is detached.
    row_shape, column_shape : (int, int)
        ``(m_1, m_2)`` and ``(n_1, n_2)``: ``m_1 x n_1`` blocks of shape ``(m_2, n_2)``.
    rank : int
        r, of each block. Above ``min(m_2, n_2)`` it is clipped with a warning.
    rtol : float
        Relative Frobenius error of the whole matrix, instead of ``rank``; not together with weights.
    weight : array, shape (n, n), optional
        C, Hermitian and positive semidefinite, such as the second moment of a layer's inputs.
    row_weight : array, shape (m, m), optional
        F, likewise, such as the second moment of the gradients of a layer's outputs.
    stopping : Stopping
        Of the weighted fit: sweeps, change of the relative error, seconds.

    Returns
    -------
    Decomposition of BlockTensorTrain
        ``error`` is :math:`\|F^{1/2}(W - W')C^{1/2}\|_F / \|F^{1/2} W C^{1/2}\|_F`, with the identity for a
        weight not given. ``error_kind`` is "exact" without weights and "gram" with them: what a singular
        weight annihilates leaves roundoff, so that errors below about 1e-7 (1e-3 in single precision) are
        not resolved. Ctrl-C after the first sweep returns the best sweep, with status ``INTERRUPTED``.

    Raises
    ------
    RankError
        Both or neither of ``rank`` and ``rtol``, ``rtol`` with weights, a rank that is no positive integer.
    ShapeError
        Digits that are not two or do not multiply to the shape, or a weight of another shape.
    InputError
        A non-finite entry, an empty matrix, a weight that is not Hermitian or not positive semidefinite.
    BackendError
        Integers, or arrays of several libraries or devices.

    Warns
    -----
    ConvergenceWarning
        The weighted fit reached ``max_iter`` or ``max_seconds``.

    Notes
    -----
    Without weights: one truncated SVD a block, all in one batch, which is the best train of this rank [1]_;
    ``m n min(m_2, n_2)`` multiply-adds. By Gram matrices, and where these do not resolve the error (below 1e-6
    in double precision) by SVDs. With weights: blocks in turn, each replaced by the best one beside the others
    (an SVD in whitened variables), ``m n^2`` multiply-adds a sweep and with a row weight ``m^2 n`` more; the
    weighted error never rises. Half precision is fitted, and its error stated, in float32.

    References
    ----------
    .. [1] S. Qiu, A. Potapczynski, M. Finzi, M. Goldblum, A. G. Wilson, "Compute better spent: replacing
       dense layers with structured matrices", ICML 2024.

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> order = np.arange(16).reshape(4, 4).T.ravel()  # by the last of two digits: a Fourier matrix is Monarch
    >>> F = np.exp(2j * np.pi * np.outer(order, order) / 16)
    >>> tnet.btt(F, (4, 4), (4, 4), rtol=1e-10).tensor.rank
    1
    """
    started = time.perf_counter()
    check_rank_or_rtol(rank, rtol)
    weighted = weight is not None or row_weight is not None
    if weighted and rank is None:
        raise RankError("rtol= with a weight is not offered: give rank=.")
    array = as_array(w, "w")
    rows, columns = checked_digits(array, row_shape, column_shape, count=2)
    prepared = prepare(array, "w")
    ranks = None if rank is None else bounded_ranks(rank, [min(rows[1], columns[1])], "block")
    if ranks is not None and weighted:
        F = checked_weight(row_weight, "row_weight", prepared, 0)
        C = checked_weight(weight, "weight", prepared, 1)
        fit = fit_blocks(prepared.array, rows, columns, ranks[0], F, C, stopping)
        warn_unless_converged("btt", fit.status, stopping.change)
        tensor = _train_of(rescaled([fit.tall, fit.wide], 1, prepared))
        seconds = time.perf_counter() - started
        return Decomposition(tensor, fit.error, "gram", fit.status, fit.history, seconds)
    blocks = blocks_of(prepared.array, rows, columns)
    found, error = _projected(blocks, prepared, ranks, rtol)
    parts = rescaled([found.tall, found.wide], 1, prepared)
    if prepared.is_half:
        # The parts as they were rounded, in the scale and precision of the computation.
        tall, wide = (astype(part, prepared.array.dtype) for part in parts)
        error = _relative(residual(blocks, scale_by_power_of_two(tall, -prepared.exponent), wide), prepared)
    tensor = _train_of(parts)
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), time.perf_counter() - started)


def _projected(
    blocks: Array, prepared: Prepared, ranks: tuple[int, ...] | None, rtol: float | None
) -> tuple[BlockFactors, float]:
    """Return the best factors of all blocks and the relative error, by SVDs where Gram matrices do not resolve it."""
    if ranks is not None:
        truncation = Truncation(rank=ranks[0])
    else:
        truncation = Truncation(tail=(rtol or 0.0) * math.sqrt(prepared.squared_norm))
    method = resolve_method("auto", rtol, blocks)
    found = block_factors(blocks, truncation, exactly=method == "tsqr")
    error = _relative(found.discarded, prepared)
    if method != "tsqr" and 0.0 < prepared.squared_norm and error < error_floor("auto", blocks):
        method = "tsqr"
        found = block_factors(blocks, truncation, exactly=True)
        error = _relative(found.discarded, prepared)
    if method == "tsqr" and error < error_floor(method, blocks):
        error = _relative(residual(blocks, found.tall, found.wide), prepared)
    return found, error


def _relative(squared: float, prepared: Prepared) -> float:
    return math.sqrt(squared / prepared.squared_norm) if prepared.squared_norm > 0 else 0.0


def _train_of(parts: Sequence[Array]) -> BlockTensorTrain:
    """Return the train of factors ``(m_1, n_1, m_2, r)`` and ``(m_1, n_1, r, n_2)``."""
    xp = array_namespace(*parts)
    ordered = xp.permute_dims(parts[0], (0, 2, 1, 3)), xp.permute_dims(parts[1], (1, 2, 0, 3))
    # By way of a flat array, so that memory is in this order too: products then need no copy.
    return BlockTensorTrain(*(xp.reshape(xp.reshape(part, (-1,)), tuple(part.shape)) for part in ordered))
