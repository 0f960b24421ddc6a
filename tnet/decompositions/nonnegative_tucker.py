"""The nonnegative Tucker decomposition: HALS for the factors, accelerated projected gradients for the core."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any, NamedTuple

import numpy as np

from tnet.algebra import unfold
from tnet.arrays import (
    Array,
    Namespace,
    array_namespace,
    dtype_name,
    from_numpy_like,
    hals,
    mode_product,
    resolve_rng,
    total_size,
    ttm_chain,
)
from tnet.decompositions.cp_normal_equations import gram_of_columns
from tnet.decompositions.hooi import TuckerFit, contracted_cycle, tucker_as_returned
from tnet.decompositions.iteration import Callback, IterationInfo, why_ended
from tnet.decompositions.nonnegative import (
    INNER_CHANGE,
    ahead,
    largest_entry,
    nonnegative_momentum,
    refuse_complex,
    sensible_passes,
    with_unit_columns,
)
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.residual import DIFFERENCE_FLOOR, exact_error
from tnet.formats import TuckerTensor
from tnet.options import Stopping
from tnet.results import Status

__all__ = ["nonnegative_tucker"]

_CORE_STEPS = 10  # projected gradients between two updates of factors


def nonnegative_tucker(
    prepared: Prepared,
    ranks: tuple[int, ...],
    stopping: Stopping,
    rng: Any,
    callback: Callback[TuckerTensor] | None,
    started: float,
) -> tuple[TuckerFit, int]:
    r"""Fit a Tucker model whose core and factors are nonnegative; return it and the seed.

    Notes
    -----
    A sweep takes ``d / (d - 1)`` products with ``x``, ``r N`` multiply-adds each, by
    :func:`~tnet.decompositions.hooi.contracted_cycle`. They give the normal equations of each factor,

    .. math:: M = X_{(k)} B^T, \quad H = B B^T, \quad B = (C \times_{j \ne k} A_j)_{(k)},

    for :func:`tnet.arrays.hals`, and after each factor those of the core, which takes accelerated projected gradient
    steps of length :math:`1 / \prod_k \lambda_{\max}(A_k^T A_k)`; where these raise the error, one plain step takes
    their place. Factors and core are extrapolated from sweep to sweep as those of nonnegative CP; a sweep that raises
    the error is made again without.

    References
    ----------
    .. [1] A. H. Phan, A. Cichocki, "Extended HALS algorithm for nonnegative Tucker decomposition and its applications
       for multiway analysis and classification", Neurocomputing 74 (2011).
    """
    refuse_complex(prepared.array)
    generator, seed = resolve_rng(rng)
    iteration = _Iteration(prepared, ranks, generator)
    status = iteration.run(stopping, callback, started)
    sweep = iteration.last
    n = len(sweep.errors)
    error = exact_error(prepared.array, TuckerTensor(sweep.core, sweep.factors), prepared.squared_norm)
    return TuckerFit(sweep.core, sweep.factors, error, status, (*sweep.errors[: n - 1], error), sweep.seconds), seed


class _Sweep(NamedTuple):
    """A model after a complete sweep, and the account up to it."""

    core: Array
    factors: tuple[Array, ...]
    error: float
    errors: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()


class _Iteration:
    """Factors with columns of norm 1, the core, and the sweeps that update them."""

    last: _Sweep

    def __init__(self, prepared: Prepared, ranks: tuple[int, ...], generator: np.random.Generator) -> None:
        x = prepared.array
        self._prepared = prepared
        self._xp = array_namespace(x)
        shape = tuple(int(n) for n in x.shape)
        draws = [generator.random((n, r)) for n, r in zip(shape, ranks, strict=True)]
        factors = [from_numpy_like(draw / np.linalg.norm(draw, axis=0), x) for draw in draws]
        product = total_size(shape) / max(1, len(shape) - 1)
        self._passes = [sensible_passes(n, r, product * r) for n, r in zip(shape, ranks, strict=True)]
        core = from_numpy_like(generator.random(ranks), x)
        Y = ttm_chain(x, [self._xp.matrix_transpose(A) for A in factors], range(len(shape)))
        self._begin(core, factors)
        inner, square = float(self._xp.sum(core * Y)), float(self._xp.sum(core * self._times_grams(core)))
        if inner > 0.0:
            self._begin(core * (inner / square), factors)
        else:  # the best scale is zero, from where no factor finds a way
            columns, value = largest_entry(x)
            spiked = [self._xp.concat([e, A[:, 1:]], axis=1) for e, A in zip(columns, factors, strict=True)]
            self._begin(from_numpy_like(_corner(ranks), x) * value, spiked)

    def _begin(self, core: Array, factors: list[Array]) -> None:
        self._core = self._newest_core = core
        self._factors = list(factors)
        self._newest = list(factors)
        self._grams = [gram_of_columns(A) for A in factors]
        x = self._prepared.array
        self._cycle = contracted_cycle(x, self._factors) if x.ndim > 1 else itertools.repeat((0, x))

    def run(self, stopping: Stopping, callback: Callback[TuckerTensor] | None, started: float) -> Status:
        """Sweep until a criterion of ``stopping`` holds; Ctrl-C keeps the last complete sweep."""
        momentum = nonnegative_momentum()
        errors: tuple[float, ...] = ()
        seconds: tuple[float, ...] = ()
        try:
            while True:
                # The first sweep leads away from a start that means nothing.
                sweep = self._sweep(momentum.beta if errors else 0.0)
                if errors and sweep.error > errors[-1]:
                    momentum.shrink()
                    self._begin(self.last.core, list(self.last.factors))
                    sweep = self._sweep(0.0)
                else:
                    momentum.grow()
                fall = errors[-1] - sweep.error if errors else math.inf
                errors, seconds = (*errors, sweep.error), (*seconds, time.perf_counter() - started)
                self.last = sweep._replace(errors=errors, seconds=seconds)
                if callback is not None:
                    tensor = tucker_as_returned(sweep.core, sweep.factors, self._prepared)
                    if callback(IterationInfo(len(errors), sweep.error, seconds[-1], tensor)):
                        return Status.CALLBACK
                status = why_ended(stopping, len(errors), seconds[-1], sweep.error, fall)
                if status is not None:
                    return status
        except KeyboardInterrupt:
            if not errors:
                raise
            return Status.INTERRUPTED

    def _sweep(self, momentum: float) -> _Sweep:
        """Update every factor and the core; the model has the core as it was fitted to the extrapolated factors."""
        xp = self._xp
        Y: Array = None
        for mode, T in itertools.islice(self._cycle, len(self._factors)):
            A, norms = with_unit_columns(self._fit(mode, T))
            self._core = self._core * _along(xp, norms, mode, len(self._factors))
            extrapolated = ahead(A, self._newest[mode], momentum) if momentum else A
            self._factors[mode], _ = with_unit_columns(extrapolated)
            self._newest[mode] = A
            self._grams[mode] = gram_of_columns(self._factors[mode])
            Y = mode_product(T, xp.matrix_transpose(self._factors[mode]), mode)
            self._core = self._improved_core(Y)
        core = self._core
        sweep = _Sweep(core, tuple(self._factors), self._error(core, Y))
        if momentum:
            self._core = ahead(core, self._newest_core, momentum)
        self._newest_core = core
        return sweep

    def _fit(self, mode: int, T: Array) -> Array:
        """Return the new factor of one mode; T is the tensor contracted with all the others."""
        xp = self._xp
        B = self._core
        for k, G in enumerate(self._grams):
            if k != mode:
                B = mode_product(B, G, k)
        C = unfold(self._core, mode)
        M = unfold(T, mode) @ xp.matrix_transpose(C)
        H = unfold(B, mode) @ xp.matrix_transpose(C)
        return hals(self._factors[mode], M, H, self._passes[mode], INNER_CHANGE)

    def _improved_core(self, Y: Array) -> Array:
        """Return the core after accelerated projected gradient steps towards the normal equations with Y."""
        xp = self._xp
        step = 1.0 / xp.prod(xp.stack([xp.linalg.matrix_norm(G, ord=2) for G in self._grams]))
        start = core = ahead_core = self._core
        plain: Array = None
        t = 1.0
        for _ in range(_CORE_STEPS):
            new = xp.clip(ahead_core - step * (self._times_grams(ahead_core) - Y), min=0.0)
            plain = new if plain is None else plain
            t, before = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * t * t)), t
            core, ahead_core = new, new + ((before - 1.0) / t) * (new - core)
        return xp.where(self._objective(core, Y) <= self._objective(start, Y), core, plain)

    def _objective(self, core: Array, Y: Array) -> Array:
        return self._xp.sum(core * (self._times_grams(core) - 2.0 * Y))

    def _times_grams(self, core: Array) -> Array:
        for mode, G in enumerate(self._grams):
            core = mode_product(core, G, mode)
        return core

    def _error(self, core: Array, Y: Array) -> float:
        """Return the relative error of the core with the newest factors, from the residual if it is small."""
        norm2 = self._prepared.squared_norm
        if norm2 == 0.0:
            return 0.0
        error = math.sqrt(max(norm2 + float(self._objective(core, Y)), 0.0) / norm2)
        if error >= DIFFERENCE_FLOOR[dtype_name(core)]:
            return error
        return exact_error(self._prepared.array, TuckerTensor(core, tuple(self._factors)), norm2)


def _corner(shape: tuple[int, ...]) -> np.ndarray:
    core = np.zeros(shape)
    core[(0,) * len(shape)] = 1.0
    return core


def _along(xp: Namespace, values: Array, mode: int, d: int) -> Array:
    """Return a vector as an array of order d, along one mode."""
    return xp.reshape(values, tuple(-1 if k == mode else 1 for k in range(d)))
