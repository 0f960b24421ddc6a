"""Canonical polyadic decomposition: the front door to its methods."""

from __future__ import annotations

import time
from typing import Any, Literal

from tnet.algebra.ranks import positive_rank
from tnet.arrays import Array
from tnet.decompositions.cp_als import alternating_least_squares
from tnet.decompositions.cp_fit import decomposition_from
from tnet.decompositions.cp_nls import nonlinear_least_squares
from tnet.decompositions.cp_normal_equations import checked_ridge
from tnet.decompositions.cp_start import starting_factors
from tnet.decompositions.iteration import Callback, warn_unless_converged
from tnet.decompositions.nonnegative import nonnegative_cp
from tnet.decompositions.preparation import in_c_order, prepare
from tnet.decompositions.rank_selection import select_cp_rank
from tnet.decompositions.sampled_cp import sampled_least_squares
from tnet.errors import InputError
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Decomposition

__all__ = ["cp"]


def cp(
    x: Array,
    rank: int | Literal["auto"],
    *,
    init: Literal["svd", "random", "gevd"] | CPTensor = "svd",
    method: Literal["als", "nls", "randomized"] = "als",
    nonnegative: bool = False,
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
    rank : int or "auto"
        R, the number of terms; it may exceed every mode. "auto": what
        :func:`~tnet.decompositions.select_cp_rank` chooses by core consistency among 1 to 10, from fits that cost
        far more than this one; call it yourself to see why.
    init : {"svd", "random", "gevd"} or CPTensor
        Leading left singular vectors of each unfolding (missing columns are random); normal random factors; the
        factors that a generalised eigenvalue problem gives [5]_, exact for exact data where at least two modes are
        as long as ``rank``; or a start taken as given, but for the scale of its components.
    method : {"als", "nls", "randomized"}
        Alternating least squares, helped on after ten sweeps (see Notes); or damped Gauss-Newton over all factors at
        once, which takes fewer steps where components are nearly collinear, and about twice the time a step;
        or ALS on fibres drawn by leverage scores [8]_, for tensors of 10^7 entries and more, of which each sweep
        then reads a small part.
    nonnegative : bool
        Keep weights and factors nonnegative, by extrapolated HALS [6]_ [7]_ in the place of ALS. Starts are
        made of absolute values; a given one must be nonnegative. ``x`` itself may have negative entries.
    ridge : float
        Adds ``ridge * sum(weights**2)`` to the squared error, whatever the scale of ``x``; a small value
        such as 1e-6 keeps components from growing against each other. ``stopping.change`` then refers to the root
        of the sum, in units of ``||x||``, which falls where the error itself may rise. 0: none; at most 1e12.
    stopping : Stopping
        Sweeps (steps of "nls", of which the first few are sweeps too), change of the relative error, seconds.
    rng : int, numpy Generator, torch Generator or None
        For random columns; drawn on the host, so that one seed gives one start on every library.
    callback : callable, optional
        Receives an :class:`~tnet.decompositions.IterationInfo` after each sweep; stops by returning True.

    Returns
    -------
    Decomposition of CPTensor
        Factor columns have norm 1 (unless the weights would leave the range of the dtype); weights are nonnegative
        and descend; a component that is not needed may have weight 0. ``error_kind`` is "gram" (normal
        equations) or, for small errors, "exact" (residual). Ctrl-C after the first sweep returns the last
        complete sweep, with status ``INTERRUPTED``.

    Raises
    ------
    RankError
        A rank that is neither a positive integer nor "auto".
    InputError
        A non-finite entry, an empty mode, order 0, an unknown ``init`` or ``method``, a negative ridge, a complex
        start of a real tensor; with ``nonnegative``, a start that has a negative entry, or ``method="nls"``; with
        ``rank="auto"``, a given start, or an order below 3.
    ShapeError
        A start whose shape or rank differs.
    BackendError
        Integers and other arrays that hold no floating point numbers; complex ones with ``nonnegative``.

    Warns
    -----
    ConvergenceWarning
        ``max_iter`` or ``max_seconds`` ended the iteration, or components cancel each other (status
        ``DEGENERATE``): then no best approximation of this rank may exist.

    Notes
    -----
    A sweep takes 1.5 to 2 times ``N R`` multiply-adds in matrix products on views of ``x``, by a dimension tree
    [1]_ [2]_, and memory for one intermediate beside ``x`` (which is copied once if it is not C-contiguous):
    ``N R / n`` numbers for order 3, about ``sqrt(N) R`` for order 4. The error comes from the normal equations,
    without reconstruction, and never rises (with a ridge, the sum of both does not).

    After ten sweeps each starts from factors that are further on. Where a tensor of R or 2 R entries a mode is much
    smaller than ``x``, they come from sweeps on the projection of ``x`` on the spans of the last factors [9]_. Such a
    round takes ``R N`` to ``2 R N`` multiply-adds, memory for ``N R / n`` to ``2 N R / n`` numbers, and as many
    sweeps as three of those over ``x`` are worth in time; it is not a sweep in the history. Where the model misses
    much of ``x``, rounds gain little and are left out. There, and at large ranks, factors are extrapolated along the
    last change. A start that does not lower the error is dropped, so that the history repeats an error now and then.
    The starting SVDs take ``N sum(n_k)``.

    A step of "nls" [4]_ takes ``2 N R``, or ``N R`` where it is refused, and up to 15 products with the Gauss-Newton
    matrix, which is never formed, of ``2 R^2 sum(n_k)`` each.

    A sweep of "randomized" takes ``S R (R + n_k)`` multiply-adds for each mode and reads S fibres, ``S = max(1024,
    8 R^2)``; its errors in the history are estimates from a fixed sample of entries. The last sweep is exact, and so
    is the error of the result, which lies slightly above that of a local minimum. "svd" starts from fibres, too.

    A nonnegative sweep costs that of ALS and a few passes of ``n_k R^2`` for each mode. A best approximation always
    exists, so that components never cancel; the error never rises from sweep to sweep.

    References
    ----------
    .. [1] A.-H. Phan, P. Tichavsky, A. Cichocki, "Fast alternating LS algorithms for high order
       CANDECOMP/PARAFAC tensor factorizations", IEEE Trans. Signal Process. 61 (2013).
    .. [2] L. Ma, E. Solomonik, "Efficient parallel CP decomposition with pairwise perturbation and multi-sweep
       dimension tree", IEEE International Parallel and Distributed Processing Symposium (2021).
    .. [3] T. G. Kolda, B. W. Bader, "Tensor decompositions and applications", SIAM Review 51 (2009),
       figure 3.3 (alternating least squares).
    .. [4] L. Sorber, M. Van Barel, L. De Lathauwer, "Optimization-based algorithms for tensor decompositions:
       canonical polyadic decomposition, decomposition in rank-(L_r, L_r, 1) terms, and a new generalization",
       SIAM J. Optim. 23 (2013).
    .. [5] E. Sanchez, B. R. Kowalski, "Tensorial resolution: a direct trilinear decomposition", Journal of
       Chemometrics 4 (1990).
    .. [6] N. Gillis, F. Glineur, "Accelerated multiplicative updates and hierarchical ALS algorithms for
       nonnegative matrix factorization", Neural Computation 24 (2012).
    .. [7] A. M. S. Ang, J. E. Cohen, N. Gillis, L. T. K. Hien, "Accelerating block coordinate descent for
       nonnegative tensor factorization", Numer. Linear Algebra Appl. 28 (2021).
    .. [8] B. W. Larsen, T. G. Kolda, "Practical leverage-based sampling for low-rank tensor decomposition", SIAM J.
       Matrix Anal. Appl. 43 (2022).
    .. [9] J. D. Carroll, S. Pruzansky, J. B. Kruskal, "CANDELINC: a general approach to multidimensional analysis of
       many-way arrays with linear constraints on parameters", Psychometrika 45 (1980).

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
    automatic = isinstance(rank, str) and rank == "auto"
    R = 0 if automatic else positive_rank(rank, ", or 'auto'")
    if method not in ("als", "nls", "randomized"):
        raise InputError(f"method={method!r}: choose 'als', 'nls' or 'randomized'.")
    ridge = checked_ridge(ridge)
    if nonnegative and method != "als":
        raise InputError(f"method={method!r} and nonnegative=True: only 'als' has a nonnegative form.")
    if automatic:
        if isinstance(init, CPTensor):
            raise InputError(f"rank='auto' and an init of rank {init.rank}: give rank={init.rank}, or another init.")
        chosen = select_cp_rank(x, nonnegative=nonnegative, rng=rng)
        R, rng = chosen.rank, chosen.rng_seed
    prepared = in_c_order(prepare(x))
    if nonnegative:
        fit, seed = nonnegative_cp(prepared, R, init, ridge, stopping, rng, callback, started)
    elif method == "randomized":
        fit, seed = sampled_least_squares(prepared, R, init, ridge, stopping, rng, callback, started)
    else:
        factors, seed = starting_factors(prepared, R, init, rng)
        iterate = alternating_least_squares if method == "als" else nonlinear_least_squares
        fit = iterate(prepared, factors, ridge, stopping, callback, started)
    result = decomposition_from(fit, prepared, started, rng if automatic else seed)
    warn_unless_converged("cp", result.status, stopping.change)
    return result
