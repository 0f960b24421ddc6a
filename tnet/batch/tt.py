"""Tensor trains of many tensors at once, by successive truncated decompositions (TT-SVD)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tnet.algebra import bounded_ranks
from tnet.algebra.ranks import bond_limits
from tnet.arrays import Array, adjoint, array_namespace, conj, total_size
from tnet.batch.bases import BatchErrorBudget, leading_bases
from tnet.batch.preparation import prepare_batch, rescaled_batch
from tnet.batch.result import BatchDecomposition, direct_result
from tnet.batch.tensors import TensorTrainBatch
from tnet.decompositions.truncated_basis import resolve_method
from tnet.options import check_rank_or_rtol

__all__ = ["tt"]


def tt(
    x: Array, rank: int | Sequence[int] | None = None, *, rtol: float | None = None
) -> BatchDecomposition[TensorTrainBatch]:
    r"""Decompose each tensor of a batch into a tensor train (matrix product state).

    .. math:: X_{b, i_1 \dots i_d} \approx G_{b1}[i_1] G_{b2}[i_2] \cdots G_{bd}[i_d]

    Parameters
    ----------
    x : array, shape (B, n_1, ..., n_d)
        B tensors, real or complex floating point. Not changed; a torch tensor is detached.
    rank : int or sequence of int
        The d - 1 inner ranks, or one bound for all of them; the same for every item. Above what a bond can have,
        they are clipped with a warning.
    rtol : float
        Instead of ``rank``: relative Frobenius error that no item exceeds. The rank of a bond is the largest that
        an item needs.

    Returns
    -------
    BatchDecomposition of TensorTrainBatch
        Cores (B, r_{k-1}, n_k, r_k). ``error_kind`` is "exact". All cores but the last (or the first, when
        ``n_d < n_1``) are orthogonal.

    Raises
    ------
    RankError
        Both or neither of ``rank`` and ``rtol``; a rank that is no positive integer; a wrong count.
    InputError
        A non-finite entry (the message names the items), an empty mode, no items.
    ShapeError
        Fewer than two axes.
    BackendError
        Integers and other arrays that hold no floating point numbers.

    Notes
    -----
    TT-SVD [1]_ as in :func:`tnet.tt`, each step a batched Gram matrix of the shorter side, a batched
    eigendecomposition and a batched product: about ``N min(n_1, n_d)`` multiply-adds an item, no loop over items,
    one wait of the host a bond. Items whose kept singular values a Gram matrix does not resolve take batched QR.

    References
    ----------
    .. [1] I. V. Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33 (2011), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> x = np.random.default_rng(0).normal(size=(100, 4, 5, 6))
    >>> result = tnet.batch.tt(x, 3)
    >>> [core.shape for core in result.tensor.cores]
    [(100, 1, 4, 3), (100, 3, 5, 3), (100, 3, 6, 1)]
    """
    started = time.perf_counter()
    check_rank_or_rtol(rank, rtol)
    prepared = prepare_batch(x)
    shape = prepared.shape
    ranks = None if rank is None else bounded_ranks(rank, bond_limits(shape), "bond")
    budget = BatchErrorBudget(ranks, rtol, prepared.squared_norms, len(shape) - 1)
    accurate = resolve_method("auto", rtol, prepared.array) == "tsqr"
    rightwards = shape[0] <= shape[-1]
    cores = (_sweep_right if rightwards else _sweep_left)(prepared.array, shape, budget, accurate)
    tensor = rescaled_batch(cores, len(shape) - 1 if rightwards else 0, prepared)
    model = TensorTrainBatch(tuple(cores))
    return direct_result(prepared, model, TensorTrainBatch(tuple(tensor)), budget.spent, accurate, started)


def _sweep_right(x: Array, shape: tuple[int, ...], budget: BatchErrorBudget, accurate: bool) -> list[Array]:
    xp = array_namespace(x)
    B, rank = int(x.shape[0]), 1
    cores: list[Array] = []
    for k, n in enumerate(shape[:-1]):
        Y = xp.reshape(x, (B, rank * n, total_size(shape[k + 1 :])))
        U, discarded = leading_bases(Y, budget.keep(k), accurate)
        budget.spend(discarded)
        cores.append(xp.reshape(U, (B, rank, n, U.shape[2])))
        x = adjoint(U) @ Y
        rank = int(U.shape[2])
    return [*cores, xp.reshape(x, (B, rank, shape[-1], 1))]


def _sweep_left(x: Array, shape: tuple[int, ...], budget: BatchErrorBudget, accurate: bool) -> list[Array]:
    xp = array_namespace(x)
    B, rank = int(x.shape[0]), 1
    cores: list[Array] = []
    for k in range(len(shape) - 1, 0, -1):
        Y = xp.reshape(x, (B, total_size(shape[:k]), shape[k] * rank))
        U, discarded = leading_bases(xp.matrix_transpose(Y), budget.keep(k - 1), accurate)
        budget.spend(discarded)
        cores.append(xp.reshape(xp.matrix_transpose(U), (B, U.shape[2], shape[k], rank)))
        x = Y @ conj(U)
        rank = int(U.shape[2])
    return [xp.reshape(x, (B, 1, shape[0], rank)), *reversed(cores)]
