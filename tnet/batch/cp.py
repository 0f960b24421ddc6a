"""Canonical polyadic decomposition of many tensors at once."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np

from tnet.algebra.ranks import positive_rank
from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    resolve_rng,
    standard_normal,
    to_numpy,
)
from tnet.batch.als import BatchFit, alternating_least_squares, normalised_rows
from tnet.batch.bases import mode_grams
from tnet.batch.preparation import PreparedBatch, exact_errors, prepare_batch, rescaled_batch
from tnet.batch.result import BatchDecomposition
from tnet.batch.tensors import CPBatch
from tnet.callers import warn_caller
from tnet.decompositions.cp_normal_equations import checked_ridge
from tnet.decompositions.iteration import Callback, IterationInfo
from tnet.decompositions.preparation import given_parts
from tnet.errors import ConvergenceWarning, InputError, ShapeError
from tnet.options import Stopping
from tnet.results import Status

__all__ = ["cp"]


def cp(
    x: Array,
    rank: int,
    *,
    init: Literal["svd", "random"] | CPBatch = "svd",
    ridge: float = 0.0,
    stopping: Stopping = Stopping(),  # noqa: B008 - frozen
    rng: Any = None,
    callback: Callback[CPBatch] | None = None,
) -> BatchDecomposition[CPBatch]:
    r"""Decompose each tensor of a batch into a sum of rank-one tensors.

    .. math:: X_b \approx \sum_{r=1}^R \lambda_{br}\, a_{br} \circ b_{br} \circ c_{br} \circ \cdots

    Parameters
    ----------
    x : array, shape (B, n_1, ..., n_d)
        B tensors, real or complex floating point. Not changed; a torch tensor is detached.
    rank : int
        R, the number of terms, of every item.
    init : {"svd", "random"} or CPBatch
        As in :func:`tnet.cp`; random columns are the same for all items.
    ridge : float
        Adds ``ridge * sum(weights**2)`` to the squared error of each item, relative to unit columns.
    stopping : Stopping
        Sweeps, change of the relative error, by item; seconds of the whole call. An item that has converged is
        not touched any more.
    rng : int, numpy Generator, torch Generator or None
        For random columns; drawn on the host.
    callback : callable, optional
        Receives an :class:`~tnet.decompositions.IterationInfo` after each sweep, with the largest error and a
        :class:`CPBatch`; stops by returning True.

    Returns
    -------
    BatchDecomposition of CPBatch
        Weights (B, R), positive and descending; factors (B, n_k, R) with columns of norm 1. Ctrl-C after the
        first sweep returns the last complete sweep, with status ``INTERRUPTED``.

    Raises
    ------
    RankError
        A rank that is no positive integer.
    InputError
        A non-finite entry (the message names the items), an empty mode, no items, an unknown ``init``, a
        negative ridge.
    ShapeError
        Fewer than two axes; a start whose shape or rank differs.
    BackendError
        Integers and other arrays that hold no floating point numbers.

    Warns
    -----
    ConvergenceWarning
        Once for all items that did not converge or whose components cancel each other.

    Notes
    -----
    Alternating least squares on a dimension tree [1]_: a sweep is two batched matrix products with ``x``,
    ``2 N R`` multiply-adds an item of N entries, one batched solve a mode, and no loop over items; on a device
    the host waits once a sweep. Memory: up to ``x`` itself for the copies without converged items, and
    intermediates of one panel of items.

    References
    ----------
    .. [1] A.-H. Phan, P. Tichavsky, A. Cichocki, "Fast alternating LS algorithms for high order
       CANDECOMP/PARAFAC tensor factorizations", IEEE Trans. Signal Process. 61 (2013).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> a, b, c = np.random.default_rng(0).random((3, 100, 5, 2))
    >>> x = np.einsum("bir,bjr,bkr->bijk", a, b, c)  # 100 tensors of rank 2
    >>> result = tnet.batch.cp(x, 2, rng=0, stopping=tnet.Stopping(max_iter=5000))
    >>> len(result.tensor), result.tensor[7].shape, bool(np.median(result.errors) < 1e-3)
    (100, (5, 5, 5), True)
    """
    started = time.perf_counter()
    R = positive_rank(rank)
    ridge = checked_ridge(ridge)
    prepared = prepare_batch(x)
    factors, seed = _start(prepared, R, init, rng)

    def report(iteration: int, error: float, seconds: float, fit: BatchFit) -> bool | None:
        assert callback is not None
        return callback(IterationInfo(iteration, error, seconds, _as_returned(fit, prepared)))

    told = None if callback is None else report
    fit = alternating_least_squares(prepared, factors, ridge, stopping, told, started)
    tensor = _as_returned(fit, prepared)
    errors, is_gram = fit.errors, bool(np.any(fit.is_gram))
    if prepared.is_half:
        wide = exact_errors(prepared.array, tensor, prepared.squared_norms, prepared.exponents)
        errors, is_gram = to_numpy(wide), False
    _warn_of(fit.status, stopping.change)
    seconds = time.perf_counter() - started
    kind = "gram" if is_gram else "exact"
    return BatchDecomposition(tensor, errors, kind, fit.status, fit.history, seconds, seed)


def _start(prepared: PreparedBatch, R: int, init: object, rng: Any) -> tuple[list[Array], int | None]:
    """Return starting factors (B, R, n_k) with rows of norm 1, and the seed if anything was random."""
    x = prepared.array
    if isinstance(init, CPBatch):
        return _given_start(prepared, R, init), None
    if not isinstance(init, str) or init not in ("svd", "random"):
        raise InputError(f"init={init!r}: choose 'svd', 'random', or give a CPBatch.")
    xp = array_namespace(x)
    generator, seed = resolve_rng(rng)
    B = int(x.shape[0])
    factors: list[Array] = []
    drawn = False
    for mode, n in enumerate(prepared.shape):
        rows: list[Array] = []
        found = min(R, n) if init == "svd" else 0
        # The first factor is replaced before it is read: any will do.
        if found and mode == 0:
            rows.append(xp.ones((B, found, n), dtype=x.dtype, device=x.device))
        elif found:
            _, vectors = xp.linalg.eigh(mode_grams(x, mode))
            rows.append(astype(xp.matrix_transpose(xp.flip(vectors, axis=2)[:, :, :found]), x.dtype))
        if R > found:
            drawn = True
            draw = xp.matrix_transpose(standard_normal(generator, (n, R - found), x))
            rows.append(xp.broadcast_to(draw[None, :, :], (B, R - found, n)))
        factors.append(normalised_rows(xp.concat(rows, axis=1))[0])
    return factors, seed if drawn else None


def _given_start(prepared: PreparedBatch, R: int, init: CPBatch) -> list[Array]:
    x = prepared.array
    if init.shape != tuple(x.shape) or init.rank != R:
        raise ShapeError(
            f"init has shape {init.shape} and rank {init.rank}; give one of shape {tuple(x.shape)} and rank {R}."
        )
    _, *factors = given_parts(x, init.arrays, "init")
    # Weights do not matter: the first update solves for them, whatever the scale of the others.
    return [normalised_rows(_unit_rows(factor, x.dtype))[0] for factor in factors]


def _unit_rows(factor: Array, dtype: Any) -> Array:
    """Return a factor (B, n, R) as (B, R, n) in ``dtype`` with rows of largest entry 1, whatever its own range."""
    xp = array_namespace(factor)
    rows = xp.matrix_transpose(factor)
    largest = xp.max(xp.abs(rows), axis=2, keepdims=True)
    return astype(rows / xp.where(largest > 0, largest, xp.ones_like(largest)), dtype)


def _as_returned(fit: BatchFit, prepared: PreparedBatch) -> CPBatch:
    """Return the fit in the scale and dtype of the input, weights descending."""
    xp = array_namespace(fit.weights)
    order = xp.argsort(fit.weights, axis=1, descending=True)
    parts = [astype(xp.take_along_axis(fit.weights, order, axis=1), prepared.array.dtype)]
    for factor in fit.factors:
        index = xp.broadcast_to(order[:, None, :], tuple(factor.shape))
        parts.append(xp.take_along_axis(factor, index, axis=2))
    weights, *columns = rescaled_batch(parts, 0, prepared)
    return CPBatch(weights, tuple(columns))


def _warn_of(status: tuple[Status, ...], change: float) -> None:
    """Emit one ConvergenceWarning that counts the items by how they ended."""
    # change = 0 demands exactly max_iter sweeps: then their end is no surprise.
    worth = [Status.MAX_SECONDS, Status.DEGENERATE] + [Status.MAX_ITER] * (change > 0)
    for kind in worth:
        n = status.count(kind)
        if n:
            message = f"batch.cp: {n} of {len(status)} items: {kind.value}."
            warn_caller(message, ConvergenceWarning)
