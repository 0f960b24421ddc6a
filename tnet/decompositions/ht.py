"""Hierarchical Tucker decomposition, from the leaves of the dimension tree to its root."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from tnet.algebra import bounded_ranks
from tnet.algebra.error_budget import ErrorBudget
from tnet.algebra.ranks import node_limits
from tnet.arrays import Array, adjoint, array_namespace, mode_product, squared_norm, total_size
from tnet.decompositions.preparation import prepare, rescaled
from tnet.decompositions.residual import error_after_rounding, exact_error
from tnet.decompositions.sthosvd import leading_factor, sthosvd
from tnet.decompositions.truncated_basis import resolve_method, with_true_error
from tnet.formats import HierarchicalTucker
from tnet.formats.hierarchical_tucker import DimensionTree, TreeNode, balanced_tree, checked_tree, tree_nodes
from tnet.options import Truncation, check_rank_or_rtol
from tnet.results import Decomposition, History, Status

__all__ = ["ht"]


def ht(
    x: Array,
    rank: int | Sequence[int] | None = None,
    *,
    rtol: float | None = None,
    tree: Sequence[Any] | None = None,
) -> Decomposition[HierarchicalTucker]:
    r"""Decompose a tensor into the hierarchical Tucker format, a tree of small tensors.

    Every node t of the tree has a basis for the unfolding of its modes, built from the bases of its children:

    .. math:: U_t = (U_{t_1} \otimes \cdots \otimes U_{t_m}) B_t

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
        Real or complex floating point. Not changed; a torch tensor is detached.
    rank : int or sequence of int
        One rank for each node below the root in depth-first order (a node, then its children from left to right),
        or one bound for all. Above ``min(size of its modes, size of the others)`` they are clipped with a warning.
    rtol : float
        Relative Frobenius error of the whole tensor, instead of ``rank``.
    tree : nested tuple of int, optional
        The modes, counted from 0, as leaves: ``((0, 1), (2, 3))``. Modes that depend on each other most belong
        together. Default: the binary tree that halves ``0 ... d - 1`` at every node.

    Returns
    -------
    Decomposition of HierarchicalTucker
        ``error_kind`` is "exact": the parts discarded at each node are orthogonal to each other. All bases are
        orthonormal; the root has the norm.

    Raises
    ------
    RankError
        Both or neither of ``rank`` and ``rtol``; a rank that is no positive integer; a wrong count.
    ShapeError
        A tree that is none over the modes of ``x``.
    InputError
        A non-finite entry, an empty mode, order 0.
    BackendError
        Integers and other arrays that hold no floating point numbers.

    Notes
    -----
    The leaves are those of a sequentially truncated Tucker decomposition, which is nearly all the work
    (:func:`tnet.tucker`); the inner nodes follow from its core, deepest first, each cut on what the cuts before it
    left. The error is at most :math:`\sqrt{2 d - 3}` times that of the best approximation of the same ranks on a
    binary tree [1]_, as many as there are different unfoldings. With ``rtol`` each cut may spend an equal share of
    the squared error that is left. A tree of one level is Tucker; the tree ``(0, (1, (2, ...)))`` has the ranks of
    a tensor train beside those of its leaves.

    References
    ----------
    .. [1] L. Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal. Appl. 31
       (2010).

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> x = np.arange(120.0).reshape(2, 3, 4, 5)  # sums of coordinates: every unfolding has rank 2
    >>> tnet.ht(x, rtol=1e-10).tensor.rank
    (2, 2, 2, 2, 2, 2)
    >>> tnet.ht(x, rtol=1e-10, tree=((0, 2), (1, 3))).tensor.tree
    ((0, 2), (1, 3))
    """
    started = time.perf_counter()
    check_rank_or_rtol(rank, rtol)
    prepared = prepare(x)
    array, squared_norm_x = prepared.array, prepared.squared_norm
    shape = tuple(int(n) for n in array.shape)
    checked = balanced_tree(len(shape)) if tree is None else checked_tree(tree, len(shape))
    ranks = None if rank is None else bounded_ranks(rank, node_limits(shape, checked), "node")
    method = resolve_method("auto", rtol, array)
    tensor, error = with_true_error(
        lambda method: _truncated(array, squared_norm_x, checked, ranks, rtol, method),
        lambda tensor: exact_error(array, tensor, squared_norm_x),
        method,
        rtol,
        array,
    )
    d = len(shape)
    parts = rescaled([tensor.transfers[0], *tensor.factors, *tensor.transfers[1:]], 0, prepared)
    tensor = HierarchicalTucker(tuple(parts[1 : d + 1]), (parts[0], *parts[d + 1 :]), checked)
    if prepared.is_half:
        error = error_after_rounding(prepared, tensor)
    return Decomposition(tensor, error, "exact", Status.DIRECT, History(), time.perf_counter() - started)


def _truncated(
    x: Array,
    squared_norm_x: float,
    tree: DimensionTree,
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    method: str,
) -> tuple[HierarchicalTucker, float]:
    """Return the tensor and the relative error, as far as what was discarded tells it."""
    nodes = tree_nodes(tree)
    d = x.ndim
    n_inner = sum(1 for node in nodes[1:] if node.children)
    # Of the two children of a binary root the one that is cut last has the unfolding of the other: it costs nothing.
    n_cuts = n_inner - (n_inner > 0 and len(nodes[0].children) == 2)
    leaf_ranks, leaf_rtol = None, None
    if ranks is not None:
        by_mode = {node.modes[0]: ranks[j] for j, node in enumerate(nodes[1:]) if not node.children}
        leaf_ranks = tuple(by_mode[mode] for mode in range(d))
    if rtol is not None:
        leaf_rtol = rtol * math.sqrt(d / (d + n_cuts))
    tucker = sthosvd(x, leaf_ranks, leaf_rtol, squared_norm_x, method=method)
    size, rtol_left = squared_norm(tucker.core), None
    if rtol is not None:
        rtol_left = math.sqrt(max(rtol**2 - tucker.error**2, 0.0) * squared_norm_x / size) if size > 0 else 0.0
    budget = ErrorBudget(ranks, rtol_left, size, max(n_cuts, 1))
    transfers = _transfers(tucker.core, nodes, ranks, budget, method)
    spent = budget.spent / squared_norm_x if squared_norm_x > 0 else 0.0
    return HierarchicalTucker(tucker.factors, transfers, tree), math.sqrt(tucker.error**2 + spent)


def _transfers(
    core: Array, nodes: Sequence[TreeNode], ranks: tuple[int, ...] | None, budget: ErrorBudget, method: str
) -> tuple[Array, ...]:
    """Return the transfer tensors that a Tucker core falls into, in depth-first order."""
    xp = array_namespace(core)
    leaves = {node.modes[0]: j for j, node in enumerate(nodes) if not node.children}
    Y = xp.permute_dims(core, nodes[0].modes)
    axes = [leaves[mode] for mode in nodes[0].modes]  # the node that each axis of Y belongs to
    transfers: list[Array] = [None] * sum(1 for node in nodes if node.children)
    for j in range(len(nodes) - 1, 0, -1):  # children come after their parents
        node = nodes[j]
        if not node.children:
            continue
        place, count = axes.index(node.children[0]), len(node.children)
        shape = [int(n) for n in Y.shape]
        below = shape[place : place + count]
        Y = xp.reshape(Y, (*shape[:place], total_size(below), *shape[place + count :]))
        axes[place : place + count] = [j]
        free = len(axes) == 2
        if free:
            other = int(Y.shape[1 - place])
            truncation = Truncation(rank=other if ranks is None else min(other, ranks[j - 1]))
        else:
            truncation = budget.truncation(j - 1)
        U, discarded = leading_factor(Y, place, truncation, method)
        if not free or ranks is not None:
            budget.spend(discarded)
        Y = mode_product(Y, adjoint(U), place)
        transfers[node.transfer] = xp.reshape(U, (*below, U.shape[1]))
    transfers[0] = Y[..., None]
    return tuple(transfers)
