"""Tucker decomposition: the front door to its methods."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from tnet.arrays import Array
from tnet.decompositions.preparation import prepare, rescaled
from tnet.decompositions.residual import error_after_rounding
from tnet.decompositions.sthosvd import FirstPass, mode_gram, sthosvd
from tnet.errors import InputError
from tnet.formats import TuckerTensor
from tnet.options import check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["mode_gram", "tucker"]


def tucker(
    x: Array,
    rank: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    method: Literal["sthosvd"] = "sthosvd",
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
    method : {"sthosvd"}
        The sequentially truncated higher-order SVD.

    Returns
    -------
    Decomposition of TuckerTensor
        ``error_kind`` is "exact": the parts discarded at each mode are orthogonal to each other.

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
    Each mode is truncated by the eigenvectors of the Gram matrix of its unfolding, ``n_k N`` multiply-adds
    on what the modes before it left; the order of modes minimises the total. Unfoldings are read in panels,
    not copied. Where double precision asks for more than a Gram matrix resolves (``rtol < 1e-7``, or kept
    singular values below that), the triangular factor of a QR decomposition takes its place. The error is
    at most :math:`\sqrt d` times that of the best approximation of the same ranks [1]_.

    References
    ----------
    .. [1] N. Vannieuwenhoven, R. Vandebril, K. Meerbergen, "A new truncation strategy for the higher-order
       singular value decomposition", SIAM J. Sci. Comput. 34 (2012).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> x = np.arange(24.0).reshape(2, 3, 4)
    >>> tnet.tucker(x, rtol=1e-10).tensor.rank
    (2, 2, 2)
    """
    started = time.perf_counter()
    if method != "sthosvd":
        raise InputError(f"method={method!r}: the one method of tucker is 'sthosvd'.")
    check_rank_or_rtol(rank, rtol)
    first = FirstPass(rank, rtol)
    prepared = prepare(x, first_pass=first)
    array = prepared.array
    fit = sthosvd(array, first.ranks, rtol, prepared.squared_norm, first_gram=first.gram_of(array))
    core, *factors = rescaled([fit.core, *fit.factors], 0, prepared)
    tensor = TuckerTensor(core, tuple(factors))
    error = error_after_rounding(prepared, tensor) if prepared.is_half else fit.error
    seconds = time.perf_counter() - started
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), seconds)
