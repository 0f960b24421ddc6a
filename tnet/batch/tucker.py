"""Tucker decomposition of many tensors at once, by the sequentially truncated higher-order SVD."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tnet.algebra import bounded_ranks
from tnet.algebra.ranks import mode_limits
from tnet.arrays import Array, adjoint
from tnet.batch.bases import BatchErrorBudget, leading_bases, unfoldings
from tnet.batch.preparation import prepare_batch, rescaled_batch
from tnet.batch.products import batched_mode_product
from tnet.batch.result import BatchDecomposition, direct_result
from tnet.batch.tensors import TuckerBatch
from tnet.decompositions.sthosvd import order_of_modes
from tnet.decompositions.truncated_basis import resolve_method
from tnet.options import check_rank_or_rtol

__all__ = ["tucker"]


def tucker(
    x: Array, rank: int | Sequence[int] | None = None, *, rtol: float | None = None
) -> BatchDecomposition[TuckerBatch]:
    r"""Decompose each tensor of a batch into a core and one orthonormal factor for each mode.

    .. math:: X_b \approx C_b \times_1 U_{b1} \times_2 U_{b2} \cdots \times_d U_{bd}

    Parameters
    ----------
    x : array, shape (B, n_1, ..., n_d)
        B tensors, real or complex floating point. Not changed; a torch tensor is detached.
    rank : int or sequence of int
        One rank for each mode, or one bound for all; the same for every item. Above
        ``min(n_k, product of the others)`` they are clipped with a warning.
    rtol : float
        Instead of ``rank``: relative Frobenius error that no item exceeds. The rank of a mode is the largest that
        an item needs.

    Returns
    -------
    BatchDecomposition of TuckerBatch
        Core (B, r_1, ..., r_d), factors (B, n_k, r_k). ``error_kind`` is "exact".

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
    The sequentially truncated higher-order SVD [1]_ of :func:`tnet.tucker`, each step a batched Gram matrix, a
    batched eigendecomposition and a batched product: about ``n_1 N`` multiply-adds an item, no loop over items,
    one wait of the host a mode. Items whose kept singular values a Gram matrix does not resolve take batched QR.

    References
    ----------
    .. [1] N. Vannieuwenhoven, R. Vandebril, K. Meerbergen, "A new truncation strategy for the higher-order
       singular value decomposition", SIAM J. Sci. Comput. 34 (2012).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> x = np.random.default_rng(0).normal(size=(100, 4, 5, 6))
    >>> result = tnet.batch.tucker(x, (2, 3, 3))
    >>> result.tensor.core.shape, result.tensor[7].rank
    ((100, 2, 3, 3), (2, 3, 3))
    """
    started = time.perf_counter()
    check_rank_or_rtol(rank, rtol)
    prepared = prepare_batch(x)
    shape = prepared.shape
    ranks = None if rank is None else bounded_ranks(rank, mode_limits(shape), "mode")
    budget = BatchErrorBudget(ranks, rtol, prepared.squared_norms, len(shape))
    accurate = resolve_method("auto", rtol, prepared.array) == "tsqr"
    Y = prepared.array
    factors: dict[int, Array] = {}
    for mode in order_of_modes(shape, ranks):
        U, discarded = leading_bases(unfoldings(Y, mode), budget.keep(mode), accurate)
        budget.spend(discarded)
        Y = batched_mode_product(Y, adjoint(U), mode)
        factors[mode] = U
    model = TuckerBatch(Y, tuple(factors[mode] for mode in range(len(shape))))
    tensor = model.with_arrays(tuple(rescaled_batch(model.arrays, 0, prepared)))
    return direct_result(prepared, model, tensor, budget.spent, accurate, started)
