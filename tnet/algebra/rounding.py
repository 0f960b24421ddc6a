"""Rounding: the same tensor with smaller ranks, within a stated error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from tnet.algebra.operands import bounded_ranks, unsupported
from tnet.algebra.trains import right_orthogonal_step, three_axis_cores, with_cores
from tnet.algebra.unfolding import unfold
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    balanced_scale,
    check_finite,
    compute_dtype,
    qr,
    require_floating,
    scale_by_power_of_two,
    svd_truncated,
    total_size,
    ttm_chain,
)
from tnet.formats import CPTensor, LowRank, MatrixProductOperator, TensorFormat, TensorTrain, TuckerTensor
from tnet.options import Truncation, check_rank_or_rtol

__all__ = ["round"]

T = TypeVar("T", bound=TensorTrain | MatrixProductOperator | TuckerTensor | LowRank)


def round(t: T, rank: int | Sequence[int] | None = None, *, rtol: float | None = None) -> T:
    r"""Return a tensor of the same kind with smaller ranks, close to ``t``.

    Parameters
    ----------
    t : TensorTrain, MatrixProductOperator, TuckerTensor or LowRank
    rank : int or sequence of int
        Largest rank of each bond (trains) or mode (Tucker). One integer bounds them all.
    rtol : float
        Relative Frobenius error of the whole tensor, ``||t - y|| <= rtol ||t||``, in [0, 1).
        Give exactly one of ``rank`` and ``rtol``.

    Returns
    -------
    Same kind as ``t``
        Trains: left-orthogonal, all weight in the last core. Tucker: orthonormal factors.
        Low rank: orthonormal rows in ``right``.

    Raises
    ------
    RankError
        If neither or both of ``rank`` and ``rtol`` are given, or a rank is no positive integer.
    InputError
        If ``rtol`` is out of range, or an entry is not finite.
    BackendError
        For other kinds of operands.

    Warns
    -----
    UserWarning
        If a rank exceeds what the shape allows; it is clipped.

    Notes
    -----
    Tensor trains: QR from right to left, then truncated SVD from left to right, about
    ``d n r^3`` flops times a small constant. The squared error is the sum of what the steps
    discard. With ``rtol``, each step may spend an equal share of what is left of
    ``rtol^2 ||t||^2``. With ``rank``, the error is at most ``sqrt(d - 1)`` times that of the best
    approximation of these ranks (``sqrt(d)`` for Tucker).

    References
    ----------
    .. [1] I. V. Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33 (2011), Alg. 2.
    .. [2] N. Vannieuwenhoven, R. Vandebril, K. Meerbergen, "A new truncation strategy for the
       higher-order singular value decomposition", SIAM J. Sci. Comput. 34 (2012).

    Examples
    --------
    >>> import numpy as np
    >>> from tnet.algebra import add, round
    >>> from tnet.formats import TensorTrain
    >>> t = TensorTrain((np.ones((1, 4, 1)), np.ones((1, 4, 1)), np.ones((1, 4, 1))))
    >>> add(t, t).rank
    (2, 2)
    >>> round(add(t, t), rtol=1e-10).rank
    (1, 1)
    """
    check_rank_or_rtol(rank, rtol)
    if isinstance(t, CPTensor):
        raise unsupported("round", [t], "a CP rank cannot be cut by an SVD; refit with tnet.cp(t.to_dense(), rank).")
    if not isinstance(t, (TensorTrain, MatrixProductOperator, TuckerTensor, LowRank)):
        remedy = "give a TensorTrain, MatrixProductOperator, TuckerTensor or LowRank."
        raise unsupported("round", [t], remedy)
    for k, part in enumerate(t.arrays):
        require_floating(part, f"array {k} of t")
        check_finite(part, f"array {k} of t")
    dtype, wide = t.dtype, compute_dtype(*t.arrays)
    work: TensorFormat = t.map_arrays(lambda part: astype(part, wide))
    if isinstance(work, (TensorTrain, MatrixProductOperator)):
        rounded: TensorFormat = _round_train(work, rank, rtol)
    elif isinstance(work, TuckerTensor):
        rounded = _round_tucker(work, rank, rtol)
    else:
        assert isinstance(work, LowRank)  # the kinds were checked above
        rounded = _round_low_rank(work, rank, rtol)
    return rounded.map_arrays(lambda part: astype(part, dtype))  # type: ignore[return-value]


class _Budget:
    """Hands out the truncation of each step, and keeps account of the error spent."""

    def __init__(self, ranks: tuple[int, ...] | None, rtol: float | None, squared_norm: float) -> None:
        self._ranks = ranks
        self._left = 0.0 if rtol is None else rtol * rtol * squared_norm

    def step(self, k: int, n_steps: int) -> Truncation:
        """Return the truncation of step ``k`` of ``n_steps``: an equal share of what is left."""
        if self._ranks is not None:
            return Truncation(rank=self._ranks[k])
        return Truncation(tail=math.sqrt(max(self._left, 0.0) / (n_steps - k)))

    def spend(self, discarded: float) -> None:
        """Take a squared error off the account."""
        self._left -= discarded


def _round_train(
    t: TensorTrain | MatrixProductOperator, rank: int | Sequence[int] | None, rtol: float | None
) -> TensorTrain | MatrixProductOperator:
    cores = three_axis_cores(t)
    modes = [int(core.shape[1]) for core in cores]
    n_bonds = len(cores) - 1
    limits = [min(total_size(modes[: k + 1]), total_size(modes[k + 1 :])) for k in range(n_bonds)]
    ranks = None if rank is None else bounded_ranks(rank, limits, "bond")
    for k in range(n_bonds, 0, -1):
        right_orthogonal_step(cores, k)
    # All cores but the first are orthogonal now: its norm is that of the tensor, and a scale
    # taken out of it keeps the squares in range.
    cores[0], exponent, squared_norm = balanced_scale(cores[0], "t")
    budget = _Budget(ranks, rtol, squared_norm)
    xp = array_namespace(*cores)
    for k in range(n_bonds):
        r, n, s = cores[k].shape
        U, values, Vh, discarded = svd_truncated(xp.reshape(cores[k], (r * n, s)), budget.step(k, n_bonds))
        budget.spend(discarded)
        cores[k] = xp.reshape(U, (r, n, U.shape[1]))
        _, m, q = cores[k + 1].shape
        carried = _row_scaled(Vh, values) @ xp.reshape(cores[k + 1], (s, m * q))
        cores[k + 1] = xp.reshape(carried, (U.shape[1], m, q))
    cores[-1] = scale_by_power_of_two(cores[-1], exponent)
    return with_cores(t, cores)


def _round_tucker(t: TuckerTensor, rank: int | Sequence[int] | None, rtol: float | None) -> TuckerTensor:
    shape = t.shape
    limits = [min(shape[k], total_size(shape[:k]) * total_size(shape[k + 1 :])) for k in range(t.ndim)]
    ranks = None if rank is None else bounded_ranks(rank, limits, "mode")
    pairs = [qr(factor) for factor in t.factors]
    core = ttm_chain(t.core, [R for _, R in pairs], range(t.ndim))
    core, exponent, squared_norm = balanced_scale(core, "t")
    budget = _Budget(ranks, rtol, squared_norm)
    factors: list[Array] = []
    for k in range(t.ndim):
        U, _, _, discarded = svd_truncated(unfold(core, k), budget.step(k, t.ndim))
        budget.spend(discarded)
        core = ttm_chain(core, [adjoint(U)], [k])
        factors.append(pairs[k][0] @ U)
    return TuckerTensor(scale_by_power_of_two(core, exponent), tuple(factors))


def _round_low_rank(t: LowRank, rank: int | Sequence[int] | None, rtol: float | None) -> LowRank:
    ranks = None if rank is None else bounded_ranks(rank, [min(t.shape)], "bond")
    left, R = qr(t.left)
    right, S = qr(adjoint(t.right))
    middle, exponent, squared_norm = balanced_scale(R @ adjoint(S), "t")
    U, values, Vh, _ = svd_truncated(middle, _Budget(ranks, rtol, squared_norm).step(0, 1))
    scaled = adjoint(_row_scaled(adjoint(U), values))
    return LowRank(scale_by_power_of_two(left @ scaled, exponent), Vh @ adjoint(right))


def _row_scaled(matrix: Array, values: Array) -> Array:
    return matrix * astype(values, matrix.dtype)[:, None]
