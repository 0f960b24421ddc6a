r"""Fitting a sum of Kronecker products in a weighted norm by alternating least squares.

Minimises :math:`\|(W - \sum_r A_r \otimes B_r) C^{1/2}\|_F`. With the :math:`B_r` fixed, the rows of the
:math:`A_r` are separate least squares problems with one normal matrix of order ``R n_1``, and likewise with the
:math:`A_r` fixed: each half of a sweep is solved exactly.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from tnet.arrays import Array, adjoint, array_namespace, cholesky_solve_gram, mode_product, qr, squared_norm
from tnet.decompositions.descent import descend
from tnet.decompositions.kronecker_metric import digit_roots, roots_applied
from tnet.decompositions.mpo_fit import (
    Metric,
    WeightedFit,
    dense_operator,
    fit_weighted,
    interleaved,
    real_inner,
)
from tnet.decompositions.operator_arguments import lifted_weight
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.tt import train_of
from tnet.options import Stopping

__all__ = ["fit_kronecker", "fit_operator"]

Digits = tuple[int, ...]

_CG_PRODUCTS = 24  # products with the metric in a sweep of two cores by conjugate gradients


def fit_operator(
    W: Array,
    rows: Digits,
    columns: Digits,
    ranks: tuple[int, ...],
    row_weight: Array | None,
    weight: Array | None,
    stopping: Stopping,
) -> WeightedFit:
    """Fit an operator of any number of digits in the norm of one weight or two.

    Parameters
    ----------
    W : array, shape (m, n)
    rows, columns : tuple of int
    ranks : tuple of int
    row_weight : array, shape (m, m), or None
    weight : array, shape (n, n), or None
    stopping : Stopping

    Notes
    -----
    Where a weight is singular, the fit is made, and its history told, in the norm of what
    :func:`~tnet.decompositions.operator_arguments.lifted_weight` returns; the error is that in the norm of the
    weights themselves.
    """
    F, C = lifted_weight(row_weight), lifted_weight(weight)
    if len(rows) == 2:
        fit = fit_kronecker(W, rows, columns, ranks[0], F, C, stopping)
    else:
        fit = fit_weighted(W, rows, columns, ranks, F, C, stopping)
    metric = Metric(row_weight, weight)
    reference = metric.squared_norm(W)
    if (F is row_weight and C is weight) or reference == 0.0:
        return fit
    squared = metric.squared_norm(W - dense_operator(fit.cores, rows, columns))
    return replace(fit, error=math.sqrt(squared / reference))


def fit_kronecker(
    W: Array,
    rows: Digits,
    columns: Digits,
    rank: int,
    row_weight: Array | None,
    weight: Array | None,
    stopping: Stopping,
) -> WeightedFit:
    """Fit an operator of two digits in the norm of one weight or two.

    Parameters
    ----------
    W : array, shape (m, n)
    rows, columns : tuple of int
        Two digits each.
    rank : int
        R.
    row_weight : array, shape (m, m), or None
    weight : array, shape (n, n), or None
    stopping : Stopping

    Returns
    -------
    WeightedFit
        Cores of shapes ``(1, m_1 n_1, R)`` and ``(R, m_2 n_2, 1)``.

    Notes
    -----
    With one weight a sweep takes ``n^2 R^2`` multiply-adds for each of two normal matrices, ``(R n_1)^3 / 3`` and
    ``(R n_2)^3 / 3`` to factorise them, ``2 m n R`` for the right sides. With two weights, whose normal equations
    do not separate, or a rank for which that is dearer, the cores are solved for by conjugate gradients
    (:func:`~tnet.decompositions.mpo_fit.fit_weighted`).
    """
    m, n = W.shape
    if weight is not None and row_weight is None and _direct_is_cheaper(m, n, columns, rank):
        return _alternate(W, rows, columns, rank, weight, stopping)
    if row_weight is not None and weight is None and _direct_is_cheaper(n, m, rows, rank):
        xp = array_namespace(W)
        turned = xp.matrix_transpose(W), columns, rows, rank, xp.matrix_transpose(row_weight)
        return _turned(_alternate(*turned, stopping), rows, columns)
    return fit_weighted(W, rows, columns, (rank,), row_weight, weight, stopping)


def _direct_is_cheaper(m: int, n: int, columns: Digits, rank: int) -> bool:
    """Compare the multiply-adds of a sweep: two normal matrices and their factors, or products with the metric."""
    direct = 2 * (n * rank) ** 2 + sum((rank * digit) ** 3 for digit in columns) / 3
    return direct <= _CG_PRODUCTS * (m * n * n + 2 * m * n * rank)


def _turned(fit: WeightedFit, rows: Digits, columns: Digits) -> WeightedFit:
    """Return the fit of ``W`` from that of its transpose."""
    xp = array_namespace(*fit.cores)
    cores = []
    for core, m, n in zip(fit.cores, rows, columns, strict=True):
        r, _, s = core.shape
        cores.append(xp.reshape(xp.permute_dims(xp.reshape(core, (r, n, m, s)), (0, 2, 1, 3)), (r, m * n, s)))
    return WeightedFit(tuple(cores), fit.center, fit.error, fit.status, fit.history)


class _Half:
    """The problem of one of the two factors, the other being fixed.

    A factor is held as ``(R, m_k n_k)``. ``metric`` is C as a matrix of shape ``(n_k^2, n_l^2)`` over the pairs of
    digits of this factor and of the other, ``target`` is ``W C`` as ``(m_k n_k, m_l n_l)``.
    """

    def __init__(self, metric: Array, target: Array, own: tuple[int, int], other: tuple[int, int]) -> None:
        self._xp = array_namespace(target)
        self._metric, self._target, self._own, self._other = metric, target, own, other

    def solve(self, fixed: Array) -> tuple[Array, float]:
        """Return the best factor beside ``fixed``, and by how much it lowers the squared norm of W."""
        xp, (m, n), (p, q) = self._xp, self._own, self._other
        R = fixed.shape[0]
        digits = xp.reshape(xp.permute_dims(xp.reshape(fixed, (R, p, q)), (0, 2, 1)), (R * q, p))
        H = xp.permute_dims(xp.reshape(digits @ adjoint(digits), (R, q, R, q)), (1, 3, 0, 2))
        N = xp.reshape(self._metric @ xp.reshape(H, (q * q, R * R)), (n, n, R, R))
        N = xp.reshape(xp.permute_dims(N, (2, 0, 3, 1)), (R * n, R * n))
        M = xp.reshape(self._target @ adjoint(fixed), (m, n, R))
        M = xp.reshape(xp.permute_dims(M, (0, 2, 1)), (m, R * n))
        X = cholesky_solve_gram((N + adjoint(N)) / 2, M)
        solved = xp.reshape(xp.permute_dims(xp.reshape(X, (m, R, n)), (1, 0, 2)), (R, m * n))
        return solved, real_inner(M, X)


def _alternate(W: Array, rows: Digits, columns: Digits, rank: int, C: Array, stopping: Stopping) -> WeightedFit:
    started = time.perf_counter()
    xp = array_namespace(W)
    (m1, m2), (n1, n2) = rows, columns
    metric = Metric(None, C)
    WC = W @ C
    reference = max(real_inner(W, WC), 0.0)
    target = xp.reshape(interleaved(WC, rows, columns), (m1 * n1, m2 * n2))
    pairs = xp.reshape(xp.permute_dims(xp.reshape(C, (n1, n2, n1, n2)), (0, 2, 1, 3)), (n1 * n1, n2 * n2))
    left = _Half(pairs, target, (m1, n1), (m2, n2))
    right = _Half(xp.matrix_transpose(pairs), xp.matrix_transpose(target), (m2, n2), (m1, n1))

    def sweep(state: tuple[Array, Array]) -> tuple[tuple[Array, Array], float]:
        B, _ = right.solve(_orthonormal_rows(state[0]))
        B = _orthonormal_rows(B)
        A, gain = left.solve(B)
        return (A, B), reference - gain

    starts: list[tuple[tuple[Array, Array], float]] = []
    for B in _starts(W, rows, columns, rank, C):
        A, gain = left.solve(B)
        starts.append(((A, B), reference - gain))
    start, squared = min(starts, key=lambda pair: pair[1])
    found = descend(sweep, start, squared, reference, stopping, started)
    A, B = found.state
    error = 0.0
    if reference > 0:
        dense = xp.permute_dims(xp.reshape(xp.matrix_transpose(A) @ B, (m1, n1, m2, n2)), (0, 2, 1, 3))
        error = math.sqrt(metric.squared_norm(W - xp.reshape(dense, W.shape)) / reference)
    cores = xp.matrix_transpose(A)[None, :, :], B[:, :, None]
    return WeightedFit(cores, 0, error, found.status, found.history)


def _starts(W: Array, rows: Digits, columns: Digits, rank: int, C: Array) -> list[Array]:
    """Return right factors to start from: those of the plain SVD, and of that in the norm of C's marginals."""
    xp = array_namespace(W)
    roots = digit_roots(C, columns)
    (m2, n2), inverse = (rows[1], columns[1]), xp.matrix_transpose(roots.inverses[1])
    starts: list[Array] = []
    for whitened in (False, True):
        tensor = interleaved(roots_applied(W, columns, roots.roots, axis=1) if whitened else W, rows, columns)
        prepared = Prepared(tensor, 0, squared_norm(tensor, "w"), tensor.dtype, False)
        cores, _, _ = train_of(prepared, tuple(tensor.shape), (rank,), None, "auto")
        B = xp.reshape(cores[1], (rank, m2, n2))
        B = mode_product(B, inverse, 2) if whitened else B
        starts.append(_orthonormal_rows(xp.reshape(B, (rank, m2 * n2))))
    return starts


def _orthonormal_rows(A: Array) -> Array:
    return adjoint(qr(adjoint(A))[0])
