"""Alternating least squares for the tensor ring."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from tnet.arrays import (
    Array,
    array_namespace,
    cholesky_solve_gram,
    conj,
    dtype_name,
    qr,
    real_part,
    total_size,
)
from tnet.decompositions.dimension_tree import balanced_split
from tnet.decompositions.iteration import Callback, IterationInfo, why_ended
from tnet.decompositions.preparation import Prepared, rescaled
from tnet.decompositions.residual import DIFFERENCE_FLOOR, exact_error
from tnet.formats import TensorRing
from tnet.formats.tensor_ring import merged_chain
from tnet.options import Stopping
from tnet.results import History, Status

__all__ = ["RingFit", "alternating_ring"]

_PANEL = 1 << 18  # elements of a chain of cores that are multiplied out at a time


class RingFit(NamedTuple):
    """Cores, of which the last has the norm, and how they were found."""

    cores: tuple[Array, ...]
    error: float
    error_kind: Literal["gram", "exact"]
    status: Status
    history: History


def alternating_ring(
    prepared: Prepared,
    cores: Sequence[Array],
    stopping: Stopping,
    callback: Callback[TensorRing] | None,
    started: float,
) -> RingFit:
    r"""Update one core after the other until a criterion of ``stopping`` holds; Ctrl-C keeps the last sweep.

    Parameters
    ----------
    prepared : Prepared
    cores : sequence of array, shapes (r_{k-1}, n_k, r_k)
    stopping : Stopping
    callback : callable or None
    started : float
        Value of ``time.perf_counter`` that seconds are counted from.

    Notes
    -----
    The normal matrix of a core is the product of the transfer matrices
    :math:`\sum_i G_j[i] \otimes \overline{G_j[i]}` of the others, ``r^6`` multiply-adds; the right sides share their
    products with the tensor along a binary tree of the modes, two of ``N r^2`` multiply-adds a sweep, and chains of
    cores are multiplied out in panels.
    """
    sweeper = _Sweeper(prepared, list(cores))
    last: tuple[tuple[Array, ...], float, Literal["gram", "exact"]] | None = None
    errors: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    state = None
    status = Status.MAX_ITER
    try:
        for iteration in range(1, stopping.max_iter + 1):
            swept = sweeper.sweep()
            if last is None or swept[1] <= last[1]:
                last = swept
            # Roundoff can raise the error a little at a fixed point: the best so far stands.
            errors, seconds = (*errors, last[1]), (*seconds, time.perf_counter() - started)
            state = (last, errors, seconds)  # in one assignment, so that Ctrl-C never tears it
            if callback is not None:
                tensor = TensorRing(tuple(rescaled(last[0], len(cores) - 1, prepared)))
                if callback(IterationInfo(iteration, last[1], seconds[-1], tensor)):
                    status = Status.CALLBACK
                    break
            fall = errors[-2] - errors[-1] if len(errors) > 1 else math.inf
            ended = why_ended(stopping, iteration, seconds[-1], last[1], fall)
            if ended is not None:
                status = ended
                break
    except KeyboardInterrupt:
        if state is None:
            raise
        status = Status.INTERRUPTED
    assert state is not None  # max_iter is at least 1
    (found, error, kind), errors, seconds = state
    return RingFit(found, error, kind, status, History(errors, seconds))


class _Sweeper:
    """The cores, their transfer matrices, and how all of them are updated once."""

    def __init__(self, prepared: Prepared, cores: list[Array]) -> None:
        self._x, self._squared_norm = prepared.array, prepared.squared_norm
        self._xp = array_namespace(self._x)
        self._floor = DIFFERENCE_FLOOR[dtype_name(self._x)]
        self._cores = cores
        self._transfers = [self._transfer(core) for core in cores]
        self._after: list[Array] = []  # product of the transfer matrices after each core, as the sweep began
        self._before: Array = None  # product of those before the present core
        # The inner product of tensor and model, the squared norm of this, and a bound of what cancels in it.
        self._numbers: list[Array] = []

    def sweep(self) -> tuple[tuple[Array, ...], float, Literal["gram", "exact"]]:
        """Update every core once, from the first to the last; return them, the relative error and how it is known."""
        d = len(self._cores)
        self._after = [None] * d
        product = None
        for k in range(d - 1, 0, -1):
            product = self._transfers[k] if product is None else self._transfers[k] @ product
            self._after[k - 1] = product
        self._before = None
        self._split()
        cores = tuple(self._cores)
        if self._squared_norm == 0.0:
            return cores, 0.0, "exact"
        total = self._squared_norm
        inner, square, energy = (float(number) / total for number in self._numbers)
        error = math.sqrt(max(1.0 - 2.0 * inner + square, 0.0))
        if error >= self._floor * math.sqrt(max(1.0, energy)):
            return cores, error, "gram"
        return cores, exact_error(self._x, TensorRing(cores), self._squared_norm), "exact"

    def _split(self) -> None:
        """Contract the tensor with the chain of one half of the modes after the other."""
        xp, x, d = self._xp, self._x, self._x.ndim
        if d == 1:
            r = self._cores[0].shape[0]
            self._update(0, xp.reshape(x, (-1, 1, 1)) * self._eye(r)[None, :, :])
            return
        h = balanced_split(x.shape)
        matrix = xp.reshape(x, (total_size(x.shape[:h]), total_size(x.shape[h:])))
        self._descend(_times_chain(matrix, self._cores[h:]), 0, h)
        self._descend(_times_chain(xp.matrix_transpose(matrix), self._cores[:h]), h, d)

    def _descend(self, T: Array, a: int, b: int) -> None:
        """Update cores ``a`` to ``b - 1`` from ``T``, the tensor contracted with the chain of all others.

        ``T`` has shape ``(product of the modes, first bond of that chain, its last)``: it begins behind core
        ``b - 1`` and ends before core ``a``.
        """
        if b - a == 1:
            self._update(a, T)
            return
        xp = self._xp
        h = a + balanced_split([self._cores[k].shape[1] for k in range(a, b)])
        first, last = T.shape[1:]
        rows = total_size([self._cores[k].shape[1] for k in range(a, h)])
        right = conj(merged_chain(self._cores[h:b]))
        r, m, _ = right.shape
        self._descend(xp.reshape(right, (r, m * first)) @ xp.reshape(T, (rows, m * first, last)), a, h)
        left = conj(merged_chain(self._cores[a:h]))
        s = left.shape[2]
        T = xp.permute_dims(xp.reshape(T, (rows, m * first, last)), (1, 0, 2))
        left = xp.reshape(xp.permute_dims(left, (1, 0, 2)), (rows * last, s))
        self._descend(xp.reshape(xp.reshape(T, (m * first, rows * last)) @ left, (m, first, s)), h, b)

    def _update(self, k: int, T: Array) -> None:
        """Solve the normal equations of core k, ``T`` being their right sides ``(n_k, r_{k+1}, r_k)``."""
        xp, d = self._xp, len(self._cores)
        n, q, p = T.shape
        parts = [part for part in (self._after[k], self._before) if part is not None]
        H = parts[0] @ parts[1] if len(parts) == 2 else parts[0] if parts else self._eye(q * q)
        H = xp.reshape(xp.permute_dims(xp.reshape(H, (q, q, p, p)), (0, 2, 1, 3)), (q * p, q * p))
        M = xp.reshape(T, (n, q * p))
        X = cholesky_solve_gram(H, M)
        core = xp.permute_dims(xp.reshape(X, (n, q, p)), (2, 0, 1))
        if k == d - 1:
            # Singular normal equations are not solved exactly, and terms of a large core may cancel.
            size, largest = xp.abs(X), xp.linalg.vector_norm(H)
            self._numbers = [_inner(M, X), _inner(X @ H, X), xp.sum(size * size) * largest]
        elif p * n >= q:
            # What a QR factorisation takes off, the next core makes up for: it is solved for anew.
            core = xp.reshape(qr(xp.reshape(core, (p * n, q)))[0], (p, n, q))
        self._cores[k] = core
        self._transfers[k] = self._transfer(core)
        self._before = self._transfers[k] if self._before is None else self._before @ self._transfers[k]

    def _eye(self, n: int) -> Array:
        return self._xp.eye(n, dtype=self._x.dtype, device=self._x.device)

    def _transfer(self, core: Array) -> Array:
        r"""Return :math:`\sum_i G[i] \otimes \overline{G[i]}`."""
        xp = self._xp
        p, n, q = core.shape
        flat = xp.reshape(xp.permute_dims(core, (0, 2, 1)), (p * q, n))
        paired = xp.reshape(flat @ xp.matrix_transpose(conj(flat)), (p, q, p, q))
        return xp.reshape(xp.permute_dims(paired, (0, 2, 1, 3)), (p * p, q * q))


def _times_chain(matrix: Array, cores: Sequence[Array]) -> Array:
    """Return ``matrix`` (m, n) times the conjugate of a chain of cores, as ``(m, first bond, last bond)``.

    Only panels of the chain, ``n r^2`` numbers in all, are held.
    """
    xp = array_namespace(matrix)
    first, tail = conj(cores[0]), conj(merged_chain(cores[1:])) if len(cores) > 1 else None
    p, n, s = first.shape
    q, rest = (s, 1) if tail is None else (int(tail.shape[2]), int(tail.shape[1]))
    step = max(1, _PANEL // max(1, p * rest * q))
    total = None
    for start in range(0, n, step):
        stop = min(start + step, n)
        panel = first[:, start:stop, :] if tail is None else merged_chain((first[:, start:stop, :], tail))
        panel = xp.reshape(xp.permute_dims(panel, (1, 0, 2)), ((stop - start) * rest, p * q))
        part = matrix[:, start * rest : stop * rest] @ panel
        total = part if total is None else total + part
    return xp.reshape(total, (matrix.shape[0], p, q))


def _inner(M: Array, X: Array) -> Array:
    xp = array_namespace(M)
    total = xp.sum(conj(M) * X, dtype=M.dtype)
    return real_part(total)
