"""Matrix product operator of a matrix, in the plain or a weighted norm."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tnet.algebra import bounded_ranks
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    as_array,
    astype,
    check_finite,
    is_torch,
    require_floating,
    scale_by_power_of_two,
    total_size,
)
from tnet.decompositions.iteration import warn_unless_converged
from tnet.decompositions.mpo_fit import fit_weighted, interleaved
from tnet.decompositions.preparation import Prepared, prepare, rescaled
from tnet.decompositions.residual import error_after_rounding
from tnet.decompositions.truncated_basis import resolve_method
from tnet.decompositions.tt import rank_limits, train_of
from tnet.errors import InputError, RankError, ShapeError
from tnet.formats import MatrixProductOperator, TensorTrain
from tnet.options import Stopping, check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["mpo"]

_SYMMETRY_TOLERANCE = 1e-3  # of a second moment summed in single precision
_SEMIDEFINITE_TOLERANCE = 1e-5  # of the trace: roundoff of such a sum may push small eigenvalues below 0


def mpo(
    w: Array,
    row_shape: Sequence[int],
    column_shape: Sequence[int],
    rank: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    weight: Array | None = None,
    row_weight: Array | None = None,
    stopping: Stopping = Stopping(max_iter=100, change=1e-4),  # noqa: B008 - frozen
) -> Decomposition[MatrixProductOperator]:
    r"""Decompose a matrix into a matrix product operator.

    .. math:: W_{(i_1 \dots i_d), (j_1 \dots j_d)} \approx G_1[i_1, j_1] \cdots G_d[i_d, j_d]

    Parameters
    ----------
    w : array, shape (m, n)
        Real or complex floating point. Not changed; a torch tensor is detached.
    row_shape, column_shape : sequence of int
        Digits of the row and of the column index, equal in number; their products are m and n.
    rank : int or sequence of int
        The d - 1 inner ranks, or one bound for all. Above what a bond can have, they are clipped with a
        warning.
    rtol : float
        Relative Frobenius error, instead of ``rank``; not together with weights.
    weight : array, shape (n, n), optional
        C, Hermitian and positive semidefinite, such as the second moment of a layer's inputs.
    row_weight : array, shape (m, m), optional
        F, likewise, such as the second moment of the gradients of a layer's outputs.
    stopping : Stopping
        Of the weighted fit: sweeps, change of the relative error, seconds.

    Returns
    -------
    Decomposition of MatrixProductOperator
        ``error`` is :math:`\|F^{1/2}(W - W')C^{1/2}\|_F / \|F^{1/2} W C^{1/2}\|_F`, with the identity for a
        weight not given. ``error_kind`` is "exact" without weights and "gram" with them: what a singular
        weight annihilates leaves roundoff, so that errors below about 1e-7 (1e-3 in single precision) are
        not resolved.

    Raises
    ------
    RankError
        Both or neither of ``rank`` and ``rtol``, ``rtol`` with weights, a rank that is no positive integer,
        a wrong count.
    ShapeError
        Digits that do not multiply to the shape, or a weight of another shape.
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
    Without weights: the TT-SVD of the tensor with modes ``m_k n_k`` [1]_, see :func:`tnet.tt`. With weights:
    from a TT-SVD in the norm of the weights' marginals on each digit, alternating least squares over the
    cores, each solved by conjugate gradients; the weighted error never rises. A step costs
    ``m^2 n + m n^2`` multiply-adds. Half precision is fitted, and its error stated, in float32.

    References
    ----------
    .. [1] I. V. Oseledets, "Approximation of 2^d x 2^d matrices using tensor decomposition", SIAM J. Matrix
       Anal. Appl. 31 (2010).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> w = np.kron(np.arange(4.0).reshape(2, 2), np.ones((3, 2)))
    >>> tnet.mpo(w, (2, 3), (2, 2), rtol=1e-10).tensor.rank
    (1,)
    """
    started = time.perf_counter()
    check_rank_or_rtol(rank, rtol)
    weighted = weight is not None or row_weight is not None
    if weighted and rank is None:
        raise RankError("rtol= with a weight is not offered: give rank=.")
    array = as_array(w, "w")
    rows, columns = _checked_digits(array, row_shape, column_shape)
    prepared = prepare(array, "w")
    modes = tuple(m * n for m, n in zip(rows, columns, strict=True))
    ranks = None if rank is None else bounded_ranks(rank, rank_limits(modes), "bond")
    if ranks is not None and weighted:
        F = _checked_weight(row_weight, "row_weight", prepared, 0)
        C = _checked_weight(weight, "weight", prepared, 1)
        fit = fit_weighted(prepared.array, rows, columns, ranks, F, C, stopping)
        warn_unless_converged("mpo", fit.status, stopping.change)
        cores = rescaled(fit.cores, fit.center, prepared)
        tensor = MatrixProductOperator(_with_digits(cores, rows, columns))
        seconds = time.perf_counter() - started
        return Decomposition(tensor, fit.error, "gram", fit.status, fit.history, seconds)
    train_input = prepared._replace(array=interleaved(prepared.array, rows, columns))
    method = resolve_method("auto", rtol, prepared.array)
    cores, carrier, error = train_of(train_input, modes, ranks, rtol, method)
    cores = rescaled(cores, carrier, train_input)
    if prepared.is_half:
        error = error_after_rounding(train_input, TensorTrain(tuple(cores)))
    tensor = MatrixProductOperator(_with_digits(cores, rows, columns))
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), time.perf_counter() - started)


def _with_digits(cores: Sequence[Array], rows: tuple[int, ...], columns: tuple[int, ...]) -> tuple[Array, ...]:
    xp = array_namespace(*cores)
    return tuple(
        xp.reshape(core, (core.shape[0], m, n, core.shape[2]))
        for core, m, n in zip(cores, rows, columns, strict=True)
    )


def _checked_digits(
    w: Array, row_shape: Sequence[int], column_shape: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if w.ndim != 2:
        raise ShapeError(f"w has shape {tuple(w.shape)}: give a matrix, with 2 axes.")
    found: list[tuple[int, ...]] = []
    for name, digits, size in (
        ("row_shape", row_shape, int(w.shape[0])),
        ("column_shape", column_shape, int(w.shape[1])),
    ):
        if not isinstance(digits, (tuple, list, np.ndarray)) or not len(digits):
            raise ShapeError(f"{name}={digits!r}: give a tuple of positive integers.")
        if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1 for n in digits):
            raise ShapeError(f"{name}={digits!r}: give a tuple of positive integers.")
        found.append(tuple(int(n) for n in digits))
        if total_size(found[-1]) != size:
            raise ShapeError(
                f"{name}={found[-1]} multiplies to {total_size(found[-1])}, but w has shape {tuple(w.shape)}: "
                f"give digits whose product is {size}."
            )
    rows, columns = found
    if len(rows) != len(columns):
        raise ShapeError(f"row_shape={rows} and column_shape={columns} differ in length; pad the shorter with ones.")
    return rows, columns


def _checked_weight(weight: Any, name: str, prepared: Prepared, axis: int) -> Array | None:
    """Return a weight in the dtype to compute in, symmetrised, its largest diagonal entry near 1."""
    if weight is None:
        return None
    array = as_array(weight, name)
    require_floating(array, name)
    n = int(prepared.array.shape[axis])
    if tuple(array.shape) != (n, n):
        raise ShapeError(f"{name} has shape {tuple(array.shape)}; give ({n}, {n}), for axis {axis} of w.")
    if is_torch(array):
        array = array.detach()
    xp = array_namespace(prepared.array, array)
    check_finite(array, name)
    C = astype(array, prepared.array.dtype)
    top = float(xp.max(xp.abs(C)))
    if top == 0.0:
        return C
    C = scale_by_power_of_two(C, -math.frexp(top)[1])
    if float(xp.max(xp.abs(C - adjoint(C)))) > _SYMMETRY_TOLERANCE:
        raise InputError(f"{name} is not Hermitian: give a second moment such as X^H X / len(X).")
    C = (C + adjoint(C)) / 2
    trace = float(xp.sum(xp.abs(xp.linalg.diagonal(C))))
    shifted = C + (_SEMIDEFINITE_TOLERANCE * trace) * xp.eye(n, dtype=C.dtype, device=C.device)
    if not _is_positive_definite(shifted):
        raise InputError(f"{name} has negative eigenvalues: give a positive semidefinite matrix.")
    return C


def _is_positive_definite(C: Array) -> bool:
    xp = array_namespace(C)
    try:
        L = xp.linalg.cholesky(C)
    except (np.linalg.LinAlgError, RuntimeError):  # torch's error is a RuntimeError
        return False
    return bool(xp.all(xp.isfinite(L)))
