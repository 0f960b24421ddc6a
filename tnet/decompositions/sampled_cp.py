"""Alternating least squares on fibres drawn by leverage scores, for tensors that are costly to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    cholesky_solve_gram,
    conj,
    from_numpy_like,
    mttkrp,
    real_part,
    resolve_rng,
    standard_normal,
    to_numpy,
    total_size,
)
from tnet.decompositions.cp_als import als_sweeps, alternating_least_squares
from tnet.decompositions.cp_fit import CPFit, CPRun, normalised_columns
from tnet.decompositions.cp_normal_equations import gram_of_columns, hadamard
from tnet.decompositions.cp_start import starting_factors
from tnet.decompositions.iteration import Callback
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.residual import exact_error
from tnet.decompositions.truncated_basis import leading_basis
from tnet.formats import CPTensor
from tnet.options import Stopping, Truncation
from tnet.results import Status

__all__ = ["sampled_least_squares"]

_LEAST_SAMPLES = 1 << 10
_SAMPLES_PER_PRODUCT = 8  # samples for each of the R^2 products of two columns, which they have to tell apart
_CHECKED = 1 << 13  # entries on which the error is estimated
_PATIENCE = 5  # sweeps without a better estimate before the end


def sampled_least_squares(
    prepared: Prepared,
    R: int,
    init: object,
    ridge: float,
    stopping: Stopping,
    rng: Any,
    callback: Callback[CPTensor] | None,
    started: float,
) -> tuple[CPFit, int]:
    r"""Fit a CP model by sampled sweeps and a last exact one; return it and the seed.

    Notes
    -----
    The update of a factor is the least squares problem :math:`\min_A \|Z A^T - X_{(k)}^T\|`, with the Khatri-Rao
    product Z of the other factors for its matrix. Of its rows, S are drawn with probabilities proportional to the
    product of the leverage scores of the factors' rows, and weighted by their inverses; rows so probable that they
    would be drawn anyway are taken once, for certain [1]_. A sweep reads ``S sum(n_k)`` entries and takes
    ``S R (R + n_k)`` multiply-adds for each mode, whatever the size of the tensor. Errors in between are estimated
    from a fixed uniform sample of entries; when these stop falling, one exact sweep follows from the best factors,
    and with it the error of what is returned. A tensor whose Khatri-Rao products have no more rows than samples is
    fitted by ALS itself.

    References
    ----------
    .. [1] B. W. Larsen, T. G. Kolda, "Practical leverage-based sampling for low-rank tensor decomposition", SIAM J.
       Matrix Anal. Appl. 43 (2022).
    """
    generator, seed = resolve_rng(rng)
    shape = tuple(int(n) for n in prepared.array.shape)
    if total_size(shape) // min(shape) <= _sample_size(R):
        factors, _ = starting_factors(prepared, R, init, generator)
        return alternating_least_squares(prepared, factors, ridge, stopping, callback, started), seed
    problem = _SampledProblem(prepared, R, init, ridge, generator)
    run = CPRun(prepared, stopping, callback, started)
    fit = run.complete(lambda: _iterate(run, problem, ridge))
    if fit.status in (Status.CALLBACK, Status.INTERRUPTED, Status.MAX_SECONDS):  # the last error is an estimate
        error = exact_error(prepared.array, CPTensor(fit.weights, fit.factors), prepared.squared_norm)
        fit = fit._replace(error_kind="exact", errors=(*fit.errors[:-1], error))
    return fit, seed


def _iterate(run: CPRun, problem: _SampledProblem, ridge: float) -> Status:
    """Take sampled sweeps while the estimates of the error fall, and an exact one from the best factors."""
    stopping = run.stopping
    best, since = math.inf, 0
    factors = best_factors = problem.factors
    end = Status.MAX_ITER
    for _ in range(stopping.max_iter - 1):
        weights, factors = problem.sweep()
        error = problem.estimated_error(weights, factors)
        since = 0 if best - error >= stopping.change else since + 1
        if error < best:
            best, best_factors = error, factors
        status = run.record(weights, factors, error, "gram", moved=False)
        if status in (Status.CALLBACK, Status.MAX_SECONDS):
            return status
        if error == 0.0 or (stopping.change > 0 and since >= _PATIENCE):
            end = Status.CONVERGED
            break
    status = als_sweeps(run, list(best_factors), ridge, 1)
    return status if status is Status.CALLBACK else end


def _sample_size(R: int) -> int:
    return max(_LEAST_SAMPLES, _SAMPLES_PER_PRODUCT * R * R)


class _SampledProblem:
    """The tensor, the newest factors and the probabilities of their rows."""

    def __init__(
        self, prepared: Prepared, R: int, init: object, ridge: float, generator: np.random.Generator
    ) -> None:
        x = prepared.array
        xp = self._xp = array_namespace(x)
        self._x = xp.reshape(x, (-1,))
        self._shape = tuple(int(n) for n in x.shape)
        self._norm = math.sqrt(prepared.squared_norm)
        self._generator = generator
        self._samples = _sample_size(R)
        self._penalty = ridge * xp.eye(R, dtype=x.dtype, device=x.device) if ridge else None
        entries = np.sort(generator.integers(total_size(self._shape), size=_CHECKED))
        self._checked = np.unravel_index(entries, self._shape)
        self._values = xp.take(self._x, self._index(entries), axis=0)
        if init == "svd":
            self._factors = [self._leading_vectors(mode, R) for mode in range(len(self._shape))]
        else:
            self._factors = starting_factors(prepared, R, init, generator)[0]
        self._grams = [gram_of_columns(A) for A in self._factors]
        self._probabilities = [_row_probabilities(A, G) for A, G in zip(self._factors, self._grams, strict=True)]

    @property
    def factors(self) -> tuple[Array, ...]:
        """The newest factors, columns of norm 1."""
        return tuple(self._factors)

    def sweep(self) -> tuple[Array, tuple[Array, ...]]:
        """Update every factor once; return weights and factors."""
        xp = self._xp
        norms: Array = None
        for mode in range(len(self._shape)):
            M, H = self._normal_equations(mode)
            A = cholesky_solve_gram(H if self._penalty is None else H + self._penalty, M)
            norms = xp.sqrt(xp.sum(real_part(A * conj(A)), axis=0))
            A = A / astype(xp.where(norms > 0, norms, xp.ones_like(norms)), A.dtype)
            self._factors[mode], self._grams[mode] = A, gram_of_columns(A)
            self._probabilities[mode] = _row_probabilities(A, self._grams[mode])
        return astype(norms, self._x.dtype), self.factors

    def estimated_error(self, weights: Array, factors: Sequence[Array]) -> float:
        """Return the relative error as the fixed sample of entries tells it."""
        xp = self._xp
        if self._norm == 0.0:
            return 0.0
        model = xp.sum(self._rows(factors, self._checked) * weights, axis=1)
        residual = self._values - model
        mean = float(xp.sum(real_part(residual * conj(residual)))) / _CHECKED
        return math.sqrt(mean * total_size(self._shape)) / self._norm

    def _normal_equations(self, mode: int) -> tuple[Array, Array]:
        """Return estimates of ``X_(k) conj(Z)`` and ``Z^T conj(Z)``, exact where Z has no more rows than samples."""
        xp = self._xp
        others = [k for k in range(len(self._shape)) if k != mode]
        if total_size([self._shape[k] for k in others]) <= self._samples:
            x = xp.reshape(self._x, self._shape)
            return mttkrp(x, [conj(A) for A in self._factors], mode), hadamard(self._grams, skip=(mode,))
        drawn = _draw(self._generator, [self._probabilities[k] for k in others], self._samples)
        Z = self._rows([self._factors[k] for k in others], drawn.rows)
        weighted = conj(Z) * from_numpy_like(drawn.weights, self._x)[:, None]
        fibres = self._fibres(mode, others, drawn.rows)
        return fibres @ weighted, xp.matrix_transpose(Z) @ weighted

    def _leading_vectors(self, mode: int, R: int) -> Array:
        """Return leading singular vectors of fibres drawn uniformly, and random columns where there are too few."""
        n = self._shape[mode]
        others = [k for k in range(len(self._shape)) if k != mode]
        count = min(self._samples, total_size([self._shape[k] for k in others]))
        rows = [self._generator.integers(self._shape[k], size=count) for k in others]
        fibres = self._fibres(mode, others, rows)
        U = leading_basis(fibres, Truncation(rank=min(R, n, count)), "auto").U
        missing = standard_normal(self._generator, (n, R - int(U.shape[1])), self._x)
        return normalised_columns(self._xp.concat([U, missing], axis=1))

    def _rows(self, factors: Sequence[Array], rows: Sequence[np.ndarray]) -> Array:
        """Return rows of the Khatri-Rao product of the factors."""
        product: Array = None
        for A, index in zip(factors, rows, strict=True):
            part = self._xp.take(A, self._index(index), axis=0)
            product = part if product is None else product * part
        return product

    def _fibres(self, mode: int, others: Sequence[int], rows: Sequence[np.ndarray]) -> Array:
        """Return fibres along ``mode`` as columns, shape (n_k, number of them)."""
        xp = self._xp
        n, after = self._shape[mode], total_size(self._shape[mode + 1 :])
        strides = [total_size(self._shape[k + 1 :]) for k in others]
        first = np.sum([index * stride for index, stride in zip(rows, strides, strict=True)], axis=0)
        if after == 1:
            return xp.matrix_transpose(xp.take(xp.reshape(self._x, (-1, n)), self._index(first // n), axis=0))
        if mode == 0:
            return xp.take(xp.reshape(self._x, (n, after)), self._index(first), axis=1)
        places = self._index(first)[:, None] + self._index(np.arange(n) * after)[None, :]
        found = xp.take(self._x, xp.reshape(places, (-1,)), axis=0)
        return xp.matrix_transpose(xp.reshape(found, (len(first), n)))

    def _index(self, index: np.ndarray) -> Array:
        return from_numpy_like(index, self._x, self._xp.int64)


class _Drawn(NamedTuple):
    """Rows of a Khatri-Rao product, one index array for each factor, and what each counts."""

    rows: tuple[np.ndarray, ...]
    weights: np.ndarray


def _draw(generator: np.random.Generator, probabilities: Sequence[np.ndarray], samples: int) -> _Drawn:
    """Draw rows of a Khatri-Rao product, those of each factor on their own.

    Rows at least as probable as ``1 / samples`` are taken for sure, and left out of the draws.
    """
    sizes = [len(p) for p in probabilities]
    sure, sure_probability = _probable_rows(probabilities, 1.0 / samples)
    left = max(0.0, 1.0 - float(np.sum(sure_probability)))
    count = samples - len(sure)
    draws = [np.searchsorted(np.cumsum(p)[:-1], generator.random(count), side="right") for p in probabilities]
    flat = np.ravel_multi_index(draws, sizes)
    flat = flat[~np.isin(flat, sure)]
    kept = len(flat)
    flat, times = np.unique(flat, return_counts=True)
    rows = np.unravel_index(flat, sizes)
    probability = math.prod(p[index] for p, index in zip(probabilities, rows, strict=True))
    weights = times * left / (max(kept, 1) * probability)
    together = np.concatenate([sure, flat])
    order = np.argsort(together)
    weights = np.concatenate([np.ones(len(sure)), weights])[order]
    return _Drawn(tuple(np.unravel_index(together[order], sizes)), weights)


def _probable_rows(probabilities: Sequence[np.ndarray], least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return flat indices and probabilities of the rows whose probability is at least ``least``: at most 1/least."""
    flat, total = np.zeros(1, dtype=np.int64), np.ones(1)
    for k, p in enumerate(probabilities):
        rest = math.prod(float(np.max(other)) for other in probabilities[k + 1 :])
        candidates = np.flatnonzero(p * np.max(total, initial=0.0) * rest >= least)
        product = total[:, None] * p[candidates][None, :]
        place = flat[:, None] * len(p) + candidates[None, :]
        keep = product * rest >= least
        flat, total = place[keep], product[keep]
    return flat, total


def _row_probabilities(A: Array, G: Array) -> np.ndarray:
    """Return the leverage scores of the rows of a factor, over their sum; uniform for a zero factor."""
    xp = array_namespace(A)
    scores = to_numpy(xp.sum(real_part(cholesky_solve_gram(G, A) * conj(A)), axis=1)).astype(np.float64)
    scores = np.maximum(scores, 0.0)
    total = float(np.sum(scores))
    return scores / total if total > 0 else np.full(len(scores), 1.0 / len(scores))
