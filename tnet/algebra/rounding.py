"""Rounding: the same tensor with smaller ranks, within a stated error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from tnet.algebra.error_budget import ErrorBudget
from tnet.algebra.operands import unsupported
from tnet.algebra.randomized_rounding import rounded_randomly
from tnet.algebra.ranks import bond_limits, bounded_ranks, mode_limits, node_limits
from tnet.algebra.thin_factors import Thin, thin_factors, with_thin_factors
from tnet.algebra.train_rounding import rounded_cores
from tnet.algebra.trains import three_axis_cores, with_cores
from tnet.algebra.trees import orthogonalised
from tnet.algebra.unfolding import unfold
from tnet.arrays import (
    Array,
    adjoint,
    array_namespace,
    astype,
    balanced_scale,
    compute_dtype,
    qr,
    require_floating,
    scale_by_power_of_two,
    squared_norm,
    svd_truncated,
    to_numpy,
    ttm_chain,
)
from tnet.errors import InputError
from tnet.formats import (
    CPTensor,
    HierarchicalTucker,
    MatrixProductOperator,
    TensorFormat,
    TensorTrain,
    TuckerTensor,
)
from tnet.formats.hierarchical_tucker import TreeNode, tree_nodes
from tnet.options import check_rank_or_rtol

__all__ = ["round"]

_Roundable = TensorTrain | MatrixProductOperator | TuckerTensor | HierarchicalTucker | Thin

T = TypeVar("T", bound=_Roundable)

_TRAIN_METHODS = ("auto", "gram", "qr", "randomized")


def round(
    t: T,
    rank: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    method: Literal["auto", "gram", "qr", "randomized"] = "auto",
    rng: Any = None,
) -> T:
    r"""Return a tensor of the same kind with smaller ranks, close to ``t``.

    Parameters
    ----------
    t : TensorTrain, MatrixProductOperator, TuckerTensor, HierarchicalTucker, LowRank, KroneckerSum, BlockTensorTrain
    rank : int or sequence of int
        Largest rank of each bond (trains), mode (Tucker) or node below the root (hierarchical Tucker). One
        integer bounds them all.
    rtol : float
        Relative Frobenius error of the whole tensor, ``||t - y|| <= rtol ||t||``, in [0, 1).
        Give exactly one of ``rank`` and ``rtol``.
    method : {"auto", "gram", "qr", "randomized"}
        For trains; other kinds know ``"auto"`` alone. ``"qr"`` orthogonalises, to roundoff. ``"gram"`` works from
        Gram matrices in double precision, all matrix products, and resolves relative errors down to 1e-7.
        ``"auto"``: Gram, and QR where the tolerance, the size, the spectrum or cancelling terms ask for more than
        Gram matrices resolve. ``"randomized"`` projects on a Gaussian sketch first, see :func:`round_sum`: fastest
        for a large cut, its error near the best one.
    rng : int, numpy.random.Generator, torch.Generator or None
        For ``method="randomized"``.

    Returns
    -------
    Same kind as ``t``
        Trains: left-orthogonal, all weight in the last core. Tucker: orthonormal factors.
        Low rank, Kronecker sums, blocks of block tensor trains: orthonormal rows in ``right``.

    Raises
    ------
    RankError
        If neither or both of ``rank`` and ``rtol`` are given, or a rank is no positive integer.
    InputError
        If ``rtol`` is out of range, an entry is not finite, or ``method`` is not known for this kind.
    BackendError
        For other kinds of operands.

    Warns
    -----
    UserWarning
        If a rank exceeds what the shape allows; it is clipped.

    Notes
    -----
    Trains of ranks r to q: by QR from right to left and truncated SVD from left to right [1]_, about ``4 n r^3``
    multiply-adds for each core; by Gram matrices [4]_ about ``1.5 n r^3 + 4 n q r^2``. The squared error is the sum
    of what the steps discard. With ``rtol``, each step may spend an equal share of what is left of
    ``rtol^2 ||t||^2``. With ``rank``, the error is at most ``sqrt(d - 1)`` times that of the best
    approximation of these ranks (``sqrt(d)`` for Tucker, ``sqrt(2 d - 3)`` for hierarchical Tucker on a
    binary tree [3]_, 1 for the others).

    References
    ----------
    .. [1] I. V. Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33 (2011), Alg. 2.
    .. [2] N. Vannieuwenhoven, R. Vandebril, K. Meerbergen, "A new truncation strategy for the
       higher-order singular value decomposition", SIAM J. Sci. Comput. 34 (2012).
    .. [3] L. Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal. Appl. 31
       (2010).
    .. [4] H. Al Daas, G. Ballard, L. Manning, "Parallel tensor train rounding using Gram SVD", IPDPS (2022).

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
    if not isinstance(t, _Roundable):
        remedy = "give a train, a Tucker or hierarchical Tucker tensor, a Kronecker sum, or a low-rank or BTT matrix."
        raise unsupported("round", [t], remedy)
    allowed = _TRAIN_METHODS if isinstance(t, (TensorTrain, MatrixProductOperator)) else ("auto",)
    if method not in allowed:
        raise InputError(f"method={method!r} for {type(t).__name__}: choose one of {', '.join(map(repr, allowed))}.")
    if method == "randomized" and isinstance(t, (TensorTrain, MatrixProductOperator)):
        return rounded_randomly(t, rank, rtol, rng)
    for k, part in enumerate(t.arrays):
        require_floating(part, f"array {k} of t")
        squared_norm(part, f"array {k} of t")  # not finite where an entry is not
    dtype, wide = t.dtype, compute_dtype(*t.arrays)
    work: TensorFormat = t.map_arrays(lambda part: astype(part, wide))
    if isinstance(work, (TensorTrain, MatrixProductOperator)):
        rounded: TensorFormat = _round_train(work, rank, rtol, method)
    elif isinstance(work, TuckerTensor):
        rounded = _round_tucker(work, rank, rtol)
    elif isinstance(work, HierarchicalTucker):
        rounded = _round_tree(work, rank, rtol)
    else:
        assert isinstance(work, Thin)  # the kinds were checked above
        rounded = _round_thin(work, rank, rtol)
    return rounded.map_arrays(lambda part: astype(part, dtype))  # type: ignore[return-value]


def _round_train(
    t: TensorTrain | MatrixProductOperator, rank: int | Sequence[int] | None, rtol: float | None, method: str
) -> TensorTrain | MatrixProductOperator:
    cores = three_axis_cores(t)
    ranks = None if rank is None else bounded_ranks(rank, bond_limits([int(core.shape[1]) for core in cores]), "bond")
    return with_cores(t, rounded_cores(cores, ranks, rtol, method))


def _round_tucker(t: TuckerTensor, rank: int | Sequence[int] | None, rtol: float | None) -> TuckerTensor:
    ranks = None if rank is None else bounded_ranks(rank, mode_limits(t.shape), "mode")
    pairs = [qr(factor) for factor in t.factors]
    core = ttm_chain(t.core, [R for _, R in pairs], range(t.ndim))
    core, exponent, norm2 = balanced_scale(core, "t")
    budget = ErrorBudget(ranks, rtol, norm2, t.ndim)
    factors: list[Array] = []
    for k in range(t.ndim):
        U, _, _, discarded = svd_truncated(unfold(core, k), budget.truncation(k))
        budget.spend(discarded)
        core = ttm_chain(core, [adjoint(U)], [k])
        factors.append(pairs[k][0] @ U)
    return TuckerTensor(scale_by_power_of_two(core, exponent), tuple(factors))


def _round_tree(t: HierarchicalTucker, rank: int | Sequence[int] | None, rtol: float | None) -> HierarchicalTucker:
    """Cut every node at the singular values of its own unfolding, from the root to the leaves."""
    nodes = tree_nodes(t.tree)
    ranks = None if rank is None else bounded_ranks(rank, node_limits(t.shape, t.tree), "node")
    t = orthogonalised(t)
    factors, transfers = list(t.factors), list(t.transfers)
    transfers[0], exponent, norm2 = balanced_scale(transfers[0], "t")
    # The two children of a binary root share one unfolding and one spectrum: they are cut alike, at one price.
    twins = nodes[0].children if len(nodes[0].children) == 2 else ()
    order = [child for node in nodes for child in node.children if child not in twins[1:]]
    if ranks is not None:
        least = min((ranks[child - 1] for child in twins), default=0)
        ranks = tuple(least if child in twins else ranks[child - 1] for child in order)
    cuts = _cuts(transfers, nodes, order, ErrorBudget(ranks, rtol, norm2, len(order)))
    for j, node in enumerate(nodes):
        if not node.children:
            factors[node.modes[0]] = factors[node.modes[0]] @ cuts[j]
            continue
        below = [adjoint(cuts[child]) for child in node.children]
        core = ttm_chain(transfers[node.transfer], below, range(len(below)))
        if j:
            core = ttm_chain(core, [array_namespace(core).matrix_transpose(cuts[j])], [core.ndim - 1])
        transfers[node.transfer] = core
    transfers[0] = scale_by_power_of_two(transfers[0], exponent)
    return HierarchicalTucker(tuple(factors), tuple(transfers), t.tree)


def _cuts(
    transfers: Sequence[Array], nodes: Sequence[TreeNode], order: Sequence[int], budget: ErrorBudget
) -> list[Array]:
    """Return the leading singular vectors of each node's unfolding, in its orthonormal basis.

    ``order`` names the nodes that the budget pays for; one that is not in it is cut as its sibling was.
    """
    xp = array_namespace(*transfers)
    cuts: list[Array] = [None] * len(nodes)
    # The unfolding of a node, in its basis, is its root times an isometry: the roots pass down the tree.
    roots: list[Array] = [None] * len(nodes)
    for j, node in enumerate(nodes):
        spread = transfers[node.transfer] if node.children else None
        if j and node.children:
            spread = ttm_chain(spread, [xp.matrix_transpose(roots[j])], [len(node.children)])
        for axis, child in enumerate(node.children):
            U, values, _ = xp.linalg.svd(unfold(spread, axis), full_matrices=False)
            roots[child] = adjoint(_row_scaled(adjoint(U), values))
            if child in order:
                squares = to_numpy(values * values).tolist()
                kept = budget.truncation(order.index(child)).keep(squares)
                budget.spend(math.fsum(squares[kept:]))
            else:
                kept = cuts[node.children[0]].shape[1]
            cuts[child] = U[:, :kept]
    return cuts


def _round_thin(t: Thin, rank: int | Sequence[int] | None, rtol: float | None) -> Thin:
    xp = array_namespace(*t.arrays)
    tall, wide = thin_factors(t)
    limits = [min(int(tall.shape[-2]), int(wide.shape[-1]))]
    ranks = None if rank is None else bounded_ranks(rank, limits, "bond")
    left, R = qr(tall)
    right, S = qr(adjoint(wide))
    middle, exponent, norm2 = balanced_scale(R @ adjoint(S), "t")
    U, values, Vh = xp.linalg.svd(middle, full_matrices=False)
    # All blocks of a block tensor train have one rank: what a rank discards is counted over all of them.
    squares = xp.sum(xp.reshape(values * values, (-1, values.shape[-1])), axis=0)
    kept = ErrorBudget(ranks, rtol, norm2, 1).truncation(0).keep(to_numpy(squares).tolist())
    scaled = U[..., :kept] * astype(values[..., None, :kept], U.dtype)
    tall = scale_by_power_of_two(left @ scaled, exponent)
    return with_thin_factors(t, tall, Vh[..., :kept, :] @ adjoint(right))


def _row_scaled(matrix: Array, values: Array) -> Array:
    return matrix * astype(values, matrix.dtype)[:, None]
