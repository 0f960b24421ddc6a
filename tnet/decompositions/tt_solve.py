"""Linear systems and entrywise division in the tensor-train format, by AMEn."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tnet.algebra import add, canonicalise, matvec, norm, round, scale
from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    balanced_scale,
    common_dtype,
    einsum,
    qr,
    require_floating,
    resolve_rng,
    scale_by_power_of_two,
    squared_norm,
    standard_normal,
    svd_truncated,
)
from tnet.decompositions.iteration import Callback, IterationInfo, warn_unless_converged
from tnet.decompositions.local_system import LocalSystem, left_interface, left_vector
from tnet.errors import BackendError, InputError, ShapeError
from tnet.formats import MatrixProductOperator, TensorTrain
from tnet.options import Stopping, Truncation
from tnet.results import Decomposition, History, Status

__all__ = ["tt_divide", "tt_solve"]

_DEFAULT_STOPPING = Stopping(max_iter=40, change=0.0)
# Columns by which each bond grows in a half sweep.
_ENRICHMENT = 4
# Share of the tolerance, beyond an equal one for each core, that a local solution and its truncation may leave.
_LOCAL = 0.3


def tt_solve(
    A: MatrixProductOperator,
    b: TensorTrain,
    *,
    rtol: float,
    stopping: Stopping = _DEFAULT_STOPPING,
    rng: Any = None,
    callback: Callback[TensorTrain] | None = None,
) -> Decomposition[TensorTrain]:
    r"""Solve :math:`A x = b` for a tensor train.

    Parameters
    ----------
    A : MatrixProductOperator
        Square in every digit: ``row_shape`` equal to ``column_shape``. Best behaved where A is definite, symmetric
        or not: the projected systems are then regular.
    b : TensorTrain
        Of shape ``A.row_shape``.
    rtol : float
        Relative residual ``||b - A x|| / ||b||`` to reach, in (0, 1).
    stopping : Stopping
        ``max_iter`` half sweeps, ``max_seconds``; ``change`` plays no part.
    rng : int, numpy.random.Generator, torch.Generator or None
        For the first approximation of the residual.
    callback : callable, optional
        Called after each half sweep with an :class:`IterationInfo`; stops by returning True.

    Returns
    -------
    Decomposition of TensorTrain
        ``error`` is the relative residual, computed exactly from what is returned.

    Raises
    ------
    ShapeError, InputError, BackendError
        Shapes that do not fit, a non-finite entry, other kinds of operands or dtypes.

    Warns
    -----
    ConvergenceWarning
        If ``rtol`` is not reached.

    Notes
    -----
    Alternating minimal energy: core after core, the system projected on the other cores is solved (by a dense
    factorisation up to 600 unknowns, by preconditioned GMRES above); the core is truncated so that its residual
    stays small, and its basis is enriched by a projection of the residual, which is itself carried as a train of
    rank 4. For modes n, ranks r of x and p of A a half sweep takes about ``d (n p r^3 + n^2 p^2 r^2)`` multiply-adds
    times the GMRES steps. Computed in double precision.

    References
    ----------
    .. [1] S. V. Dolgov, D. V. Savostyanov, "Alternating minimal energy methods for linear systems in higher
       dimensions", SIAM J. Sci. Comput. 36 (2014).

    Examples
    --------
    >>> import numpy as np
    >>> from tnet.decompositions import tt_solve
    >>> from tnet.formats import MatrixProductOperator, TensorTrain
    >>> A = MatrixProductOperator((2 * np.eye(3)[None, :, :, None], np.eye(4)[None, :, :, None]))
    >>> b = TensorTrain((np.ones((1, 3, 1)), np.ones((1, 4, 1))))
    >>> bool(np.allclose(tt_solve(A, b, rtol=1e-8, rng=0).tensor.to_dense(), 0.5))
    True
    """
    started = time.perf_counter()
    _check(A, b, rtol)
    generator, seed = resolve_rng(rng)
    dtype = common_dtype(*A.arrays, *b.arrays)
    A, b = _in_double(A, dtype), _in_double(b, dtype)
    if float(norm(b)) == 0.0:
        zero = b.map_arrays(lambda core: astype(core, dtype))
        return Decomposition(zero, 0.0, "exact", Status.CONVERGED, History(), time.perf_counter() - started, seed)
    sweeps = _Sweeps(A, b, rtol, generator)
    errors: list[float] = []
    seconds: list[float] = []
    status = Status.MAX_ITER
    x = sweeps.solution()
    error = _residual(A, b, x)
    best = (error, x)
    try:
        for iteration in range(1, stopping.max_iter + 1):
            if error <= rtol:
                status = Status.CONVERGED
                break
            sweeps.half_sweep()
            x = sweeps.solution()
            error = _residual(A, b, x)
            best = min(best, (error, x), key=lambda pair: pair[0])
            errors.append(error)
            seconds.append(time.perf_counter() - started)
            if callback is not None and callback(IterationInfo(iteration, error, seconds[-1], x)):
                status = Status.CALLBACK
                break
            if stopping.max_seconds is not None and seconds[-1] > stopping.max_seconds and error > rtol:
                status = Status.MAX_SECONDS
                break
        if best[0] <= rtol and status is Status.MAX_ITER:
            status = Status.CONVERGED
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
    warn_unless_converged("tt_solve", status, 1.0)
    error, x = _trimmed(A, b, best, rtol)
    x = x.map_arrays(lambda core: astype(core, dtype))
    history = History(tuple(errors), tuple(seconds))
    return Decomposition(x, error, "exact", status, history, time.perf_counter() - started, seed)


def tt_divide(
    a: TensorTrain,
    b: TensorTrain,
    *,
    rtol: float,
    stopping: Stopping = _DEFAULT_STOPPING,
    rng: Any = None,
    callback: Callback[TensorTrain] | None = None,
) -> Decomposition[TensorTrain]:
    r"""Return the entrywise quotient :math:`a_i / b_i` as a tensor train.

    Parameters
    ----------
    a, b : TensorTrain
        Of one shape; ``b`` without zeros, best of one sign.
    rtol, stopping, rng, callback
        As in :func:`tt_solve`.

    Returns
    -------
    Decomposition of TensorTrain
        ``error`` is the relative residual ``||a - b x|| / ||a||``; that of x itself is at most larger by the ratio
        of the largest to the smallest entry of ``b``.

    Raises
    ------
    ShapeError, InputError, BackendError
        As :func:`tt_solve`.

    Warns
    -----
    ConvergenceWarning
        If ``rtol`` is not reached.

    Notes
    -----
    The solution of ``diag(b) x = a``.

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> from tnet.decompositions import tt_divide
    >>> one = tnet.tt(np.ones((4, 5, 6)), rtol=1e-12).tensor
    >>> x = 1.0 + np.arange(4.0)[:, None, None] + np.arange(5.0)[:, None] * np.ones(6)
    >>> found = tt_divide(one, tnet.tt(x, rtol=1e-12).tensor, rtol=1e-8, rng=0)
    >>> bool(np.allclose(found.tensor.to_dense(), 1 / x, atol=1e-6))
    True
    """
    for name, t in (("a", a), ("b", b)):
        if not isinstance(t, TensorTrain):
            raise BackendError(f"tt_divide: {name} is {type(t).__name__}; give a TensorTrain.")
    if a.shape != b.shape:
        raise ShapeError(f"tt_divide: shapes {a.shape} and {b.shape} differ; give equal shapes.")
    return tt_solve(_diagonal(b), a, rtol=rtol, stopping=stopping, rng=rng, callback=callback)


class _Sweeps:
    """The state of the alternation: solution and residual as trains, and their parts right of each bond.

    A half sweep goes from left to right; then all trains are turned around, so that the next one does so too.
    """

    def __init__(self, A: MatrixProductOperator, b: TensorTrain, rtol: float, rng: np.random.Generator) -> None:
        d = len(b.cores)
        self._A, a_exponent = _unit(A.cores)
        self._b, b_exponent = _unit(b.cores)
        self._exponent = b_exponent - a_exponent
        self._turned = False
        self._local_rtol = _LOCAL * rtol / math.sqrt(d)
        self._x = list(canonicalise(TensorTrain(tuple(self._b)), 0).cores)
        bonds = [1, *[_ENRICHMENT] * (d - 1), 1]
        random = (
            standard_normal(rng, (bonds[k], core.shape[1], bonds[k + 1]), core) for k, core in enumerate(self._b)
        )
        self._z = list(canonicalise(TensorTrain(tuple(random)), 0).cores)
        self._turn()
        self._right = [self._outside()]
        for k in range(d - 1):
            self._right.append(self._passed(self._right[k], k, self._x[k], self._z[k]))
        self._turn()

    def solution(self) -> TensorTrain:
        """Return the train as it stands."""
        cores = [_flipped(core) for core in reversed(self._x)] if self._turned else list(self._x)
        cores[-1] = scale_by_power_of_two(cores[-1], self._exponent)
        return TensorTrain(tuple(cores))

    def half_sweep(self) -> None:
        """Solve, truncate and enrich core after core, from left to right; turn around."""
        d = len(self._x)
        left = [self._outside()]
        for k in range(d):
            here, there = left[k], self._right[d - 1 - k]
            system = LocalSystem(here.xAx, self._A[k], there.xAx)
            f = _right_side(here.xb, self._b[k], there.xb)
            u = system.solve(f, self._x[k], self._local_rtol)
            if k == d - 1:
                self._x[k] = u
                break
            U, W = self._truncated(system, f, u)
            r, n, t = U.shape
            xp = array_namespace(U)
            u = xp.reshape(xp.reshape(U, (r * n, t)) @ W, u.shape)
            grown = _right_side(here.xb, self._b[k], there.zb) - LocalSystem(here.xAx, self._A[k], there.zAx).apply(u)
            Q, R = qr(xp.reshape(xp.concat([U, grown], axis=2), (r * n, -1)))
            self._x[k] = xp.reshape(Q, (r, n, Q.shape[1]))
            _, m, s = self._x[k + 1].shape
            carried = R[:, :t] @ W @ xp.reshape(self._x[k + 1], (W.shape[1], m * s))
            self._x[k + 1] = xp.reshape(carried, (Q.shape[1], m, s))
            z = _right_side(here.zb, self._b[k], there.zb) - LocalSystem(here.zAx, self._A[k], there.zAx).apply(u)
            Qz, _ = qr(xp.reshape(z, (z.shape[0] * n, z.shape[2])))
            self._z[k] = xp.reshape(Qz, (z.shape[0], n, Qz.shape[1]))
            left.append(self._passed(here, k, self._x[k], self._z[k]))
        self._right = left
        self._turn()

    def _truncated(self, system: LocalSystem, f: Array, u: Array) -> tuple[Array, Array]:
        """Return ``u = U W`` of the least rank that leaves the local residual small."""
        xp = array_namespace(u)
        r, n, s = u.shape
        found = svd_truncated(xp.reshape(u, (r * n, s)), Truncation(rank=min(r * n, s)))
        size = math.sqrt(squared_norm(f))
        reached = math.sqrt(squared_norm(f - system.apply(u)))
        goal = max(self._local_rtol * size, 2 * reached)
        W = found.Vh * astype(found.s, found.Vh.dtype)[:, None]
        low, high = 1, int(W.shape[0])
        while low < high:
            rank = (low + high) // 2
            trial = xp.reshape(found.U[:, :rank] @ W[:rank, :], (r, n, s))
            if math.sqrt(squared_norm(f - system.apply(trial))) <= goal:
                high = rank
            else:
                low = rank + 1
        return xp.reshape(found.U[:, :high], (r, n, high)), W[:high, :]

    def _passed(self, left: _Part, k: int, x: Array, z: Array) -> _Part:
        """Return the part left of the next bond."""
        A, b = self._A[k], self._b[k]
        return _Part(
            left_interface(left.xAx, x, A, x),
            left_vector(left.xb, x, b),
            left_interface(left.zAx, z, A, x),
            left_vector(left.zb, z, b),
        )

    def _outside(self) -> _Part:
        core = self._x[0]
        xp = array_namespace(core)
        three = xp.ones((1, 1, 1), dtype=core.dtype, device=core.device)
        two = xp.ones((1, 1), dtype=core.dtype, device=core.device)
        return _Part(three, two, three, two)

    def _turn(self) -> None:
        self._x, self._z, self._b, self._A = (
            [_flipped(core) for core in reversed(cores)] for cores in (self._x, self._z, self._b, self._A)
        )
        self._turned = not self._turned


class _Part(NamedTuple):
    """What lies on one side of a bond: of ``x^H A x``, ``x^H b``, ``z^H A x`` and ``z^H b``."""

    xAx: Array
    xb: Array
    zAx: Array
    zb: Array


def _right_side(left: Array, b: Array, right: Array) -> Array:
    """Return the right side (a, m, c) of a core's system from (a, e), (e, m, f) and (c, f)."""
    xp = array_namespace(b)
    return einsum(xp, "amf,cf->amc", einsum(xp, "ae,emf->amf", left, b), right)


def _flipped(core: Array) -> Array:
    """Return a core seen from the other end of its train."""
    xp = array_namespace(core)
    return xp.permute_dims(core, (2, 1, 0) if core.ndim == 3 else (3, 1, 2, 0))


def _unit(cores: Sequence[Array]) -> tuple[list[Array], int]:
    """Return the cores with norms near one, and the power of two that they lack."""
    found: list[Array] = []
    total = 0
    for core in cores:
        scaled = balanced_scale(core)
        exponent = math.frexp(math.sqrt(scaled.squared_norm))[1]
        found.append(scale_by_power_of_two(scaled.array, -exponent))
        total += scaled.exponent + exponent
    return found, total


def _residual(A: MatrixProductOperator, b: TensorTrain, x: TensorTrain) -> float:
    return float(norm(add(b, scale(matvec(A, x), -1.0)))) / float(norm(b))


def _trimmed(
    A: MatrixProductOperator, b: TensorTrain, best: tuple[float, TensorTrain], rtol: float
) -> tuple[float, TensorTrain]:
    """Return a solution of smaller ranks with a residual that is as good for the purpose."""
    error, x = best
    allowed = max(rtol, 1.1 * error)
    for tolerance in (rtol, rtol / 10, rtol / 100, rtol / 1000):
        rounded = round(x, rtol=tolerance)
        found = _residual(A, b, rounded)
        if found <= allowed:
            return found, rounded
    return error, x


def _diagonal(t: TensorTrain) -> MatrixProductOperator:
    """Return the operator that multiplies entry by entry with ``t``."""
    cores = []
    for core in t.cores:
        xp = array_namespace(core)
        eye = xp.eye(core.shape[1], dtype=core.dtype, device=core.device)
        cores.append(core[:, :, None, :] * eye[None, :, :, None])
    return MatrixProductOperator(tuple(cores))


def _in_double(t: Any, dtype: Any) -> Any:
    xp = array_namespace(*t.arrays)
    wide = xp.complex128 if xp.isdtype(dtype, "complex floating") else xp.float64
    return t.map_arrays(lambda core: astype(core, wide))


def _check(A: object, b: object, rtol: object) -> None:
    if not isinstance(A, MatrixProductOperator) or not isinstance(b, TensorTrain):
        raise BackendError(
            f"tt_solve of {type(A).__name__} and {type(b).__name__}: give a MatrixProductOperator and a TensorTrain."
        )
    if A.row_shape != A.column_shape or A.row_shape != b.shape:
        raise ShapeError(
            f"tt_solve: rows {A.row_shape}, columns {A.column_shape}, right side {b.shape}; give three equal shapes."
        )
    if isinstance(rtol, bool) or not isinstance(rtol, (int, float)) or not 0 < rtol < 1:
        raise InputError(f"rtol={rtol!r}: give a relative residual in (0, 1), for example rtol=1e-6.")
    array_namespace(*A.arrays, *b.arrays)
    for name, t in (("A", A), ("b", b)):
        for k, core in enumerate(t.cores):
            require_floating(core, f"cores[{k}] of {name}")
            squared_norm(core, f"cores[{k}] of {name}")  # not finite where an entry is not
