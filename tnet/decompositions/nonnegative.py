"""The nonnegative canonical polyadic decomposition by accelerated, extrapolated HALS."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, NamedTuple

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    dtype_name,
    from_numpy_like,
    hals,
    is_complex,
    is_torch,
    total_size,
)
from tnet.decompositions.cp_fit import CPFit, CPRun
from tnet.decompositions.cp_normal_equations import gram_of_columns, hadamard, model_error
from tnet.decompositions.cp_start import starting_factors
from tnet.decompositions.dimension_tree import mttkrp_cycle
from tnet.decompositions.iteration import Callback
from tnet.decompositions.momentum import Momentum
from tnet.decompositions.preparation import Prepared
from tnet.errors import BackendError, InputError
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status

__all__ = [
    "INNER_CHANGE",
    "ahead",
    "largest_entry",
    "nonnegative_cp",
    "nonnegative_momentum",
    "nonnegative_sweeps",
    "refuse_complex",
    "sensible_passes",
    "with_unit_columns",
]

# Passes over the columns go on until one moves them by this times the first: extrapolation needs factors nearer to
# their optima than plain sweeps do (0.1 takes up to twice the sweeps).
INNER_CHANGE = 0.01


def nonnegative_cp(
    prepared: Prepared,
    R: int,
    init: object,
    ridge: float,
    stopping: Stopping,
    rng: Any,
    callback: Callback[CPTensor] | None,
    started: float,
) -> tuple[CPFit, int | None]:
    r"""Fit a CP model with nonnegative factors; return it and the seed if anything was random.

    Notes
    -----
    A sweep updates one factor after the other by :func:`tnet.arrays.hals`, with the products of
    :func:`~tnet.decompositions.dimension_tree.mttkrp_cycle` that ALS takes as well. As many passes are made over
    the columns as one product is worth in time. Each new factor is extrapolated, ``max(0, A + beta (A - A_before))``
    [1]_; a sweep after which the objective is larger is made again from the last model, without extrapolation, so
    that recorded errors never rise.

    References
    ----------
    .. [1] A. M. S. Ang, J. E. Cohen, N. Gillis, L. T. K. Hien, "Accelerating block coordinate descent for
       nonnegative tensor factorization", Numer. Linear Algebra Appl. 28 (2021).
    """
    refuse_complex(prepared.array)
    weights, factors, seed = _start(prepared, R, init, rng)
    run = CPRun(prepared, stopping, callback, started)
    return run.complete(lambda: nonnegative_sweeps(run, weights, factors, ridge)), seed


def refuse_complex(x: Array) -> None:
    """Raise BackendError for a complex array."""
    if is_complex(x):
        raise BackendError(
            f"x is {dtype_name(x)} and nonnegative=True: complex numbers have no order; "
            "give a real array, such as abs(x), or leave nonnegative out."
        )


def nonnegative_momentum() -> Momentum:
    """Return the momentum of nonnegative fits, at most 1."""
    return Momentum(ceiling_growth=1.01, highest=1.0)


def ahead(A: Array, before: Array, beta: float) -> Array:
    """Return ``max(0, A + beta (A - before))``."""
    return array_namespace(A).clip(A + beta * (A - before), min=0.0)


def largest_entry(x: Array) -> tuple[list[Array], Array]:
    """Return the rank-one tensor that holds the largest entry of x, or 0: unit columns (n_k, 1) and its value."""
    xp = array_namespace(x)
    flat = xp.reshape(x, (-1,))
    place = np.unravel_index(int(xp.argmax(flat)), tuple(x.shape))
    columns = [from_numpy_like(np.eye(1, int(n), int(i)).T, x) for n, i in zip(x.shape, place, strict=True)]
    return columns, xp.clip(xp.max(flat), min=0.0)


def with_unit_columns(A: Array) -> tuple[Array, Array]:
    """Return a nonnegative factor with columns of norm 1, and their norms.

    An extinct column becomes uniform, of norm 0: as zeros it would lock the others at zero for ever.
    """
    xp = array_namespace(A)
    norms = xp.linalg.vector_norm(A, axis=0)
    alive = norms > 0
    uniform = xp.full_like(A, float(A.shape[0]) ** -0.5)
    return xp.where(alive, A / xp.where(alive, norms, xp.ones_like(norms)), uniform), norms


def sensible_passes(n: int, R: int, product: float) -> int:
    """Return how many passes of HALS over (n, R) a product of so many multiply-adds is worth at most.

    The rule of Gillis and Glineur (2012) with alpha = 1/2.
    """
    return 1 + math.ceil(0.5 * (1.0 + product / (n * R * R)))


class _Sweep(NamedTuple):
    """What a sweep leaves: a model, its error, and what the iteration lowers."""

    weights: Array
    factors: tuple[Array, ...]
    error: float
    kind: Literal["gram", "exact"]
    objective: float


def nonnegative_sweeps(run: CPRun, weights: Array, factors: list[Array], ridge: float) -> Status:
    """Sweep until the run ends; extrapolate as long as that lowers the objective.

    Weights may have any common scale; factors are nonnegative with columns of norm 1.
    """
    hals_run = _Hals(run.prepared, weights, list(factors), ridge)
    momentum = nonnegative_momentum()
    last: _Sweep | None = None
    while True:
        sweep = hals_run.sweep(momentum.beta)
        if last is not None and sweep.objective > last.objective:
            momentum.shrink()
            hals_run.restart(last)
            sweep = hals_run.sweep(0.0)
        elif last is None and sweep.error >= 1.0:
            # The start points where x has no positive part: begin at its largest entry.
            columns, value = largest_entry(run.prepared.array)
            hals_run.restart(_spiked(sweep, columns, value))
            sweep = hals_run.sweep(0.0)
        else:
            momentum.grow()
        last = sweep
        status = run.record(
            sweep.weights, sweep.factors, sweep.error, sweep.kind, objective=math.sqrt(sweep.objective)
        )
        if status is not None:
            return status


def _spiked(sweep: _Sweep, columns: list[Array], value: Array) -> _Sweep:
    """Return the model in which one rank-one tensor takes the place of the first component, and the others are 0."""
    xp = array_namespace(sweep.weights)
    factors = [xp.concat([e, A[:, 1:]], axis=1) for e, A in zip(columns, sweep.factors, strict=True)]
    weights = xp.concat([xp.reshape(value, (1,)), xp.zeros_like(sweep.weights[1:])])
    return sweep._replace(weights=weights, factors=tuple(factors))


class _Hals:
    """Factors with columns of norm 1 and weights, and the sweeps that update them."""

    def __init__(self, prepared: Prepared, weights: Array, factors: list[Array], ridge: float) -> None:
        x = prepared.array
        xp = array_namespace(x)
        self._prepared = prepared
        self._ridge = ridge
        self._xp = xp
        R = int(weights.shape[0])
        self._penalty = ridge * xp.eye(R, dtype=x.dtype, device=x.device) if ridge else None
        product = 2.0 * total_size(x.shape) * R / x.ndim
        self._passes = [sensible_passes(int(n), R, product) for n in x.shape]
        self._scaled = False
        self._begin(weights, factors)

    def restart(self, sweep: _Sweep) -> None:
        """Go back to the model after a sweep."""
        self._begin(sweep.weights, list(sweep.factors))

    def _begin(self, weights: Array, factors: list[Array]) -> None:
        self._weights = weights
        self._factors = factors
        self._newest = list(factors)  # not extrapolated
        self._grams = [gram_of_columns(factor) for factor in factors]
        self._products = mttkrp_cycle(self._prepared.array, factors)

    def sweep(self, momentum: float) -> _Sweep:
        """Update every factor once, and extrapolate it; the model has the last factor as it was fitted."""
        d = len(self._factors)
        model: _Sweep | None = None
        for mode, M in itertools.islice(self._products, d):
            H = hadamard(self._grams, skip=(mode,))
            if not self._scaled:
                self._scale_start(mode, M, H)
            A = self._fit(mode, M, H)
            if mode == d - 1:
                self._factors[mode] = A
                model = self._measured(A, M, H)
            if momentum and d > 1:
                self._factors[mode], _ = with_unit_columns(ahead(A, self._newest[mode], momentum))
            else:
                self._factors[mode] = A
            self._newest[mode] = A
            self._grams[mode] = gram_of_columns(self._factors[mode])
        assert model is not None
        return model

    def _fit(self, mode: int, M: Array, H: Array) -> Array:
        """Return the new factor of one mode with columns of norm 1, and set the weights to their norms."""
        start = self._factors[mode] * self._weights
        A = hals(start, M, H if self._penalty is None else H + self._penalty, self._passes[mode], INNER_CHANGE)
        A, self._weights = with_unit_columns(A)
        return A

    def _scale_start(self, mode: int, M: Array, H: Array) -> None:
        """Give the start the scale that fits best."""
        xp = self._xp
        A = self._factors[mode] * self._weights
        inner, square = xp.sum(A * M), xp.sum((A @ H) * A)
        scale = xp.clip(inner, min=0.0) / xp.where(square > 0, square, xp.ones_like(square))
        self._weights = self._weights * scale
        self._scaled = True

    def _measured(self, A: Array, M: Array, H: Array) -> _Sweep:
        xp = self._xp
        weights, factors = self._weights, tuple(self._factors)
        inner = xp.sum(xp.sum(A * M, axis=0) * weights)
        square = xp.sum(gram_of_columns(A) * H * weights[:, None] * weights[None, :])
        error, kind = model_error(self._prepared, weights, factors, inner, square)
        objective = error**2
        if self._ridge:
            objective += self._ridge * float(xp.sum(weights * weights)) / (self._prepared.squared_norm or 1.0)
        return _Sweep(weights, factors, error, kind, objective)


def _start(prepared: Prepared, R: int, init: object, rng: Any) -> tuple[Array, list[Array], int | None]:
    """Return weights of any scale, nonnegative factors with columns of norm 1, and the seed if one was used."""
    factors, seed = starting_factors(prepared, R, init, rng)
    xp = array_namespace(prepared.array)
    weights = xp.ones_like(factors[0][0, :])
    if isinstance(init, CPTensor):
        if any(bool(xp.any(part < 0)) for part in init.arrays):
            raise InputError("init has a negative entry: nonnegative=True takes nonnegative weights and factors.")
        for part in (init.weights[None, :], *init.factors):  # only ratios matter: keep the largest at 1
            weights = _largest_one(weights * _relative_norms(part, prepared.array.dtype))
    return weights, [xp.abs(factor) for factor in factors], seed


def _relative_norms(part: Array, dtype: Any) -> Array:
    """Return the norms of the columns up to a common factor, whatever the range of the part."""
    xp = array_namespace(part)
    part = part.detach() if is_torch(part) else part
    part = astype(part, dtype) if xp.isdtype(part.dtype, "integral") else part
    return astype(xp.linalg.vector_norm(_largest_one(part), axis=0), dtype)


def _largest_one(A: Array) -> Array:
    """Return a nonnegative array over its largest entry; zeros stay zero."""
    xp = array_namespace(A)
    largest = xp.max(A)
    return A / xp.where(largest > 0, largest, xp.ones_like(largest))
