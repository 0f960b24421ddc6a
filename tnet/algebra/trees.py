"""Hierarchical Tucker tensors: what walks over the nodes of the tree."""

from __future__ import annotations

from collections.abc import Sequence

from tnet.arrays import Array, adjoint, array_namespace, mode_product, qr, total_size
from tnet.formats import HierarchicalTucker
from tnet.formats.hierarchical_tucker import tree_nodes

__all__ = ["orthogonalised", "tree_grams", "tree_inner"]


def tree_inner(a: HierarchicalTucker, b: HierarchicalTucker) -> Array:
    """Return the inner product of two tensors on one tree, from the leaves to the root.

    ``d n r^2 + 2 (d - 1) r^4`` multiply-adds on a binary tree.
    """
    xp = array_namespace(*a.arrays)
    return xp.reshape(tree_grams(a, b)[0], ())


def tree_grams(a: HierarchicalTucker, b: HierarchicalTucker) -> list[Array]:
    r"""Return :math:`U_t^H V_t` for the bases of every node of two tensors on one tree."""
    nodes = tree_nodes(a.tree)
    grams: list[Array] = [None] * len(nodes)
    for j in range(len(nodes) - 1, -1, -1):  # children come after their parents
        node = nodes[j]
        if not node.children:
            mode = node.modes[0]
            grams[j] = adjoint(a.factors[mode]) @ b.factors[mode]
            continue
        moved = b.transfers[node.transfer]
        for axis, child in enumerate(node.children):
            moved = mode_product(moved, grams[child], axis)
        grams[j] = adjoint(_as_basis(a.transfers[node.transfer])) @ _as_basis(moved)
    return grams


def orthogonalised(t: HierarchicalTucker) -> HierarchicalTucker:
    """Return the same tensor with orthonormal bases on all nodes below the root, whose norm is that of the tensor.

    One QR factorisation a node: about ``2 d n r^2 + 3 d r^4`` multiply-adds on a binary tree.
    """
    xp = array_namespace(*t.arrays)
    nodes = tree_nodes(t.tree)
    factors, transfers = list(t.factors), list(t.transfers)
    triangles: list[Array] = [None] * len(nodes)
    for j in range(len(nodes) - 1, -1, -1):
        node = nodes[j]
        if not node.children:
            factors[node.modes[0]], triangles[j] = qr(factors[node.modes[0]])
            continue
        transfer = _moved(transfers[node.transfer], [triangles[child] for child in node.children])
        if j:
            Q, triangles[j] = qr(_as_basis(transfer))
            transfer = xp.reshape(Q, (*transfer.shape[:-1], Q.shape[1]))
        transfers[node.transfer] = transfer
    return HierarchicalTucker(tuple(factors), tuple(transfers), t.tree)


def _moved(transfer: Array, matrices: Sequence[Array]) -> Array:
    for axis, matrix in enumerate(matrices):
        transfer = mode_product(transfer, matrix, axis)
    return transfer


def _as_basis(transfer: Array) -> Array:
    """Return a transfer tensor as a matrix with the own rank as columns."""
    return array_namespace(transfer).reshape(transfer, (total_size(transfer.shape[:-1]), transfer.shape[-1]))
