"""Tensor train by successive truncated decompositions (TT-SVD)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from tnet.algebra import bounded_ranks
from tnet.algebra.error_budget import ErrorBudget
from tnet.algebra.ranks import bond_limits
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    conj,
    gram,
    total_size,
)
from tnet.contraction.memory import parse_bytes
from tnet.decompositions.first_pass import FirstPass
from tnet.decompositions.preparation import Prepared, prepare, rescaled
from tnet.decompositions.projection import measured_projection
from tnet.decompositions.residual import error_after_rounding, exact_error
from tnet.decompositions.slabs import Allowance, as_slabbed, prepare_slabs, widened
from tnet.decompositions.truncated_basis import (
    Method,
    error_floor,
    leading_basis,
    resolve_method,
)
from tnet.decompositions.tt_by_slabs import check_train_need, train_by_slabs, train_residual
from tnet.errors import InputError
from tnet.formats import TensorTrain
from tnet.options import check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["train_of", "tt"]


def tt(
    x: Array,
    rank: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    method: Method = "auto",
    memory_limit: int | str | None = None,
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
    memory_limit : int or str, optional
        Bytes that may be allocated beside ``x``, such as ``"8GiB"``: ``x``, for example a :class:`numpy.memmap`
        larger than the memory, is then read in slabs. Not with ``method="svd"``.

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
    MemoryLimitError
        ``memory_limit`` is too little for the cores, a Gram matrix and a part of ``x``.

    Notes
    -----
    The sweep starts at the end with the smaller mode. The first step costs ``N min(n_1, n_d)``
    multiply-adds and dominates; ``x`` is read twice (Gram matrix, projection) and never copied, so
    that memory beyond it is ``r / n`` of it for the first step. What a step cuts is measured during the projection
    where the Gram matrix cannot tell it; if it exceeds the budget, QR finds a better basis.

    The error is at most :math:`\sqrt{d - 1}` times that of the best train of the same ranks [1]_. With ``rtol`` each
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
    limit = parse_bytes(memory_limit)
    if limit is not None:
        return _within_memory(x, rank, rtol, method, Allowance(limit), started)
    first = FirstPass(lambda array: _first_gram(array, method, rtol))
    prepared = prepare(x, first_pass=first)
    method_used = resolve_method(method, rtol, prepared.array)
    shape = tuple(int(n) for n in prepared.array.shape)
    ranks = None if rank is None else bounded_ranks(rank, bond_limits(shape), "bond")
    cores, carrier, error = train_of(prepared, shape, ranks, rtol, method_used, first.gram_of(prepared.array))
    tensor = TensorTrain(tuple(rescaled(cores, carrier, prepared)))
    if prepared.is_half:
        error = error_after_rounding(prepared, tensor)
    seconds = time.perf_counter() - started
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), seconds)


def _within_memory(
    x: Array, rank: object, rtol: float | None, method: Method, allowance: Allowance, started: float
) -> Decomposition[TensorTrain]:
    source = as_slabbed(x)
    method_used = resolve_method(method, rtol, source.like)
    if method == "svd":
        raise InputError("memory_limit= with method='svd', which needs x in memory: choose 'auto', 'gram' or 'tsqr'.")
    rightwards = _goes_right(source.shape)
    ranks = None if rank is None else bounded_ranks(rank, bond_limits(source.shape), "bond")
    check_train_need(source, ranks, allowance, rightwards=rightwards)
    source, prepared = prepare_slabs(source, allowance)
    norm2 = prepared.squared_norm
    train = train_by_slabs(source, ranks, rtol, norm2, allowance, method_used, rightwards=rightwards)
    tensor = TensorTrain(tuple(rescaled(train.cores, train.carrier, prepared)))
    error = train.error
    if prepared.is_half:
        error = train_residual(source, widened(tensor.arrays, source), norm2, allowance)
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), time.perf_counter() - started)


def _first_gram(x: Array, method: Method, rtol: float | None) -> Array | None:
    """Return the Gram matrix of the unfolding that the sweep cuts first, where it is the way to its basis."""
    shape = tuple(int(n) for n in x.shape)
    m, n = min(shape[0], shape[-1]), total_size(shape)
    if resolve_method(method, rtol, x) not in ("auto", "gram") or x.ndim == 1 or m * m > n:
        return None
    xp = array_namespace(x)
    return gram(xp.reshape(x, (m, -1)) if _goes_right(shape) else xp.matrix_transpose(xp.reshape(x, (-1, m))))


def _goes_right(shape: Sequence[int]) -> bool:
    return shape[0] <= shape[-1]


def train_of(
    prepared: Prepared,
    shape: tuple[int, ...],
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    method: str,
    first_gram: Array | None = None,
) -> tuple[list[Array], int, float]:
    """Return the cores of ``prepared.array``, the place of the one with the norm, and the relative error.

    ``first_gram`` is the Gram matrix of the first unfolding of the sweep, where it is known already.
    """
    x, squared_norm = prepared.array, prepared.squared_norm
    d = len(shape)
    budget = ErrorBudget(ranks, rtol, squared_norm, d - 1)
    rightwards = _goes_right(shape)
    sweep = _sweep_right if rightwards else _sweep_left
    cores = sweep(x, shape, budget, method, first_gram)
    error = math.sqrt(budget.spent / squared_norm) if squared_norm > 0 else 0.0
    if squared_norm > 0 and d > 1 and error < error_floor("svd", x):
        array = array_namespace(x).reshape(x, shape)
        error = exact_error(array, TensorTrain(tuple(cores)), squared_norm)
    return cores, d - 1 if rightwards else 0, error


def _sweep_right(x: Array, shape: tuple[int, ...], budget: ErrorBudget, method: str, G: Array | None) -> list[Array]:
    xp = array_namespace(x)
    cores: list[Array] = []
    rank = 1
    for k, n in enumerate(shape[:-1]):
        Y = xp.reshape(x, (rank * n, total_size(shape[k + 1 :])))
        U, x = _cut(Y, budget, k, method, G)
        G = None
        cores.append(xp.reshape(U, (rank, n, U.shape[1])))
        rank = int(U.shape[1])
    return [*cores, xp.reshape(x, (rank, shape[-1], 1))]


def _sweep_left(x: Array, shape: tuple[int, ...], budget: ErrorBudget, method: str, G: Array | None) -> list[Array]:
    xp = array_namespace(x)
    cores: list[Array] = []
    rank = 1
    for k in range(len(shape) - 1, 0, -1):
        Y = xp.reshape(x, (total_size(shape[:k]), shape[k] * rank))
        U, carried = _cut(xp.matrix_transpose(Y), budget, k - 1, method, G, transposed=True)
        G = None
        cores.append(xp.reshape(xp.matrix_transpose(U), (U.shape[1], shape[k], rank)))
        x = xp.matrix_transpose(carried)
        rank = int(U.shape[1])
    return [xp.reshape(x, (1, shape[0], rank)), *reversed(cores)]


def _cut(
    Y: Array, budget: ErrorBudget, bond: int, method: str, G: Array | None, *, transposed: bool = False
) -> tuple[Array, Array]:
    """Return a basis of the leading left singular vectors and the projection on it; enter what is left out.

    ``transposed`` lays the projection out as the transposed matrix: there the next reshape copies nothing.
    """
    truncation = budget.truncation(bond)
    U, discarded = leading_basis(Y, truncation, method, G)
    m, n = Y.shape
    by_qr = m > n or U.shape[1] == m
    if by_qr or discarded >= error_floor(method, Y) ** 2 * budget.squared_norm:
        budget.spend(discarded)
        # U^H Y and not its transpose of a transpose: each lies in memory as its sweep reads it.
        return U, _projection(Y, U, transposed)
    # Less than the Gram matrix can tell: measure it, and find a better basis if it is more than allowed.
    carried, discarded = measured_projection(Y, U, transposed=transposed)
    if method == "auto" and truncation.tail is not None and discarded > truncation.tail**2:
        U, discarded = leading_basis(Y, truncation, "tsqr")
        carried = _projection(Y, U, transposed)
    budget.spend(discarded)
    return U, carried


def _projection(Y: Array, U: Array, transposed: bool) -> Array:
    xp = array_namespace(Y)
    return xp.matrix_transpose(xp.matrix_transpose(Y) @ conj(U)) if transposed else adjoint(U) @ Y
