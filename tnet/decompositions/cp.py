"""Canonical polyadic decomposition by alternating least squares."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    check_finite,
    cholesky_solve_gram,
    conj,
    dtype_name,
    is_complex,
    resolve_rng,
    standard_normal,
    to_numpy,
    truncated_eigh,
)
from tnet.decompositions.dimension_tree import sweep
from tnet.decompositions.iteration import Callback, IterationInfo, warn_unless_converged
from tnet.decompositions.preparation import Prepared, prepare, rescaled
from tnet.decompositions.residual import error_after_rounding, exact_error
from tnet.decompositions.tucker import mode_gram
from tnet.errors import InputError, RankError, ShapeError
from tnet.formats import CPTensor
from tnet.options import Stopping, Truncation
from tnet.results import Decomposition, History, Status

__all__ = ["cp"]

# ||x - y||^2 from the normal equations is a difference of numbers near ||x||^2, right to some ten units of
# roundoff: below these relative errors the residual itself is computed.
_GRAM_FLOOR = {"float64": 1e-6, "complex128": 1e-6, "float32": 1e-2, "complex64": 1e-2}
# Two components cancel when they point in nearly opposite directions, are larger than the tensor, and still
# grow. Least squares crawls there: on the standard example of border rank 2 the cosine is -0.81 after 100
# sweeps and -0.935 after 1000, so that a stricter bound would stay silent.
_CANCELLING_COSINE = -0.75
_CANCELLING_NORM = 1.5
_STILL_GROWING = 1.02


def cp(
    x: Array,
    rank: int,
    *,
    init: Literal["svd", "random"] | CPTensor = "svd",
    method: Literal["als"] = "als",
    ridge: float = 0.0,
    stopping: Stopping = Stopping(),  # noqa: B008 - frozen
    rng: Any = None,
    callback: Callback[CPTensor] | None = None,
) -> Decomposition[CPTensor]:
    r"""Decompose a tensor into a sum of rank-one tensors.

    .. math:: X \approx \sum_{r=1}^R \lambda_r\, a_r \circ b_r \circ c_r \circ \cdots

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
        Real or complex floating point. Not changed; a torch tensor is detached.
    rank : int
        R, the number of terms; it may exceed every mode.
    init : {"svd", "random"} or CPTensor
        Leading left singular vectors of each unfolding (missing columns are random), normal random
        factors, or a start taken as given.
    method : {"als"}
        Alternating least squares.
    ridge : float
        Adds ``ridge * sum(weights**2)`` to the squared error, whatever the scale of ``x``; a small value
        such as 1e-6 keeps components from growing against each other. 0: none.
    stopping : Stopping
        Sweeps, change of the relative error, seconds.
    rng : int, numpy Generator, torch Generator or None
        For random columns; drawn on the host, so that one seed gives one start on every library.
    callback : callable, optional
        Receives an :class:`~tnet.decompositions.IterationInfo` after each sweep; stops by returning True.

    Returns
    -------
    Decomposition of CPTensor
        Factor columns have norm 1; weights are positive and descend. ``error_kind`` is "gram" (normal
        equations) or, for small errors, "exact" (residual). Ctrl-C after the first sweep returns the last
        complete sweep, with status ``INTERRUPTED``.

    Raises
    ------
    RankError
        A rank that is no positive integer.
    InputError
        A non-finite entry, an empty mode, order 0, an unknown ``init`` or ``method``, a negative ridge.
    ShapeError
        A start whose shape or rank differs.
    BackendError
        Integers and other arrays that hold no floating point numbers.

    Warns
    -----
    ConvergenceWarning
        ``max_iter`` or ``max_seconds`` ended the iteration, or components cancel each other (status
        ``DEGENERATE``): then no best approximation of this rank may exist.

    Notes
    -----
    A sweep takes ``2 N R`` multiply-adds in two matrix products on views of ``x`` [1]_ and memory for about
    ``2 sqrt(N) R`` numbers beside ``x`` (which is copied once if it is not C-contiguous). The error comes
    from the normal equations, without reconstruction. The starting SVDs take ``N sum(n_k)``.

    References
    ----------
    .. [1] A.-H. Phan, P. Tichavsky, A. Cichocki, "Fast alternating LS algorithms for high order
       CANDECOMP/PARAFAC tensor factorizations", IEEE Trans. Signal Process. 61 (2013).
    .. [2] T. G. Kolda, B. W. Bader, "Tensor decompositions and applications", SIAM Review 51 (2009),
       figure 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> x = np.arange(24.0).reshape(2, 3, 4)  # sums of coordinates
    >>> result = tnet.cp(x, 3, rng=0, stopping=tnet.Stopping(max_iter=500))
    >>> result.error < 1e-3
    True
    """
    started = time.perf_counter()
    R = _checked_rank(rank)
    if method != "als":
        raise InputError(f"method={method!r}: the one method of cp is 'als'.")
    if not (isinstance(ridge, (int, float)) and math.isfinite(ridge) and ridge >= 0):
        raise InputError(f"ridge={ridge!r}: give a finite number >= 0.")
    prepared = prepare(x)
    factors, seed = _start(prepared, R, init, rng)
    als = _Als(prepared, factors, float(ridge))
    status = als.run(stopping, callback, started)
    tensor, state = als.tensor(), als.state
    error, kind = state.errors[-1], state.error_kind
    if prepared.is_half:
        error, kind = error_after_rounding(prepared, tensor), "exact"
    if als.is_degenerate():
        status = Status.DEGENERATE
    warn_unless_converged("cp", status, stopping.change)
    history = History(state.errors, state.seconds)
    return Decomposition(tensor, error, kind, status, history, time.perf_counter() - started, seed)


@dataclass(frozen=True, eq=False)
class _State:
    """All that a complete sweep leaves; replaced in one assignment, so that Ctrl-C never tears it.

    ``cosines`` is the Hadamard product of the Gram matrices of the normalised factors.
    """

    weights: Array
    factors: tuple[Array, ...]
    cosines: Array
    error_kind: Literal["gram", "exact"]
    errors: tuple[float, ...]
    seconds: tuple[float, ...]


class _Als:
    """One run of alternating least squares."""

    state: _State

    def __init__(self, prepared: Prepared, factors: list[Array], ridge: float) -> None:
        self._prepared = prepared
        self._xp = array_namespace(prepared.array)
        self._ridge = ridge
        self._factors = factors
        self._grams = [_gram_of_columns(factor) for factor in factors]
        self._weights: Array = None
        self._inner: Array = None
        self._magnitudes: list[float] = []  # norm of the weights after each sweep

    def run(self, stopping: Stopping, callback: Callback[CPTensor] | None, started: float) -> Status:
        """Sweep until a criterion of ``stopping`` holds; Ctrl-C keeps the last complete sweep."""
        errors: tuple[float, ...] = ()
        seconds: tuple[float, ...] = ()
        try:
            for iteration in range(1, stopping.max_iter + 1):
                sweep(self._prepared.array, self._factors, self._update)
                cosines = self._hadamard_of_grams(skip=None)
                error, kind = self._error(cosines)
                self._magnitudes.append(float(self._xp.linalg.vector_norm(self._weights)))
                errors, seconds = (*errors, error), (*seconds, time.perf_counter() - started)
                self.state = _State(self._weights, tuple(self._factors), cosines, kind, errors, seconds)
                if callback is not None and callback(IterationInfo(iteration, error, seconds[-1], self.tensor())):
                    return Status.CALLBACK
                settled = stopping.change > 0 and len(errors) > 1 and errors[-2] - error < stopping.change
                if settled or error == 0.0:
                    return Status.CONVERGED
                if stopping.max_seconds is not None and seconds[-1] >= stopping.max_seconds:
                    return Status.MAX_SECONDS
        except KeyboardInterrupt:
            if not hasattr(self, "state"):
                raise
            return Status.INTERRUPTED
        return Status.MAX_ITER

    def tensor(self) -> CPTensor:
        """Return the last complete sweep in the scale and dtype of the input, weights descending."""
        xp, state = self._xp, self.state
        order = xp.argsort(state.weights, descending=True)
        parts = [xp.take(state.weights, order)]
        parts += [xp.take(factor, order, axis=1) for factor in state.factors]
        weights, *factors = rescaled(parts, 0, self._prepared)
        return CPTensor(weights, tuple(factors))

    def is_degenerate(self) -> bool:
        """Return whether two components cancel each other and have grown over the later half of the sweeps."""
        n = len(self.state.errors)
        magnitudes = self._magnitudes[:n]
        if n < 3 or magnitudes[-1] <= _STILL_GROWING * magnitudes[n // 2]:
            return False
        cosines = to_numpy(_real(self.state.cosines))
        weights = to_numpy(_real(self.state.weights))
        large = weights > _CANCELLING_NORM * math.sqrt(self._prepared.squared_norm)
        return bool(np.any((cosines < _CANCELLING_COSINE) & large[:, None] & large[None, :]))

    def _update(self, mode: int, M: Array) -> Array:
        """Solve the normal equations ``A H = M`` of one mode and normalise the columns of ``A``."""
        xp = self._xp
        H = self._hadamard_of_grams(skip=mode)
        if self._ridge:
            H = H + self._ridge * xp.eye(H.shape[0], dtype=H.dtype, device=H.device)
        A = cholesky_solve_gram(H, M)
        norms = xp.sqrt(xp.sum(_squares(A), axis=0))
        # An extinct component keeps a zero column with weight 0; dividing by 1 leaves it zero.
        A = A / astype(xp.where(norms > 0, norms, xp.ones_like(norms)), A.dtype)
        self._weights = astype(norms, A.dtype)
        self._grams[mode] = _gram_of_columns(A)
        self._inner = xp.sum(_real(M * conj(A)) * norms)
        return A

    def _hadamard_of_grams(self, skip: int | None) -> Array:
        xp = self._xp
        product = xp.ones_like(self._grams[0])
        for mode, G in enumerate(self._grams):
            if mode != skip:
                product = product * G
        return product

    def _error(self, cosines: Array) -> tuple[float, Literal["gram", "exact"]]:
        """Return the relative error after a sweep; exactly where the normal equations do not resolve it."""
        squared_norm = self._prepared.squared_norm
        if squared_norm == 0.0:
            return 0.0, "exact"
        weights = self._weights
        quadratic = _real(self._xp.sum(cosines * weights[:, None] * weights[None, :]))
        squared = squared_norm - 2.0 * float(self._inner) + float(quadratic)
        error = math.sqrt(max(squared, 0.0) / squared_norm)
        if error >= _GRAM_FLOOR[dtype_name(weights)]:
            return error, "gram"
        model = CPTensor(weights, tuple(self._factors))
        return exact_error(self._prepared.array, model, squared_norm), "exact"


def _start(prepared: Prepared, R: int, init: object, rng: Any) -> tuple[list[Array], int | None]:
    """Return starting factors with columns of norm 1, and the seed if anything was random."""
    x = prepared.array
    if isinstance(init, CPTensor):
        return _given_start(prepared, R, init), None
    if not isinstance(init, str) or init not in ("svd", "random"):
        raise InputError(f"init={init!r}: choose 'svd', 'random', or give a CPTensor.")
    xp = array_namespace(x)
    generator, seed = resolve_rng(rng)
    factors: list[Array] = []
    drawn = False
    for mode, n in enumerate(x.shape):
        columns: list[Array] = []
        if init == "svd":
            U, _, _ = truncated_eigh(mode_gram(x, mode), Truncation(rank=min(R, n)))
            columns.append(astype(U, x.dtype))
        missing = R - (min(R, n) if init == "svd" else 0)
        if missing:
            drawn = True
            columns.append(standard_normal(generator, (n, missing), x))
        factors.append(_normalised(xp.concat(columns, axis=1)))
    return factors, seed if drawn else None


def _given_start(prepared: Prepared, R: int, init: CPTensor) -> list[Array]:
    x = prepared.array
    if init.shape != tuple(x.shape) or init.rank != R:
        raise ShapeError(
            f"init has shape {init.shape} and rank {init.rank}; give one of shape {tuple(x.shape)} and rank {R}."
        )
    array_namespace(x, *init.arrays)  # refuses another library or device
    for k, part in enumerate(init.arrays):
        check_finite(part, f"array {k} of init")
    # Weights do not matter: the first update solves for them, whatever the scale of the others.
    return [_normalised(astype(factor, x.dtype)) for factor in init.factors]


def _normalised(A: Array) -> Array:
    xp = array_namespace(A)
    norms = xp.sqrt(xp.sum(_squares(A), axis=0))
    return A / astype(xp.where(norms > 0, norms, xp.ones_like(norms)), A.dtype)


def _gram_of_columns(A: Array) -> Array:
    """Return ``A^T conj(A)``, whose Hadamard products are the normal matrices of ALS."""
    return array_namespace(A).matrix_transpose(A) @ conj(A)


def _squares(A: Array) -> Array:
    return _real(A * conj(A))


def _real(A: Array) -> Array:
    return array_namespace(A).real(A) if is_complex(A) else A


def _checked_rank(rank: object) -> int:
    if isinstance(rank, (bool, np.bool_)) or not isinstance(rank, (int, np.integer)) or rank < 1:
        raise RankError(f"rank={rank!r}: give an integer of at least 1.")
    return int(rank)
