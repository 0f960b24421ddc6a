r"""Fitting a block tensor train in a weighted norm, block by block.

Minimises :math:`\|F^{1/2} (W - W') C^{1/2}\|_F` over matrices whose blocks have rank r. With all blocks but one
fixed, the best one is the nearest matrix of rank r in the norm of the diagonal blocks of F and C: an SVD in
whitened variables. Without F the blocks of one block column do not interact and are solved for at once.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from tnet.arrays import Array, adjoint, array_namespace, astype, real_dtype
from tnet.decompositions.block_svd import nearest_of_rank
from tnet.decompositions.descent import descend
from tnet.decompositions.mpo_fit import Metric
from tnet.options import Stopping
from tnet.results import History, Status

__all__ = ["BlockFit", "blocks_of", "fit_blocks"]

Digits = tuple[int, ...]


class BlockFit(NamedTuple):
    """Factors ``(m_1, n_1, m_2, r)`` and ``(m_1, n_1, r, n_2)`` of the blocks and how they were found."""

    tall: Array
    wide: Array
    error: float
    status: Status
    history: History


class _Roots(NamedTuple):
    """Square roots of the diagonal blocks of a weight, ``(count, size, size)``, and their pseudo-inverses."""

    roots: Array
    inverses: Array


class _State(NamedTuple):
    """Factors by block column: ``tall[j]`` is ``(m_1, m_2, r)``, ``wide[j]`` is ``(m_1, r, n_2)``."""

    tall: tuple[Array, ...]
    wide: tuple[Array, ...]


def blocks_of(W: Array, rows: Digits, columns: Digits) -> Array:
    """Return the blocks of a matrix as a stack ``(m_1, n_1, m_2, n_2)``, a view where the library has views."""
    xp = array_namespace(W)
    return xp.permute_dims(xp.reshape(W, (rows[0], rows[1], columns[0], columns[1])), (0, 2, 1, 3))


def fit_blocks(
    W: Array,
    rows: Digits,
    columns: Digits,
    rank: int,
    row_weight: Array | None,
    weight: Array | None,
    stopping: Stopping,
) -> BlockFit:
    """Fit blocks of a rank in the norm of one weight or two.

    Parameters
    ----------
    W : array, shape (m, n)
    rows, columns : tuple of int
        ``(m_1, m_2)`` and ``(n_1, n_2)``.
    rank : int
        At most ``min(m_2, n_2)``.
    row_weight : array, shape (m, m), or None
    weight : array, shape (n, n), or None
    stopping : Stopping

    Notes
    -----
    A sweep takes ``m n^2`` multiply-adds and, with a row weight, ``m^2 n`` more, beside SVDs of ``m_1 n_1`` blocks.
    The start is the better of two: the blocks nearest in the plain norm, and nearest in the norm of the diagonal
    blocks of the weights, which is optimal when these have no others.
    """
    xp = array_namespace(W)
    if weight is None:
        turned = xp.matrix_transpose(W), columns, rows, rank, None, xp.matrix_transpose(row_weight)
        fit = fit_blocks(*turned, stopping)
        tall, wide = (xp.permute_dims(part, (1, 0, 3, 2)) for part in (fit.wide, fit.tall))
        return fit._replace(tall=tall, wide=wide)
    started = time.perf_counter()
    metric = Metric(row_weight, weight)
    reference = metric.squared_norm(W)
    problem = _Problem(W, rows, columns, rank, row_weight, weight)
    starts = [problem.start(whiten=whiten) for whiten in (False, True)]
    errors = [metric.squared_norm(W - problem.dense(state)) for state in starts]
    squared, state = min(zip(errors, starts, strict=True), key=lambda pair: pair[0])
    problem.aim(state, squared)
    found = descend(problem.sweep, state, squared, reference, stopping, started)
    error = 0.0
    if reference > 0:
        error = math.sqrt(metric.squared_norm(W - problem.dense(found.state)) / reference)
    tall, wide = xp.stack(found.state.tall, axis=1), xp.stack(found.state.wide, axis=1)
    return BlockFit(tall, wide, error, found.status, found.history)


class _Problem:
    """The blocks of W, the norms in which each is seen, and what the present model leaves over."""

    def __init__(self, W: Array, rows: Digits, columns: Digits, rank: int, F: Array | None, C: Array) -> None:
        self._xp = array_namespace(W)
        self._W, self._rank, self._C = W, rank, C
        (self._m1, self._m2), (self._n1, self._n2) = rows, columns
        self._blocks = blocks_of(W, rows, columns)
        self._row_metric = None if F is None else (F, _diagonal_roots(F, *rows))
        self._column_roots = _diagonal_roots(C, *columns)
        self._rest: Array = None
        self._squared = 0.0

    def start(self, *, whiten: bool) -> _State:
        """Return every block's nearest matrix of the rank, in the plain norm or in its own."""
        row_roots = None if self._row_metric is None else self._row_metric[1]
        tall: list[Array] = []
        wide: list[Array] = []
        for j in range(self._n1):
            Y = self._blocks[:, j, :, :]
            if whiten:
                L, R = nearest_of_rank(self._seen(Y, j, row_roots), self._rank)
                L, R = self._back(L, R, j, row_roots)
            else:
                L, R = nearest_of_rank(Y, self._rank)
            tall.append(L)
            wide.append(R)
        return _State(tuple(tall), tuple(wide))

    def dense(self, state: _State) -> Array:
        """Return the matrix of a state."""
        xp, m = self._xp, self._m1 * self._m2
        pairs = zip(state.tall, state.wide, strict=True)
        return xp.concat([xp.reshape(L @ R, (m, self._n2)) for L, R in pairs], axis=1)

    def aim(self, state: _State, squared: float) -> None:
        """Make ``state``, of this squared error, the one that the next sweep starts from."""
        self._rest = self._W - self.dense(state)
        self._squared = squared

    def sweep(self, state: _State) -> tuple[_State, float]:
        """Solve for every block once, block column by block column."""
        xp = self._xp
        tall, wide = list(state.tall), list(state.wide)
        lowered: list[Array] = []
        for j in range(self._n1):
            J = slice(j * self._n2, (j + 1) * self._n2)
            slope = xp.reshape(self._rest @ self._C[:, J], (self._m1, self._m2, self._n2))
            if self._row_metric is None:
                tall[j], wide[j], change, lowering = self._solve(slope, tall[j], wide[j], j, None)
                lowered.append(lowering)
            else:
                tall[j], wide[j], change = self._row_by_row(*self._row_metric, slope, tall[j], wide[j], j, lowered)
            self._rest[:, J] = self._rest[:, J] + xp.reshape(change, (-1, self._n2))
        self._squared -= float(sum(lowered[1:], start=lowered[0]))
        return _State(tuple(tall), tuple(wide)), self._squared

    def _row_by_row(
        self, F: Array, roots: _Roots, slope: Array, L: Array, R: Array, j: int, lowered: list[Array]
    ) -> tuple[Array, Array, Array]:
        """Solve for one block of a column after the other: F makes each depend on those above it."""
        xp, m2, n2 = self._xp, self._m2, self._n2
        own = self._C[j * n2 : (j + 1) * n2, j * n2 : (j + 1) * n2]
        slopes = [slope[i, :, :] for i in range(self._m1)]
        talls: list[Array] = []
        wides: list[Array] = []
        changes: list[Array] = []
        for i in range(self._m1):
            pulled = (F[i * m2 : (i + 1) * m2, :] @ xp.concat(slopes, axis=0))[None, :, :]
            own_roots = _Roots(roots.roots[i : i + 1, ...], roots.inverses[i : i + 1, ...])
            tall, wide, change, lowering = self._solve(pulled, L[i : i + 1, ...], R[i : i + 1, ...], j, own_roots)
            slopes[i] = slopes[i] + change[0, :, :] @ own
            talls.append(tall)
            wides.append(wide)
            changes.append(change)
            lowered.append(lowering)
        return xp.concat(talls, axis=0), xp.concat(wides, axis=0), xp.concat(changes, axis=0)

    def _solve(
        self, slope: Array, L: Array, R: Array, j: int, row_roots: _Roots | None
    ) -> tuple[Array, Array, Array, Array]:
        """Return the best blocks in the place of ``L R``, the old minus the new, and what they lower the error by.

        ``slope`` are the blocks of ``F (W - W') C`` there.
        """
        old = L @ R
        downhill = slope @ self._column_roots.inverses[j, :, :]
        if row_roots is not None:
            downhill = row_roots.inverses @ downhill
        target = downhill + self._seen(old, j, row_roots)
        tall, wide = nearest_of_rank(target, self._rank)
        lowering = _sum_of_squares(downhill) - _sum_of_squares(target - tall @ wide)
        tall, wide = self._back(tall, wide, j, row_roots)
        return tall, wide, old - tall @ wide, lowering

    def _seen(self, X: Array, j: int, row_roots: _Roots | None) -> Array:
        """Return blocks of column j in the variables in which their norm is the plain one."""
        X = X @ self._column_roots.roots[j, :, :]
        return X if row_roots is None else row_roots.roots @ X

    def _back(self, L: Array, R: Array, j: int, row_roots: _Roots | None) -> tuple[Array, Array]:
        """Undo :meth:`_seen` on the factors of blocks."""
        R = R @ self._column_roots.inverses[j, :, :]
        return (L if row_roots is None else row_roots.inverses @ L), R


def _diagonal_roots(C: Array, count: int, size: int) -> _Roots:
    """Return the roots of the diagonal blocks of a weight; directions below its roundoff count as null."""
    xp = array_namespace(C)
    split = xp.permute_dims(xp.reshape(C, (count, size, count, size)), (1, 3, 0, 2))
    blocks = xp.permute_dims(xp.linalg.diagonal(split), (2, 0, 1))
    values, vectors = xp.linalg.eigh(blocks)
    cutoff = size * float(xp.finfo(real_dtype(C)).eps) * xp.max(values, axis=-1, keepdims=True)
    held = values > xp.where(cutoff > 0, cutoff, xp.zeros_like(cutoff))
    safe = xp.sqrt(xp.where(held, values, xp.ones_like(values)))
    found: list[Array] = []
    for scale in (safe, 1 / safe):
        masked = astype(xp.where(held, scale, xp.zeros_like(scale)), vectors.dtype)
        found.append((vectors * masked[:, None, :]) @ adjoint(vectors))
    return _Roots(*found)


def _sum_of_squares(X: Array) -> Array:
    xp = array_namespace(X)
    size = xp.abs(X)
    return xp.sum(size * size, dtype=xp.float64)
