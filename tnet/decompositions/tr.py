"""Tensor ring: the front door to its two methods."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from tnet.algebra import bounded_ranks
from tnet.arrays import Array, array_namespace, astype, resolve_rng, standard_normal
from tnet.decompositions.iteration import Callback, warn_unless_converged
from tnet.decompositions.preparation import Prepared, given_parts, prepare, rescaled
from tnet.decompositions.residual import error_after_rounding
from tnet.decompositions.ring_als import alternating_ring
from tnet.decompositions.ring_svd import ring_limits, ring_svd
from tnet.errors import InputError, RankError, ShapeError
from tnet.formats import TensorRing
from tnet.options import Stopping, check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["tr"]

_PADDING = 0.1  # size of the random entries that widen a bond of the start, relative to the others


def tr(
    x: Array,
    rank: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    method: Literal["svd", "als"] = "svd",
    init: Literal["svd", "random"] | TensorRing = "svd",
    stopping: Stopping = Stopping(),  # noqa: B008 - frozen
    rng: Any = None,
    callback: Callback[TensorRing] | None = None,
) -> Decomposition[TensorRing]:
    r"""Decompose a tensor into a tensor ring.

    .. math:: X_{i_1 \dots i_d} \approx \operatorname{tr} \left( G_1[i_1] \, G_2[i_2] \cdots G_d[i_d] \right)

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
        Real or complex floating point. Not changed; a torch tensor is detached.
    rank : int or sequence of int
        The d ranks, the first of the bond between the last core and the first, or one bound for all of them.
        Above what a bond has in a tensor train that opens the ring elsewhere, they are clipped with a warning.
        ``"svd"`` takes them as bounds: the two ranks at the core that it begins with multiply to at most its mode.
    rtol : float
        Relative Frobenius error of the whole tensor, instead of ``rank``; with ``method="svd"``.
    method : {"svd", "als"}
        Successive truncated decompositions, or alternating least squares, slower and closer at equal ranks.
    init : {"svd", "random"} or TensorRing
        Start of ``"als"``: the ring of ``"svd"``, widened by small random entries to the ranks asked for; normal
        random cores, from which a tensor that is nearly a ring is found sooner; or a ring taken as given.
    stopping : Stopping
        Of ``"als"``: sweeps, change of the relative error, seconds.
    rng : int, numpy Generator, torch Generator or None
        For random entries; drawn on the host, so that one seed gives one start on every library.
    callback : callable, optional
        Receives an :class:`~tnet.decompositions.IterationInfo` after each sweep of ``"als"``; stops by returning
        True.

    Returns
    -------
    Decomposition of TensorRing
        ``error_kind`` is "exact", or "gram" for "als" (normal equations) unless the error is small. Ctrl-C after
        the first sweep returns the last complete sweep, with status ``INTERRUPTED``.

    Raises
    ------
    RankError
        Both or neither of ``rank`` and ``rtol``; ``rtol`` with "als"; a rank that is no positive integer; a wrong
        count.
    InputError
        A non-finite entry, an empty mode, order 0, an unknown method or start.
    ShapeError
        A start whose shape or ranks differ.
    BackendError
        Integers and other arrays that hold no floating point numbers.

    Warns
    -----
    ConvergenceWarning
        ``max_iter`` or ``max_seconds`` ended the iteration.

    Notes
    -----
    "svd" [1]_: the rank of the first unfolding is split over the two bonds of its core, and what is left is a tensor
    train whose ends are those bonds. Which core comes first and how its rank is split is chosen, on the small core
    of a Tucker decomposition, for the fewest parameters within ``rtol`` or the least error within ``rank``; plain
    tensor trains, which begin at any core, compete. Where the tensor has no small Tucker core, fewer cuts are tried,
    each at the price of :func:`tnet.tt`; else the work is that of :func:`tnet.tucker`.

    "als": a sweep takes ``2 N r^2`` multiply-adds and about ``3 d r^6`` for the normal matrices, which are made
    from the transfer matrices of the cores and not from a matrix of ``N / n`` rows. The error never rises.

    A ring has no best approximation in general, and its ranks no analogue of singular values: a minimum of "als" is
    a local one.

    References
    ----------
    .. [1] Q. Zhao, G. Zhou, S. Xie, L. Zhang, A. Cichocki, "Tensor ring decomposition", arXiv:1606.05535 (2016),
       algorithms 1 (TR-SVD) and 2 (TR-ALS).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> x = np.arange(24.0).reshape(2, 3, 4)  # sums of coordinates
    >>> tnet.tr(x, rtol=1e-10).error < 1e-10
    True
    """
    started = time.perf_counter()
    if method not in ("svd", "als"):
        raise InputError(f"method={method!r}: choose 'svd' or 'als'.")
    check_rank_or_rtol(rank, rtol)
    if rank is None and method == "als":
        raise RankError("rtol= with method='als' is not offered: give rank=, or method='svd'.")
    prepared = prepare(x)
    shape = tuple(int(n) for n in prepared.array.shape)
    ranks = None if rank is None else bounded_ranks(rank, ring_limits(shape), "bond")
    if ranks is not None and method == "als":
        return _by_least_squares(prepared, ranks, init, stopping, rng, callback, started)
    ring = ring_svd(prepared.array, prepared.squared_norm, ranks, rtol)
    tensor = TensorRing(tuple(rescaled(ring.cores, ring.carrier, prepared)))
    error = error_after_rounding(prepared, tensor) if prepared.is_half else ring.error
    seconds = time.perf_counter() - started
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), seconds)


def _by_least_squares(
    prepared: Prepared,
    ranks: tuple[int, ...],
    init: object,
    stopping: Stopping,
    rng: Any,
    callback: Callback[TensorRing] | None,
    started: float,
) -> Decomposition[TensorRing]:
    cores, seed = _start(prepared, ranks, init, rng)
    fit = alternating_ring(prepared, cores, stopping, callback, started)
    tensor = TensorRing(tuple(rescaled(fit.cores, len(cores) - 1, prepared)))
    error, kind = fit.error, fit.error_kind
    if prepared.is_half:
        error, kind = error_after_rounding(prepared, tensor), "exact"
    warn_unless_converged("tr", fit.status, stopping.change)
    return Decomposition(tensor, error, kind, fit.status, fit.history, time.perf_counter() - started, seed)


def _start(prepared: Prepared, ranks: tuple[int, ...], init: object, rng: Any) -> tuple[list[Array], int | None]:
    """Return cores of these ranks and of norm 1, and the seed if anything was random."""
    x, d = prepared.array, len(ranks)
    shape = tuple(int(n) for n in x.shape)
    sizes = [(ranks[k], shape[k], ranks[(k + 1) % d]) for k in range(d)]
    if isinstance(init, TensorRing):
        if init.shape != shape or init.rank != ranks:
            raise ShapeError(
                f"init has shape {init.shape} and rank {init.rank}; give one of shape {shape} and rank {ranks}."
            )
        cores = given_parts(x, init.cores, "init")
        return [astype(_of_norm_one(core), x.dtype) for core in cores], None
    if not isinstance(init, str) or init not in ("svd", "random"):
        raise InputError(f"init={init!r}: choose 'svd', 'random', or give a TensorRing.")
    generator, seed = resolve_rng(rng)
    if init == "random":
        return [_of_norm_one(standard_normal(generator, size, x)) for size in sizes], seed
    ring = ring_svd(x, prepared.squared_norm, ranks, None)
    widened = [_of_norm_one(core) for core in ring.cores]
    if all(tuple(core.shape) == size for core, size in zip(widened, sizes, strict=True)):
        return widened, None
    return [_widened(core, size, generator) for core, size in zip(widened, sizes, strict=True)], seed


def _widened(core: Array, size: tuple[int, int, int], generator: Any) -> Array:
    """Return a core of larger bonds: the given one in the corner of small random entries."""
    xp = array_namespace(core)
    scale = _PADDING / float(core.shape[0] * core.shape[1] * core.shape[2]) ** 0.5
    wide = scale * standard_normal(generator, size, core)
    r, _, s = core.shape
    above = xp.concat((core, wide[:r, :, s:]), axis=2)
    return xp.concat((above, wide[r:, :, :]), axis=0)


def _of_norm_one(core: Array) -> Array:
    xp = array_namespace(core)
    size = float(xp.max(xp.abs(core)))
    if size == 0.0:
        return core
    core = core / size
    return core / float(xp.linalg.vector_norm(core))
