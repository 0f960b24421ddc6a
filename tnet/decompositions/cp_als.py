"""Alternating least squares for the canonical polyadic decomposition."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Literal

from tnet.arrays import Array, array_namespace, astype, cholesky_solve_gram, conj, dtype_name, is_complex
from tnet.decompositions.cp_fit import CPFit, as_returned, is_degenerate
from tnet.decompositions.dimension_tree import mttkrp_cycle
from tnet.decompositions.iteration import Callback, IterationInfo
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.residual import exact_error
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status

__all__ = ["alternating_least_squares"]

# ||x - y||^2 from the normal equations is a difference of numbers near ||x||^2, right to some ten units of
# roundoff: below these relative errors the residual itself is computed.
_GRAM_FLOOR = {"float64": 1e-6, "complex128": 1e-6, "float32": 1e-2, "complex64": 1e-2}


def alternating_least_squares(
    prepared: Prepared,
    factors: list[Array],
    ridge: float,
    stopping: Stopping,
    callback: Callback[CPTensor] | None,
    started: float,
) -> CPFit:
    """Run ALS from ``factors``, which it takes over, until a criterion of ``stopping`` holds."""
    als = _Als(prepared, factors, ridge)
    status = als.run(stopping, callback, started)
    state = als.state
    if als.is_degenerate():
        status = Status.DEGENERATE
    return CPFit(state.weights, state.factors, status, state.error_kind, state.errors, state.seconds)


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
        products = mttkrp_cycle(self._prepared.array, self._factors)
        errors: tuple[float, ...] = ()
        seconds: tuple[float, ...] = ()
        try:
            for iteration in range(1, stopping.max_iter + 1):
                for mode, M in itertools.islice(products, len(self._factors)):
                    self._factors[mode] = self._update(mode, M)
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
        """Return the last complete sweep in the scale and dtype of the input."""
        return as_returned(self.state.weights, self.state.factors, self._prepared)

    def is_degenerate(self) -> bool:
        """Return whether components cancel each other and grow."""
        state = self.state
        norm = math.sqrt(self._prepared.squared_norm)
        return is_degenerate(state.weights, state.cosines, self._magnitudes[: len(state.errors)], norm)

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


def _gram_of_columns(A: Array) -> Array:
    """Return ``A^T conj(A)``, whose Hadamard products are the normal matrices of ALS."""
    return array_namespace(A).matrix_transpose(A) @ conj(A)


def _squares(A: Array) -> Array:
    return _real(A * conj(A))


def _real(A: Array) -> Array:
    return array_namespace(A).real(A) if is_complex(A) else A
