"""The course of a CP fit: what every method records, when it stops, and how a result is made of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tnet.arrays import Array, array_namespace, astype, conj, real_part, to_numpy
from tnet.decompositions.cp_normal_equations import gram_of_columns, hadamard
from tnet.decompositions.iteration import Callback, IterationInfo, why_ended
from tnet.decompositions.preparation import Prepared, rescaled
from tnet.decompositions.residual import error_after_rounding
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Decomposition, History, Status

__all__ = [
    "CANCELLING_COSINE",
    "CANCELLING_NORM",
    "ENDED_BY_ITSELF",
    "STILL_GROWING",
    "CPFit",
    "CPRun",
    "as_returned",
    "decomposition_from",
    "normalised_columns",
]

# Two components cancel when they point in nearly opposite directions, are larger than the tensor, and still
# grow. Least squares crawls there: on the standard example of border rank 2 the cosine is -0.81 after 100
# sweeps and -0.935 after 1000, so that a stricter bound would stay silent.
CANCELLING_COSINE = -0.75
CANCELLING_NORM = 1.5
STILL_GROWING = 1.02
# Where the caller ended the fit, that is what the status says.
ENDED_BY_ITSELF = (Status.CONVERGED, Status.MAX_ITER, Status.MAX_SECONDS)


class CPFit(NamedTuple):
    """Factors with columns of norm 1 and real weights >= 0, in the scale of ``prepared.array``, and their account.

    ``error_kind`` and the last of ``errors`` are those of ``weights`` and ``factors``; ``seconds`` is as long as
    ``errors``; ``status`` is why the method ended. ``magnitudes``, norms of the weights after each sweep, let
    cancelling components be found; empty where they cannot occur.
    """

    weights: Array
    factors: tuple[Array, ...]
    status: Status
    error_kind: Literal["gram", "exact", "bound"]
    errors: tuple[float, ...]
    seconds: tuple[float, ...]
    magnitudes: tuple[float, ...] = ()


class CPRun:
    """The account of an iteration: records each sweep, calls back, and says when to stop.

    What a sweep leaves is replaced in one assignment, so that Ctrl-C never tears it.
    """

    def __init__(
        self, prepared: Prepared, stopping: Stopping, callback: Callback[CPTensor] | None, started: float
    ) -> None:
        self.prepared = prepared
        self.stopping = stopping
        self._callback = callback
        self.started = started
        self._errors: list[float] = []
        self._objectives: list[float] = []
        self._seconds: list[float] = []
        self._magnitudes: list[Array] = []
        self._last: Any = (None, (), "gram", 0)  # weights, factors, kind of error, number of sweeps

    @property
    def sweeps(self) -> int:
        """Number of complete sweeps."""
        return self._last[3]

    @property
    def objective(self) -> float:
        """What the method lowers, as a relative error, after the last complete sweep."""
        return self._objectives[self.sweeps - 1]

    @property
    def weights(self) -> Array:
        """Weights after the last complete sweep."""
        return self._last[0]

    @property
    def factors(self) -> tuple[Array, ...]:
        """Factors after the last complete sweep, columns of norm 1."""
        return self._last[1]

    def record(
        self,
        weights: Array,
        factors: Sequence[Array],
        error: float,
        kind: Literal["gram", "exact"],
        moved: bool = True,
        objective: float | None = None,
    ) -> Status | None:
        """Take down a sweep; return why the run ends with it, or None.

        ``moved``: whether the sweep changed the model, so that a small fall of the objective means convergence.
        ``objective``: what the method lowers, as a relative error, where that is not the error itself.
        """
        objective = error if objective is None else objective
        before = self._objectives[self.sweeps - 1] if self.sweeps else None
        n = self.sweeps + 1
        seconds = time.perf_counter() - self.started
        xp = array_namespace(weights)
        for series, value in (
            (self._errors, error),
            (self._objectives, objective),
            (self._seconds, seconds),
            (self._magnitudes, xp.linalg.vector_norm(weights)),
        ):
            series[n - 1 :] = [value]
        self._last = (weights, tuple(factors), kind, n)
        if self._callback is not None:
            tensor = as_returned(weights, factors, self.prepared)
            if self._callback(IterationInfo(n, error, seconds, tensor)):
                return Status.CALLBACK
        fall = before - objective if moved and before is not None else math.inf
        return why_ended(self.stopping, n, seconds, error, fall)

    def complete(self, iterate: Callable[[], Status]) -> CPFit:
        """Return what ``iterate()`` leaves here; Ctrl-C keeps the last complete sweep, if there is one."""
        try:
            status = iterate()
        except KeyboardInterrupt:
            if self.sweeps == 0:
                raise
            status = Status.INTERRUPTED
        weights, factors, kind, n = self._last
        errors, seconds = tuple(self._errors[:n]), tuple(self._seconds[:n])
        magnitudes = tuple(float(value) for value in self._magnitudes[:n])
        return CPFit(weights, factors, status, kind, errors, seconds, magnitudes)


def decomposition_from(fit: CPFit, prepared: Prepared, started: float, seed: int | None) -> Decomposition[CPTensor]:
    """Return what :func:`tnet.cp` returns."""
    tensor = as_returned(fit.weights, fit.factors, prepared)
    error, kind = fit.errors[-1], fit.error_kind
    if prepared.is_half:
        error, kind = error_after_rounding(prepared, tensor), "exact"
    status = fit.status
    if status in ENDED_BY_ITSELF and _is_degenerate(fit, prepared.squared_norm**0.5):
        status = Status.DEGENERATE
    history = History(fit.errors, fit.seconds)
    return Decomposition(tensor, error, kind, status, history, time.perf_counter() - started, seed)


def as_returned(weights: Array, factors: Sequence[Array], prepared: Prepared) -> CPTensor:
    """Return the tensor in the scale and dtype of the input, weights descending."""
    xp = array_namespace(weights)
    order = xp.argsort(real_part(weights), descending=True)
    parts = [xp.take(weights, order)]
    parts += [xp.take(factor, order, axis=1) for factor in factors]
    weights, *columns = rescaled(parts, 0, prepared)
    return CPTensor(weights, tuple(columns))


def normalised_columns(A: Array) -> Array:
    """Return ``A`` with columns of norm 1; zero columns stay zero."""
    xp = array_namespace(A)
    norms = xp.sqrt(xp.sum(real_part(A * conj(A)), axis=0))
    return A / astype(xp.where(norms > 0, norms, xp.ones_like(norms)), A.dtype)


def _is_degenerate(fit: CPFit, norm: float) -> bool:
    """Return whether two components cancel each other and have grown over the later half of the sweeps."""
    magnitudes = fit.magnitudes
    n = len(magnitudes)
    if n < 3 or magnitudes[-1] <= STILL_GROWING * magnitudes[n // 2]:
        return False
    cosines = real_part(hadamard([gram_of_columns(factor) for factor in fit.factors]))
    large = to_numpy(real_part(fit.weights)) > CANCELLING_NORM * norm
    return bool(np.any((to_numpy(cosines) < CANCELLING_COSINE) & large[:, None] & large[None, :]))
