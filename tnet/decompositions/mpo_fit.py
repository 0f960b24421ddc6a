r"""Fitting a matrix product operator in a weighted norm.

Minimises :math:`\|F^{1/2} (W - W') C^{1/2}\|_F`, one core at a time: each core is a linear least squares
problem, solved by conjugate gradients from the core as it stands.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tnet.algebra.trains import left_orthogonal_step, right_orthogonal_step
from tnet.arrays import Array, adjoint, array_namespace, conj, is_complex, mode_product, squared_norm, total_size
from tnet.decompositions.descent import descend
from tnet.decompositions.kronecker_metric import DigitRoots, digit_roots, roots_applied
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.tt import train_of
from tnet.options import Stopping
from tnet.results import History, Status

__all__ = ["Metric", "WeightedFit", "dense_operator", "fit_weighted", "interleaved", "real_inner"]

_MOST_CG_STEPS = 12
_CG_REDUCTION = 1e-3


@dataclass(frozen=True, eq=False)
class Metric:
    r"""The inner product :math:`\langle A, B \rangle = \operatorname{tr}(A^H F B C)`.

    Parameters
    ----------
    row_weight : array, shape (m, m), or None
        F, Hermitian, positive semidefinite; None is the identity.
    weight : array, shape (n, n), or None
        C, likewise.
    """

    row_weight: Array | None
    weight: Array | None

    def apply(self, E: Array) -> Array:
        """Return ``F E C``."""
        E = E if self.row_weight is None else self.row_weight @ E
        return E if self.weight is None else E @ self.weight

    def squared_norm(self, E: Array) -> float:
        """Return ``tr(E^H F E C)``, at least 0."""
        return max(real_inner(E, self.apply(E)), 0.0)


@dataclass(frozen=True, eq=False)
class WeightedFit:
    """Cores of shapes ``(r, m n, s)`` and how they were found.

    ``center`` is the core that has the norm; the others are well scaled.
    """

    cores: tuple[Array, ...]
    center: int
    error: float
    status: Status
    history: History


def fit_weighted(
    W: Array,
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    ranks: tuple[int, ...],
    row_weight: Array | None,
    weight: Array | None,
    stopping: Stopping,
) -> WeightedFit:
    """Fit an operator of given ranks in the norm of two weights.

    Parameters
    ----------
    W : array, shape (m, n)
    rows, columns : tuple of int
        Digits of the row and of the column index.
    ranks : tuple of int
    row_weight : array, shape (m, m), or None
    weight : array, shape (n, n), or None
    stopping : Stopping

    Notes
    -----
    Works in the variables that whiten the marginals of the weights on each digit (see
    :mod:`tnet.decompositions.kronecker_metric`): there the plain TT-SVD is a good start, and conjugate
    gradients need fewer steps. If the TT-SVD of ``W`` itself is the better start, it is taken.
    """
    started = time.perf_counter()
    row_roots = None if row_weight is None else digit_roots(row_weight, rows)
    column_roots = None if weight is None else digit_roots(weight, columns)
    whitened, F, C = W, row_weight, weight
    if row_roots is not None:
        whitened = roots_applied(whitened, rows, row_roots.roots, axis=0)
        F = roots_applied(roots_applied(F, rows, row_roots.inverses, axis=0), rows, row_roots.inverses, axis=1)
    if column_roots is not None:
        whitened = roots_applied(whitened, columns, column_roots.roots, axis=1)
        C = roots_applied(C, columns, column_roots.inverses, axis=0)
        C = roots_applied(C, columns, column_roots.inverses, axis=1)
    metric = Metric(F, C)
    whitened_start = _plain_train(whitened, rows, columns, ranks)
    plain_start = _on_digits(_plain_train(W, rows, columns, ranks), rows, columns, row_roots, column_roots)
    start = min(
        (whitened_start, plain_start),
        key=lambda cores: metric.squared_norm(whitened - dense_operator(cores, rows, columns)),
    )
    fit = _alternate(whitened, start, rows, columns, metric, stopping, started)
    back = [None if r is None else DigitRoots(r.inverses, r.roots) for r in (row_roots, column_roots)]
    cores = _on_digits(list(fit.cores), rows, columns, *back)
    return replace(fit, cores=tuple(cores))


def interleaved(W: Array, rows: tuple[int, ...], columns: tuple[int, ...]) -> Array:
    """Return the tensor with modes ``m_k n_k`` that the cores of an operator decompose."""
    xp = array_namespace(W)
    d = len(rows)
    digits = xp.reshape(W, (*rows, *columns))
    paired = xp.permute_dims(digits, tuple(axis for k in range(d) for axis in (k, d + k)))
    return xp.reshape(paired, tuple(m * n for m, n in zip(rows, columns, strict=True)))


def dense_operator(cores: Sequence[Array], rows: tuple[int, ...], columns: tuple[int, ...]) -> Array:
    """Return the matrix of cores ``(r, m_k n_k, s)``."""
    return _Operator(list(cores), rows, columns, 0).dense(cores[0])


def _plain_train(W: Array, rows: tuple[int, ...], columns: tuple[int, ...], ranks: tuple[int, ...]) -> list[Array]:
    tensor = interleaved(W, rows, columns)
    prepared = Prepared(tensor, 0, squared_norm(W, "w"), W.dtype, False)
    cores, _, _ = train_of(prepared, tuple(tensor.shape), ranks, None, "auto")
    return cores


def _on_digits(
    cores: list[Array],
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    row_roots: DigitRoots | None,
    column_roots: DigitRoots | None,
) -> list[Array]:
    """Apply the roots to the digits that each core carries."""
    xp = array_namespace(*cores)
    changed: list[Array] = []
    for k, (core, m, n) in enumerate(zip(cores, rows, columns, strict=True)):
        split = xp.reshape(core, (core.shape[0], m, n, core.shape[2]))
        if row_roots is not None:
            split = mode_product(split, row_roots.roots[k], 1)
        if column_roots is not None:
            split = mode_product(split, xp.matrix_transpose(column_roots.roots[k]), 2)
        changed.append(xp.reshape(split, core.shape))
    return changed


class _Operator:
    """The dense matrix as a linear function of one core, the others fixed."""

    def __init__(self, cores: list[Array], row_shape: tuple[int, ...], column_shape: tuple[int, ...], k: int):
        self._xp = array_namespace(*cores)
        self._m, self._n = row_shape[k], column_shape[k]
        self._rows = (total_size(row_shape[:k]), row_shape[k], total_size(row_shape[k + 1 :]))
        self._columns = (total_size(column_shape[:k]), column_shape[k], total_size(column_shape[k + 1 :]))
        self._left = self._environment(cores[:k], row_shape[:k], column_shape[:k], from_left=True)
        self._right = self._environment(cores[k + 1 :], row_shape[k + 1 :], column_shape[k + 1 :], from_left=False)

    def _environment(
        self, cores: list[Array], rows: tuple[int, ...], columns: tuple[int, ...], *, from_left: bool
    ) -> Array | None:
        """Contract the cores on one side to ``(row digits x column digits, bond)`` or its mirror image."""
        if not cores:
            return None
        xp = self._xp
        done = cores[0]
        for core in cores[1:]:
            done = xp.reshape(done, (-1, core.shape[0])) @ xp.reshape(core, (core.shape[0], -1))
        bond = cores[-1].shape[2] if from_left else cores[0].shape[0]
        digits = [n for pair in zip(rows, columns, strict=True) for n in pair]
        d = len(rows)
        evens, odds = tuple(range(0, 2 * d, 2)), tuple(range(1, 2 * d, 2))
        if from_left:
            grouped = xp.permute_dims(xp.reshape(done, (*digits, bond)), (*evens, *odds, 2 * d))
            return xp.reshape(grouped, (total_size(digits), bond))
        order = (0, *(e + 1 for e in evens), *(o + 1 for o in odds))
        grouped = xp.permute_dims(xp.reshape(done, (bond, *digits)), order)
        return xp.reshape(grouped, (bond, total_size(digits)))

    def dense(self, core: Array) -> Array:
        """Return the dense matrix ``(prod m, prod n)`` for a core ``(r, m n, s)``."""
        xp = self._xp
        r, mn, s = core.shape
        if self._left is not None:
            core = self._left @ xp.reshape(core, (r, mn * s))
        core = xp.reshape(core, (-1, s))
        if self._right is not None:
            core = core @ self._right
        (mL, m, mR), (nL, n, nR) = self._rows, self._columns
        digits = xp.reshape(core, (mL, nL, m, n, mR, nR))
        return xp.reshape(xp.permute_dims(digits, (0, 2, 4, 1, 3, 5)), (mL * m * mR, nL * n * nR))

    def project(self, E: Array) -> Array:
        """Return the adjoint of :meth:`dense` applied to ``E``."""
        xp = self._xp
        (mL, m, mR), (nL, n, nR) = self._rows, self._columns
        digits = xp.permute_dims(xp.reshape(E, (mL, m, mR, nL, n, nR)), (0, 3, 1, 4, 2, 5))
        Y = xp.reshape(digits, (mL * nL * m * n, mR * nR))
        if self._right is not None:
            Y = Y @ adjoint(self._right)
        s = Y.shape[1]
        Y = xp.reshape(Y, (mL * nL, m * n * s))
        if self._left is not None:
            Y = adjoint(self._left) @ Y
        return xp.reshape(Y, (-1, m * n, s))


def _alternate(
    W: Array,
    start: list[Array],
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    metric: Metric,
    stopping: Stopping,
    started: float,
) -> WeightedFit:
    """Sweep over the cores, to the right and to the left in turn, never increasing the weighted error.

    All cores but the one being solved for are orthogonal, so that the problem of a core is as well
    conditioned as the metric. At most 12 steps of conjugate gradients a core and sweep; a step multiplies
    the core out to the dense matrix, applies the metric and projects back.
    """
    d = len(start)
    reference = metric.squared_norm(W)
    cores = list(start)
    for k in range(d - 1, 0, -1):
        right_orthogonal_step(cores, k)
    directions = itertools.cycle((True, False))

    def sweep(state: tuple[tuple[Array, ...], int]) -> tuple[tuple[tuple[Array, ...], int], float]:
        swept = list(state[0])
        found, place = _sweep(swept, W, rows, columns, metric, rightwards=next(directions))
        return (tuple(swept), place), found

    least = metric.squared_norm(W - dense_operator(cores, rows, columns))
    found = descend(sweep, (tuple(cores), 0), least, reference, stopping, started)
    best, center = found.state
    error = math.sqrt(found.squared_error / reference) if reference > 0 else 0.0
    return WeightedFit(best, center, error, found.status, found.history)


def _sweep(
    cores: list[Array],
    W: Array,
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    metric: Metric,
    *,
    rightwards: bool,
) -> tuple[float, int]:
    """Solve for every core once; return the squared weighted error and the last core solved for."""
    d = len(cores)
    order = range(d) if rightwards else range(d - 1, -1, -1)
    E = W
    for k in order:
        operator = _Operator(cores, rows, columns, k)
        cores[k] = _solve_core(operator, W, cores[k], metric)
        if k == order[-1]:
            E = W - operator.dense(cores[k])
        elif rightwards:
            left_orthogonal_step(cores, k)
        else:
            right_orthogonal_step(cores, k)
    return metric.squared_norm(E), order[-1]


def _solve_core(operator: _Operator, W: Array, core: Array, metric: Metric) -> Array:
    """Lower ``||W - W'(core)||`` in the metric by conjugate gradients from ``core``."""
    residual = operator.project(metric.apply(W - operator.dense(core)))
    direction = residual
    rho = first = real_inner(residual, residual)
    for _ in range(_MOST_CG_STEPS):
        if not rho > _CG_REDUCTION**2 * first:
            break
        curved = operator.project(metric.apply(operator.dense(direction)))
        curvature = real_inner(direction, curved)
        if not curvature > 0:  # the rest lies in the null space of a singular metric
            break
        step = rho / curvature
        core = core + step * direction
        residual = residual - step * curved
        previous, rho = rho, real_inner(residual, residual)
        direction = residual + (rho / previous) * direction
    return core


def real_inner(A: Array, B: Array) -> float:
    """Return the real part of ``sum(conj(A) B)``."""
    xp = array_namespace(A, B)
    if is_complex(A):
        return float(xp.real(xp.sum(conj(A) * B)))
    return float(xp.sum(A * B))
