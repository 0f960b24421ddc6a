"""A matrix as a sum of Kronecker products, in the plain or a weighted norm."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tnet.algebra import bounded_ranks
from tnet.algebra.ranks import bond_limits
from tnet.arrays import Array, array_namespace, as_array
from tnet.decompositions.iteration import warn_unless_converged
from tnet.decompositions.kronecker_fit import fit_operator
from tnet.decompositions.mpo_fit import interleaved
from tnet.decompositions.operator_arguments import checked_digits, checked_weight
from tnet.decompositions.preparation import prepare, rescaled
from tnet.decompositions.residual import error_after_rounding
from tnet.decompositions.truncated_basis import resolve_method
from tnet.decompositions.tt import train_of
from tnet.errors import RankError
from tnet.formats import KroneckerSum, TensorTrain
from tnet.options import Stopping, check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["kronecker_sum"]


def kronecker_sum(
    w: Array,
    row_shape: Sequence[int],
    column_shape: Sequence[int],
    rank: int | None = None,
    *,
    rtol: float | None = None,
    weight: Array | None = None,
    row_weight: Array | None = None,
    stopping: Stopping = Stopping(max_iter=100, change=1e-4),  # noqa: B008 - frozen
) -> Decomposition[KroneckerSum]:
    r"""Decompose a matrix into a sum of Kronecker products.

    .. math:: W \approx \sum_{r=1}^R A_r \otimes B_r

    Parameters
    ----------
    w : array, shape (m_1 m_2, n_1 n_2)
        Real or complex floating point. Not changed; a torch tensor is detached.
    row_shape, column_shape : (int, int)
        ``(m_1, m_2)``, the rows of :math:`A_r` and :math:`B_r`, and ``(n_1, n_2)``, their columns.
    rank : int
        R. Above ``min(m_1 n_1, m_2 n_2)``, where the sum is exact, it is clipped with a warning.
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
    Decomposition of KroneckerSum
        ``error`` is :math:`\|F^{1/2}(W - W')C^{1/2}\|_F / \|F^{1/2} W C^{1/2}\|_F`, with the identity for a
        weight not given. ``error_kind`` is "exact" without weights and "gram" with them: what a singular
        weight annihilates leaves roundoff, so that errors below about 1e-7 (1e-3 in single precision) are
        not resolved. A singular weight is fitted with a small multiple of the identity added, 1e-6 of its mean
        eigenvalue (1e-3 in single precision), so that the model stays near W where the weight sees nothing.
        Ctrl-C after the first sweep returns the best sweep, with status ``INTERRUPTED``.

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
    Without weights: the truncated SVD of the matrix whose rows are the blocks of W [1]_, the best sum of R
    products; ``m n min(m_1 n_1, m_2 n_2)`` multiply-adds. The result is that of :func:`tnet.mpo` for two digits.
    With weights: alternating least squares from an SVD in the norm of the weights' marginals on each digit; with
    one weight each half of a sweep is solved exactly, ``n^2 R^2`` multiply-adds and a Cholesky factorisation of
    order ``R n_1`` or ``R n_2``. The weighted error never rises. Half precision is fitted in float32.

    References
    ----------
    .. [1] C. F. Van Loan, N. Pitsianis, "Approximation with Kronecker products", in: Linear Algebra for Large
       Scale and Real-Time Applications, Kluwer (1993).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> A, B = np.arange(6.0).reshape(2, 3), np.ones((4, 2))
    >>> result = tnet.kronecker_sum(np.kron(A, B), (2, 4), (3, 2), rtol=1e-10)
    >>> result.tensor.rank
    1
    >>> bool(np.allclose(result.tensor @ np.ones(6), np.kron(A, B) @ np.ones(6)))
    True
    """
    started = time.perf_counter()
    check_rank_or_rtol(rank, rtol)
    weighted = weight is not None or row_weight is not None
    if weighted and rank is None:
        raise RankError("rtol= with a weight is not offered: give rank=.")
    array = as_array(w, "w")
    rows, columns = checked_digits(array, row_shape, column_shape, count=2)
    prepared = prepare(array, "w")
    modes = tuple(m * n for m, n in zip(rows, columns, strict=True))
    ranks = None if rank is None else bounded_ranks(rank, bond_limits(modes), "bond")
    if ranks is not None and weighted:
        F = checked_weight(row_weight, "row_weight", prepared, 0)
        C = checked_weight(weight, "weight", prepared, 1)
        fit = fit_operator(prepared.array, rows, columns, ranks, F, C, stopping)
        warn_unless_converged("kronecker_sum", fit.status, stopping.change)
        tensor = _sum_of(rescaled(fit.cores, fit.center, prepared), rows, columns)
        seconds = time.perf_counter() - started
        return Decomposition(tensor, fit.error, "gram", fit.status, fit.history, seconds)
    train_input = prepared._replace(array=interleaved(prepared.array, rows, columns))
    method = resolve_method("auto", rtol, prepared.array)
    cores, carrier, error = train_of(train_input, modes, ranks, rtol, method)
    cores = rescaled(cores, carrier, train_input)
    if prepared.is_half:
        error = error_after_rounding(train_input, TensorTrain(tuple(cores)))
    tensor = _sum_of(cores, rows, columns)
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), time.perf_counter() - started)


def _sum_of(cores: Sequence[Array], rows: tuple[int, ...], columns: tuple[int, ...]) -> KroneckerSum:
    """Return the sum whose terms are the columns of the first core and the rows of the second."""
    xp = array_namespace(*cores)
    R = int(cores[0].shape[2])
    left = xp.reshape(xp.permute_dims(cores[0], (2, 1, 0)), (R, rows[0], columns[0]))
    return KroneckerSum(left, xp.reshape(cores[1], (R, rows[1], columns[1])))
