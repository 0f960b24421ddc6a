"""Tucker by the sequentially truncated higher-order SVD."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import Literal

from tnet.algebra import bounded_ranks
from tnet.arrays import Array, adjoint, array_namespace, gram, mode_product, total_size
from tnet.decompositions.preparation import prepare, rescaled
from tnet.decompositions.residual import error_after_rounding, exact_error
from tnet.decompositions.truncated_basis import (
    Basis,
    ErrorBudget,
    basis_from_gram,
    error_floor,
    leading_basis,
    resolve_method,
)
from tnet.errors import InputError
from tnet.formats import TuckerTensor
from tnet.options import Truncation, check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["mode_gram", "tucker"]

_PANEL = 1 << 20  # elements copied into the order of an unfolding at a time
_ALL_ORDERS_UP_TO = 6  # 720 orders of modes are compared in a millisecond


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
    prepared = prepare(x)
    Y, squared_norm = prepared.array, prepared.squared_norm
    shape = tuple(int(n) for n in Y.shape)
    basis_method = resolve_method("auto", rtol, Y)
    ranks = None if rank is None else bounded_ranks(rank, _rank_limits(shape), "mode")
    budget = ErrorBudget(ranks, rtol, squared_norm, len(shape))
    factors: dict[int, Array] = {}
    for mode in _order_of_modes(shape, ranks):
        U, discarded = _leading_factor(Y, mode, budget.truncation(mode), basis_method)
        budget.spend(discarded)
        Y = mode_product(Y, adjoint(U), mode)
        factors[mode] = U
    ordered = [factors[mode] for mode in range(len(shape))]
    error = math.sqrt(budget.spent / squared_norm) if squared_norm > 0 else 0.0
    if squared_norm > 0 and error < error_floor(basis_method, Y):
        error = exact_error(prepared.array, TuckerTensor(Y, tuple(ordered)), squared_norm)
    core, *final = rescaled([Y, *ordered], 0, prepared)
    tensor = TuckerTensor(core, tuple(final))
    if prepared.is_half:
        error = error_after_rounding(prepared, tensor)
    seconds = time.perf_counter() - started
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), seconds)


def mode_gram(Y: Array, mode: int) -> Array:
    """Return the Gram matrix of the unfolding of ``Y`` along ``mode``, in double precision.

    Notes
    -----
    Only panels of about 2^20 elements are put into the order of the unfolding.
    """
    xp = array_namespace(Y)
    shape = tuple(Y.shape)
    before, n, after = total_size(shape[:mode]), shape[mode], total_size(shape[mode + 1 :])
    if before == 1:
        return gram(xp.reshape(Y, (n, after)))
    if after == 1:
        return gram(xp.matrix_transpose(xp.reshape(Y, (before, n))))
    blocks = xp.reshape(Y, (before, n, after))
    step = max(1, _PANEL // (n * after))
    total = gram(_panel(blocks, 0, step))
    for start in range(step, before, step):
        total = total + gram(_panel(blocks, start, start + step))
    return total


def _panel(blocks: Array, start: int, stop: int) -> Array:
    xp = array_namespace(blocks)
    part = blocks[start : min(stop, blocks.shape[0]), :, :]
    return xp.reshape(xp.permute_dims(part, (1, 0, 2)), (blocks.shape[1], -1))


def _leading_factor(Y: Array, mode: int, truncation: Truncation, method: str) -> Basis:
    xp = array_namespace(Y)
    n = int(Y.shape[mode])
    if method == "auto" and n <= total_size(Y.shape) // n:
        # The unfolding itself is made only if its Gram matrix turns out not to resolve enough.
        found = basis_from_gram(mode_gram(Y, mode), truncation, Y)
        if found is not None:
            return found
        method = "tsqr"
    others = [k for k in range(Y.ndim) if k != mode]
    unfolded = xp.reshape(xp.permute_dims(Y, (mode, *others)), (n, -1))
    return leading_basis(unfolded, truncation, method)


def _order_of_modes(shape: tuple[int, ...], ranks: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the order that takes the fewest multiply-adds; unknown ranks count as half their modes."""
    d = len(shape)
    kept = ranks if ranks is not None else tuple(max(1, n // 2) for n in shape)
    if d > _ALL_ORDERS_UP_TO:
        return tuple(sorted(range(d), key=lambda k: (kept[k] / shape[k], shape[k])))

    def cost(order: tuple[int, ...]) -> float:
        size, total = float(total_size(shape)), 0.0
        for k in order:
            total += (shape[k] + kept[k]) * size  # Gram matrix, then product with the factor
            size *= kept[k] / shape[k]
        return total

    return min(itertools.permutations(range(d)), key=cost)


def _rank_limits(shape: tuple[int, ...]) -> list[int]:
    return [min(n, total_size(shape) // n) for n in shape]
