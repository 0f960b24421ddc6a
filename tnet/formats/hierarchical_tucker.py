"""The hierarchical Tucker format: small tensors on the nodes of a tree whose leaves are the modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tnet.arrays import Array, array_namespace, total_size
from tnet.errors import ShapeError
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat, check_ndim

__all__ = ["DimensionTree", "HierarchicalTucker", "TreeNode", "balanced_tree", "checked_tree", "tree_nodes"]

DimensionTree: TypeAlias = tuple[Any, ...]
"""Nested tuples with the modes, counted from 0, as leaves: ``((0, 1), (2, 3))``."""


class TreeNode(NamedTuple):
    """A node of a dimension tree; nodes are numbered in depth-first order, the root is 0.

    ``modes`` are those below it, from left to right. ``children`` are numbers of nodes, none for a leaf.
    ``transfer`` is the place among the inner nodes, -1 for a leaf.
    """

    modes: tuple[int, ...]
    children: tuple[int, ...]
    transfer: int


@dataclass(frozen=True, eq=False, repr=False)
class HierarchicalTucker(TensorFormat):
    r"""Nested bases on a dimension tree (HT, tree tensor network).

    A leaf holds the basis :math:`U_k` of its mode. An inner node t with children :math:`t_1, \dots, t_m` holds a
    transfer tensor, from which its own basis follows, and the root has one basis vector, the tensor itself:

    .. math:: U_t = (U_{t_1} \otimes \cdots \otimes U_{t_m}) B_t

    Parameters
    ----------
    factors : tuple of array, shapes (n_k, r_k)
        Bases of the leaves, by mode.
    transfers : tuple of array, shapes (r_{t_1}, ..., r_{t_m}, r_t)
        Of the inner nodes in depth-first order: the root first, its last axis of size 1.
    tree : nested tuple of int
        Every mode once, two or more children a node, such as ``((0, 1), (2, 3))``; ``(0,)`` for one mode.

    Raises
    ------
    ShapeError
        If the tree is none, or shapes do not fit it.

    References
    ----------
    .. [1] W. Hackbusch, S. Kuehn, "A new scheme for the tensor representation", J. Fourier Anal. Appl. 15
       (2009).
    .. [2] L. Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal. Appl.
       31 (2010).

    Examples
    --------
    >>> import numpy as np
    >>> HierarchicalTucker(
    ...     (np.ones((4, 2)), np.ones((5, 2)), np.ones((6, 3))), (np.ones((2, 3, 1)), np.ones((2, 2, 2))), ((0, 1), 2)
    ... )
    HierarchicalTucker: shape (4, 5, 6), rank (2, 2, 2, 3), float64 on cpu
      parameters  50 of 120 (2.4x smaller)
      factors     (4, 2), (5, 2), (6, 3)
      transfers   (2, 3, 1), (2, 2, 2)
    """

    factors: tuple[Array, ...]
    transfers: tuple[Array, ...]
    tree: DimensionTree

    array_fields = ("factors", "transfers")

    def __post_init__(self) -> None:
        factors = self._set_arrays("factors", self.factors)
        transfers = self._set_arrays("transfers", self.transfers)
        object.__setattr__(self, "tree", checked_tree(self.tree, len(factors)))
        nodes = tree_nodes(self.tree)
        for k, factor in enumerate(factors):
            check_ndim(factor, 2, f"factors[{k}]", "(mode, rank)")
        inner = [node for node in nodes if node.children]
        if len(transfers) != len(inner):
            raise ShapeError(
                f"{len(transfers)} transfers for {len(inner)} inner nodes of {self.tree}: give one each."
            )
        for k, (node, transfer) in enumerate(zip(inner, transfers, strict=True)):
            check_ndim(transfer, len(node.children) + 1, f"transfers[{k}]", "(rank of each child, own rank)")
            for axis, child in enumerate(node.children):
                have, want = transfer.shape[axis], self._rank_of(nodes[child])
                if have != want:
                    raise ShapeError(
                        f"transfers[{k}] has size {have} in axis {axis}, for modes {nodes[child].modes} of rank "
                        f"{want}: make them equal."
                    )
        if transfers[0].shape[-1] != 1:
            raise ShapeError(f"transfers[0] has shape {tuple(transfers[0].shape)}: the root's last axis has size 1.")
        self._finish()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense tensor: the rows of each factor."""
        return tuple(int(factor.shape[0]) for factor in self.factors)

    @property
    def rank(self) -> tuple[int, ...]:
        """Ranks of the nodes below the root, in depth-first order."""
        return tuple(self._rank_of(node) for node in tree_nodes(self.tree)[1:])

    def to_network(self) -> TensorNetwork:
        """Return the network with modes ``"n0"`` ... and, above the node of number j, the bond ``"r{j}"``."""
        xp = array_namespace(*self.arrays)
        nodes = tree_nodes(self.tree)
        tensors: list[Array] = []
        indices: list[tuple[str, ...]] = []
        for j, node in enumerate(nodes):
            below = tuple(f"r{child}" for child in node.children) or (f"n{node.modes[0]}",)
            part = self.transfers[node.transfer] if node.children else self.factors[node.modes[0]]
            tensors.append(part if j else xp.reshape(part, tuple(part.shape[:-1])))
            indices.append((*below, f"r{j}") if j else below)
        return TensorNetwork(tuple(tensors), tuple(indices), tuple(f"n{k}" for k in range(self.ndim)))

    def _rank_of(self, node: TreeNode) -> int:
        part = self.transfers[node.transfer] if node.children else self.factors[node.modes[0]]
        return int(part.shape[-1])

    def _contract(self) -> Array:
        """Multiply out the bases from the leaves to the root, each as ``(rank, product of its modes)``."""
        xp = array_namespace(*self.arrays)
        nodes = tree_nodes(self.tree)
        bases: dict[int, Array] = {}
        for j in range(len(nodes) - 1, -1, -1):  # children come after their parents
            node = nodes[j]
            if not node.children:
                bases[j] = xp.matrix_transpose(self.factors[node.modes[0]])
                continue
            done = self.transfers[node.transfer]
            for child in node.children:
                # Takes the child's rank from the front and puts its modes to the back.
                basis = bases.pop(child)
                rest = total_size(done.shape[1:])
                shape = (*done.shape[1:], basis.shape[1])
                done = xp.reshape(xp.matrix_transpose(xp.reshape(done, (done.shape[0], rest))) @ basis, shape)
            bases[j] = xp.reshape(done, (done.shape[0], total_size(done.shape[1:])))
        order = nodes[0].modes
        dense = xp.reshape(bases[0], tuple(self.shape[k] for k in order))
        return xp.permute_dims(dense, tuple(order.index(k) for k in range(self.ndim)))


def balanced_tree(ndim: int) -> DimensionTree:
    """Return the binary tree over modes ``0 ... ndim - 1`` that halves them at every node.

    Examples
    --------
    >>> balanced_tree(5)
    (((0, 1), 2), (3, 4))
    """

    def halved(modes: range) -> Any:
        if len(modes) == 1:
            return modes[0]
        middle = (len(modes) + 1) // 2
        return halved(modes[:middle]), halved(modes[middle:])

    return (0,) if ndim == 1 else halved(range(ndim))


def checked_tree(tree: object, ndim: int) -> DimensionTree:
    """Return a dimension tree of nested tuples (lists are taken); raise ShapeError if it is none."""
    seen: list[int] = []

    def checked(node: object) -> Any:
        if isinstance(node, (int, np.integer)) and not isinstance(node, bool):
            seen.append(int(node))
            return int(node)
        if not isinstance(node, (tuple, list)):
            raise ShapeError(f"tree={tree!r}: give nested tuples of modes, such as ((0, 1), (2, 3)).")
        if len(node) < 2 and not (ndim == 1 and node is tree and len(node) == 1):
            raise ShapeError(f"tree={tree!r}: the node {node!r} needs two children or more.")
        return tuple(checked(child) for child in node)

    found = checked(tree)
    if not isinstance(found, tuple) or sorted(seen) != list(range(ndim)):
        raise ShapeError(f"tree={tree!r} has the leaves {seen}: give each of the modes 0 to {ndim - 1} once.")
    return found


def tree_nodes(tree: DimensionTree) -> list[TreeNode]:
    """Return all nodes of a dimension tree in depth-first order, the root first."""
    nodes: list[TreeNode] = []
    transfers = 0

    def visit(node: Any) -> int:
        nonlocal transfers
        number = len(nodes)
        if isinstance(node, int):
            nodes.append(TreeNode((node,), (), -1))
            return number
        nodes.append(TreeNode((), (), transfers))  # keeps the place until its children are known
        transfers += 1
        children = tuple(visit(child) for child in node)
        modes = tuple(mode for child in children for mode in nodes[child].modes)
        nodes[number] = TreeNode(modes, children, nodes[number].transfer)
        return number

    visit(tree)
    return nodes
