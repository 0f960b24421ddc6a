"""Tucker decomposition: the front door to its methods."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tnet.algebra import bounded_ranks
from tnet.algebra.ranks import mode_limits
from tnet.arrays import Array, resolve_rng
from tnet.contraction.memory import parse_bytes
from tnet.decompositions.first_pass import FirstPass
from tnet.decompositions.hooi import TuckerFit, hooi, tucker_as_returned
from tnet.decompositions.iteration import Callback, warn_unless_converged
from tnet.decompositions.nonnegative_tucker import nonnegative_tucker
from tnet.decompositions.preparation import checked_input, prepare
from tnet.decompositions.range_finder import randomized_tucker
from tnet.decompositions.residual import error_after_rounding, exact_error
from tnet.decompositions.slabs import Allowance, SlabbedArray, as_slabbed, prepare_slabs, widened
from tnet.decompositions.sthosvd import Projected, first_gram, sthosvd
from tnet.decompositions.sthosvd_by_slabs import check_need, sthosvd_by_slabs, tucker_residual
from tnet.decompositions.tucker_sketch import sketch_bytes, sketched_tucker
from tnet.errors import InputError
from tnet.formats import TuckerTensor
from tnet.options import Stopping, check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["tucker"]

METHODS = ("sthosvd", "hooi", "randomized", "sketch")
_BY_SLABS = ("sthosvd", "sketch")
_SKETCH_PART = Allowance(1 << 25)  # parts that stay in cache are the fastest


def tucker(
    x: Array,
    rank: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    method: Literal["sthosvd", "hooi", "randomized", "sketch"] = "sthosvd",
    oversampling: int = 10,
    power: int = 1,
    refine: bool = False,
    nonnegative: bool = False,
    stopping: Stopping = Stopping(),  # noqa: B008 - frozen
    rng: Any = None,
    callback: Callback[TuckerTensor] | None = None,
    memory_limit: int | str | None = None,
) -> Decomposition[TuckerTensor]:
    r"""Decompose a tensor into a core and one orthonormal factor for each mode.

    .. math:: X \approx C \times_1 U_1 \times_2 U_2 \cdots \times_d U_d

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
        Real or complex floating point. Not changed; a torch tensor is detached.
    rank : int or sequence of int
        One rank for each mode, or one bound for all. Above ``min(n_k, product of the others)`` they are
        clipped with a warning.
    rtol : float
        Relative Frobenius error of the whole tensor, instead of ``rank``.
    method : {"sthosvd", "hooi", "randomized", "sketch"}
        The sequentially truncated higher-order SVD [1]_; the same improved by orthogonal iteration [2]_, never
        worse; random bases, a few passes over ``x`` whose cost does not grow with ``n_k`` [3]_; linear sketches,
        for which each entry is read once (and once more for the error) [5]_, the roughest: the error is a few times
        that of the others. The last takes a ``rank`` only.
    oversampling : int
        Columns of each factor beyond its rank in which "hooi" iterates, and "randomized" and "sketch" search.
    power : int
        Passes of "randomized" that improve the bases found by the first two; 0 where the singular values fall
        fast.
    refine : bool
        "hooi" iterates on the core in the space of ``rank + oversampling`` columns, which costs next to nothing;
        True: then on ``x`` itself, to the stationary point that has no such limit.
    nonnegative : bool
        Keep the core and the factors nonnegative: by HALS for the factors [4]_ and accelerated projected gradients
        for the core, from a random start. Takes ``rank``; the options of the methods have no part in it.
    stopping : Stopping
        Of "hooi" and ``nonnegative``: sweeps, change of the relative error, seconds; in "hooi" sweeps over the core
        and over ``x`` each obey it.
    rng : int, numpy Generator, torch Generator or None
        Of "randomized", "sketch" and ``nonnegative``; drawn on the host, so that one seed gives one sketch, or one
        start, on every library.
    callback : callable, optional
        Of "hooi" and ``nonnegative``: receives an :class:`~tnet.decompositions.IterationInfo` after each sweep; stops
        by returning True.
    memory_limit : int or str, optional
        Bytes that "sthosvd" and "sketch" may allocate beside ``x``, such as ``"8GiB"``: ``x``, for example a
        :class:`numpy.memmap` larger than the memory, is then read in slabs.

    Returns
    -------
    Decomposition of TuckerTensor
        ``error_kind`` is "exact": from what is discarded at each mode or from the norm of the core, both orthogonal
        to the rest, and from the residual where those do not resolve it. The factors have orthonormal columns;
        nonnegative ones have columns of norm 1. Ctrl-C during an iteration returns the last complete sweep, with
        status ``INTERRUPTED``.

    Raises
    ------
    RankError
        Both or neither of ``rank`` and ``rtol``; a rank that is no positive integer; a wrong count.
    InputError
        A non-finite entry, an empty mode, order 0, an unknown method, a negative ``oversampling`` or ``power``;
        ``nonnegative`` with ``rtol``, another method or a ``memory_limit``; a sketch with ``rtol``.
    BackendError
        Integers and other arrays that hold no floating point numbers; complex ones with ``nonnegative``.
    MemoryLimitError
        ``memory_limit`` is too little for the core, the factors, a Gram matrix and a part of ``x``.

    Warns
    -----
    ConvergenceWarning
        ``max_iter`` or ``max_seconds`` ended an iteration.

    Notes
    -----
    "sthosvd" truncates each mode by the eigenvectors of the Gram matrix of its unfolding, ``n_k N / 2``
    multiply-adds on what the modes before it left; the order of modes minimises the total. Unfoldings are read in
    panels, not copied: memory beyond ``x`` is ``r / n`` of it. Where double precision asks for more than a Gram
    matrix resolves (``rtol < 1e-7``, or kept singular values below that), the triangular factor of a QR decomposition
    takes its place. Within a ``memory_limit`` the steps are the same; ``x`` is read three times (norm, Gram matrix,
    projection), and once more for each mode after which the rest still fills more than half of what is left.
    The error is at most :math:`\sqrt d` times that of the best approximation of the same ranks [1]_.

    "hooi" adds sweeps on a core of ``(r + oversampling)^d``; those over ``x`` (``refine``) read it ``d / (d - 1)``
    times each. With ``rtol``, ST-HOSVD chooses the ranks and the error ends below its own.

    A nonnegative sweep takes ``d / (d - 1)`` products of ``r N`` with ``x`` and work on the core; sweeps that raise
    the error are made again without extrapolation, so that it never rises.

    "randomized" reads ``x`` ``power + 2`` times with ``(r + oversampling) N`` multiply-adds, after its norm. With
    ``rtol`` the sketches grow until the tolerance is met, or give way to ST-HOSVD: it holds in any case.

    "sketch" takes ``3 (r + oversampling) N`` multiply-adds, in parts that need 32 MiB beside ``x``.

    References
    ----------
    .. [1] N. Vannieuwenhoven, R. Vandebril, K. Meerbergen, "A new truncation strategy for the higher-order
       singular value decomposition", SIAM J. Sci. Comput. 34 (2012).
    .. [2] L. De Lathauwer, B. De Moor, J. Vandewalle, "On the best rank-1 and rank-(R1, R2, ..., RN) approximation
       of higher-order tensors", SIAM J. Matrix Anal. Appl. 21 (2000).
    .. [3] N. Halko, P.-G. Martinsson, J. A. Tropp, "Finding structure with randomness: probabilistic algorithms for
       constructing approximate matrix decompositions", SIAM Review 53 (2011).
    .. [4] A. H. Phan, A. Cichocki, "Extended HALS algorithm for nonnegative Tucker decomposition and its applications
       for multiway analysis and classification", Neurocomputing 74 (2011).
    .. [5] Y. Sun, Y. Guo, C. Luo, J. Tropp, M. Udell, "Low-rank Tucker approximation of a tensor from streaming
       data", SIAM J. Math. Data Sci. 2 (2020).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> x = np.arange(24.0).reshape(2, 3, 4)
    >>> tnet.tucker(x, rtol=1e-10).tensor.rank
    (2, 2, 2)
    """
    started = time.perf_counter()
    if method not in METHODS:
        raise InputError(f"method={method!r}: choose one of {', '.join(map(repr, METHODS))}.")
    check_rank_or_rtol(rank, rtol)
    if nonnegative and (rank is None or method != "sthosvd" or memory_limit is not None):
        raise InputError(
            f"nonnegative=True with rtol={rtol!r}, method={method!r}, memory_limit={memory_limit!r}: a nonnegative "
            "model is found by a method of its own, for given ranks; give rank= and leave these three out."
        )
    _check_count("oversampling", oversampling)
    _check_count("power", power)
    if method == "sketch" and rtol is not None:
        raise InputError("rtol= with method='sketch', which cannot promise an error: give rank=, or another method.")
    limit = parse_bytes(memory_limit)
    if limit is not None:
        if method not in _BY_SLABS:
            raise InputError(f"memory_limit= with method={method!r}: only {_BY_SLABS} read x in slabs.")
        sketch = (oversampling, rng) if method == "sketch" else None
        return _within_memory(x, rank, rtol, sketch, Allowance(limit), started)
    ranks = None if rank is None else bounded_ranks(rank, mode_limits(checked_input(x).shape), "mode")
    by_gram = method in ("sthosvd", "hooi") and not nonnegative
    first = FirstPass(lambda array: first_gram(array, ranks, rtol) if by_gram else None)
    prepared = prepare(x, first_pass=first)
    array, norm2 = prepared.array, prepared.squared_norm
    G = first.gram_of(array)
    seed: int | None = None
    if nonnegative:
        assert ranks is not None
        fit, seed = nonnegative_tucker(prepared, ranks, stopping, rng, callback, started)
        warn_unless_converged("tucker", fit.status, stopping.change)
    elif method == "hooi":
        fit = hooi(
            prepared,
            ranks,
            rtol,
            first_gram=G,
            oversampling=oversampling,
            refine=refine,
            stopping=stopping,
            callback=callback,
            started=started,
        )
        warn_unless_converged("tucker", fit.status, stopping.change)
    elif method == "randomized":
        generator, seed = resolve_rng(rng)
        fit = _direct(randomized_tucker(array, ranks, rtol, norm2, oversampling, power, generator))
    elif method == "sketch" and ranks is not None:
        generator, seed = resolve_rng(rng)
        found = sketched_tucker(SlabbedArray(array), ranks, oversampling, generator, _SKETCH_PART)
        fit = _direct(Projected(*found, exact_error(array, TuckerTensor(*found), norm2)))
    else:
        fit = _direct(sthosvd(array, ranks, rtol, norm2, first_gram=G))
    tensor = tucker_as_returned(fit.core, fit.factors, prepared)
    error = error_after_rounding(prepared, tensor) if prepared.is_half else fit.error
    history = History(fit.errors, fit.seconds)
    return Decomposition(tensor, error, "exact", fit.status, history, time.perf_counter() - started, seed)


def _within_memory(
    x: Array,
    rank: object,
    rtol: float | None,
    sketch: tuple[int, Any] | None,
    allowance: Allowance,
    started: float,
) -> Decomposition[TuckerTensor]:
    """Decompose by ST-HOSVD, or by a sketch of that oversampling and random state, reading parts of ``x``."""
    source = as_slabbed(x)
    ranks = None if rank is None else bounded_ranks(rank, mode_limits(source.shape), "mode")
    seed: int | None = None
    if sketch is not None and ranks is not None:
        oversampling, rng = sketch
        generator, seed = resolve_rng(rng)
        n_bytes = sketch_bytes(source, ranks, oversampling)
        allowance.require(n_bytes, f"a sketch for ranks {ranks}")
        source, prepared = prepare_slabs(source, allowance)
        found = sketched_tucker(source, ranks, oversampling, generator, allowance.holding(n_bytes))
        error = tucker_residual(source, *found, prepared.squared_norm, allowance.holding(n_bytes))
        fit = Projected(*found, error)
    else:
        check_need(source, ranks, allowance)
        source, prepared = prepare_slabs(source, allowance)
        fit = sthosvd_by_slabs(source, ranks, rtol, prepared.squared_norm, allowance)
    tensor = tucker_as_returned(fit.core, fit.factors, prepared)
    error = fit.error
    if prepared.is_half:
        core, *factors = widened(tensor.arrays, source)
        error = tucker_residual(source, core, factors, prepared.squared_norm, allowance)
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), time.perf_counter() - started, seed)


def _direct(found: Projected) -> TuckerFit:
    return TuckerFit(*found, Status.DIRECT, (), ())


def _check_count(name: str, value: object) -> None:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InputError(f"{name}={value!r}: give an integer of at least 0.")
