"""Alternating least squares on many tensors at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    conj,
    dtype_name,
    from_numpy_like,
    lookup,
    real_dtype,
    real_part,
    register,
    to_numpy,
    total_size,
)
from tnet.batch.preparation import PreparedBatch, exact_errors, item_panels
from tnet.batch.products import batched_khatri_rao
from tnet.batch.result import BatchHistory
from tnet.batch.tensors import CPBatch
from tnet.decompositions.cp_fit import CANCELLING_COSINE, CANCELLING_NORM, ENDED_BY_ITSELF, STILL_GROWING
from tnet.decompositions.dimension_tree import balanced_split
from tnet.decompositions.residual import DIFFERENCE_FLOOR
from tnet.options import Stopping
from tnet.results import Status

__all__ = ["BatchFit", "alternating_least_squares", "normalised_rows"]

# From somewhat above the floor on the residual is computed, so that which items need it is known before the sweep and
# the host waits only once for all measures.
_NEAR_THE_FLOOR = 10.0
# Items that have converged stay in place, frozen, until they are this share of those worked on.
_SHARE_TO_RETIRE = 0.25


class BatchFit(NamedTuple):
    """Weights (B, R) and factors (B, n_k, R) in the scale of the prepared batch, and their account."""

    weights: Array
    factors: tuple[Array, ...]
    errors: np.ndarray
    is_gram: np.ndarray
    status: tuple[Status, ...]
    history: BatchHistory


class _Retired(NamedTuple):
    """Items taken out of the iteration, at their places in the batch."""

    places: np.ndarray
    weights: Array
    factors: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class _State:
    """All that a complete sweep leaves; replaced in one assignment, so that Ctrl-C never tears it.

    ``x, norms, weights, factors, grams`` hold the items at ``places``; factors are transposed, (items, R, n_k).
    What is in host arrays of length B: ``errors``, ``is_gram``, ``converged``, and the norm of the weights at
    two sweeps, the ``older`` a quarter to a half of the way to now.
    """

    places: np.ndarray
    x: Array
    norms: Array
    weights: Array
    factors: tuple[Array, ...]
    grams: tuple[Array, ...]
    retired: tuple[_Retired, ...]
    errors: np.ndarray
    is_gram: np.ndarray
    converged: np.ndarray
    magnitude: np.ndarray
    newer: np.ndarray
    older: np.ndarray
    history: BatchHistory


def alternating_least_squares(
    prepared: PreparedBatch,
    factors: Sequence[Array],
    ridge: float,
    stopping: Stopping,
    callback: Callable[[int, float, float, BatchFit], bool | None] | None,
    started: float,
) -> BatchFit:
    """Sweep over all items until each meets ``stopping``; Ctrl-C keeps the last complete sweep.

    Parameters
    ----------
    prepared : PreparedBatch
    factors : sequence of array, shapes (B, R, n_k)
        The start, transposed, with rows of norm 1.
    ridge : float
    stopping : Stopping
    callback : callable or None
        Receives sweep, largest error, seconds and the fit so far; True stops.
    started : float
        Of ``time.perf_counter()``.

    Notes
    -----
    A sweep takes two batched matrix products with ``x``, ``2 N R`` multiply-adds an item, and one transfer of
    two numbers an item to the host. An item that has converged is frozen at once, and taken out when a quarter
    of those worked on are frozen; the copies of ``x`` that this makes hold less than ``x`` itself.
    """
    state = _initial(prepared, factors)
    unfinished = Status.MAX_ITER
    try:
        for iteration in range(1, stopping.max_iter + 1):
            state = _after_sweep(state, prepared, ridge, iteration, stopping.change, started)
            seconds = state.history.seconds[-1]
            if callback is not None:
                fit = _fit(state, prepared, Status.MAX_ITER)
                if callback(iteration, state.history.max_error[-1], seconds, fit):
                    unfinished = Status.CALLBACK
                    break
            if np.all(state.converged):
                break
            if stopping.max_seconds is not None and seconds >= stopping.max_seconds:
                unfinished = Status.MAX_SECONDS
                break
            state = _without_frozen(state)
    except KeyboardInterrupt:
        if not state.history.seconds:
            raise
        unfinished = Status.INTERRUPTED
    return _fit(state, prepared, unfinished)


def normalised_rows(A: Array) -> tuple[Array, Array]:
    """Return ``A`` (B, R, n) with rows of norm 1, zero rows left zero, and the norms (B, R)."""
    xp = array_namespace(A)
    norms = xp.sqrt(xp.sum(_squares(A), axis=2))
    safe = xp.where(norms > 0, norms, xp.ones_like(norms))
    return A / astype(safe, A.dtype)[:, :, None], norms


def _initial(prepared: PreparedBatch, factors: Sequence[Array]) -> _State:
    x = prepared.array
    B, R = int(x.shape[0]), int(factors[0].shape[1])
    xp = array_namespace(x)
    zeros = np.zeros(B)
    return _State(
        places=np.arange(B),
        x=x,
        norms=from_numpy_like(prepared.squared_norms, x, xp.float64),
        weights=xp.zeros((B, R), dtype=real_dtype(x), device=x.device),
        factors=tuple(factors),
        grams=tuple(A @ adjoint(A) for A in factors),
        retired=(),
        errors=np.ones(B),
        is_gram=np.ones(B, dtype=bool),
        converged=np.zeros(B, dtype=bool),
        magnitude=zeros,
        newer=zeros,
        older=zeros,
        history=BatchHistory(),
    )


def _after_sweep(
    state: _State, prepared: PreparedBatch, ridge: float, iteration: int, change: float, started: float
) -> _State:
    """Return the state after one more sweep over the items at ``state.places``."""
    xp = array_namespace(state.x)
    weights, factors, grams, measures = _swept(state, ridge)
    frozen = state.converged[state.places]
    if np.any(frozen):
        mask = from_numpy_like(frozen, state.x, xp.bool)
        weights = xp.where(mask[:, None], state.weights, weights)
        factors = [xp.where(mask[:, None, None], old, new) for old, new in zip(state.factors, factors, strict=True)]
        grams = [xp.where(mask[:, None, None], old, new) for old, new in zip(state.grams, grams, strict=True)]
    floor = DIFFERENCE_FLOOR[dtype_name(state.x)]
    resolve = np.flatnonzero((state.errors[state.places] < _NEAR_THE_FLOOR * floor) & ~frozen)
    if len(resolve):
        residual = _residual_errors(state.x, weights, factors, prepared.squared_norms[state.places], resolve)
        measures = xp.concat([measures, residual])
    host = to_numpy(measures)  # here the host waits for the device, once a sweep

    n = len(state.places)
    found, is_gram = host[:n], np.ones(n, dtype=bool)
    found[resolve], is_gram[resolve] = host[2 * n :], False
    moving = state.places[~frozen]
    before = state.errors[moving]
    errors, gram, magnitude, converged = (
        a.copy() for a in (state.errors, state.is_gram, state.magnitude, state.converged)
    )
    errors[moving], gram[moving], magnitude[moving] = found[~frozen], is_gram[~frozen], host[n : 2 * n][~frozen]
    settled = (before - errors[moving] < change) & (iteration > 1) & (change > 0)
    exact_zero = (errors[moving] == 0) & ~gram[moving]
    converged[moving] = settled | exact_zero | (prepared.squared_norms[moving] == 0)
    power_of_two = iteration & (iteration - 1) == 0
    past = state.history
    return replace(
        state,
        weights=weights,
        factors=tuple(factors),
        grams=tuple(grams),
        errors=errors,
        is_gram=gram,
        converged=converged,
        magnitude=magnitude,
        newer=magnitude if power_of_two else state.newer,
        older=state.newer if power_of_two else state.older,
        history=BatchHistory(
            mean_error=(*past.mean_error, float(np.mean(errors))),
            max_error=(*past.max_error, float(np.max(errors))),
            active=(*past.active, len(moving)),
            seconds=(*past.seconds, time.perf_counter() - started),
        ),
    )


def _without_frozen(state: _State) -> _State:
    """Take the converged items out when they are many enough to pay for the copy."""
    frozen = state.converged[state.places]
    if np.sum(frozen) < _SHARE_TO_RETIRE * len(frozen):
        return state
    xp = array_namespace(state.x)

    def chosen(mask: np.ndarray) -> Callable[[Array], Array]:
        indices = from_numpy_like(np.flatnonzero(mask), state.x, xp.int64)
        return lambda array: xp.take(array, indices, axis=0)

    out, stay = chosen(frozen), chosen(~frozen)
    retired = _Retired(state.places[frozen], out(state.weights), tuple(map(out, state.factors)))
    return replace(
        state,
        places=state.places[~frozen],
        x=stay(state.x),
        norms=stay(state.norms),
        weights=stay(state.weights),
        factors=tuple(map(stay, state.factors)),
        grams=tuple(map(stay, state.grams)),
        retired=(*state.retired, retired),
    )


def _fit(state: _State, prepared: PreparedBatch, unfinished: Status) -> BatchFit:
    """Put all items back into their places and say how each ended."""
    xp = array_namespace(state.x)
    pieces = [*state.retired, _Retired(state.places, state.weights, state.factors)]
    weights, factors = state.weights, state.factors
    if len(pieces) > 1:
        order = np.argsort(np.concatenate([piece.places for piece in pieces]))
        indices = from_numpy_like(order, state.x, xp.int64)
        weights = xp.take(xp.concat([piece.weights for piece in pieces]), indices, axis=0)
        columns = zip(*(piece.factors for piece in pieces), strict=True)
        factors = tuple(xp.take(xp.concat(list(parts)), indices, axis=0) for parts in columns)
    errors, is_gram = state.errors, state.is_gram
    late = np.flatnonzero(is_gram & (errors < DIFFERENCE_FLOOR[dtype_name(state.x)]))
    if len(late):  # fell below the floor in the very last sweep
        errors, is_gram = errors.copy(), is_gram.copy()
        residual = _residual_errors(prepared.array, weights, factors, prepared.squared_norms, late)
        errors[late], is_gram[late] = to_numpy(residual), False
    cancelling = _cancelling(weights, factors, state, prepared)
    may_cancel = unfinished in ENDED_BY_ITSELF
    status = tuple(
        Status.DEGENERATE if cancels and (ended or may_cancel) else Status.CONVERGED if ended else unfinished
        for cancels, ended in zip(cancelling.tolist(), state.converged.tolist(), strict=True)
    )
    columns = tuple(xp.matrix_transpose(A) for A in factors)
    return BatchFit(weights, columns, errors, is_gram, status, state.history)


def _cancelling(weights: Array, factors: Sequence[Array], state: _State, prepared: PreparedBatch) -> np.ndarray:
    """Return the mask of items in which two components cancel each other and still grow."""
    growing = (state.magnitude > STILL_GROWING * state.older) & (len(state.history.seconds) > 2)
    if not np.any(growing):
        return growing
    xp = array_namespace(weights)
    cosines = None
    for A in factors:
        G = A @ adjoint(A)
        cosines = G if cosines is None else cosines * G
    opposite = real_part(cosines) < CANCELLING_COSINE
    norms = from_numpy_like(np.sqrt(prepared.squared_norms), weights)
    large = weights > CANCELLING_NORM * norms[:, None]
    both = opposite & large[:, :, None] & large[:, None, :]
    return growing & to_numpy(xp.any(xp.reshape(both, (both.shape[0], -1)), axis=1))


def _residual_errors(
    x: Array, weights: Array, factors: Sequence[Array], norms: np.ndarray, chosen: np.ndarray
) -> Array:
    """Return the exact relative errors of the chosen items."""
    xp = array_namespace(x)
    parts = [x, astype(weights, x.dtype), *(xp.matrix_transpose(A) for A in factors)]
    if len(chosen) < len(norms):
        indices = from_numpy_like(chosen, x, xp.int64)
        parts = [xp.take(part, indices, axis=0) for part in parts]
    x, weights, *columns = parts
    return exact_errors(x, CPBatch(weights, tuple(columns)), norms[chosen])


def _swept(state: _State, ridge: float) -> tuple[Array, list[Array], list[Array], Array]:
    """Return weights, factors, Gram matrices, and errors with norms of the weights (2 * items,) of a new sweep.

    The work goes in panels of items whose intermediates stay in cache.
    """
    x, d = state.x, len(state.factors)
    xp = array_namespace(x)
    R = int(state.weights.shape[1])
    shape = tuple(int(n) for n in x.shape[1:])
    h = balanced_split(shape)
    per_item = 2 * R * max(total_size(shape[:h]), total_size(shape[h:]))
    solve = lookup("batched_solve", x)
    rows: list[tuple[Array, ...]] = []
    for panel in item_panels(x, per_item):
        grams = [G[panel, ...] for G in state.grams]
        update = _Update(grams, ridge, solve)
        factors = [A[panel, ...] for A in state.factors]
        _sweep(x[panel, ...], factors, update)
        error, magnitude = update.measures(state.norms[panel])
        rows.append((update.weights, *factors, *grams, error, magnitude))
    joined = [parts[0] if len(parts) == 1 else xp.concat(list(parts)) for parts in zip(*rows, strict=True)]
    return joined[0], joined[1 : 1 + d], joined[1 + d : 1 + 2 * d], xp.concat(joined[-2:])


class _Update:
    """The least-squares update of one factor of every item of a panel."""

    weights: Array

    def __init__(self, grams: list[Array], ridge: float, solve: Callable[[Array, Array], Array]) -> None:
        G = grams[0]
        self._xp = xp = array_namespace(G)
        self._grams = grams
        self._solve = solve
        R = int(G.shape[1])
        # A diagonal of some roundoffs of the unit diagonal of H keeps a singular H, as from parallel columns,
        # solvable, and is below the error that forming H makes anyway.
        shift = ridge + 10 * R * float(xp.finfo(G.dtype).eps)
        self._shift = shift * xp.eye(R, dtype=G.dtype, device=G.device)
        self._inner: Array = None

    def __call__(self, mode: int, M: Array) -> Array:
        """Return the normalised factor (items, R, n) from ``M``; the normal equations are ``H^T A = M``."""
        H = self._hadamard(mode) + self._shift
        A, self.weights = normalised_rows(self._solve(conj(H), M))
        self._grams[mode] = A @ adjoint(A)
        self._inner = self._xp.sum(self._xp.sum(real_part(M * conj(A)), axis=2) * self.weights, axis=1)
        return A

    def measures(self, norms: Array) -> tuple[Array, Array]:
        """Return the relative error by the normal equations and the norm of the weights, in float64."""
        xp, w = self._xp, self.weights
        quadratic = xp.sum(real_part(self._hadamard(None)) * w[:, :, None] * w[:, None, :], axis=(1, 2))
        squared = norms - 2 * astype(self._inner, xp.float64) + astype(quadratic, xp.float64)
        positive = xp.where(squared > 0, squared, xp.zeros_like(squared))
        safe = xp.where(norms > 0, norms, xp.ones_like(norms))
        return xp.sqrt(positive / safe), astype(xp.linalg.vector_norm(w, axis=1), xp.float64)

    def _hadamard(self, skip: int | None) -> Array:
        kept = [G for mode, G in enumerate(self._grams) if mode != skip]
        if not kept:
            return self._xp.ones_like(self._grams[0])
        product = kept[0]
        for G in kept[1:]:
            product = product * G
        return product


def _sweep(x: Array, factors: list[Array], update: Callable[[int, Array], Array]) -> None:
    """Update every factor (items, R, n_k) once, in order, by two batched matrix products with ``x``."""
    xp = array_namespace(x)
    b, *shape = (int(n) for n in x.shape)
    if len(shape) == 1:
        factors[0] = update(0, x[:, None, :] * xp.ones_like(factors[0][:, :, :1]))
        return
    h = balanced_split(shape)
    left, right = list(range(h)), list(range(h, len(shape)))
    matrix = xp.reshape(x, (b, total_size(shape[:h]), total_size(shape[h:])))
    rows = batched_khatri_rao([conj(factors[k]) for k in right])
    _descend(rows @ xp.matrix_transpose(matrix), left, factors, update)
    rows = batched_khatri_rao([conj(factors[k]) for k in left])
    _descend(rows @ matrix, right, factors, update)


def _descend(T: Array, modes: list[int], factors: list[Array], update: Callable[[int, Array], Array]) -> None:
    """Update ``modes`` from ``T`` (items, R, product of their sizes), contracted with all other factors."""
    if len(modes) == 1:
        factors[modes[0]] = update(modes[0], T)
        return
    xp = array_namespace(T)
    b, R, _ = T.shape
    h = balanced_split([int(factors[k].shape[2]) for k in modes])
    first, second = modes[:h], modes[h:]
    T = xp.reshape(T, (b, R, total_size([factors[k].shape[2] for k in first]), -1))
    inner = batched_khatri_rao([conj(factors[k]) for k in second])
    _descend((T @ inner[:, :, :, None])[:, :, :, 0], first, factors, update)
    outer = batched_khatri_rao([conj(factors[k]) for k in first])
    _descend((outer[:, :, None, :] @ T)[:, :, 0, :], second, factors, update)


@register("batched_solve")
def _solve(A: Array, B: Array) -> Array:
    return array_namespace(A).linalg.solve(A, B)


@register("batched_solve", "torch")
def _solve_without_waiting(A: Array, B: Array) -> Array:
    """As ``solve``, which asks the device whether it succeeded; the shifted matrices are never exactly singular."""
    xp: Any = array_namespace(A)
    return xp.linalg.solve_ex(A, B, check_errors=False)[0]


def _squares(A: Array) -> Array:
    return real_part(A * conj(A))
