"""Tensor train by successive truncated decompositions (TT-SVD)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from tnet.algebra import bounded_ranks
from tnet.arrays import Array, adjoint, array_namespace, conj, total_size
from tnet.decompositions.preparation import Prepared, prepare, rescaled
from tnet.decompositions.residual import error_after_rounding, exact_error
from tnet.decompositions.truncated_basis import (
    ErrorBudget,
    Method,
    error_floor,
    leading_basis,
    resolve_method,
)
from tnet.formats import TensorTrain
from tnet.options import check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["rank_limits", "train_of", "tt"]


def tt(
    x: Array,
    rank: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    method: Method = "auto",
) -> Decomposition[TensorTrain]:
    r"""Decompose a tensor into a tensor train (matrix product state).

    .. math:: X_{i_1 \dots i_d} \approx G_1[i_1] G_2[i_2] \cdots G_d[i_d]

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
        Real or complex floating point. Not changed; a torch tensor is detached.
    rank : int or sequence of int
        The d - 1 inner ranks, or one bound for all of them. Above what a bond can have, they are clipped
        with a warning.
    rtol : float
        Relative Frobenius error of the whole tensor, instead of ``rank``.
    method : {"auto", "gram", "tsqr", "svd"}
        How the singular vectors are found: from the Gram matrix (fastest, resolves relative errors down to
        1e-7 in double precision), from the triangular factor of a QR decomposition by panels (to roundoff),
        by the SVD of the unfolding itself. ``"auto"``: Gram, and TSQR where the Gram matrix does not
        resolve what is asked.

    Returns
    -------
    Decomposition of TensorTrain
        ``error_kind`` is "exact". All cores but the last (or the first, when ``n_d < n_1``) are orthogonal.

    Raises
    ------
    RankError
        Both or neither of ``rank`` and ``rtol``; a rank that is no positive integer; a wrong count.
    InputError
        A non-finite entry, an empty mode, order 0, an unknown method.
    BackendError
        Integers and other arrays that hold no floating point numbers.

    Notes
    -----
    The sweep starts at the end with the smaller mode. The first step costs ``N min(n_1, n_d)``
    multiply-adds and dominates; memory is that of ``x`` times ``1 + r / n`` of the first step. The error
    is at most :math:`\sqrt{d - 1}` times that of the best train of the same ranks [1]_. With ``rtol`` each
    step may spend an equal share of the squared error that is left.

    References
    ----------
    .. [1] I. V. Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33 (2011), algorithm 1 and
       corollary 2.4.
    .. [2] M. Roehrig-Zoellner, J. Thies, A. Basermann, "Performance of the low-rank TT-SVD for large dense
       tensors on modern multi-core CPUs", SIAM J. Sci. Comput. 44 (2022).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> x = np.arange(24.0).reshape(2, 3, 4)  # sums of coordinates have rank 2
    >>> tnet.tt(x, rtol=1e-10).tensor.rank
    (2, 2)
    """
    started = time.perf_counter()
    check_rank_or_rtol(rank, rtol)
    prepared = prepare(x)
    method_used = resolve_method(method, rtol, prepared.array)
    shape = tuple(int(n) for n in prepared.array.shape)
    ranks = None if rank is None else bounded_ranks(rank, rank_limits(shape), "bond")
    cores, carrier, error = train_of(prepared, shape, ranks, rtol, method_used)
    tensor = TensorTrain(tuple(rescaled(cores, carrier, prepared)))
    if prepared.is_half:
        error = error_after_rounding(prepared, tensor)
    seconds = time.perf_counter() - started
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), seconds)


def train_of(
    prepared: Prepared,
    shape: tuple[int, ...],
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    method: str,
) -> tuple[list[Array], int, float]:
    """Return the cores of ``prepared.array``, the place of the one with the norm, and the relative error."""
    x, squared_norm = prepared.array, prepared.squared_norm
    d = len(shape)
    budget = ErrorBudget(ranks, rtol, squared_norm, d - 1)
    rightwards = shape[0] <= shape[-1]
    sweep = _sweep_right if rightwards else _sweep_left
    cores = sweep(x, shape, budget, method)
    error = math.sqrt(budget.spent / squared_norm) if squared_norm > 0 else 0.0
    if squared_norm > 0 and d > 1 and error < error_floor(method, x):
        array = array_namespace(x).reshape(x, shape)
        error = exact_error(array, TensorTrain(tuple(cores)), squared_norm)
    return cores, d - 1 if rightwards else 0, error


def _sweep_right(x: Array, shape: tuple[int, ...], budget: ErrorBudget, method: str) -> list[Array]:
    xp = array_namespace(x)
    cores: list[Array] = []
    rank = 1
    for k, n in enumerate(shape[:-1]):
        Y = xp.reshape(x, (rank * n, total_size(shape[k + 1 :])))
        U, discarded = leading_basis(Y, budget.truncation(k), method)
        budget.spend(discarded)
        cores.append(xp.reshape(U, (rank, n, U.shape[1])))
        x = adjoint(U) @ Y
        rank = int(U.shape[1])
    return [*cores, xp.reshape(x, (rank, shape[-1], 1))]


def _sweep_left(x: Array, shape: tuple[int, ...], budget: ErrorBudget, method: str) -> list[Array]:
    xp = array_namespace(x)
    cores: list[Array] = []
    rank = 1
    for k in range(len(shape) - 1, 0, -1):
        Y = xp.reshape(x, (total_size(shape[:k]), shape[k] * rank))
        U, discarded = leading_basis(xp.matrix_transpose(Y), budget.truncation(k - 1), method)
        budget.spend(discarded)
        cores.append(xp.reshape(xp.matrix_transpose(U), (U.shape[1], shape[k], rank)))
        x = Y @ conj(U)  # not U^H Y^T: this one lies in memory as the next reshape needs it
        rank = int(U.shape[1])
    return [xp.reshape(x, (1, shape[0], rank)), *reversed(cores)]


def rank_limits(shape: Sequence[int]) -> list[int]:
    """Return the largest rank that each bond can have: the shorter side of its unfolding."""
    return [min(total_size(shape[:k]), total_size(shape[k:])) for k in range(1, len(shape))]
